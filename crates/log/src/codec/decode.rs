//! Batches into records, without copying those that are not packed.

use super::{BATCH_BYTES_MAX, Body, Codec, HEADER_BYTES, Header, Invalid, varint};
use bytes::Bytes;
use millstream_core::{Records, RecordsBuilder};
use std::ops::Range;

/// The records of whole batches that stood one after the other.
#[derive(Debug)]
pub struct Decoded {
    pub builder: RecordsBuilder,
    /// Bytes of the batches that were taken.
    pub consumed: usize,
    /// The offset after the last batch taken.
    pub next: i64,
}

/// The batch that could not be decoded, as bytes from the start of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub at: usize,
    pub offset: i64,
    pub why: Invalid,
}

struct Part {
    header: Header,
    /// The whole batch in the raw bytes.
    at: usize,
    /// Its records, unpacked, in the buffer that the records point into.
    records: Range<usize>,
}

/// Decodes the batches that are whole in `raw`, the first of which has the base offset `expected`,
/// leaving out records below `from`. Stops before `unpacked_max` bytes are exceeded by more than
/// one batch.
///
/// A bad batch after a good one is left for the next call; a first one that is not whole gives
/// nothing consumed and no error.
pub fn decode(
    raw: Vec<u8>,
    expected: i64,
    from: i64,
    unpacked_max: usize,
) -> Result<Decoded, Failed> {
    let mut parts = find(&raw, expected)?;
    let (buffer, broken) = unpack(raw, &mut parts, unpacked_max)?;
    // A broken batch after good ones is met again, alone, by the next call.
    parts.truncate(broken);
    let mut take = parts.len();
    loop {
        let mut builder = RecordsBuilder::over(buffer.clone());
        let (mut consumed, mut next) = (0, expected);
        let mut failed = None;
        for (at, part) in parts[..take].iter().enumerate() {
            let header = &part.header;
            let records = &buffer[part.records.clone()];
            let done = each_record(header, records, |record| {
                if record.offset >= from && !header.is_control() {
                    let shift = |(at, len): (usize, usize)| (at + part.records.start, len);
                    builder.push_at(
                        record.offset,
                        record.timestamp,
                        record.key.map(shift),
                        record.value.map(shift),
                        shift(record.headers),
                    );
                }
            });
            if let Err(why) = done {
                failed = Some((at, why));
                break;
            }
            consumed = part.at + header.bytes;
            next = header.next_offset();
        }
        match failed {
            None => return Ok(Decoded { builder, consumed, next }),
            Some((0, why)) => return Err(Failed { at: 0, offset: expected, why }),
            Some((at, _)) => take = at,
        }
    }
}

/// All records of whole batches; for tools and tests.
pub fn records_of(raw: Vec<u8>, expected: i64) -> Result<Records, Failed> {
    let len = raw.len();
    let decoded = decode(raw, expected, i64::MIN, usize::MAX)?;
    if decoded.consumed < len {
        let why = Invalid::Trailing(len - decoded.consumed);
        return Err(Failed { at: decoded.consumed, offset: decoded.next, why });
    }
    Ok(decoded.builder.finish(decoded.next))
}

/// The headers of the batches that are whole in `raw`, each with where it begins, their checksums
/// and places checked.
pub fn batches(raw: &[u8], expected: i64) -> Result<Vec<(usize, Header)>, Failed> {
    Ok(find(raw, expected)?.into_iter().map(|part| (part.at, part.header)).collect())
}

fn find(raw: &[u8], mut expected: i64) -> Result<Vec<Part>, Failed> {
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    while raw.len() - at >= HEADER_BYTES {
        let rest = &raw[at..];
        let header = match Header::read_at(rest, expected) {
            Ok(header) if header.bytes > rest.len() => break,
            Ok(header) => header.check(rest).map(|()| header),
            Err(why) => Err(why),
        };
        match header {
            Ok(header) => {
                let records = at + HEADER_BYTES..at + header.bytes;
                parts.push(Part { header, at, records });
                at += header.bytes;
                expected = header.next_offset();
            }
            Err(_) if !parts.is_empty() => break,
            Err(why) => return Err(Failed { at, offset: expected, why }),
        }
    }
    Ok(parts)
}

