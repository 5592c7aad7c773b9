//! Compatibility levels and modes, of the registry and of subjects.

use super::{Answer, Front, Params, answer, flag, parse};
use crate::error::{Error, Result, code};
use crate::level::{Level, Mode};
use crate::registry::Registry;
use crate::state::Config;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::routing::{MethodRouter, get};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

pub fn config() -> MethodRouter<Front> {
    get(get_config).put(set_config).delete(delete_config)
}

pub fn subject_config() -> MethodRouter<Front> {
    get(get_subject_config).put(set_subject_config).delete(delete_subject_config)
}

pub fn mode() -> MethodRouter<Front> {
    get(get_mode).put(set_mode).delete(delete_mode)
}

pub fn subject_mode() -> MethodRouter<Front> {
    get(get_subject_mode).put(set_subject_mode).delete(delete_subject_mode)
}

/// Settings that Confluent's registry has and this one does not: refused, not ignored.
const UNSUPPORTED: [&str; 7] = [
    "alias",
    "compatibilityGroup",
    "defaultMetadata",
    "overrideMetadata",
    "defaultRuleSet",
    "overrideRuleSet",
    "validateFields",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigRequest {
    compatibility: Option<String>,
    compatibility_level: Option<String>,
    normalize: Option<bool>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl ConfigRequest {
    fn config(&self) -> Result<Config> {
        for name in UNSUPPORTED {
            if self.other.get(name).is_some_and(|value| !value.is_null()) {
                let message = format!("`{name}` is not supported by this registry");
                return Err(Error::new(code::NOT_PERMITTED, message));
            }
        }
        let level = self.compatibility.as_ref().or(self.compatibility_level.as_ref());
        if level.is_none() && self.normalize.is_none() {
            return Level::parse("").map(|_| Config::default());
        }
        let compatibility_level = level.map(|level| Level::parse(level)).transpose()?;
        Ok(Config { compatibility_level, normalize: self.normalize })
    }
}

async fn get_config(State(front): State<Front>) -> Answer {
    Ok(answer(json!(front.registry.config(None, false)?)))
}

async fn set_config(State(front): State<Front>, body: Bytes) -> Answer {
    put_config(&front, None, &body).await
}

async fn delete_config(State(front): State<Front>) -> Answer {
    Ok(answer(json!(front.blocking(|registry| registry.delete_config(None)).await?)))
}

async fn get_subject_config(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
) -> Answer {
    let or_global = flag(&params, "defaultToGlobal");
    Ok(answer(json!(front.registry.config(Some(&subject), or_global)?)))
}

async fn set_subject_config(
    State(front): State<Front>,
    Path(subject): Path<String>,
    body: Bytes,
) -> Answer {
    put_config(&front, Some(subject), &body).await
}

async fn delete_subject_config(State(front): State<Front>, Path(subject): Path<String>) -> Answer {
    let work = move |registry: &Registry| registry.delete_config(Some(&subject));
    Ok(answer(json!(front.blocking(work).await?)))
}

async fn put_config(front: &Front, subject: Option<String>, body: &[u8]) -> Answer {
    let request: ConfigRequest = parse(body)?;
    let config = request.config()?;
    let work = move |registry: &Registry| registry.set_config(subject.as_deref(), config);
    front.blocking(work).await?;
    let mut body = Map::new();
    if let Some(level) = config.compatibility_level {
        body.insert("compatibility".into(), json!(level));
    }
    if let Some(normalize) = config.normalize {
        body.insert("normalize".into(), json!(normalize));
    }
    Ok(answer(Value::Object(body)))
}

async fn get_mode(State(front): State<Front>) -> Answer {
    Ok(answer(json!({"mode": front.registry.mode(None, false)?})))
}

async fn set_mode(State(front): State<Front>, Query(params): Params, body: Bytes) -> Answer {
    put_mode(&front, None, &params, &body).await
}

async fn delete_mode(State(front): State<Front>) -> Answer {
    let mode = front.blocking(|registry| registry.delete_mode(None)).await?;
    Ok(answer(json!({"mode": mode})))
}

async fn get_subject_mode(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
) -> Answer {
    let or_global = flag(&params, "defaultToGlobal");
    Ok(answer(json!({"mode": front.registry.mode(Some(&subject), or_global)?})))
}

async fn set_subject_mode(
    State(front): State<Front>,
    Path(subject): Path<String>,
    Query(params): Params,
    body: Bytes,
) -> Answer {
    put_mode(&front, Some(subject), &params, &body).await
}

async fn delete_subject_mode(State(front): State<Front>, Path(subject): Path<String>) -> Answer {
    let work = move |registry: &Registry| registry.delete_mode(Some(&subject));
    Ok(answer(json!({"mode": front.blocking(work).await?})))
}

async fn put_mode(
    front: &Front,
    subject: Option<String>,
    params: &HashMap<String, String>,
    body: &[u8],
) -> Answer {
    #[derive(Deserialize)]
    struct ModeRequest {
        mode: String,
    }
    let request: ModeRequest = parse(body)?;
    let mode = Mode::parse(&request.mode)?;
    let force = flag(params, "force");
    let work = move |registry: &Registry| registry.set_mode(subject.as_deref(), mode, force);
    front.blocking(work).await?;
    Ok(answer(json!({"mode": mode})))
}
