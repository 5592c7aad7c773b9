//! What a user may get wrong: each has its exit code and a sentence that names the thing.

use crate::program::Program;

/// Arguments, exit code, and what the sentence must hold.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

fn check(program: &Program, cases: &[Case]) {
    for (args, code, words) in cases {
        let said = program.run(args);
        assert_eq!(said.code, *code, "{args:?}: {}{}", said.out, said.err);
        for word in *words {
            assert!(said.err.contains(word), "{args:?} does not say {word:?}: {}", said.err);
        }
        assert!(!said.err.contains("panicked"), "{args:?}: {}", said.err);
    }
}

#[test]
fn of_the_command_line() {
    let program = Program::new();
    check(
        &program,
        &[
            (&["frobnicate"], 2, &["frobnicate"]),
            (&["topics", "lst"], 2, &["lst", "list"]),
            (&["run"], 2, &["FILE"]),
            (&["topics", "list", "--colour"], 2, &["--colour"]),
            (&["topics", "create", "t", "--retention", "7"], 2, &["7", "7d"]),
            (
                &["tables", "create", "t", "--column", "a:int", "--key", "a", "--ttl", "0s"],
                2,
                &["0s", "at least 1ms"],
            ),
            (&["offsets", "reset", "p", "--to", "-3"], 2, &["-3", "an offset is 0 or more"]),
            (&["topics", "create", "t", "--compression", "zip"], 2, &["zip", "zstd"]),
            (&["offsets", "reset", "p", "--to", "soon"], 2, &["soon", "earliest"]),
            (&["tap", "t", "--from", "yesterday"], 2, &["yesterday", "latest"]),
            (&["run", "x.yaml", "--listen", "here"], 2, &["here", "127.0.0.1:9464"]),
            (&["run", "x.yaml", "--threads", "0"], 2, &["0"]),
            (&["tables", "create", "t", "--column", "id", "--key", "id"], 2, &["NAME:TYPE"]),
            (&["tables", "create", "t", "--column", "id:bigin"], 2, &["bigin", "bigint"]),
            (&["dead-letters", "show", "t", "5"], 2, &["PARTITION:OFFSET"]),
            (&["dead-letters", "replay", "p"], 2, &["--all"]),
            (&["--log", "a=b=c", "topics", "list"], 2, &["--log", "a=b=c"]),
            (&["demo", "--events", "5"], 2, &["5"]),
        ],
    );
}

#[test]
fn of_names_that_are_not_there() {
    let program = Program::new();
    program.ok(&["topics", "create", "visits", "--partitions", "2"]);
    program.ok(&["tables", "create", "sites", "--column", "id:bigint", "--key", "id"]);
    check(
        &program,
        &[
            (&["--data", "nowhere", "topics", "list"], 2, &["nowhere", "--data"]),
            (&["topics", "describe", "visit"], 2, &["`visit`", "visits"]),
            (&["topics", "delete", "visit", "--yes"], 2, &["`visit`"]),
            (&["topics", "delete", "visits"], 2, &["visits", "--yes"]),
            (&["topics", "verify", "visit"], 2, &["`visit`"]),
            (&["topics", "create", "visits"], 2, &["visits", "exists"]),
            (&["topics", "create", "a/b"], 2, &["a/b"]),
            (&["topics", "create", "z", "--partitions", "0"], 2, &["partitions", "0"]),
            (&["tap", "visit", "--no-follow"], 2, &["`visit`"]),
            (
                &["tap", "visits", "--no-follow", "--partition", "2"],
                2,
                &["`visits` has the partitions 0 and 1, not 2"],
            ),
            (&["tap", "visits", "--no-follow", "--partition", "0", "--from", "9"], 2, &["9"]),
            (&["produce", "visit"], 2, &["`visit`", "--partitions"]),
            (&["produce", "visits", "--partitions", "3"], 2, &["2 partitions", "3"]),
            (&["produce", "visits", "missing.txt"], 2, &["missing.txt"]),
            (&["produce", "visits", "."], 2, &["directory"]),
            (&["produce", "visits", "--subject", "none"], 2, &["none"]),
            (&["tables", "get", "site", "1"], 2, &["`site`", "sites"]),
            (&["tables", "get", "sites", "one"], 2, &["one"]),
            (&["tables", "get", "sites", "1", "2"], 2, &["1 column"]),
            (&["tables", "get", "sites", "1"], 1, &["no row"]),
            (&["tables", "drop", "sites"], 2, &["--yes"]),
            (&["tables", "drop", "site"], 2, &["there is no table `site`", "sites"]),
            (&["tables", "load", "sites", "missing.csv"], 2, &["there is no file", "missing.csv"]),
            (&["tables", "load", "sites", "missing"], 2, &["there is no file", "missing"]),
            (&["tables", "load", "sites", "."], 2, &["is a directory"]),
            (
                &["tables", "create", "sites", "--column", "a:int", "--key", "a,b"],
                2,
                &["table `sites`"],
            ),
            (&["schemas", "show", "none"], 2, &["none"]),
            (&["schemas", "show", "--id", "9"], 2, &["9"]),
            (&["schemas", "register", "s", "missing.avsc"], 2, &["missing.avsc"]),
            (&["schemas", "level", "SIDEWAYS"], 2, &["evel"]),
            (&["offsets", "show", "none"], 2, &["`none`"]),
            (&["offsets", "reset", "none", "--to", "earliest"], 2, &["`none`"]),
            (&["offsets", "forget", "none"], 2, &["there is no pipeline `none`"]),
            (&["offsets", "forget", "none", "--yes"], 2, &["`none`"]),
            (&["dead-letters", "show", "visits", "0:0"], 2, &["0:0"]),
            (&["dead-letters", "list", "--topic", "none"], 2, &["`none`"]),
            (&["dead-letters", "list", "--pipeline", "none"], 2, &["`none`"]),
            (&["dead-letters", "replay", "none", "--all"], 2, &["none", "--file"]),
        ],
    );
}

