//! The checks across the fields of a file: names that must exist or differ, choices that exclude
//! each other. They look at the value as far as it could be read, so that they report in the same
//! run as the reader.

mod web;

use crate::formats::{nearest, shown};
use crate::shape::Reader;
use serde_json::Value;
use std::collections::HashMap;

/// The checks of a pipeline file.
pub(crate) fn pipeline(value: &Value, reader: &mut Reader) {
    registry_options(&value["registry"], "/registry", reader);
    source(&value["source"], reader);
    lookups(value, reader);
    flow(value, reader);
    dead_letters(value, reader);
    delivery(value, reader);
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

/// The formats whose records are written with a schema.
const WITH_SCHEMA: [&str; 3] = ["avro", "json_schema", "protobuf"];

fn source(source: &Value, reader: &mut Reader) {
    let format = &source["format"];
    kafka_source(&source["kafka"], reader);
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
    for kind in WITH_SCHEMA {
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
    registry(source, "/source", reader);
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

/// The registry of a source or sink.
fn registry(owner: &Value, path: &str, reader: &mut Reader) {
    let (path, format) = (format!("{path}/registry"), &owner["format"]);
    registry_options(&owner["registry"], &path, reader);
    if owner["registry"].is_object()
        && let Some(format) = format.as_object().and_then(|format| format.keys().next())
        && !WITH_SCHEMA.contains(&format.as_str())
    {
        let message = format!("`{format}` has no schemas in a registry");
        reader.at_key(&path, message, Some("remove `registry`".into()));
    }
}

fn registry_options(options: &Value, path: &str, reader: &mut Reader) {
    for (index, url) in items(&options["url"]) {
        let Some(url) = url.as_str() else { continue };
        let path = format!("{path}/url/{index}");
        let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let place = rest.unwrap_or(url).split('/').next().unwrap_or_default();
        if place.contains('@') {
            reader.hide(&path);
            let hint = "write them as `username:` and `password:` beside `url:`";
            let message = "a name and a password do not belong into an address";
            reader.at_value(&path, message, Some(hint.into()));
        } else if rest.is_none() || place.is_empty() {
            let message = "this is not the address of a schema registry";
            let hint = "write `http://HOST:PORT` or `https://HOST:PORT`";
            reader.at_value(&path, message, Some(hint.into()));
        }
    }
    tls(&options["tls"], path, reader);
    if name_and_password(options, path, reader) && has(options, path, "token", reader) {
        let message = "`token` and `username` exclude each other";
        let path = format!("{path}/token");
        reader.at_key(&path, message, Some("keep one of them".into()));
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

fn kafka_source(kafka: &Value, reader: &mut Reader) {
    if kafka.is_null() {
        return;
    }
    exactly_one(kafka, "/source/kafka", &["topic", "topics", "pattern"], reader);
    kafka_cluster(kafka, "/source/kafka", reader);
    if !kafka["start_time"].is_null() && kafka["start"].as_str().is_some_and(|s| s != "earliest") {
        reader.at_key(
            "/source/kafka/start_time",
            "`start` and `start_time` exclude each other",
            Some("keep one of them".into()),
        );
    }
}

fn kafka_sink(kafka: &Value, path: &str, source: &Value, reader: &mut Reader) {
    if kafka.is_null() {
        return;
    }
    exactly_one(kafka, path, &["topic", "topic_column"], reader);
    kafka_cluster(kafka, path, reader);
    if kafka["topic"].is_string()
        && kafka["topic"] == source["topic"]
        && kafka["brokers"] == source["brokers"]
    {
        reader.at_value(
            &format!("{path}/topic"),
            "this sink writes the topic that the source reads, so it would never end",
            Some("write another topic".into()),
        );
    }
}

/// What goes together in the options of a cluster.
fn kafka_cluster(kafka: &Value, path: &str, reader: &mut Reader) {
    tls(&kafka["tls"], path, reader);
    let sasl = &kafka["sasl"];
    if sasl["mechanism"].is_null() {
        return;
    }
    if sasl["mechanism"] == "oauthbearer" {
        return exactly_one(sasl, &format!("{path}/sasl"), &["token_file", "token"], reader);
    }
    for field in ["username", "password"] {
        if sasl[field].is_null() && !reader.places.has(&format!("{path}/sasl/{field}")) {
            let message = format!("`{field}` is missing");
            reader.at_key(&format!("{path}/sasl"), message, Some(format!("add `{field}:`")));
        }
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
        cql_lookup(lookup, &path, reader);
        postgres_lookup(lookup, &path, reader);
        mongo_lookup(lookup, &path, reader);
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
    kafka_cluster(&changes["kafka"], &format!("{path}/kafka"), reader);
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

fn cql_lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let cql = &lookup["cql"];
    if cql.is_null() {
        return;
    }
    cql_cluster(cql, &format!("{path}/cql"), reader);
    if !lookup["range"].is_null() {
        let message = "a table of Cassandra is asked by equality, not by a range";
        let hint = "remove `range`, and join by the table's key";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
    if !cql["max_rows"].is_null() && cql["rows"] != "all" {
        let message = "`max_rows` has no use: a key gives its first row";
        let hint = "write `rows: all` beside it, or remove it";
        reader.at_key(&format!("{path}/cql/max_rows"), message, Some(hint.into()));
    }
    let inserts = cql["insert_if_not_exists"] == true;
    if inserts && !lookup["cache"].is_null() {
        let message =
            "a look-up with `insert_if_not_exists` has no `cache`: each row asks for itself";
        reader.at_key(&format!("{path}/cache"), message, Some("remove it".into()));
    }
    let useless = match inserts {
        true => &["rows", "group", "speculative_after"][..],
        false => &["ttl", "serial_consistency"],
    };
    for field in useless.iter().filter(|field| !cql[**field].is_null()) {
        let (message, hint) = match inserts {
            true => (format!("`{field}` has no use with `insert_if_not_exists`"), "remove it"),
            false => (
                format!("`{field}` has no use: nothing is inserted"),
                "write `insert_if_not_exists: true` beside it, or remove it",
            ),
        };
        reader.at_key(&format!("{path}/cql/{field}"), message, Some(hint.into()));
    }
}

fn cql_sink(cql: &Value, path: &str, reader: &mut Reader) {
    if cql.is_null() {
        return;
    }
    cql_cluster(cql, path, reader);
    let conditional = cql["operation"] == "insert_if_not_exists";
    let excluding: [(&str, &str, bool); 4] = [
        ("ttl_column", "`ttl` and `ttl_column` exclude each other", !cql["ttl"].is_null()),
        (
            "timestamp",
            "`timestamp` and `operation: insert_if_not_exists` exclude each other",
            conditional,
        ),
        ("ttl", "what is deleted has no `ttl`", cql["operation"] == "delete"),
        ("ttl_column", "what is deleted has no `ttl_column`", cql["operation"] == "delete"),
    ];
    for (field, message, excluded) in excluding {
        if excluded && !cql[field].is_null() {
            reader.at_key(&format!("{path}/{field}"), message, Some("keep one of them".into()));
            return;
        }
    }
    if !conditional && !cql["serial_consistency"].is_null() {
        let message = "`serial_consistency` has no use: rows are stored without a condition";
        let hint = "write `operation: insert_if_not_exists` beside it, or remove it";
        reader.at_key(&format!("{path}/serial_consistency"), message, Some(hint.into()));
    }
}

/// What goes together in the options of a cluster.
fn cql_cluster(cql: &Value, path: &str, reader: &mut Reader) {
    tls(&cql["tls"], path, reader);
    name_and_password(cql, path, reader);
    if !cql["rack"].is_null() && cql["datacenter"].is_null() {
        let message = "`rack` without a `datacenter`";
        reader.at_key(&format!("{path}/rack"), message, Some("add `datacenter:`".into()));
    }
}

fn postgres_lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let postgres = &lookup["postgres"];
    if postgres.is_null() {
        return;
    }
    postgres_server(postgres, &format!("{path}/postgres"), reader);
    if !lookup["range"].is_null() {
        let message = "a table of PostgreSQL is asked by equality, not by a range";
        let hint = "remove `range`, and join by columns of the table";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
}

fn postgres_sink(postgres: &Value, path: &str, reader: &mut Reader) {
    if postgres.is_null() {
        return;
    }
    postgres_server(postgres, path, reader);
    let inserts = postgres["operation"].is_null() || postgres["operation"] == "insert";
    if !inserts && !postgres["on_conflict"].is_null() {
        let message = "only what is inserted has an `on_conflict`";
        let hint = "remove it, or write `operation: insert`";
        reader.at_key(&format!("{path}/on_conflict"), message, Some(hint.into()));
    }
    if inserts && !postgres["key"].is_null() && postgres["on_conflict"] != "nothing" {
        let message = "`key` has no use: nothing is compared";
        let hint = "write `operation: upsert` or `on_conflict: nothing` beside it, or remove it";
        reader.at_key(&format!("{path}/key"), message, Some(hint.into()));
    }
}

/// What goes together in the options of a server.
fn postgres_server(postgres: &Value, path: &str, reader: &mut Reader) {
    tls(&postgres["tls"], path, reader);
    let [given, file] = ["password", "password_file"].map(|name| has(postgres, path, name, reader));
    if given && file {
        let message = "`password` and `password_file` exclude each other";
        let path = format!("{path}/password_file");
        reader.at_key(&path, message, Some("keep one of them".into()));
    }
}

fn mongo_lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let mongo = &lookup["mongodb"];
    if mongo.is_null() {
        return;
    }
    tls(&mongo["tls"], &format!("{path}/mongodb"), reader);
    name_and_password(mongo, &format!("{path}/mongodb"), reader);
    if !lookup["range"].is_null() {
        let message = "a collection of MongoDB is asked by equality, not by a range";
        let hint = "remove `range`, and join by fields of the documents";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
    if !mongo["max_rows"].is_null() && mongo["rows"] != "all" {
        let message = "`max_rows` has no use: a key gives its first document";
        let hint = "write `rows: all` beside it, or remove it";
        reader.at_key(&format!("{path}/mongodb/max_rows"), message, Some(hint.into()));
    }
}

fn mongo_sink(mongo: &Value, path: &str, reader: &mut Reader) {
    if mongo.is_null() {
        return;
    }
    tls(&mongo["tls"], path, reader);
    name_and_password(mongo, path, reader);
    let updates = mongo["operation"] == "update";
    if updates && mongo["update"].is_null() {
        let message = "an update needs to know what it changes";
        let hint = "add `update:`, such as `update: { $set: { seen: $seen_at } }`";
        reader.at_key(path, message, Some(hint.into()));
    }
    for field in ["update", "upsert"] {
        if !updates && !mongo[field].is_null() {
            let message = format!("`{field}` has no use without `operation: update`");
            let hint = "add it, or remove this";
            reader.at_key(&format!("{path}/{field}"), &message, Some(hint.into()));
        }
    }
    let inserts = mongo["operation"].is_null() || mongo["operation"] == "insert";
    if inserts && !mongo["key"].is_null() {
        let message = "what is inserted has no `key`: documents are told apart by `_id`";
        let hint = "write `operation: upsert`, or remove it";
        reader.at_key(&format!("{path}/key"), message, Some(hint.into()));
    }
    if mongo["write_concern"] == "0" {
        let message = "with `write_concern: 0` nobody says whether a row is stored";
        reader.at_value(&format!("{path}/write_concern"), message, Some("1 is the least".into()));
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
    kafka_sink(&sink["kafka"], &format!("{path}/kafka"), &value["source"]["kafka"], reader);
    cql_sink(&sink["cql"], &format!("{path}/cql"), reader);
    postgres_sink(&sink["postgres"], &format!("{path}/postgres"), reader);
    mongo_sink(&sink["mongodb"], &format!("{path}/mongodb"), reader);
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
    registry(sink, &path, reader);
    for kind in WITH_SCHEMA {
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
        kafka_cluster(cluster, "/dead_letters/kafka", reader);
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

/// What a pipeline needs whose rows are to be there once: everything that it writes, and its offsets,
/// in one cluster. Whether two lists of brokers are one cluster is asked when it is planned.
fn delivery(value: &Value, reader: &mut Reader) {
    if value["delivery"] != "exactly_once" {
        // What it was meant to be is not known.
        if value["delivery"].is_null() && reader.places.has("/delivery") {
            return;
        }
        for field in ["transactional_id", "transaction_timeout"] {
            if reader.places.has(&format!("/{field}")) {
                let message = format!("`{field}` without `delivery: exactly_once`");
                reader.at_key(&format!("/{field}"), message, Some("remove it, or add that".into()));
            }
        }
        return;
    }
    let source = &value["source"]["kafka"];
    if !source.is_object() {
        let hint = "read from `kafka:`, or remove `delivery`: tables and the embedded log take \
                    each row at least once";
        let message = "`exactly_once` goes from Kafka to Kafka, and this is no `kafka:` source";
        reader.at_key("/source", message, Some(hint.into()));
        return;
    }
    for (index, sink) in items(&value["sinks"]) {
        let path = format!("/sinks/{index}");
        if !sink["kafka"].is_object() {
            let hint = "write to `kafka:` on the source's cluster, or give this sink a pipeline of \
                        its own that reads what this one writes";
            let message = "this sink cannot be part of a Kafka transaction";
            reader.at_key(&path, message, Some(hint.into()));
        } else {
            same_login(source, &sink["kafka"], &format!("{path}/kafka"), reader);
        }
    }
    let letters = &value["dead_letters"]["kafka"];
    if !letters.is_object() {
        let path = if value["dead_letters"].is_object() { "/dead_letters" } else { "/delivery" };
        let hint =
            "add `dead_letters: { topic: …, kafka: { brokers: … } }` with the source's brokers";
        let message = "the dead letters of an `exactly_once` pipeline are part of its transactions: \
                       they must be a topic of the same cluster";
        reader.at_key(path, message, Some(hint.into()));
    } else {
        same_login(source, letters, "/dead_letters/kafka", reader);
    }
}

/// One producer writes everything, as one user.
fn same_login(source: &Value, other: &Value, path: &str, reader: &mut Reader) {
    for field in ["tls", "sasl"] {
        if source[field] != other[field] {
            let has = reader.places.has(&format!("{path}/{field}"));
            let path = if has { format!("{path}/{field}") } else { path.to_owned() };
            let message = format!("`{field}` differs from the source's");
            let hint = format!(
                "an `exactly_once` pipeline has one login for all: write the same `{field}` here \
                 as in `source: kafka:`"
            );
            reader.at_key(&path, message, Some(hint));
        }
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
