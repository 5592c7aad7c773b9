//! The settings of topics, in Kafka's names: those that the log has, and no others.

use crate::broker::{Inner, NODE, blocking};
use crate::error::code;
use crate::wire::text;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as Altered;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use millstream_log::{Codec, TopicOptions};
use std::sync::Arc;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from, and of what type it is, in the protocol's numbers.
const SET_HERE: i8 = 1;
const SET_FOR_BROKER: i8 = 4;
const DEFAULT: i8 = 5;
const TYPE_BOOLEAN: i8 = 1;
const TYPE_STRING: i8 = 2;
const TYPE_INT: i8 = 3;
const TYPE_LONG: i8 = 5;
const TYPE_LIST: i8 = 7;

/// Why a setting cannot be.
#[derive(Debug)]
pub struct Wrong {
    pub code: ResponseError,
    pub message: String,
}

pub struct Config {
    pub name: &'static str,
    pub value: String,
    pub read_only: bool,
    kind: i8,
    from: i8,
}

impl Wrong {
    pub fn new(code: ResponseError, message: impl Into<String>) -> Wrong {
        Wrong { code, message: message.into() }
    }

    fn config(message: impl Into<String>) -> Wrong {
        Wrong::new(ResponseError::InvalidConfig, message)
    }
}

impl From<millstream_log::Error> for Wrong {
    fn from(error: millstream_log::Error) -> Wrong {
        Wrong { code: code(&error), message: error.to_string() }
    }
}

impl Config {
    pub fn source(&self) -> i8 {
        self.from
    }
}

/// What a topic is kept by.
pub fn of_topic(options: &TopicOptions) -> impl Iterator<Item = Config> {
    let default = TopicOptions::default();
    let limit = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
    let config = |name, value: String, kind, changed: bool, read_only| Config {
        name,
        value,
        read_only,
        kind,
        from: if changed { SET_HERE } else { DEFAULT },
    };
    [
        config("cleanup.policy", "delete".to_owned(), TYPE_LIST, false, true),
        config(
            "compression.type",
            match options.codec {
                Codec::None => "producer".to_owned(),
                codec => codec.name().to_owned(),
            },
            TYPE_STRING,
            options.codec != default.codec,
            false,
        ),
        config("message.timestamp.type", "CreateTime".to_owned(), TYPE_STRING, false, true),
        config("min.insync.replicas", "1".to_owned(), TYPE_INT, false, true),
        config(
            "retention.bytes",
            limit(options.retention_bytes),
            TYPE_LONG,
            options.retention_bytes != default.retention_bytes,
            false,
        ),
        config(
            "retention.ms",
            limit(options.retention_ms),
            TYPE_LONG,
            options.retention_ms != default.retention_ms,
            false,
        ),
        config(
            "segment.bytes",
            options.segment_bytes.to_string(),
            TYPE_INT,
            options.segment_bytes != default.segment_bytes,
            false,
        ),
    ]
    .into_iter()
}

fn of_broker(broker: &Inner) -> impl Iterator<Item = Config> {
    let limits = &broker.options.limits;
    let config = |name, value: String, kind| Config {
        name,
        value,
        read_only: true,
        kind,
        from: SET_FOR_BROKER,
    };
    let partitions = broker.options.auto_create;
    [
        config("auto.create.topics.enable", partitions.is_some().to_string(), TYPE_BOOLEAN),
        config("broker.id", NODE.to_string(), TYPE_INT),
        config("default.replication.factor", "1".to_owned(), TYPE_INT),
        config("fetch.max.bytes", limits.fetch_bytes.to_string(), TYPE_INT),
        config("message.max.bytes", limits.batch_bytes.to_string(), TYPE_INT),
        config("num.partitions", partitions.unwrap_or(1).to_string(), TYPE_INT),
        config("socket.request.max.bytes", limits.request_bytes.to_string(), TYPE_INT),
    ]
    .into_iter()
}

/// Sets one setting of a topic, or with no value puts it back to its default.
pub fn set(options: &mut TopicOptions, name: &str, value: Option<&str>) -> Result<(), Wrong> {
    let default = TopicOptions::default();
    let number = |value: &str| {
        value.trim().parse::<i64>().map_err(|_| {
            Wrong::config(format!("`{value}` cannot be the value of {name}: it takes a number"))
        })
    };
    let limit = |value: &str| Ok::<_, Wrong>(u64::try_from(number(value)?).ok());
    match (name, value) {
        ("retention.ms", None) => options.retention_ms = default.retention_ms,
        ("retention.ms", Some(value)) => options.retention_ms = limit(value)?,
        ("retention.bytes", None) => options.retention_bytes = default.retention_bytes,
        ("retention.bytes", Some(value)) => options.retention_bytes = limit(value)?,
        ("segment.bytes", None) => options.segment_bytes = default.segment_bytes,
        ("segment.bytes", Some(value)) => {
            options.segment_bytes = limit(value)?.filter(|bytes| *bytes > 0).ok_or_else(|| {
                Wrong::config(format!("`{value}` cannot be the value of segment.bytes"))
            })?;
        }
        ("compression.type", Some("producer" | "uncompressed") | None) => {
            options.codec = Codec::None;
        }
        ("compression.type", Some(value)) => {
            let codec = Codec::ALL.into_iter().find(|codec| codec.name() == value);
            options.codec = codec
                .ok_or_else(|| Wrong::config(format!("there is no compression.type `{value}`")))?;
        }
        // What is so anyway may be asked for.
        ("cleanup.policy", Some("delete") | None)
        | ("message.timestamp.type", Some("CreateTime") | None)
        | ("min.insync.replicas", Some("1") | None) => {}
        ("cleanup.policy" | "message.timestamp.type" | "min.insync.replicas", Some(value)) => {
            return Err(Wrong::config(format!("{name} cannot be `{value}` in this log")));
        }
        _ => {
            let what = format!(
                "this log has no setting {name}: it has retention.ms, retention.bytes, \
                 segment.bytes and compression.type"
            );
            return Err(Wrong::config(what));
        }
    }
    Ok(())
}

