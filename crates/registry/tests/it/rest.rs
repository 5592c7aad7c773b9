//! Subjects, versions, schemas and compatibility over HTTP, path by path.

use crate::server::Server;
use serde_json::{Value, json};

fn avro(schema: &str) -> Value {
    json!({"schema": schema})
}

fn record(name: &str, fields: Value) -> String {
    json!({"type": "record", "name": name, "fields": fields}).to_string()
}

/// Record `R` with int fields; those with a `?` have a default.
fn ints(fields: &[&str]) -> Value {
    let fields = fields.iter().map(|field| match field.strip_suffix('?') {
        Some(name) => json!({"name": name, "type": "int", "default": 0}),
        None => json!({"name": field, "type": "int"}),
    });
    avro(&record("R", fields.collect()))
}

#[test]
fn a_schema_has_one_id_wherever_it_is() {
    let server = Server::start();
    assert_eq!(server.ok("GET", "/", ()), json!({}));
    assert_eq!(server.ok("GET", "/subjects", ()), json!([]));
    assert_eq!(server.ok("GET", "/schemas/types", ()), json!(["JSON", "PROTOBUF", "AVRO"]));
    assert_eq!(server.ok("GET", "/contexts", ()), json!(["."]));
    let first = server.ok("POST", "/subjects/s/versions", ints(&["a"]));
    let guid = "e4d94c3f-c345-bad6-d759-ac6f42ea94f7";
    assert_eq!(first, json!({"id": 1, "version": 1, "guid": guid}));
    assert_eq!(server.ok("POST", "/subjects/s/versions", ints(&["a"])), first);
    let spaced =
        avro(r#" { "name":"R", "fields":[ {"type":{"type":"int"},"name":"a"} ], "type":"record"}"#);
    assert_eq!(server.ok("POST", "/subjects/s/versions", spaced), first);
    assert_eq!(server.register("/subjects/s/versions", ints(&["a", "b?"])), (2, 2));
    assert_eq!(server.register("/subjects/t/versions", ints(&["a", "b?"])), (2, 1));

    let text = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
    assert_eq!(server.ok("GET", "/subjects", ()), json!(["s", "t"]));
    assert_eq!(server.ok("GET", "/subjects?subjectPrefix=t", ()), json!(["t"]));
    assert_eq!(server.ok("GET", "/subjects?offset=1&limit=5", ()), json!(["t"]));
    assert_eq!(server.ok("GET", "/subjects/s/versions", ()), json!([1, 2]));
    let version = json!({"subject": "s", "version": 1, "id": 1, "guid": guid, "schema": text});
    assert_eq!(server.ok("GET", "/subjects/s/versions/1", ()), version);
    let latest = server.ok("GET", "/subjects/s/versions/latest", ());
    assert_eq!((&latest["version"], &latest["id"]), (&json!(2), &json!(2)));
    assert_eq!(server.ok("GET", "/subjects/s/versions/-1", ()), latest);
    assert_eq!(server.ok("GET", "/schemas/ids/1", ()), json!({"guid": guid, "schema": text}));
    assert_eq!(server.ok("GET", "/schemas/ids/1?fetchMaxId=true", ())["maxId"], 2);
    assert_eq!(server.ok("GET", "/schemas/ids/1/schema", ()).to_string(), text);
    assert_eq!(server.ok("GET", "/subjects/s/versions/1/schema", ()).to_string(), text);
    assert_eq!(server.ok("GET", "/schemas/ids/2/subjects", ()), json!(["s", "t"]));
    assert_eq!(
        server.ok("GET", "/schemas/ids/2/versions", ()),
        json!([{"subject": "s", "version": 2}, {"subject": "t", "version": 1}])
    );
    assert_eq!(server.ok("POST", "/subjects/s", ints(&["a"])), version);
    assert_eq!(server.ok("GET", "/schemas", ()).as_array().unwrap().len(), 3);
    assert_eq!(server.ok("GET", "/schemas?latestOnly=true", ()).as_array().unwrap().len(), 2);
    assert_eq!(server.ok("GET", "/schemas?subjectPrefix=t", ())[0]["subject"], "t");
}

#[test]
fn every_error_has_its_code() {
    let server = Server::start();
    server.ok("POST", "/subjects/s/versions", ints(&["a"]));
    server.ok("POST", "/subjects/dead/versions", ints(&["a"]));
    server.ok("DELETE", "/subjects/dead", ());
    let cases: [(u32, &str, &str, Value); 43] = [
        (404, "GET", "/nothing", Value::Null),
        (405, "PUT", "/subjects", Value::Null),
        (400, "POST", "/subjects/s/versions", json!("text")),
        (400, "POST", "/subjects/s/versions", json!({"schema": 7})),
        (400, "POST", "/subjects/s/versions", Value::Null),
        (400, "GET", "/subjects?limit=x", Value::Null),
        (400, "GET", "/subjects/%ff/versions", Value::Null),
        (40401, "GET", "/subjects/x/versions", Value::Null),
        (40401, "GET", "/subjects/x/versions/1", Value::Null),
        (40401, "GET", "/subjects/x/versions/latest", Value::Null),
        (40401, "GET", "/subjects/x/versions/1/schema", Value::Null),
        (40401, "GET", "/subjects/x/versions/1/referencedby", Value::Null),
        (40401, "GET", "/subjects/dead/versions", Value::Null),
        (40401, "GET", "/subjects/dead/versions/latest", Value::Null),
        (40401, "POST", "/subjects/x", ints(&["a"])),
        (40401, "POST", "/subjects/dead", ints(&["a"])),
        (40401, "DELETE", "/subjects/x", Value::Null),
        (40401, "DELETE", "/subjects/x/versions/1", Value::Null),
        (40401, "POST", "/compatibility/subjects/x/versions/1", ints(&["a"])),
        (40401, "DELETE", "/config/x", Value::Null),
        (40401, "DELETE", "/mode/x", Value::Null),
        (40402, "GET", "/subjects/s/versions/2", Value::Null),
        (40402, "DELETE", "/subjects/s/versions/2", Value::Null),
        (40402, "POST", "/compatibility/subjects/s/versions/2", ints(&["a"])),
        (40403, "GET", "/schemas/ids/99", Value::Null),
        (40403, "GET", "/schemas/ids/99/schema", Value::Null),
        (40403, "GET", "/schemas/ids/99/versions", Value::Null),
        (40403, "GET", "/schemas/ids/99/subjects", Value::Null),
        (40403, "POST", "/subjects/s", ints(&["b"])),
        (404, "GET", "/schemas/ids/x", Value::Null),
        (40404, "DELETE", "/subjects/dead", Value::Null),
        (40405, "DELETE", "/subjects/s?permanent=true", Value::Null),
        (40406, "DELETE", "/subjects/dead/versions/1", Value::Null),
        (40407, "DELETE", "/subjects/s/versions/1?permanent=true", Value::Null),
        (42201, "POST", "/subjects/s/versions", avro("{")),
        (42201, "POST", "/subjects/s/versions", avro(" ")),
        (42201, "POST", "/subjects/s/versions", json!({})),
        (42201, "POST", "/subjects/s", avro("\"strng\"")),
        (42201, "POST", "/compatibility/subjects/new/versions/latest", avro("[]")),
        (42201, "POST", "/subjects/s/versions", json!({"schema": "x", "schemaType": "XML"})),
        (42202, "GET", "/subjects/s/versions/0", Value::Null),
        (42202, "GET", "/subjects/s/versions/first", Value::Null),
        (42208, "POST", "/subjects/%0A/versions", ints(&["a"])),
    ];
    for (code, method, path, body) in cases {
        server.fails(code, method, path, body);
    }
    let message = server.fails(409, "POST", "/subjects/s/versions", ints(&["a", "b"]));
    assert!(message.contains("READER_FIELD_MISSING_DEFAULT_VALUE"), "{message}");
    let wrong = avro(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"strng"}]}"#);
    let message = server.fails(42201, "POST", "/subjects/s/versions", wrong);
    assert!(message.contains("R.a: `strng`"), "{message}");
}

