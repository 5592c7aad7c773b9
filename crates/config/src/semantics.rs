//! The checks across the fields of a file: names that must exist or differ, choices that exclude
//! each other. They look at the value as far as it could be read, so that they report in the same
//! run as the reader.

mod cql;
mod kafka;
mod mongo;
mod postgres;
mod registry;
mod web;

use crate::formats::{nearest, shown};
use crate::shape::Reader;
use serde_json::Value;
use std::collections::HashMap;

/// The checks of a pipeline file.
pub(crate) fn pipeline(value: &Value, reader: &mut Reader) {
    registry::options(&value["registry"], "/registry", reader);
    source(&value["source"], reader);
    lookups(value, reader);
    flow(value, reader);
    dead_letters(value, reader);
    kafka::delivery(value, reader);
    buckets(&value["metrics"]["buckets"], reader);
}

/// The checks of a tests file.
pub(crate) fn tests(value: &Value, reader: &mut Reader) {
    let mut seen = HashMap::new();
    for (index, case) in items(&value["cases"]) {
        if let Some(name) = case["name"].as_str() {
            let path = format!("/cases/{index}/name");
            once(&mut seen, name, &path, "two cases are named", reader);
        }
    }
}

fn source(source: &Value, reader: &mut Reader) {
    let format = &source["format"];
    kafka::source(&source["kafka"], reader);
    if let Some(file) = source["file"].as_str() {
        for (kind, what) in [("avro", "Avro"), ("protobuf", "Protobuf")] {
            if format.get(kind).is_some() {
                let hint = format!(
                    "a file's format is `text`, `csv` or `json`; {what} is read from a topic"
                );
                let message = format!("the lines of a file cannot be `{kind}`");
                reader.at_value("/source/format", message, Some(hint));
            }
        }
        if source["follow"] == true && file.ends_with(".gz") {
            reader.at_key(
                "/source/follow",
                "a compressed file cannot be followed",
                Some("remove `follow`, or name a plain file".into()),
            );
        }
    }
    for kind in registry::WITH_SCHEMA {
        if let Some(options) = format.get(kind)
            && options["framing"] == "bare"
            && options["subject"].is_null()
            && options["schema_file"].is_null()
        {
            reader.at_key(
                &format!("/source/format/{kind}/framing"),
                "`bare` records do not name their schema",
                Some("add `schema_file:` or `subject:` beside it".into()),
            );
        }
    }
    registry::of(source, "/source", reader);
    if let Some(csv) = format.get("csv") {
        let character = |name: &str, default: &'static str| match &csv[name] {
            Value::String(given) => given.clone(),
            _ => default.to_owned(),
        };
        if character("delimiter", ",") == character("quote", "\"") {
            reader.at_key("/source/format/csv", "`delimiter` and `quote` are the same", None);
        }
    }
    if let Some(text) = format.get("text") {
        text_format(text, reader);
    }
}

/// Whether there is a name or a password; one needs the other.
fn name_and_password(options: &Value, path: &str, reader: &mut Reader) -> bool {
    let [name, password] = ["username", "password"].map(|name| has(options, path, name, reader));
    if name != password {
        let message = "`username` and `password` go together";
        reader.at_key(path, message, Some("give both, or none".into()));
    }
    name || password
}

/// Whether a field is written, be it with a mistake.
fn has(options: &Value, path: &str, name: &str, reader: &Reader) -> bool {
    !options[name].is_null() || reader.places.has(&format!("{path}/{name}"))
}

fn tls(tls: &Value, path: &str, reader: &mut Reader) {
    if tls["certificate"].is_null() != tls["key"].is_null() {
        let message = "`certificate` and `key` go together";
        reader.at_key(&format!("{path}/tls"), message, Some("give both, or none".into()));
    }
}

fn exactly_one(value: &Value, path: &str, fields: &[&str], reader: &mut Reader) {
    let given: Vec<_> = fields
        .iter()
        .filter(|f| !value[**f].is_null() || reader.places.has(&format!("{path}/{f}")))
        .collect();
    let quoted: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
    match given.as_slice() {
        [_] => {}
        [] => {
            let message = format!("one of {} is missing", quoted.join(", "));
            reader.at_key(path, message, Some(format!("add `{}:`", fields[0])));
        }
        [first, second, ..] => {
            let message = format!("`{first}` and `{second}` exclude each other");
            reader.at_key(&format!("{path}/{second}"), message, Some("keep one of them".into()));
        }
    }
}

