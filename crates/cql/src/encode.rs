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
    /// The markers of the partition key, and of the whole primary key that begins with it.
    pub partition: Range<usize>,
    pub key: Range<usize>,
    pub timestamp: Option<usize>,
    pub nulls: Nulls,
    pub operation: Operation,
}

/// A row's place among the cells of its batch.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The row of the batch that it was made of last.
    row: u32,
    /// The other rows that it stands for.
    earlier: Vec<u32>,
    /// Its first cell.
    cell: usize,
    bytes: usize,
}

#[derive(Debug, Clone)]
enum Cell {
    Value(Range<usize>),
    Null,
    Unset,
}

/// The statements of a batch in rounds: no key is twice in a round (no partition, where they have
/// conditions), and a round is over before the next begins.
pub(crate) struct Encoded {
    pub rounds: Vec<Vec<Statement>>,
    pub rejected: Vec<(u32, String)>,
    cells: Vec<Cell>,
    /// Each value with its length before it, as on the wire: without that two keys could look alike.
    bytes: Vec<u8>,
    width: usize,
}

const LENGTH: usize = 4;
/// In place of a length.
const NULL: [u8; LENGTH] = (-1_i32).to_be_bytes();
const UNSET: [u8; LENGTH] = (-2_i32).to_be_bytes();

impl Layout {
    pub fn encode(&self, rows: &RecordBatch) -> Encoded {
        let columns = rows.columns();
        let width = self.markers.len();
        let mut rejected = Vec::new();
        let mut statements = Vec::with_capacity(rows.num_rows());
        let mut cells = Vec::with_capacity(rows.num_rows() * width);
        let mut bytes = Vec::new();
        for row in 0..rows.num_rows() {
            let (cell, start) = (cells.len(), bytes.len());
            match self.row(columns, row, &mut cells, &mut bytes) {
                Ok(()) => statements.push(Statement {
                    row: row as u32,
                    earlier: Vec::new(),
                    cell,
                    bytes: bytes.len() - start,
                }),
                Err(why) => {
                    rejected.push((row as u32, why));
                    cells.truncate(cell);
                    bytes.truncate(start);
                }
            }
        }
        let rounds = self.rounds(statements, &mut cells, &bytes);
        Encoded { rounds, rejected, cells, bytes, width }
    }

    /// Conditions of one partition go one after the other and each alone: side by side they contend,
    /// and in one request either all of them hold or nothing is written.
    fn is_conditional(&self) -> bool {
        matches!(self.operation, Operation::InsertIfNotExists(_))
    }

