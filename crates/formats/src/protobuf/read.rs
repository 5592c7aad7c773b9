//! Runs a plan: one record's bytes into the columns.
//!
//! On the wire the fields of a message come in any order, may come again (the last one counts;
//! messages are merged, lists go on) and may be missing. So a message is first taken apart into its
//! fields, in a scratch that all levels share as a stack, and then written column by column.

use super::json;
use super::plan::{Absent, Column as Field, Form, Message, Read, UNUSED};
use super::schema::{Scalar, Schema};
use super::wire::{Cursor, Fault, Raw, utf8, zigzag};
use crate::columns::{Column, Full, Kind};
use crate::values::{DATES, FULL};
use arrow_array::types::IntervalMonthDayNano;
use std::collections::HashMap;

/// How many cells any record may make; a larger one may make some for each of its bytes.
const CELLS: u64 = 1 << 20;
const CELLS_PER_BYTE: u64 = 8;
/// Scratch that is kept from one record to the next.
const SCRATCH_MAX: usize = 1 << 16;
const MICROS: i64 = 1_000_000;

/// A value on the wire, and the column that it is for.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    slot: u32,
    raw: Raw<'a>,
}

/// Room for parts, which the next record gets again.
#[derive(Default)]
pub(super) struct Scratch(Vec<Part<'static>>);

pub(super) struct Reader<'a> {
    writer: &'a Schema,
    parts: Vec<Part<'a>>,
    cells: u64,
    strict: bool,
}

/// Reads one record. After an error the columns are uneven: truncate them.
pub(super) fn record(
    plan: &Message,
    writer: &Schema,
    bytes: &[u8],
    columns: &mut [Column],
    strict: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let cells = CELLS + CELLS_PER_BYTE * bytes.len() as u64;
    let parts = emptied(std::mem::take(&mut scratch.0));
    let mut reader = Reader { writer, parts, cells, strict };
    let scanned = reader.scan(plan, bytes);
    let done = scanned.and_then(|()| reader.message(plan, 0, columns));
    if reader.parts.capacity() <= SCRATCH_MAX {
        scratch.0 = emptied(reader.parts);
    }
    done
}

/// The same memory, for parts of other bytes.
fn emptied<'b>(mut parts: Vec<Part<'_>>) -> Vec<Part<'b>> {
    parts.clear();
    // Collected in place, as they are of one size.
    parts.into_iter().map(|Part { slot, .. }| Part { slot, raw: Raw::Varint(0) }).collect()
}

impl<'a> Reader<'a> {
    /// Puts a message's fields that have a column onto the stack.
    fn scan(&mut self, plan: &Message, bytes: &'a [u8]) -> Result<(), Fault> {
        let mut cursor = Cursor::new(bytes);
        while let Some((number, raw)) = cursor.field()? {
            let slot = plan.slot(number);
            if slot != UNUSED {
                self.parts.push(Part { slot, raw });
            }
        }
        Ok(())
    }

    /// Writes the message whose parts are on the stack from `base`, and takes them off.
    fn message(
        &mut self,
        plan: &Message,
        base: usize,
        columns: &mut [Column],
    ) -> Result<(), Fault> {
        self.spend(plan.cells)?;
        if plan.has_oneofs && self.parts.len() > base + 1 {
            self.choose(plan, base);
        }
        if !self.parts[base..].is_sorted_by_key(|part| part.slot) {
            self.parts[base..].sort_by_key(|part| part.slot);
        }
        let mut from = base;
        for (slot, (field, column)) in plan.fields.iter().zip(columns).enumerate() {
            let of_slot = |part: &Part<'_>| part.slot == slot as u32;
            let mut to = from;
            while self.parts.get(to).is_some_and(of_slot) {
                to += 1;
            }
            self.field(field, from, to, column).map_err(|fault| fault.within(&field.name))?;
            from = to;
        }
        self.parts.truncate(base);
        Ok(())
    }

