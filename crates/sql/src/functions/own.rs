//! How our own functions are made: a name, what they take, what they give, and plain Rust over
//! the arguments of a batch.

use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, Int64Array, StringArray};
use arrow_schema::DataType;
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use millstream_core::types::IP;
use std::hash::{Hash, Hasher};

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Text,
    Integer,
    Address,
    TextOrInteger,
    TextOrAddress,
}

pub(super) struct Own {
    pub name: &'static str,
    pub takes: &'static [Takes],
    /// Whether the last of `takes` may be given any number of times, once at least.
    pub variadic: bool,
    pub gives: DataType,
    pub run: fn(&Args) -> Result<ArrayRef>,
}

/// The arguments of one call on a batch.
pub(super) struct Args<'a> {
    values: &'a [ColumnarValue],
    pub rows: usize,
}

/// A text argument: a column, or one text for all rows.
pub(super) enum Texts<'a> {
    Column(&'a StringArray),
    One(Option<&'a str>),
}

pub(super) enum Integers<'a> {
    Column(&'a Int64Array),
    One(Option<i64>),
}

pub(super) enum Addresses<'a> {
    Column(&'a FixedSizeBinaryArray),
    One(Option<&'a [u8]>),
}

/// An error that concerns a row.
pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(DataFusionError::Execution(message.into()))
}

impl Args<'_> {
    pub fn count(&self) -> usize {
        self.values.len()
    }

    pub fn is_text(&self, index: usize) -> bool {
        self.values[index].data_type() == DataType::Utf8
    }

    pub fn text(&self, index: usize) -> Result<Texts<'_>> {
        match &self.values[index] {
            ColumnarValue::Scalar(ScalarValue::Utf8(text)) => Ok(Texts::One(text.as_deref())),
            ColumnarValue::Array(array) => match array.as_any().downcast_ref() {
                Some(array) => Ok(Texts::Column(array)),
                None => wrong_type(array.data_type()),
            },
            ColumnarValue::Scalar(other) => wrong_type(&other.data_type()),
        }
    }

    pub fn integer(&self, index: usize) -> Result<Integers<'_>> {
        match &self.values[index] {
            ColumnarValue::Scalar(ScalarValue::Int64(value)) => Ok(Integers::One(*value)),
            ColumnarValue::Array(array) => match array.as_any().downcast_ref() {
                Some(array) => Ok(Integers::Column(array)),
                None => wrong_type(array.data_type()),
            },
            ColumnarValue::Scalar(other) => wrong_type(&other.data_type()),
        }
    }

    pub fn address(&self, index: usize) -> Result<Addresses<'_>> {
        match &self.values[index] {
            ColumnarValue::Scalar(ScalarValue::FixedSizeBinary(16, value)) => {
                Ok(Addresses::One(value.as_deref()))
            }
            ColumnarValue::Array(array) => match array.as_any().downcast_ref() {
                Some(array) => Ok(Addresses::Column(array)),
                None => wrong_type(array.data_type()),
            },
            ColumnarValue::Scalar(other) => wrong_type(&other.data_type()),
        }
    }
}

fn wrong_type<T>(data_type: &DataType) -> Result<T> {
    Err(DataFusionError::Internal(format!("an argument of type {data_type} was not coerced")))
}

impl Texts<'_> {
    #[inline]
    pub fn get(&self, row: usize) -> Option<&str> {
        match self {
            Texts::Column(array) => array.is_valid(row).then(|| array.value(row)),
            Texts::One(text) => *text,
        }
    }
}

impl Integers<'_> {
    #[inline]
    pub fn get(&self, row: usize) -> Option<i64> {
        match self {
            Integers::Column(array) => array.is_valid(row).then(|| array.value(row)),
            Integers::One(value) => *value,
        }
    }
}

impl Addresses<'_> {
    #[inline]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Addresses::Column(array) => array.is_valid(row).then(|| array.value(row)),
            Addresses::One(value) => *value,
        }
    }
}

impl Own {
    pub fn build(self) -> ScalarUDF {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::new_from_impl(Function { own: self, signature })
    }

    fn usage(&self) -> String {
        let names: Vec<&str> = self.takes.iter().map(|takes| takes.name()).collect();
        let more = if self.variadic { ", …" } else { "" };
        format!("{}({}{more})", self.name, names.join(", "))
    }
}

impl Takes {
    fn name(self) -> &'static str {
        match self {
            Takes::Text => "text",
            Takes::Integer => "integer",
            Takes::Address => "ip",
            Takes::TextOrInteger => "text or integer",
            Takes::TextOrAddress => "text or ip",
        }
    }

    fn coerce(self, given: &DataType) -> Option<DataType> {
        let text = match given {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
            DataType::Dictionary(_, values) => **values == DataType::Utf8,
            _ => false,
        };
        let integer = given.is_integer() || given.is_null();
        let address = *given == IP || given.is_null();
        match self {
            Takes::Text | Takes::TextOrInteger | Takes::TextOrAddress if text => {
                Some(DataType::Utf8)
            }
            Takes::Integer | Takes::TextOrInteger if integer => Some(DataType::Int64),
            Takes::Address | Takes::TextOrAddress if address => Some(IP),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Function {
    own: Own,
    signature: Signature,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.own.name == other.own.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.own.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.own.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.own.gives.clone())
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let takes = self.own.takes;
        let enough = given.len() >= takes.len();
        if !enough || (given.len() > takes.len() && !self.own.variadic) {
            let message = format!("it is called as {}", self.own.usage());
            return Err(DataFusionError::Plan(message));
        }
        let last = takes.last().copied();
        given
            .iter()
            .enumerate()
            .map(|(index, given)| {
                let takes = takes.get(index).copied().or(last);
                takes.and_then(|takes| takes.coerce(given)).ok_or_else(|| {
                    DataFusionError::Plan(format!(
                        "it is called as {}, and argument {} is {}",
                        self.own.usage(),
                        index + 1,
                        millstream_core::types::name(given)
                    ))
                })
            })
            .collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let args = Args { values: &args.args, rows: args.number_rows };
        (self.own.run)(&args).map(ColumnarValue::Array)
    }
}
