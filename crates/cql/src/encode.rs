//! The rows of a batch as statements: which cells each has, which rows stand for one, and which go
//! together in one request.

use crate::sink::{Nulls, Operation};
use crate::write::{Scale, Writer, timestamp};
use ahash::AHashMap;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use scylla::errors::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use std::ops::Range;

/// What CQL takes: twenty years of 365 days.
pub const TTL_SECONDS_MAX: i64 = 20 * 365 * 24 * 3600;

/// Where the values of a statement's markers come from, in the markers' order.
#[derive(Debug)]
pub(crate) enum Marker {
    /// A column of the rows. Those of the key may not be null.
    Column {
        column: usize,
        writer: Writer,
        is_key: bool,
    },
    Ttl(usize),
    /// Microseconds.
    Timestamp(usize, Scale),
}

#[derive(Debug)]
pub(crate) struct Layout {
    pub markers: Vec<Marker>,
    /// The markers of the partition key, and of the whole primary key.
    pub partition: Vec<usize>,
    pub key: Vec<usize>,
    pub timestamp: Option<usize>,
    pub nulls: Nulls,
    pub operation: Operation,
}

/// A row's cells, ready for the wire.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The row of the batch that it was made of last.
    pub row: u32,
    /// All rows that it stands for.
    pub rows: Vec<u32>,
    cells: Vec<Cell>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Cell {
    Value(Range<usize>),
    Null,
    Unset,
}

/// The statements of a batch in rounds: no key is twice in a round, and a round is over before the
/// next begins.
pub(crate) struct Encoded {
    pub rounds: Vec<Vec<Statement>>,
    pub rejected: Vec<(u32, String)>,
}

impl Layout {
    pub fn encode(&self, rows: &RecordBatch) -> Encoded {
        let columns = rows.columns();
        let mut rejected = Vec::new();
        let mut rounds: Vec<Vec<Statement>> = Vec::new();
        // In which round a key was last, and where.
        let mut last: AHashMap<Vec<u8>, (usize, usize)> = AHashMap::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let statement = match self.statement(columns, row) {
                Ok(statement) => statement,
                Err(why) => {
                    rejected.push((row as u32, why));
                    continue;
                }
            };
            let key = statement.key(&self.key);
            let place = match last.get(&key) {
                Some((round, at)) => {
                    let before = &mut rounds[*round][*at];
                    if self.is_collapsed(before, &statement) {
                        before.overlay(statement);
                        continue;
                    }
                    round + 1
                }
                None => 0,
            };
            if rounds.len() == place {
                rounds.push(Vec::new());
            }
            last.insert(key, (place, rounds[place].len()));
            rounds[place].push(statement);
        }
        Encoded { rounds, rejected }
    }

    /// Two writes of one row with one timestamp would leave the larger value, not the later.
    fn is_collapsed(&self, before: &Statement, after: &Statement) -> bool {
        if self.operation == Operation::InsertIfNotExists {
            return false;
        }
        let Some(marker) = self.timestamp else { return false };
        before.value(marker) == after.value(marker) && before.value(marker).is_some()
    }

    fn statement(&self, columns: &[ArrayRef], row: usize) -> Result<Statement, String> {
        let mut statement = Statement {
            row: row as u32,
            rows: vec![row as u32],
            cells: Vec::with_capacity(self.markers.len()),
            bytes: Vec::new(),
        };
        for marker in &self.markers {
            let start = statement.bytes.len();
            let out = &mut statement.bytes;
            let there = match marker {
                Marker::Column { column, writer, is_key } => {
                    let there = writer.write(&columns[*column], row, out)?;
                    if *is_key && !there {
                        return Err("a column of the key is null".into());
                    }
                    there
                }
                Marker::Ttl(column) => match ttl(&columns[*column], row)? {
                    Some(seconds) => {
                        out.extend_from_slice(&seconds.to_be_bytes());
                        true
                    }
                    None => false,
                },
                Marker::Timestamp(column, scale) => match micros(&columns[*column], row, *scale)? {
                    Some(micros) => {
                        out.extend_from_slice(&micros.to_be_bytes());
                        true
                    }
                    None => false,
                },
            };
            let is_column = matches!(marker, Marker::Column { .. });
            let end = statement.bytes.len();
            statement.cells.push(match (there, self.nulls) {
                (true, _) => Cell::Value(start..end),
                (false, Nulls::Delete) if is_column => Cell::Null,
                (false, _) => Cell::Unset,
            });
        }
        Ok(statement)
    }

    /// Which of a round's statements go together: those of one partition, up to a number and a size.
    pub fn units(&self, round: &[Statement], rows_max: usize, bytes_max: usize) -> Vec<Vec<usize>> {
        let mut open: AHashMap<Vec<u8>, (Vec<usize>, usize)> = AHashMap::new();
        let mut units = Vec::new();
        for (at, statement) in round.iter().enumerate() {
            if rows_max <= 1 {
                units.push(vec![at]);
                continue;
            }
            let (unit, bytes) = open.entry(statement.key(&self.partition)).or_default();
            let full = unit.len() >= rows_max || *bytes + statement.bytes.len() > bytes_max;
            if full && !unit.is_empty() {
                units.push(std::mem::take(unit));
                *bytes = 0;
            }
            unit.push(at);
            *bytes += statement.bytes.len();
        }
        let mut rest: Vec<_> = open.into_values().map(|(unit, _)| unit).collect();
        rest.retain(|unit| !unit.is_empty());
        units.extend(rest);
        units
    }
}

