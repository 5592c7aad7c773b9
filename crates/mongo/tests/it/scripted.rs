//! What a small server cannot be made to say: members that are not the primary, write concerns that
//! are not met, answers that do not come, and documents that it refuses to keep.

use crate::support::{
    ask, longs, lookup_options, open_lookup, options, rows, shown, sink_options, texts, write,
};
use arrow_schema::DataType;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_core::Credential;
use millstream_mongo::{Cluster, Operation, ReadFrom, Rows, Template};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawDocumentBuf, doc};
use ring::{digest, hmac, pbkdf2};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::runtime::Handle;

pub enum Reply {
    Say(Document),
    /// Nothing, and the connection stays.
    Silence,
    /// The connection ends.
    End,
}

type Script = Arc<Mutex<dyn FnMut(&Document) -> Reply + Send>>;

/// A server alone, which answers each command that is not about itself as the script says.
pub fn serve(script: impl FnMut(&Document) -> Reply + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script: Script = Arc::new(Mutex::new(script));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = script.clone();
            thread::spawn(move || converse(stream, &script));
        }
    });
    address
}

fn converse(mut stream: TcpStream, script: &Script) -> Option<()> {
    loop {
        let mut head = [0; 21];
        stream.read_exact(&mut head).ok()?;
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; len - head.len()];
        stream.read_exact(&mut body).ok()?;
        assert_eq!(head[20], 0, "a command is one section");
        let command = Document::try_from(&RawDocumentBuf::from_bytes(body).unwrap()).unwrap();
        let name = command.keys().next().unwrap().to_lowercase();
        let answer = match name.as_str() {
            "hello" | "ismaster" => doc! {
                "ok": 1, "isWritablePrimary": true, "ismaster": true, "helloOk": true,
                "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 21,
                "saslSupportedMechs": ["SCRAM-SHA-256"],
            },
            "ping" | "endsessions" => doc! { "ok": 1 },
            _ => match (script.lock().unwrap())(&command) {
                Reply::Say(answer) => answer,
                Reply::Silence => continue,
                Reply::End => return None,
            },
        };
        let answer = RawDocumentBuf::try_from(&answer).unwrap().into_bytes();
        let mut out = Vec::new();
        out.extend_from_slice(&(answer.len() as u32 + 21).to_le_bytes());
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&head[4..8]);
        out.extend_from_slice(&2013_u32.to_le_bytes());
        out.extend_from_slice(&[0; 5]);
        out.extend_from_slice(&answer);
        stream.write_all(&out).ok()?;
    }
}

/// A server that gives these answers in turn, then none; and the commands that it got.
async fn scripted(answers: Vec<Reply>) -> (Arc<Cluster>, Arc<Mutex<Vec<Document>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut answers) = (got.clone(), answers.into_iter());
    let address = serve(move |command| {
        seen.lock().unwrap().push(command.clone());
        answers.next().unwrap_or(Reply::End)
    });
    (Cluster::connect(options(address), &Handle::current()).await.unwrap(), got)
}

fn three() -> millstream_core::Batch {
    rows(vec![("_id", longs(&[Some(1), Some(2), Some(3)])), ("v", texts(&[Some("x"); 3]))])
}

fn found(documents: Vec<Document>) -> Reply {
    let documents: Vec<_> = documents.into_iter().map(Bson::from).collect();
    Reply::Say(doc! { "ok": 1, "cursor": { "id": 0_i64, "ns": "d.c", "firstBatch": documents } })
}

