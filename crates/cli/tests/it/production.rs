//! `examples/navigation-production`: what its Python calculates is what comes out, every panel of its
//! dashboard has data, its alerts are tested, and its manifests say what the binary does.

use crate::program::{Program, ask, eventually, get};
use millstream_config::{ProcessEnv, parse_as};
use millstream_testkit::python;
use millstream_testkit::services::{self, unique};
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const DRAIN_SECONDS: u64 = 25;
const PARTITIONS: u64 = 20;

fn example(path: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/navigation-production");
    folder.canonicalize().unwrap().join(path)
}

/// The real services, and a place of one's own on them.
struct Stage {
    python: PathBuf,
    variables: Vec<(&'static str, String)>,
    space: String,
}

impl Stage {
    fn new() -> Option<Stage> {
        let requirements = example("requirements.txt");
        let tmp = env!("CARGO_TARGET_TMPDIR");
        let python = python::with_requirements(tmp, "python-production", &requirements)?;
        let (kafka, registry) = (services::kafka()?, services::registry()?);
        let (cassandra, mongo) = (services::cassandra()?, services::mongo()?);
        let space = unique("nav").replace('-', "_");
        let files = cassandra.files();
        let variables = vec![
            ("SPACE", space.clone()),
            ("KAFKA_BROKERS", kafka.bootstrap()),
            ("REGISTRY_URL", registry.url()),
            ("CASSANDRA_NODE", cassandra.nodes()[0].clone()),
            ("CASSANDRA_USER", files.user),
            ("CASSANDRA_PASSWORD", files.password),
            ("MONGO_HOST", mongo.address().to_string()),
        ];
        Some(Stage { python, variables, space })
    }

