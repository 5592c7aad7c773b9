//! The frames of CQL's binary protocol, version 4, as far as telling requests apart needs them.
//!
//! ```text
//! version │ flags │ stream (2) │ opcode │ length (4) │ body
//! ```

use std::collections::HashMap;

pub(super) const HEADER_BYTES: usize = 9;
/// What Cassandra takes.
const BODY_BYTES_MAX: usize = 256 << 20;

const VERSION: u8 = 4;
const ANSWER: u8 = 0x80;

const COMPRESSED: u8 = 1;
const TRACED: u8 = 2;
const PAYLOAD: u8 = 4;
const WARNINGS: u8 = 8;

pub(super) const ERROR: u8 = 0;
const QUERY: u8 = 7;
const RESULT: u8 = 8;
const PREPARE: u8 = 9;
const EXECUTE: u8 = 10;
const BATCH: u8 = 13;

/// The kind of a result that says the id of what was prepared.
const PREPARED: i32 = 4;

/// What a request wants. A batch is of the kind of its first statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Select,
    Insert,
    Update,
    Delete,
    Prepare,
    /// Everything else: opening connections, other statements, what is compressed.
    Other,
}

impl Asked {
    pub(super) const COUNT: usize = 6;

    /// What a statement in CQL is.
    fn by(statement: &[u8]) -> Asked {
        let word = statement.trim_ascii_start();
        let is = |verb: &str| {
            word.get(..verb.len()).is_some_and(|w| w.eq_ignore_ascii_case(verb.as_bytes()))
        };
        match () {
            () if is("SELECT ") => Asked::Select,
            () if is("INSERT ") => Asked::Insert,
            () if is("UPDATE ") => Asked::Update,
            () if is("DELETE ") => Asked::Delete,
            () => Asked::Other,
        }
    }
}

/// The stream cannot be read as frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameError(&'static str);

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FrameError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    version: u8,
    flags: u8,
    pub stream: i16,
    opcode: u8,
    /// Bytes of the body.
    pub length: usize,
}

impl Header {
    /// None while the header is not whole.
    pub fn read(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [version, flags, s0, s1, opcode, l0, l1, l2, l3] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > BODY_BYTES_MAX {
            return Err(FrameError("a frame is longer than Cassandra takes"));
        }
        let stream = i16::from_be_bytes([s0, s1]);
        Ok(Some(Header { version, flags, stream, opcode, length }))
    }

    /// Later versions have frames inside of others, which cannot be read here.
    pub fn is_request(&self) -> Result<(), FrameError> {
        match self.version {
            ..=VERSION => Ok(()),
            ANSWER.. => Err(FrameError("the driver sends an answer")),
            _ => Err(FrameError("the driver speaks a later version than 4 of the protocol")),
        }
    }
}

/// The frame of an answer.
pub(super) fn answer(stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    let head = [VERSION | ANSWER, 0];
    let length = (body.len() as u32).to_be_bytes();
    [&head[..], &stream.to_be_bytes(), &[opcode], &length, body].concat()
}

/// What the prepared statements of a node are.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<Vec<u8>, Asked>);

impl Names {
    /// What a request asks, and where it prepares a statement, what that one is.
    pub fn asked(&self, header: &Header, body: &[u8]) -> (Asked, Option<Asked>) {
        let prepare = header.opcode == PREPARE;
        if header.flags & COMPRESSED != 0 {
            return (if prepare { Asked::Prepare } else { Asked::Other }, None);
        }
        let mut body = Bytes(body);
        if header.flags & PAYLOAD != 0 && body.skip_payload().is_none() {
            return (Asked::Other, None);
        }
        let statement = |body: &mut Bytes<'_>| body.long_string().map(Asked::by);
        let known = |body: &mut Bytes<'_>| {
            let id = body.short_bytes()?;
            self.0.get(id).copied()
        };
        let asked = match header.opcode {
            PREPARE => return (Asked::Prepare, statement(&mut body)),
            QUERY => statement(&mut body),
            EXECUTE => known(&mut body),
            BATCH => {
                // Its type, how many statements there are, and whether the first has an id.
                match body.take(4) {
                    Some([_, _, _, 0]) => statement(&mut body),
                    Some(_) => known(&mut body),
                    None => None,
                }
            }
            _ => None,
        };
        (asked.unwrap_or(Asked::Other), None)
    }

    /// Learns the id that the node gave to a statement.
    pub fn prepared(&mut self, header: &Header, body: &[u8], asked: Asked) {
        let id = || {
            if header.opcode != RESULT || header.flags & COMPRESSED != 0 {
                return None;
            }
            let mut body = Bytes(body);
            if header.flags & TRACED != 0 {
                body.take(16)?;
            }
            if header.flags & WARNINGS != 0 {
                body.skip_strings()?;
            }
            if header.flags & PAYLOAD != 0 {
                body.skip_payload()?;
            }
            (body.int()? == PREPARED).then(|| body.short_bytes())?
        };
        if let Some(id) = id() {
            self.0.insert(id.to_vec(), asked);
        }
    }
}

