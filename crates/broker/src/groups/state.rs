//! The classic group: one member, the leader, makes the assignment for all.
//!
//! ```text
//!          a member joins                all joined, or the time is over
//!  Empty ────────────────► Preparing ──────────────────────────────────► Completing
//!    ▲                      ▲   ▲                                             │
//!    │ the last one left    │   └───────────── a member joins, leaves, ───────┤ the leader's
//!    └──────────────────────┘                  or is silent too long          ▼ assignment
//!                           └─────────────────────────────────────────────► Stable
//! ```
//!
//! No I/O and no clock: whoever joins or syncs leaves a sender, and the time is an argument.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

pub type JoinReply = Result<Joined, (ResponseError, String)>;
pub type SyncReply = Result<Synced, ResponseError>;

/// What a member says when it joins.
#[derive(Debug, Clone)]
pub struct Join {
    /// Empty for one that has no id yet.
    pub member: String,
    /// Static members keep their place over a restart.
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    pub session: Duration,
    pub rebalance: Duration,
    pub kind: String,
    pub protocols: Vec<(String, Bytes)>,
    /// It knows that it is first given an id and then let in.
    pub knows_ids: bool,
    /// It knows that a leader may be told not to assign.
    pub knows_skip: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub generation: i32,
    pub kind: String,
    pub protocol: String,
    pub leader: String,
    pub member: String,
    pub skip_assignment: bool,
    /// For the leader: everybody's id, instance and metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub kind: String,
    pub protocol: String,
    pub assignment: Bytes,
}

#[derive(Debug)]
pub struct Group {
    pub generation: i32,
    pub kind: String,
    pub protocol: String,
    pub state: State,
    pub members: BTreeMap<String, Member>,
    leader: Option<String>,
    /// Ids that were given out and not used yet.
    pending: HashMap<String, Instant>,
    initial_delay: Duration,
    members_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Empty,
    Preparing {
        until: Instant,
        /// The first members wait for others, who put the end off until this.
        initial: Option<Instant>,
    },
    Completing {
        until: Instant,
    },
    Stable,
}

#[derive(Debug)]
pub struct Member {
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    pub assignment: Bytes,
    session: Duration,
    rebalance: Duration,
    protocols: Vec<(String, Bytes)>,
    join: Option<oneshot::Sender<JoinReply>>,
    sync: Option<oneshot::Sender<SyncReply>>,
    /// Asked for its assignment in this generation.
    synced: bool,
    deadline: Instant,
}

