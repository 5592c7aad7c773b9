//! Confluent's REST interface.
//!
//! Paths, parameters, bodies and error codes are those of the
//! [API reference](https://docs.confluent.io/platform/current/schema-registry/develop/api.html).
//! Any content type is taken, so that a bare `curl -d` works.

mod settings;

use crate::content::{NewSchema, Reference};
use crate::error::{Error, Result, code};
use crate::level::{Version, kind_word};
use crate::registry::{Deleted, Registry, SubjectVersion};
use crate::state::Schema;
use crate::{content, json};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use millstream_core::{Guid, SchemaKind};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

const CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("application/vnd.schemaregistry.v1+json");
const BODY_BYTES_MAX: usize = 4 << 20;
/// Requests that parse schemas or wait for the disk; more wait their turn.
const BLOCKING_MAX: usize = 16;

/// The routes, at the root. Every answer, errors too, is JSON.
pub fn router(registry: Registry) -> Router {
    let front = Front { registry, permits: Arc::new(Semaphore::new(BLOCKING_MAX)) };
    Router::new()
        .route("/", get(async || answer(json!({}))))
        .route("/schemas", get(schemas))
        .route("/schemas/types", get(async || answer(json!(["JSON", "PROTOBUF", "AVRO"]))))
        .route("/schemas/ids/{id}", get(schema_of_id))
        .route("/schemas/ids/{id}/schema", get(text_of_id))
        .route("/schemas/ids/{id}/subjects", get(subjects_of_id))
        .route("/schemas/ids/{id}/versions", get(versions_of_id))
        .route("/schemas/guids/{guid}", get(schema_of_guid))
        .route("/schemas/guids/{guid}/ids", get(ids_of_guid))
        .route("/contexts", get(async || answer(json!(["."]))))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup).delete(delete_subject))
        .route("/subjects/{subject}/metadata", get(latest_with_metadata))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(text_of_version))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(referenced_by))
        .route("/compatibility/subjects/{subject}/versions", post(compatible_with_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatible))
        .route("/config", settings::config())
        .route("/config/{subject}", settings::subject_config())
        .route("/mode", settings::mode())
        .route("/mode/{subject}", settings::subject_mode())
        .fallback(async || StatusCode::NOT_FOUND)
        .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
        .layer(axum::middleware::map_response(explain))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(front)
}

#[derive(Clone)]
struct Front {
    registry: Registry,
    permits: Arc<Semaphore>,
}

type Params = Query<HashMap<String, String>>;
type Answer = Result<Response>;

impl Front {
    /// Runs what parses, compares or writes off the I/O threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed = |_| Error::new(code::STORE, "Error in the backend data store");
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::new(code::STORE, "the registry is closing"))?;
        let registry = self.registry.clone();
        let work = move || {
            let result = work(&registry);
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.status() >= 500 {
            tracing::error!(error = %self, cause = ?std::error::Error::source(&self), "registry");
        }
        let status =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut message = self.to_string();
        if let Some(source) = std::error::Error::source(&self) {
            message = format!("{message}: {source}");
        }
        let body = json!({"error_code": self.code(), "message": message});
        (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body.to_string()).into_response()
    }
}

/// Errors that the framework answers get the body that clients expect.
async fn explain(response: Response) -> Response {
    let status = response.status();
    let explained = response.headers().get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE);
    if explained || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body has more than {BODY_BYTES_MAX} bytes"),
        _ => format!("HTTP {status}"),
    };
    let body = json!({"error_code": status.as_u16(), "message": message}).to_string();
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

fn answer(body: Value) -> Response {
    raw(body.to_string())
}

fn raw(body: String) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}

async fn subjects(State(front): State<Front>, Query(params): Params) -> Answer {
    let prefix = params.get("subjectPrefix").map_or("", String::as_str);
    // Confluent's contexts: all subjects are in the default one.
    let prefix = prefix.strip_prefix(":*:").unwrap_or(prefix);
    Ok(answer(json!(page(front.registry.subjects(deleted(&params), prefix), &params)?)))
}

async fn versions(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
) -> Answer {
    let versions = front.registry.versions(&subject, deleted(&params))?;
    Ok(answer(json!(page(versions, &params)?)))
}

async fn version(
    State(front): State<Front>,
    Path((subject, version)): Path<(String, String)>,
    Query(params): Params,
) -> Answer {
    let version = Version::parse(&version)?;
    let found = front.registry.by_version(&subject, version, flag(&params, "deleted"))?;
    Ok(answer(whole(&found, &params)?))
}

async fn text_of_version(
    State(front): State<Front>,
    Path((subject, version)): Path<(String, String)>,
    Query(params): Params,
) -> Answer {
    let version = Version::parse(&version)?;
    let found = front.registry.by_version(&subject, version, flag(&params, "deleted"))?;
    Ok(raw(text(&found.schema, &params)?))
}

