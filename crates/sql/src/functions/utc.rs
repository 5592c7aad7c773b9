//! `to_timestamp` and its like give times of the zone UTC, which is what timestamps are here, and
//! `to_timestamp` and `date_trunc` know all years from 1 to 9999: DataFusion's count nanoseconds,
//! which end in 2262.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, Int64Array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, TimeUnit};
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature,
};
use std::sync::Arc;

/// Gives the functions that make timestamps the zone, and those that end in 2262 more years.
pub(super) fn in_utc(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        name if name.starts_with("to_timestamp") => {
            Arc::new(ScalarUDF::new_from_impl(InUtc { inner }))
        }
        "date_trunc" => {
            let aliases = inner.aliases().to_vec();
            Arc::new(ScalarUDF::new_from_impl(AllYears { inner, aliases }))
        }
        "to_char" => Arc::new(ScalarUDF::new_from_impl(Uncast::of(inner))),
        _ => inner,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InUtc {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for InUtc {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        Ok(match self.inner.return_type(given)? {
            DataType::Timestamp(unit, _) => {
                let unit = if self.name() == "to_timestamp" { TimeUnit::Microsecond } else { unit };
                DataType::Timestamp(unit, Some("UTC".into()))
            }
            other => other,
        })
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let wanted = args.return_type().clone();
        if self.name() == "to_timestamp" {
            if let [given] = args.args.as_slice() {
                match given.data_type() {
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                        return given.cast_to(&wanted, None);
                    }
                    DataType::Int64 => return seconds(&given.to_array(args.number_rows)?, &wanted),
                    _ => {}
                }
            }
            let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
            args.return_field = Arc::new(Field::clone(&args.return_field).with_data_type(nanos));
        } else if let DataType::Timestamp(unit, _) = &wanted {
            let plain = DataType::Timestamp(*unit, None);
            args.return_field = Arc::new(Field::clone(&args.return_field).with_data_type(plain));
        }
        let given = match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(array) => ColumnarValue::Array(zoned(array)),
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(zoned_scalar(value)),
        };
        if given.data_type() == wanted { Ok(given) } else { given.cast_to(&wanted, None) }
    }
}

/// Seconds since 1970 as timestamps.
fn seconds(given: &ArrayRef, wanted: &DataType) -> Result<ColumnarValue> {
    let micros = given.as_primitive::<Int64Type>().try_unary::<_, TimestampMicrosecondType, _>(
        |seconds| {
            // The years 1 to 9999.
            if !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
                return Err(DataFusionError::Execution(format!(
                    "the timestamp {seconds} (seconds since 1970) is out of range: from \
                     0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z"
                )));
            }
            Ok(seconds * 1_000_000)
        },
    )?;
    Ok(ColumnarValue::Array(cast_with_options(&micros, wanted, &STRICT)?))
}

const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow_cast::display::FormatOptions::new() };

/// A function of the calendar that fails where nanoseconds end. The calendar, with its weeks, begins
/// anew every 400 years, so that moments beyond are moved to where nanoseconds reach, and back.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AllYears {
    inner: Arc<ScalarUDF>,
    aliases: Vec<String>,
}

/// 146,097 days.
const SECONDS_OF_400_YEARS: i64 = 146_097 * 86_400;

impl ScalarUDFImpl for AllYears {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.inner.return_type(given)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<Arc<Field>> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let moment = args.args.get(1).map(ColumnarValue::data_type);
        let Some(DataType::Timestamp(unit, _)) = &moment else {
            return self.inner.invoke_with_args(args);
        };
        let period = match unit {
            TimeUnit::Nanosecond => return self.inner.invoke_with_args(args),
            TimeUnit::Microsecond => SECONDS_OF_400_YEARS * 1_000_000,
            TimeUnit::Millisecond => SECONDS_OF_400_YEARS * 1_000,
            TimeUnit::Second => SECONDS_OF_400_YEARS,
        };
        let data_type = args.args[1].data_type();
        let given = args.args[1].to_array(args.number_rows)?;
        let given = cast_with_options(&given, &DataType::Int64, &STRICT)?;
        let given = given.as_primitive::<Int64Type>();
        // From 1770 to 2170.
        let begin = -period / 2;
        if given.iter().flatten().all(|value| (begin..begin + period).contains(&value)) {
            return self.inner.invoke_with_args(args);
        }
        let moved = |value: i64| {
            i128::from(value).saturating_sub(begin.into()).rem_euclid(period.into()) as i64 + begin
        };
        let near: Int64Array = given.unary(moved);
        args.args[1] = ColumnarValue::Array(cast_with_options(&near, &data_type, &STRICT)?);
        let rows = args.number_rows;
        let done = self.inner.invoke_with_args(args)?.into_array(rows)?;
        let result_type = done.data_type().clone();
        let done = cast_with_options(&done, &DataType::Int64, &STRICT)?;
        let done: Int64Array = done
            .as_primitive::<Int64Type>()
            .iter()
            .zip(given)
            .map(|(done, given)| {
                let (done, given) = (done?, given?);
                Some(i128::from(done) + i128::from(given) - i128::from(moved(given)))
            })
            .map(|value| value.map(|value| value.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
            .collect();
        Ok(ColumnarValue::Array(cast_with_options(&done, &result_type, &STRICT)?))
    }
}

/// A function that takes timestamps of every unit, but whose signature would have those with a zone
/// cast to the first unit it lists, nanoseconds.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Uncast {
    inner: Arc<ScalarUDF>,
    aliases: Vec<String>,
    signature: Signature,
}

impl Uncast {
    fn of(inner: Arc<ScalarUDF>) -> Self {
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let known = inner.signature();
        let in_utc = [Second, Millisecond, Microsecond, Nanosecond].map(|unit| {
            let moment = DataType::Timestamp(unit, Some("UTC".into()));
            TypeSignature::Exact(vec![moment, DataType::Utf8])
        });
        let all = in_utc.into_iter().chain([known.type_signature.clone()]).collect();
        let signature = Signature::one_of(all, known.volatility);
        Self { aliases: inner.aliases().to_vec(), inner, signature }
    }
}

impl ScalarUDFImpl for Uncast {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.inner.return_type(given)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }
}

fn zoned(array: ArrayRef) -> ArrayRef {
    const UTC: &str = "UTC";
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            Arc::new(array.as_primitive::<TimestampSecondType>().clone().with_timezone(UTC))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone(UTC))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(UTC))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Arc::new(array.as_primitive::<TimestampNanosecondType>().clone().with_timezone(UTC))
        }
        _ => array,
    }
}

fn zoned_scalar(value: ScalarValue) -> ScalarValue {
    let utc = || Some("UTC".into());
    match value {
        ScalarValue::TimestampSecond(value, _) => ScalarValue::TimestampSecond(value, utc()),
        ScalarValue::TimestampMillisecond(value, _) => {
            ScalarValue::TimestampMillisecond(value, utc())
        }
        ScalarValue::TimestampMicrosecond(value, _) => {
            ScalarValue::TimestampMicrosecond(value, utc())
        }
        ScalarValue::TimestampNanosecond(value, _) => {
            ScalarValue::TimestampNanosecond(value, utc())
        }
        other => other,
    }
}
