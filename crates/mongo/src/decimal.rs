//! Decimal128 as its sixteen bytes: IEEE 754-2008, binary integer coefficient, little endian.

use mongodb::bson::Decimal128;

const BIAS: i32 = 6176;
/// 34 digits.
const COEFFICIENT_MAX: u128 = 9_999_999_999_999_999_999_999_999_999_999_999;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decimal {
    Finite { negative: bool, coefficient: u128, exponent: i32 },
    Infinite,
    Nan,
}

impl Decimal {
    pub fn of(value: Decimal128) -> Decimal {
        let bits = u128::from_le_bytes(value.bytes());
        let negative = bits >> 127 == 1;
        let combination = (bits >> 122) & 0b11111;
        if combination == 0b11111 {
            return Decimal::Nan;
        }
        if combination == 0b11110 {
            return Decimal::Infinite;
        }
        // The other form is for coefficients beyond 34 digits, which count as zero.
        let (raw, coefficient) = match combination >> 3 == 0b11 {
            true => ((bits >> 111) & 0x3fff, 0),
            false => ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1)),
        };
        let coefficient = if coefficient > COEFFICIENT_MAX { 0 } else { coefficient };
        Decimal::Finite { negative, coefficient, exponent: raw as i32 - BIAS }
    }

    /// The number times ten to the `scale`, when that is whole and has at most `precision` digits.
    pub fn scaled(self, precision: u8, scale: i8) -> Option<i128> {
        let Decimal::Finite { negative, mut coefficient, exponent } = self else { return None };
        if coefficient == 0 {
            return Some(0);
        }
        let mut shift = exponent + i32::from(scale);
        while shift < 0 {
            if !coefficient.is_multiple_of(10) {
                return None;
            }
            coefficient /= 10;
            shift += 1;
        }
        let factor = 10_u128.checked_pow(u32::try_from(shift).ok()?)?;
        let scaled = coefficient.checked_mul(factor)?;
        if scaled >= 10_u128.checked_pow(precision.into())? {
            return None;
        }
        let scaled = i128::try_from(scaled).ok()?;
        Some(if negative { -scaled } else { scaled })
    }

    /// The whole number that this is, if it is one of 64 bits.
    pub fn whole(self) -> Option<i64> {
        i64::try_from(self.scaled(38, 0)?).ok()
    }
}

/// A number of `scale` digits after the point.
pub(crate) fn encode(value: i128, scale: i8) -> Result<[u8; 16], String> {
    let mut coefficient = value.unsigned_abs();
    let mut exponent = -i32::from(scale);
    while coefficient > COEFFICIENT_MAX {
        if !coefficient.is_multiple_of(10) {
            return Err("the number has more than the 34 digits of a Decimal128".into());
        }
        coefficient /= 10;
        exponent += 1;
    }
    let sign = u128::from(value < 0) << 127;
    let raw = u128::from((exponent + BIAS).cast_unsigned());
    Ok((sign | raw << 113 | coefficient).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        let (most, scale) = (COEFFICIENT_MAX.cast_signed(), 0);
        for (value, scale, text) in [
            (0, 0, "0"),
            (12_340, 2, "123.40"),
            (-5, 3, "-0.005"),
            (most, scale, "9999999999999999999999999999999999"),
            (i128::from(i64::MIN), 0, "-9223372036854775808"),
            (10_i128.pow(37), 0, "1000000000000000000000000000000000E+4"),
        ] {
            let stored = Decimal128::from_bytes(encode(value, scale).unwrap());
            let same: Decimal128 = text.parse().unwrap();
            assert_eq!(Decimal::of(stored).scaled(38, scale), Some(value), "{text}");
            assert_eq!(Decimal::of(same).scaled(38, scale), Some(value), "{text}");
        }
        assert!(encode(most + 2, 0).is_err());
    }

    #[test]
    fn only_what_is_exact_becomes_a_number() {
        let of = |text: &str| Decimal::of(text.parse().unwrap());
        assert_eq!(of("1.20").scaled(5, 1), Some(12));
        assert_eq!(of("1.25").scaled(5, 1), None);
        assert_eq!(of("1E+3").scaled(4, 0), Some(1000));
        assert_eq!(of("1E+4").scaled(4, 0), None);
        assert_eq!(of("1E+6000").scaled(38, 0), None);
        assert_eq!(of("0E-6000").scaled(1, 0), Some(0));
        assert_eq!((of("NaN"), of("-Infinity")), (Decimal::Nan, Decimal::Infinite));
        assert_eq!(of("-9223372036854775808").whole(), Some(i64::MIN));
        assert_eq!(of("9223372036854775808").whole(), None);
    }
}
