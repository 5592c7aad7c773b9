//! What a type of PostgreSQL's looks like as an Arrow column.
//!
//! | PostgreSQL | Arrow |
//! |---|---|
//! | `text`, `varchar`, `char`, `citext`, an enum, `uuid`, `json`, `jsonb`, `xml` | text |
//! | `smallint`, `integer` | 32 bits |
//! | `bigint`, `oid` | 64 bits |
//! | `numeric(p, s)` to 38 digits | a decimal; other numerics are text |
//! | `timestamp`, `timestamptz` | microseconds, UTC |
//! | `time` | microseconds |
//! | `interval` | months, days, nanoseconds |
//! | `inet` | 16 bytes, IPv4 mapped into IPv6; the length of its prefix is dropped |
//! | an array of these | a list |
//! | everything else | text, as the server writes it |

use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use millstream_core::types::IP;
use std::sync::Arc;
use tokio_postgres::types::{Kind as PgKind, Type};

/// How the bytes of a type's values are read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    /// Of two, four or eight bytes.
    Int(usize),
    Oid,
    Float,
    Double,
    /// Digits and how many of them are after the point, where the column says so.
    Numeric(Option<(u8, i8)>),
    Text,
    Jsonb,
    Bytes,
    Date,
    Time,
    Timestamp,
    Interval,
    Uuid,
    Inet,
    List(Box<Kind>, u32),
    /// What is only read and written as the server's own text.
    Cast,
}

/// `modifier` is the column's, -1 for none.
pub(crate) fn kind(of: &Type, modifier: i32) -> Kind {
    match of.kind() {
        PgKind::Domain(base) => return kind(base, modifier),
        PgKind::Enum(_) => return Kind::Text,
        PgKind::Array(item) => {
            return match kind(item, modifier) {
                // The server's text of the whole array.
                Kind::Cast => Kind::Cast,
                item_kind => Kind::List(Box::new(item_kind), item.oid()),
            };
        }
        PgKind::Simple => {}
        _ => return Kind::Cast,
    }
    match *of {
        Type::BOOL => Kind::Bool,
        Type::INT2 => Kind::Int(2),
        Type::INT4 => Kind::Int(4),
        Type::INT8 => Kind::Int(8),
        Type::OID => Kind::Oid,
        Type::FLOAT4 => Kind::Float,
        Type::FLOAT8 => Kind::Double,
        Type::NUMERIC => Kind::Numeric(digits(modifier)),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::XML => {
            Kind::Text
        }
        Type::JSONB => Kind::Jsonb,
        Type::BYTEA => Kind::Bytes,
        Type::DATE => Kind::Date,
        Type::TIME => Kind::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Kind::Timestamp,
        Type::INTERVAL => Kind::Interval,
        Type::UUID => Kind::Uuid,
        Type::INET => Kind::Inet,
        _ if of.name() == "citext" => Kind::Text,
        _ => Kind::Cast,
    }
}

/// What `numeric(p, s)` says, where a decimal of Arrow's holds it.
fn digits(modifier: i32) -> Option<(u8, i8)> {
    let packed = u32::try_from(modifier.checked_sub(4)?).ok()?;
    let precision = u8::try_from(packed >> 16).ok()?;
    // Eleven bits with a sign.
    let scale = ((packed & 0x7ff) ^ 1024) as i32 - 1024;
    let scale = i8::try_from(scale).ok()?;
    let fits = (1..=38).contains(&precision) && scale >= 0 && scale as u8 <= precision;
    fits.then_some((precision, scale))
}

impl Kind {
    pub fn arrow(&self) -> DataType {
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int(2 | 4) => DataType::Int32,
            Kind::Int(_) | Kind::Oid => DataType::Int64,
            Kind::Float => DataType::Float32,
            Kind::Double => DataType::Float64,
            Kind::Numeric(Some((precision, scale))) => DataType::Decimal128(*precision, *scale),
            Kind::Numeric(None) | Kind::Text | Kind::Jsonb | Kind::Uuid | Kind::Cast => {
                DataType::Utf8
            }
            Kind::Bytes => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(TimeUnit::Microsecond),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Kind::Inet => IP,
            Kind::List(item, _) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
        }
    }

    /// Whether two values are equal for the server only when their bytes are.
    pub fn is_told_by_bytes(&self) -> bool {
        matches!(
            self,
            Kind::Bool
                | Kind::Int(_)
                | Kind::Oid
                | Kind::Text
                | Kind::Bytes
                | Kind::Date
                | Kind::Time
                | Kind::Timestamp
                | Kind::Uuid
        )
    }
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn a_numeric_says_its_digits() {
        let packed = |precision: i32, scale: i32| (precision << 16 | (scale & 0x7ff)) + 4;
        assert_eq!(digits(packed(10, 2)), Some((10, 2)));
        assert_eq!(digits(packed(38, 38)), Some((38, 38)));
        assert_eq!(digits(packed(39, 0)), None);
        assert_eq!(digits(packed(5, -2)), None);
        assert_eq!(digits(packed(2, 5)), None);
        assert_eq!(digits(-1), None);
    }
}
