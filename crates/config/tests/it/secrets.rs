//! Secrets: read from the environment, a file or the text itself, and never shown.

use crate::env;
use millstream_config::{Mistakes, Secret, parse_as};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Login {
    /// Who logs in.
    user: String,
    /// The password.
    password: Option<Secret>,
    /// How often to try.
    tries: Option<u32>,
}

fn login(text: &str, file: &Path) -> Result<Login, Mistakes> {
    parse_as::<Login>(text, file, &env).map(|document| document.spec)
}

#[test]
fn a_secret_comes_from_the_environment_a_file_or_the_text() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    let file = folder.path().join("login.yaml");
    for given in ["${PASSWORD}", "{ file: password }", "hunter2", "\"${NONE:-hunter2}\""] {
        let login = login(&format!("user: me\npassword: {given}\n"), &file).unwrap();
        let password = login.password.as_ref().unwrap();
        assert_eq!(password.reveal(), "hunter2", "{given}");
        let printed = format!("{login:?} {login:#?} {}", serde_json::to_string(&login).unwrap());
        assert!(printed.contains("***") && !printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    for text in [
        // On the line of another mistake.
        "{ user: me, password: hunter2, trees: 3 }",
        "{ user: me, password: 'hunter2', tries: many }",
        "{ password: \"hunter2\" }",
        // A secret under a misspelled name, and one of the wrong kind.
        "{ user: me, pasword: hunter2 }",
        "user: me\npassword: [hunter2]\n",
        "user: me\npassword: { fil: hunter2 }\n",
        "user: me\npassword: { user: a, key: hunter2 }\n",
        // From the environment into fields of other types.
        "{ user: me, tries: \"${PASSWORD}\" }",
        "user: [a]\ntries: ${PASSWORD}\n",
        // In a text that is not YAML at all.
        "user: me\npassword: \"hunter2\n",
        "user: me\npassword: hunter2: x\n",
        "{ user: me, password: hunter2 ]",
        "user: me\npassword: @hunter2\n",
        "user: me\npassword: a\npassword: hunter2\n",
    ] {
        let mistakes = login(text, Path::new("login.yaml")).unwrap_err();
        let said = format!("{mistakes} {mistakes:?} {}", serde_json::to_string(&mistakes).unwrap());
        assert!(!said.contains("hunter2"), "{text}\n{mistakes}");
    }
}

#[test]
fn no_mistake_of_a_pipeline_shows_what_a_variable_gives() {
    let text = "
pipeline: p
source: { topic: t, format: \"${PASSWORD}\", start: \"${PASSWORD}\" }
steps: [{ from: \"${PASSWORD}\", sql: SELECT 1 }]
sinks:
  - { table: t, key: [\"${PASSWORD}\", \"${PASSWORD}\"], ttl: \"${PASSWORD}\" }
  - { topic: x, format: json, partitions: \"${PASSWORD}\", from: \"${PASSWORD}\" }
max_dead_ratio: ${PASSWORD}
";
    let mistakes = crate::read(text).unwrap_err();
    assert!(mistakes.0.len() >= 8, "{mistakes}");
    assert!(!mistakes.to_string().contains("hunter2"), "{mistakes}");
}

#[test]
fn a_hidden_secret_does_not_move_the_mark() {
    let text = "{ user: me, password: hunter2, trees: 3 }";
    let mistakes = login(text, Path::new("login.yaml")).unwrap_err();
    insta::assert_snapshot!(mistakes, @r"
    error: unknown field `trees`
      --> login.yaml:1:32
      |
    1 | { user: me, password: ***, trees: 3 }
      |                            ^^^^^
      |
      = help: did you mean `tries`?
    ");
}

#[test]
fn what_stands_in_an_address_is_not_shown() {
    for (line, shown) in [
        ("http://me:hunter2@host:1/in", "http://***@host:1/in"),
        ("https://host/in/{id}?key=hunter2&x={id}", "https://host/in/{id}?***"),
        ("http://hunter2@host?hunter2", "http://***@host?***"),
        ("http://host/path", "http://host/path"),
    ] {
        let text = format!("{{ user: \"{line}\", trees: 3 }}");
        let said = login(&text, Path::new("login.yaml")).unwrap_err().to_string();
        let wanted = format!("{{ user: \"{shown}\", trees: 3 }}");
        assert!(said.contains(&wanted) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_secret_file_that_is_not_there_is_named() {
    let said = login("user: me\npassword: { file: nowhere }\n", Path::new("login.yaml"));
    let said = said.unwrap_err().to_string();
    assert!(said.contains("the file of the secret `password` cannot be read"), "{said}");
}
