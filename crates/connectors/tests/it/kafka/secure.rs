//! TLS, client certificates and every way of logging in.

use super::member::Member;
use super::*;
use millstream_connectors::kafka::{Hidden, Mechanism, SaslOptions, TlsOptions};
use millstream_core::Disposition;
use millstream_testkit::services::{self, Files, Listener, unique};

fn tls(files: &Files) -> TlsOptions {
    TlsOptions { ca: Some(files.ca.clone()), certificate: None, key: None }
}

fn sasl(files: &Files, mechanism: Mechanism) -> SaslOptions {
    SaslOptions {
        mechanism,
        username: files.user.clone(),
        password: Hidden(files.password.clone()),
        token_file: None,
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
        (Listener::SaslTls, Some(tls(&files)), Some(Mechanism::ScramSha512)),
    ];
    for (listener, tls, mechanism) in doors {
        let topic = unique("door");
        kafka.create_topic(&topic, 2, KEEP);
        let mut options = options(&kafka.brokers(listener));
        options.tls = tls;
        options.sasl = mechanism.map(|mechanism| sasl(&files, mechanism));
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
        password: Hidden("wrong-secret".into()),
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
    assert!(error.chain().contains("no broker of"), "{}", error.chain());

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
