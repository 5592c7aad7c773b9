//! `run`: its pages, its signals, its socket.

use crate::program::{Program, ask, eventually};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

/// A pipeline over a file that is followed.
fn follow() -> Program {
    let program = Program::new();
    program.write("in.txt", "one\ntwo\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, follow: true, format: text }\nsinks: [{ topic: out, format: json }]\n",
    );
    program
}

/// The value of a metric, by its name and labels as they are written.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no {name} in {text}")).parse().unwrap()
}

#[test]
fn the_pages_say_how_it_is() {
    let program = follow();
    let running = program.start(&["a.yaml"]);
    let text = eventually("both lines are out", || {
        let (status, text) = running.get("/metrics");
        assert_eq!(status, 200);
        let out = metric(&text, "millstream_rows_out_total{pipeline=\"a\"}");
        (out == 2.0).then_some(text)
    });
    assert_eq!(metric(&text, "millstream_rows_in_total{pipeline=\"a\"}"), 2.0);
    assert!(metric(&text, "millstream_log_bytes{topic=\"out\"}") > 0.0);
    assert!(metric(&text, "millstream_log_fsyncs_total") >= 1.0);
    assert!(metric(&text, "process_resident_memory_bytes") > 1e6);
    assert!(metric(&text, "process_start_time_seconds") > 1.7e9);
    assert!(text.contains("millstream_build_info{"));
    assert!(text.contains("millstream_log_group_commit_records_bucket{le="));
    let (status, body) = running.get("/health/ready");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["ready"]), (200, &Value::Bool(true)));
    assert_eq!(running.get("/health/live").0, 200);
    assert_eq!(running.get("/registry/subjects"), (200, "[]".to_owned()));
    assert!(running.get("/").1.contains("/metrics"));
    assert_eq!(running.get("/nowhere").0, 404);
    assert_eq!(running.end(), 0);
}

#[test]
fn the_first_signal_drains_and_what_was_done_is_not_done_again() {
    let program = follow();
    let running = program.start(&["a.yaml"]);
    eventually("the lines are read", || {
        (program.json(&["pipelines"])[0]["rows_out"] == 2).then_some(())
    });
    assert_eq!(running.end(), 0);
    assert!(!program.path("millstream-data/millstream.sock").exists());
    let running = program.start(&["a.yaml"]);
    std::fs::write(program.path("in.txt"), "one\ntwo\nthree\n").unwrap();
    eventually("the new line is read", || {
        (program.json(&["pipelines"])[0]["rows_out"] == 1).then_some(())
    });
    assert_eq!(program.json(&["topics", "describe", "out"])["topic"]["records"], 3);
    drop(running);
}

