//! Anything at all as a pipeline file and as its tests: mistakes, never a panic.

use crate::env;
use millstream_config::{parse, parse_tests};
use millstream_testkit::fuzz;
use std::path::Path;

const WORDS: [&str; 40] = [
    "pipeline:",
    "source:",
    "sinks:",
    "steps:",
    "lookups:",
    "format:",
    "topic:",
    "table:",
    "file:",
    "sql:",
    "key:",
    "columns:",
    "avro",
    "json",
    "csv",
    "text",
    "${TOPIC}",
    "${MISSING:-7}",
    "${",
    "$$",
    "- ",
    "? ",
    ": ",
    "#",
    "|",
    ">-",
    "|+2",
    "&a",
    "*a",
    "<<: *a",
    "!!str",
    "!!binary",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "~",
    "1h30m",
    "10GiB",
    "2.5%",
    "decimal(10, 2)",
];

#[test]
fn fuzz_pipeline_files() {
    let broken = include_str!("broken.txt");
    let mut corpus = vec![include_str!("navigation.yaml")];
    corpus.extend(broken.split("\n=== ").filter_map(|case| Some(case.split_once('\n')?.1)));
    fuzz::run_text("fuzz_pipeline_files", &corpus, &WORDS, |text| {
        match parse(text, Path::new("pipeline.yaml"), &env) {
            Ok(pipeline) => {
                let _ = pipeline.spec.dead_letters_topic();
                let mistake = pipeline.mistake_in_block("/steps/0/sql", 2, 3, "x", None);
                assert!(!mistake.to_string().is_empty());
            }
            Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
        }
    });
}

#[test]
fn fuzz_tests_files() {
    let corpus = [crate::tests_file::CASES];
    fuzz::run_text("fuzz_tests_files", &corpus, &WORDS, |text| {
        if let Err(mistakes) = parse_tests(text, Path::new("p.test.yaml"), &env) {
            assert!(!mistakes.to_string().is_empty());
        }
    });
}