/// Gives the buffer that holds all records unpacked, and the index of the first part that could not
/// be, or that no longer had room.
fn unpack(raw: Vec<u8>, parts: &mut [Part], unpacked_max: usize) -> Result<(Bytes, usize), Failed> {
    let codecs: Result<Vec<Codec>, _> = parts.iter().map(|part| part.header.codec()).collect();
    if codecs.is_ok_and(|codecs| codecs.iter().all(|codec| *codec == Codec::None)) {
        return Ok((Bytes::from(raw), parts.len()));
    }
    let mut body = Body::with_room(raw.len().saturating_mul(3).min(unpacked_max));
    for (at, part) in parts.iter_mut().enumerate() {
        if at > 0 && body.len() >= unpacked_max {
            return Ok((body.into_bytes(), at));
        }
        let start = body.len();
        let packed = &raw[part.records.clone()];
        let done = part.header.codec().and_then(|codec| body.unpack(codec, packed));
        match done {
            Ok(()) => part.records = start..body.len(),
            Err(why) if at == 0 => {
                return Err(Failed { at: part.at, offset: part.header.base_offset, why });
            }
            Err(_) => {
                body.truncate(start);
                return Ok((body.into_bytes(), at));
            }
        }
    }
    let whole = parts.len();
    Ok((body.into_bytes(), whole))
}

/// One record, its parts as start and length in the bytes given.
struct Raw {
    offset: i64,
    timestamp: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: (usize, usize),
}

/// Checks the records of a batch to the last byte.
pub(crate) fn check_records(header: &Header, batch: &[u8]) -> Result<(), Invalid> {
    let packed = &batch[HEADER_BYTES..header.bytes];
    match header.codec()? {
        Codec::None => each_record(header, packed, |_| ()),
        codec => {
            let mut body = Body::with_room(packed.len().saturating_mul(3));
            body.unpack(codec, packed)?;
            each_record(header, &body.into_bytes(), |_| ())
        }
    }
}

#[inline]
fn each_record(header: &Header, bytes: &[u8], mut found: impl FnMut(Raw)) -> Result<(), Invalid> {
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(Invalid::TooLarge);
    }
    let mut at = 0;
    for index in 0..header.records {
        let record = record(header, index, bytes, &mut at).ok_or(Invalid::Record(index))?;
        found(record);
    }
    match bytes.len() - at {
        0 => Ok(()),
        left => Err(Invalid::Trailing(left)),
    }
}

#[inline]
fn record(header: &Header, index: u32, bytes: &[u8], at: &mut usize) -> Option<Raw> {
    let len = usize::try_from(varint::get(bytes, at)?).ok()?;
    let end = at.checked_add(len).filter(|end| *end <= bytes.len())?;
    let bytes = &bytes[..end];
    // The record's own attributes are unused.
    bytes.get(*at)?;
    *at += 1;
    let time_delta = varint::get(bytes, at)?;
    if varint::get(bytes, at)? != i64::from(index) {
        return None;
    }
    let key = part(bytes, at)?;
    let value = part(bytes, at)?;
    let headers = (*at, end - *at);
    // At least the number of headers is there.
    if headers.1 == 0 {
        return None;
    }
    *at = end;
    Some(Raw {
        offset: header.base_offset.wrapping_add(i64::from(index)),
        timestamp: match header.is_append_time() {
            true => header.max_time,
            false => header.base_time.wrapping_add(time_delta),
        },
        key,
        value,
        headers,
    })
}

/// `Some(None)` is a null part, `None` is damage.
#[inline]
fn part(bytes: &[u8], at: &mut usize) -> Option<Option<(usize, usize)>> {
    let len = varint::get(bytes, at)?;
    if len < 0 {
        return (len == -1).then_some(None);
    }
    let len = usize::try_from(len).ok()?;
    let start = *at;
    let end = start.checked_add(len).filter(|end| *end <= bytes.len())?;
    *at = end;
    Some(Some((start, len)))
}
