//! A schema registry that is away when a pipeline starts, and while it runs: what is known goes on,
//! what is not waits.

use super::faults::{NOTHING, Seen};
use super::network::topics;
use super::rig::{self, Setup};
use super::{each, seed};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::Proxy;
use millstream_testkit::services;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The schema that events are written with now.
static ID: AtomicU32 = AtomicU32::new(0);

/// The schemas of a subject differ in a field that nobody reads.
fn schema(number: u32) -> String {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let note = format!("note_{number}");
    json!({"type": "record", "name": "Event", "fields": [
        text("key"), {"name": "seq", "type": "long"}, text("fate"), text("crc"), text("number"),
        {"name": note, "type": "long", "default": 0},
    ]})
    .to_string()
}

/// Confluent's frame around Avro.
fn framed(event: &Event) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(ID.load(Ordering::SeqCst).to_be_bytes());
    let long = |value: i64, bytes: &mut Vec<u8>| {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    };
    let fate = serde_json::to_value(event.fate).unwrap();
    let fate = fate.as_str().unwrap();
    for (at, text) in [&*event.key, fate, &*event.crc, &*event.number].into_iter().enumerate() {
        if at == 1 {
            long(event.seq as i64, &mut bytes);
        }
        long(text.len() as i64, &mut bytes);
        bytes.extend(text.as_bytes());
    }
    long(7, &mut bytes);
    bytes
}

fn unframed(bytes: &[u8]) -> Event {
    let mut at = 5;
    let long = |at: &mut usize| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return (value >> 1) as i64 ^ -((value & 1) as i64);
            }
        }
    };
    let text = |at: &mut usize| {
        let length = long(at) as usize;
        *at += length;
        String::from_utf8(bytes[*at - length..*at].to_vec()).unwrap()
    };
    let (key, seq) = (text(&mut at), long(&mut at));
    let [fate, crc, number] = [text(&mut at), text(&mut at), text(&mut at)];
    let row = json!({"key": key, "seq": seq, "fate": fate, "crc": crc, "number": number});
    serde_json::from_value(row).unwrap()
}

fn register(registry: SocketAddr, path: &str, subject: &str, number: u32) -> u32 {
    let body = json!({"schema": schema(number)}).to_string();
    let mut stream = TcpStream::connect(registry).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path}/subjects/{subject}/versions HTTP/1.1\r\nHost: {registry}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let json = answer.find('{').map_or("", |at| &answer[at..=answer.rfind('}').unwrap()]);
    let said: Value = serde_json::from_str(json).unwrap_or_else(|_| panic!("{answer}"));
    said["id"].as_u64().unwrap_or_else(|| panic!("{answer}")) as u32
}

#[test]
fn a_registry_may_be_away_at_the_start_and_later() {
    let (Some(kafka), Some(registry)) = (services::kafka(), services::registry()) else { return };
    let name = topics(&kafka, "schemas");
    let url = registry.url();
    let path = &url[url.find("/apis").unwrap()..];
    let mut next = 0;
    let mut new_schema = || {
        next += 1;
        register(registry.address(), path, &format!("{name}-value"), next)
    };
    ID.store(new_schema(), Ordering::SeqCst);
    let proxy = Proxy::start(registry.address(), seed()).unwrap();
    let mut setup = Setup::new(kafka.bootstrap(), seed());
    let through = format!("http://{}{path}", proxy.address());
    setup.format = "{ avro: { schema_file: event.avsc } }".into();
    setup.beside_source = format!("  registry: {{ url: [\"{through}\"], timeout: 1s }}\n");
    setup.files = vec![("event.avsc", schema(0))];
    setup.encode = framed;
    setup.decode = unframed;
    let away = |away: bool| {
        proxy.refuse(away);
        if away {
            proxy.reset();
        }
    };
    away(true);
    let rig = rig::start(&name, kafka.client(), setup);
    let line = ["waiting: ", "partition 0: ", "schema registry"];
    let waits = || Seen::new(&line, Some("schema registry"));
    let at_start = Seen { starting: true, ..waits() };
    rig.fault("away at the start", Duration::from_secs(1), at_start, || {}, || away(false));
    each(&[()], |(), lasts| {
        rig.fault(
            "away, and not needed",
            lasts,
            NOTHING,
            || {
                away(true);
                rig.goes_on("what is known");
            },
            || away(false),
        );
        rig.fault(
            "away, and needed",
            lasts,
            waits(),
            || {
                // A schema that nobody has asked for before.
                let id = new_schema();
                away(true);
                ID.store(id, Ordering::SeqCst);
            },
            || away(false),
        );
    });
    rig.end();
}