    fn python(&self, script: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(example(script)).args(args);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn ran(&self, script: &str, args: &[&str]) -> String {
        let run = self.python(script, args).output().unwrap();
        assert!(run.status.success(), "{script}: {}", both(&run));
        both(&run)
    }
}

fn both(run: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    format!("{out}{err}")
}

#[test]
fn what_comes_out_is_what_python_calculates() {
    let Some(stage) = Stage::new() else { return };
    stage.ran("load.py", &["4000"]);
    let program = Program::new();
    let pipeline = example("navigation.yaml");
    let run = |args: &[&str]| {
        let mut command = program.command(args);
        command.arg(&pipeline).envs(stage.variables.iter().map(|(name, value)| (name, value)));
        let run = command.output().unwrap();
        assert!(run.status.success(), "{args:?}: {}", both(&run));
        both(&run)
    };
    run(&["check"]);
    // Whoever calculates also sees what is not there.
    let verified = stage.python("verify.py", &[]).output().unwrap();
    assert_eq!(verified.status.code(), Some(1), "{}", both(&verified));
    assert!(both(&verified).contains("is missing"), "{}", both(&verified));

    let shown = run(&["run", "--screen", "--exit-when-idle", "--listen", "off"]);
    let last = shown.lines().rev().find(|line| line.contains("rows/s"));
    assert!(last.is_some_and(|line| line.contains("navigation in 4000 out")), "{shown}");
    let said = stage.ran("verify.py", &[]);
    assert_eq!(said.matches(" ok\n").count(), 4, "{said}");
    assert!(said.contains("4,000 events = "), "{said}");
}

#[test]
fn every_panel_has_data_while_the_pipeline_runs() {
    let Some(stage) = Stage::new() else { return };
    let Some(prometheus) = services::prometheus() else { return };
    stage.ran("load.py", &["3000"]);
    let program = Program::new();
    let pipeline = example("navigation.yaml");
    let variables: Vec<(&str, &Path)> =
        stage.variables.iter().map(|(name, value)| (*name, Path::new(value))).collect();
    let running = program.start_with(&[pipeline.to_str().unwrap()], &variables);
    let job = stage.space.clone();
    let _scraped = prometheus.scrape(&job, running.address);
    let feeding = stage.python("load.py", &["20000", "--slowly"]).stdout(Stdio::null()).spawn();
    let _feeding = Ended(feeding.unwrap());

    let text = std::fs::read_to_string(example("monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut due: Vec<(String, String)> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap();
            due.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    assert!(due.len() > 40, "{}", due.len());
    // What a name that is not there any more would give is no data for ever. What counts troubles is
    // not there before the first, and shown as zero.
    let family = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let wanted: Vec<String> = due
        .iter()
        .filter(|(_, expression)| !expression.ends_with("or vector(0)"))
        .flat_map(|(_, expression)| names(expression))
        .map(|name| family(&name))
        .collect();
    for name in wanted {
        eventually(&format!("there is {name}"), || {
            running.get("/metrics").1.contains(&format!("# TYPE {name} ")).then_some(())
        });
    }
    let mut missing = due.clone();
    // A look-up whose cache has all keys of a batch comes when the first have been asked for.
    while !missing.is_empty() {
        let waits = missing.first().unwrap().clone();
        eventually(&format!("panel `{}` has data: {}", waits.0, waits.1), || {
            missing.retain(|(_, expression)| !has_data(prometheus.address(), expression, &job));
            (!missing.contains(&waits)).then_some(())
        });
    }
    assert_eq!(running.end(), 0);
}

/// A process that is ended with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The names of metrics in a text.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("millstream_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// Whether Prometheus has a number for an expression, as Grafana would ask it.
fn has_data(prometheus: SocketAddr, expression: &str, job: &str) -> bool {
    let expression = expression
        .replace("$__rate_interval", "15s")
        .replace("$__range", "1m")
        .replace("$job", job)
        .replace("$instance", ".*")
        .replace("$pipeline", ".*");
    assert!(!expression.contains('$'), "a variable is left: {expression}");
    let mut query = String::new();
    for byte in expression.bytes() {
        write!(query, "%{byte:02X}").unwrap();
    }
    let (status, answer) = get(prometheus, &format!("/api/v1/query?query={query}"));
    assert_eq!(status, 200, "{expression}: {answer}");
    // Its answer may come in chunks.
    let json = &answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()];
    let answer: Value = serde_json::from_str(json).unwrap();
    let found = answer["data"]["result"].as_array().unwrap();
    let value = |series: &Value| series["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    !found.is_empty() && found.iter().any(|series| value(series).is_finite())
}

#[test]
fn the_alerts_are_tested() {
    if services::prometheus().is_none() {
        return;
    }
    let promtool = |args: &[&str]| {
        let mut command = Command::new("promtool");
        let run = command.args(args).current_dir(example("monitoring")).output().unwrap();
        assert!(run.status.success(), "promtool {args:?}: {}", both(&run));
    };
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let alerts = yaml("monitoring/alerts.yaml");
    let tests = std::fs::read_to_string(example("monitoring/alerts_test.yaml")).unwrap();
    for alert in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = alert["alert"].as_str().unwrap();
        let of = tests.split("alertname: ").filter(|test| test.lines().next() == Some(name));
        assert_eq!(of.count(), 2, "{name} is seen once, and once it is not");
    }
}

fn yaml(path: &str) -> Value {
    let path = example(path);
    let text = std::fs::read_to_string(&path).unwrap();
    let document = parse_as::<serde_json::Map<String, Value>>(&text, &path, &ProcessEnv);
    match document {
        Ok(document) => Value::Object(document.spec),
        Err(mistakes) => panic!("{mistakes}"),
    }
}

#[test]
fn the_manifests_say_what_the_binary_does() {
    let kustomization = yaml("kustomization.yaml");
    let resources = kustomization["resources"].as_array().unwrap();
    let resources: Vec<Value> = resources.iter().map(|path| yaml(path.as_str().unwrap())).collect();
    let kind = |kind: &str| resources.iter().find(|resource| resource["kind"] == kind).unwrap();
    let (set, budget) = (kind("StatefulSet"), kind("PodDisruptionBudget"));
    let (service, secret) = (kind("Service"), kind("Secret"));
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"]);
    assert_eq!(set["spec"]["replicas"], PARTITIONS, "a pod for each partition");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);

    let pod = &set["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > DRAIN_SECONDS + 5, "{grace} s are too few to finish what is in flight");
    let container = &pod["containers"][0];
    let port = &container["ports"][0];
    assert_eq!((&port["name"], &port["containerPort"]), (&"metrics".into(), &9464.into()));
    for (probe, path) in [
        ("startupProbe", "/health/live"),
        ("livenessProbe", "/health/live"),
        ("readinessProbe", "/health/ready"),
    ] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "metrics");
    }
    let instance = &container["env"][0];
    assert_eq!(instance["name"], "INSTANCE");
    assert_eq!(instance["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    assert_eq!(container["resources"]["limits"]["memory"], "512Mi", "as the alert says");

    // Every variable of the pipeline comes from somewhere.
    let pipeline = std::fs::read_to_string(example("navigation.yaml")).unwrap();
    let places = std::fs::read_to_string(example("kubernetes/places.env")).unwrap();
    let mut variables: Vec<(String, String)> = places
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in secret["stringData"].as_object().unwrap() {
        variables.push((name.clone(), value.as_str().unwrap().to_owned()));
    }
    variables.push(("INSTANCE".into(), "navigation-7".into()));
    for variable in pipeline.split("${").skip(1).map(|rest| rest.split([':', '}']).next().unwrap())
    {
        assert!(variables.iter().any(|(name, _)| name == variable), "{variable} is from nowhere");
    }
    for (name, _) in &variables {
        assert!(pipeline.contains(&format!("${{{name}")), "{name} is for nothing");
    }

    // The ConfigMap's files alone, as the pod sees them.
    let program = Program::new();
    let generated = kustomization["configMapGenerator"].as_array().unwrap();
    for file in generated[0]["files"].as_array().unwrap() {
        let name = file.as_str().unwrap();
        program.write(name, std::fs::read(example(name)).unwrap());
    }
    program.write("navigation.test.yaml", std::fs::read(example("navigation.test.yaml")).unwrap());
    let command = |args: &[&str]| {
        let mut command = program.command(args);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    };
    let run = command(&["test", "navigation.yaml"]).output().unwrap();
    assert!(run.status.success(), "{}", both(&run));
    // The clusters of the manifests are not here; nothing else is wrong.
    let nowhere = [
        ("KAFKA_BROKERS", "127.0.0.1:9"),
        ("REGISTRY_URL", "http://127.0.0.1:9"),
        ("CASSANDRA_NODE", "127.0.0.1:9"),
        ("MONGO_HOST", "127.0.0.1:9"),
    ];
    let run = command(&["check", "navigation.yaml"]).envs(nowhere).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", both(&run));
    assert!(both(&run).contains("127.0.0.1:9"), "{}", both(&run));

    // The pod's own command is alive and not ready while it waits for its clusters.
    let args: Vec<String> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .map(|arg| arg.replace("/pipeline/", "").replace("/data", "data"))
        .map(|arg| arg.replace("0.0.0.0:9464", "127.0.0.1:0"))
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let log = std::fs::File::create(program.path("run.log")).unwrap();
    let mut command = command(&args);
    let child = command.envs(nowhere).stderr(log).stdout(Stdio::null()).spawn().unwrap();
    let mut child = Ended(child);
    let socket = program.path("data/millstream.sock");
    eventually("it answers", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let told = ask(&socket, r#"{"request":"process"}"#);
    let address: SocketAddr = told["end"]["listen"].as_str().unwrap().parse().unwrap();
    eventually("it is alive", || (get(address, "/health/live").0 == 200).then_some(()));
    assert_eq!(get(address, "/health/ready").0, 503);
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn kubectl_makes_of_the_folder_what_it_names() {
    let Ok(run) = Command::new("kubectl").arg("kustomize").arg(example("")).output() else {
        eprintln!("skipped, there is no kubectl");
        return;
    };
    assert!(run.status.success(), "{}", both(&run));
    let made = both(&run);
    for kind in ["ConfigMap", "PodDisruptionBudget", "Secret", "Service", "StatefulSet"] {
        assert!(made.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    let first = std::fs::read_to_string(example("navigation.yaml")).unwrap();
    let first = first.lines().next().unwrap();
    assert!(made.contains(first), "the pipeline is in the ConfigMap");
    let names: Vec<&str> = made
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("name: "))
        .filter(|name| name.starts_with("navigation-pipeline"))
        .collect();
    // In its own place, and in the pod's volume: with the hash of what is in it.
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0] == names[1] && names[0] != "navigation-pipeline", "{names:?}");
}
