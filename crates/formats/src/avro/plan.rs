//! How what one schema wrote becomes the columns of another: Avro's schema resolution, done once.

use super::json::{Style, write_json};
use super::schema::{Field, Id, Logical, Schema, Type};
use super::shape::{Form, Shape};
use super::skip::Skip;
use std::collections::HashSet;

/// Reads one value from the input into one column.
#[derive(Debug)]
pub(crate) enum Plan {
    Null,
    Boolean,
    Int,
    /// `time-millis` into a column of microseconds.
    IntMillis,
    IntToLong,
    IntToFloat,
    IntToDouble,
    Long,
    /// Times `.0`, then divided by `.1`: the timestamps differ in their unit.
    LongScaled(i64, i64),
    LongToFloat,
    LongToDouble,
    Float,
    FloatToDouble,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    UuidFixed,
    /// Size of the `fixed`, or none for `bytes`; digits at most.
    Decimal128(Option<usize>, u8),
    Decimal256(Option<usize>, u8),
    Duration,
    /// The text of each of the writer's symbols, where the reader knows it.
    Enum(Box<[Option<Box<str>>]>),
    List(Box<Plan>, usize),
    Map(Box<Plan>, usize),
    Struct(Record),
    /// To be written as JSON: the writer's type and the reader's.
    Json(Id, Id),
    /// A branch of the reader's union.
    Branch(usize, Box<Plan>),
    /// A value that is always there, in a column that has nulls.
    Valid(Box<Plan>),
    /// A union with null at this place and one more type, in a column that has nulls.
    Optional(usize, Box<Plan>),
    /// The writer's branches; an error for those that the reader cannot take.
    Union(Box<[Result<Plan, String>]>),
}

/// The fields of a record in the writer's order, and what the writer lacks.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub steps: Vec<Step>,
    pub fills: Vec<Fill>,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub name: Box<str>,
    pub action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    Read(usize, Plan),
    Skip(Skip),
}

/// A column that takes the reader's default: its encoded form, and how to read that.
#[derive(Debug)]
pub(crate) struct Fill {
    pub column: usize,
    pub bytes: Vec<u8>,
    pub plan: Plan,
}

/// The plan for the rows of `shape`. The error says what does not fit.
pub(crate) fn rows(writer: &Schema, reader: &Schema, shape: &Shape) -> Result<Record, String> {
    let planner = Planner { writer, reader };
    match planner.solid(writer.root, shape)? {
        Plan::Struct(record) => Ok(record),
        _ => Err(format!("the writer's schema is {}", writer.describe(writer.root))),
    }
}

/// The fields of the writer's record that the reader's has no use for.
pub(crate) fn fields_ignored(writer: &Schema, reader: &Schema) -> Vec<String> {
    let (Ok(written), Ok(read)) = (writer.root_fields(), reader.root_fields()) else {
        return Vec::new();
    };
    let ignored = written.iter().filter(|w| source_of(read, &w.name).is_none());
    ignored.map(|field| field.name.clone()).collect()
}

struct Planner<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
}

