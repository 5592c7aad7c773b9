//! Reading Avro's primitives from a slice.
//!
//! Nothing here trusts a length: a count or a size is held against the bytes that are left before
//! anything is done with it.

/// How many calls deep a value may lead; what guards the stack, which cannot be caught.
pub(crate) const DEPTH_MAX: usize = 1024;

/// Array items that take no bytes (nulls, say) and defaults filled in: bytes cannot bound them.
const FREE_ITEMS_MAX: usize = 1 << 20;

/// Why a record cannot be decoded. Boxed: the way it is returned on is the hot one.
#[derive(Debug)]
pub(crate) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    reason: String,
    /// Field names from the inside out.
    path: Vec<String>,
}

impl Fault {
    #[cold]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { reason: reason.into(), path: Vec::new() }))
    }

    #[cold]
    pub fn within(mut self, name: &str) -> Self {
        self.0.path.push(name.to_owned());
        self
    }

    pub fn sentence(&self) -> String {
        if self.0.path.is_empty() {
            return self.0.reason.clone();
        }
        // A recursive value may be hundreds of names deep.
        let names: Vec<_> = self.0.path.iter().rev().take(12).map(String::as_str).collect();
        format!("field `{}`: {}", names.join("."), self.0.reason)
    }
}

#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    pub rest: &'a [u8],
    /// Whether text is checked to be UTF-8 value by value, not column by column.
    pub strict: bool,
    free_items: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], strict: bool) -> Self {
        Self { rest: bytes, strict, free_items: FREE_ITEMS_MAX }
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Fault> {
        let Some((&byte, rest)) = self.rest.split_first() else { return Err(ended()) };
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub fn boolean(&mut self) -> Result<bool, Fault> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Fault::new(format!("a boolean is the byte 0 or 1, this is {other}"))),
        }
    }

    #[inline]
    pub fn long(&mut self) -> Result<i64, Fault> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                let value = i64::from(*byte);
                Ok((value >> 1) ^ -(value & 1))
            }
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                let value = i64::from(*low & 0x7f) | i64::from(*high) << 7;
                Ok((value >> 1) ^ -(value & 1))
            }
            _ => {
                let (value, rest) = long_number(self.rest)?;
                self.rest = rest;
                Ok(value)
            }
        }
    }

    /// Steps over a number.
    #[inline]
    pub fn skip_long(&mut self) -> Result<(), Fault> {
        let Some(bytes) = self.rest.first_chunk() else { return self.long().map(drop) };
        // The first byte without the highest bit ends it; of ten, the last is at most 1.
        let ends = !u64::from_le_bytes(*bytes) & 0x8080_8080_8080_8080;
        match ends {
            0 => self.long().map(drop),
            ends => {
                self.rest = &self.rest[(ends.trailing_zeros() / 8 + 1) as usize..];
                Ok(())
            }
        }
    }

    #[inline]
    pub fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| wide(value))
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(short(len as u64, self.rest.len()));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else { return Err(ended()) };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let (rest, len) = self.run()?;
        Ok(&rest[..len])
    }

    /// Bytes with what follows them, and how many they are.
    #[inline]
    pub fn run(&mut self) -> Result<(&'a [u8], usize), Fault> {
        let len = self.long()?;
        let rest = self.rest;
        match usize::try_from(len) {
            Ok(len) if len <= rest.len() => {
                self.rest = &rest[len..];
                Ok((rest, len))
            }
            Ok(_) => Err(short(len as u64, rest.len())),
            Err(_) => Err(negative(len)),
        }
    }

    /// [`Self::run`] of text.
    #[inline]
    pub fn text(&mut self) -> Result<(&'a [u8], usize), Fault> {
        let (rest, len) = self.run()?;
        if self.strict {
            utf8(&rest[..len])?;
        }
        Ok((rest, len))
    }

    /// The index of a union's branch.
    #[inline]
    pub fn branch(&mut self, branches: usize) -> Result<usize, Fault> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < branches => Ok(index),
            _ => Err(Fault::new(format!("branch {index} of a union of {branches}"))),
        }
    }

    /// The index of an enum's symbol.
    #[inline]
    pub fn symbol(&mut self, symbols: usize) -> Result<usize, Fault> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < symbols => Ok(index),
            _ => Err(Fault::new(format!("symbol {index} of an enum of {symbols}"))),
        }
    }

    /// The number of items in the next block of an array or a map, and the block's size in bytes
    /// where it is told; no items end it. `item_bytes_min` is the least that an item takes.
    #[inline(always)]
    pub fn block(&mut self, item_bytes_min: usize) -> Result<(usize, Option<usize>), Fault> {
        let count = self.long()?;
        match usize::try_from(count) {
            Ok(0) => Ok((0, None)),
            Ok(items) if item_bytes_min > 0 && self.can_hold(items, item_bytes_min) => {
                Ok((items, None))
            }
            _ => self.other_block(count, item_bytes_min),
        }
    }

    #[inline(always)]
    fn can_hold(&self, items: usize, item_bytes_min: usize) -> bool {
        // A division would take longer than the items.
        items.saturating_mul(item_bytes_min) <= self.rest.len()
    }

    #[inline(never)]
    fn other_block(
        &mut self,
        count: i64,
        item_bytes_min: usize,
    ) -> Result<(usize, Option<usize>), Fault> {
        let mut size = None;
        if count < 0 {
            let told = self.long()?;
            let told = usize::try_from(told)
                .ok()
                .filter(|told| *told <= self.rest.len())
                .ok_or_else(|| Fault::new(format!("a block of {told} bytes")))?;
            size = Some(told);
        }
        let items = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        match item_bytes_min {
            0 => self.free(items)?,
            least if !self.can_hold(items, least) => {
                return Err(Fault::new(format!(
                    "{items} items are announced, which {} bytes cannot hold",
                    self.rest.len()
                )));
            }
            _ => {}
        }
        Ok((items, size))
    }

    /// Accounts for items that take no bytes of the input.
    pub fn free(&mut self, items: usize) -> Result<(), Fault> {
        match self.free_items.checked_sub(items) {
            Some(left) => {
                self.free_items = left;
                Ok(())
            }
            None => Err(Fault::new(format!(
                "more than {FREE_ITEMS_MAX} items that take no bytes in one record"
            ))),
        }
    }
}

