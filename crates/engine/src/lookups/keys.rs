//! A key as the cache has it: the columns of one row as comparable bytes.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::DataType;
use millstream_core::{Error, Result};
use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Keys up to this many bytes are kept in place.
const IN_PLACE: usize = 22;

/// A key's bytes. Short ones stand in place, so that comparing them reads no other memory.
#[derive(Debug, Clone)]
pub enum Key {
    Short(u8, [u8; IN_PLACE]),
    Long(Box<[u8]>),
}

impl Key {
    pub fn new(bytes: &[u8]) -> Self {
        let mut short = [0; IN_PLACE];
        match short.get_mut(..bytes.len()) {
            Some(start) => {
                start.copy_from_slice(bytes);
                Key::Short(bytes.len() as u8, short)
            }
            None => Key::Long(bytes.into()),
        }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Key::Short(len, bytes) => &bytes[..usize::from(*len)],
            Key::Long(bytes) => bytes,
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Key::Short(len, _) => usize::from(*len),
            Key::Long(bytes) => bytes.len(),
        }
    }

    /// What it has in memory beside itself.
    pub fn apart(&self) -> usize {
        match self {
            Key::Short(..) => 0,
            Key::Long(bytes) => bytes.len(),
        }
    }
}

impl Borrow<[u8]> for Key {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // What is beyond the end is zero: all of it is compared at once.
            (Key::Short(len, bytes), Key::Short(others, other)) => len == others && bytes == other,
            _ => self.bytes() == other.bytes(),
        }
    }
}

impl Eq for Key {}

pub fn converter(key_types: &[DataType]) -> Result<RowConverter> {
    let fields = key_types.iter().map(|t| SortField::new(t.clone())).collect();
    RowConverter::new(fields)
        .map_err(|e| Error::stop("lookup_key", "a key of this type cannot be looked up").because(e))
}

pub fn convert(converter: &RowConverter, keys: &RecordBatch) -> Result<Rows> {
    converter
        .convert_columns(keys.columns())
        .map_err(|e| Error::stop("lookup_key", "encoding a key").because(e))
}

/// Some keys of a batch, in the order given.
pub fn pick(keys: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    if rows.len() == keys.num_rows() {
        return Ok(keys.clone());
    }
    arrow_select::take::take_record_batch(keys, &UInt32Array::from(rows.to_vec()))
        .map_err(|e| Error::stop("lookup_key", "picking keys").because(e))
}