fn text_format(text: &Value, reader: &mut Reader) {
    let path = "/source/format/text";
    let columns = text["columns"].as_object();
    let Some(pattern) = text["pattern"].as_str() else {
        if columns.is_some()
            && text["pattern"].is_null()
            && !reader.places.has(&format!("{path}/pattern"))
        {
            reader.at_key(
                &format!("{path}/columns"),
                "`columns` without a `pattern`",
                Some("add a `pattern:` with a group `(?<name>…)` for each column".into()),
            );
        }
        return;
    };
    let Ok(regex) = regex::Regex::new(pattern) else { return };
    let groups: Vec<&str> = regex.capture_names().flatten().collect();
    if groups.is_empty() {
        reader.at_value(
            &format!("{path}/pattern"),
            "the pattern has no named group, so it gives no column",
            Some("name the groups: `(?<name>…)`".into()),
        );
        return;
    }
    for column in columns.into_iter().flatten().map(|(name, _)| name) {
        if !groups.contains(&column.as_str()) {
            let hint = match nearest(column, groups.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its groups are `{}`", groups.join("`, `")),
            };
            let message = format!("the pattern has no group `{column}`");
            reader.at_key(&format!("{path}/columns/{column}"), message, Some(hint));
        }
    }
}

fn lookups(value: &Value, reader: &mut Reader) {
    for (name, lookup) in value["lookups"].as_object().into_iter().flatten() {
        let path = format!("/lookups/{}", name.replace('~', "~0").replace('/', "~1"));
        if let Some(range) = lookup["range"].as_array()
            && let [start, end] = range.as_slice()
            && start == end
            && !start.is_null()
        {
            reader.at_value(
                &format!("{path}/range"),
                "a range begins and ends in the same column",
                Some("name two columns: `range: [start, end]`; join by equality for one".into()),
            );
        }
        if let Some(file) = lookup["file"].as_str() {
            lookup_file(file, lookup, &path, reader);
        }
        cql::lookup(lookup, &path, reader);
        postgres::lookup(lookup, &path, reader);
        mongo::lookup(lookup, &path, reader);
        changes(lookup, &path, reader);
        web::http_lookup(lookup, &path, reader);
        let written = items(&value["sinks"])
            .any(|(_, sink)| lookup["table"].is_string() && sink["table"] == lookup["table"]);
        if written && lookup["consistent"] != true {
            let table = lookup["table"].as_str().unwrap_or_default();
            reader.at_key(
                &path,
                format!("this pipeline looks up the table `{table}`, which it also writes"),
                Some("add `consistent: true`: each batch then sees the writes before it".into()),
            );
        }
    }
}

fn changes(lookup: &Value, path: &str, reader: &mut Reader) {
    let changes = &lookup["cache"]["changes"];
    if changes.is_null() {
        return;
    }
    let path = format!("{path}/cache/changes");
    kafka::cluster(&changes["kafka"], &format!("{path}/kafka"), reader);
    let why = match lookup {
        _ if !lookup["file"].is_null() => "a file is in memory whole: it is loaded when it changes",
        _ if lookup["consistent"] == true => "a `consistent` look-up has no cache",
        _ if lookup["cache"]["max_entries"] == 0 => "with `max_entries: 0` there is no cache",
        _ if !lookup["range"].is_null() => {
            "the rows of a range have no key that a record could name"
        }
        _ => return,
    };
    reader.at_key(&path, why, Some("remove `changes`".into()));
}

fn lookup_file(file: &str, lookup: &Value, path: &str, reader: &mut Reader) {
    let plain = file.strip_suffix(".gz").unwrap_or(file);
    let extension = plain.rsplit_once('.').map_or("", |(_, extension)| extension);
    let extension = extension.to_ascii_lowercase();
    if lookup["delimiter"].is_string() && extension != "csv" {
        let message = "only a CSV file has a `delimiter`";
        reader.at_key(&format!("{path}/delimiter"), message, Some("remove it".into()));
    }
    match extension.as_str() {
        "csv" | "tsv" => {}
        "jsonl" | "ndjson" | "json" => {}
        "parquet" if plain != file => {
            let message = "a Parquet file is not read through gzip";
            let hint = "unpack it: Parquet compresses its columns itself";
            reader.at_value(&format!("{path}/file"), message, Some(hint.into()));
        }
        "parquet" => {
            if lookup.get("columns").is_some() {
                let message = "a Parquet file brings its own `columns`";
                reader.at_key(&format!("{path}/columns"), message, Some("remove them".into()));
            }
        }
        _ => reader.at_value(
            &format!("{path}/file"),
            "the extension of this file names no known format",
            Some(
                "known are .csv, .tsv, .jsonl, .ndjson, .json and .parquet, and .gz after them"
                    .into(),
            ),
        ),
    }
}

