//! Functions whose result can be as long as a number in a row says: they fail the row instead of
//! taking the memory.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, FieldRef};
use datafusion_common::{DataFusionError, Result};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use std::sync::Arc;

/// The longest text or list that one call may ask for.
const LENGTH_MAX: i64 = 65_536;

/// Puts a bound on the functions that need one.
pub(super) fn bound(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "repeat" | "lpad" | "rpad" | "array_repeat" | "array_resize" => {
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
        if let Some(length) = args.args.get(1) {
            let lengths = length.cast_to(&DataType::Int64, None)?.to_array(args.number_rows)?;
            let lengths = lengths.as_primitive::<Int64Type>();
            if lengths.iter().flatten().any(|length| length > LENGTH_MAX) {
                let message =
                    format!("{} is asked for a length above {LENGTH_MAX}", self.inner.name());
                return Err(DataFusionError::Execution(message));
            }
            debug_assert_eq!(lengths.len(), args.number_rows);
        }
        self.inner.invoke_with_args(args)
    }
}
