//! The requests that are understood, and the shape of each: a walk over a request that trusts no
//! length in it.
//!
//! The decoder of requests makes room for as many elements as an array says it has. It is given a
//! request only after the walk has seen that the elements are there, and that they are not too many.
//!
//! A shape is read from left to right: `b h i l u` are integers of 1, 2, 4, 8 and 16 bytes, `s` and
//! `y` text and bytes, `[…]` an array of structures, `<x>` an array of x, `(…)` a structure that may
//! be missing. `3+:` and `0-7:` say which versions have what follows.

use bytes::Buf;

/// Elements of arrays and tagged fields that one request may have.
const ELEMENTS_MAX: u32 = 100_000;

/// One kind of request.
#[derive(Debug)]
pub struct Api {
    pub key: i16,
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// The first version with compact lengths and tagged fields.
    pub flexible: i16,
    /// Whether clients are told that it is there.
    pub listed: bool,
    shape: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("a length in it is negative or does not fit")]
    Length,
    #[error("it has more than {ELEMENTS_MAX} elements")]
    Elements,
    #[error("it has a field that only brokers send")]
    Replica,
}

const FETCH: i16 = 1;
const NEVER: i16 = i16::MAX;

const fn api(
    key: i16,
    name: &'static str,
    versions: (i16, i16),
    flexible: i16,
    shape: &'static str,
) -> Api {
    Api { key, name, min: versions.0, max: versions.1, flexible, listed: true, shape }
}

/// One that is answered with an error.
const fn refused(
    key: i16,
    name: &'static str,
    versions: (i16, i16),
    flexible: i16,
    shape: &'static str,
) -> Api {
    Api { listed: false, ..api(key, name, versions, flexible, shape) }
}

/// By key.
pub const APIS: &[Api] = &[
    api(0, "Produce", (3, 13), 9, "s h i [0-12:s 13+:u [i y]]"),
    api(
        1,
        "Fetch",
        (4, 17),
        12,
        "0-14:i i i i b 7+:i 7+:i [0-12:s 13+:u [i 9+:i l 12+:i 5+:l i]] 7+:[0-12:s 13+:u <i>] 11+:s",
    ),
    api(2, "ListOffsets", (1, 10), 6, "i 2+:b [s [i 4+:i l]] 10+:i"),
    api(3, "Metadata", (0, 13), 9, "[10+:u s] 4+:b 8-10:b 8+:b"),
    api(8, "OffsetCommit", (2, 9), 8, "s i s 7+:s 0-4:l [s [i l 6+:i s]]"),
    api(9, "OffsetFetch", (1, 9), 6, "0-7:s 0-7:[s <i>] 8+:[s 9+:s 9+:i [s <i>]] 7+:b"),
    api(10, "FindCoordinator", (0, 6), 3, "0-3:s 1+:b 4+:<s>"),
    api(11, "JoinGroup", (0, 9), 6, "s i 1+:i s 5+:s s [s y] 8+:s"),
    api(12, "Heartbeat", (0, 4), 4, "s i s 3+:s"),
    api(13, "LeaveGroup", (0, 5), 4, "s 0-2:s 3+:[s s 5+:s]"),
    api(14, "SyncGroup", (0, 5), 4, "s i s 3+:s 5+:s 5+:s [s y]"),
    api(15, "DescribeGroups", (0, 6), 5, "<s> 3+:b"),
    api(16, "ListGroups", (0, 5), 3, "4+:<s> 5+:<s>"),
    api(17, "SaslHandshake", (0, 1), NEVER, "s"),
    api(18, "ApiVersions", (0, 4), 3, "3+:s 3+:s"),
    api(19, "CreateTopics", (2, 7), 5, "[s i h [i <i>] [s s]] i b"),
    api(20, "DeleteTopics", (1, 6), 4, "6+:[s u] 0-5:<s> i"),
    api(21, "DeleteRecords", (0, 2), 2, "[s [i l]] i"),
    api(22, "InitProducerId", (0, 5), 2, "s i 3+:l 3+:h"),
    api(23, "OffsetForLeaderEpoch", (2, 4), 4, "3+:i [s [i i i]]"),
    refused(
        24,
        "AddPartitionsToTxn",
        (0, 5),
        3,
        "0-3:s 0-3:l 0-3:h 0-3:[s <i>] 4+:[s l h b [s <i>]]",
    ),
    refused(25, "AddOffsetsToTxn", (0, 4), 3, "s l h s"),
    refused(26, "EndTxn", (0, 5), 3, "s l h b"),
    refused(28, "TxnOffsetCommit", (0, 5), 3, "s s l h 3+:i 3+:s 3+:s [s [i l 2+:i s]]"),
    api(29, "DescribeAcls", (1, 3), 2, "b s b s s b b"),
    api(30, "CreateAcls", (1, 3), 2, "[b s b s s b b]"),
    api(31, "DeleteAcls", (1, 3), 2, "[b s b s s b b]"),
    api(32, "DescribeConfigs", (1, 4), 4, "[b s <s>] b 3+:b"),
    api(33, "AlterConfigs", (0, 2), 2, "[b s [s s]] b"),
    api(36, "SaslAuthenticate", (0, 2), 2, "y"),
    api(37, "CreatePartitions", (0, 3), 2, "[s i [<i>]] i b"),
    api(42, "DeleteGroups", (0, 2), 2, "<s>"),
    api(44, "IncrementalAlterConfigs", (0, 1), 1, "[b s [s b s]] b"),
    api(47, "OffsetDelete", (0, 0), NEVER, "s [s [i]]"),
    api(60, "DescribeCluster", (0, 2), 0, "b 1+:b 2+:b"),
    api(68, "ConsumerGroupHeartbeat", (0, 1), 0, "s s i s s i <s> 1+:s s [u <i>]"),
    api(69, "ConsumerGroupDescribe", (0, 1), 0, "<s> b"),
    api(75, "DescribeTopicPartitions", (0, 0), 0, "[s] i (s i)"),
];