#[test]
fn input_without_bounds_is_refused() {
    let server = Server::start();
    let deep =
        format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(10_000), "}".repeat(10_000));
    let message = server.fails(42201, "POST", "/subjects/s/versions", avro(&deep));
    assert!(message.contains("nests"), "{message}");
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let json = json!({"schema": deep, "schemaType": "JSON"});
    server.fails(42201, "POST", "/subjects/s/versions", json);
    let (status, _, body) = server.exchange("POST", "/subjects/s/versions", deep.as_bytes());
    assert_eq!(status, 400, "{body}");
    let mut metadata = json!(1);
    for _ in 0..110 {
        metadata = json!([metadata]);
    }
    let nested = json!({"schema": "\"int\"", "metadata": metadata});
    server.fails(42201, "POST", "/subjects/s/versions", nested);
    let long = avro(&format!("\"{}\"", "x".repeat(1 << 20)));
    server.fails(42201, "POST", "/subjects/s/versions", long);
    let (status, _, body) = server.exchange("POST", "/subjects/s/versions", &vec![b' '; 5 << 20]);
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("\"error_code\":413"), "{body}");
    assert_eq!(server.ok("GET", "/subjects", ()), json!([]), "nothing was let in");
}

#[test]
fn subjects_of_any_name_are_found_again() {
    let server = Server::start();
    let names = [
        ("a%2Fb", "a/b"),
        ("c:d", "c:d"),
        ("e%20f", "e f"),
        ("%C3%BC%E2%82%AC", "ü€"),
        ("g%25h", "g%h"),
        ("i%3Fj%23k", "i?j#k"),
        (":.ctx:l", ":.ctx:l"),
    ];
    for (path, _) in names {
        server.ok("POST", &format!("/subjects/{path}/versions"), ints(&["a"]));
        server.ok("PUT", &format!("/config/{path}"), json!({"compatibility": "FULL"}));
    }
    let mut wanted: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
    wanted.sort();
    assert_eq!(server.ok("GET", "/subjects", ()), json!(wanted));
    for (path, name) in names {
        let found = server.ok("GET", &format!("/subjects/{path}/versions/1"), ());
        assert_eq!(found["subject"], name);
    }
}

