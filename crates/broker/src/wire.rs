//! Requests out of frames, answers into them.
//!
//! ```text
//! length i32 │ key i16 │ version i16 │ correlation i32 │ client id │ (tagged fields) │ body
//! length i32 │ correlation i32 │ (tagged fields) │ body
//! ```

use crate::out::Piece;
use crate::shape::{self, Api, Malformed};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

/// The largest that an answer's first part is made for.
const ANSWER_BYTES: usize = 256;

/// A request whose body has been walked, not decoded.
#[derive(Debug, Clone)]
pub struct Request {
    pub api: &'static Api,
    pub version: i16,
    pub correlation: i32,
    pub client_id: StrBytes,
    pub body: Bytes,
}

/// An answer: the frame in pieces, so that records are not copied into it.
#[derive(Debug, Default, Clone)]
pub struct Answer(pub Vec<Piece>);

/// Why a frame is not a request; but for the first the connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// To be answered in version 0, which every client reads.
    #[error("version {version} of ApiVersions is not known")]
    ApiVersions { api: &'static Api, correlation: i32, version: i16 },
    #[error("the request has no header")]
    Header,
    #[error("requests of key {0} are not known")]
    Key(i16),
    #[error("version {version} of {name} is not known")]
    Version { name: &'static str, version: i16 },
    #[error("the {name} request of version {version} is malformed: {why}")]
    Malformed { name: &'static str, version: i16, why: Malformed },
    #[error("the {name} request of version {version} cannot be read: {why}")]
    Unreadable { name: &'static str, version: i16, why: String },
}

impl Request {
    pub fn read(mut frame: Bytes) -> Result<Request, Refused> {
        if frame.len() < 8 {
            return Err(Refused::Header);
        }
        let (key, version, correlation) = (frame.get_i16(), frame.get_i16(), frame.get_i32());
        let api = shape::of_key(key).ok_or(Refused::Key(key))?;
        if !api.knows(version) {
            // Produce is listed from version 0 for the sake of clients that look for it there.
            return Err(match api.key {
                18 => Refused::ApiVersions { api, correlation, version },
                _ => Refused::Version { name: api.name, version },
            });
        }
        let client_id = client_id(&mut frame).ok_or(Refused::Header)?;
        if api.is_flexible(version) {
            let mut rest = &frame[..];
            shape::skip_tags(&mut rest).map_err(|_| Refused::Header)?;
            let skipped = frame.len() - rest.len();
            frame.advance(skipped);
        }
        let checked = api.check(version, &frame);
        checked.map_err(|why| Refused::Malformed { name: api.name, version, why })?;
        Ok(Request { api, version, correlation, client_id, body: frame })
    }

    pub fn decode<Q: Decodable>(&self) -> Result<Q, Refused> {
        Q::decode(&mut self.body.clone(), self.version).map_err(|error| Refused::Unreadable {
            name: self.api.name,
            version: self.version,
            why: error.to_string(),
        })
    }

    /// What is asked, and the head, which is all that the answer needs.
    pub fn take<Q: Decodable>(self) -> Result<(Q, Request), Refused> {
        let decoded = self.decode()?;
        Ok((decoded, Request { body: Bytes::new(), ..self }))
    }

    pub fn answer<R: Encodable + HeaderVersion>(&self, response: &R) -> Answer {
        Answer::of(self.correlation, self.version, response)
    }
}

impl Answer {
    pub fn of<R: Encodable + HeaderVersion>(correlation: i32, version: i16, body: &R) -> Answer {
        let mut bytes = BytesMut::with_capacity(ANSWER_BYTES);
        bytes.put_i32(0);
        bytes.put_i32(correlation);
        if R::header_version(version) >= 1 {
            bytes.put_u8(0);
        }
        if let Err(error) = body.encode(&mut bytes, version) {
            // A field that this version does not have was set: ours to mend, and no reason to leave
            // the client waiting for the rest of a frame.
            tracing::error!(%error, version, "an answer could not be written");
            return Answer::default();
        }
        Answer::framed(vec![Piece::Bytes(bytes.freeze())])
    }

    /// Puts the length in front of pieces whose first four bytes are free for it.
    pub fn framed(mut pieces: Vec<Piece>) -> Answer {
        let len: usize = pieces.iter().map(Piece::len).sum();
        if let Some(Piece::Bytes(first)) = pieces.first_mut() {
            let mut head = BytesMut::from(std::mem::take(first));
            head[..4].copy_from_slice(&(len as u32 - 4).to_be_bytes());
            *first = head.freeze();
        }
        Answer(pieces)
    }
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn client_id(frame: &mut Bytes) -> Option<StrBytes> {
    match frame.try_get_i16().ok()? {
        -1 => Some(StrBytes::default()),
        len => {
            let len = usize::try_from(len).ok().filter(|len| *len <= frame.len())?;
            StrBytes::from_utf8(frame.split_to(len)).ok()
        }
    }
}