impl Statement {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn value(&self, marker: usize) -> Option<&[u8]> {
        match &self.cells[marker] {
            Cell::Value(range) => Some(&self.bytes[range.clone()]),
            Cell::Null | Cell::Unset => None,
        }
    }

    /// The bytes of some markers, told apart by their lengths.
    fn key(&self, markers: &[usize]) -> Vec<u8> {
        let mut key = Vec::with_capacity(32);
        for marker in markers {
            let value = self.value(*marker).unwrap_or_default();
            key.extend_from_slice(&(value.len() as u32).to_ne_bytes());
            key.extend_from_slice(value);
        }
        key
    }

    /// Writes a later row of the same key and time over this one.
    fn overlay(&mut self, later: Statement) {
        for (cell, new) in self.cells.iter_mut().zip(&later.cells) {
            match new {
                Cell::Value(range) => {
                    let start = self.bytes.len();
                    self.bytes.extend_from_slice(&later.bytes[range.clone()]);
                    *cell = Cell::Value(start..self.bytes.len());
                }
                Cell::Null => *cell = Cell::Null,
                Cell::Unset => {}
            }
        }
        self.row = later.row;
        self.rows.extend(later.rows);
    }
}

impl SerializeRow for Statement {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter,
    ) -> Result<(), SerializationError> {
        for cell in &self.cells {
            let out = writer.make_cell_writer();
            match cell {
                Cell::Value(range) => {
                    let written = out.set_value(&self.bytes[range.clone()]);
                    written.map_err(SerializationError::new)?;
                }
                Cell::Null => {
                    out.set_null();
                }
                Cell::Unset => {
                    out.set_unset();
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

fn whole(column: &ArrayRef, row: usize) -> Option<i64> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        _ => column.as_primitive::<Int64Type>().value(row),
    })
}

/// Seconds to live; 0 is for ever, also where the table says otherwise.
fn ttl(column: &ArrayRef, row: usize) -> Result<Option<i32>, String> {
    match whole(column, row) {
        None => Ok(None),
        Some(seconds @ 0..=TTL_SECONDS_MAX) => Ok(Some(seconds as i32)),
        Some(seconds) if seconds < 0 => {
            Err(format!("a time to live of {seconds} seconds is over already"))
        }
        Some(seconds) => Err(format!("a time to live of {seconds} seconds is over 20 years")),
    }
}

fn micros(column: &ArrayRef, row: usize, scale: Scale) -> Result<Option<i64>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    let value = match column.data_type() {
        DataType::Timestamp(..) => timestamp(column, row),
        _ => column.as_primitive::<Int64Type>().value(row),
    };
    match scale.of(value)? {
        // The smallest is CQL's word for none.
        i64::MIN => Err("the time is out of range".into()),
        micros => Ok(Some(micros)),
    }
}

/// How a column becomes microseconds.
pub(crate) fn micros_of(data_type: &DataType) -> Option<Scale> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(Scale::to(TimeUnit::Microsecond, *unit)),
        DataType::Int64 => Some(Scale::Multiply(1)),
        _ => None,
    }
}
