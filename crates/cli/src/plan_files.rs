//! The pipeline files of a command, and the variables that they name.

use crate::failure::Result;
use millstream_console::PlanFiles;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// The names in `${NAME}` and `${NAME:-default}`. A file that cannot be read has none: whoever
/// reads it for good says what is wrong with it.
fn variables_of(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split("${")
        .skip(1)
        .map(|rest| {
            let name = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
            name.collect::<String>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}
