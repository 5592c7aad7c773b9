//! The frames of CQL's fourth version that these connections send and receive.

use bytes::Buf;
use scylla::statement::Consistency;

pub const HEADER: usize = 9;
/// What no answer to a write has.
const LENGTH_MAX: usize = 16 << 20;

const REQUEST: u8 = 0x04;
const ANSWER: u8 = 0x84;

const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const AUTHENTICATE: u8 = 0x03;
const RESULT: u8 = 0x08;
const EXECUTE: u8 = 0x0a;
const BATCH: u8 = 0x0d;
const AUTH_RESPONSE: u8 = 0x0f;
const AUTH_SUCCESS: u8 = 0x10;

/// Codes of errors.
pub const UNAVAILABLE: i32 = 0x1000;
pub const OVERLOADED: i32 = 0x1001;
pub const WRITE_TIMEOUT: i32 = 0x1100;

/// In a BATCH: what it is, and what each of it is.
const UNLOGGED: u8 = 1;
const PREPARED: u8 = 1;
/// In an EXECUTE or a BATCH: there are values, and a time of the write.
const WITH_VALUES: u8 = 0x01;
const WITH_TIMESTAMP: u8 = 0x20;

/// The other end does not speak as it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbled(pub &'static str);

#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub stream: i16,
    pub flags: u8,
    pub opcode: u8,
    pub length: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Ready,
    Authenticate,
    LoggedIn,
    Result,
    /// A code, and words for it.
    Error(i32, String),
}

impl Head {
    /// None until enough bytes are there.
    pub fn read(mut bytes: &[u8]) -> Result<Option<Head>, Garbled> {
        if bytes.len() < HEADER {
            return Ok(None);
        }
        if bytes.get_u8() != ANSWER {
            return Err(Garbled("it is no answer of CQL 4"));
        }
        let (flags, stream, opcode) = (bytes.get_u8(), bytes.get_i16(), bytes.get_u8());
        let length = bytes.get_u32() as usize;
        if length > LENGTH_MAX {
            return Err(Garbled("an answer is too long"));
        }
        Ok(Some(Head { stream, flags, opcode, length }))
    }

    /// What the answer with this body says.
    pub fn said(&self, body: &[u8]) -> Result<Said, Garbled> {
        Ok(match self.opcode {
            READY => Said::Ready,
            AUTHENTICATE => Said::Authenticate,
            AUTH_SUCCESS => Said::LoggedIn,
            RESULT => Said::Result,
            // Warnings and the like stand before what it says.
            ERROR if self.flags != 0 => Said::Error(0, String::new()),
            ERROR => {
                let (code, words) = body.split_at_checked(4).ok_or(Garbled("an error is cut"))?;
                let words = words.get(2..).unwrap_or_default();
                let code = i32::from_be_bytes(code.try_into().unwrap_or_default());
                // What some errors have after their words is binary.
                let length = body.get(4..6).map_or(0, |mut length| length.get_u16());
                let words = words.get(..usize::from(length)).unwrap_or_default();
                Said::Error(code, String::from_utf8_lossy(words).into_owned())
            }
            _ => return Err(Garbled("an answer is of an unknown kind")),
        })
    }
}

pub fn startup(out: &mut Vec<u8>) {
    let options = [
        ("CQL_VERSION", "3.0.0"),
        ("DRIVER_NAME", "millstream"),
        ("DRIVER_VERSION", env!("CARGO_PKG_VERSION")),
    ];
    frame(out, 0, STARTUP, |out| {
        out.extend_from_slice(&(options.len() as u16).to_be_bytes());
        for text in options.into_iter().flat_map(|(name, value)| [name, value]) {
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    });
}

pub fn auth_response(out: &mut Vec<u8>, token: &[u8]) {
    frame(out, 0, AUTH_RESPONSE, |out| {
        out.extend_from_slice(&(token.len() as u32).to_be_bytes());
        out.extend_from_slice(token);
    });
}

/// A prepared statement, and how it is executed.
pub(crate) struct Statement<'a> {
    pub id: &'a [u8],
    pub consistency: Consistency,
    pub timestamp: i64,
    /// How many values it has.
    pub markers: usize,
}