pub fn describe(broker: &Inner, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let synonyms = request.include_synonyms;
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(broker, &resource, synonyms) {
            Ok(configs) => result.with_configs(configs),
            Err(Wrong { code, message }) => {
                result.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe_one(
    broker: &Inner,
    resource: &DescribeConfigsResource,
    synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Wrong> {
    let configs: Vec<Config> = match resource.resource_type {
        TOPIC => match broker.log.topic(&resource.resource_name) {
            Some(topic) => of_topic(topic.options()).collect(),
            None => {
                let code = ResponseError::UnknownTopicOrPartition;
                return Err(Wrong::new(code, "there is no such topic"));
            }
        },
        BROKER if resource.resource_name.parse() == Ok(NODE) => of_broker(broker).collect(),
        BROKER if resource.resource_name.is_empty() => Vec::new(),
        _ => {
            let what = "topics and the broker 1 have settings";
            return Err(Wrong::new(ResponseError::InvalidRequest, what));
        }
    };
    let asked = |config: &Config| {
        let keys = resource.configuration_keys.as_ref();
        keys.is_none_or(|keys| keys.iter().any(|key| key.as_str() == config.name))
    };
    let results = configs.into_iter().filter(asked).map(|config| {
        let value = Some(text(&config.value));
        let synonym = DescribeConfigsSynonym::default()
            .with_name(text(config.name))
            .with_value(value.clone())
            .with_source(config.from);
        DescribeConfigsResourceResult::default()
            .with_name(text(config.name))
            .with_value(value)
            .with_read_only(config.read_only)
            .with_config_source(config.from)
            .with_config_type(config.kind)
            .with_synonyms(if synonyms { vec![synonym] } else { Vec::new() })
    });
    Ok(results.collect())
}

/// One change: a setting and its new value, or none for the default.
type Change = (String, Option<String>);

pub async fn alter_some(
    broker: &Arc<Inner>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let mut changes = Vec::new();
        let mut wrong = None;
        for config in resource.configs {
            let (name, value) = (config.name.to_string(), config.value.map(|v| v.to_string()));
            match (config.config_operation, value) {
                (0, Some(value)) => changes.push((name, Some(value))),
                (1, _) => changes.push((name, None)),
                _ => {
                    let what = format!("{name} takes one value: it can be set or deleted");
                    wrong = Some(Wrong::config(what));
                }
            }
        }
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let done = match wrong {
            Some(wrong) => Err(wrong),
            None => change(broker, kind, &name, false, changes, request.validate_only).await,
        };
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(kind)
            .with_resource_name(name);
        responses.push(match done {
            Ok(()) => response,
            Err(Wrong { code, message }) => {
                response.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

pub async fn alter(broker: &Arc<Inner>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let changes = resource
            .configs
            .into_iter()
            .map(|config| (config.name.to_string(), config.value.map(|value| value.to_string())));
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let changes = changes.collect();
        let done = change(broker, kind, &name, true, changes, request.validate_only).await;
        let response = Altered::default().with_resource_type(kind).with_resource_name(name);
        responses.push(match done {
            Ok(()) => response,
            Err(Wrong { code, message }) => {
                response.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

/// With `all`, what is not named goes back to its default.
async fn change(
    broker: &Arc<Inner>,
    kind: i8,
    name: &str,
    all: bool,
    changes: Vec<Change>,
    validate: bool,
) -> Result<(), Wrong> {
    if kind != TOPIC {
        let what = "only the settings of topics can be changed while it runs";
        return Err(Wrong::new(ResponseError::InvalidRequest, what));
    }
    let Some(topic) = broker.log.topic(name) else {
        let code = ResponseError::UnknownTopicOrPartition;
        return Err(Wrong::new(code, "there is no such topic"));
    };
    let apply = move |options: &mut TopicOptions| -> Result<(), Wrong> {
        if all {
            let default = TopicOptions::default();
            options.retention_ms = default.retention_ms;
            options.retention_bytes = default.retention_bytes;
            options.segment_bytes = default.segment_bytes;
            options.codec = default.codec;
        }
        changes.iter().try_for_each(|(name, value)| set(options, name, value.as_deref()))
    };
    let mut changed = topic.options().clone();
    apply(&mut changed)?;
    changed.check()?;
    if validate {
        return Ok(());
    }
    let (inner, name) = (broker.clone(), name.to_owned());
    blocking(move || {
        inner.log.alter_topic(&name, |options| {
            // It was applied to the same settings above, and found right.
            let _ = apply(options);
        })
    })
    .await?;
    Ok(())
}
