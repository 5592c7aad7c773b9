//! TLS, client certificates and every way of logging in.

use super::member::Member;
use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millstream_connectors::kafka::{Mechanism, SaslOptions, TlsOptions};
use millstream_core::{Credential, Disposition};
use millstream_testkit::services::{self, Files, Listener, unique};
use std::time::{SystemTime, UNIX_EPOCH};

fn tls(files: &Files) -> TlsOptions {
    TlsOptions { ca: Some(files.ca.clone()), certificate: None, key: None }
}

fn sasl(files: &Files, mechanism: Mechanism) -> SaslOptions {
    SaslOptions {
        mechanism,
        username: files.user.clone(),
        secret: Credential::given(&files.password),
    }
}

/// A token without a signature, which is what the listener takes.
fn token(user: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (begins, ends) = (now.min(now + seconds - 1), now + seconds);
    let claims = format!(r#"{{"sub":"{user}","iat":{begins},"exp":{ends}}}"#);
    let [header, claims] = [r#"{"alg":"none"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.")
}

fn bearing(token: String) -> SaslOptions {
    SaslOptions {
        mechanism: Mechanism::OAuthBearer,
        username: String::new(),
        secret: Credential::given(token),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_and_come_through_every_door() {
    let Some(kafka) = services::kafka() else { return };
    let files = kafka.files();
    let mutual = TlsOptions {
        certificate: Some(files.client_cert.clone()),
        key: Some(files.client_key.clone()),
        ..tls(&files)
    };
    let doors = [
        (Listener::Tls, Some(tls(&files)), None),
        (Listener::MutualTls, Some(mutual), None),
        (Listener::Sasl, None, Some(Mechanism::Plain)),
        (Listener::Sasl, None, Some(Mechanism::ScramSha256)),
        (Listener::Sasl, None, Some(Mechanism::ScramSha512)),
        (Listener::Sasl, None, Some(Mechanism::OAuthBearer)),
        (Listener::SaslTls, Some(tls(&files)), Some(Mechanism::ScramSha512)),
    ];
    for (listener, tls, mechanism) in doors {
        let topic = unique("door");
        kafka.create_topic(&topic, 2, KEEP);
        let mut options = options(&kafka.brokers(listener));
        options.tls = tls;
        options.sasl = mechanism.map(|mechanism| sasl(&files, mechanism));
        if mechanism == Some(Mechanism::OAuthBearer) {
            options.sasl = Some(bearing(token("alice", 600)));
        }
        let cluster = Cluster::new(options, Handle::current()).unwrap();
        produce(&cluster, &topic, Codec::Lz4, &events(1, 300)).await;
        let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
        until("it is read", || member.seen() == 300).await;
        member.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why() {
    let Some(kafka) = services::kafka() else { return };
    let files = kafka.files();
    let refused = async |options: ClusterOptions| {
        let cluster = Cluster::new(options, Handle::current()).unwrap();
        KafkaSource::open(cluster, reading("t", "g")).await.err().unwrap()
    };
    let mut wrong = options(&kafka.brokers(Listener::Sasl));
    wrong.sasl = Some(SaslOptions {
        secret: Credential::given("wrong-secret"),
        ..sasl(&files, Mechanism::ScramSha256)
    });
    let error = refused(wrong).await;
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.chain().contains("did not let `alice` in"), "{}", error.chain());
    assert!(!error.chain().contains("wrong-secret"));

    let mut stranger = options(&kafka.brokers(Listener::MutualTls));
    stranger.request_timeout = Duration::from_secs(3);
    stranger.tls = Some(TlsOptions {
        certificate: Some(files.stranger_cert.clone()),
        key: Some(files.stranger_key.clone()),
        ..tls(&files)
    });
    let error = refused(stranger).await;
    assert_eq!(error.disposition(), Disposition::Stop, "{}", error.chain());
    assert!(error.chain().contains("does not take our certificate"), "{}", error.chain());

    let mut doubtful = options(&kafka.brokers(Listener::Tls));
    doubtful.tls = Some(TlsOptions { ca: Some(files.stranger_cert.clone()), ..tls(&files) });
    let error = refused(doubtful).await;
    assert_eq!(error.disposition(), Disposition::Stop, "{}", error.chain());
    assert!(error.chain().contains("no TLS with 127.0.0.1: see `ca`"), "{}", error.chain());

    for (wrong, why) in [
        (token("alice", -60), "invalid_token"),
        ("not.a.token".to_owned(), "did not take the token"),
        ("two words".to_owned(), "no token"),
    ] {
        let mut options = options(&kafka.brokers(Listener::Sasl));
        options.sasl = Some(bearing(wrong));
        let error = refused(options).await;
        assert_eq!(error.disposition(), Disposition::Stop, "{why}: {}", error.chain());
        assert!(error.chain().contains(why), "{why}: {}", error.chain());
    }

    let mut missing = options(&kafka.brokers(Listener::Tls));
    missing.tls =
        Some(TlsOptions { ca: Some("/no/such/file.pem".into()), ..TlsOptions::default() });
    let error = refused(missing).await;
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.chain().contains("/no/such/file.pem"), "{}", error.chain());
}

/// The files are replaced while members hold their partitions: new connections use them.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_replaced_are_used_by_the_next_connection() {
    let Some(kafka) = services::kafka() else { return };
    let files = kafka.files();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::copy(&files.stranger_cert, &certificate).unwrap();
    std::fs::copy(&files.stranger_key, &key).unwrap();
    let topic = unique("renewed");
    kafka.create_topic(&topic, 1, KEEP);
    let mut options = options(&kafka.brokers(Listener::MutualTls));
    options.request_timeout = Duration::from_secs(3);
    options.tls = Some(TlsOptions {
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
        ..tls(&files)
    });
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let opened = KafkaSource::open(cluster.clone(), reading(&topic, &topic)).await;
    assert!(opened.is_err(), "a stranger was let in");
    // Times of files may be coarse.
    tokio::time::sleep(Duration::from_millis(20)).await;
    std::fs::copy(&files.client_cert, &certificate).unwrap();
    std::fs::copy(&files.client_key, &key).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("it is a member", || member.owned() == 1).await;
    member.leave().await;
}

/// Tokens of a few seconds, each in its file before the last is over: rows and partitions do not
/// notice. When one comes late everything goes on once it is there.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_run_out_are_renewed_without_losing_the_place() {
    let Some(kafka) = services::kafka() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, token("alice", 6)).unwrap();
    let topic = unique("tokens");
    kafka.create_topic(&topic, 2, KEEP);
    let mut options = options(&kafka.brokers(Listener::Sasl));
    options.sasl =
        Some(SaslOptions { secret: Credential::File(file.clone()), ..bearing(String::new()) });
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are ours", || member.owned() == 2).await;
    let sent = events(51, 2_000);
    let mut sink =
        sink(&cluster, Target::Topic(topic.as_str().into()), Codec::Lz4, &rows(&sent[..1]));
    let mut durable = Vec::new();
    for (at, part) in sent.chunks(100).enumerate() {
        // The third of these comes when the second was over for some seconds.
        match at {
            3 => std::fs::write(&file, token("alice", 3)).unwrap(),
            11 => std::fs::write(&file, token("alice", 600)).unwrap(),
            _ => {}
        }
        durable.push(sink.write(&batch(rows(part))).await.unwrap().durable);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    for receipt in durable {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    until("all are read", || member.seen() >= sent.len()).await;
    assert_eq!(member.seen(), sent.len(), "nothing came twice");
    let (lost, revoked) = {
        let notes = member.notes.lock();
        (notes.lost, notes.revoked)
    };
    assert_eq!((lost, revoked), (0, 0));
    member.leave().await;
}

/// Where the broker lets a login hold only for a time (`connections.max.reauth.ms`), a new connection
/// takes over before that, whatever the mechanism: nobody loses rows or a place.
#[tokio::test(flavor = "multi_thread")]
async fn logins_that_hold_for_a_time_are_renewed_before_it_is_over() {
    let Some(kafka) = services::kafka() else { return };
    let files = kafka.files();
    let one = async |mechanism: Mechanism| {
        renewed(&kafka, sasl(&files, mechanism), |_| {}).await;
    };
    tokio::join!(one(Mechanism::Plain), one(Mechanism::ScramSha256), one(Mechanism::ScramSha512));
}

/// A password that is in a file is the one that a new login shows: rows and partitions do not notice
/// that it was changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_without_losing_the_place() {
    let Some(kafka) = services::kafka() else { return };
    let files = kafka.files();
    let user = unique("rotated");
    let set = |password: &str| {
        let secret = format!("SCRAM-SHA-512=[password={password}]");
        let user = ["--entity-type", "users", "--entity-name", &user];
        let change = ["--alter", "--add-config", &secret];
        let to = ["configs", "--bootstrap-server", &kafka.bootstrap()].map(str::to_owned);
        let all = to.iter().map(String::as_str).chain(user).chain(change);
        kafka.tool(&all.collect::<Vec<_>>());
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    set("first-secret");
    std::fs::write(&file, "first-secret\n").unwrap();
    let login = SaslOptions {
        username: user.clone(),
        secret: Credential::File(file.clone()),
        ..sasl(&files, Mechanism::ScramSha512)
    };
    renewed(&kafka, login, |at| {
        if at == 4 {
            set("second-secret");
            std::fs::write(&file, "second-secret\n").unwrap();
        }
    })
    .await;
}

/// Rows go and come for longer than two logins hold, and none is lost, or comes twice, nor is a
/// partition. `before` is done before each of sixteen batches.
async fn renewed(kafka: &services::Kafka, login: SaslOptions, mut before: impl FnMut(usize)) {
    let topic = unique("logins");
    kafka.create_topic(&topic, 2, KEEP);
    let mut options = options(&kafka.brokers(Listener::SaslTls));
    options.tls = Some(tls(&kafka.files()));
    options.sasl = Some(login);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are ours", || member.owned() == 2).await;
    let sent = events(52, 1_600);
    let target = Target::Topic(topic.as_str().into());
    let mut sink = sink(&cluster, target, Codec::Lz4, &rows(&sent[..1]));
    for (at, part) in sent.chunks(100).enumerate() {
        before(at);
        let receipt = sink.write(&batch(rows(part))).await.unwrap();
        tokio::time::timeout(PATIENCE, receipt.durable).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    until("all are read", || member.seen() >= sent.len()).await;
    let (seen, moved) = {
        let notes = member.notes.lock();
        (notes.seen.len(), notes.lost + notes.revoked)
    };
    assert_eq!((seen, moved), (sent.len(), 0));
    member.leave().await;
}
