//! The rows of a batch in COPY's binary form, from which the arrays of an INSERT are made too.
//!
//! ```text
//!  i16 fields │ i32 4, i32 row, where rows are numbered │ (i32 length, bytes) a column
//! ```

use crate::plan::Plan;
use crate::write::{NULL, array, cell};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use std::ops::Range;

/// What COPY's binary form begins with: its name, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

pub(crate) struct Encoded {
    /// The rows of the batch that can be sent, in order.
    pub rows: Vec<u32>,
    /// Those that cannot.
    pub rejected: Vec<(u32, String)>,
    bytes: Bytes,
    /// Where each cell begins; after the last of a row stands the row's end.
    cells: Vec<usize>,
    width: usize,
}

/// Encodes these rows of a batch.
pub(crate) fn encode(plan: &Plan, batch: &RecordBatch, wanted: &[u32]) -> Encoded {
    let width = plan.columns.len();
    let numbered = plan.is_numbered();
    let mut bytes = Vec::with_capacity(wanted.len() * (2 + width * 12));
    let mut cells = Vec::with_capacity(wanted.len() * (width + 2));
    let mut encoded = Encoded {
        rows: Vec::with_capacity(wanted.len()),
        rejected: Vec::new(),
        bytes: Bytes::new(),
        cells: Vec::new(),
        width,
    };
    'rows: for row in wanted {
        let (start, known) = (bytes.len(), cells.len());
        let mut refuse = |why: String, bytes: &mut Vec<u8>, cells: &mut Vec<usize>| {
            encoded.rejected.push((*row, why));
            bytes.truncate(start);
            cells.truncate(known);
        };
        cells.push(start);
        let fields = width + usize::from(numbered);
        bytes.extend_from_slice(&(fields as u16).to_be_bytes());
        if numbered {
            bytes.extend_from_slice(&4_i32.to_be_bytes());
            bytes.extend_from_slice(&row.to_be_bytes());
        }
        for (at, column) in plan.columns.iter().enumerate() {
            cells.push(bytes.len());
            let values = batch.column(column.from);
            if plan.key.contains(&at) && values.is_null(*row as usize) {
                let why = format!("column `{}` of the key is null", column.to);
                refuse(why, &mut bytes, &mut cells);
                continue 'rows;
            }
            if let Err(why) = cell(&column.writer, values, *row as usize, &mut bytes) {
                refuse(format!("column `{}`: {why}", column.to), &mut bytes, &mut cells);
                continue 'rows;
            }
        }
        cells.push(bytes.len());
        encoded.rows.push(*row);
    }
    encoded.bytes = bytes.into();
    encoded.cells = cells;
    encoded
}

impl Encoded {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where the parts of a row begin: the row itself, its cells, its end.
    fn marks(&self, at: usize) -> &[usize] {
        let each = self.width + 2;
        &self.cells[at * each..(at + 1) * each]
    }

    fn cell(&self, at: usize, column: usize) -> Range<usize> {
        let marks = self.marks(at);
        marks[column + 1]..marks[column + 2]
    }

    pub fn is_null(&self, at: usize, column: usize) -> bool {
        self.bytes[self.cell(at, column)] == NULL
    }

    /// Some of the rows as the whole text of a COPY.
    pub fn copy(&self, part: &[u32]) -> Vec<Bytes> {
        let body = match part.len() == self.rows.len() {
            true => self.bytes.clone(),
            false => {
                let mut body = Vec::new();
                for at in part {
                    let marks = self.marks(*at as usize);
                    body.extend_from_slice(&self.bytes[marks[0]..marks[self.width + 1]]);
                }
                body.into()
            }
        };
        vec![Bytes::from_static(HEADER), body, Bytes::from_static(TRAILER)]
    }

    /// The cells of some of the rows, an array a column.
    pub fn arrays(&self, plan: &Plan, part: &[u32]) -> Result<Vec<Vec<u8>>, String> {
        let columns = plan.columns.iter().enumerate().map(|(column, bound)| {
            let nulls = part.iter().any(|at| self.is_null(*at as usize, column));
            let mut out = Vec::new();
            array(bound.oid, part.len(), i32::from(nulls), &mut out)?;
            for at in part {
                out.extend_from_slice(&self.bytes[self.cell(*at as usize, column)]);
            }
            Ok(out)
        });
        columns.collect()
    }
}
