//! How a classic group comes from one generation to the next: everybody joins again, a protocol is
//! voted for, the leader's assignment goes round, and whoever is silent meanwhile is out.

use super::state::{Group, Joined, State, Synced};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::collections::{BTreeMap, HashMap};
use tokio::time::{Duration, Instant};

impl Group {
    /// Asks everybody to join again.
    pub(super) fn prepare(&mut self, now: Instant) {
        let longest = self.members.values().map(|member| member.rebalance).max();
        let longest = longest.unwrap_or_default();
        self.state = match self.state {
            State::Empty => {
                State::Preparing { until: now + self.initial_delay, initial: Some(now + longest) }
            }
            State::Preparing { initial: Some(last), .. } => State::Preparing {
                until: (now + self.initial_delay).min(last),
                initial: Some(last),
            },
            preparing @ State::Preparing { .. } => preparing,
            State::Completing { .. } | State::Stable => {
                State::Preparing { until: now + longest, initial: None }
            }
        };
        for member in self.members.values_mut() {
            if let Some(sync) = member.sync.take() {
                let _ = sync.send(Err(ResponseError::RebalanceInProgress));
            }
        }
        self.complete_if_all(now);
    }

    pub(super) fn complete_if_all(&mut self, now: Instant) {
        let State::Preparing { initial, .. } = self.state else { return };
        let all = self.pending.is_empty() && self.members.values().all(|m| m.join.is_some());
        if self.members.is_empty() || (all && initial.is_none()) {
            self.complete(now);
        }
    }

    /// Ends the joining: who did not come is out.
    fn complete(&mut self, now: Instant) {
        self.members.retain(|_, member| member.join.is_some() || member.instance.is_some());
        let longest = self.members.values().map(|member| member.rebalance).max();
        let longest = longest.unwrap_or_default();
        let Some(first) = self.members.iter().find(|(_, member)| member.join.is_some()) else {
            if self.members.is_empty() {
                self.generation = self.generation.wrapping_add(1).max(0);
                self.state = State::Empty;
                self.leader = None;
                self.protocol.clear();
            } else {
                // Static members have until the end of their sessions to come back.
                self.state = State::Preparing { until: now + longest, initial: None };
            }
            return;
        };
        let first = first.0.clone();
        let joined = |id: &String| self.members.get(id).is_some_and(|m| m.join.is_some());
        self.leader = Some(self.leader.take().filter(joined).unwrap_or(first));
        self.generation = self.generation.wrapping_add(1).max(1);
        self.protocol = self.vote();
        self.state = State::Completing { until: now + longest };
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.synced = false;
            if let Some(join) = member.join.take() {
                member.deadline = now + member.session;
                let _ = join.send(Ok(joined));
            }
        }
    }

    /// The protocol that most members like best, of those that all know.
    fn vote(&self) -> String {
        let all_know = |name: &String| {
            self.members.values().all(|m| m.protocols.iter().any(|(known, _)| known == name))
        };
        let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| all_know(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.iter().max_by_key(|(_, votes)| **votes);
        most.map(|(name, _)| (*name).clone()).unwrap_or_default()
    }

    pub(super) fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let members = match leader == id {
            false => Vec::new(),
            true => {
                let all = self.members.iter().map(|(id, member)| {
                    let metadata = member.metadata(&self.protocol).cloned().unwrap_or_default();
                    (id.clone(), member.instance.clone(), metadata)
                });
                all.collect()
            }
        };
        Joined {
            generation: self.generation,
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            leader,
            member: id.to_owned(),
            skip_assignment: false,
            members,
        }
    }

    pub(super) fn assign(&mut self, now: Instant, assignments: Vec<(String, Bytes)>) {
        let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        self.state = State::Stable;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(sync) = member.sync.take() {
                member.deadline = now + member.session;
                let _ = sync.send(Ok(synced));
            }
        }
    }

    pub(super) fn synced(&self, id: &str) -> Synced {
        Synced {
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }

    /// Does what is due, and says when to look again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.pending.retain(|_, (until, _)| *until > now);
        self.complete_if_all(now);
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.deadline <= now && !member.waits())
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            tracing::info!(member = id, "a member of a group was silent too long");
            self.remove(now, &id);
        }
        match self.state {
            State::Preparing { until, .. } if until <= now => self.complete(now),
            State::Completing { until } if until <= now => {
                let late: Vec<String> = self
                    .members
                    .iter()
                    .filter(|(_, member)| !member.synced)
                    .map(|(id, _)| id.clone())
                    .collect();
                late.iter().for_each(|id| self.remove(now, id));
                if let State::Completing { .. } = self.state {
                    self.prepare(now);
                }
            }
            _ => {}
        }
        let of_state = match self.state {
            State::Preparing { until, .. } | State::Completing { until } => Some(until),
            State::Empty | State::Stable => None,
        };
        let look_again = |deadline: Instant| deadline.max(now + Duration::from_millis(100));
        let of_members = self.members.values().map(|member| look_again(member.deadline));
        let of_pending = self.pending.values().map(|(until, _)| *until);
        of_members.chain(of_pending).chain(of_state).min()
    }
}
