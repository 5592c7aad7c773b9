//! `now()`, `current_date`, `random()` and `uuid()`.
//!
//! None of them is evaluated as a function: the planner puts a hidden column in its place, which is
//! filled once for each stage and batch. So a batch that is evaluated again in parts sees the same
//! values, and all rows of a batch see one time.

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, Date32Array, Float64Array, TimestampMillisecondArray};
use arrow_schema::{DataType, TimeUnit};
use datafusion_common::{DataFusionError, Result};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Now,
    Today,
    Random,
    Uuid,
}

const KINDS: [Kind; 4] = [Kind::Now, Kind::Today, Kind::Random, Kind::Uuid];

impl Kind {
    pub fn by_name(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Now => "now",
            Kind::Today => "current_date",
            Kind::Random => "random",
            Kind::Uuid => "uuid",
        }
    }

    pub fn data_type(self) -> DataType {
        match self {
            Kind::Now => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Kind::Today => DataType::Date32,
            Kind::Random => DataType::Float64,
            Kind::Uuid => DataType::Utf8,
        }
    }

    /// The hidden column's values. `now` is in milliseconds since 1970.
    pub fn fill(self, rows: usize, now: i64, dice: &Dice) -> ArrayRef {
        match self {
            Kind::Now => {
                let column = TimestampMillisecondArray::from_value(now, rows);
                Arc::new(column.with_timezone("UTC"))
            }
            Kind::Today => {
                let day = now.div_euclid(86_400_000);
                Arc::new(Date32Array::from_value(day as i32, rows))
            }
            Kind::Random => {
                let draw = |_| (dice.roll() >> 11) as f64 / (1u64 << 53) as f64;
                Arc::new(Float64Array::from_iter_values((0..rows).map(draw)))
            }
            Kind::Uuid => {
                let mut out = StringBuilder::with_capacity(rows, rows * 36);
                for _ in 0..rows {
                    out.append_value(uuid(dice));
                }
                Arc::new(out.finish())
            }
        }
    }
}

/// Version 4 of RFC 9562.
fn uuid(dice: &Dice) -> String {
    let high = dice.roll() & !0xf000 | 0x4000;
    let low = dice.roll() & (u64::MAX >> 2) | 1 << 63;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// Random numbers: SipHash of a counter under a key of 128 bits that the system gave.
#[derive(Debug)]
pub(crate) struct Dice {
    key: Key,
    rolls: AtomicU64,
}

#[derive(Debug)]
enum Key {
    System(RandomState),
    Seed(u64),
}

impl Dice {
    pub fn new() -> Self {
        Self { key: Key::System(RandomState::new()), rolls: AtomicU64::new(0) }
    }

    pub fn seeded(seed: u64) -> Self {
        Self { key: Key::Seed(seed), rolls: AtomicU64::new(0) }
    }

    fn roll(&self) -> u64 {
        let roll = self.rolls.fetch_add(1, Ordering::Relaxed);
        match &self.key {
            Key::System(state) => state.hash_one(roll),
            Key::Seed(seed) => {
                // The finisher of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
                // number generators, 2014).
                let mut z =
                    seed.wrapping_add(roll.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    KINDS
        .into_iter()
        .map(|kind| {
            let aliases = match kind {
                Kind::Now => vec!["current_timestamp".to_owned()],
                Kind::Today => vec!["today".to_owned()],
                Kind::Random | Kind::Uuid => Vec::new(),
            };
            let signature = Signature::nullary(Volatility::Volatile);
            ScalarUDF::new_from_impl(Placeholder { kind, aliases, signature })
        })
        .collect()
}

/// Only there to be planned; the planner replaces each call.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Placeholder {
    kind: Kind,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for Placeholder {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.kind.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Internal(format!("{}() was not planned", self.kind.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_of_version_4_and_never_the_same() {
        let dice = Dice::seeded(7);
        let (one, other) = (uuid(&dice), uuid(&dice));
        assert_ne!(one, other);
        for text in [one, other] {
            assert_eq!((text.len(), &text[14..15]), (36, "4"));
            assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        }
    }

    #[test]
    fn the_same_seed_rolls_the_same() {
        let roll = |seed| {
            let dice = Dice::seeded(seed);
            [dice.roll(), dice.roll()]
        };
        assert_eq!(roll(1), roll(1));
        assert_ne!(roll(1), roll(2));
    }
}
