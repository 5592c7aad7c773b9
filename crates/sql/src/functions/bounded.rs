//! Functions whose result can be as long as a number in a row says: they fail the row instead of
//! taking the memory.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_cast::cast;
use arrow_schema::{DataType, FieldRef};
use datafusion_common::arrow::compute::kernels::length::bit_length;
use datafusion_common::{DataFusionError, Result};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use std::sync::Arc;

/// The longest text that one call may ask for.
const LENGTH_MAX: i64 = 65_536;

/// Puts a bound on the functions that need one.
pub(super) fn bound(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "repeat" | "lpad" | "rpad" => {
            let aliases = inner.aliases().to_vec();
            Arc::new(ScalarUDF::new_from_impl(Bounded { inner, aliases }))
        }
        _ => inner,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Bounded {
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

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [text, length, ..] = args.args.as_slice() {
            let lengths = length.cast_to(&DataType::Int64, None)?.to_array(args.number_rows)?;
            let lengths = lengths.as_primitive::<Int64Type>();
            // `repeat` counts texts, the others characters.
            let units = match self.inner.name() {
                "repeat" => Some(bit_length(&text.to_array(args.number_rows)?)?),
                _ => None,
            };
            let units = units.as_ref().map(|units| cast(units, &DataType::Int64)).transpose()?;
            let units = units.as_ref().map(|units| units.as_primitive::<Int64Type>().values());
            for (row, length) in lengths.iter().enumerate() {
                let unit = units.map_or(1, |bits| bits[row] / 8);
                if length.is_some_and(|length| length.saturating_mul(unit) > LENGTH_MAX) {
                    let name = self.inner.name();
                    let message = format!("{name} is asked for a length above {LENGTH_MAX}");
                    return Err(DataFusionError::Execution(message));
                }
            }
        }
        self.inner.invoke_with_args(args)
    }
}