pub fn of_key(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

impl Api {
    pub fn knows(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }

    /// Walks the body of a request of a version that is known. Answers with the bytes that follow
    /// it, which nobody looks at.
    pub fn check(&self, version: i16, body: &[u8]) -> Result<usize, Malformed> {
        let flexible = self.is_flexible(version);
        let replica = self.key == FETCH;
        let mut walk = Walk { rest: body, version, flexible, replica, elements: 0 };
        walk.structure(self.shape)?;
        Ok(walk.rest.len())
    }
}

/// Reads the tagged fields that end a header.
pub fn skip_tags(bytes: &mut &[u8]) -> Result<(), Malformed> {
    let mut walk = Walk { rest: bytes, version: 0, flexible: true, replica: false, elements: 0 };
    walk.tags()?;
    *bytes = walk.rest;
    Ok(())
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    /// Tags 0 and 1 are fields, which the decoder would read without asking their length.
    replica: bool,
    elements: u32,
}

impl Walk<'_> {
    fn structure(&mut self, shape: &str) -> Result<(), Malformed> {
        let mut rest = shape;
        while let Some((item, tail)) = next(rest) {
            rest = tail;
            let (since, until, item) = versions(item);
            if (since..=until).contains(&self.version) {
                self.item(item)?;
            }
        }
        if self.flexible { self.tags() } else { Ok(()) }
    }

    fn item(&mut self, item: &str) -> Result<(), Malformed> {
        let inner = || item.get(1..item.len() - 1).unwrap_or_default();
        match item.as_bytes().first() {
            Some(b'b') => self.skip(1),
            Some(b'h') => self.skip(2),
            Some(b'i') => self.skip(4),
            Some(b'l') => self.skip(8),
            Some(b'u') => self.skip(16),
            Some(b's') => {
                let len = if self.flexible { self.compact()? } else { self.short()? };
                self.skip(len.unwrap_or(0))
            }
            Some(b'y') => {
                let len = self.count()?;
                self.skip(len.unwrap_or(0))
            }
            Some(b'[') => {
                for _ in 0..self.count()?.unwrap_or(0) {
                    self.element()?;
                    self.structure(inner())?;
                }
                Ok(())
            }
            Some(b'<') => {
                for _ in 0..self.count()?.unwrap_or(0) {
                    self.element()?;
                    self.item(inner())?;
                }
                Ok(())
            }
            Some(b'(') => match self.rest.try_get_i8().map_err(|_| Malformed::Short)? {
                -1 => Ok(()),
                _ => self.structure(inner()),
            },
            _ => unreachable!("shapes are made of the letters above"),
        }
    }

    fn tags(&mut self) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            self.element()?;
            if self.varint()? < 2 && self.replica {
                return Err(Malformed::Replica);
            }
            let len = self.varint()?;
            self.skip(len as usize)?;
        }
        Ok(())
    }

    fn element(&mut self) -> Result<(), Malformed> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX { Err(Malformed::Elements) } else { Ok(()) }
    }

    fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        self.rest = self.rest.get(len..).ok_or(Malformed::Short)?;
        Ok(())
    }

    /// The length of bytes or of an array; `None` is null.
    fn count(&mut self) -> Result<Option<usize>, Malformed> {
        if self.flexible {
            return self.compact();
        }
        match self.rest.try_get_i32().map_err(|_| Malformed::Short)? {
            -1 => Ok(None),
            len => usize::try_from(len).map(Some).map_err(|_| Malformed::Length),
        }
    }

    fn short(&mut self) -> Result<Option<usize>, Malformed> {
        match self.rest.try_get_i16().map_err(|_| Malformed::Short)? {
            -1 => Ok(None),
            len => usize::try_from(len).map(Some).map_err(|_| Malformed::Length),
        }
    }

    fn compact(&mut self) -> Result<Option<usize>, Malformed> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.rest.try_get_u8().map_err(|_| Malformed::Short)?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Length)
    }
}

/// The first item of a shape and what follows it.
fn next(shape: &str) -> Option<(&str, &str)> {
    let shape = shape.trim_start();
    let mut depth = 0;
    for (at, c) in shape.char_indices() {
        match c {
            '[' | '<' | '(' => depth += 1,
            ']' | '>' | ')' => depth -= 1,
            ' ' if depth == 0 => return Some((&shape[..at], &shape[at..])),
            _ => {}
        }
    }
    (!shape.is_empty()).then_some((shape, ""))
}

/// Which versions have an item, and the item.
fn versions(item: &str) -> (i16, i16, &str) {
    let split = item.split_once(':').filter(|(head, _)| {
        head.bytes().all(|byte| byte.is_ascii_digit() || byte == b'+' || byte == b'-')
    });
    let Some((head, item)) = split else { return (0, i16::MAX, item) };
    let number = |text: &str| text.parse().unwrap_or(i16::MAX);
    match head.split_once('-') {
        Some((since, until)) => (number(since), number(until), item),
        None => (number(head.trim_end_matches('+')), i16::MAX, item),
    }
}
