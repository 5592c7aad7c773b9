//! Values out of JSON text: `json_get(text, 'items', 0, 'name')`.
//!
//! A step of the path is a key (text) or an index from 0 (integer). What is not there, or is JSON's
//! null, is NULL. Text that is not JSON, or a value of another type than asked for, fails the row;
//! `json_valid` tells beforehand. Documents nest at most 128 deep, which is the parser's bound.

use super::own::{Args, Integers, Own, Takes, Texts, fail};
use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray};
use arrow_schema::DataType;
use datafusion_common::Result;
use datafusion_expr::ScalarUDF;
use serde_json::Value;
use std::sync::Arc;

pub(super) fn functions() -> Vec<ScalarUDF> {
    let get = |name, gives, run| Own {
        name,
        takes: &[Takes::Text, Takes::TextOrInteger],
        variadic: true,
        gives,
        run,
    };
    let valid = Own {
        name: "json_valid",
        takes: &[Takes::Text],
        variadic: false,
        gives: DataType::Boolean,
        run: json_valid,
    };
    [
        get("json_get", DataType::Utf8, json_get),
        get("json_get_int", DataType::Int64, json_get_bigint),
        get("json_get_bigint", DataType::Int64, json_get_bigint),
        get("json_get_double", DataType::Float64, json_get_double),
        get("json_get_bool", DataType::Boolean, json_get_bool),
        valid,
    ]
    .into_iter()
    .map(Own::build)
    .collect()
}

fn json_valid(args: &Args) -> Result<ArrayRef> {
    let texts = args.text(0)?;
    let valid: BooleanArray = (0..args.rows)
        .map(|row| texts.get(row).map(|text| serde_json::from_str::<Value>(text).is_ok()))
        .collect();
    Ok(Arc::new(valid))
}

fn json_get(args: &Args) -> Result<ArrayRef> {
    let mut out = StringBuilder::new();
    each(args, |value| {
        match value {
            None => out.append_null(),
            Some(Value::String(text)) => out.append_value(text),
            Some(other) => out.append_value(other.to_string()),
        }
        Ok(())
    })?;
    Ok(Arc::new(out.finish()))
}

fn json_get_bigint(args: &Args) -> Result<ArrayRef> {
    let mut out = Int64Builder::with_capacity(args.rows);
    each(args, |value| {
        match value {
            None => out.append_null(),
            Some(value) => match value.as_i64() {
                Some(integer) => out.append_value(integer),
                None => return fail(format!("the JSON value {} is not a bigint", brief(value))),
            },
        }
        Ok(())
    })?;
    Ok(Arc::new(out.finish()))
}

fn json_get_double(args: &Args) -> Result<ArrayRef> {
    let mut out = Float64Builder::with_capacity(args.rows);
    each(args, |value| {
        match value {
            None => out.append_null(),
            Some(value) => match value.as_f64() {
                Some(number) => out.append_value(number),
                None => return fail(format!("the JSON value {} is not a number", brief(value))),
            },
        }
        Ok(())
    })?;
    Ok(Arc::new(out.finish()))
}

fn json_get_bool(args: &Args) -> Result<ArrayRef> {
    let mut out = BooleanBuilder::with_capacity(args.rows);
    each(args, |value| {
        match value {
            None => out.append_null(),
            Some(Value::Bool(truth)) => out.append_value(*truth),
            Some(value) => {
                return fail(format!("the JSON value {} is not true or false", brief(value)));
            }
        }
        Ok(())
    })?;
    Ok(Arc::new(out.finish()))
}

enum Step<'a> {
    Key(Texts<'a>),
    Index(Integers<'a>),
}

fn each(args: &Args, mut take: impl FnMut(Option<&Value>) -> Result<()>) -> Result<()> {
    let texts = args.text(0)?;
    let path: Vec<Step> = (1..args.count())
        .map(|index| match args.is_text(index) {
            true => args.text(index).map(Step::Key),
            false => args.integer(index).map(Step::Index),
        })
        .collect::<Result<_>>()?;
    for row in 0..args.rows {
        let Some(text) = texts.get(row) else {
            take(None)?;
            continue;
        };
        let document: Value = match serde_json::from_str(text) {
            Ok(document) => document,
            Err(error) => return fail(format!("the text is not JSON: {error}")),
        };
        let mut value = Some(&document);
        for step in &path {
            value = match step {
                Step::Key(keys) => value.zip(keys.get(row)).and_then(|(value, key)| value.get(key)),
                Step::Index(indexes) => value.zip(indexes.get(row)).and_then(|(value, index)| {
                    usize::try_from(index).ok().and_then(|index| value.get(index))
                }),
            };
        }
        take(value.filter(|value| !value.is_null()))?;
    }
    Ok(())
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
