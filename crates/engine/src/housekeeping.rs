//! What a data directory needs while pipelines run: old segments removed, expired rows swept,
//! recovery points kept near the end.

use millstream_connectors::Home;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Retention is looked at this often. A sweep reads whole tables, which compaction makes rarely necessary.
pub const EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: u32 = 360;

/// Keeps house until it is dropped. The work blocks and is done off the runtime's workers.
pub async fn keep_house(home: Home, every: Duration) {
    let mut round = 0u32;
    loop {
        tokio::time::sleep(every).await;
        round = round.wrapping_add(1);
        let home = home.clone();
        let sweep = round.is_multiple_of(SWEEP_EVERY);
        let done = tokio::task::spawn_blocking(move || clean(&home, sweep)).await;
        if let Err(panic) = done {
            tracing::error!("housekeeping failed: {panic}");
        }
    }
}

fn clean(home: &Home, sweep: bool) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    match home.log.enforce_retention(now_ms) {
        Ok(removed) => {
            for removed in removed {
                tracing::info!(topic = %removed.topic, partition = removed.partition, upto = removed.start_offset, "retention removed {} segments", removed.segments);
            }
        }
        Err(error) => tracing::warn!("retention could not be enforced: {error}"),
    }
    if !sweep {
        return;
    }
    for table in home.tables.tables() {
        if let Err(error) = table.sweep() {
            tracing::warn!("table {} could not be swept: {error}", table.spec().name);
        }
    }
}
