//! `millstream pipelines`: what runs, how it does, what it waits for.

use crate::cli::Global;
use crate::failure::Result;
use crate::output::{self, JsonArg, Table};
use crate::session;
use clap::Args;
use millstream_console::Request;
use millstream_console::answers::Pipeline;

/// Show the pipelines: state, rows, lag, latency, what they wait for
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream pipelines --json\n\nRows are counted from the start of the process; of a stopped pipeline its offsets and lag are known."
)]
pub struct PipelinesArgs {
    #[command(flatten)]
    json: JsonArg,
}

impl PipelinesArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let pipelines: Vec<Pipeline> = session::rows(global, &Request::Pipelines)?;
        if self.json.json {
            return output::json(&pipelines);
        }
        let mut table = Table::new(
            &[
                "PIPELINE",
                "STATE",
                "SOURCE",
                ">IN",
                ">OUT",
                ">FILTERED",
                ">DEAD",
                ">LAG",
                ">P50",
                ">P99",
            ],
            "No pipeline runs here, and none has: `millstream run FILE` starts one.",
        );
        let latency = |ms: Option<f64>| ms.map_or_else(|| "-".into(), output::ms);
        let rows = |rows: Option<u64>| rows.map_or_else(|| "-".into(), output::count);
        for pipeline in &pipelines {
            table.row([
                pipeline.name.clone(),
                pipeline.state.clone(),
                pipeline.source.clone(),
                rows(pipeline.rows_in),
                rows(pipeline.rows_out),
                rows(pipeline.rows_filtered),
                rows(pipeline.rows_dead),
                pipeline.lag.map_or_else(|| "-".into(), output::count),
                latency(pipeline.p50_ms),
                latency(pipeline.p99_ms),
            ]);
        }
        table.print()?;
        for pipeline in &pipelines {
            for lookup in &pipeline.lookups {
                output::line(format!(
                    "{} looks up {}: {} of {} rows found something ({})",
                    pipeline.name,
                    lookup.name,
                    output::count(lookup.found),
                    output::count(lookup.asked),
                    output::percent(lookup.found, lookup.asked)
                ))?;
            }
            for reason in &pipeline.waits_for {
                output::line(format!("{} waits: {reason}", pipeline.name))?;
            }
        }
        Ok(())
    }
}
