//! Rows of any shape, as JSON objects, shown as a table.

use super::{short, table::Table};
use serde_json::Value;

/// A table of the columns that the rows have. Columns that would go beyond `width` are left out
/// and named below.
pub fn grid(rows: &[Value], width: usize) -> String {
    let mut heads: Vec<String> = Vec::new();
    for row in rows {
        for name in row.as_object().into_iter().flat_map(|object| object.keys()) {
            if !heads.contains(name) {
                heads.push(name.clone());
            }
        }
    }
    let numeric = |name: &str| {
        let cells = rows.iter().filter_map(|row| row.get(name)).filter(|cell| !cell.is_null());
        let mut some = cells.clone().count() > 0;
        cells.for_each(|cell| some &= cell.is_number());
        some
    };
    let mut table = Table::with_heads(
        heads.iter().map(|head| (head.clone(), numeric(head))).collect(),
        "no rows",
    );
    for row in rows {
        table.row(heads.iter().map(|head| cell(row.get(head.as_str()))));
    }
    let left_out = table.fit(width);
    let mut text = table.render(super::colours());
    if !left_out.is_empty() {
        text.push_str(&short(&format!("and {}", left_out.join(", ")), width.saturating_sub(1)));
        text.push('\n');
    }
    text
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let rows = [json!({"id": 1, "name": "x"}), json!({"id": 20, "name": null, "more": true})];
        assert_eq!(grid(&rows, usize::MAX), "id  name  more\n 1  x     -\n20  -     true\n");
        assert_eq!(grid(&rows, 9), "id  name\n 1  x\n20  -\nand more\n");
    }
}
