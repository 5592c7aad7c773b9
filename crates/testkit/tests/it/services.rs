//! Every way into the real services, by programs that are not ours.

use millstream_testkit::services::{self, Kafka, Listener};
use std::fs;
use std::process::{Command, Output, Stdio};

/// The settings of Kafka's own client for a way in.
fn client(kafka: &Kafka, listener: Listener, mechanism: &str) -> String {
    let files = kafka.files();
    let mut lines = Vec::new();
    let security = match listener {
        Listener::Plain => "PLAINTEXT",
        Listener::Tls | Listener::MutualTls => "SSL",
        Listener::Sasl => "SASL_PLAINTEXT",
        Listener::SaslTls => "SASL_SSL",
    };
    lines.push(format!("security.protocol={security}"));
    if security.ends_with("SSL") {
        lines.push("ssl.truststore.type=PEM".to_owned());
        lines.push(format!("ssl.truststore.location={}", files.ca.display()));
    }
    if listener == Listener::MutualTls {
        let [cert, key] = [&files.client_cert, &files.client_key]
            .map(|file| fs::read_to_string(file).unwrap().replace('\n', "\\n"));
        lines.push("ssl.keystore.type=PEM".to_owned());
        lines.push(format!("ssl.keystore.certificate.chain={cert}\nssl.keystore.key={key}"));
    }
    if security.starts_with("SASL") {
        let module = match mechanism {
            "PLAIN" => "plain.PlainLoginModule",
            _ => "scram.ScramLoginModule",
        };
        let (user, password) = (files.user, files.password);
        lines.push(format!("sasl.mechanism={mechanism}"));
        lines.push(format!(
            "sasl.jaas.config=org.apache.kafka.common.security.{module} required \
             username=\"{user}\" password=\"{password}\";"
        ));
    }
    lines.join("\n")
}

#[test]
fn every_listener_lets_kafkas_own_client_in() {
    let Some(kafka) = services::kafka() else { return };
    let topic = services::unique("listed");
    kafka.create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
    let ways = [
        (Listener::Tls, ""),
        (Listener::MutualTls, ""),
        (Listener::Sasl, "PLAIN"),
        (Listener::Sasl, "SCRAM-SHA-256"),
        (Listener::SaslTls, "SCRAM-SHA-512"),
    ];
    for (listener, mechanism) in ways {
        let file = std::env::temp_dir().join(services::unique("client"));
        fs::write(&file, client(&kafka, listener, mechanism)).unwrap();
        let brokers = kafka.brokers(listener);
        let config = file.to_str().unwrap();
        let arguments =
            ["topics", "--bootstrap-server", &brokers, "--command-config", config, "--list"];
        let topics = kafka.tool(&arguments);
        fs::remove_file(&file).unwrap();
        assert!(topics.lines().any(|line| line == topic), "{listener:?} {mechanism}: {topics}");
    }
    let described = kafka.tool(&["topics", "--describe", "--topic", &topic]);
    assert!(described.contains("PartitionCount: 2"), "{described}");
    assert!(described.contains("cleanup.policy=compact"), "{described}");
    kafka.delete_topic(&topic);
}

#[test]
fn clients_are_sent_through_the_proxy() {
    let Some(kafka) = services::kafka() else { return };
    let topic = services::unique("proxied");
    kafka.create_topic(&topic, 1, &[]);
    let proxied = kafka.proxied(1);
    let arguments = ["offsets", "--bootstrap-server", &proxied.bootstrap, "--topic", &topic];
    assert_eq!(kafka.tool(&arguments).trim(), format!("{topic}:0:0"));
    // The first connection asks who is there, the second goes where the answer sent it.
    assert!(proxied.proxies[0].connections() >= 2);
}

#[test]
fn a_broker_of_the_cluster_is_killed_and_comes_back() {
    let Some(kafka) = services::kafka_cluster() else { return };
    let topic = services::unique("replicated");
    kafka.create_topic(&topic, 3, &[]);
    kafka.kill(2);
    let port =
        |node: usize| -> String { kafka.bootstrap().split(',').nth(node - 1).unwrap().to_owned() };
    assert!(std::net::TcpStream::connect(port(2)).is_err());
    kafka.start(2);
    let arguments = ["offsets", "--bootstrap-server", &port(2), "--topic", &topic];
    assert_eq!(kafka.tool(&arguments).lines().count(), 3);
    kafka.pause(3);
    kafka.resume(3);
    kafka.delete_topic(&topic);
}

#[test]
fn the_registry_answers_over_http_and_tls() {
    let Some(registry) = services::registry() else { return };
    let trust = registry.ca();
    for url in [registry.url(), registry.tls_url()] {
        let script = "import ssl, sys, urllib.request as r\n\
            trust = r.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[2]))\n\
            print(r.build_opener(r.ProxyHandler({}), trust).open(sys.argv[1] + '/subjects').status)";
        let run = Command::new("python3").args(["-c", script, &url]).arg(&trust).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), "200", "{url}: {run:?}");
    }
}

/// The starter by itself, in a directory of the test's own.
fn starter(home: &std::path::Path, path: Option<&str>, arguments: &[&str]) -> Output {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dev/services");
    let python =
        Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let mut command = Command::new(String::from_utf8(python.stdout).unwrap().trim());
    command.arg(program).args(arguments).env("MILLSTREAM_SERVICES_HOME", home);
    command.env("MILLSTREAM_SERVICES_PORT", "28000").stdin(Stdio::null());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().unwrap()
}

#[test]
fn what_is_missing_or_mistaken_is_said() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped, there is no Python 3");
        return;
    }
    let home = std::env::temp_dir().join(services::unique("services"));
    let cases: [(&[&str], Option<&str>, &str); 5] = [
        (
            &["up", "kafka"],
            Some(""),
            "needs java, mvn, openssl; on Debian: apt-get install openjdk-17",
        ),
        (&["up", "cafka"], None, "no service `cafka`; there are: kafka "),
        (&["kill", "registry"], None, "registry does not run; start it with: services up registry"),
        (&["kafka", "nothing"], None, "TOOL: topics groups"),
        (&["sideways"], None, "no command `sideways`"),
    ];
    for (arguments, path, words) in cases {
        let run = starter(&home, path, arguments);
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
    }
    // The command's own exit code comes through.
    let run = starter(&home, None, &["during", "sh", "-c", "exit 7"]);
    assert_eq!(run.status.code(), Some(7), "{run:?}");
    fs::remove_dir_all(&home).unwrap();
}