    /// Of a oneof's members the last one on the wire counts, and nothing from before another one.
    fn choose(&mut self, plan: &Message, base: usize) {
        let mut chosen: Vec<(usize, u32, bool)> = Vec::new();
        for part in self.parts[base..].iter_mut().rev() {
            let Some(oneof) = plan.oneof(part.slot) else { continue };
            match chosen.iter_mut().find(|(group, ..)| *group == oneof) {
                None => chosen.push((oneof, part.slot, true)),
                Some((_, slot, open)) => {
                    *open &= *slot == part.slot;
                    if !*open {
                        part.slot = UNUSED;
                    }
                }
            }
        }
    }

    /// Writes one column from the parts `from..to`.
    fn field(
        &mut self,
        field: &Field,
        from: usize,
        to: usize,
        column: &mut Column,
    ) -> Result<(), Fault> {
        match &field.form {
            Form::One(read) if from < to => self.value(read, from, to, column)?,
            Form::Many(read) if from < to => {
                let Kind::List(_, item) = &mut column.kind else { return Err(unfit()) };
                let before = item.len();
                for at in from..to {
                    self.items(read, at, item)?;
                }
                let added = item.len() - before;
                let Kind::List(offsets, _) = &mut column.kind else { return Err(unfit()) };
                let end = offsets[offsets.len() - 1];
                let added = i32::try_from(added).ok().and_then(|added| end.checked_add(added));
                offsets.push(added.ok_or_else(|| full(Full))?);
            }
            Form::Map(key, read) if from < to => self.map(*key, read, from, to, column)?,
            _ => return absent(field, column),
        }
        column.valid();
        Ok(())
    }

