//! What came out: whether it adds up, a few enriched rows, the top countries, the dead letter, and
//! what to try next.

use super::MAIN_JOB;
use super::home::DemoHome;
use crate::commands::dead_letters::describe;
use crate::failure::Result;
use crate::output;
use crate::process::Process;
use crate::screen::hits;
use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use millstream_console::answers::Letter;
use millstream_console::{Client, Elsewhere, Position, Request, RowFormat};
use millstream_engine::PipelineReport;
use millstream_tables::Scan;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::time::Duration;

const TABLE: &str = "navigation_by_uid";
const COUNTRIES_SHOWN: usize = 8;
const ROWS_SHOWN: u64 = 5;
const WIDTH: usize = 80;

pub async fn show(
    process: &Process,
    reports: &[PipelineReport],
    took: Duration,
    home: &DemoHome,
) -> Result<()> {
    let seconds = took.as_secs_f64();
    for report in reports {
        let sum = report.rows_out + report.rows_filtered + report.rows_dead;
        anyhow::ensure!(
            report.rows_in == sum,
            "{}: {} rows in, but {sum} out, filtered or dead",
            report.name,
            report.rows_in
        );
    }
    let job = reports.iter().find(|report| report.name == MAIN_JOB);
    let job = job.context("the pipeline `enrich` is missing")?;
    output::line(format!(
        "\n{} rows through the main job in {seconds:.1} s, every one accounted for:\n\
         {} in = {} out + {} filtered + {} dead",
        output::count(job.rows_in),
        output::count(job.rows_in),
        output::count(job.rows_out),
        output::count(job.rows_filtered),
        output::count(job.rows_dead)
    ))?;
    if job.lookups.iter().any(|lookup| lookup.asked > 0) {
        output::line(format!("look-ups that found something: {}", hits(job)))?;
    }
    let mut client = Client::local(process.service.clone());

    output::line("\nA few enriched rows:\n")?;
    output::out(output::grid(&rows(&mut client).await?, WIDTH))?;

    output::line("\nWhere they came from:\n")?;
    let table = process.home.tables.table(TABLE).context("the table is missing")?;
    let countries = tokio::task::spawn_blocking(move || countries(&table)).await??;
    output::out(bars(&countries))?;

    let letters = Request::DeadLetters {
        pipeline: None,
        topic: None,
        limit: Some(1),
        elsewhere: Elsewhere::default(),
    };
    if let Some(letter) = client.rows::<Letter>(&letters).await?.into_iter().next() {
        output::line("\nThe dead letter, kept whole:\n")?;
        let (topic, partition, offset) = (letter.topic, letter.partition, letter.offset);
        let elsewhere = Elsewhere::default();
        let whole = Request::ShowDeadLetter { of: topic, partition, offset, elsewhere };
        let whole: Letter = client.end(&whole).await?;
        output::out(wrapped(&describe(&whole)))?;
    }

    let data = match home.dir() == std::path::Path::new("millstream-data") {
        true => String::new(),
        false => format!(" --data {}", home.dir().display()),
    };
    output::line(format!(
        "\nTry next:\n\
         \x20 millstream{data} tap enriched --from -20 --no-follow --where \"is_bot\"\n\
         \x20 millstream{data} explain {}\n\
         \x20 millstream{data} dead-letters list",
        home.dir().join("demo/enrich.yaml").display()
    ))
}

/// Some of the newest rows of the topic, with the columns that say most.
async fn rows(client: &mut Client) -> Result<Vec<Value>> {
    let request = Request::Tap {
        topic: "enriched".into(),
        from: Position::Last(200),
        partition: None,
        filter: Some("country IS NOT NULL".into()),
        limit: Some(200),
        follow: false,
        format: RowFormat::Auto,
        elsewhere: Elsewhere::default(),
    };
    let found: Vec<millstream_console::answers::Record> = client.rows(&request).await?;
    // From all over, so that both logs are likely to be seen.
    let step = (found.len() / ROWS_SHOWN as usize).max(1);
    let shown = found.iter().step_by(step).take(ROWS_SHOWN as usize).map(|record| {
        let mut row = Map::new();
        for name in ["seen_at", "site", "country_name", "agent", "status", "bytes", "is_bot"] {
            row.insert(name.into(), record.value.get(name).cloned().unwrap_or_default());
        }
        Value::Object(row)
    });
    Ok(shown.collect())
}

/// Rows of the table by country, most first.
fn countries(table: &millstream_tables::Table) -> Result<Vec<(String, u64)>> {
    let projection = Some(vec!["country_name".to_owned()]);
    let mut counts: HashMap<String, u64> = HashMap::new();
    for batch in table.scan(Scan { projection, ..Scan::default() })? {
        let batch: RecordBatch = batch?;
        let names = arrow_cast::cast(batch.column(0), &arrow_schema::DataType::Utf8)?;
        let names = names.as_string::<i32>();
        for row in 0..names.len() {
            let name = if names.is_null(row) { "unknown" } else { names.value(row) };
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(name.to_owned(), 1);
                }
            }
        }
    }
    let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
    sorted.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    sorted.truncate(COUNTRIES_SHOWN);
    Ok(sorted)
}

/// Long lines go on below their value, from a space on where there is one.
fn wrapped(text: &str) -> String {
    const INDENT: usize = 17;
    let mut wrapped = String::new();
    for line in text.lines() {
        let characters: Vec<char> = line.chars().collect();
        let (head, rest) = characters.split_at(characters.len().min(INDENT));
        wrapped.extend(head);
        let mut rest = rest;
        while rest.len() > WIDTH - INDENT {
            let space = rest[..=WIDTH - INDENT].iter().rposition(|c| *c == ' ');
            let end = space.filter(|at| *at > 0).unwrap_or(WIDTH - INDENT);
            wrapped.extend(&rest[..end]);
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(INDENT));
            rest = &rest[end + usize::from(rest[end] == ' ')..];
        }
        wrapped.extend(rest);
        wrapped.push('\n');
    }
    wrapped
}

fn bars(counts: &[(String, u64)]) -> String {
    const BAR: u64 = 30;
    let most = counts.first().map_or(1, |(_, count)| *count).max(1);
    counts
        .iter()
        .map(|(name, count)| {
            let name = output::short(name, 28);
            let bar = "█".repeat((count * BAR).div_ceil(most) as usize);
            format!("{name:<30} {:>9}  {bar}\n", output::count(*count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_at_a_word_where_there_is_one() {
        let head = format!("{:<17}", "reason");
        let words = "word ".repeat(30);
        let shown = wrapped(&format!("{head}{}\n", words.trim_end()));
        assert!(shown.lines().all(|line| line.len() <= WIDTH), "{shown}");
        assert!(shown.lines().count() > 1 && shown.lines().all(|line| line.ends_with("word")));
        let gone: String = shown.split_whitespace().skip(1).collect();
        assert_eq!(gone, "word".repeat(30));
        // What has no space is cut, and nothing of it is lost.
        let shown = wrapped(&format!("{head}{}\n", "é".repeat(200)));
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert_eq!(shown.matches('é').count(), 200);
    }
}