async fn referenced_by(
    State(front): State<Front>,
    Path((subject, version)): Path<(String, String)>,
    Query(params): Params,
) -> Answer {
    let ids = front.registry.referenced_by(&subject, Version::parse(&version)?)?;
    Ok(answer(json!(page(ids, &params)?)))
}

/// The newest version whose metadata has all the properties asked for, as `key` and `value`.
async fn latest_with_metadata(
    State(front): State<Front>,
    Path(subject): Path<String>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    Query(params): Params,
) -> Answer {
    let pairs: Query<Vec<(String, String)>> = query
        .map(|query| format!("/?{query}"))
        .and_then(|uri| uri.parse().ok())
        .and_then(|uri| Query::try_from_uri(&uri).ok())
        .unwrap_or_default();
    let all = |name| pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value);
    let wanted: Vec<_> = all("key").zip(all("value")).collect();
    let deleted = flag(&params, "deleted");
    let listed = if deleted { Deleted::Included } else { Deleted::Hidden };
    for version in front.registry.versions(&subject, listed)?.into_iter().rev() {
        let found = front.registry.by_version(&subject, Version::Number(version), deleted)?;
        let properties = found.schema.metadata.as_ref().and_then(|m| m.get("properties"));
        let has = |key: &String, value: &String| {
            let property = properties.and_then(|properties| properties.get(key));
            property.and_then(Value::as_str) == Some(value)
        };
        if wanted.iter().all(|(key, value)| has(key, value)) {
            return Ok(answer(whole(&found, &params)?));
        }
    }
    Err(Error::new(code::SCHEMA_NOT_FOUND, "Schema not found"))
}

async fn register(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
    body: Bytes,
) -> Answer {
    let new: NewSchema = parse(&body)?;
    let normalize = flag(&params, "normalize");
    let work = move |registry: &Registry| registry.register(&subject, &new, normalize);
    let registered = front.blocking(work).await?;
    let guid = front.registry.by_id(registered.id)?.guid.to_string();
    Ok(answer(json!({"id": registered.id, "version": registered.version, "guid": guid})))
}

async fn lookup(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
    body: Bytes,
) -> Answer {
    let new: NewSchema = parse(&body)?;
    let (normalize, deleted) = (flag(&params, "normalize"), flag(&params, "deleted"));
    let work = move |registry: &Registry| registry.lookup(&subject, &new, normalize, deleted);
    let found = front.blocking(work).await?;
    Ok(answer(whole(&found, &params)?))
}

async fn delete_subject(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
) -> Answer {
    let permanent = flag(&params, "permanent");
    let work = move |registry: &Registry| registry.delete_subject(&subject, permanent);
    Ok(answer(json!(front.blocking(work).await?)))
}

async fn delete_version(
    State(front): State<Front>,
    Path((subject, version)): Path<(String, String)>,
    Query(params): Params,
) -> Answer {
    let version = Version::parse(&version)?;
    let permanent = flag(&params, "permanent");
    let work = move |registry: &Registry| registry.delete_version(&subject, version, permanent);
    Ok(answer(json!(front.blocking(work).await?)))
}

async fn schemas(State(front): State<Front>, Query(params): Params) -> Answer {
    let prefix = params.get("subjectPrefix").map_or("", String::as_str);
    let prefix = prefix.strip_prefix(":*:").unwrap_or(prefix);
    let latest_only = flag(&params, "latestOnly");
    let found = front.registry.schemas(flag(&params, "deleted"), latest_only, prefix);
    let found: Result<Vec<_>> =
        page(found, &params)?.iter().map(|found| whole(found, &params)).collect();
    Ok(answer(json!(found?)))
}

async fn schema_of_id(
    State(front): State<Front>,
    Path(id): Path<String>,
    Query(params): Params,
) -> Answer {
    let schema = front.registry.by_id(id_of(&id)?)?;
    let mut body = Map::new();
    describe(&schema, &params, &mut body)?;
    if flag(&params, "fetchMaxId") {
        body.insert("maxId".into(), json!(front.registry.id_max()));
    }
    Ok(answer(Value::Object(body)))
}

async fn schema_of_guid(
    State(front): State<Front>,
    Path(guid): Path<String>,
    Query(params): Params,
) -> Answer {
    let schema = front.registry.by_guid(guid_of(&guid)?)?;
    let mut body = Map::new();
    describe(&schema, &params, &mut body)?;
    Ok(answer(Value::Object(body)))
}

async fn ids_of_guid(State(front): State<Front>, Path(guid): Path<String>) -> Answer {
    let schema = front.registry.by_guid(guid_of(&guid)?)?;
    Ok(answer(json!([{"context": ".", "id": schema.id}])))
}

async fn text_of_id(
    State(front): State<Front>,
    Path(id): Path<String>,
    Query(params): Params,
) -> Answer {
    Ok(raw(text(&*front.registry.by_id(id_of(&id)?)?, &params)?))
}

async fn subjects_of_id(
    State(front): State<Front>,
    Path(id): Path<String>,
    Query(params): Params,
) -> Answer {
    let subjects = front.registry.subjects_of_id(id_of(&id)?, flag(&params, "deleted"))?;
    Ok(answer(json!(page(subjects, &params)?)))
}

