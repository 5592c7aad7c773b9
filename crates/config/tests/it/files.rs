//! Files as they lie on a disk: missing, too large, not text, two of one name.

use crate::env;
use millstream_config::{Mistakes, load, load_many, tests_path};
use std::path::{Path, PathBuf};

const PIPELINE: &str =
    "pipeline: NAME\nsource: { topic: t, format: json }\nsinks: [{ discard: true }]\n";

fn write(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn message(result: Result<millstream_config::Pipeline, Mistakes>) -> String {
    let mistakes = result.unwrap_err();
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
    assert_eq!(mistakes.0[0].line, 0, "{mistakes}");
    mistakes.to_string()
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (folder.path().to_owned(), "this is a directory"),
        (folder.path().join("none.yaml"), "there is no such file"),
        (folder.path().join("none/none.yaml"), "there is no such file"),
        (write(&folder, "empty.yaml", ""), "the file is empty"),
        (write(&folder, "latin.yaml", b"pipeline: p\ndescription: caf\xe9\n"), "0xe9 on line 2"),
        (write(&folder, "utf16.yaml", b"\xff\xfep\0i\0"), "the file is UTF-16"),
        (write(&folder, "large.yaml", "#".repeat((1 << 20) + 1)), "larger than 1 MiB"),
    ];
    for (path, wanted) in cases {
        let said = message(load(&path, &env));
        assert!(said.contains(wanted), "{said}");
        assert!(said.contains(&path.display().to_string()), "{said}");
    }
    let mut fits = PIPELINE.to_owned();
    fits.push_str(&"#".repeat((1 << 20) - fits.len()));
    assert!(load(&write(&folder, "fits.yaml", fits), &env).is_ok());
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    let said = message(load(Path::new("/dev/zero"), &env));
    assert!(said.contains("a pipe or a device"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let sparse = write(&folder, "sparse.yaml", String::new());
    std::fs::File::options().write(true).open(&sparse).unwrap().set_len(1 << 40).unwrap();
    let said = message(load(&sparse, &env));
    assert!(said.contains("larger than"), "{said}");
}

#[test]
fn paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.yaml", PIPELINE.replace("NAME", "a"));
    let pipeline = load(&path, &env).unwrap();
    assert_eq!(pipeline.resolve("x/y.csv"), folder.path().join("x/y.csv"));
    assert_eq!(pipeline.resolve("/abs.csv"), Path::new("/abs.csv"));
    assert_eq!(pipeline.file(), path);
    assert_eq!(tests_path(Path::new("d/a.yaml")), Path::new("d/a.test.yaml"));
    assert_eq!(tests_path(Path::new("a.yml")), Path::new("a.test.yml"));
}

#[test]
fn two_pipelines_of_one_name_are_both_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = write(&folder, "first.yaml", PIPELINE.replace("NAME", "same"));
    let other = write(&folder, "other.yaml", PIPELINE.replace("NAME", "other"));
    let second =
        write(&folder, "second.yaml", format!("# late\n{}", PIPELINE.replace("NAME", "same")));

    let good = load_many(&[&first, &other], &env).unwrap();
    let names: Vec<&str> = good.iter().map(|pipeline| pipeline.spec.pipeline.as_str()).collect();
    assert_eq!(names, ["same", "other"]);

    let said = load_many(&[&first, &other, &second], &env).unwrap_err();
    assert_eq!(said.0.len(), 1, "{said}");
    let said = said.to_string();
    assert!(said.contains("two pipelines are named `same`"), "{said}");
    assert!(said.contains(&format!("{}:2:11", second.display())), "{said}");
    assert!(said.contains(&format!("{}:1", first.display())), "{said}");
    // The same file twice is two pipelines of one name, too.
    assert!(load_many(&[&first, &first], &env).is_err());
}

#[test]
fn the_mistakes_of_all_files_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.yaml");
    let wrong = write(&folder, "wrong.yaml", PIPELINE.replace("NAME", "a b"));
    let good = write(&folder, "good.yaml", PIPELINE.replace("NAME", "good"));
    let said = load_many(&[none, good, wrong], &env).unwrap_err();
    let messages: Vec<&str> = said.0.iter().map(|mistake| mistake.message.as_str()).collect();
    assert_eq!(messages, ["there is no such file", "`a b` cannot be a name"]);
}