fn upsert() -> millstream_mongo::MongoSinkOptions {
    sink_options("d", "c", Operation::Upsert)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_not_durable_are_written_again() {
    let unmet = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    let (cluster, got) = scripted(vec![
        Reply::Say(doc! { "ok": 1, "n": 3, "writeConcernError": unmet }),
        Reply::Say(doc! { "ok": 0, "code": 10107, "errmsg": "not primary", "codeName": "NotWritablePrimary" }),
        Reply::Say(doc! { "ok": 1, "n": 3 }),
    ])
    .await;
    let receipt = write(&cluster, upsert(), &three()).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (3, 0));
    let got = got.lock().unwrap();
    assert_eq!(got.len(), 3);
    assert!(got.iter().all(|command| command.get_array("updates").unwrap().len() == 3));
    let concern = got[0].get_document("writeConcern").unwrap();
    assert_eq!(concern.get_str("w").unwrap(), "majority");
    assert!(!got[0].get_bool("ordered").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_becomes_durable_is_never_acknowledged() {
    let unmet = || {
        let error = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
        Reply::Say(doc! { "ok": 1, "n": 3, "writeConcernError": error })
    };
    let (cluster, _) = scripted((0..10).map(|_| unmet()).collect()).await;
    let error = write(&cluster, upsert(), &three()).await.err().unwrap();
    assert!(error.contains("the write concern is not met: waiting for replication"), "{error}");
    let few = || Reply::Say(doc! { "ok": 1, "n": 2 });
    let (cluster, _) = scripted((0..10).map(|_| few()).collect()).await;
    let error = write(&cluster, upsert(), &three()).await.err().unwrap();
    assert!(error.contains("2 of 3 rows are stored"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_row_that_may_come_right_is_sent_again() {
    let errors = vec![
        doc! { "index": 0, "code": 121, "errmsg": "Document failed validation" },
        doc! { "index": 2, "code": 112, "errmsg": "WriteConflict" },
    ];
    let (cluster, got) = scripted(vec![
        Reply::Say(doc! { "ok": 1, "n": 1, "writeErrors": errors }),
        Reply::Say(doc! { "ok": 1, "n": 1 }),
    ])
    .await;
    let receipt = write(&cluster, upsert(), &three()).await.unwrap();
    assert_eq!(receipt.rejected, [(0, "Document failed validation".to_owned())]);
    assert_eq!(receipt.rows, 2);
    let got = got.lock().unwrap();
    let again = got[1].get_array("updates").unwrap();
    let query = again[0].as_document().unwrap().get_document("q").unwrap();
    assert_eq!((again.len(), query), (1, &doc! { "_id": 3_i64 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_that_races_with_another_is_tried_again() {
    let race = || {
        let error = doc! { "index": 1, "code": 11000, "errmsg": "E11000 duplicate key error" };
        Reply::Say(doc! { "ok": 1, "n": 2, "writeErrors": [error] })
    };
    let (cluster, _) = scripted(vec![race(), Reply::Say(doc! { "ok": 1, "n": 1 })]).await;
    let receipt = write(&cluster, upsert(), &three()).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (3, 0));
    // One that stays is of another unique index.
    let stays = || {
        let error = doc! { "index": 0, "code": 11000, "errmsg": "E11000 duplicate key error" };
        Reply::Say(doc! { "ok": 1, "n": 0, "writeErrors": [error] })
    };
    let (cluster, _) = scripted(vec![race(), stays(), stays(), stays()]).await;
    let receipt = write(&cluster, upsert(), &three()).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected.as_slice(), receipt.rows), (&[1][..], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_one_key_are_updated_in_order_past_a_bad_one() {
    let bad = doc! { "index": 1, "code": 14, "errmsg": "Cannot increment a text" };
    let (cluster, got) = scripted(vec![
        Reply::Say(doc! { "ok": 1, "n": 1, "writeErrors": [bad] }),
        Reply::Say(doc! { "ok": 1, "n": 2 }),
    ])
    .await;
    let template = Template::parse(serde_json::json!({ "$push": { "all": "$v" } })).unwrap();
    let mut options = sink_options("d", "c", Operation::Update { template, upsert: true });
    options.key = vec!["_id".into()];
    let values = ["a", "b", "c", "d"].map(Some);
    let batch = rows(vec![("_id", longs(&[Some(1); 4])), ("v", texts(&values))]);
    let receipt = write(&cluster, options, &batch).await.unwrap();
    assert_eq!(receipt.rejected, [(1, "Cannot increment a text".to_owned())]);
    let got = got.lock().unwrap();
    assert!(got.iter().all(|command| command.get_bool("ordered").unwrap()));
    let sent = |command: &Document| -> Vec<String> {
        let updates = command.get_array("updates").unwrap().iter();
        let pushed = updates.map(|update| {
            let update = update.as_document().unwrap().get_document("u").unwrap();
            update.get_document("$push").unwrap().get_str("all").unwrap().to_owned()
        });
        pushed.collect()
    };
    assert_eq!(sent(&got[0]), ["a", "b", "c", "d"]);
    assert_eq!(sent(&got[1]), ["c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_refused_as_a_whole_is_split() {
    let mut calls = 0;
    let address = serve(move |command| {
        calls += 1;
        assert!(calls < 50, "it is split in halves");
        let documents = command.get_array("documents").unwrap();
        let bad = |d: &Bson| d.as_document().unwrap().get_str("v").unwrap() == "bad";
        match documents.iter().any(bad) {
            true => Reply::Say(doc! { "ok": 0, "code": 2, "errmsg": "bad value" }),
            false => Reply::Say(doc! { "ok": 1, "n": documents.len() as i32 }),
        }
    });
    let cluster = Cluster::connect(options(address), &Handle::current()).await.unwrap();
    let ids: Vec<_> = (0..100).map(Some).collect();
    let mut values = vec![Some("x"); 100];
    values[42] = Some("bad");
    let batch = rows(vec![("_id", longs(&ids)), ("v", texts(&values))]);
    let receipt = write(&cluster, sink_options("d", "c", Operation::Insert), &batch).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len(), receipt.rejected[0].0), (99, 1, 42));
    assert!(receipt.rejected[0].1.contains("bad value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_whose_answer_is_lost_is_stored_once() {
    let mut stored: Vec<Document> = vec![doc! { "_id": 2_i64, "v": "somebody's" }];
    let mut first = true;
    let address = serve(move |command| {
        if command.contains_key("find") {
            return found(stored.clone());
        }
        let mut errors = Vec::new();
        for (at, document) in command.get_array("documents").unwrap().iter().enumerate() {
            let document = document.as_document().unwrap();
            match stored.iter().any(|d| d.get("_id") == document.get("_id")) {
                true => errors.push(doc! { "index": at as i32, "code": 11000, "errmsg": "E11000" }),
                false => stored.push(document.clone()),
            }
        }
        if std::mem::take(&mut first) {
            return Reply::End;
        }
        let n = 3 - errors.len() as i32;
        Reply::Say(doc! { "ok": 1, "n": n, "writeErrors": errors })
    });
    let cluster = Cluster::connect(options(address), &Handle::current()).await.unwrap();
    let options = sink_options("d", "c", Operation::Insert);
    let receipt = write(&cluster, options, &three()).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected.as_slice(), receipt.rows), (&[1][..], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let (cluster, _) = scripted((0..10).map(|_| Reply::Silence).collect()).await;
    let mut options = upsert();
    options.timeout = Duration::from_millis(200);
    options.retries = 1;
    let error = write(&cluster, options, &three()).await.err().unwrap();
    assert!(error.contains("writing d.c: no answer within 200ms"), "{error}");
    let mut options = lookup_options("d", "c", &[("v", "string")]);
    options.timeout = Duration::from_millis(200);
    let lookup = open_lookup(&cluster, options, &[("_id", DataType::Int64)]).unwrap();
    let error = ask(&lookup, vec![("_id", longs(&[Some(1)]))]).await.unwrap_err();
    assert!(error.contains("looking up in d.c: no answer within 200ms"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_asks_for_no_more_than_it_needs() {
    let (cluster, got) = scripted(vec![found(Vec::new()), found(Vec::new())]).await;
    let mut options = lookup_options("d", "c", &[("a.b", "int"), ("a", "string"), ("v", "int")]);
    options.sort = vec![("at".into(), true)];
    options.read_from = ReadFrom::SecondaryPreferred;
    options.read_concern = Some("majority".into());
    options.rows = Rows::All { max: 10 };
    let lookup = open_lookup(&cluster, options.clone(), &[("k", DataType::Int64)]).unwrap();
    ask(&lookup, vec![("k", longs(&[Some(1), Some(2)]))]).await.unwrap();
    let key = [("k", DataType::Int64), ("l.m", DataType::Utf8)];
    options.rows = Rows::First;
    let lookup = open_lookup(&cluster, options, &key).unwrap();
    ask(&lookup, vec![("k", longs(&[Some(1)])), ("l.m", texts(&[Some("x")]))]).await.unwrap();
    let mut got = got.lock().unwrap();
    for command in got.iter_mut() {
        command.remove("$db");
        command.remove("$readPreference");
    }
    let (sort, read) = (doc! { "at": -1 }, doc! { "level": "majority" });
    let expected = doc! {
        "find": "c",
        "filter": { "k": { "$in": [1_i64, 2_i64] } },
        "projection": { "a": 1, "k": 1, "v": 1, "_id": 0 },
        "sort": sort.clone(),
        "limit": 21_i64, "batchSize": 22_i64, "maxTimeMS": 10_000_i64,
        "readConcern": read.clone(),
    };
    assert_eq!(got[0], expected);
    assert_eq!(
        got[1].get_document("filter").unwrap(),
        &doc! { "$or": [{ "k": 1_i64, "l.m": "x" }] }
    );
    let projection = doc! { "a": 1, "k": 1, "l.m": 1, "v": 1, "_id": 0 };
    assert_eq!(got[1].get_document("projection").unwrap(), &projection);
    assert_eq!(got[1].get_i64("limit").unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_a_small_server_refuses_are_read() {
    let decimal = Bson::Decimal128("12.50".parse().unwrap());
    let document = doc! {
        "_id": 1_i64, "grid": [[1, 2], [3]], "nan": f64::NAN, "price": decimal, "min": Bson::MinKey,
    };
    let (cluster, _) = scripted(vec![found(vec![document])]).await;
    let columns = [
        ("grid", "int[][]", "[[1, 2], [3]]"),
        ("nan", "double", "NaN"),
        ("price", "decimal(6, 2)", "12.50"),
        ("min", "string", "MinKey"),
    ];
    let declared: Vec<_> = columns.iter().map(|(name, of, _)| (*name, *of)).collect();
    let options = lookup_options("d", "c", &declared);
    let lookup = open_lookup(&cluster, options, &[("_id", DataType::Int64)]).unwrap();
    let answer = ask(&lookup, vec![("_id", longs(&[Some(1)]))]).await.unwrap();
    for (name, _, expected) in columns {
        assert_eq!(shown(&answer.rows, name, 0), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_nobody_asked_for_is_not_passed_over() {
    let (cluster, _) = scripted(vec![found(vec![doc! { "k": "ABC", "v": 1 }])]).await;
    let options = lookup_options("d", "c", &[("v", "int")]);
    let lookup = open_lookup(&cluster, options, &[("k", DataType::Utf8)]).unwrap();
    let error = ask(&lookup, vec![("k", texts(&[Some("abc")]))]).await.unwrap_err();
    assert!(error.contains("the collection's collation finds what is not equal"), "{error}");
}

/// The server's side of SCRAM-SHA-256, for one user.
pub fn log_in(password: &'static str) -> impl FnMut(&Document) -> Reply + Send {
    const ROUNDS: u32 = 4096;
    const SALT: &[u8] = b"a salt";
    let mut said = Vec::new();
    let hash = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    move |command| {
        let answer = |text: String, done: bool| {
            let bytes = text.into_bytes();
            let payload = Binary { subtype: BinarySubtype::Generic, bytes };
            Reply::Say(doc! { "ok": 1, "conversationId": 1, "done": done, "payload": payload })
        };
        let payload = command.get_binary_generic("payload").map(|bytes| bytes.to_vec());
        let payload = String::from_utf8(payload.unwrap_or_default()).unwrap();
        if command.contains_key("saslStart") {
            let bare = payload.strip_prefix("n,,").unwrap();
            let (name, nonce) = bare.split_once(",r=").unwrap();
            assert_eq!(name, "n=alice");
            let first = format!("r={nonce}ours,s={},i={ROUNDS}", BASE64_STANDARD.encode(SALT));
            said = vec![bare.to_owned(), first.clone()];
            return answer(first, false);
        }
        if command.contains_key("saslContinue") {
            let (without, proof) = payload.split_once(",p=").unwrap();
            let all = format!("{},{},{without}", said[0], said[1]);
            let mut salted = [0; 32];
            let rounds = std::num::NonZeroU32::new(ROUNDS).unwrap();
            let way = pbkdf2::PBKDF2_HMAC_SHA256;
            pbkdf2::derive(way, rounds, SALT, password.as_bytes(), &mut salted);
            let key = hash(&salted, "Client Key");
            let signature = hash(digest::digest(&digest::SHA256, &key).as_ref(), &all);
            let wanted: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
            if BASE64_STANDARD.encode(wanted) != proof {
                let failed = "Authentication failed.";
                return Reply::Say(doc! { "ok": 0, "code": 18, "errmsg": failed });
            }
            let proof = hash(&hash(&salted, "Server Key"), &all);
            return answer(format!("v={}", BASE64_STANDARD.encode(proof)), true);
        }
        found(vec![doc! { "_id": 1_i64, "v": "x" }])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_with_the_password_and_no_other() {
    let address = serve(log_in("pencil"));
    let mut with = options(address);
    with.user = Some(("alice".into(), Credential::given("pencil")));
    let cluster = Cluster::connect(with.clone(), &Handle::current()).await.unwrap();
    let lookup = lookup_options("d", "c", &[("v", "string")]);
    let lookup = open_lookup(&cluster, lookup, &[("_id", DataType::Int64)]).unwrap();
    assert_eq!(ask(&lookup, vec![("_id", longs(&[Some(1)]))]).await.unwrap().ends, [1]);
    with.user = Some(("alice".into(), Credential::given("canary")));
    let error = Cluster::connect(with, &Handle::current()).await.err().unwrap();
    assert_eq!(error.kind(), "unauthorized", "{}", error.chain());
    assert_eq!(error.disposition(), millstream_core::Disposition::Stop);
    assert!(!error.chain().contains("canary"));
}