    fn rounds(
        &self,
        statements: Vec<Statement>,
        cells: &mut [Cell],
        bytes: &[u8],
    ) -> Vec<Vec<Statement>> {
        let mut rounds: Vec<Vec<Statement>> = Vec::new();
        let apart = if self.is_conditional() { &self.partition } else { &self.key };
        // In which round a key was last, and where.
        let mut last: AHashMap<&[u8], (usize, usize)> = AHashMap::with_capacity(statements.len());
        for statement in statements {
            let key = slice(&cells[statement.cell..], apart, bytes);
            let place = match last.get(key) {
                Some((round, at)) => {
                    let before = &mut rounds[*round][*at];
                    if self.is_collapsed(before, &statement, cells, bytes) {
                        overlay(before, statement, cells, self.markers.len());
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
        rounds
    }

    /// Two writes of one row with one timestamp would leave the larger value, not the later.
    fn is_collapsed(
        &self,
        before: &Statement,
        after: &Statement,
        cells: &[Cell],
        bytes: &[u8],
    ) -> bool {
        if self.is_conditional() {
            return false;
        }
        let Some(marker) = self.timestamp else { return false };
        let [before, after] = [before, after].map(|one| match &cells[one.cell + marker] {
            Cell::Value(range) => Some(&bytes[range.clone()]),
            Cell::Null | Cell::Unset => None,
        });
        before == after && before.is_some()
    }

    /// Appends the cells of a row; after an error there may be some of them.
    fn row(
        &self,
        columns: &[ArrayRef],
        row: usize,
        cells: &mut Vec<Cell>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        for marker in &self.markers {
            let length_at = out.len();
            out.extend_from_slice(&[0; LENGTH]);
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
            let value = length_at + LENGTH..out.len();
            out[length_at..value.start].copy_from_slice(&(value.len() as u32).to_be_bytes());
            cells.push(match (there, self.nulls) {
                (true, _) => Cell::Value(value),
                (false, Nulls::Delete) if is_column => Cell::Null,
                (false, _) => Cell::Unset,
            });
        }
        Ok(())
    }

    /// Which of a round's statements go together: those of one partition, up to a number and a size.
    pub fn units(
        &self,
        encoded: &Encoded,
        round: &[Statement],
        rows_max: usize,
        bytes_max: usize,
    ) -> Vec<Vec<usize>> {
        // Where the partition is the whole key, no other row of the round is in it.
        if rows_max <= 1 || self.partition == self.key || self.is_conditional() {
            return (0..round.len()).map(|at| vec![at]).collect();
        }
        let mut open: AHashMap<&[u8], (Vec<usize>, usize)> = AHashMap::new();
        let mut units = Vec::new();
        for (at, statement) in round.iter().enumerate() {
            let cells = &encoded.cells[statement.cell..];
            let partition = slice(cells, &self.partition, &encoded.bytes);
            let (unit, bytes) = open.entry(partition).or_default();
            let full = unit.len() >= rows_max || *bytes + statement.bytes > bytes_max;
            if full && !unit.is_empty() {
                units.push(std::mem::take(unit));
                *bytes = 0;
            }
            unit.push(at);
            *bytes += statement.bytes;
        }
        let mut rest: Vec<_> = open.into_values().map(|(unit, _)| unit).collect();
        rest.retain(|unit| !unit.is_empty());
        units.extend(rest);
        units
    }
}

/// The values of some markers that stand side by side, none of them null.
fn slice<'a>(cells: &[Cell], markers: &Range<usize>, bytes: &'a [u8]) -> &'a [u8] {
    match &cells[markers.clone()] {
        [Cell::Value(first), .., Cell::Value(last)] => &bytes[first.start - LENGTH..last.end],
        [Cell::Value(alone)] => &bytes[alone.start - LENGTH..alone.end],
        _ => &[],
    }
}

/// Writes a later row of the same key and time over this one.
fn overlay(before: &mut Statement, later: Statement, cells: &mut [Cell], width: usize) {
    for at in 0..width {
        match cells[later.cell + at].clone() {
            Cell::Unset => {}
            new => cells[before.cell + at] = new,
        }
    }
    before.earlier.push(before.row);
    before.earlier.extend(later.earlier);
    before.row = later.row;
    before.bytes = before.bytes.max(later.bytes);
}

impl Encoded {
    /// What a statement is executed with.
    pub fn values(&self, statement: &Statement) -> Values<'_> {
        let cells = &self.cells[statement.cell..statement.cell + self.width];
        Values { cells, bytes: &self.bytes }
    }

    /// The same of its first markers only.
    pub fn first_values(&self, statement: &Statement, markers: usize) -> Values<'_> {
        self.some_values(statement, 0..markers)
    }

    pub fn some_values(&self, statement: &Statement, markers: Range<usize>) -> Values<'_> {
        let cells = &self.cells[statement.cell + markers.start..statement.cell + markers.end];
        Values { cells, bytes: &self.bytes }
    }

    /// How many values a statement has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The value of one marker; none where it has none.
    pub fn value(&self, statement: &Statement, marker: usize) -> Option<&[u8]> {
        match &self.cells[statement.cell + marker] {
            Cell::Value(range) => Some(&self.bytes[range.clone()]),
            Cell::Null | Cell::Unset => None,
        }
    }
}

impl Statement {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows of the batch that it stands for.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = u32> {
        (0..self.earlier.len() + 1).map(|at| self.earlier.get(at).copied().unwrap_or(self.row))
    }
}

/// A row's cells, ready for the wire.
pub(crate) struct Values<'a> {
    cells: &'a [Cell],
    bytes: &'a [u8],
}

impl Values<'_> {
    /// As they are on the wire.
    pub fn put(&self, out: &mut Vec<u8>) {
        for cell in self.cells {
            match cell {
                Cell::Value(range) => {
                    out.extend_from_slice(&self.bytes[range.start - LENGTH..range.end]);
                }
                Cell::Null => out.extend_from_slice(&NULL),
                Cell::Unset => out.extend_from_slice(&UNSET),
            }
        }
    }
}

