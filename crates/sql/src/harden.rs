//! What makes a compiled expression give each row the verdict it has when evaluated alone.
//!
//! - Integer arithmetic fails on overflow; DataFusion's default is to wrap.
//! - `AND` and `OR` whose right side can fail evaluate it only where the left side leaves the
//!   answer open; DataFusion evaluates both sides of a batch.
//! - Constant parts are evaluated once, by the same rules. One that always fails is refused.
//! - `CAST(int_column AS bigint) = 5`, which coercion makes of `int_column = 5`, compares without
//!   the cast.

use crate::expr::{any_node, clean};
use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, FieldRef, Schema};
use datafusion_common::arrow::compute::kernels::boolean::{and_kleene, is_null, not, or_kleene};
use datafusion_common::arrow::compute::prep_null_mask_filter;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::expressions::{
    BinaryExpr, CastExpr, Literal, NegativeExpr, TryCastExpr,
};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type Node = Arc<dyn PhysicalExpr>;

pub(crate) fn harden(physical: Node, schema: &Schema) -> Result<Node> {
    let constants = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    physical
        .transform_up(|node| {
            let before = node.clone();
            let node = checked(node, schema)?;
            let node = guarded(node, schema)?;
            let node = without_cast(node, schema)?;
            let node = folded(node, schema, &constants)?;
            let changed = !Arc::ptr_eq(&before, &node);
            Ok(Transformed::new_transformed(node, changed))
        })
        .map(|transformed| transformed.data)
}

fn checked(node: Node, schema: &Schema) -> Result<Node> {
    if let Some(binary) = node.downcast_ref::<BinaryExpr>()
        && matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
    {
        return Ok(Arc::new(binary.clone().with_fail_on_overflow(true)));
    }
    // The negation of the least integer wraps; 0 - x fails.
    if let Some(negative) = node.downcast_ref::<NegativeExpr>() {
        let data_type = negative.data_type(schema)?;
        if data_type.is_signed_integer() {
            let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
            let difference = BinaryExpr::new(zero, Operator::Minus, negative.arg().clone());
            return Ok(Arc::new(difference.with_fail_on_overflow(true)));
        }
    }
    Ok(node)
}

fn guarded(node: Node, schema: &Schema) -> Result<Node> {
    let Some(binary) = node.downcast_ref::<BinaryExpr>() else { return Ok(node) };
    let op = *binary.op();
    if !matches!(op, Operator::And | Operator::Or) || !can_fail(binary.right(), schema)? {
        return Ok(node);
    }
    Ok(Arc::new(Guarded { op, left: binary.left().clone(), right: binary.right().clone() }))
}

fn can_fail(node: &Node, schema: &Schema) -> Result<bool> {
    /// Functions that take any value of their types.
    const SAFE: [&str; 16] = [
        "get_field",
        "lower",
        "upper",
        "character_length",
        "octet_length",
        "btrim",
        "ltrim",
        "rtrim",
        "starts_with",
        "ends_with",
        "contains",
        "strpos",
        "concat",
        "try_ip",
        "ip_text",
        "json_valid",
    ];
    any_node(node, |node| {
        if let Some(call) = node.downcast_ref::<ScalarFunctionExpr>() {
            return Ok(!SAFE.contains(&call.name()));
        }
        if let Some(cast) = node.downcast_ref::<CastExpr>() {
            let from = cast.expr().data_type(schema)?;
            return Ok(!widens(&from, cast.cast_type()));
        }
        if let Some(binary) = node.downcast_ref::<BinaryExpr>() {
            return Ok(!binary.op().is_logic_operator() && !binary.op().supports_propagation());
        }
        Ok(node.is::<NegativeExpr>())
    })
}

/// Whether every value of one integer or float type is one of the other too.
pub(crate) fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    from == to
        || match from {
            Int8 => matches!(to, Int16 | Int32 | Int64 | Float32 | Float64),
            Int16 => matches!(to, Int32 | Int64 | Float32 | Float64),
            Int32 => matches!(to, Int64 | Float64),
            UInt8 => {
                matches!(to, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64 | Float32 | Float64)
            }
            UInt16 => matches!(to, UInt32 | UInt64 | Int32 | Int64 | Float32 | Float64),
            UInt32 => matches!(to, UInt64 | Int64 | Float64),
            Float32 => *to == Float64,
            _ => false,
        }
}