/// Every `from:` names a step above, and every step is taken by something.
fn flow(value: &Value, reader: &mut Reader) {
    let names: Vec<Option<&str>> =
        items(&value["steps"]).map(|(_, step)| step["name"].as_str()).collect();
    let mut used = vec![false; names.len()];
    let mut all_known = true;
    let mut seen = HashMap::new();
    for (index, step) in items(&value["steps"]) {
        if let Some(name) = names[index] {
            let path = format!("/steps/{index}/name");
            if matches!(name, "source" | "input") {
                let message = format!("`{name}` names the rows that a step takes");
                reader.at_value(&path, message, Some("choose another name".into()));
            } else {
                once(&mut seen, name, &path, "two steps are named", reader);
            }
        }
        match from(step, &format!("/steps/{index}/from"), &names, index, reader) {
            From::Step(step) => used[step] = true,
            From::Source => {}
            From::Unknown => all_known = false,
        }
    }
    let mut labels = HashMap::new();
    for (index, sink) in items(&value["sinks"]) {
        match from(sink, &format!("/sinks/{index}/from"), &names, names.len(), reader) {
            From::Step(step) => used[step] = true,
            From::Source => {}
            From::Unknown => all_known = false,
        }
        sink_fields(index, sink, value, &mut labels, reader);
    }
    // Rows that go nowhere would count as filtered: nobody means that.
    if all_known && value["sinks"].as_array().is_some_and(|sinks| !sinks.is_empty()) {
        for (index, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            let label = names[index].map_or(format!("step {}", index + 1), |n| format!("`{n}`"));
            reader.at_value(
                &format!("/steps/{index}"),
                format!("nothing takes the rows of {label}"),
                Some("name it in the `from:` of a step or sink, or remove it".into()),
            );
        }
    }
}

fn sink_fields<'v>(
    index: usize,
    sink: &'v Value,
    value: &Value,
    labels: &mut HashMap<(&'static str, &'v str), usize>,
    reader: &mut Reader,
) {
    let path = format!("/sinks/{index}");
    kafka::sink(&sink["kafka"], &format!("{path}/kafka"), &value["source"]["kafka"], reader);
    cql::sink(&sink["cql"], &format!("{path}/cql"), reader);
    postgres::sink(&sink["postgres"], &format!("{path}/postgres"), reader);
    mongo::sink(&sink["mongodb"], &format!("{path}/mongodb"), reader);
    web::http_sink(&sink["http"], &format!("{path}/http"), reader);
    web::files_sink(&sink["files"], &format!("{path}/files"), reader);
    let named = ["name", "table", "topic"].into_iter().find(|field| sink[*field].is_string());
    let label = match named {
        Some(field) => Some((field, sink[field].as_str().unwrap_or_default())),
        None if sink["kafka"]["topic"].is_string() => {
            Some(("kafka", sink["kafka"]["topic"].as_str().unwrap_or_default()))
        }
        None if sink["cql"]["table"].is_string() => {
            Some(("cql", sink["cql"]["table"].as_str().unwrap_or_default()))
        }
        None if sink["postgres"]["table"].is_string() => {
            Some(("postgres", sink["postgres"]["table"].as_str().unwrap_or_default()))
        }
        None if sink["mongodb"]["collection"].is_string() => {
            Some(("mongodb", sink["mongodb"]["collection"].as_str().unwrap_or_default()))
        }
        None if sink["discard"] == true => Some(("discard", "discard")),
        None => ["http", "files", "stdout"]
            .into_iter()
            .find(|kind| !sink[*kind].is_null())
            .map(|kind| (kind, kind)),
    };
    if let Some((field, label)) = label
        && let Some(first) = labels.insert((field, label), index)
    {
        reader.at_value(
            &format!("{path}/{field}"),
            format!("two sinks are called `{label}`"),
            Some(format!("the other is sink {}: give one of them a `name:`", first + 1)),
        );
    }
    if sink["topic"].is_string() && sink["topic"] == value["source"]["topic"] {
        reader.at_value(
            &format!("{path}/topic"),
            "this sink writes the topic that the source reads, so it would never end",
            Some("write another topic".into()),
        );
    }
    columns(sink, &path, reader);
    registry::of(sink, &path, reader);
    for kind in registry::WITH_SCHEMA {
        if let Some(options) = sink["format"].get(kind)
            && options["subject"].is_string()
            && reader.places.has(&format!("{path}/format/{kind}/subject_strategy"))
        {
            let path = format!("{path}/format/{kind}/subject_strategy");
            let message = "`subject` and `subject_strategy` exclude each other";
            reader.at_key(&path, message, Some("keep one of them".into()));
        }
    }
    for (kind, name) in [("avro", "name"), ("json_schema", "title")] {
        if let Some(options) = sink["format"].get(kind)
            && options["schema_file"].is_string()
            && options[name].is_string()
        {
            let message =
                format!("`{name}` has no use beside `schema_file`, which names the record");
            let path = format!("{path}/format/{kind}/{name}");
            reader.at_key(&path, message, Some("remove one of them".into()));
        }
    }
}

