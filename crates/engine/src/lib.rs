//! Runs pipelines: from a checked file to partition tasks that lose nothing.
//!
//! ```text
//! file ─► plan ─► open ─► engine: supervise ─► task: fetch ► decode ► flow ► sinks ► commit
//!          │                                            └► dead_letters
//!          └► explain, preview, cases
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | `plan`, `catalog`, `bound` | names and types checked against the real schemas, nothing changed |
//! | `connectors` | what a file says of a store, a server or Kafka, as its connector takes it |
//! | `open` | topics, tables, schemas and look-ups made ready |
//! | `engine`, `supervise`, `reset` | partition tasks begun, restarted, held, drained, sent elsewhere |
//! | `task` | the loop that owns a partition from fetch to commit |
//! | `flow` | the steps over one batch |
//! | `lookups` | cache, single flight and retries before a store |
//! | `dead_letters`, `brake`, `letters`, `replay` | rows that cannot be processed |
//! | `commit`, `reopen` | all partitions' offsets on one sync, and what follows when it fails |
//! | `gate` | what of a pipeline is in the transaction that is open |
//! | `budget` | the bytes that all partitions may have under way |

mod bound;
mod brake;
mod budget;
mod cases;
mod catalog;
mod commit;
mod connectors;
mod dead_letters;
mod engine;
mod explain;
mod flow;
mod gate;
mod group;
mod letters;
mod lookups;
mod metrics;
mod open;
mod pipeline;
mod plan;
mod positions;
mod preview;
mod references;
mod registries;
mod reopen;
mod replay;
mod reset;
mod status;
mod supervise;
mod task;
mod waits;

pub use bound::{check_bound, source_id};
pub use cases::{CaseReport, run_case};
pub use catalog::{Catalog, TableShape};
pub use commit::{Committer, ExactlyOnce};
pub use connectors::kafka::{cluster as kafka_cluster, source as kafka_source};
pub use dead_letters::{DeadLetters, Letter};
pub use engine::{Engine, LookupReport, PipelineReport};
pub use explain::{Column, Explain, ExplainLookup, ExplainSink, ExplainSource, ExplainStep};
pub use letters::{Letters, is_pipeline};
pub use lookups::{CacheOptions, Guarded, KeyColumns, Policy};
pub use metrics::{Metrics, PipelineMetrics, quantile};
pub use open::{may_pass, open};
pub use pipeline::{Pipeline, Target};
pub use plan::{Plan, kind_name, plan, plan_all};
pub use preview::{Preview, PreviewDead, preview};
pub use references::inline;
pub use registries::{Registries, SchemaRegistry};
pub use replay::{Replayed, replay};
pub use reset::{partitions_of, reset_at_rest, reset_offsets};
pub use status::{OffsetUnit, PartitionReport, PartitionState};
pub use waits::Waits;
