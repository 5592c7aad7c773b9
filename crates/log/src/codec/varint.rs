//! Zigzag varints as the records use them.

/// Bytes that `value` takes.
#[inline]
pub fn size(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// The value at `at`, which moves past it.
#[inline]
pub fn get(bytes: &[u8], at: &mut usize) -> Option<i64> {
    // Nearly all take one byte or two.
    match bytes.get(*at..)? {
        [low, ..] if *low < 0x80 => {
            *at += 1;
            return Some(unzigzag(u64::from(*low)));
        }
        [low, high, ..] if *high < 0x80 => {
            *at += 2;
            return Some(unzigzag(u64::from(low & 0x7f) | u64::from(*high) << 7));
        }
        _ => {}
    }
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(unzigzag(value));
        }
    }
    None
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_values_agree_at_every_width() {
        for bits in 0..64 {
            for value in
                [1i64 << bits, (1i64 << bits).wrapping_sub(1), (1i64 << bits).wrapping_neg()]
            {
                let mut out = Vec::new();
                let mut rest = ((value << 1) ^ (value >> 63)) as u64;
                while rest >= 0x80 {
                    out.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                out.push(rest as u8);
                assert_eq!(out.len(), size(value), "{value}");
                let mut at = 0;
                assert_eq!((get(&out, &mut at), at), (Some(value), out.len()));
            }
        }
        assert_eq!(get(&[0x80; 11], &mut 0), None);
    }
}