/// The protocol's notations; None where the bytes end too early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<usize> {
        let bytes = self.take(2)?;
        Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long_string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.int()?).ok()?;
        self.take(length)
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length)
    }

    fn skip_strings(&mut self) -> Option<()> {
        for _ in 0..self.short()? {
            self.short_bytes()?;
        }
        Some(())
    }

    /// A map from strings to bytes, which may be null.
    fn skip_payload(&mut self) -> Option<()> {
        for _ in 0..self.short()? {
            self.short_bytes()?;
            if let Ok(length) = usize::try_from(self.int()?) {
                self.take(length)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![VERSION, flags, 0, 7, opcode];
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    fn long(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn short(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn asked(names: &Names, frame: &[u8]) -> (Asked, Option<Asked>) {
        let header = Header::read(frame).unwrap().unwrap();
        assert_eq!((header.length, header.stream), (frame.len() - HEADER_BYTES, 7));
        names.asked(&header, &frame[HEADER_BYTES..])
    }

    #[test]
    fn a_statement_is_told_by_its_verb() {
        let names = Names::default();
        for (statement, kind) in [
            ("SELECT a FROM b", Asked::Select),
            ("  insert INTO b (a) VALUES (1)", Asked::Insert),
            ("Update b SET a = 1", Asked::Update),
            ("DELETE FROM b", Asked::Delete),
            ("SELECTED", Asked::Other),
            ("CREATE TABLE insert", Asked::Other),
            ("", Asked::Other),
        ] {
            assert_eq!(asked(&names, &frame(QUERY, 0, &long(statement))), (kind, None));
            let prepare = asked(&names, &frame(PREPARE, 0, &long(statement)));
            assert_eq!(prepare, (Asked::Prepare, Some(kind)));
        }
    }

    #[test]
    fn an_execution_is_told_by_the_id_that_was_prepared() {
        let mut names = Names::default();
        let execute = |id: &[u8]| frame(EXECUTE, 0, &[short(id), vec![0, 1, 0]].concat());
        assert_eq!(asked(&names, &execute(b"one")).0, Asked::Other, "nobody prepared it");

        let plain = [&PREPARED.to_be_bytes()[..], &short(b"one")].concat();
        let header = Header::read(&frame(RESULT, 0, &plain)).unwrap().unwrap();
        names.prepared(&header, &plain, Asked::Select);
        // What may stand before the result.
        let all = TRACED | WARNINGS | PAYLOAD;
        let warned = [&[0, 2][..], &short(b"careful"), &short(b"slow")].concat();
        let payload =
            [&[0, 2][..], &short(b"k"), &long("value"), &short(b"n"), &[0xff; 4]].concat();
        let full =
            [&[9; 16][..], &warned, &payload, &PREPARED.to_be_bytes(), &short(b"two")].concat();
        let header = Header::read(&frame(RESULT, all, &full)).unwrap().unwrap();
        names.prepared(&header, &full, Asked::Insert);

        assert_eq!(asked(&names, &execute(b"one")).0, Asked::Select);
        assert_eq!(asked(&names, &execute(b"two")).0, Asked::Insert);
        let batch = |first: Vec<u8>| frame(BATCH, 0, &[vec![1, 0, 2], first].concat());
        assert_eq!(asked(&names, &batch([vec![1], short(b"two")].concat())).0, Asked::Insert);
        assert_eq!(
            asked(&names, &batch([vec![0], long("DELETE FROM b")].concat())).0,
            Asked::Delete
        );
    }

    #[test]
    fn what_cannot_be_read_is_of_no_kind_and_no_panic() {
        let mut names = Names::default();
        let query = frame(QUERY, COMPRESSED, &long("SELECT 1"));
        assert_eq!(asked(&names, &query).0, Asked::Other);
        let whole = frame(
            QUERY,
            PAYLOAD,
            &[&[0, 1][..], &short(b"k"), &long("v"), &long("SELECT 1")].concat(),
        );
        for end in HEADER_BYTES..whole.len() {
            let header = Header::read(&whole).unwrap().unwrap();
            assert_eq!(names.asked(&header, &whole[HEADER_BYTES..end]).0, Asked::Other, "{end}");
        }
        assert_eq!(asked(&names, &whole).0, Asked::Select);
        for opcode in [QUERY, PREPARE, EXECUTE, BATCH, RESULT, 200] {
            for body in [&[][..], &[0xff; 3], &[0xff; 40], &[0x7f; 40]] {
                let frame = frame(opcode, 0, body);
                let header = Header::read(&frame).unwrap().unwrap();
                names.asked(&header, body);
                names.prepared(&header, body, Asked::Select);
            }
        }
        assert_eq!(Header::read(&whole[..HEADER_BYTES - 1]), Ok(None));
        assert!(Header::read(&[4, 0, 0, 0, 7, 0xff, 0, 0, 0]).is_err());
        let later = Header::read(&[5, 0, 0, 0, 5, 0, 0, 0, 0]).unwrap().unwrap();
        assert!(later.is_request().is_err());
    }
}
