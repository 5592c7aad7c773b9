//! The pipeline files of a command, and the variables that they name.

use crate::failure::Result;
use millstream_console::PlanFiles;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger ones are refused by whoever reads them for good.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// What a process that may not share our folder and environment needs to read the files as we do.
pub fn plan_files(files: &[PathBuf]) -> Result<PlanFiles> {
    let mut variables = BTreeMap::new();
    let mut paths = Vec::new();
    for file in files {
        let path = std::path::absolute(file)?;
        for read in [path.clone(), millstream_config::tests_path(&path)] {
            for name in variables_of(&read) {
                if let Ok(value) = std::env::var(&name) {
                    variables.insert(name, value);
                }
            }
        }
        paths.push(path);
    }
    Ok(PlanFiles { paths, variables })
}

/// A text that may be a pipeline's or its tests'; a pipe would make the reader wait.
fn text_of(file: &Path) -> Option<String> {
    let meta = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    if meta.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut text = String::new();
    File::open(file).ok()?.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The names in `${NAME}` and `${NAME:-default}`. A file that cannot be read has none: whoever
/// reads it for good says what is wrong with it.
fn variables_of(file: &Path) -> Vec<String> {
    let text = text_of(file).unwrap_or_default();
    text.split("${")
        .skip(1)
        .map(|rest| {
            let name = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
            name.collect::<String>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}