    /// One value, from one or more parts: the last of them, or all when they are to be merged.
    fn value(
        &mut self,
        read: &Read,
        from: usize,
        to: usize,
        column: &mut Column,
    ) -> Result<(), Fault> {
        let last = self.parts[to - 1].raw;
        match read {
            Read::Scalar(kind) => scalar(*kind, last, column, self.strict),
            Read::Enum(at) => {
                let Raw::Varint(number) = last else { return Err(mistyped("an enum", last)) };
                let Kind::Str(runs) = &mut column.kind else { return Err(unfit()) };
                // The low 32 bits count, as for int32.
                let number = number as i32;
                match self.writer.enums[*at].names.get(&number) {
                    Some(name) => runs.push_grown(name.as_bytes()).map_err(full),
                    None => runs.push_grown(number.to_string().as_bytes()).map_err(full),
                }
            }
            Read::Message(plan) => {
                let base = self.parts.len();
                for at in from..to {
                    let bytes = run(self.parts[at].raw)?;
                    self.scan(plan, bytes)?;
                }
                match &mut column.kind {
                    Kind::Struct(children) => self.message(plan, base, children),
                    Kind::Hollow(count) => {
                        *count += 1;
                        self.message(plan, base, &mut [])
                    }
                    _ => Err(unfit()),
                }
            }
            Read::Timestamp => {
                let (seconds, nanos) = self.moment(from, to)?;
                let range = -62_135_596_800..=253_402_300_799;
                if !range.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
                    let all = format!("{seconds} s and {nanos} ns is no timestamp {DATES}");
                    return Err(Fault::new(all));
                }
                let Kind::I64(values) = &mut column.kind else { return Err(unfit()) };
                values.push(seconds * MICROS + nanos / 1000);
                Ok(())
            }
            Read::Duration => {
                let (seconds, nanos) = self.moment(from, to)?;
                let all = seconds.checked_mul(1_000_000_000).and_then(|all| all.checked_add(nanos));
                let all = all.ok_or_else(|| {
                    Fault::new(format!("a duration of {seconds} s is over 292 years"))
                })?;
                let Kind::Interval(values) = &mut column.kind else { return Err(unfit()) };
                values.push(IntervalMonthDayNano::new(0, 0, all));
                Ok(())
            }
            Read::Wrapper(kind) => {
                let mut found = None;
                for at in from..to {
                    let mut cursor = Cursor::new(run(self.parts[at].raw)?);
                    while let Some((number, raw)) = cursor.field()? {
                        found = if number == 1 { Some(raw) } else { found };
                    }
                }
                match found {
                    Some(raw) => scalar(*kind, raw, column, self.strict),
                    None => zero(column, ""),
                }
            }
            Read::Json(message) => {
                let mut slices = Vec::with_capacity(to - from);
                for at in from..to {
                    slices.push(run(self.parts[at].raw)?);
                }
                let mut text = String::new();
                json::message(self.writer, *message, &slices, &mut text)?;
                self.spend(text.len() as u64 / 8)?;
                let Kind::Str(runs) = &mut column.kind else { return Err(unfit()) };
                runs.push_grown(text.as_bytes()).map_err(full)
            }
        }
    }

    /// One part of a repeated field: an element, or a packed run of them.
    fn items(&mut self, read: &Read, at: usize, item: &mut Column) -> Result<(), Fault> {
        let kind = match (read, self.parts[at].raw) {
            (Read::Scalar(kind), Raw::Bytes(_)) if kind.is_packable() => *kind,
            (Read::Enum(_), Raw::Bytes(_)) => Scalar::Int32,
            _ => {
                self.spend(1)?;
                self.value(read, at, at + 1, item)?;
                item.valid();
                return Ok(());
            }
        };
        let mut cursor = Cursor::new(run(self.parts[at].raw)?);
        let top = self.parts.len();
        while !cursor.rest.is_empty() {
            let raw = match kind {
                Scalar::Double | Scalar::Fixed64 | Scalar::Sfixed64 => {
                    Raw::Fixed64(u64::from_le_bytes(cursor.array()?))
                }
                Scalar::Float | Scalar::Fixed32 | Scalar::Sfixed32 => {
                    Raw::Fixed32(u32::from_le_bytes(cursor.array()?))
                }
                _ => Raw::Varint(cursor.varint()?),
            };
            self.spend(1)?;
            match read {
                Read::Scalar(kind) => scalar(*kind, raw, item, self.strict)?,
                _ => {
                    self.parts.push(Part { slot: 0, raw });
                    self.value(read, top, top + 1, item)?;
                    self.parts.truncate(top);
                }
            }
            item.valid();
        }
        Ok(())
    }

    fn map(
        &mut self,
        key: Scalar,
        read: &Read,
        from: usize,
        to: usize,
        column: &mut Column,
    ) -> Result<(), Fault> {
        let Kind::Map(offsets, keys, values) = &mut column.kind else { return Err(unfit()) };
        let top = self.parts.len();
        // Of entries with one key the last counts: where each key's is.
        let mut last: HashMap<String, usize> = HashMap::with_capacity(to - from);
        let mut entries: Vec<(String, &'a [u8])> = Vec::with_capacity(to - from);
        for at in from..to {
            let bytes = run(self.parts[at].raw)?;
            let mut found = None;
            let mut cursor = Cursor::new(bytes);
            while let Some((number, raw)) = cursor.field()? {
                found = if number == 1 { Some(raw) } else { found };
            }
            let text = key_text(key, found).map_err(|fault| fault.within("key"))?;
            match last.get(&text) {
                Some(at) => entries[*at].1 = bytes,
                None => {
                    last.insert(text.clone(), entries.len());
                    entries.push((text, bytes));
                }
            }
        }
        for (text, bytes) in &entries {
            self.spend(2)?;
            keys.push_grown(text.as_bytes()).map_err(full)?;
            let mut cursor = Cursor::new(bytes);
            while let Some((number, raw)) = cursor.field()? {
                if number == 2 {
                    self.parts.push(Part { slot: 0, raw });
                }
            }
            let end = self.parts.len();
            if end == top {
                // An absent value is an empty one; that of an enum is its number 0.
                let raw = match read {
                    Read::Enum(_) => Some(Raw::Varint(0)),
                    Read::Scalar(_) => None,
                    _ => Some(Raw::Bytes(&[])),
                };
                match raw {
                    Some(raw) => {
                        self.parts.push(Part { slot: 0, raw });
                        self.value(read, top, top + 1, values)?;
                    }
                    None => zero(values, "")?,
                }
            } else {
                self.value(read, top, end, values)?;
            }
            values.valid();
            self.parts.truncate(top);
        }
        let end = offsets[offsets.len() - 1];
        let added = i32::try_from(entries.len()).ok().and_then(|added| end.checked_add(added));
        offsets.push(added.ok_or_else(|| full(Full))?);
        Ok(())
    }

    /// Seconds and nanoseconds.
    fn moment(&self, from: usize, to: usize) -> Result<(i64, i64), Fault> {
        let slices: Result<Vec<&[u8]>, Fault> =
            self.parts[from..to].iter().map(|part| run(part.raw)).collect();
        moment(&slices?)
    }

    fn spend(&mut self, cells: u64) -> Result<(), Fault> {
        let left = self.cells.checked_sub(cells);
        self.cells = left.ok_or_else(|| {
            Fault::new("it is far larger decoded than its bytes are; it is taken for an attack")
        })?;
        Ok(())
    }
}

