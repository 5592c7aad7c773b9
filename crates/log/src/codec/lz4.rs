//! LZ4 frames: what a batch packed with LZ4 holds.
//!
//! ```text
//!  04 22 4d 18 | flags | block size | check | blocks … | 00 00 00 00
//!                                             each: length u32 (highest bit: as it is), bytes
//! ```
//!
//! The frames written have independent blocks of at most 64 KiB and no checksums, as Kafka's own
//! clients write them: the batch has one. A table of two-byte places, cleared for every block, stays in
//! the fastest cache, and every second place is tried, which is why the packing is done here: it takes
//! half the time of the library's frames, for 4 to 7 % more bytes. Source:
//! <https://github.com/lz4/lz4/tree/dev/doc>.

use super::body::Body;
use super::{BATCH_BYTES_MAX, Codec, Invalid};
use lz4_flex::block::{DecompressError, decompress_into, decompress_into_with_dict};
use std::cell::RefCell;

/// Magic, version 1 with independent blocks, blocks of 64 KiB, the check byte of these.
const HEAD: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const END: [u8; 4] = [0; 4];
const BLOCK_BYTES: usize = 64 << 10;
/// A block's length says with this bit that its bytes are not packed.
const AS_IT_IS: u32 = 1 << 31;
/// How far back a match may lie.
const WINDOW_BYTES: usize = 64 << 10;

const INDEPENDENT: u8 = 1 << 5;
const CONTENT_SIZE: u8 = 1 << 3;
/// Version 1, and nothing that needs more than the blocks to be read.
const PLAIN_MASK: u8 = !(INDEPENDENT | CONTENT_SIZE);
const PLAIN: u8 = 0x40;

const TABLE_BITS: u32 = 13;
type Table = [u16; 1 << TABLE_BITS];
const MATCH_MIN: usize = 4;
/// A match must leave this many bytes at the end of a block, and these loads must stay inside it.
const TAIL_BYTES: usize = 5;
const LAST_MATCH: usize = 37;
/// After a match the next place is tried, then every second one, after 8 of these every third …
/// A match that began at a place between is found to do so.
const PATIENCE: u32 = 3;
const TRIED_FIRST: usize = (2 << PATIENCE) - 1;
/// A copy of a short run of literals takes this many bytes, whatever their number.
const LITERALS: usize = 32;

/// What a thread keeps to pack in; a larger batch has its own.
const ROOM_BYTES: usize = 2 << 20;

thread_local! {
    /// Where a frame is packed, so that its room is not filled with zeros for each.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends a frame that holds `bytes`.
pub(super) fn pack(bytes: &[u8], out: &mut Vec<u8>) {
    in_room(bytes, 0, |frame| out.extend_from_slice(frame));
}

/// So many zeros and then a frame that holds `bytes`, in no more memory than they need. `None` when
/// the frame is not smaller than the bytes.
pub(super) fn packed_after(zeros: usize, bytes: &[u8]) -> Option<Vec<u8>> {
    in_room(bytes, zeros, |frame| (frame.len() < zeros + bytes.len()).then(|| frame.to_vec()))
}

fn in_room<R>(bytes: &[u8], zeros: usize, take: impl FnOnce(&[u8]) -> R) -> R {
    ROOM.with_borrow_mut(|room| {
        let need = zeros + frame_max(bytes.len());
        if room.len() < need {
            room.resize(need, 0);
        }
        room[..zeros].fill(0);
        room[zeros..][..HEAD.len()].copy_from_slice(&HEAD);
        let mut at = zeros + HEAD.len();
        for block in bytes.chunks(BLOCK_BYTES) {
            let (length, body) = room[at..].split_at_mut(4);
            let packed = pack_block(block, body);
            let (as_it_is, len) = match packed < block.len() {
                true => (0, packed),
                false => {
                    body[..block.len()].copy_from_slice(block);
                    (AS_IT_IS, block.len())
                }
            };
            length.copy_from_slice(&(len as u32 | as_it_is).to_le_bytes());
            at += 4 + len;
        }
        room[at..][..END.len()].copy_from_slice(&END);
        let taken = take(&room[..at + END.len()]);
        if room.len() > ROOM_BYTES {
            *room = Vec::new();
        }
        taken
    })
}

const fn frame_max(len: usize) -> usize {
    let blocks = len.div_ceil(BLOCK_BYTES);
    HEAD.len() + len + len / 255 + blocks * (4 + packed_max(0)) + END.len()
}

/// Room for a block that does not get smaller, and for a copy that goes beyond its end.
const fn packed_max(len: usize) -> usize {
    len + len / 255 + 16 + LITERALS
}

/// Packs a block of at most 64 KiB and gives the packed bytes.
fn pack_block(block: &[u8], out: &mut [u8]) -> usize {
    let mut writer = Writer { out, at: 0 };
    if block.len() <= LAST_MATCH {
        writer.literals_to_end(block);
        return writer.at;
    }
    // A place that was never set is the block's first byte, which is as good a guess as any.
    let mut table: Table = [0; 1 << TABLE_BITS];
    let last = block.len() - LAST_MATCH;
    let (mut literals, mut at) = (0, 1);
    'block: loop {
        let mut tried = TRIED_FIRST;
        let candidate = loop {
            if at > last {
                break 'block;
            }
            let bytes = load8(block, at);
            let slot = &mut table[slot_of(bytes)];
            let candidate = usize::from(*slot);
            *slot = at as u16;
            if load4(block, candidate) == bytes as u32 {
                break candidate;
            }
            at += tried >> PATIENCE;
            tried += 1;
        };
        let distance = at - candidate;
        let end = match_end(block, at + MATCH_MIN, distance);
        let start = at - equal_before(block, at, candidate).min(at - literals);
        writer.sequence(block, literals, start, distance, end);
        (literals, at) = (end, end);
    }
    writer.literals_to_end(&block[literals..]);
    writer.at
}

