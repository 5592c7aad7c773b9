//! The functions that SQL can call: DataFusion's, apart from those that a stream must not have, and
//! our own for JSON, URLs, addresses and regular expressions.

mod address;
mod bounded;
mod json;
mod own;
mod regexp;
mod url;
mod utc;
pub(crate) mod volatile;

use crate::SqlError;
use datafusion_common::config::ConfigOptions;
use datafusion_expr::ScalarUDF;
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value,
};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Known in order to be refused with the right sentence.
pub(crate) const AGGREGATES: [&str; 44] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "first_value",
    "grouping",
    "lag",
    "last_value",
    "lead",
    "listagg",
    "max",
    "mean",
    "median",
    "min",
    "mode",
    "nth_value",
    "ntile",
    "percent_rank",
    "percentile_cont",
    "rank",
    "regr_slope",
    "row_number",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "total",
    "var",
    "var_pop",
    "var_samp",
];

/// DataFusion functions that we replace, or that mean nothing on a stream.
const LEFT_OUT: [&str; 25] = [
    // Ours read the batch's clock, and keep their values when a batch is evaluated again.
    "now",
    "current_date",
    "current_time",
    "random",
    "uuid",
    // About files, plans and vectors.
    "version",
    "input_file_name",
    "file_row_index",
    "arrow_metadata",
    "arrow_field",
    "with_metadata",
    "cast_to_type",
    "try_cast_to_type",
    "array_add",
    "array_subtract",
    "array_scale",
    "array_normalize",
    "cosine_distance",
    "inner_product",
    "array_distance",
    // It makes its three arguments one type, the one that is only tested too.
    "nvl2",
    // One row could ask for a list of any length.
    "range",
    "generate_series",
    "array_repeat",
    "array_resize",
];

static CONFIG: LazyLock<Arc<ConfigOptions>> = LazyLock::new(Arc::default);

static REGISTRY: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let theirs = datafusion_functions::all_default_functions()
        .into_iter()
        .chain(datafusion_functions_nested::all_default_nested_functions())
        .filter(|udf| !LEFT_OUT.contains(&udf.name()))
        .map(bounded::bound)
        .map(utc::in_utc);
    let ours = [address::functions(), json::functions(), regexp::functions(), url::functions()];
    let ours = ours.into_iter().flatten().chain(volatile::functions()).map(Arc::new);
    let mut registry = BTreeMap::new();
    for udf in theirs.chain(ours) {
        for alias in udf.aliases() {
            registry.insert(alias.clone(), udf.clone());
        }
        registry.insert(udf.name().to_owned(), udf);
    }
    registry
});

/// DataFusion's own settings, as they come.
pub(crate) fn config() -> &'static Arc<ConfigOptions> {
    &CONFIG
}

/// By its name in lower case.
pub(crate) fn by_name(name: &str) -> Option<&'static Arc<ScalarUDF>> {
    REGISTRY.get(name)
}

/// The names that SQL can call, in the order of the alphabet but for the last few.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.keys().map(String::as_str).chain(SPELLED)
}

/// Functions that the planner itself turns into others.
pub(crate) const SPELLED: [&str; 2] = ["unnest", "make_map"];

/// A pattern or a network that is written out in the SQL is checked before a row comes.
pub(crate) fn check_literals(name: &str, function: &Function) -> Option<SqlError> {
    let check: fn(&str) -> Result<(), String> = match name {
        "regexp_like" | "regexp_match" | "regexp_replace" | "regexp_count" | "regexp_instr"
        | "regexp_extract" => regexp::check,
        "ip_in_cidr" => address::check_cidr,
        _ => return None,
    };
    let FunctionArguments::List(list) = &function.args else { return None };
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = list.args.get(1)? else {
        return None;
    };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    check(text).err().map(|message| SqlError::new(value.span.start, message))
}
