//! What is on disk: reopening, torn tails, damage, and what a read-only view leaves alone.

use millstream_core::{Disposition, SchemaKind, Schemas};
use millstream_registry::{Config, Deleted, Level, Mode, NewSchema, Reference, Registry, Version};
use std::fs;
use std::path::{Path, PathBuf};

fn record(fields: &str) -> NewSchema {
    NewSchema::avro(format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#))
}

const A: &str = r#"{"name":"a","type":"int","default":0}"#;
const B: &str = r#"{"name":"b","type":"int","default":0}"#;

fn fill(registry: &Registry) {
    registry.register("one", &record(A), false).unwrap();
    registry.register("one", &record(&format!("{A},{B}")), false).unwrap();
    registry.register("two/ü", &record(A), false).unwrap();
    let reference = Reference { name: "R".into(), subject: "one".into(), version: 2 };
    let user = NewSchema {
        schema: r#"{"type":"array","items":"R"}"#.into(),
        references: Some(vec![reference]),
        metadata: Some(serde_json::json!({"properties": {"owner": "ann"}})),
        ..NewSchema::default()
    };
    registry.register("user", &user, false).unwrap();
    registry.register("gone", &record(B), false).unwrap();
    registry.delete_subject("gone", false).unwrap();
    registry.delete_subject("gone", true).unwrap();
    registry.delete_version("one", Version::Number(1), false).unwrap();
    let full = Config { compatibility_level: Some(Level::Full), normalize: None };
    registry.set_config(None, full).unwrap();
    let none = Config { compatibility_level: Some(Level::None), normalize: Some(true) };
    registry.set_config(Some("one"), none).unwrap();
    registry.set_mode(Some("two/ü"), Mode::Readonly, false).unwrap();
}

/// Everything that can be seen from outside.
fn show(registry: &Registry) -> String {
    let mut text = String::new();
    for found in registry.schemas(true, false, "") {
        text += &format!(
            "{} {} {} {} {} {:?} {:?} {:?}\n",
            found.subject,
            found.version,
            found.deleted,
            found.schema.id,
            found.schema.text,
            found.schema.references,
            found.schema.metadata,
            found.schema.registered.references,
        );
    }
    for subject in [None, Some("one"), Some("two/ü")] {
        text += &format!(
            "{:?} {:?}\n",
            registry.config(subject, false).ok(),
            registry.mode(subject, false).ok()
        );
    }
    text + &format!("{}", registry.id_max())
}

fn filled() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("new/registry");
    let registry = Registry::open(&home).unwrap();
    fill(&registry);
    let shown = show(&registry);
    drop(registry);
    let journal = fs::read_dir(&home).unwrap().next().unwrap().unwrap().path();
    (dir, journal, shown)
}

fn home(journal: &Path) -> &Path {
    journal.parent().unwrap()
}

#[test]
fn everything_is_there_after_reopening() {
    let (_dir, journal, shown) = filled();
    assert!(shown.contains("two/ü 1 false 1"), "one content, one id: {shown}");
    assert!(shown.contains("one 1 true 1"), "a soft delete: {shown}");
    let registry = Registry::open(home(&journal)).unwrap();
    assert_eq!(show(&registry), shown);
    // The id of a schema that is gone for good is not given again.
    assert_eq!(registry.register("again", &record(A), false).unwrap().id, 1);
    let next = registry.register("next", &NewSchema::avro("\"int\""), false).unwrap();
    assert_eq!((next.id, next.version), (5, 1));
    let error = registry.register("two/ü", &record(B), false).unwrap_err();
    assert_eq!(error.code(), 42205, "read-only after reopening: {error}");
}

#[test]
fn a_memory_registry_answers_alike() {
    let (_dir, _, shown) = filled();
    let registry = Registry::in_memory();
    fill(&registry);
    assert_eq!(show(&registry), shown);
}

#[test]
fn a_last_line_cut_anywhere_is_cut_off() {
    let (_dir, journal, _) = filled();
    let whole = fs::read(&journal).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&journal, &whole[..last]).unwrap();
    let before = show(&Registry::open(home(&journal)).unwrap());
    for cut in last + 1..whole.len() - 1 {
        fs::write(&journal, &whole[..cut]).unwrap();
        assert_eq!(show(&Registry::open_read_only(home(&journal)).unwrap()), before);
        assert_eq!(fs::read(&journal).unwrap(), &whole[..cut], "read-only writes nothing");
        let registry = Registry::open(home(&journal)).unwrap();
        assert_eq!(show(&registry), before);
        assert_eq!(fs::read(&journal).unwrap(), &whole[..last]);
        registry.set_mode(None, Mode::Readonly, false).unwrap();
        drop(registry);
        let registry = Registry::open(home(&journal)).unwrap();
        assert_eq!(registry.mode(None, false).unwrap(), Mode::Readonly, "appends after the cut");
    }
}

#[test]
fn a_last_line_that_lacks_its_newline_only_is_kept() {
    let (_dir, journal, shown) = filled();
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    let registry = Registry::open(home(&journal)).unwrap();
    assert_eq!(show(&registry), shown);
    assert_eq!(fs::read(&journal).unwrap(), whole);
}

