//! Rows of a CSV, JSON Lines or Parquet file as Arrow batches: for lookups and for loading tables.

use super::{format_extension, open_text};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, builder::FixedSizeBinaryBuilder};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::types::IP;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Rows a batch, so that a big file is never held twice.
const BATCH_ROWS: usize = 8192;

/// Reads a file's rows batch by batch. Without `columns` those of a Parquet file are its own, and
/// those of a CSV or JSON Lines file are text.
pub fn read(
    path: &Path,
    columns: Option<SchemaRef>,
    delimiter: u8,
    mut each: impl FnMut(RecordBatch) -> Result<(), String>,
) -> Result<SchemaRef, String> {
    let shown = path.display();
    // What is not there, or no file, is not asked for its extension.
    super::open(path)?;
    let extension = format_extension(path);
    match extension.as_str() {
        "csv" | "tsv" => {
            let delimiter = if extension == "tsv" { b'\t' } else { delimiter };
            let names = csv_names(path, delimiter)?;
            let columns = match columns {
                Some(columns) => columns,
                None => text_columns(&names),
            };
            // The reader goes by position: every column of the file is read as text where it is
            // not wanted, then dropped.
            let raw: Vec<Field> = names
                .iter()
                .map(|name| match columns.field_with_name(name) {
                    Ok(field) => Field::new(name, textual(field.data_type()), true),
                    Err(_) => Field::new(name, DataType::Utf8, true),
                })
                .collect();
            let wanted = positions(path, &columns, &names)?;
            let reader = arrow_csv::ReaderBuilder::new(Arc::new(Schema::new(raw)))
                .with_header(true)
                .with_delimiter(delimiter)
                .with_batch_size(BATCH_ROWS)
                .with_projection(wanted.clone())
                .build(open_text(path)?)
                .map_err(|e| format!("cannot read {shown}: {e}"))?;
            for batch in reader {
                let batch = batch.map_err(|e| format!("cannot read {shown}: {e}"))?;
                each(typed(&batch, &columns).map_err(|e| format!("{shown}: {e}"))?)?;
            }
            Ok(columns)
        }
        "jsonl" | "ndjson" | "json" => {
            let columns = match columns {
                Some(columns) => columns,
                None => {
                    let (schema, _) = arrow_json::reader::infer_json_schema(
                        BufReader::new(open_text(path)?),
                        Some(1000),
                    )
                    .map_err(|e| format!("cannot read {shown}: {e}"))?;
                    Arc::new(schema)
                }
            };
            let raw: Vec<Field> = columns
                .fields()
                .iter()
                .map(|f| Field::new(f.name(), textual(f.data_type()), true))
                .collect();
            let reader = arrow_json::ReaderBuilder::new(Arc::new(Schema::new(raw)))
                .with_batch_size(BATCH_ROWS)
                .with_coerce_primitive(true)
                .build(BufReader::new(open_text(path)?))
                .map_err(|e| format!("cannot read {shown}: {e}"))?;
            for batch in reader {
                let batch = batch.map_err(|e| format!("cannot read {shown}: {e}"))?;
                each(typed(&batch, &columns).map_err(|e| format!("{shown}: {e}"))?)?;
            }
            Ok(columns)
        }
        "parquet" => {
            let file =
                std::fs::File::open(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
            let builder =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
                    .map_err(|e| format!("{shown} is not a Parquet file we can read: {e}"))?;
            let own = builder.schema().clone();
            let columns = columns.unwrap_or(own);
            let reader = builder
                .with_batch_size(BATCH_ROWS)
                .build()
                .map_err(|e| format!("cannot read {shown}: {e}"))?;
            for batch in reader {
                let batch = batch.map_err(|e| format!("cannot read {shown}: {e}"))?;
                each(typed(&batch, &columns).map_err(|e| format!("{shown}: {e}"))?)?;
            }
            Ok(columns)
        }
        other => Err(format!(
            "{shown}: `.{other}` is not a kind of file we read: use .csv, .tsv, .jsonl or .parquet \
             (the first three also as .gz)"
        )),
    }
}

/// All rows of a file as one batch.
pub fn read_all(
    path: &Path,
    columns: Option<SchemaRef>,
    delimiter: u8,
) -> Result<RecordBatch, String> {
    let mut batches = Vec::new();
    let schema = read(path, columns, delimiter, |batch| {
        batches.push(batch);
        Ok(())
    })?;
    arrow_select::concat::concat_batches(&schema, &batches)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// The column names that a file has, without reading its rows where that can be helped.
pub fn columns_of(path: &Path, delimiter: u8) -> Result<SchemaRef, String> {
    match format_extension(path).as_str() {
        "csv" => Ok(text_columns(&csv_names(path, delimiter)?)),
        "tsv" => Ok(text_columns(&csv_names(path, b'\t')?)),
        _ => read(path, None, delimiter, |_| Ok(())),
    }
}

fn csv_names(path: &Path, delimiter: u8) -> Result<Vec<String>, String> {
    let mut line = String::new();
    BufReader::new(open_text(path)?)
        .read_line(&mut line)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(format!("{} is empty: its first line should name the columns", path.display()));
    }
    Ok(line.split(delimiter as char).map(|name| name.trim().trim_matches('"').to_owned()).collect())
}

fn text_columns(names: &[String]) -> SchemaRef {
    let fields = names.iter().map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn positions(path: &Path, columns: &Schema, names: &[String]) -> Result<Vec<usize>, String> {
    let mut wanted = Vec::new();
    for field in columns.fields() {
        let at = names.iter().position(|name| name == field.name()).ok_or_else(|| {
            format!(
                "{} has no column `{}`; it has {}",
                path.display(),
                field.name(),
                names.join(", ")
            )
        })?;
        wanted.push(at);
    }
    Ok(wanted)
}

/// What the file reader can parse itself; the rest is read as text and cast.
fn textual(data_type: &DataType) -> DataType {
    if *data_type == IP { DataType::Utf8 } else { data_type.clone() }
}

fn typed(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, String> {
    let arrays = columns
        .fields()
        .iter()
        .map(|field| {
            let array = batch
                .column_by_name(field.name())
                .ok_or_else(|| format!("there is no column `{}`", field.name()))?;
            if array.data_type() == field.data_type() {
                return Ok(array.clone());
            }
            if *field.data_type() == IP {
                return addresses(field.name(), array);
            }
            let strict = arrow_cast::CastOptions { safe: false, ..Default::default() };
            arrow_cast::cast_with_options(array, field.data_type(), &strict)
                .map_err(|e| format!("column `{}`: {e}", field.name()))
        })
        .collect::<Result<Vec<ArrayRef>, String>>()?;
    RecordBatch::try_new(columns.clone(), arrays).map_err(|e| e.to_string())
}

fn addresses(name: &str, array: &ArrayRef) -> Result<ArrayRef, String> {
    let texts = arrow_cast::cast(array, &DataType::Utf8).map_err(|e| e.to_string())?;
    let texts = texts.as_any().downcast_ref::<StringArray>().ok_or("text expected")?;
    let mut builder = FixedSizeBinaryBuilder::with_capacity(texts.len(), 16);
    for text in texts {
        match text {
            Some(text) => {
                let address: std::net::IpAddr = text
                    .trim()
                    .parse()
                    .map_err(|_| format!("column `{name}`: `{text}` is not an IP address"))?;
                let bytes = match address {
                    std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    std::net::IpAddr::V6(v6) => v6.octets(),
                };
                builder.append_value(bytes).map_err(|e| e.to_string())?;
            }
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn schema(columns: &[(&str, &str)]) -> SchemaRef {
        let fields = columns
            .iter()
            .map(|(name, t)| Field::new(*name, millstream_core::types::parse(t).unwrap(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn csv_columns_by_name_and_type() {
        let (_dir, path) = file("r.csv", "start,skip,end,n\n1.2.3.4,x,1.2.3.9,7\n::1,y,::2,\n");
        let columns = schema(&[("n", "int"), ("start", "ip"), ("end", "ip")]);
        let rows = read_all(&path, Some(columns), b',').unwrap();
        assert_eq!((rows.num_rows(), rows.num_columns()), (2, 3));
        assert!(rows.column(0).is_null(1));
        let missing = schema(&[("stop", "ip")]);
        assert!(read_all(&path, Some(missing), b',').unwrap_err().contains("no column `stop`"));
    }

    #[test]
    fn json_lines_are_inferred_or_typed() {
        let (_dir, path) = file("r.jsonl", "{\"id\":1,\"name\":\"a\"}\n{\"id\":2}\n");
        assert_eq!(read_all(&path, None, b',').unwrap().num_rows(), 2);
        let rows =
            read_all(&path, Some(schema(&[("id", "string"), ("name", "string")])), b',').unwrap();
        assert_eq!(rows.column(0).data_type(), &DataType::Utf8);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        for (name, text) in [
            ("r.csv", "\u{feff}\"id\",name\n1,a\n"),
            ("r.tsv", "\u{feff}id\tname\n1\ta\n"),
            ("r.jsonl", "\u{feff}{\"id\":\"1\",\"name\":\"a\"}\n"),
        ] {
            let (_dir, path) = file(name, text);
            let columns = schema(&[("id", "int"), ("name", "string")]);
            let rows = read_all(&path, Some(columns), b',').unwrap();
            assert_eq!(rows.num_rows(), 1, "{name}");
            assert_eq!(columns_of(&path, b',').unwrap().field(0).name(), "id", "{name}");
        }
        let (_dir, path) = file("r.csv", "\u{feff}");
        assert!(columns_of(&path, b',').unwrap_err().contains("is empty"));
    }
}