async fn versions_of_id(
    State(front): State<Front>,
    Path(id): Path<String>,
    Query(params): Params,
) -> Answer {
    let versions = front.registry.versions_of_id(id_of(&id)?, flag(&params, "deleted"))?;
    let versions = versions.into_iter().map(|(s, v)| json!({"subject": s, "version": v}));
    Ok(answer(json!(page(versions.collect::<Vec<_>>(), &params)?)))
}

async fn compatible(
    State(front): State<Front>,
    Path((subject, version)): Path<(String, String)>,
    Query(params): Params,
    body: Bytes,
) -> Answer {
    let version = Version::parse(&version)?;
    compatibility(&front, subject, Some(version), &params, &body).await
}

async fn compatible_with_all(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
    body: Bytes,
) -> Answer {
    compatibility(&front, subject, None, &params, &body).await
}

async fn compatibility(
    front: &Front,
    subject: String,
    version: Option<Version>,
    params: &HashMap<String, String>,
    body: &[u8],
) -> Answer {
    let new: NewSchema = parse(body)?;
    let normalize = flag(params, "normalize");
    let work =
        move |registry: &Registry| registry.compatibility(&subject, version, &new, normalize);
    let messages = front.blocking(work).await?;
    let mut body = json!({"is_compatible": messages.is_empty()});
    if flag(params, "verbose") {
        body["messages"] = json!(messages);
    }
    Ok(answer(body))
}

fn whole(found: &SubjectVersion, params: &HashMap<String, String>) -> Result<Value> {
    let mut body = Map::new();
    body.insert("subject".into(), json!(found.subject));
    body.insert("version".into(), json!(found.version));
    body.insert("id".into(), json!(found.schema.id));
    describe(&found.schema, params, &mut body)?;
    if found.deleted {
        body.insert("deleted".into(), json!(true));
    }
    Ok(Value::Object(body))
}

/// Avro is the kind that goes without saying.
fn describe(
    schema: &Schema,
    params: &HashMap<String, String>,
    body: &mut Map<String, Value>,
) -> Result<()> {
    body.insert("guid".into(), json!(schema.guid.to_string()));
    if schema.kind != SchemaKind::Avro {
        body.insert("schemaType".into(), json!(kind_word(schema.kind)));
    }
    let references: &[Reference] = &schema.references;
    if !references.is_empty() {
        body.insert("references".into(), json!(references));
    }
    if let Some(metadata) = &schema.metadata {
        body.insert("metadata".into(), metadata.clone());
    }
    if let Some(rule_set) = &schema.rule_set {
        body.insert("ruleSet".into(), rule_set.clone());
    }
    body.insert("schema".into(), json!(text(schema, params)?));
    Ok(())
}

/// `format=resolved` asks for Avro with the types of references written out.
fn text(schema: &Schema, params: &HashMap<String, String>) -> Result<String> {
    let resolved = params.get("format").is_some_and(|format| format == "resolved");
    if !resolved || schema.kind != SchemaKind::Avro || schema.references.is_empty() {
        return Ok(schema.text.to_string());
    }
    let parsed = content::parse_avro(&schema.text, &schema.registered.references, false)?;
    Ok(parsed.resolved())
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    let refused = |why: String| Error::new(400, format!("the body does not read: {why}"));
    let text = std::str::from_utf8(body).map_err(|error| refused(error.to_string()))?;
    let value = json::parse(text).map_err(refused)?;
    serde_json::from_value(value).map_err(|error| refused(error.to_string()))
}

fn id_of(text: &str) -> Result<u32> {
    text.parse().map_err(|_| Error::new(404, format!("HTTP 404 Not Found: no id is `{text}`")))
}

fn guid_of(text: &str) -> Result<Guid> {
    let digits: String = text.chars().filter(|sign| *sign != '-').collect();
    let is_guid = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| is_guid);
    number.map(|number| Guid(number.to_be_bytes())).ok_or_else(|| {
        let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
        Error::new(404, format!("HTTP 404 Not Found: no GUID is `{shown}`"))
    })
}

fn flag(params: &HashMap<String, String>, name: &str) -> bool {
    params.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn deleted(params: &HashMap<String, String>) -> Deleted {
    match (flag(params, "deletedOnly"), flag(params, "deleted")) {
        (true, _) => Deleted::Only,
        (false, true) => Deleted::Included,
        (false, false) => Deleted::Hidden,
    }
}

/// `offset` and `limit`; a limit below zero is none.
fn page<T>(items: Vec<T>, params: &HashMap<String, String>) -> Result<Vec<T>> {
    let number = |name: &str, default: i64| match params.get(name) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Error::new(400, format!("`{name}` is a number, not `{text}`")))
        }
    };
    let offset = usize::try_from(number("offset", 0)?).unwrap_or(0);
    let limit = usize::try_from(number("limit", -1)?).unwrap_or(usize::MAX);
    Ok(items.into_iter().skip(offset).take(limit).collect())
}
