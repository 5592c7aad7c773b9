//! `to_timestamp` and its like give times of the zone UTC, which is what timestamps are here.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, TimeUnit};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use std::sync::Arc;

/// Gives the functions that make timestamps the zone.
pub(super) fn in_utc(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name().starts_with("to_timestamp") {
        true => Arc::new(ScalarUDF::new_from_impl(InUtc { inner })),
        false => inner,
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
            DataType::Timestamp(unit, _) => DataType::Timestamp(unit, Some("UTC".into())),
            other => other,
        })
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let DataType::Timestamp(unit, _) = args.return_type() {
            let plain = DataType::Timestamp(*unit, None);
            args.return_field = Arc::new(Field::clone(&args.return_field).with_data_type(plain));
        }
        Ok(match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(array) => ColumnarValue::Array(zoned(array)),
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(zoned_scalar(value)),
        })
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
