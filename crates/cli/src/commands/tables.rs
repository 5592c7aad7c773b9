//! `millstream tables`: the embedded tables.

use crate::cli::Global;
use crate::failure::{Mistake, Result, Said};
use crate::output::{self, JsonArg};
use crate::session::{self, Session};
use crate::words;
use clap::{Args, Subcommand};
use millstream_console::answers::{CreatedTable, Loaded, Table as TableRow};
use millstream_console::{Request, TableShape};
use serde_json::Value;
use std::path::PathBuf;

/// List, create, load and read tables
#[derive(Debug, Args)]
pub struct TablesArgs {
    #[command(subcommand)]
    command: TablesCommand,
}

#[derive(Debug, Subcommand)]
enum TablesCommand {
    /// List all tables
    #[command(after_help = "Example:\n  millstream tables list")]
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create an empty table
    #[command(
        after_help = "Example:\n  millstream tables create sites --column id:bigint --column name:string --key id\n\nOne that is there with this shape is left as it is; one with another shape is refused."
    )]
    Create {
        /// The table's name
        table: String,
        #[command(flatten)]
        shape: ShapeArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Write the rows of a CSV, JSON Lines or Parquet file (.gz too) into a table
    #[command(
        after_help = "Example:\n  millstream tables load countries examples/demo/countries.csv --key code\n\nThe table is made where it is missing; columns without a --column are text in CSV.\nA table that is there keeps its shape: another --key, --clustering or --column is refused."
    )]
    Load {
        /// The table's name
        table: String,
        /// The file
        file: PathBuf,
        #[command(flatten)]
        shape: ShapeArgs,
        /// The column with the time of the write: of two writes of a row the later one counts
        #[arg(long, value_name = "COLUMN")]
        timestamp: Option<String>,
        /// What stands between two values of a CSV file
        #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = words::delimiter)]
        delimiter: char,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show the rows of one key
    #[command(after_help = "Example:\n  millstream tables get countries DE")]
    Get {
        /// The table's name
        table: String,
        /// The values of the key's columns, in order; the first ones will do
        #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
        key: Vec<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show rows in the order of their keys
    #[command(
        after_help = "Examples:\n  millstream tables scan countries --limit 10\n  millstream tables scan countries --from D --to F"
    )]
    Scan {
        /// The table's name
        table: String,
        /// Only keys that begin with these values
        #[arg(long, value_name = "VALUE", num_args = 1.., allow_negative_numbers = true, conflicts_with_all = ["from", "to"])]
        prefix: Vec<String>,
        /// From this key on
        #[arg(long, value_name = "VALUE", num_args = 1.., allow_negative_numbers = true)]
        from: Vec<String>,
        /// Up to this key
        #[arg(long, value_name = "VALUE", num_args = 1.., allow_negative_numbers = true)]
        to: Vec<String>,
        /// At most so many rows
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Delete a table with all its rows
    #[command(after_help = "Example:\n  millstream tables drop countries --yes")]
    Drop {
        /// The table's name
        table: String,
        /// Delete it, rows and all
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Args)]
struct ShapeArgs {
    /// A column of the key; give it again for more
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    key: Vec<String>,
    /// A column that orders the rows of one key; give it again for more
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    clustering: Vec<String>,
    /// A column's type, as id:bigint; give it again for more
    #[arg(long = "column", value_name = "NAME:TYPE", value_parser = words::column)]
    columns: Vec<(String, String)>,
    /// How long rows live, from their write
    #[arg(long, value_name = "TIME", value_parser = words::lifetime_ms)]
    ttl: Option<u64>,
}

