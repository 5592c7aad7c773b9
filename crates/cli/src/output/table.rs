//! Columns that line up: text to the left, numbers to the right.

use super::{colours, out};
use crate::failure::Result;

/// How wide a cell may be before it is cut, so that one long value spoils no list.
const CELL_MAX: usize = 60;

/// A table under construction.
pub struct Table {
    heads: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    /// What is said when there are no rows.
    empty: &'static str,
}

impl Table {
    /// A head that begins with `>` is a column of numbers.
    pub fn new(heads: &[&'static str], empty: &'static str) -> Self {
        let heads = heads
            .iter()
            .map(|head| (head.trim_start_matches('>').to_owned(), head.starts_with('>')))
            .collect();
        Self::with_heads(heads, empty)
    }

    /// Heads, and whether each is of a column of numbers.
    pub fn with_heads(heads: Vec<(String, bool)>, empty: &'static str) -> Self {
        let (heads, right) = heads.into_iter().unzip();
        Self { heads, right, rows: Vec::new(), empty }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| cut(&cell)).collect());
    }

    pub fn print(&self) -> Result<()> {
        out(self.render(colours()))
    }

    pub fn render(&self, colours: bool) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let widths = self.widths();
        let mut text = self.line(&self.heads, &widths);
        if colours {
            text = format!("\x1b[1m{text}\x1b[0m");
        }
        text.push('\n');
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    /// Takes away the last columns until a line has at most `width` characters. Gives their heads.
    pub fn fit(&mut self, width: usize) -> Vec<String> {
        let mut used = 0;
        let mut fitting = 0;
        for column in self.widths() {
            used += column + if fitting > 0 { 2 } else { 0 };
            if used > width {
                break;
            }
            fitting += 1;
        }
        self.right.truncate(fitting);
        self.rows.iter_mut().for_each(|row| row.truncate(fitting));
        self.heads.split_off(fitting)
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(self.heads[column].chars().count())
        };
        (0..self.heads.len()).map(width).collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let pad = widths[column].saturating_sub(cell.chars().count());
            if column > 0 {
                line.push_str("  ");
            }
            match self.right[column] {
                true => line.extend(std::iter::repeat_n(' ', pad).chain(cell.chars())),
                false => line.extend(cell.chars().chain(std::iter::repeat_n(' ', pad))),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// One line of at most [`CELL_MAX`] characters, without anything that moves the cursor.
fn cut(cell: &str) -> String {
    let clean = cell.chars().map(|c| if c.is_control() { ' ' } else { c });
    match cell.chars().count() {
        0..=CELL_MAX => clean.collect(),
        _ => clean.take(CELL_MAX - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_long_cells_are_cut() {
        let mut table = Table::new(&["NAME", ">ROWS"], "nothing");
        assert_eq!(table.render(false), "nothing\n");
        table.row(["a".to_owned(), "7".to_owned()]);
        table.row(["größer\n".to_owned(), "1,234".to_owned()]);
        assert_eq!(table.render(false), "NAME      ROWS\na            7\ngrößer   1,234\n");
        assert_eq!(cut(&"x".repeat(100)).chars().count(), CELL_MAX);
    }
}
