//! Groups of consumers: who is in them, who reads what, and how far each has come.
//!
//! | module | what |
//! |---|---|
//! | `classic` | members agree among themselves: JoinGroup, SyncGroup, Heartbeat, LeaveGroup |
//! | `state`, `rebalance` | such a group, without sockets and with the time from outside |
//! | `modern` | members are told: ConsumerGroupHeartbeat (KIP-848) |
//! | `reconcile`, `assign` | its members' way to a new assignment, and how that is found |
//! | `offsets` | commits, durable before they are answered |
//! | `describe` | what tools ask for |
//! | `room` | how much of what clients say is kept |
//!
//! Members are in memory only: after a restart they join again and go on from what was committed.

mod assign;
pub mod classic;
pub mod describe;
pub mod modern;
pub mod offsets;
mod rebalance;
mod reconcile;
mod room;
mod state;

use crate::broker::Inner;
use crate::connection::Ends;
use crate::options::GroupOptions;
use crate::stats::Groups as Counted;
use crate::store::{Entry, now_ms};
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use parking_lot::{Mutex, MutexGuard};
use reconcile::Known;
use room::Room;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const NAME_BYTES_MAX: usize = 1_024;
/// How often groups that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(3_600);

pub struct Groups {
    options: GroupOptions,
    room: Room,
    known: Mutex<Arc<Known>>,
    all: Mutex<BTreeMap<String, Group>>,
    /// A deadline may be nearer now.
    changed: Notify,
}

enum Group {
    Classic(state::Group),
    Modern(reconcile::Group),
}

/// The client behind a member, for tools to show.
pub struct Client {
    pub id: StrBytes,
    pub ends: Ends,
}

impl Groups {
    pub fn new(options: GroupOptions) -> Groups {
        let room = Room::new(options.groups_bytes);
        let (known, all) = (Mutex::default(), Mutex::default());
        Groups { options, room, known, all, changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Group>> {
        self.all.lock()
    }

    /// Makes room for one more group, when there is none, by forgetting those without members.
    fn room(&self, all: &mut BTreeMap<String, Group>) -> Result<(), ResponseError> {
        if all.len() < self.options.groups_max {
            return Ok(());
        }
        all.retain(|_, group| !group.is_empty());
        match all.len() < self.options.groups_max {
            true => Ok(()),
            false => Err(ResponseError::GroupMaxSizeReached),
        }
    }

    /// The classic groups, and those whose members are told.
    pub fn count(&self) -> (Counted, Counted) {
        let (mut classic, mut modern) = (Counted::default(), Counted::default());
        for group in self.lock().values() {
            let (counted, members) = match group {
                Group::Classic(group) => (&mut classic, group.members.len()),
                Group::Modern(group) => (&mut modern, group.members.len()),
            };
            counted.groups += 1;
            counted.members += members as u64;
        }
        (classic, modern)
    }

    /// Does what is due and says when the next thing is.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut all = self.lock();
        let deadlines = all.values_mut().filter_map(|group| match group {
            Group::Classic(group) => group.expire(now),
            Group::Modern(group) => group.expire(now),
        });
        deadlines.min()
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.is_empty(),
            Group::Modern(group) => group.members.is_empty(),
        }
    }
}

fn check_name(name: &str) -> Result<(), ResponseError> {
    match name.is_empty() || name.len() > NAME_BYTES_MAX {
        true => Err(ResponseError::InvalidGroupId),
        false => Ok(()),
    }
}

/// Lets the time pass for all groups.
pub async fn tick(broker: Arc<Inner>, stop: CancellationToken) {
    let mut sweep = Instant::now();
    loop {
        let now = Instant::now();
        if now >= sweep {
            sweep = now + SWEEP;
            forget_old(&broker).await;
        }
        let next = broker.groups.expire(now).unwrap_or(sweep).min(sweep);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = broker.groups.changed.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Forgets the offsets of groups that have had no member and no commit for long.
async fn forget_old(broker: &Arc<Inner>) {
    let keep = i64::try_from(broker.options.groups.retention.as_millis()).unwrap_or(i64::MAX);
    let mut old = broker.store.older_than(now_ms().saturating_sub(keep));
    {
        let all = broker.groups.lock();
        old.retain(|group| all.get(group).is_none_or(Group::is_empty));
    }
    if old.is_empty() {
        return;
    }
    tracing::info!(groups = old.len(), "forgetting the offsets of groups that nobody uses");
    let forget = old.into_iter().map(|group| Entry::Forget { group, place: None }).collect();
    if let Err(error) = broker.store.apply(forget).done().await {
        tracing::warn!(%error, "old offsets could not be forgotten");
    }
}