pub(super) fn moment(slices: &[&[u8]]) -> Result<(i64, i64), Fault> {
    let (mut seconds, mut nanos) = (0, 0);
    for bytes in slices {
        let mut cursor = Cursor::new(bytes);
        while let Some((number, raw)) = cursor.field()? {
            match (number, raw) {
                (1, Raw::Varint(value)) => seconds = value as i64,
                (2, Raw::Varint(value)) => nanos = i64::from(value as i32),
                (1 | 2, raw) => return Err(mistyped("a number", raw)),
                _ => {}
            }
        }
    }
    Ok((seconds, nanos))
}

/// What an integer on the wire stands for.
pub(super) fn integer(kind: Scalar, raw: Raw<'_>) -> Result<i128, Fault> {
    Ok(match (kind, raw) {
        (Scalar::Int32, Raw::Varint(value)) => i128::from(value as i32),
        (Scalar::Sint32, Raw::Varint(value)) => i128::from(zigzag(value & 0xFFFF_FFFF) as i32),
        (Scalar::Uint32, Raw::Varint(value)) => i128::from(value as u32),
        (Scalar::Int64, Raw::Varint(value)) => i128::from(value as i64),
        (Scalar::Sint64, Raw::Varint(value)) => i128::from(zigzag(value)),
        (Scalar::Uint64, Raw::Varint(value)) => i128::from(value),
        (Scalar::Fixed32, Raw::Fixed32(value)) => i128::from(value),
        (Scalar::Sfixed32, Raw::Fixed32(value)) => i128::from(value as i32),
        (Scalar::Fixed64, Raw::Fixed64(value)) => i128::from(value),
        (Scalar::Sfixed64, Raw::Fixed64(value)) => i128::from(value as i64),
        (_, raw) => return Err(mistyped("an integer", raw)),
    })
}