#[test]
fn deleting_is_soft_then_for_good() {
    let server = Server::start();
    server.ok("POST", "/subjects/s/versions", ints(&["a"]));
    server.ok("POST", "/subjects/s/versions", ints(&["a", "b?"]));
    assert_eq!(server.ok("DELETE", "/subjects/s/versions/1", ()), json!(1));
    assert_eq!(server.ok("GET", "/subjects/s/versions", ()), json!([2]));
    assert_eq!(server.ok("GET", "/subjects/s/versions?deleted=true", ()), json!([1, 2]));
    assert_eq!(server.ok("GET", "/subjects/s/versions?deletedOnly=true", ()), json!([1]));
    server.fails(40402, "GET", "/subjects/s/versions/1", ());
    let deleted = server.ok("GET", "/subjects/s/versions/1?deleted=true", ());
    assert_eq!((&deleted["id"], &deleted["deleted"]), (&json!(1), &json!(true)));
    server.fails(40403, "POST", "/subjects/s", ints(&["a"]));
    assert_eq!(server.ok("POST", "/subjects/s?deleted=true", ints(&["a"]))["version"], 1);
    // Records written with it are still about.
    server.ok("GET", "/schemas/ids/1", ());
    assert_eq!(server.ok("GET", "/schemas/ids/1/versions", ()), json!([]));
    assert_eq!(
        server.ok("GET", "/schemas/ids/1/versions?deleted=true", ()),
        json!([{"subject": "s", "version": 1}])
    );

    // It comes back with its id as a new version, and the deleted one is gone.
    assert_eq!(server.register("/subjects/s/versions", ints(&["a"])), (1, 3));
    assert_eq!(server.ok("GET", "/subjects/s/versions?deleted=true", ()), json!([2, 3]));

    assert_eq!(server.ok("DELETE", "/subjects/s/versions/latest", ()), json!(3));
    assert_eq!(server.ok("DELETE", "/subjects/s/versions/3?permanent=true", ()), json!(3));
    server.fails(40403, "GET", "/schemas/ids/1", ());
    server.fails(40402, "GET", "/subjects/s/versions/3?deleted=true", ());
    // Its id is not given again.
    assert_eq!(server.ok("POST", "/subjects/t/versions", ints(&["a"]))["id"], 3);

    server.ok("PUT", "/config/s", json!({"compatibility": "NONE"}));
    assert_eq!(server.ok("DELETE", "/subjects/s", ()), json!([2]));
    assert_eq!(server.ok("GET", "/subjects", ()), json!(["t"]));
    assert_eq!(server.ok("GET", "/subjects?deleted=true", ()), json!(["s", "t"]));
    assert_eq!(server.ok("GET", "/subjects?deletedOnly=true", ()), json!(["s"]));
    server.fails(40408, "GET", "/config/s", ());
    // A deleted version counts for nothing when compatibility is checked.
    assert_eq!(server.register("/subjects/s/versions", avro("\"string\"")), (4, 3));
    server.ok("DELETE", "/subjects/s", ());
    assert_eq!(server.ok("DELETE", "/subjects/s?permanent=true", ()), json!([2, 3]));
    assert_eq!(server.ok("GET", "/subjects?deleted=true", ()), json!(["t"]));
    server.fails(40401, "DELETE", "/subjects/s?permanent=true", ());
    assert_eq!(server.ok("POST", "/subjects/s/versions", avro("\"int\""))["version"], 1);
}