#[test]
fn the_socket_is_the_owners_and_a_stale_one_is_replaced() {
    let program = follow();
    let running = program.start(&["a.yaml"]);
    let socket = program.path("millstream-data/millstream.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = ask(&socket, r#"{"request":"frobnicate"}"#);
    assert_eq!(refused["error"]["code"], "mistake");
    let said = program.run(&["run", "a.yaml", "--listen", "off"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains(&running.pid().to_string()), "{}", said.err);
    // Killed, it leaves its socket behind.
    running.signal("-KILL");
    running.wait();
    assert!(socket.exists());
    assert_eq!(program.json(&["pipelines"])[0]["state"], "stopped");
    let running = program.start(&["a.yaml"]);
    assert_eq!(program.json(&["pipelines"])[0]["state"], "running");
    assert_eq!(running.end(), 0);
}

#[test]
fn preview_shows_and_commits_nothing() {
    let program = Program::new();
    program.write("in.txt", "one\ntwo\nthree\n");
    let file = "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ topic: out, format: json }]\n";
    program.write("a.yaml", file);
    let shown = program.ok(&["run", "a.yaml", "--preview", "2"]);
    assert!(shown.contains("one") && shown.contains("two") && !shown.contains("three"), "{shown}");
    assert!(!program.path("millstream-data").exists(), "nothing was made");
    program.ok(&["run", "a.yaml", "--until-end", "--listen", "off"]);
    assert_eq!(program.json(&["topics", "describe", "out"])["topic"]["records"], 3);
    let shown = program.ok(&["run", "a.yaml", "--preview", "2"]);
    assert!(shown.contains("nothing to read"), "it goes on from the commit: {shown}");
}

#[test]
fn a_pipeline_that_holds_is_live_and_not_ready() {
    let program = Program::new();
    let bad: String = (0..2_000).map(|n| format!("not json {n}\n")).collect();
    program.write("in.txt", &bad);
    let file = "pipeline: a\nsource: { file: in.txt, format: { json: { columns: { n: int } } } }\nsinks: [{ topic: out, format: json }]\n";
    program.write("a.yaml", file);
    let running = program.start(&["a.yaml"]);
    let body = eventually("it holds", || {
        let (status, body) = running.get("/health/ready");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status == 200, body["ready"] == true);
        (body["reasons"][0]["state"] == "holding").then_some(body)
    });
    let reason = body["reasons"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("max_dead_ratio"), "{reason}");
    assert_eq!(running.get("/health/live").0, 200);
    let pipelines = program.json(&["pipelines"]);
    assert!(pipelines[0]["waits_for"][0].as_str().unwrap().contains("max_dead_ratio"));
    assert_eq!(running.end(), 0, "the operator asked for the end");
    // A script that waits for the end is told that it did not come.
    let said = program.run(&["run", "a.yaml", "--until-end", "--listen", "off"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("max_dead_ratio"), "{}", said.err);
}

#[test]
fn one_that_holds_does_not_keep_the_others_run_from_its_end() {
    let program = Program::new();
    let bad: String = (0..2_000).map(|n| format!("not json {n}\n")).collect();
    program.write("bad.txt", &bad);
    program.write("in.txt", "one\ntwo\n");
    program.write(
        "held.yaml",
        "pipeline: held\nsource: { file: bad.txt, format: { json: { columns: { n: int } } } }\nsinks: [{ topic: out, format: json }]\n",
    );
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, follow: true, format: text }\nsinks: [{ topic: lines, format: json }]\n",
    );
    program.write(
        "b.yaml",
        "pipeline: b\nsource: { topic: lines, format: json }\nsinks: [{ discard: true }]\n",
    );
    let said = program.run(&[
        "run",
        "a.yaml",
        "b.yaml",
        "held.yaml",
        "--exit-when-idle",
        "--listen",
        "off",
    ]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("max_dead_ratio"), "{}", said.err);
    let last = said.err.lines().last().unwrap();
    assert!(last.contains("held held, and goes on"), "{last}");
    assert_eq!(program.json(&["offsets", "show", "b"])[0]["lag"], 0);

    // One that is asked to end says so too.
    let running = program.start(&["a.yaml", "held.yaml"]);
    eventually("it holds", || {
        let pipelines = program.json(&["pipelines"]);
        let held = pipelines.as_array().unwrap().iter().find(|p| p["name"] == "held").cloned();
        (held.unwrap()["state"] == "holding").then_some(())
    });
    assert_eq!(running.end(), 0);
    let log = std::fs::read_to_string(program.path("run.log")).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("held held, and goes on"), "{last}");
    assert!(log.contains("max_dead_ratio"), "{log}");
}

#[test]
fn a_start_waits_for_a_command_that_has_the_directory_and_names_one_that_keeps_it() {
    let program = follow();
    program.ok(&["topics", "create", "t"]);
    let take = || {
        let file = std::fs::File::options()
            .write(true)
            .open(program.path("millstream-data/log/lock"))
            .unwrap();
        file.lock().unwrap();
        file
    };
    let held = take();
    let child =
        program.command(&["run", "a.yaml", "--exit-when-idle", "--listen", "off"]).spawn().unwrap();
    // Longer than a lock that was let go can look taken.
    std::thread::sleep(std::time::Duration::from_secs(4));
    drop(held);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let own = format!("the process {}", std::process::id());
    assert!(said.contains("waiting for") && said.contains(&own), "{said}");

    let _held = take();
    let said = program.run(&["run", "a.yaml", "--listen", "off"]);
    assert_eq!(said.code, 2, "{}", said.err);
    let last = said.err.lines().last().unwrap();
    assert!(last.contains(&own) && last.contains("millstream-data open"), "{last}");
}

#[test]
fn what_goes_away_while_pipelines_are_opened_is_waited_for() {
    let program = follow();
    let away = program.write("stores-are-away", "");
    let missing = [("MILLSTREAM_STORES_AWAY", &*away)];
    // Whoever waits for the end is told instead.
    let mut command = program.command(&["run", "a.yaml", "--exit-when-idle", "--listen", "off"]);
    let said = command.envs(missing).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("opening pipeline a: the stores"));

    let running = program.start_with(&["a.yaml"], &missing);
    let (status, body) = running.get("/health/ready");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no pipeline is started yet"), "{body}");
    assert!(body.contains("opening pipeline a: the stores are away"), "{body}");
    std::fs::remove_file(&away).unwrap();
    eventually("it is ready", || (running.get("/health/ready").0 == 200).then_some(()));
    let out = || metric(&running.get("/metrics").1, "millstream_rows_out_total{pipeline=\"a\"}");
    eventually("both lines are out", || (out() == 2.0).then_some(()));
    let log = std::fs::read_to_string(program.path("run.log")).unwrap();
    assert_eq!(log.matches("no pipeline is started yet").count(), 1, "it is said once: {log}");
    assert_eq!(running.end(), 0);
}

#[test]
fn rotated_files_are_read_after_a_reset_and_not_at_the_first_start() {
    let program = follow();
    program.write("in.txt.1", "zero\n");
    let records = || program.json(&["topics", "describe", "out"])["topic"]["records"].clone();
    let run = ["run", "a.yaml", "--exit-when-idle", "--listen", "off"];
    program.ok(&run);
    assert_eq!(records(), 2, "of the file that is named");
    program.ok(&["offsets", "reset", "a", "--to", "earliest"]);
    program.ok(&run);
    assert_eq!(records(), 5, "of both");
}