fn without_cast(node: Node, schema: &Schema) -> Result<Node> {
    let Some(binary) = node.downcast_ref::<BinaryExpr>() else { return Ok(node) };
    if !binary.op().supports_propagation() {
        return Ok(node);
    }
    let inner = |side: &Node| -> Option<(Node, DataType)> {
        let cast = side.downcast_ref::<CastExpr>()?;
        let from = cast.expr().data_type(schema).ok()?;
        (from.is_integer() && cast.cast_type().is_integer() && widens(&from, cast.cast_type()))
            .then(|| (cast.expr().clone(), from))
    };
    let literal = |side: &Node, to: &DataType| -> Option<Node> {
        let value = side.downcast_ref::<Literal>()?.value();
        // A constant that the narrow type does not hold keeps the cast.
        let narrow = value.cast_to(to).ok()?;
        (narrow.is_null() == value.is_null()).then(|| Arc::new(Literal::new(narrow)) as Node)
    };
    let sides = match (inner(binary.left()), inner(binary.right())) {
        (Some((left, from)), None) => literal(binary.right(), &from).map(|right| (left, right)),
        (None, Some((right, from))) => literal(binary.left(), &from).map(|left| (left, right)),
        _ => None,
    };
    match sides {
        Some((left, right)) => Ok(Arc::new(BinaryExpr::new(left, *binary.op(), right))),
        None => Ok(node),
    }
}

fn folded(node: Node, schema: &Schema, constants: &RecordBatch) -> Result<Node> {
    let children = node.children();
    if children.is_empty()
        || node.is_volatile_node()
        || !children.iter().all(|child| child.is::<Literal>())
        || node.is::<TryCastExpr>() && node.data_type(schema)?.is_nested()
    {
        return Ok(node);
    }
    let value = match node.evaluate(constants) {
        Ok(ColumnarValue::Scalar(value)) => value,
        Ok(ColumnarValue::Array(array)) if array.len() == 1 => {
            ScalarValue::try_from_array(&array, 0)?
        }
        Ok(_) => return Ok(node),
        Err(error) => {
            let message = format!("this fails for every row: {}", clean(&error));
            return Err(DataFusionError::Plan(message));
        }
    };
    match value.data_type() == node.data_type(schema)? {
        true => Ok(Arc::new(Literal::new(value))),
        false => Ok(node),
    }
}

/// `AND` or `OR` that looks at its right side only where the left leaves the answer open.
#[derive(Debug, Clone, Eq)]
struct Guarded {
    op: Operator,
    left: Node,
    right: Node,
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.op.hash(state);
        self.left.hash(state);
        self.right.hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.left, self.op, self.right)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        let nullable = self.nullable(schema)?;
        Ok(Arc::new(arrow_schema::Field::new(self.to_string(), DataType::Boolean, nullable)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let left = self.left.evaluate(batch)?.into_array(rows)?;
        let left = as_boolean(left.as_ref())?;
        // A null leaves it open, as an undecided value does.
        let undecided = match self.op {
            Operator::And => left.clone(),
            _ => not(left)?,
        };
        let open = or_kleene(&nulls_as_false(&undecided), &is_null(left)?)?;
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(left.clone())));
        }
        let right = self.right.evaluate_selection(batch, &open)?.into_array(rows)?;
        let right = as_boolean(right.as_ref())?;
        let both = match self.op {
            Operator::And => and_kleene(left, right)?,
            _ => or_kleene(left, right)?,
        };
        Ok(ColumnarValue::Array(Arc::new(both)))
    }

    fn children(&self) -> Vec<&Node> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Node>) -> Result<Node> {
        Ok(Arc::new(Guarded { op: self.op, left: children[0].clone(), right: children[1].clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.left.fmt_sql(f)?;
        write!(f, " {} ", self.op)?;
        self.right.fmt_sql(f)
    }
}

/// Nulls as false.
pub(crate) fn nulls_as_false(values: &BooleanArray) -> BooleanArray {
    match values.null_count() {
        0 => values.clone(),
        _ => prep_null_mask_filter(values),
    }
}

fn as_boolean(array: &dyn Array) -> Result<&BooleanArray> {
    array.as_boolean_opt().ok_or_else(|| {
        DataFusionError::Internal(format!("a condition is {}, not boolean", array.data_type()))
    })
}