impl TablesArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        match self.command {
            TablesCommand::List { json } => list(global, json),
            TablesCommand::Create { table, shape, json } => {
                let request = Request::CreateTable { table, shape: shape.into() };
                let made: CreatedTable = session::end(global, &request)?;
                if json.json {
                    return output::json(&made);
                }
                output::line(match made.created {
                    true => format!("created {}", made.table.name),
                    false => format!("{} is already there, with this shape", made.table.name),
                })
            }
            TablesCommand::Load { table, file, shape, timestamp, delimiter, json } => {
                let file = std::path::absolute(&file)?;
                let shape = shape.into();
                let request = Request::LoadTable { table, file, delimiter, shape, timestamp };
                load(global, &request, json)
            }
            TablesCommand::Get { table, key, json } => {
                let request = Request::GetRow { table: table.clone(), key: key.clone() };
                if show(global, &request, json)? == 0 {
                    output::note(format!("{table} has no row with the key {}", key.join(" ")));
                    return Err(Said(1).into());
                }
                Ok(())
            }
            TablesCommand::Scan { table, prefix, from, to, limit, json } => {
                let request = Request::ScanTable { table, prefix, from, to, limit };
                show(global, &request, json).map(drop)
            }
            TablesCommand::Drop { table, yes, json } => drop_table(global, table, yes, json),
        }
    }
}

fn list(global: &Global, json: JsonArg) -> Result<()> {
    let tables: Vec<TableRow> = session::rows(global, &Request::Tables)?;
    if json.json {
        return output::json(&tables);
    }
    let mut shown = output::Table::new(
        &["TABLE", "KEY", "TTL", ">ROWS (ABOUT)", "COLUMNS"],
        "There are no tables yet: `millstream tables load NAME FILE --key COLUMN` makes one.",
    );
    for table in tables {
        let key = match table.clustering.as_slice() {
            [] => table.key.join(", "),
            clustering => format!("({}), {}", table.key.join(", "), clustering.join(", ")),
        };
        let columns: Vec<String> =
            table.columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        shown.row([
            table.name,
            key,
            table.ttl_ms.map_or_else(|| "-".into(), |ttl| output::ms(ttl as f64)),
            output::count(table.rows_estimate),
            columns.join(", "),
        ]);
    }
    shown.print()
}

fn load(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let loaded: Loaded = session::end(global, request)?;
    if json.json {
        output::json(&loaded)?;
    } else {
        let Request::LoadTable { table, .. } = request else { return Ok(()) };
        let created = if loaded.created { ", which was created" } else { "" };
        output::line(format!("wrote {} to {table}{created}", output::counted(loaded.rows, "row")))?;
        if loaded.rejected > 0 {
            output::line(format!("{} rows were refused:", output::count(loaded.rejected)))?;
            for reason in &loaded.reasons {
                output::line(format!("  {reason}"))?;
            }
        }
    }
    // Rows that are missing are no success for the script that loads them.
    if loaded.rejected > 0 { Err(Said(1).into()) } else { Ok(()) }
}

/// JSON Lines, or a table of a page of rows at a time. Gives the number of rows.
fn show(global: &Global, request: &Request, json: JsonArg) -> Result<u64> {
    const PAGE: usize = 1000;
    let mut session = Session::open(global, request)?;
    let mut rows = 0;
    let mut page: Vec<Value> = Vec::new();
    session.each(request, |row| {
        rows += 1;
        if json.json {
            return output::json_line(&row);
        }
        page.push(row);
        if page.len() == PAGE {
            print(&std::mem::take(&mut page))?;
        }
        Ok(())
    })?;
    if !page.is_empty() {
        print(&page)?;
    }
    Ok(rows)
}

fn print(rows: &[Value]) -> Result<()> {
    output::out(output::grid(rows, usize::MAX))
}

fn drop_table(global: &Global, table: String, yes: bool, json: JsonArg) -> Result<()> {
    if !yes {
        // That there is none is said before --yes is asked for.
        let tables: Vec<TableRow> = session::rows(global, &Request::Tables)?;
        if tables.iter().any(|known| known.name == table) {
            return Err(Mistake::new(format!(
                "this deletes all rows of `{table}` for good: add --yes to do so"
            )));
        }
    }
    let _: Value = session::end(global, &Request::DropTable { table: table.clone() })?;
    if json.json {
        return output::json(&serde_json::json!({"deleted": true, "table": table}));
    }
    output::line(format!("deleted {table}"))
}

impl From<ShapeArgs> for TableShape {
    fn from(args: ShapeArgs) -> Self {
        TableShape {
            key: args.key,
            clustering: args.clustering,
            columns: args.columns,
            ttl_ms: args.ttl,
        }
    }
}