#[test]
fn compatibility_is_asked_without_registering() {
    let server = Server::start();
    let ask = |path: &str, body: Value| {
        server.ok("POST", &format!("/compatibility/subjects/{path}"), body)
    };
    assert_eq!(ask("s/versions/latest", ints(&["a"])), json!({"is_compatible": true}));
    server.ok("POST", "/subjects/s/versions", ints(&["a"]));
    server.ok("POST", "/subjects/s/versions", ints(&["a", "b?"]));
    assert_eq!(ask("s/versions/latest", ints(&["a", "b"]))["is_compatible"], true);
    assert_eq!(ask("s/versions/1", ints(&["a", "b"])), json!({"is_compatible": false}));
    assert_eq!(ask("s/versions", ints(&["a", "b"]))["is_compatible"], true);
    server.ok("PUT", "/config/s", json!({"compatibility": "BACKWARD_TRANSITIVE"}));
    let verbose = ask("s/versions?verbose=true", ints(&["a", "b"]));
    assert_eq!(verbose["is_compatible"], false);
    let messages = verbose["messages"].as_array().unwrap();
    assert!(messages[0].as_str().unwrap().starts_with("{errorType:'READER_FIELD_MISSING_DEFAULT"));
    assert_eq!(messages[1], "{oldSchemaVersion: 1}");
    assert!(messages[2].as_str().unwrap().starts_with("{oldSchema: '{"));
    assert_eq!(messages[3], "{compatibility: 'BACKWARD_TRANSITIVE'}");
    assert_eq!(ask("s/versions?verbose=true", ints(&["a"]))["messages"], json!([]));
    server.ok("PUT", "/config/s", json!({"compatibility": "NONE"}));
    assert_eq!(ask("s/versions/latest", avro("\"int\""))["is_compatible"], true);
    assert_eq!(server.ok("GET", "/subjects/s/versions", ()), json!([1, 2]));
}