/// Six bytes decide about the slot: matches of four and five cost more time than they save bytes.
#[inline(always)]
fn slot_of(bytes: u64) -> usize {
    ((bytes << 16).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - TABLE_BITS)) as usize
}

/// How many of the eight bytes before both places are equal.
#[inline(always)]
fn equal_before(block: &[u8], at: usize, candidate: usize) -> usize {
    if candidate < 8 {
        return 0;
    }
    let different = load8(block, at - 8) ^ load8(block, candidate - 8);
    (different.leading_zeros() / 8) as usize
}

/// Where what began at `at` and at `distance` before it stops to be equal.
#[inline(always)]
fn match_end(block: &[u8], mut at: usize, distance: usize) -> usize {
    let different = load16(block, at) ^ load16(block, at - distance);
    if different != 0 {
        return at + (different.trailing_zeros() / 8) as usize;
    }
    at += 16;
    let end = block.len() - TAIL_BYTES;
    while at + 8 <= end {
        let different = load8(block, at) ^ load8(block, at - distance);
        if different != 0 {
            return at + (different.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < end && block[at] == block[at - distance] {
        at += 1;
    }
    at
}

/// What is written of a block.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// The literals `from..start` and a match that goes to `end`.
    #[inline(always)]
    fn sequence(&mut self, block: &[u8], from: usize, start: usize, distance: usize, end: usize) {
        let (literals, more) = (start - from, end - start - MATCH_MIN);
        self.byte(token(literals, more));
        if literals >= 15 {
            self.length(literals - 15);
        }
        if literals <= LITERALS {
            let room = &mut self.out[self.at..][..LITERALS];
            room.copy_from_slice(&block[from..][..LITERALS]);
            self.at += literals;
        } else {
            self.bytes(&block[from..start]);
        }
        self.bytes(&(distance as u16).to_le_bytes());
        if more >= 15 {
            self.length(more - 15);
        }
    }

    fn literals_to_end(&mut self, literals: &[u8]) {
        self.byte(token(literals.len(), 0));
        if literals.len() >= 15 {
            self.length(literals.len() - 15);
        }
        self.bytes(literals);
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.out[self.at] = byte;
        self.at += 1;
    }

    #[inline(always)]
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn length(&mut self, mut left: usize) {
        while left >= 255 {
            self.byte(255);
            left -= 255;
        }
        self.byte(left as u8);
    }
}

#[inline(always)]
fn token(literals: usize, more: usize) -> u8 {
    (literals.min(15) << 4 | more.min(15)) as u8
}

#[inline(always)]
fn load<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("matches are looked for away from the block's end")
}

#[inline(always)]
fn load4(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(load(bytes, at))
}

#[inline(always)]
fn load8(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(load(bytes, at))
}

#[inline(always)]
fn load16(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(load(bytes, at))
}

/// Appends what a frame holds, at most [`BATCH_BYTES_MAX`]. What stands after the frame is not
/// looked at.
pub(super) fn unpack(bytes: &[u8], out: &mut Body) -> Result<(), Invalid> {
    let Some((head, mut rest)) = bytes.split_first_chunk::<7>() else {
        return Err(failed("it is cut short"));
    };
    let (flags, sizes) = (head[4], head[5] >> 4);
    if head[..4] != HEAD[..4] || flags & PLAIN_MASK != PLAIN || !(4..=7).contains(&sizes) {
        // With checksums, a dictionary, or of the format before: rare, and read with less haste.
        let mut unpacked = Vec::new();
        Codec::Lz4.drain(lz4_flex::frame::FrameDecoder::new(bytes), &mut unpacked)?;
        out.extend_from_slice(&unpacked);
        return Ok(());
    }
    let block_max = 256 << (2 * sizes);
    let start = out.len();
    if flags & CONTENT_SIZE != 0 {
        // The check byte comes after the size.
        rest = rest.get(8..).ok_or_else(|| failed("it is cut short"))?;
    }
    out.reserve(room_for(rest, block_max));
    // A frame without its end is taken, as other readers do.
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            return Ok(());
        }
        let len = (length & !AS_IT_IS) as usize;
        if len > block_max {
            return Err(failed(format!("a block of {len} bytes, more than the frame allows")));
        }
        let (block, tail) =
            tail.split_at_checked(len).ok_or_else(|| failed("a block is cut short"))?;
        if length & AS_IT_IS != 0 {
            out.extend_from_slice(block);
        } else {
            let linked = (flags & INDEPENDENT == 0).then_some(start);
            unpack_block(block, block_max, linked, out)?;
        }
        if out.len() - start > BATCH_BYTES_MAX {
            return Err(Invalid::TooLarge);
        }
        rest = tail;
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(failed("it is cut short")),
    }
}

