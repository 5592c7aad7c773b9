//! Runs a [`Plan`]: one record's bytes into the columns.

use super::cursor::{Cursor, Fault};
use super::json::JsonText;
use super::plan::{Action, Plan, Record};
use super::schema::Schema;
use crate::columns::{Column, Full, Kind};
use arrow_array::types::IntervalMonthDayNano;
use arrow_buffer::i256;
use arrow_schema::DataType;

/// The schemas that a plan was made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schemas<'a> {
    pub writer: &'a Schema,
    pub reader: &'a Schema,
}

/// Reads one record. After an error the columns are uneven: truncate them.
#[inline]
pub(crate) fn record(
    plan: &Record,
    schemas: Schemas<'_>,
    columns: &mut [Column],
    cursor: &mut Cursor<'_>,
) -> Result<(), Fault> {
    for step in &plan.steps {
        let done = match &step.action {
            Action::Read(column, plan) => value(plan, schemas, &mut columns[*column], cursor),
            Action::Skip(skip) => skip.over(schemas.writer, cursor),
        };
        if let Err(fault) = done {
            return Err(fault.within(&step.name));
        }
    }
    for fill in &plan.fills {
        cursor.free(1)?;
        let mut default = Cursor::new(&fill.bytes, false);
        let schemas = Schemas { writer: schemas.reader, reader: schemas.reader };
        value(&fill.plan, schemas, &mut columns[fill.column], &mut default)?;
    }
    Ok(())
}