#[test]
fn of_pipeline_files() {
    let program = Program::new();
    program.write("broken.yaml", "pipeline: [x\n");
    program.write("unknown.yaml", "pipelin: x\n");
    program.write("empty.yaml", "");
    program.write("binary.yaml", [0xff, 0xfe, 0x00, 0x01]);
    program.write("deep.yaml", format!("pipeline: {}{}", "[".repeat(10_000), "]".repeat(10_000)));
    let file = "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n";
    program.write("a.yaml", file);
    program.write("again.yaml", file);
    std::fs::create_dir(program.path("folder.yaml")).unwrap();
    for command in ["check", "run", "explain", "test"] {
        check(
            &program,
            &[
                (&[command, "missing.yaml"], 2, &["missing.yaml"]),
                (&[command, "folder.yaml"], 2, &["folder.yaml"]),
                (&[command, "broken.yaml"], 2, &["broken.yaml:"]),
                (&[command, "unknown.yaml"], 2, &["unknown.yaml:1:1", "pipelin", "pipeline"]),
                (&[command, "empty.yaml"], 2, &["empty.yaml"]),
                (&[command, "binary.yaml"], 2, &["binary.yaml"]),
                (&[command, "deep.yaml"], 2, &["deep.yaml"]),
                (&[command, "a.yaml", "again.yaml"], 2, &["two pipelines", "`a`"]),
                (&[command, "a.yaml"], 2, &["in.txt"]),
            ],
        );
    }
    program.write("in.txt", "one\n");
    check(&program, &[(&["test", "a.yaml"], 2, &["a.test.yaml"])]);
}

#[test]
fn of_files_that_no_pipeline_can_be_read_from() {
    let program = Program::new();
    let sparse = std::fs::File::create(program.path("sparse.yaml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let pipe = program.path("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Reading any of these to its end would not end.
    for command in ["check", "run", "explain", "test"] {
        check(
            &program,
            &[
                (&[command, "sparse.yaml"], 2, &["sparse.yaml", "larger than 1 MiB"]),
                (&[command, "pipe.yaml"], 2, &["pipe.yaml", "a pipe or a device"]),
                (&[command, "/dev/zero"], 2, &["/dev/zero", "a pipe or a device"]),
            ],
        );
    }
    check(
        &program,
        &[
            (&["schemas", "register", "s", "sparse.yaml"], 2, &["sparse.yaml", "16 MiB"]),
            (&["schemas", "register", "s", "pipe.yaml"], 2, &["pipe.yaml", "a pipe or a device"]),
        ],
    );
    program.write("bad.avsc", "{");
    check(&program, &[(&["schemas", "register", "s", "bad.avsc"], 2, &["bad.avsc: "])]);
    check(&program, &[(&["schemas", "compatible", "s", "bad.avsc"], 2, &["bad.avsc: "])]);
}

#[test]
fn of_lines_to_produce() {
    let program = Program::new();
    let produce = |args: &[&str], input: &[u8]| {
        program.feed(&[&["produce", "lines", "--partitions", "1"], args].concat(), input)
    };
    for (args, input, words) in [
        (&["--key-separator", ":"][..], &b"a:1\nb\n"[..], &["line 2", "`:`"][..]),
        (&[], b"a\nb\xff\n", &["line 2", "UTF-8"]),
        (&["--format", "jsonl"], b"{\"value\":1}\n{\n", &["line 2"]),
        (&["--format", "jsonl"], b"{\"valu\":1}\n", &["line 1", "valu"]),
        (&["--format", "jsonl", "--key-separator", ":"], b"", &["--key-separator"]),
        (&["--partition", "1"], b"a\n", &["`lines` has only the partition 0, not 1"]),
    ] {
        let said = produce(args, input);
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{args:?} does not say {word:?}: {}", said.err);
        }
    }
    let said = produce(&[], &vec![b'x'; 33 << 20]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("line 1 is longer than 32 MiB"), "{}", said.err);
}

#[test]
fn of_the_data_directory() {
    let program = Program::new();
    program.write("a-file", "x");
    let long = "d".repeat(120);
    program.write("in.txt", "one\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n",
    );
    let said = program.run(&["--data", "a-file", "topics", "list"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("a-file is a file"), "{}", said.err);
    let said = program.run(&["--data", "a-file/data", "topics", "create", "t"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("a-file is a file"), "{}", said.err);
    // Only the last part of its path is made.
    for args in [&["topics", "create", "t"][..], &["run", "a.yaml", "--listen", "off"]] {
        let said = program.run(&[&["--data", "not-there/data"], args].concat());
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("there is no directory not-there"), "{}", said.err);
        assert!(!program.path("not-there").exists());
    }
    // Nobody may make a directory there, whatever rights they have.
    for args in [&["topics", "create", "t"][..], &["run", "a.yaml", "--listen", "off"]] {
        let said = program.run(&[&["--data", "/proc/data"], args].concat());
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("/proc/data") && said.err.contains("--data"), "{}", said.err);
    }
    let args = ["--data", &long, "run", "a.yaml", "--listen", "off"];
    let said = program.run(&args);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("shorter --data"), "{}", said.err);
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let program = Program::new();
    program.ok(&["topics", "create", "t"]);
    let format = program.path("millstream-data/log/format");
    assert_eq!(std::fs::read_to_string(&format).unwrap().trim(), "millstream-log 1");
    std::fs::write(&format, "millstream-log 999\n").unwrap();
    for args in [&["topics", "list"][..], &["topics", "create", "u"]] {
        let said = program.run(args);
        assert_eq!(said.code, 1, "{}", said.err);
        assert!(said.err.contains("newer version") && said.err.contains("999"), "{}", said.err);
    }
}

