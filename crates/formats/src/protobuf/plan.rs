//! A writer's message against a reader's columns: which field goes where, decided once.

use super::parse::Label;
use super::schema::{Field, Kind, Scalar, Schema, WellKnown};
use super::shape;
use arrow_schema::{DataType, FieldRef};
use std::collections::HashMap;

/// Fields with numbers below this are found by index.
const DIRECT_MAX: u32 = 256;
/// A field of the writer that no column wants.
pub(super) const UNUSED: u32 = u32::MAX;

/// How one message fills one struct.
#[derive(Debug)]
pub(super) struct Message {
    /// One a column, in the order of the columns.
    pub fields: Vec<Column>,
    pub has_oneofs: bool,
    /// Members of a oneof that have no column, though another of it has: each clears that other.
    /// Their slots follow those of the columns.
    pub rivals: Vec<usize>,
    /// What columns a message of this kind appends at least, for the bound on a record's cells.
    pub cells: u64,
    direct: Vec<u32>,
    sparse: HashMap<u32, u32>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    pub form: Form,
    /// What an absent field leaves; also when the writer has no such field.
    pub absent: Absent,
    pub oneof: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absent {
    Null,
    /// The zero value; of an enum its first name.
    Zero(String),
    /// The record is malformed.
    Never,
}

#[derive(Debug)]
pub(super) enum Form {
    /// The writer has no such field.
    None,
    One(Read),
    Many(Read),
    Map(Scalar, Read),
}

#[derive(Debug)]
pub(super) enum Read {
    Scalar(Scalar),
    /// An enum of the writer's schema.
    Enum(usize),
    Message(Box<Message>),
    Timestamp,
    Duration,
    Wrapper(Scalar),
    /// A message of the writer's schema, as JSON text.
    Json(usize),
}

impl Message {
    fn route(&mut self, number: u32, slot: u32) {
        if number < DIRECT_MAX {
            let length = self.direct.len().max(number as usize + 1);
            self.direct.resize(length, UNUSED);
            self.direct[number as usize] = slot;
        } else {
            self.sparse.insert(number, slot);
        }
    }

    /// The oneof that a slot's field is a member of.
    pub fn oneof(&self, slot: u32) -> Option<usize> {
        let slot = slot as usize;
        match self.fields.get(slot) {
            Some(field) => field.oneof,
            None => self.rivals.get(slot - self.fields.len()).copied(),
        }
    }

    /// The column that a field goes to, or [`UNUSED`].
    #[inline]
    pub fn slot(&self, number: u32) -> u32 {
        match self.direct.get(number as usize) {
            Some(slot) => *slot,
            None if number < DIRECT_MAX => UNUSED,
            None => self.sparse.get(&number).copied().unwrap_or(UNUSED),
        }
    }
}

/// A plan for rows: `columns` are those of the reader's message that are built.
pub(super) fn rows(
    writer: (&Schema, usize),
    reader: (&Schema, usize),
    columns: &[FieldRef],
) -> Result<Message, String> {
    let planner = Planner { writer: writer.0, reader: reader.0 };
    planner.message(writer.1, reader.1, columns, "")
}

struct Planner<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
}

