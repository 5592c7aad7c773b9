//! The wire format: tags, varints, runs, as the
//! [encoding guide](https://protobuf.dev/programming-guides/encoding/) gives them.

/// What was wrong, and in which field.
#[derive(Debug)]
pub(super) struct Fault {
    path: String,
    reason: String,
}

/// The value after a tag.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

pub(super) struct Cursor<'a> {
    pub rest: &'a [u8],
}

impl Fault {
    #[cold]
    pub fn new(reason: impl Into<String>) -> Fault {
        Fault { path: String::new(), reason: reason.into() }
    }

    #[cold]
    pub fn within(mut self, name: &str) -> Fault {
        self.path = match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{name}.{}", self.path),
        };
        self
    }

    pub fn sentence(&self) -> String {
        match self.path.is_empty() {
            true => self.reason.clone(),
            false => format!("field `{}`: {}", self.path, self.reason),
        }
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    /// The next field's number and value; none at the end.
    #[inline]
    pub fn field(&mut self) -> Result<Option<(u32, Raw<'a>)>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| Fault::new(format!("{} numbers no field", tag >> 3)))?;
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                Raw::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            3 | 4 => return Err(Fault::new("it has a group, which is not supported")),
            other => return Err(Fault::new(format!("there is no wire type {other}"))),
        };
        Ok(Some((number, raw)))
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Fault> {
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if at == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(match self.rest.len() {
            0..10 => ended(),
            _ => Fault::new("a varint is over 64 bits"),
        })
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(ended)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(ended)?;
        self.rest = rest;
        Ok(*taken)
    }
}

impl Raw<'_> {
    pub fn word(&self) -> &'static str {
        match self {
            Raw::Varint(_) => "a varint",
            Raw::Fixed64(_) => "64 fixed bits",
            Raw::Bytes(_) => "a run of bytes",
            Raw::Fixed32(_) => "32 fixed bits",
        }
    }
}

pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::new("its text is not UTF-8"))
}

#[cold]
fn ended() -> Fault {
    Fault::new("the bytes end in the middle of a value")
}