impl Planner<'_> {
    fn plan(&self, id: Id, shape: &Shape) -> Result<Plan, String> {
        let Type::Union(branches) = self.writer.kind(id) else {
            let plan = self.solid(id, shape)?;
            return Ok(match plan {
                Plan::Null => plan,
                plan if shape.nullable => Plan::Valid(Box::new(plan)),
                plan => plan,
            });
        };
        if let (Some((null, some)), true) = (self.writer.optional(id), shape.nullable) {
            return Ok(Plan::Optional(null, Box::new(self.solid(some, shape)?)));
        }
        let plans: Box<[_]> = branches.iter().map(|branch| self.plan(*branch, shape)).collect();
        // That null can be read is not enough, unless there is nothing else.
        let mut solid = branches
            .iter()
            .zip(&plans)
            .filter(|(branch, _)| !matches!(self.writer.kind(**branch), Type::Null))
            .peekable();
        if solid.peek().is_some() && solid.all(|(_, plan)| plan.is_err()) {
            return Err(self.mismatch(id, shape.id));
        }
        Ok(Plan::Union(plans))
    }

    /// For a type that is no union.
    fn solid(&self, id: Id, shape: &Shape) -> Result<Plan, String> {
        let written = self.writer.kind(id);
        if matches!(written, Type::Null) {
            if shape.nullable {
                return Ok(Plan::Null);
            }
            return Err("null, which the reader schema does not allow".into());
        }
        match (&shape.form, written, self.reader.kind(shape.id)) {
            (Form::Leaf, ..) => self.leaf(id, shape.id),
            (Form::List(item), Type::Array(items), _) => Ok(Plan::List(
                Box::new(self.plan(*items, item)?),
                self.writer.node(*items).bytes_min,
            )),
            (Form::Map(value), Type::Map(values), _) => Ok(Plan::Map(
                Box::new(self.plan(*values, value)?),
                1 + self.writer.node(*values).bytes_min,
            )),
            (Form::Struct(shapes), Type::Record(w, written), Type::Record(r, read)) => {
                // The outermost records need not agree in name: a topic's schema often changes it.
                let outermost = id == self.writer.root && shape.id == self.reader.root;
                if !outermost && !r.reads(w) {
                    return Err(self.mismatch(id, shape.id));
                }
                Ok(Plan::Struct(self.record(written, read, shape, shapes)?))
            }
            (Form::Json, ..) => {
                self.compatible(id, shape.id, &mut HashSet::new())?;
                Ok(Plan::Json(id, shape.id))
            }
            (Form::Branches(shapes), ..) => {
                let same = |s: &Shape| same_type(self.writer, id, self.reader, s.id);
                // A branch of the same type before one that takes it by promotion.
                let (first, second): (Vec<_>, Vec<_>) =
                    shapes.iter().enumerate().partition(|(_, s)| same(s));
                for (at, shape) in first.into_iter().chain(second) {
                    if let Ok(plan) = self.solid(id, shape) {
                        return Ok(Plan::Branch(at, Box::new(Plan::Valid(Box::new(plan)))));
                    }
                }
                Err(self.mismatch(id, shape.id))
            }
            _ => Err(self.mismatch(id, shape.id)),
        }
    }

    fn record(
        &self,
        written: &[Field],
        read: &[Field],
        shape: &Shape,
        shapes: &[Shape],
    ) -> Result<Record, String> {
        // The rows' own shape may leave fields out; any other has all of them.
        let arrow_schema::DataType::Struct(names) = &shape.data_type else {
            return Err("a record that is no struct".into());
        };
        let column_of = |name: &str| names.iter().position(|f| f.name() == name);
        let mut filled = vec![false; shapes.len()];
        let mut record = Record::default();
        for field in written {
            let column = source_of(read, &field.name).and_then(|at| column_of(&read[at].name));
            let action = match column {
                Some(column) if !filled[column] => {
                    filled[column] = true;
                    let plan = self.plan(field.type_id, &shapes[column]);
                    Action::Read(column, plan.map_err(|why| format!("`{}`: {why}", field.name))?)
                }
                _ => Action::Skip(Skip::of(self.writer, field.type_id)),
            };
            record.steps.push(Step { name: field.name.as_str().into(), action });
        }
        for (column, _) in filled.iter().enumerate().filter(|(_, filled)| !**filled) {
            let name = names[column].name();
            let Some(field) = read.iter().find(|f| f.name == *name) else { continue };
            record.fills.push(self.fill(field, column, &shapes[column])?);
        }
        Ok(record)
    }

    fn fill(&self, field: &Field, column: usize, shape: &Shape) -> Result<Fill, String> {
        let default = field.default.as_ref().ok_or_else(|| {
            format!(
                "`{}` is missing in the writer's schema and has no default in the reader's",
                field.name
            )
        })?;
        let mut bytes = Vec::new();
        write_json(self.reader, field.type_id, default, Style::Default, &mut bytes)
            .map_err(|why| format!("the default of `{}`: {why}", field.name))?;
        let planner = Planner { writer: self.reader, reader: self.reader };
        Ok(Fill { column, bytes, plan: planner.plan(field.type_id, shape)? })
    }

    fn leaf(&self, w: Id, r: Id) -> Result<Plan, String> {
        let (written, read) = (self.writer.node(w), self.reader.node(r));
        Ok(match (&written.kind, &read.kind) {
            (Type::Boolean, Type::Boolean) => Plan::Boolean,
            (Type::Int, Type::Int) if read.logical == Some(Logical::TimeMillis) => Plan::IntMillis,
            (Type::Int, Type::Int) => Plan::Int,
            (Type::Int, Type::Long)
                if written.logical == Some(Logical::TimeMillis)
                    && read.logical == Some(Logical::TimeMicros) =>
            {
                Plan::IntMillis
            }
            (Type::Int, Type::Long) => Plan::IntToLong,
            (Type::Int, Type::Float) => Plan::IntToFloat,
            (Type::Int, Type::Double) => Plan::IntToDouble,
            (Type::Long, Type::Long) => match (unit(written.logical), unit(read.logical)) {
                (Some(w), Some(r)) if w < r => Plan::LongScaled(r / w, 1),
                (Some(w), Some(r)) if w > r => Plan::LongScaled(1, w / r),
                _ => Plan::Long,
            },
            (Type::Long, Type::Float) => Plan::LongToFloat,
            (Type::Long, Type::Double) => Plan::LongToDouble,
            (Type::Float, Type::Float) => Plan::Float,
            (Type::Float, Type::Double) => Plan::FloatToDouble,
            (Type::Double, Type::Double) => Plan::Double,
            (Type::String, Type::String) | (Type::Bytes, Type::String) => Plan::Text,
            (Type::Bytes | Type::String, Type::Bytes) => {
                self.decimal(written.logical, read.logical, None)?.unwrap_or(Plan::Bytes)
            }
            (Type::Fixed(w_names, w_size), Type::Fixed(r_names, r_size)) => {
                if w_size != r_size || !r_names.reads(w_names) {
                    return Err(self.mismatch(w, r));
                }
                match read.logical {
                    Some(Logical::Uuid) => Plan::UuidFixed,
                    Some(Logical::Duration) => Plan::Duration,
                    logical => self
                        .decimal(written.logical, logical, Some(*w_size))?
                        .unwrap_or(Plan::Fixed(*w_size)),
                }
            }
            (Type::Enum(w_names, symbols, _), Type::Enum(r_names, known, default)) => {
                if !r_names.reads(w_names) {
                    return Err(self.mismatch(w, r));
                }
                let text = |symbol: &String| {
                    let known_at = known.iter().position(|k| k == symbol).or(*default);
                    known_at.map(|at| known[at].as_str().into())
                };
                Plan::Enum(symbols.iter().map(text).collect())
            }
            _ => return Err(self.mismatch(w, r)),
        })
    }

    fn decimal(
        &self,
        written: Option<Logical>,
        read: Option<Logical>,
        size: Option<usize>,
    ) -> Result<Option<Plan>, String> {
        let Some(Logical::Decimal { precision, scale }) = read else { return Ok(None) };
        if let Some(Logical::Decimal { scale: other, .. }) = written
            && other != scale
        {
            return Err(format!("decimals of scale {other} and {scale} do not resolve"));
        }
        Ok(Some(match precision {
            0..=38 => Plan::Decimal128(size, precision),
            _ => Plan::Decimal256(size, precision),
        }))
    }

    /// Whether anything of the writer's type can be read: what a JSON column needs to know.
    fn compatible(&self, w: Id, r: Id, seen: &mut HashSet<(Id, Id)>) -> Result<(), String> {
        if !seen.insert((w, r)) {
            return Ok(());
        }
        match (self.writer.kind(w), self.reader.kind(r)) {
            (Type::Union(branches), _) => {
                if branches.iter().all(|b| self.compatible(*b, r, seen).is_err()) {
                    return Err(self.mismatch(w, r));
                }
                Ok(())
            }
            (_, Type::Union(branches)) => {
                if branches.iter().all(|b| self.compatible(w, *b, seen).is_err()) {
                    return Err(self.mismatch(w, r));
                }
                Ok(())
            }
            (Type::Null, Type::Null) => Ok(()),
            (Type::Array(w), Type::Array(r)) | (Type::Map(w), Type::Map(r)) => {
                self.compatible(*w, *r, seen)
            }
            (Type::Record(w_names, written), Type::Record(r_names, read)) => {
                if !r_names.reads(w_names) && w != self.writer.root {
                    return Err(self.mismatch(w, r));
                }
                for field in read {
                    match written.iter().find(|f| names_field(field, &f.name)) {
                        Some(source) => self.compatible(source.type_id, field.type_id, seen)?,
                        None if field.default.is_some() => {}
                        None => return Err(format!("`{}` has no default", field.name)),
                    }
                }
                Ok(())
            }
            _ => self.leaf(w, r).map(drop),
        }
    }

    fn mismatch(&self, w: Id, r: Id) -> String {
        format!("{} was written, {} is wanted", self.writer.describe(w), self.reader.describe(r))
    }
}

/// Whether two types are the same without promotion.
pub(crate) fn same_type(writer: &Schema, w: Id, reader: &Schema, r: Id) -> bool {
    let (w, r) = (writer.kind(w), reader.kind(r));
    std::mem::discriminant(w) == std::mem::discriminant(r)
        && match (w.names(), r.names()) {
            (Some(w), Some(r)) => r.reads(w),
            _ => true,
        }
}

/// The reader's field that takes a writer's: its own name comes before an alias.
pub(crate) fn source_of(read: &[Field], written: &str) -> Option<usize> {
    let own = read.iter().position(|field| field.name == written);
    own.or_else(|| read.iter().position(|field| names_field(field, written)))
}

fn names_field(field: &Field, written: &str) -> bool {
    field.name == written || field.aliases.iter().any(|alias| alias == written)
}

/// How many of a timestamp's units make a second.
fn unit(logical: Option<Logical>) -> Option<i64> {
    match logical? {
        Logical::TimestampMillis | Logical::LocalTimestampMillis => Some(1_000),
        Logical::TimestampMicros | Logical::LocalTimestampMicros => Some(1_000_000),
        Logical::TimestampNanos | Logical::LocalTimestampNanos => Some(1_000_000_000),
        _ => None,
    }
}