impl Planner<'_> {
    fn message(
        &self,
        writer: usize,
        reader: usize,
        columns: &[FieldRef],
        place: &str,
    ) -> Result<Message, String> {
        let (writer, reader) = (&self.writer.messages[writer], &self.reader.messages[reader]);
        let mut plan = Message {
            fields: Vec::with_capacity(columns.len()),
            has_oneofs: false,
            rivals: Vec::new(),
            cells: columns.len() as u64 + 1,
            direct: Vec::new(),
            sparse: HashMap::new(),
        };
        for column in columns {
            let wanted = reader.fields.iter().find(|field| field.name == *column.name());
            let wanted = wanted.ok_or_else(|| format!("there is no field `{}`", column.name()))?;
            let place = format!("{place}{}", wanted.name);
            let found = writer.fields.iter().find(|field| field.number == wanted.number);
            let form = match found {
                Some(found) => self.form(found, wanted, column.data_type(), &place)?,
                None => Form::None,
            };
            // A reader's field that is required was perhaps not there when this was written.
            let label = found.map_or(wanted.label, |found| found.label);
            let absent = match label {
                Label::Required if found.is_some() => Absent::Never,
                Label::Explicit if column.is_nullable() => Absent::Null,
                _ => Absent::Zero(match wanted.kind {
                    Kind::Enum(at) if wanted.label != Label::Repeated => {
                        self.reader.enums[at].zero.clone()
                    }
                    _ => String::new(),
                }),
            };
            let slot = plan.fields.len() as u32;
            let oneof = found.and_then(|found| found.oneof);
            plan.has_oneofs |= oneof.is_some();
            plan.fields.push(Column { name: wanted.name.clone(), form, absent, oneof });
            plan.route(wanted.number, slot);
        }
        for field in &writer.fields {
            let rival = field.oneof.filter(|oneof| {
                let is_built = plan.fields.iter().any(|column| column.oneof == Some(*oneof));
                is_built && plan.slot(field.number) == UNUSED
            });
            if let Some(oneof) = rival {
                let slot = plan.fields.len() + plan.rivals.len();
                plan.rivals.push(oneof);
                plan.route(field.number, slot as u32);
            }
        }
        Ok(plan)
    }

    fn form(
        &self,
        found: &Field,
        wanted: &Field,
        column: &DataType,
        place: &str,
    ) -> Result<Form, String> {
        let repeated = |field: &Field| (field.label == Label::Repeated, field.key.is_some());
        if repeated(found) != repeated(wanted) {
            return Err(format!("`{place}` is repeated in one of them only"));
        }
        let read = |column: &DataType| self.read(found.kind, wanted.kind, column, place);
        match (found.key, column) {
            (Some(key), DataType::Map(entries, _)) => {
                let value = crate::columns::entry_fields(entries).map(|(_, value)| value);
                let value = value.ok_or_else(|| format!("`{place}` is no map"))?;
                Ok(Form::Map(key, read(value.data_type())?))
            }
            (None, DataType::List(item)) => Ok(Form::Many(read(item.data_type())?)),
            (None, column) if found.label != Label::Repeated => Ok(Form::One(read(column)?)),
            _ => Err(format!("`{place}` is a map in one of them only")),
        }
    }

    fn read(
        &self,
        found: Kind,
        wanted: Kind,
        column: &DataType,
        place: &str,
    ) -> Result<Read, String> {
        let differs = || Err(format!("`{place}` is of another type"));
        match (found, wanted) {
            (Kind::Scalar(scalar), Kind::Scalar(_)) => {
                match fits(&shape::data_type(scalar), column) {
                    true => Ok(Read::Scalar(scalar)),
                    false => differs(),
                }
            }
            (Kind::Enum(at), Kind::Enum(_)) => Ok(Read::Enum(at)),
            (Kind::Message(found), Kind::Message(wanted)) => {
                let known = self.writer.messages[found].known;
                if known != self.reader.messages[wanted].known {
                    return differs();
                }
                match (known, column) {
                    (Some(WellKnown::Timestamp), _) => Ok(Read::Timestamp),
                    (Some(WellKnown::Duration), _) => Ok(Read::Duration),
                    (Some(WellKnown::Wrapper(scalar)), _) => Ok(Read::Wrapper(scalar)),
                    (_, DataType::Utf8) => Ok(Read::Json(found)),
                    (_, DataType::Struct(columns)) => {
                        let place = format!("{place}.");
                        let plan = self.message(found, wanted, columns, &place)?;
                        Ok(Read::Message(Box::new(plan)))
                    }
                    _ => differs(),
                }
            }
            _ => differs(),
        }
    }
}

/// Whether every value of one type is one of the other.
fn fits(from: &DataType, to: &DataType) -> bool {
    let rank = |data_type: &DataType| match data_type {
        DataType::Int32 => Some(1),
        DataType::Int64 => Some(2),
        _ => None,
    };
    from == to
        || rank(from).zip(rank(to)).is_some_and(|(from, to)| from < to)
        || (*from == DataType::Float32 && *to == DataType::Float64)
}
