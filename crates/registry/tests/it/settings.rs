//! Compatibility levels and modes over HTTP.

use crate::server::Server;
use serde_json::{Value, json};

fn schema(name: &str) -> Value {
    json!({"schema": format!(r#"{{"type":"fixed","name":"{name}","size":1}}"#)})
}

#[test]
fn levels_of_a_subject_come_before_the_global_one() {
    let server = Server::start();
    assert_eq!(server.ok("GET", "/config", ()), json!({"compatibilityLevel": "BACKWARD"}));
    server.fails(40408, "GET", "/config/s", ());
    assert_eq!(
        server.ok("GET", "/config/s?defaultToGlobal=true", ()),
        json!({"compatibilityLevel": "BACKWARD"})
    );
    for level in [
        "NONE",
        "BACKWARD",
        "BACKWARD_TRANSITIVE",
        "FORWARD",
        "FORWARD_TRANSITIVE",
        "FULL",
        "FULL_TRANSITIVE",
    ] {
        let body = json!({"compatibility": level});
        assert_eq!(server.ok("PUT", "/config", body.clone()), body);
        assert_eq!(server.ok("GET", "/config", ()), json!({"compatibilityLevel": level}));
    }
    assert_eq!(
        server.ok("PUT", "/config/s", json!({"compatibility": "none"})),
        json!({"compatibility": "NONE"})
    );
    assert_eq!(server.ok("GET", "/config/s", ()), json!({"compatibilityLevel": "NONE"}));
    server.ok("POST", "/subjects/s/versions", schema("A"));
    server.ok("POST", "/subjects/s/versions", schema("B"));
    server.ok("POST", "/subjects/t/versions", schema("A"));
    server.fails(409, "POST", "/subjects/t/versions", schema("B"));
    assert_eq!(server.ok("DELETE", "/config/s", ()), json!({"compatibilityLevel": "NONE"}));
    server.fails(40408, "GET", "/config/s", ());
    server.fails(409, "POST", "/subjects/s/versions", schema("C"));
    server.ok("DELETE", "/config", ());
    assert_eq!(server.ok("GET", "/config", ()), json!({"compatibilityLevel": "BACKWARD"}));
    // A part that is not given stays.
    server.ok("PUT", "/config/s", json!({"normalize": true}));
    server.ok("PUT", "/config/s", json!({"compatibilityLevel": "FULL"}));
    assert_eq!(
        server.ok("GET", "/config/s", ()),
        json!({"compatibilityLevel": "FULL", "normalize": true})
    );
    for wrong in [json!({"compatibility": "SOME"}), json!({}), json!({"compatibility": ""})] {
        server.fails(42203, "PUT", "/config", wrong);
    }
    let message = server.fails(42205, "PUT", "/config", json!({"compatibilityGroup": "g"}));
    assert!(message.contains("compatibilityGroup"), "{message}");
    server.fails(400, "PUT", "/config", json!([]));
}

#[test]
fn modes_decide_who_may_change_what() {
    let server = Server::start();
    let mode = |word: &str| json!({"mode": word});
    assert_eq!(server.ok("GET", "/mode", ()), mode("READWRITE"));
    server.fails(40409, "GET", "/mode/s", ());
    assert_eq!(server.ok("GET", "/mode/s?defaultToGlobal=true", ()), mode("READWRITE"));
    server.fails(42204, "PUT", "/mode", mode("SOMETIMES"));
    server.ok("POST", "/subjects/s/versions", schema("A"));

    assert_eq!(server.ok("PUT", "/mode/s", mode("READONLY")), mode("READONLY"));
    assert_eq!(server.ok("GET", "/mode/s", ()), mode("READONLY"));
    server.fails(42205, "POST", "/subjects/s/versions", schema("B"));
    server.fails(42205, "DELETE", "/subjects/s", ());
    server.fails(42205, "DELETE", "/subjects/s/versions/1", ());
    assert_eq!(server.ok("POST", "/subjects/s/versions", schema("A"))["id"], 1, "it is there");
    server.ok("POST", "/subjects/t/versions", schema("B"));

    // The subject's mode comes first, unless the global one overrides it.
    server.ok("PUT", "/mode", mode("READONLY"));
    server.ok("PUT", "/mode/s", mode("READWRITE"));
    server.fails(42205, "POST", "/subjects/u/versions", schema("A"));
    server.ok("PUT", "/config/s", json!({"compatibility": "NONE"}));
    server.ok("POST", "/subjects/s/versions", schema("B"));
    server.ok("PUT", "/mode", mode("READONLY_OVERRIDE"));
    server.fails(42205, "POST", "/subjects/s/versions", schema("C"));
    assert_eq!(server.ok("DELETE", "/mode/s", ()), mode("READWRITE"));
    assert_eq!(server.ok("DELETE", "/mode", ()), mode("READONLY_OVERRIDE"));
    assert_eq!(server.ok("GET", "/mode", ()), mode("READWRITE"));
}

#[test]
fn an_import_keeps_ids_and_versions() {
    let server = Server::start();
    let with = |name: &str, id: u32, version: u32| {
        let mut body = schema(name);
        body["id"] = json!(id);
        body["version"] = json!(version);
        body
    };
    let path = "/subjects/s/versions";
    server.ok("POST", "/subjects/t/versions", schema("A"));
    // Outside of an import, ids and versions may only be the ones that are due.
    server.fails(42205, "POST", path, with("B", 100, 1));
    server.fails(42207, "POST", path, with("A", 100, 1));
    server.fails(42201, "POST", path, json!({"schema": "\"int\"", "version": 4}));
    assert_eq!(server.ok("POST", "/subjects/u/versions", with("A", 1, 1))["id"], 1);

    server.fails(42205, "PUT", "/mode", json!({"mode": "IMPORT"}));
    server.ok("PUT", "/mode/s", json!({"mode": "IMPORT"}));
    server.fails(42205, "POST", path, schema("B"));
    for _ in 0..2 {
        assert_eq!(server.register(path, with("B", 100, 3)), (100, 3));
    }
    // Compatibility is the concern of where it comes from, and so are defaults.
    assert_eq!(server.register(path, with("C", 50, 7)), (50, 7));
    let lax = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}"#;
    server.fails(42201, "POST", "/subjects/t/versions", json!({"schema": lax}));
    server.ok("POST", path, json!({"schema": lax, "id": 60, "version": 8}));
    server.fails(42205, "POST", path, with("D", 100, 9));
    server.fails(42205, "POST", path, with("D", 101, 3));
    // A known schema under a second id: both ids find it, the first is given out.
    assert_eq!(server.ok("POST", path, with("A", 70, 9))["id"], 70);
    assert_eq!(server.ok("POST", "/subjects/v/versions", schema("A"))["id"], 1);
    server.ok("DELETE", "/mode/s", ());
    assert_eq!(server.ok("POST", "/subjects/w/versions", schema("D"))["id"], 101);
    assert_eq!(server.ok("GET", "/subjects/s/versions", ()), json!([3, 7, 8, 9]));

    server.fails(42205, "PUT", "/mode/s", json!({"mode": "IMPORT"}));
    server.ok("PUT", "/mode/s?force=true", json!({"mode": "IMPORT"}));
}