impl Statement<'_> {
    /// Once, with the values that are appended as they are on the wire.
    pub fn execute(&self, out: &mut Vec<u8>, stream: i16, values: impl FnOnce(&mut Vec<u8>)) {
        frame(out, stream, EXECUTE, |out| {
            self.put_id(out);
            out.extend_from_slice(&(self.consistency as u16).to_be_bytes());
            out.push(WITH_VALUES | WITH_TIMESTAMP);
            self.put_values(out, values);
            out.extend_from_slice(&self.timestamp.to_be_bytes());
        });
    }

    /// So many times in one request.
    pub fn batch(
        &self,
        out: &mut Vec<u8>,
        stream: i16,
        count: usize,
        values: impl Fn(usize, &mut Vec<u8>),
    ) {
        frame(out, stream, BATCH, |out| {
            out.push(UNLOGGED);
            out.extend_from_slice(&(count as u16).to_be_bytes());
            for at in 0..count {
                out.push(PREPARED);
                self.put_id(out);
                self.put_values(out, |out| values(at, out));
            }
            out.extend_from_slice(&(self.consistency as u16).to_be_bytes());
            out.push(WITH_TIMESTAMP);
            out.extend_from_slice(&self.timestamp.to_be_bytes());
        });
    }

    fn put_id(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.id.len() as u16).to_be_bytes());
        out.extend_from_slice(self.id);
    }

    fn put_values(&self, out: &mut Vec<u8>, values: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(&(self.markers as u16).to_be_bytes());
        values(out);
    }
}

fn frame(out: &mut Vec<u8>, stream: i16, opcode: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let [high, low] = stream.to_be_bytes();
    out.extend_from_slice(&[REQUEST, 0, high, low, opcode, 0, 0, 0, 0]);
    let start = out.len();
    body(out);
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_as_the_protocol_says() {
        let consistency = Consistency::LocalQuorum;
        let statement = Statement { id: b"id", consistency, timestamp: 7, markers: 2 };
        let values = [0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xfe];
        let mut out = Vec::new();
        statement.execute(&mut out, 0x0102, |out| out.extend_from_slice(&values));
        let head = [0x04, 0, 1, 2, 0x0a, 0, 0, 0, 26];
        let asked = [0, 2, b'i', b'd', 0, 6, 0x21, 0, 2];
        let stamp = [0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(out, [&head[..], &asked, &values, &stamp].concat());

        out.clear();
        statement.batch(&mut out, 3, 2, |at, out| {
            out.extend_from_slice(&values[..8]);
            out.push(at as u8);
        });
        let head = [0x04, 0, 0, 3, 0x0d, 0, 0, 0, 46, 1, 0, 2];
        let one = |last| [&[1, 0, 2, b'i', b'd', 0, 2][..], &values[..8], &[last]].concat();
        let expected = [&head[..], &one(0), &one(1), &[0, 6, 0x20], &stamp].concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn answers_are_read_or_refused() {
        let head =
            |opcode, length: u32| [&[0x84, 0, 0, 9, opcode][..], &length.to_be_bytes()].concat();
        assert_eq!(Head::read(&head(RESULT, 4)[..8]), Ok(None));
        let read = Head::read(&head(RESULT, 4)).unwrap().unwrap();
        assert_eq!((read.stream, read.length), (9, 4));
        assert_eq!(read.said(&[0, 0, 0, 1]), Ok(Said::Result));
        let error = Head::read(&head(ERROR, 0)).unwrap().unwrap();
        let body = [&[0, 0, 0x10, 1, 0, 4][..], b"busy", &[9, 9]].concat();
        assert_eq!(error.said(&body), Ok(Said::Error(OVERLOADED, "busy".into())));
        for cut in 0..body.len() {
            let said = error.said(&body[..cut]);
            assert_eq!(said.is_err(), cut < 4, "{said:?}");
        }
        assert!(Head::read(&head(RESULT, u32::MAX)).is_err());
        assert!(Head::read(&[4; HEADER]).is_err());
        assert!(Head { opcode: 0x55, ..read }.said(&[]).is_err());
    }
}