/// A number of any length, and what follows it. Takes no cursor, so that one that nobody looks at
/// otherwise need not be in memory.
#[inline(never)]
fn long_number(bytes: &[u8]) -> Result<(i64, &[u8]), Fault> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            if at == 9 && byte > 1 {
                break;
            }
            return Ok(((value >> 1) as i64 ^ -((value & 1) as i64), &bytes[at + 1..]));
        }
    }
    match bytes.len() {
        0..10 => Err(ended()),
        _ => Err(Fault::new("a number is longer than 64 bits")),
    }
}

#[inline]
pub(crate) fn check_depth(depth: usize) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(format!("the value nests more than {DEPTH_MAX} levels deep")));
    }
    Ok(())
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        Fault::new(format!("the text is not UTF-8 at its byte {}", error.valid_up_to()))
    })
}

#[cold]
fn ended() -> Fault {
    Fault::new("the record ends too early")
}

#[cold]
fn wide(value: i64) -> Fault {
    Fault::new(format!("{value} is out of range for an int"))
}

#[cold]
fn negative(len: i64) -> Fault {
    Fault::new(format!("a length of {len} bytes"))
}

#[cold]
fn short(wanted: u64, left: usize) -> Fault {
    Fault::new(format!("{wanted} bytes are announced where {left} are left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_specification_writes_them() {
        let max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let min = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let cases: [(&[u8], i64); 7] = [
            (&[0], 0),
            (&[1], -1),
            (&[0x7f], -64),
            (&[0x80, 1], 64),
            (&[0xac, 2], 150),
            (&max, i64::MAX),
            (&min, i64::MIN),
        ];
        for (bytes, value) in cases {
            assert_eq!(Cursor::new(bytes, true).long().unwrap(), value);
            assert!(Cursor::new(&bytes[..bytes.len() - 1], true).long().is_err());
        }
        assert!(Cursor::new(&[0xff; 10], true).long().is_err());
        assert!(Cursor::new(&[0x80; 11], true).long().is_err());
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f], true).int().unwrap(), i32::MIN);
        assert!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x10], true).int().is_err());
    }
}
