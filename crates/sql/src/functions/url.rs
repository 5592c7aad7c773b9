//! Parts of URLs. Access logs hold paths as often as whole URLs, so a text that begins with `/` has
//! a path, a query and parameters, but no scheme and host. What is no URL at all gives NULL.

use super::own::{Args, Own, Takes};
use ::url::{ParseError, Url};
use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use arrow_schema::DataType;
use datafusion_common::Result;
use datafusion_expr::ScalarUDF;
use std::sync::{Arc, LazyLock};

pub(super) fn functions() -> Vec<ScalarUDF> {
    let part = |name, run| Own {
        name,
        takes: &[Takes::Text],
        variadic: false,
        gives: DataType::Utf8,
        run,
    };
    let param = Own {
        name: "url_param",
        takes: &[Takes::Text, Takes::Text],
        variadic: false,
        gives: DataType::Utf8,
        run: url_param,
    };
    [
        part("url_scheme", |args| each(args, |url| url.scheme())),
        part("url_host", |args| each(args, |url| url.host())),
        part("url_path", |args| each(args, |url| Some(url.parsed.path()))),
        part("url_query", |args| each(args, |url| url.parsed.query())),
        param,
    ]
    .into_iter()
    .map(Own::build)
    .collect()
}

struct Parsed {
    parsed: Url,
    /// Whether scheme and host are only there to make a path parse.
    path_only: bool,
}

impl Parsed {
    fn of(text: &str) -> Option<Self> {
        static BASE: LazyLock<Url> =
            LazyLock::new(|| Url::parse("http://path.invalid/").expect("a literal URL is one"));
        match Url::parse(text) {
            Ok(parsed) => Some(Self { parsed, path_only: false }),
            Err(ParseError::RelativeUrlWithoutBase) if text.starts_with('/') => {
                let path_only = !text.starts_with("//");
                BASE.join(text).ok().map(|parsed| Self { parsed, path_only })
            }
            Err(_) => None,
        }
    }

    fn scheme(&self) -> Option<&str> {
        (!self.path_only).then(|| self.parsed.scheme())
    }

    fn host(&self) -> Option<&str> {
        if self.path_only { None } else { self.parsed.host_str() }
    }
}

fn each(args: &Args, part: fn(&Parsed) -> Option<&str>) -> Result<ArrayRef> {
    let texts = args.text(0)?;
    let mut out = StringBuilder::new();
    for row in 0..args.rows {
        let parsed = texts.get(row).and_then(Parsed::of);
        out.append_option(parsed.as_ref().and_then(part));
    }
    Ok(Arc::new(out.finish()))
}

/// The first parameter of the name, decoded.
fn url_param(args: &Args) -> Result<ArrayRef> {
    let texts = args.text(0)?;
    let names = args.text(1)?;
    let mut out = StringBuilder::new();
    for row in 0..args.rows {
        let parsed = texts.get(row).and_then(Parsed::of);
        let value = parsed.as_ref().zip(names.get(row)).and_then(|(url, name)| {
            url.parsed.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
        });
        out.append_option(value);
    }
    Ok(Arc::new(out.finish()))
}