#[test]
fn references_are_resolved_and_guarded() {
    let server = Server::start();
    let with = |schema: &str, name: &str, subject: &str, version: i64| {
        json!({
            "schema": schema,
            "references": [{"name": name, "subject": subject, "version": version}],
        })
    };
    let colour = r#"{"type":"enum","name":"n.Colour","symbols":["RED"]}"#;
    let car = record("n.Car", json!([{"name": "c", "type": "n.Colour"}]));
    let park =
        record("n.Park", json!([{"name": "cars", "type": {"type": "map", "values": "Car"}}]));
    server.ok("POST", "/subjects/colour/versions", avro(colour));
    let message = server.fails(42201, "POST", "/subjects/car/versions", avro(&car));
    assert!(message.contains("n.Colour"), "{message}");
    server.fails(42201, "POST", "/subjects/car/versions", with(&car, "n.Colour", "colour", 2));
    server.fails(42201, "POST", "/subjects/car/versions", with(&car, "n.Colour", "none", -1));
    let car_id = server.ok("POST", "/subjects/car/versions", with(&car, "n.Colour", "colour", -1));
    let again = server.ok("POST", "/subjects/car/versions", with(&car, "n.Colour", "colour", 1));
    assert_eq!(car_id, again, "-1 is the newest");
    let id = server.ok("POST", "/subjects/park/versions", with(&park, "n.Car", "car", 1));
    assert_eq!(id["id"], 3);
    let found = server.ok("GET", "/schemas/ids/3", ());
    assert_eq!(found["references"], json!([{"name": "n.Car", "subject": "car", "version": 1}]));
    assert!(!found["schema"].as_str().unwrap().contains("RED"), "{found}");
    let resolved = server.ok("GET", "/schemas/ids/3?format=resolved", ());
    assert!(resolved["schema"].as_str().unwrap().contains("RED"), "{resolved}");
    assert_eq!(server.ok("GET", "/subjects/colour/versions/1/referencedby", ()), json!([2]));
    assert_eq!(server.ok("GET", "/subjects/car/versions/latest/referencedby", ()), json!([3]));
    assert_eq!(server.ok("GET", "/subjects/park/versions/1/referencedby", ()), json!([]));

    // The same text with other references is another schema.
    let blue = r#"{"type":"enum","name":"n.Colour","symbols":["RED","BLUE"]}"#;
    server.ok("POST", "/subjects/colour/versions", avro(blue));
    let wider = with(&car, "n.Colour", "colour", 2);
    assert_eq!(server.ok("POST", "/subjects/car/versions", wider)["version"], 2);
    // And compatibility looks through references: back to one colour is a symbol lost.
    let narrow = with(&(car.clone() + " "), "n.Colour", "colour", 1);
    let path = "/compatibility/subjects/car/versions/2";
    assert_eq!(server.ok("POST", path, narrow)["is_compatible"], false);

    server.fails(42206, "DELETE", "/subjects/colour/versions/1", ());
    server.fails(42206, "DELETE", "/subjects/car", ());
    server.ok("DELETE", "/subjects/park", ());
    server.ok("DELETE", "/subjects/car", ());
    server.fails(42206, "DELETE", "/subjects/car?permanent=true", ());
    server.ok("DELETE", "/subjects/park?permanent=true", ());
    server.ok("DELETE", "/subjects/car?permanent=true", ());
    server.ok("DELETE", "/subjects/colour", ());
}