/// The columns of a table's key, each of which can be there once.
fn columns(sink: &Value, path: &str, reader: &mut Reader) {
    let mut seen = HashMap::new();
    for field in ["key", "clustering"] {
        for (index, column) in items(&sink[field]) {
            if let Some(column) = column.as_str() {
                let path = format!("{path}/{field}/{index}");
                once(&mut seen, column, &path, "the key has twice the column", reader);
            }
        }
    }
}

/// Where rows are taken from.
enum From {
    Source,
    Step(usize),
    Unknown,
}

/// What a `from:` names, or the step before when there is none.
fn from(
    value: &Value,
    path: &str,
    names: &[Option<&str>],
    above: usize,
    reader: &mut Reader,
) -> From {
    let Some(from) = value["from"].as_str() else {
        return match above.checked_sub(1) {
            _ if reader.places.has(path) => From::Unknown,
            Some(step) => From::Step(step),
            None => From::Source,
        };
    };
    if from == "source" {
        return From::Source;
    }
    let found = names.iter().position(|name| *name == Some(from));
    // What a variable gives is not shown.
    let from = reader.places.written(path, from).to_owned();
    match found {
        Some(step) if step < above => return From::Step(step),
        Some(step) if step == above => {
            let message = format!("the step `{from}` cannot take its own rows");
            reader.at_value(path, message, Some("name a step above it, or `source`".into()));
        }
        Some(_) => {
            let message = format!("the step `{from}` is below this one");
            reader.at_value(path, message, Some("rows flow from top to bottom: move it up".into()));
        }
        None => {
            let known = names[..above.min(names.len())].iter().flatten().copied();
            let known: Vec<&str> = known.chain(["source"]).collect();
            let hint = match nearest(&from, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it can be `{}`", known.join("`, `")),
            };
            reader.at_value(path, format!("there is no step `{}`", shown(&from)), Some(hint));
        }
    }
    From::Unknown
}

fn dead_letters(value: &Value, reader: &mut Reader) {
    let Some(pipeline) = value["pipeline"].as_str() else { return };
    let cluster = &value["dead_letters"]["kafka"];
    if !cluster.is_null() {
        kafka::cluster(cluster, "/dead_letters/kafka", reader);
        return;
    }
    let given = value["dead_letters"]["topic"].as_str();
    let default = format!("{pipeline}.dead");
    let topic = given.unwrap_or(&default);
    let path = if given.is_some() { "/dead_letters/topic" } else { "/pipeline" };
    if value["source"]["topic"] == topic {
        let message = format!("the dead letters would go to `{topic}`, which the source reads");
        let hint = "name another topic: `dead_letters: { topic: … }`";
        reader.at_value(path, message, Some(hint.into()));
    }
    if items(&value["sinks"]).any(|(_, sink)| sink["topic"] == topic) {
        let message = format!("the dead letters would go to `{topic}`, which a sink writes");
        let hint = "name another topic: `dead_letters: { topic: … }`";
        reader.at_value(path, message, Some(hint.into()));
    }
}

fn buckets(buckets: &Value, reader: &mut Reader) {
    let mut last = 0.0;
    for (index, bound) in items(buckets) {
        let Some(bound) = bound.as_f64() else { continue };
        if bound <= last {
            let message = "the bounds of buckets must be more than 0 and ascend";
            reader.at_value(&format!("/metrics/buckets/{index}"), message, None);
        }
        last = bound;
    }
}

fn once(
    seen: &mut HashMap<String, String>,
    name: &str,
    path: &str,
    sentence: &str,
    reader: &mut Reader,
) {
    match seen.get(name) {
        Some(first) => {
            let line = reader.places.of(first).line;
            let hint = format!("the other is on line {line}");
            let name = shown(reader.places.written(path, name));
            reader.at_value(path, format!("{sentence} `{name}`"), Some(hint));
        }
        None => {
            seen.insert(name.to_owned(), path.to_owned());
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}