fn scalar(kind: Scalar, raw: Raw<'_>, column: &mut Column, strict: bool) -> Result<(), Fault> {
    match (kind, raw, &mut column.kind) {
        (Scalar::String, Raw::Bytes(bytes), Kind::Str(runs)) => {
            if strict {
                utf8(bytes)?;
            }
            runs.push(bytes);
        }
        (Scalar::Bytes, Raw::Bytes(bytes), Kind::Bytes(runs)) => runs.push(bytes),
        (Scalar::Bool, Raw::Varint(value), Kind::Bool(values)) => values.append(value != 0),
        (Scalar::Double, Raw::Fixed64(bits), Kind::F64(values)) => {
            values.push(f64::from_bits(bits));
        }
        (Scalar::Float, Raw::Fixed32(bits), Kind::F32(values)) => {
            values.push(f32::from_bits(bits));
        }
        (Scalar::Float, Raw::Fixed32(bits), Kind::F64(values)) => {
            values.push(f64::from(f32::from_bits(bits)));
        }
        (Scalar::String, raw, _) => return Err(mistyped("text", raw)),
        (Scalar::Bytes, raw, _) => return Err(mistyped("bytes", raw)),
        (Scalar::Bool, raw, _) => return Err(mistyped("a bool", raw)),
        (Scalar::Double | Scalar::Float, raw, _) => return Err(mistyped("a float", raw)),
        // The plan has seen to it that the column is wide enough.
        (kind, raw, Kind::I32(values)) => values.push(integer(kind, raw)? as i32),
        (kind, raw, Kind::I64(values)) => values.push(integer(kind, raw)? as i64),
        (kind, raw, Kind::I128(values)) => values.push(integer(kind, raw)?),
        _ => return Err(unfit()),
    }
    Ok(())
}

/// A map's key as text; an absent one is the zero value.
pub(super) fn key_text(kind: Scalar, raw: Option<Raw<'_>>) -> Result<String, Fault> {
    Ok(match (kind, raw) {
        (Scalar::String, None) => String::new(),
        (Scalar::String, Some(Raw::Bytes(bytes))) => utf8(bytes)?.to_owned(),
        (Scalar::String, Some(raw)) => return Err(mistyped("text", raw)),
        (Scalar::Bool, None) => "false".to_owned(),
        (Scalar::Bool, Some(Raw::Varint(value))) => (value != 0).to_string(),
        (_, None) => "0".to_owned(),
        (kind, Some(raw)) => integer(kind, raw)?.to_string(),
    })
}

fn absent(field: &Field, column: &mut Column) -> Result<(), Fault> {
    match &field.absent {
        Absent::Null => column.append_null(),
        Absent::Never => return Err(Fault::new("it is required and absent")),
        Absent::Zero(text) => {
            zero(column, text)?;
            column.valid();
        }
    }
    Ok(())
}

/// The zero value: `text` in a column of text, without an element in one of lists.
fn zero(column: &mut Column, text: &str) -> Result<(), Fault> {
    match &mut column.kind {
        Kind::Bool(values) => values.append(false),
        Kind::I32(values) => values.push(0),
        Kind::I64(values) => values.push(0),
        Kind::I128(values) => values.push(0),
        Kind::F32(values) => values.push(0.0),
        Kind::F64(values) => values.push(0.0),
        Kind::Str(runs) | Kind::Bytes(runs) => runs.push_grown(text.as_bytes()).map_err(full)?,
        Kind::List(offsets, _) | Kind::Map(offsets, _, _) => {
            offsets.push(offsets[offsets.len() - 1]);
        }
        _ => return Err(unfit()),
    }
    Ok(())
}

fn run(raw: Raw<'_>) -> Result<&[u8], Fault> {
    match raw {
        Raw::Bytes(bytes) => Ok(bytes),
        other => Err(mistyped("a message", other)),
    }
}

#[cold]
pub(super) fn mistyped(due: &str, found: Raw<'_>) -> Fault {
    Fault::new(format!("{} is where {due} is due", found.word()))
}

#[cold]
fn full(_: Full) -> Fault {
    Fault::new(FULL)
}

#[cold]
fn unfit() -> Fault {
    Fault::new("the column was built for another type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_record_gets_the_same_room() {
        let bytes = b"abc".to_vec();
        let mut parts = Vec::with_capacity(100);
        parts.push(Part { slot: 1, raw: Raw::Bytes(&bytes) });
        let before = parts.as_ptr().addr();
        let again: Vec<Part<'static>> = emptied(parts);
        assert_eq!((again.len(), again.capacity(), again.as_ptr().addr()), (0, 100, before));
    }
}
