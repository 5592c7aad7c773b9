//! What a sink takes: whether the rows' columns fit the table or topic, and the topic's schema.

use super::{Planner, SinkPlan};
use crate::catalog::TableShape;
use arrow_schema::SchemaRef;
use millstream_config::{EncodeSpec, SinkSpec, SinkTo};
use millstream_connectors::table::TableSink;
use millstream_connectors::topic::TopicSink;
use millstream_core::Encoder;
use millstream_formats::avro;
use millstream_tables::TableSpec;

/// Encoders are made in one place, for sinks and for previews.
pub fn encoder(
    avro: Option<&(String, String)>,
    id: Option<u32>,
    schema: SchemaRef,
) -> millstream_core::Result<Box<dyn Encoder>> {
    Ok(match avro {
        Some((_, text)) => Box::new(avro::AvroEncoder::new(text, id, schema)?),
        None => Box::new(millstream_formats::json::JsonEncoder::new(schema)?),
    })
}

impl Planner<'_> {
    pub(super) async fn sink(
        &mut self,
        at: usize,
        sink: &SinkSpec,
        schema: &SchemaRef,
        source_partitions: u32,
    ) -> Option<SinkPlan> {
        match &sink.to {
            SinkTo::Discard(_) => Some(SinkPlan::Discard),
            SinkTo::Kafka(to) => self.kafka_sink(at, to, schema).await,
            SinkTo::Table(to) => {
                let key: Vec<_> = to.key.iter().chain(&to.clustering).cloned().collect();
                if let Err(message) = TableSink::accepts(schema, &key, to.timestamp.as_deref()) {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let spec = TableSpec {
                    name: to.table.clone(),
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                    ttl: to.ttl.map(|p| p.0),
                    grace: to.grace.map_or(TableSpec::GRACE, |p| p.0),
                };
                if let Err(error) = self.catalog.home().tables.check_table(&spec) {
                    self.mistake(&format!("/sinks/{at}/table"), error.to_string(), None);
                    return None;
                }
                let shape = TableShape {
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                };
                self.catalog.will_have_table(&to.table, shape);
                Some(SinkPlan::Table(spec))
            }
            SinkTo::Topic(to) => {
                let accepted =
                    TopicSink::accepts(schema, to.key.as_deref(), to.timestamp.as_deref());
                if let Err(message) = accepted {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let there = self.catalog.topic(&to.topic);
                if let (Some(there), Some(wanted)) = (there, to.partitions)
                    && there != wanted
                {
                    let message =
                        format!("topic `{}` has {there} partitions, not {wanted}", to.topic);
                    let hint = format!("write `partitions: {there}`, or leave it out");
                    self.mistake(&format!("/sinks/{at}/partitions"), message, Some(hint));
                }
                let partitions = there.or(to.partitions).unwrap_or(source_partitions);
                let avro = self.avro(at, &to.format, &to.topic, schema)?;
                self.catalog.will_have_topic(&to.topic, partitions);
                Some(SinkPlan::Topic { topic: to.topic.clone(), partitions, avro })
            }
        }
    }

    /// Subject and schema of an Avro topic; the outer `None` after a mistake.
    pub(super) fn avro(
        &mut self,
        at: usize,
        format: &EncodeSpec,
        topic: &str,
        schema: &SchemaRef,
    ) -> Option<Option<(String, String)>> {
        match format {
            EncodeSpec::Json(_) => Some(None),
            EncodeSpec::Avro(options) => {
                let subject = options.subject.clone().unwrap_or(format!("{topic}-value"));
                let text = match &options.schema_file {
                    Some(path) => {
                        self.schema_file(&format!("/sinks/{at}/format/avro/schema_file"), path)?
                    }
                    None => {
                        let name = options.name.clone().unwrap_or(avro_name(topic));
                        avro::avro_schema_for(&name, schema)
                    }
                };
                let encoder = avro::AvroEncoder::new(&text, Some(0), schema.clone());
                if let Err(error) = encoder {
                    self.mistake(&format!("/sinks/{at}/format"), error.chain(), None);
                    return None;
                }
                if let Err(reason) = self.compatible(&subject, &text) {
                    let hint = format!(
                        "use another topic or subject, or relax the subject's compatibility; \
                         `millstream schemas show {subject}` shows what is there"
                    );
                    self.mistake(&format!("/sinks/{at}/format"), reason, Some(hint));
                }
                self.catalog.will_have_subject(&subject, &text);
                Some(Some((subject, text)))
            }
        }
    }

    fn compatible(&self, subject: &str, schema: &str) -> Result<(), String> {
        let new = millstream_registry::NewSchema::avro(schema);
        let reasons = self
            .catalog
            .home()
            .registry
            .compatibility(subject, None, &new, false)
            .map_err(|e| e.to_string())?;
        match reasons.as_slice() {
            [] => Ok(()),
            reasons => Err(format!(
                "the rows' schema is not compatible with subject `{subject}`: {}",
                reasons.join("; ")
            )),
        }
    }
}

/// A topic's name as the name of an Avro record.
fn avro_name(topic: &str) -> String {
    let mut name: String =
        topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}