impl SerializeRow for Values<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter,
    ) -> Result<(), SerializationError> {
        for cell in self.cells {
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, StringArray};
    use scylla::cluster::metadata::{ColumnType, NativeType};
    use scylla::statement::SerialConsistency;
    use std::sync::Arc;

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    /// `INSERT .. (a, b, v, w) .. USING TIMESTAMP t`, of which `a` is the partition.
    fn layout(timestamp: bool) -> Layout {
        let text = ColumnType::Native(NativeType::Text);
        let mut markers: Vec<_> = (0..4)
            .map(|column| {
                let writer = Writer::new(&DataType::Utf8, &text).unwrap();
                Marker::Column { column, writer, is_key: column < 2 }
            })
            .collect();
        markers.push(Marker::Timestamp(4, Scale::Multiply(1)));
        Layout {
            markers,
            partition: 0..1,
            key: 0..2,
            timestamp: timestamp.then_some(4),
            nulls: Nulls::Unset,
            operation: Operation::Insert,
        }
    }

    fn rows(columns: [&[Option<&str>]; 4], times: &[i64]) -> RecordBatch {
        let [a, b, v, w] = columns.map(texts);
        let t: ArrayRef = Arc::new(Int64Array::from(times.to_vec()));
        let columns = [("a", a), ("b", b), ("v", v), ("w", w), ("t", t)];
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    /// The cells of a statement, and the rows that it stands for.
    fn shown(encoded: &Encoded, statement: &Statement) -> (Vec<Option<String>>, Vec<u32>) {
        let values = encoded.values(statement);
        let text = |range: &Range<usize>| String::from_utf8_lossy(&values.bytes[range.clone()]);
        let cells = values.cells[..4].iter().map(|cell| match cell {
            Cell::Value(range) => Some(text(range).into_owned()),
            Cell::Null | Cell::Unset => None,
        });
        (cells.collect(), statement.rows().collect())
    }

    #[test]
    fn keys_that_look_alike_when_joined_are_two() {
        let rows = rows(
            [
                &[Some("x"), Some("xy"), Some("x"), Some("xy")],
                &[Some("yz"), Some("z"), Some("yz"), Some("")],
                &[Some("1"), Some("2"), Some("3"), Some("4")],
                &[None; 4],
            ],
            &[1, 2, 3, 4],
        );
        let layout = layout(true);
        let encoded = layout.encode(&rows);
        let rounds: Vec<Vec<_>> = encoded
            .rounds
            .iter()
            .map(|r| r.iter().map(|s| shown(&encoded, s).0[2].clone().unwrap()).collect())
            .collect();
        assert_eq!(rounds, [vec!["1", "2", "4"], vec!["3"]]);
        let units = layout.units(&encoded, &encoded.rounds[0], 10, 1000);
        let mut sizes: Vec<_> = units.iter().map(Vec::len).collect();
        sizes.sort();
        assert_eq!(sizes, [1, 2], "x alone, both of xy together");
        assert_eq!(layout.units(&encoded, &encoded.rounds[0], 1, 1000).len(), 3);
        assert_eq!(layout.units(&encoded, &encoded.rounds[0], 10, 1).len(), 3);
    }

    #[test]
    fn rows_of_one_key_and_time_become_one_that_keeps_what_the_later_leaves_out() {
        let all = rows(
            [
                &[Some("a"), None, Some("a"), Some("a")],
                &[Some("b"), Some("b"), Some("b"), Some("b")],
                &[Some("1"), Some("no key"), Some("2"), None],
                &[Some("w"), None, None, Some("later")],
            ],
            &[7, 7, 7, 7],
        );
        let encoded = layout(true).encode(&all);
        assert_eq!(encoded.rejected.len(), 1);
        assert_eq!((encoded.rejected[0].0, encoded.rounds.len()), (1, 1));
        let (cells, stands_for) = shown(&encoded, &encoded.rounds[0][0]);
        let expected = ["a", "b", "2", "later"].map(|text| Some(text.to_owned()));
        assert_eq!(cells, expected);
        assert_eq!(stands_for, [0, 2, 3]);
        // The store's own times tell them apart: one after the other.
        let encoded = layout(false).encode(&all);
        assert_eq!(encoded.rounds.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn conditions_of_one_partition_go_one_after_the_other_and_alone() {
        let rows = rows(
            [
                &[Some("a"), Some("a"), Some("b"), Some("a")],
                &[Some("1"), Some("2"), Some("1"), Some("1")],
                &[Some("v"); 4],
                &[None; 4],
            ],
            &[7; 4],
        );
        let serial = SerialConsistency::LocalSerial;
        let operation = Operation::InsertIfNotExists(serial);
        let layout = Layout { operation, ..layout(false) };
        let encoded = layout.encode(&rows);
        let of = |round: &Vec<Statement>| round.iter().flat_map(Statement::rows).collect();
        let rounds: Vec<Vec<u32>> = encoded.rounds.iter().map(of).collect();
        assert_eq!(rounds, [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(layout.units(&encoded, &encoded.rounds[0], 10, 1000), [[0], [1]]);
    }
}