#[test]
fn normalize_finds_schemas_written_differently() {
    let server = Server::start();
    let a = avro(r#"{"type":"record","name":"R","namespace":"n","z":1,"b":2,"fields":[]}"#);
    let b = avro(r#"{"type":"record","name":"n.R","b":2,"z":1,"fields":[]}"#);
    let post = |path: &str, body: &Value| server.ok("POST", path, body.clone());
    assert_eq!(post("/subjects/plain/versions", &a)["version"], 1);
    assert_eq!(post("/subjects/plain/versions", &b)["version"], 2);
    assert_eq!(post("/subjects/normal/versions?normalize=true", &a)["version"], 1);
    assert_eq!(post("/subjects/normal/versions?normalize=true", &b)["version"], 1);
    assert_eq!(post("/subjects/normal?normalize=true", &b)["version"], 1);
    server.fails(40403, "POST", "/subjects/normal", b.clone());
    server.ok("PUT", "/config/set", json!({"normalize": true}));
    assert_eq!(post("/subjects/set/versions", &a)["version"], 1);
    assert_eq!(post("/subjects/set/versions", &b)["version"], 1);
    let json = |schema: &str| json!({"schema": schema, "schemaType": "JSON"});
    assert_eq!(post("/subjects/set-json/versions", &json(r#"{"a":1,"b":2}"#))["version"], 1);
    assert_eq!(post("/subjects/set-json/versions", &json(r#"{"b":2,"a":1}"#))["version"], 2);
    let sorted = "/subjects/normal-json/versions?normalize=true";
    assert_eq!(post(sorted, &json(r#"{"a":1,"b":2}"#))["version"], 1);
    assert_eq!(post(sorted, &json(r#"{"b":2,"a":1}"#))["version"], 1);
}

#[test]
fn other_kinds_are_kept_and_served() {
    let server = Server::start();
    let json = json!({"schema": "{ \"type\": \"object\" }", "schemaType": "JSON"});
    server.ok("POST", "/subjects/j/versions", json);
    let found = server.ok("GET", "/schemas/ids/1", ());
    assert_eq!(
        (&found["schemaType"], &found["schema"]),
        (&json!("JSON"), &json!("{\"type\":\"object\"}"))
    );
    for wrong in ["{", "7", "[]"] {
        let wrong = json!({"schema": wrong, "schemaType": "JSON"});
        server.fails(42201, "POST", "/subjects/j/versions", wrong);
    }
    let text = "syntax = \"proto3\";\nmessage M { int32 a = 1; }\n";
    let proto = json!({"schema": text, "schemaType": "PROTOBUF"});
    server.ok("POST", "/subjects/p/versions", proto);
    let found = server.ok("GET", "/subjects/p/versions/1", ());
    assert_eq!((&found["schemaType"], &found["schema"]), (&json!("PROTOBUF"), &json!(text.trim())));
    let (_, _, raw) = server.exchange("GET", "/schemas/ids/2/schema", b"");
    assert_eq!(raw, text.trim());
    // The kind of a subject stays.
    server.fails(409, "POST", "/subjects/p/versions", ints(&["a"]));
}

#[test]
fn metadata_belongs_to_the_schema() {
    let server = Server::start();
    let owned = |owner: &str| {
        let mut body = ints(&["a"]);
        body["metadata"] = json!({"properties": {"owner": owner, "app": "x y"}});
        body
    };
    assert_eq!(server.ok("POST", "/subjects/s/versions", owned("ann"))["id"], 1);
    assert_eq!(server.ok("POST", "/subjects/s/versions", owned("bob"))["id"], 2);
    assert_eq!(server.ok("POST", "/subjects/s/versions", owned("ann"))["id"], 1);
    let found = server.ok("GET", "/subjects/s/versions/2", ());
    assert_eq!(found["metadata"]["properties"]["owner"], "bob");
    let path = "/subjects/s/metadata?key=owner&value=ann&key=app&value=x+y";
    assert_eq!(server.ok("GET", path, ())["version"], 1);
    server.fails(40403, "GET", "/subjects/s/metadata?key=owner&value=eve", ());
}

/// What Confluent's registry makes of a text without metadata: its MD5.
#[test]
fn a_schema_has_the_guid_of_its_text() {
    let server = Server::start();
    let first = server.ok("POST", "/subjects/a/versions", avro("\"string\""));
    let guid = "095d71cf-1255-6b9d-5e33-0ad575b3df5d";
    assert_eq!(first["guid"], guid);
    assert_eq!(server.ok("POST", "/subjects/b/versions", avro("\"string\""))["guid"], guid);
    let found = server.ok("GET", &format!("/schemas/guids/{guid}"), ());
    assert_eq!(found, json!({"guid": guid, "schema": "\"string\""}));
    assert_eq!(server.ok("GET", "/schemas/guids/095D71CF12556B9D5E330AD575B3DF5D", ()), found);
    let ids = server.ok("GET", &format!("/schemas/guids/{guid}/ids"), ());
    assert_eq!(ids, json!([{"context": ".", "id": 1}]));
    assert_eq!(server.ok("GET", "/schemas/ids/1", ())["guid"], guid);
    // References are a part of it.
    let item = r#"{"type":"record","name":"I","fields":[]}"#;
    server.ok("POST", "/subjects/i/versions", avro(item));
    let list = r#"{"type":"array","items":"I"}"#;
    let references = json!([{"name": "I", "subject": "i", "version": 1}]);
    let other = server.ok(
        "POST",
        "/subjects/l/versions",
        json!({"schema": list, "references": references}),
    );
    assert_ne!(other["guid"], "e9846fa8-578d-64ab-79de-e7bab7e99a07");
    server.fails(40403, "GET", "/schemas/guids/00000000-0000-0000-0000-000000000000", ());
    server.fails(404, "GET", "/schemas/guids/4711", ());
}