#[test]
fn a_port_in_use_is_a_mistake_with_a_way_out() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n",
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = program.run(&["run", "a.yaml", "--listen", &address]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("in use") && said.err.contains("--listen"), "{}", said.err);
    assert!(!program.path("millstream-data/log").exists(), "nothing was opened");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::io::Read;
    let program = Program::new();
    let lines: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    program.feed(&["produce", "lines", "--partitions", "1"], lines);
    let mut child =
        program.command(&["tap", "lines", "--from", "earliest", "--no-follow"]).spawn().unwrap();
    let mut some = [0; 64];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_mistake_in_the_sql_is_json_where_that_is_asked_for() {
    let program = Program::new();
    program.write("lines.txt", "one\n");
    let text = "pipeline: p\nsource: { file: lines.txt, format: text }\nsteps:\n  - sql: SELECT nothing FROM input\nsinks:\n  - { topic: out, format: json }\n";
    program.write("p.yaml", text);
    let said = program.run(&["check", "p.yaml", "--json"]);
    assert_eq!(said.code, 2, "{}", said.err);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["ok"], false);
    let mistake = &answer["mistakes"][0];
    assert!(mistake["message"].as_str().unwrap().contains("nothing"), "{answer}");
    assert_eq!((&mistake["file"], &mistake["line"]), (&"p.yaml".into(), &4.into()), "{answer}");
    assert_eq!(mistake["column"], 17, "{answer}");
    assert!(mistake["hint"].as_str().unwrap().contains("line"), "{answer}");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let program = Program::new();
    std::fs::create_dir(program.path("photos")).unwrap();
    program.write("photos/cat.jpg", "x");
    program.write("in.txt", "one\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n",
    );
    for args in [
        &["topics", "list"][..],
        &["topics", "create", "t"],
        &["check", "a.yaml"],
        &["run", "a.yaml", "--listen", "off", "--until-end"],
    ] {
        let said = program.run(&[&["--data", "photos"], args].concat());
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        assert!(said.err.contains("`cat.jpg`") && said.err.contains("--data"), "{}", said.err);
    }
    let kept: Vec<_> = std::fs::read_dir(program.path("photos")).unwrap().collect();
    assert_eq!(kept.len(), 1, "nothing was made");
}

#[test]
fn an_empty_directory_is_one_on_which_nothing_ran() {
    let program = Program::new();
    std::fs::create_dir(program.path("volume")).unwrap();
    program.write("lines.txt", "one\n");
    let text = "pipeline: p\nsource: { file: lines.txt, format: text }\nsinks:\n  - { topic: out, format: json }\n";
    program.write("p.yaml", text);
    program.ok(&["--data", "volume", "check", "p.yaml"]);
    let said = program.run(&["--data", "volume", "topics", "list"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("nothing has been kept in volume yet"), "{}", said.err);
}