#[test]
fn a_tail_of_zeros_is_cut_off() {
    let (_dir, journal, shown) = filled();
    let whole = fs::read(&journal).unwrap();
    for tail in [&[0u8; 64][..], b"{\"crc32c\":\"\0\0\0\0\0\0\0\n"] {
        fs::write(&journal, [&whole, tail].concat()).unwrap();
        assert_eq!(show(&Registry::open(home(&journal)).unwrap()), shown);
        assert_eq!(fs::read(&journal).unwrap(), whole);
    }
}

/// A flipped bit in any byte of any whole line is refused with the line's number.
#[test]
fn damage_is_refused_with_its_line() {
    let (_dir, journal, _) = filled();
    let whole = fs::read(&journal).unwrap();
    let mut line = 1;
    for at in 0..whole.len() - 1 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x04;
        fs::write(&journal, &bytes).unwrap();
        let error = Registry::open(home(&journal)).expect_err("damage").to_string();
        assert!(error.contains(&format!("line {line}:")), "byte {at} of line {line}: {error}");
        assert!(Registry::open_read_only(home(&journal)).is_err());
        assert_eq!(fs::read(&journal).unwrap(), bytes, "what is damaged is left as it is");
        if whole[at] == b'\n' {
            line += 1;
        }
    }
    assert!(line > 10);

    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |gone: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != gone);
        kept.map(|(_, line)| *line).collect::<Vec<_>>().concat()
    };
    fs::write(&journal, without(0)).unwrap();
    let error = Registry::open(home(&journal)).unwrap_err().to_string();
    assert!(error.contains("line 1:"), "{error}");
    // Without the first schema, the one that references nothing uses an unknown id.
    fs::write(&journal, without(1)).unwrap();
    assert!(Registry::open(home(&journal)).is_err());
}

#[test]
fn a_newer_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entry = r#"{"op":"journal","version":2}"#;
    let line =
        format!("{{\"crc32c\":\"{:08x}\",\"entry\":{entry}}}\n", crc32c::crc32c(entry.as_bytes()));
    fs::write(dir.path().join("registry.jsonl"), line).unwrap();
    let error = Registry::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("newer"), "{error}");
}

#[test]
fn one_process_at_a_time_writes() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    let error = Registry::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    registry.register("s", &record(A), false).unwrap();
    let view = Registry::open_read_only(dir.path()).unwrap();
    assert_eq!(view.subjects(Deleted::Hidden, ""), ["s"]);
    let error = view.register("t", &record(A), false).unwrap_err();
    assert!(error.to_string().contains("reading only"), "{error}");
    assert_eq!(view.register("s", &record(A), false).unwrap().id, 1, "what is there is found");
    drop(registry);
    Registry::open(dir.path()).unwrap();
}

#[test]
fn reading_an_empty_directory_leaves_it_empty() {
    let dir = tempfile::tempdir().unwrap();
    let view = Registry::open_read_only(dir.path()).unwrap();
    assert!(view.subjects(Deleted::Included, "").is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(Registry::open(&dir.path().join("a\0b")).is_err());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(Registry::open(&file).unwrap_err().code(), 50001);
}

#[tokio::test]
async fn formats_see_schemas_with_the_texts_of_their_references() {
    let registry = Registry::in_memory();
    let id = Schemas::register(&registry, "s", SchemaKind::Avro, "\"int\"").await.unwrap();
    assert_eq!(Schemas::register(&registry, "s", SchemaKind::Avro, "\"int\"").await.unwrap(), id);
    let error =
        Schemas::register(&registry, "s", SchemaKind::Avro, "\"string\"").await.unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Stop, "incompatible_schema"));
    assert_eq!(&*Schemas::by_id(&registry, id).await.unwrap().text, "\"int\"");
    let error = Schemas::by_id(&registry, 99).await.unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Reject, "unknown_schema"));
    assert!(registry.latest("unknown").await.unwrap().is_none());
    assert_eq!(registry.latest("s").await.unwrap().unwrap().id, id);

    // Two steps of references come dependencies first.
    let with = |schema: &str, name: &str, subject: &str| NewSchema {
        schema: schema.into(),
        references: Some(vec![Reference {
            name: name.into(),
            subject: subject.into(),
            version: -1,
        }]),
        ..NewSchema::default()
    };
    registry.register("r", &record(A), false).unwrap();
    let middle = r#"{"type":"record","name":"M","fields":[{"name":"r","type":"R"}]}"#;
    registry.register("m", &with(middle, "R", "r"), false).unwrap();
    let top = registry.register("t", &with(r#"["null","M"]"#, "M", "m"), false).unwrap();
    let top = Schemas::by_id(&registry, top.id).await.unwrap();
    let names: Vec<_> = top.references.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["R", "M"]);
}

#[test]
fn many_threads_agree_on_ids() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    let ids: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let registry = registry.clone();
                scope.spawn(move || {
                    (0..20)
                        .map(|at| {
                            let schema = NewSchema::avro(format!(
                                r#"{{"type":"fixed","name":"F{at}","size":1}}"#
                            ));
                            let subject = format!("s{at}-{}", thread % 2);
                            registry.register(&subject, &schema, false).unwrap().id
                        })
                        .collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|other| *other == ids[0]), "{ids:?}");
    assert_eq!(registry.id_max(), 20);
    let shown = show(&registry);
    drop(registry);
    assert_eq!(show(&Registry::open(dir.path()).unwrap()), shown);
}