#[test]
fn files_are_read_with_the_variables_of_the_one_who_asks() {
    let program = follow();
    program.write(
        "b.yaml",
        "pipeline: b\nsource: { file: '${WHERE}', format: text }\nsinks: [{ discard: true }]\n",
    );
    let running = program.start(&["a.yaml"]);
    for (file, code) in [("in.txt", 0), ("nowhere.txt", 2)] {
        let output = program.command(&["check", "b.yaml"]).env("WHERE", file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        if code == 2 {
            assert!(said.contains("nowhere.txt") && said.contains("--> b.yaml:"), "{said}");
        }
    }
    assert_eq!(running.end(), 0);
}

#[test]
fn logs_are_json_where_that_is_asked_for() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    let file = "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n";
    program.write("a.yaml", file);
    let args = ["--log-format", "json", "run", "a.yaml", "--until-end", "--listen", "off"];
    let said = program.run(&args);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.is_empty(), "{}", said.out);
    let lines: Vec<Value> =
        said.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = lines.iter().find(|line| line["message"] == "started").unwrap();
    assert_eq!(started["pipeline"], "a");
}

#[test]
fn a_topic_that_was_made_again_is_another_source() {
    let program = Program::new();
    program.ok(&["topics", "create", "t"]);
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { topic: t, format: text }\nsinks: [{ discard: true }]\n",
    );
    assert_eq!(program.feed(&["produce", "t"], "one\n").code, 0);
    program.ok(&["run", "a.yaml", "--exit-when-idle", "--listen", "off"]);
    let said = program.ok(&["topics", "delete", "t", "--yes"]);
    assert!(said.contains("pipeline a had offsets in it"), "{said}");
    program.ok(&["topics", "create", "t"]);
    for command in [&["check", "a.yaml"][..], &["run", "a.yaml", "--listen", "off"]] {
        let said = program.run(command);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("an earlier `t`, which was deleted"), "{}", said.err);
    }
    program.ok(&["offsets", "reset", "a", "--to", "earliest", "--file", "a.yaml"]);
    program.ok(&["check", "a.yaml"]);
}

#[test]
fn the_end_of_a_run_says_what_was_settled() {
    let program = Program::new();
    program.write("in.txt", "{\"n\":1}\n{\"n\":0}\n{\"n\":-1}\n{\"n\":2}\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, format: { json: { columns: { n: int } } } }\nsteps:\n  - sql: SELECT 2 / n AS half FROM input WHERE n >= 0\nsinks: [{ topic: out, format: json }]\nmax_dead_ratio: 100%\n",
    );
    let args = ["--log-format", "json", "run", "a.yaml", "--until-end", "--listen", "off"];
    let said = program.run(&args);
    assert_eq!(said.code, 0, "{}", said.err);
    let lines = said.err.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let settled = lines.into_iter().find(|line| line["message"] == "settled").unwrap();
    let counts = ["rows_in", "out", "filtered", "dead"].map(|name| settled[name].clone());
    assert_eq!(counts, [4, 2, 1, 1].map(Value::from), "{settled}");
}

#[test]
fn another_source_is_refused_until_the_offsets_are_reset_to_it() {
    let program = Program::new();
    program.write("in.txt", "one\ntwo\n");
    program.write("other.txt", "three\n");
    let file = |source: &str| {
        format!(
            "pipeline: a\nsource: {{ file: {source}, format: text }}\nsinks: [{{ topic: out, format: json }}]\n"
        )
    };
    let run = ["run", "a.yaml", "--until-end", "--listen", "off"];
    let records = || program.json(&["topics", "describe", "out"])["topic"]["records"].clone();
    program.write("a.yaml", file("in.txt"));
    program.ok(&run);
    assert_eq!(records(), 2);
    program.write("a.yaml", file("other.txt"));
    for command in [&["check", "a.yaml"][..], &run, &["run", "a.yaml", "--preview", "1"]] {
        let said = program.run(command);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("has offsets of `in.txt`"), "{}", said.err);
        assert!(said.err.contains("now reads `other.txt`"), "{}", said.err);
        assert!(said.err.contains("offsets reset a --file a.yaml --to earliest"), "{}", said.err);
    }
    // To look at it, or to try it, no offsets are needed.
    program.ok(&["explain", "a.yaml"]);
    program.ok(&["offsets", "reset", "a", "--to", "earliest", "--file", "a.yaml"]);
    program.ok(&run);
    assert_eq!(records(), 3);
    program.ok(&["offsets", "forget", "a", "--yes"]);
    assert_eq!(program.json(&["offsets", "show"]), serde_json::json!([]));
    program.ok(&run);
    assert_eq!(records(), 4, "it began anew");
}