/// What the blocks will need: all but the last are full, mostly.
fn room_for(mut rest: &[u8], block_max: usize) -> usize {
    let mut room = 0usize;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let len = (u32::from_le_bytes(*length) & !AS_IT_IS) as usize;
        let Some(tail) = tail.get(len..).filter(|_| len > 0) else { break };
        room = room.saturating_add(first_room(len, block_max));
        rest = tail;
    }
    room.min(BATCH_BYTES_MAX)
}

/// A frame that allows large blocks mostly has small ones.
fn first_room(len: usize, block_max: usize) -> usize {
    block_max.min((len * 4).max(BLOCK_BYTES))
}

/// Appends a block. A linked one refers to those before it, which begin at the place given.
fn unpack_block(
    block: &[u8],
    block_max: usize,
    linked: Option<usize>,
    out: &mut Body,
) -> Result<(), Invalid> {
    let at = out.len();
    let mut room = first_room(block.len(), block_max);
    loop {
        let (before, own) = out.split(room);
        let unpacked = match linked {
            Some(start) if at > start => {
                let window = &before[start.max(at.saturating_sub(WINDOW_BYTES))..];
                decompress_into_with_dict(block, own, window)
            }
            _ => decompress_into(block, own),
        };
        match unpacked {
            Ok(len) => {
                out.advance(len);
                return Ok(());
            }
            Err(DecompressError::OutputTooSmall { .. }) if room < block_max => {
                room = block_max.min(room * 4);
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

fn failed(what: impl std::fmt::Display) -> Invalid {
    Codec::Lz4.failed(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        pack(bytes, &mut out);
        out.split_off(6)
    }

    fn unpacked(frame: &[u8]) -> Result<Vec<u8>, Invalid> {
        // Room that was used before, and something that is to stay.
        let mut out = Body::with_room(100);
        out.split(300).1.fill(7);
        out.extend_from_slice(b"before");
        unpack(frame, &mut out)?;
        let bytes = out.into_bytes();
        assert_eq!(bytes[..6], *b"before");
        Ok(bytes[6..].to_vec())
    }

    fn by_the_library(frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FrameDecoder::new(frame).read_to_end(&mut out).unwrap();
        out
    }

    /// A block ends with at least five literals and no match begins in its last twelve bytes: the
    /// format's own decoder refuses others, the library's does not.
    fn check_end(block: &[u8]) {
        let (mut at, mut written, mut last_match) = (0, 0, None);
        let number = |at: &mut usize, first: u8| {
            let mut sum = usize::from(first);
            let mut more = first == 15;
            while more {
                sum += usize::from(block[*at]);
                more = block[*at] == 255;
                *at += 1;
            }
            sum
        };
        loop {
            let token = block[at];
            at += 1;
            let literals = number(&mut at, token >> 4);
            at += literals;
            written += literals;
            if at == block.len() {
                assert!(last_match.is_none() || literals >= 5, "{literals} literals at the end");
                assert!(last_match.is_none_or(|last| written - last >= 12), "a late match");
                return;
            }
            at += 2;
            last_match = Some(written);
            written += number(&mut at, token & 15) + MATCH_MIN;
        }
    }

    fn check(bytes: &[u8]) {
        let frame = packed(bytes);
        let mut rest = &frame[HEAD.len()..frame.len() - END.len()];
        while let Some((length, tail)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length);
            let (block, tail) = tail.split_at((length & !AS_IT_IS) as usize);
            if length & AS_IT_IS == 0 {
                check_end(block);
            }
            rest = tail;
        }
        assert!(by_the_library(&frame) == bytes, "{} bytes", bytes.len());
        assert!(unpacked(&frame).unwrap() == bytes, "{} bytes", bytes.len());
    }

    /// Words of a small vocabulary, numbers, and now and then a long run of one byte.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut out = Vec::with_capacity(len + 300);
        while out.len() < len {
            match random(12) {
                0 => out.extend(std::iter::repeat_n(b'=', random(300) as usize)),
                1..4 => out.extend_from_slice(random(1 << 40).to_string().as_bytes()),
                4 => out.extend((0..random(40)).map(|_| random(256) as u8)),
                word => out.extend_from_slice(format!("\"word-{word}\":").as_bytes()),
            }
        }
        out.truncate(len);
        out
    }

    #[test]
    fn every_length_around_the_edges_comes_back() {
        let all = text(7, 4 * BLOCK_BYTES + 100);
        for len in (0..200)
            .chain([BLOCK_BYTES, 2 * BLOCK_BYTES].into_iter().flat_map(|at| at - 50..at + 50))
        {
            check(&all[..len]);
            check(&vec![b'x'; len]);
        }
        check(&all);
        assert!(packed(&all).len() < all.len() / 2);
    }

    #[test]
    fn what_cannot_be_packed_stays_as_it_is() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as u8
            })
            .collect();
        check(&noise);
        assert!(packed(&noise).len() <= noise.len() + HEAD.len() + 4 * 4 + END.len());
    }

    #[test]
    fn frames_of_every_kind_are_read() {
        let bytes = text(3, 700_000);
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in
                [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB]
            {
                for (sums, told) in [(false, false), (false, true), (true, true)] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(sums)
                        .content_checksum(sums)
                        .content_size(told.then_some(bytes.len() as u64));
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(&bytes).unwrap();
                    let frame = encoder.finish().unwrap();
                    assert!(unpacked(&frame).unwrap() == bytes, "{mode:?} {size:?} {sums} {told}");
                    assert!(unpacked(&frame[..frame.len() / 2]).is_err(), "{mode:?} {size:?}");
                }
            }
        }
    }

    #[test]
    fn a_frame_that_allows_large_blocks_is_given_the_room_it_needs() {
        let bytes = vec![7; 3 << 20];
        let info = FrameInfo::new().block_size(BlockSize::Max4MB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&bytes).unwrap();
        let frame = encoder.finish().unwrap();
        assert!(unpacked(&frame).unwrap() == bytes);
    }

    #[test]
    fn frames_that_unpack_to_too_much_are_refused() {
        let mut block = vec![0; packed_max(BLOCK_BYTES)];
        let len = pack_block(&[0; BLOCK_BYTES], &mut block);
        let mut frame = HEAD.to_vec();
        for _ in 0..=BATCH_BYTES_MAX / BLOCK_BYTES {
            frame.extend_from_slice(&(len as u32).to_le_bytes());
            frame.extend_from_slice(&block[..len]);
        }
        frame.extend_from_slice(&END);
        assert_eq!(unpacked(&frame), Err(Invalid::TooLarge));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_packed_is_unpacked_by_the_library_too(seed: u64, len in 0usize..150_000) {
            check(&text(seed, len));
        }

        #[test]
        fn bytes_of_few_kinds_come_back(bytes in prop::collection::vec(0u8..3, 0..3_000)) {
            check(&bytes);
        }

        #[test]
        fn damage_is_an_answer(seed: u64, len in 100usize..20_000, at: prop::sample::Index, to: u8) {
            let mut frame = packed(&text(seed, len));
            let at = at.index(frame.len());
            frame[at] = to;
            drop(unpacked(&frame));
            drop(unpacked(&frame[..at]));
        }
    }
}
