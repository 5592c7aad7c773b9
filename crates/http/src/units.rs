//! What goes into one request: rows of a batch with one address, in their order.

use crate::request::Site;
use millstream_core::Encoded;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub place: Arc<(Site, String)>,
    pub rows: Vec<u32>,
}

/// Groups rows so that a request has at most so many, and so many bytes unless one row is longer.
pub(crate) fn units(
    rows: impl Iterator<Item = (u32, Arc<(Site, String)>)>,
    encoded: &Encoded,
    rows_max: usize,
    bytes_max: usize,
) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut open: HashMap<Arc<(Site, String)>, (usize, usize)> = HashMap::new();
    for (row, place) in rows {
        // The separator counts.
        let bytes = encoded.row(row as usize).len() + 1;
        match open.get_mut(&place) {
            Some((at, size)) if units[*at].rows.len() < rows_max && *size + bytes <= bytes_max => {
                units[*at].rows.push(row);
                *size += bytes;
            }
            _ => {
                open.insert(place.clone(), (units.len(), bytes));
                units.push(Unit { place, rows: vec![row] });
            }
        }
    }
    units
}

impl Unit {
    pub fn halves(mut self) -> (Unit, Unit) {
        let second = self.rows.split_off(self.rows.len() / 2);
        let other = Unit { place: self.place.clone(), rows: second };
        (self, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn requests_are_bounded_in_rows_and_bytes_and_keep_the_order_of_a_place() {
        let lengths = [4usize, 4, 4, 4, 30, 4];
        let ends: Vec<u32> = lengths
            .iter()
            .scan(0, |end, len| {
                *end += *len as u32;
                Some(*end)
            })
            .collect();
        let encoded = Encoded { buffer: Bytes::from(vec![0; 50]), ends, rejected: Vec::new() };
        let place = |url: &str| Arc::new(Site::of(url).unwrap());
        let (a, b) = (place("http://a/"), place("http://b/"));
        let rows = [&a, &b, &a, &a, &a, &a];
        let rows = rows.into_iter().enumerate().map(|(row, place)| (row as u32, place.clone()));
        let made = units(rows, &encoded, 2, 20);
        let made: Vec<_> = made.iter().map(|unit| unit.rows.as_slice()).collect();
        assert_eq!(made, [&[0, 2][..], &[1], &[3], &[4], &[5]]);
    }
}
