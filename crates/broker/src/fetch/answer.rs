//! The answer to a fetch, written here and not by the library, so that the batches are pieces of
//! the frame instead of a copy in it.

use super::{Given, Name, Wanted};
use crate::out::Piece;
use crate::wire::{Answer, Request};
use bytes::{BufMut, BytesMut};

/// The head of an answer: what goes before the partitions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head {
    pub error: i16,
    pub session: i32,
}

/// The partitions that an answer tells of, in their order.
pub fn encode(request: &Request, head: Head, told: &[(&Wanted, Given)]) -> Answer {
    let version = request.version;
    let flexible = version >= 12;
    let mut pieces = Vec::new();
    let mut out = BytesMut::with_capacity(64 + 64 * told.len());
    out.put_i32(0);
    out.put_i32(request.correlation);
    if flexible {
        out.put_u8(0);
    }
    out.put_i32(0);
    if version >= 7 {
        out.put_i16(head.error);
        out.put_i32(head.session);
    }
    // Neighbours of one topic share its name.
    let topics = || told.chunk_by(|a, b| a.0.topic == b.0.topic);
    put_len(&mut out, topics().count(), flexible);
    for partitions in topics() {
        put_topic(&mut out, &partitions[0].0.topic, version);
        put_len(&mut out, partitions.len(), flexible);
        for (wanted, given) in partitions {
            put_partition(&mut out, &mut pieces, wanted.index, given, version);
        }
        if flexible {
            out.put_u8(0);
        }
    }
    if flexible {
        out.put_u8(0);
    }
    pieces.push(Piece::Bytes(out.freeze()));
    Answer::framed(pieces)
}

fn put_topic(out: &mut BytesMut, topic: &Name, version: i16) {
    match version {
        13.. => out.put_slice(topic.id.as_bytes()),
        12 => {
            put_len(out, topic.name.len(), true);
            out.put_slice(topic.name.as_bytes());
        }
        _ => {
            out.put_i16(topic.name.len() as i16);
            out.put_slice(topic.name.as_bytes());
        }
    }
}

fn put_partition(
    out: &mut BytesMut,
    pieces: &mut Vec<Piece>,
    index: i32,
    given: &Given,
    version: i16,
) {
    let flexible = version >= 12;
    out.put_i32(index);
    out.put_i16(given.error);
    out.put_i64(given.high_watermark);
    // Without transactions, all that is there is stable.
    out.put_i64(given.high_watermark);
    if version >= 5 {
        out.put_i64(given.start);
    }
    put_len(out, 0, flexible);
    if version >= 11 {
        out.put_i32(-1);
    }
    put_len(out, given.records.len(), flexible);
    if !given.records.is_empty() {
        pieces.push(Piece::Bytes(out.split().freeze()));
        pieces.push(given.records.clone());
    }
    if flexible {
        out.put_u8(0);
    }
}

/// The length of an array or of bytes.
fn put_len(out: &mut BytesMut, len: usize, flexible: bool) {
    if !flexible {
        return out.put_i32(len as i32);
    }
    let mut rest = len as u32 + 1;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}