fn value(
    plan: &Plan,
    schemas: Schemas<'_>,
    column: &mut Column,
    cursor: &mut Cursor<'_>,
) -> Result<(), Fault> {
    match (plan, &mut column.kind) {
        (Plan::Optional(null, some), _) => {
            if cursor.branch(2)? == *null {
                column.append_null();
            } else {
                value(some, schemas, column, cursor)?;
                column.valid();
            }
        }
        (Plan::Valid(plan), _) => {
            value(plan, schemas, column, cursor)?;
            column.valid();
        }
        (Plan::Text, Kind::Str(runs)) => {
            let (rest, len) = cursor.text()?;
            runs.push_from(rest, len);
        }
        (Plan::Int, Kind::I32(values)) => values.push(cursor.int()?),
        (Plan::Long, Kind::I64(values)) => values.push(cursor.long()?),
        (Plan::Double, Kind::F64(values)) => values.push(f64::from_le_bytes(cursor.array()?)),
        (Plan::Float, Kind::F32(values)) => values.push(f32::from_le_bytes(cursor.array()?)),
        (Plan::Boolean, Kind::Bool(values)) => values.append(cursor.boolean()?),
        (Plan::Bytes, Kind::Bytes(runs)) => {
            let (rest, len) = cursor.run()?;
            runs.push_from(rest, len);
        }
        (Plan::Fixed(size), Kind::Bytes(runs)) => runs.push(cursor.take(*size)?),
        (Plan::Enum(symbols), Kind::Str(runs)) => {
            let symbol = cursor.symbol(symbols.len())?;
            match &symbols[symbol] {
                Some(text) => runs.push_grown(text.as_bytes()).map_err(full)?,
                None => {
                    return Err(Fault::new(format!(
                        "symbol {symbol} is none of the reader's enum, which has no default"
                    )));
                }
            }
        }
        (Plan::Struct(plan), Kind::Struct(children)) => {
            record(plan, schemas, children, cursor)?;
        }
        (Plan::Struct(plan), Kind::Hollow(count)) => {
            record(plan, schemas, &mut [], cursor)?;
            *count += 1;
        }
        (Plan::List(plan, bytes_min), Kind::List(offsets, item)) => {
            let mut end = offsets[offsets.len() - 1];
            loop {
                let (items, _) = cursor.block(*bytes_min)?;
                if items == 0 {
                    break;
                }
                end = grow(end, items)?;
                for _ in 0..items {
                    value(plan, schemas, item, cursor)?;
                }
            }
            offsets.push(end);
        }
        (Plan::Map(plan, bytes_min), Kind::Map(offsets, keys, values)) => {
            let mut end = offsets[offsets.len() - 1];
            loop {
                let (items, _) = cursor.block(*bytes_min)?;
                if items == 0 {
                    break;
                }
                end = grow(end, items)?;
                for _ in 0..items {
                    let (rest, len) = cursor.text()?;
                    keys.push_from(rest, len);
                    value(plan, schemas, values, cursor)?;
                }
            }
            offsets.push(end);
        }
        (Plan::Null, _) => column.append_null(),
        (Plan::Union(branches), _) => match &branches[cursor.branch(branches.len())?] {
            Ok(plan) => value(plan, schemas, column, cursor)?,
            Err(why) => return Err(Fault::new(why.clone())),
        },
        (Plan::Branch(at, plan), Kind::Struct(children)) => {
            for (index, child) in children.iter_mut().enumerate() {
                match index == *at {
                    true => value(plan, schemas, child, cursor)?,
                    false => child.append_null(),
                }
            }
        }
        (Plan::IntMillis, Kind::I64(values)) => values.push(i64::from(cursor.int()?) * 1000),
        (Plan::IntToLong, Kind::I64(values)) => values.push(cursor.int()?.into()),
        (Plan::IntToFloat, Kind::F32(values)) => values.push(cursor.int()? as f32),
        (Plan::IntToDouble, Kind::F64(values)) => values.push(cursor.int()?.into()),
        (Plan::LongScaled(times, per), Kind::I64(values)) => {
            let value = cursor.long()?;
            match value.checked_mul(*times) {
                Some(scaled) => values.push(scaled.div_euclid(*per)),
                None => return Err(beyond(value, column.data_type())),
            }
        }
        (Plan::LongToFloat, Kind::F32(values)) => values.push(cursor.long()? as f32),
        (Plan::LongToDouble, Kind::F64(values)) => values.push(cursor.long()? as f64),
        (Plan::FloatToDouble, Kind::F64(values)) => {
            values.push(f32::from_le_bytes(cursor.array()?).into());
        }
        (Plan::UuidFixed, Kind::Str(runs)) => {
            let text = crate::values::uuid_text(&cursor.array()?);
            runs.push_grown(text.as_bytes()).map_err(full)?;
        }
        (Plan::Decimal128(size, digits), Kind::I128(values)) => {
            let bytes = sized(cursor, *size)?;
            let value = crate::values::be_i256(bytes).and_then(i256::to_i128);
            match value.filter(|v| v.unsigned_abs() < 10u128.pow(u32::from(*digits))) {
                Some(value) => values.push(value),
                None => return Err(too_long(*digits)),
            }
        }
        (Plan::Decimal256(size, digits), Kind::I256(values)) => {
            let bytes = sized(cursor, *size)?;
            let max = i256::from_i128(10).checked_pow((*digits).into());
            match crate::values::be_i256(bytes)
                .filter(|v| max.is_none_or(|max| v.checked_abs().is_some_and(|v| v < max)))
            {
                Some(value) => values.push(value),
                None => return Err(too_long(*digits)),
            }
        }
        (Plan::Duration, Kind::Interval(values)) => {
            let [months, days, millis] =
                [cursor.array()?, cursor.array()?, cursor.array()?].map(u32::from_le_bytes);
            let signed = |value: u32| {
                i32::try_from(value)
                    .map_err(|_| Fault::new(format!("a duration of {value} months or days")))
            };
            let nanos = i64::from(millis) * 1_000_000;
            values.push(IntervalMonthDayNano::new(signed(months)?, signed(days)?, nanos));
        }
        (Plan::Json(w, r), Kind::Str(runs)) => {
            let mut text = String::new();
            JsonText { writer: schemas.writer, reader: schemas.reader }
                .write(*w, *r, cursor, &mut text, 0)?;
            runs.push_grown(text.as_bytes()).map_err(full)?;
        }
        (plan, _) => unreachable!("the plan {plan:?} was made for another column"),
    }
    Ok(())
}

fn sized<'a>(cursor: &mut Cursor<'a>, size: Option<usize>) -> Result<&'a [u8], Fault> {
    match size {
        Some(size) => cursor.take(size),
        None => cursor.bytes(),
    }
}

#[inline]
fn grow(end: i32, items: usize) -> Result<i32, Fault> {
    i32::try_from(items).ok().and_then(|items| end.checked_add(items)).ok_or_else(|| full(Full))
}

#[cold]
fn beyond(value: i64, data_type: &DataType) -> Fault {
    let range = match data_type {
        DataType::Timestamp(unit, _) => crate::values::timestamps_of(*unit),
        _ => "",
    };
    Fault::new(format!("the timestamp {value} is out of range: {range}"))
}

fn full(_: Full) -> Fault {
    Fault::new("the column is over 2 GiB with this record")
}

fn too_long(digits: u8) -> Fault {
    Fault::new(format!("the decimal has more than {digits} digits"))
}