impl Group {
    pub fn new(initial_delay: Duration, members_max: usize) -> Group {
        Group {
            generation: 0,
            kind: String::new(),
            protocol: String::new(),
            state: State::Empty,
            members: BTreeMap::new(),
            leader: None,
            pending: HashMap::new(),
            initial_delay,
            members_max,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    pub fn join(&mut self, now: Instant, join: Join, reply: oneshot::Sender<JoinReply>) {
        let mut reply = Some(reply);
        if let Err(refused) = self.try_join(now, join, &mut reply)
            && let Some(reply) = reply
        {
            let _ = reply.send(Err(refused));
        }
    }

    /// Takes the sender unless the member is refused; then with the id that it is to have.
    fn try_join(
        &mut self,
        now: Instant,
        join: Join,
        reply: &mut Option<oneshot::Sender<JoinReply>>,
    ) -> Result<(), (ResponseError, String)> {
        if !self.fits(&join) {
            return Err((ResponseError::InconsistentGroupProtocol, join.member));
        }
        let held = join.instance.as_ref().and_then(|instance| self.holder(instance));
        if join.member.is_empty() {
            if let Some(old) = held {
                self.replace(now, &old, join, reply.take());
                return Ok(());
            }
            if self.members.len() + self.pending.len() >= self.members_max {
                return Err((ResponseError::GroupMaxSizeReached, String::new()));
            }
            let id = format!("{}-{}", join.client, Uuid::new_v4());
            if join.instance.is_none() && join.knows_ids {
                self.pending.insert(id.clone(), now + join.session);
                return Err((ResponseError::MemberIdRequired, id));
            }
            self.add(now, id, join, reply.take());
            return Ok(());
        }
        if join.instance.is_some() && held.as_ref() != Some(&join.member) {
            let error = match held {
                Some(_) => ResponseError::FencedInstanceId,
                None => ResponseError::UnknownMemberId,
            };
            return Err((error, join.member));
        }
        if self.pending.remove(&join.member).is_some() {
            self.add(now, join.member.clone(), join, reply.take());
            return Ok(());
        }
        if !self.members.contains_key(&join.member) {
            return Err((ResponseError::UnknownMemberId, join.member));
        }
        self.rejoin(now, join, reply.take());
        Ok(())
    }

    /// Whether there is a protocol that all members know.
    fn fits(&self, join: &Join) -> bool {
        if join.kind.is_empty() || join.protocols.is_empty() {
            return false;
        }
        let others = || {
            self.members.iter().filter(|(id, member)| {
                **id != join.member && (join.instance.is_none() || member.instance != join.instance)
            })
        };
        if others().next().is_none() {
            return true;
        }
        let all_know = |name: &String| {
            others().all(|(_, member)| member.protocols.iter().any(|(known, _)| known == name))
        };
        join.kind == self.kind && join.protocols.iter().any(|(name, _)| all_know(name))
    }

    /// The member that an instance is.
    fn holder(&self, instance: &str) -> Option<String> {
        let holds = |member: &Member| member.instance.as_deref() == Some(instance);
        self.members.iter().find(|(_, member)| holds(member)).map(|(id, _)| id.clone())
    }

    fn add(
        &mut self,
        now: Instant,
        id: String,
        join: Join,
        reply: Option<oneshot::Sender<JoinReply>>,
    ) {
        if self.members.is_empty() {
            self.kind = join.kind.clone();
        }
        let member = Member {
            deadline: now + join.session,
            instance: join.instance,
            client: join.client,
            host: join.host,
            assignment: Bytes::new(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols,
            join: reply,
            sync: None,
            synced: false,
        };
        self.members.insert(id, member);
        self.prepare(now);
    }

    fn rejoin(&mut self, now: Instant, join: Join, reply: Option<oneshot::Sender<JoinReply>>) {
        let is_leader = self.leader.as_ref() == Some(&join.member);
        let Some(member) = self.members.get_mut(&join.member) else { return };
        let same = member.protocols == join.protocols;
        member.deadline = now + join.session;
        (member.session, member.rebalance) = (join.session, join.rebalance);
        member.protocols = join.protocols;
        let again = match self.state {
            State::Completing { .. } => !same,
            State::Stable => is_leader || !same,
            State::Preparing { .. } | State::Empty => true,
        };
        if again {
            member.join = reply;
            self.prepare(now);
        } else if let Some(reply) = reply {
            let _ = reply.send(Ok(self.joined(&join.member)));
        }
    }

    /// A static member comes back under a new id.
    fn replace(
        &mut self,
        now: Instant,
        old: &str,
        join: Join,
        reply: Option<oneshot::Sender<JoinReply>>,
    ) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(join) = member.join.take() {
            let _ = join.send(Err((ResponseError::FencedInstanceId, old.to_owned())));
        }
        if let Some(sync) = member.sync.take() {
            let _ = sync.send(Err(ResponseError::FencedInstanceId));
        }
        let id = format!("{}-{}", join.client, Uuid::new_v4());
        let was_leader = self.leader.as_deref() == Some(old);
        if was_leader {
            self.leader = Some(id.clone());
        }
        let same = member.metadata(&self.protocol)
            == join.protocols.iter().find(|(name, _)| *name == self.protocol).map(|(_, m)| m);
        member.deadline = now + join.session;
        (member.session, member.rebalance) = (join.session, join.rebalance);
        (member.client, member.host) = (join.client, join.host);
        member.protocols = join.protocols;
        if self.state == State::Stable && same {
            // It goes on with the assignment that it had.
            self.members.insert(id.clone(), member);
            let mut joined = self.joined(&id);
            if was_leader {
                joined.skip_assignment = join.knows_skip;
                if !join.knows_skip {
                    // One that would assign again believes that another leads.
                    joined.leader = old.to_owned();
                    joined.members = Vec::new();
                }
            }
            if let Some(reply) = reply {
                let _ = reply.send(Ok(joined));
            }
            return;
        }
        member.join = reply;
        self.members.insert(id, member);
        self.prepare(now);
    }

    /// Asks everybody to join again.
    fn prepare(&mut self, now: Instant) {
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

    fn complete_if_all(&mut self, now: Instant) {
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

    fn joined(&self, id: &str) -> Joined {
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

    pub fn sync(
        &mut self,
        now: Instant,
        who: Who<'_>,
        assignments: Vec<(String, Bytes)>,
        reply: oneshot::Sender<SyncReply>,
    ) {
        if let Err(error) = self.check(&who) {
            let _ = reply.send(Err(error));
            return;
        }
        match self.state {
            State::Preparing { .. } => drop(reply.send(Err(ResponseError::RebalanceInProgress))),
            State::Empty => drop(reply.send(Err(ResponseError::UnknownMemberId))),
            State::Stable => {
                let synced = self.synced(who.member);
                self.touch(now, who.member);
                let _ = reply.send(Ok(synced));
            }
            State::Completing { .. } => {
                let Some(member) = self.members.get_mut(who.member) else { return };
                member.synced = true;
                member.sync = Some(reply);
                if self.leader.as_deref() == Some(who.member) {
                    self.assign(now, assignments);
                }
            }
        }
    }

    fn assign(&mut self, now: Instant, assignments: Vec<(String, Bytes)>) {
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

    fn synced(&self, id: &str) -> Synced {
        Synced {
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }

    pub fn heartbeat(&mut self, now: Instant, who: Who<'_>) -> Result<(), ResponseError> {
        self.check(&who)?;
        self.touch(now, who.member);
        match self.state {
            State::Preparing { .. } => Err(ResponseError::RebalanceInProgress),
            State::Empty => Err(ResponseError::UnknownMemberId),
            State::Completing { .. } | State::Stable => Ok(()),
        }
    }

    /// Whether a member may commit offsets now.
    pub fn may_commit(&mut self, now: Instant, who: Who<'_>) -> Result<(), ResponseError> {
        // Clients that assign partitions themselves commit to a group without members.
        if who.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check(&who)?;
        self.touch(now, who.member);
        match self.state {
            State::Completing { .. } => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    pub fn leave(
        &mut self,
        now: Instant,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ResponseError> {
        if self.pending.remove(member).is_some() {
            self.complete_if_all(now);
            return Ok(());
        }
        let id = match instance {
            Some(instance) => {
                let id = self.holder(instance).ok_or(ResponseError::UnknownMemberId)?;
                if !member.is_empty() && id != member {
                    return Err(ResponseError::FencedInstanceId);
                }
                id
            }
            None => member.to_owned(),
        };
        match self.members.contains_key(&id) {
            true => {
                self.remove(now, &id);
                Ok(())
            }
            false => Err(ResponseError::UnknownMemberId),
        }
    }

    fn remove(&mut self, now: Instant, id: &str) {
        let Some(mut member) = self.members.remove(id) else { return };
        if let Some(join) = member.join.take() {
            let _ = join.send(Err((ResponseError::UnknownMemberId, id.to_owned())));
        }
        if let Some(sync) = member.sync.take() {
            let _ = sync.send(Err(ResponseError::UnknownMemberId));
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
        match self.state {
            State::Stable | State::Completing { .. } => self.prepare(now),
            State::Preparing { .. } => self.complete_if_all(now),
            State::Empty => {}
        }
    }

    /// Does what is due, and says when to look again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.pending.retain(|_, until| *until > now);
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
        let of_pending = self.pending.values().copied();
        of_members.chain(of_pending).chain(of_state).min()
    }

    fn check(&self, who: &Who<'_>) -> Result<(), ResponseError> {
        if let Some(instance) = who.instance {
            match self.holder(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(holder) if holder != who.member => {
                    return Err(ResponseError::FencedInstanceId);
                }
                Some(_) => {}
            }
        }
        if !self.members.contains_key(who.member) {
            return Err(ResponseError::UnknownMemberId);
        }
        if who.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        Ok(())
    }

    fn touch(&mut self, now: Instant, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.deadline = now + member.session;
        }
    }

    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::Preparing { .. } => "PreparingRebalance",
            State::Completing { .. } => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A member as it names itself.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub member: &'a str,
    pub generation: i32,
    pub instance: Option<&'a str>,
}

impl Member {
    /// It waits for an answer, and its connection is there.
    fn waits(&self) -> bool {
        self.join.as_ref().is_some_and(|join| !join.is_closed())
            || self.sync.as_ref().is_some_and(|sync| !sync.is_closed())
    }

    pub fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }
}
