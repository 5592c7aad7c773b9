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
//! Here is who may come, say and go; how a generation is made of them is in [`super::rebalance`].
//! No I/O and no clock: whoever joins or syncs leaves a sender, and the time is an argument.

use super::room::{Held, Room};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

pub type JoinReply = Result<Joined, (ResponseError, String)>;
pub type SyncReply = Result<Synced, ResponseError>;

/// What a member says when it joins.
#[derive(Debug)]
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

/// A member without what it says.
const MEMBER_BYTES: usize = 512;

#[derive(Debug)]
pub struct Group {
    pub generation: i32,
    pub kind: String,
    pub protocol: String,
    pub state: State,
    pub members: BTreeMap<String, Member>,
    pub(super) leader: Option<String>,
    /// Ids that were given out and not used yet.
    pub(super) pending: HashMap<String, (Instant, Held)>,
    /// For the assignments.
    held: Option<Held>,
    room: Room,
    pub(super) initial_delay: Duration,
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
    held: Held,
    pub(super) session: Duration,
    pub(super) rebalance: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) join: Option<oneshot::Sender<JoinReply>>,
    pub(super) sync: Option<oneshot::Sender<SyncReply>>,
    /// Asked for its assignment in this generation.
    pub(super) synced: bool,
    pub(super) deadline: Instant,
}

impl Group {
    pub fn new(initial_delay: Duration, members_max: usize, room: Room) -> Group {
        Group {
            generation: 0,
            kind: String::new(),
            protocol: String::new(),
            state: State::Empty,
            members: BTreeMap::new(),
            leader: None,
            pending: HashMap::new(),
            held: None,
            room,
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
        let Some(held) = self.room.hold(join.bytes()) else {
            return Err((ResponseError::GroupMaxSizeReached, join.member));
        };
        let holder = join.instance.as_ref().and_then(|instance| self.holder(instance));
        if join.member.is_empty() {
            if let Some(old) = holder {
                self.replace(now, &old, join, held, reply.take());
                return Ok(());
            }
            if self.members.len() + self.pending.len() >= self.members_max {
                return Err((ResponseError::GroupMaxSizeReached, String::new()));
            }
            let id = format!("{}-{}", join.client, Uuid::new_v4());
            if join.instance.is_none() && join.knows_ids {
                self.pending.insert(id.clone(), (now + join.session, held));
                return Err((ResponseError::MemberIdRequired, id));
            }
            self.add(now, id, join, held, reply.take());
            return Ok(());
        }
        if join.instance.is_some() && holder.as_ref() != Some(&join.member) {
            let error = match holder {
                Some(_) => ResponseError::FencedInstanceId,
                None => ResponseError::UnknownMemberId,
            };
            return Err((error, join.member));
        }
        if self.pending.remove(&join.member).is_some() {
            self.add(now, join.member.clone(), join, held, reply.take());
            return Ok(());
        }
        if !self.members.contains_key(&join.member) {
            return Err((ResponseError::UnknownMemberId, join.member));
        }
        self.rejoin(now, join, held, reply.take());
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
        held: Held,
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
            held,
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

    fn rejoin(
        &mut self,
        now: Instant,
        join: Join,
        held: Held,
        reply: Option<oneshot::Sender<JoinReply>>,
    ) {
        let is_leader = self.leader.as_ref() == Some(&join.member);
        let Some(member) = self.members.get_mut(&join.member) else { return };
        let same = member.protocols == join.protocols;
        member.deadline = now + join.session;
        (member.session, member.rebalance) = (join.session, join.rebalance);
        (member.protocols, member.held) = (join.protocols, held);
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
        held: Held,
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
        (member.protocols, member.held) = (join.protocols, held);
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
                let leads = self.leader.as_deref() == Some(who.member);
                let said: usize = assignments.iter().map(|(id, to)| id.len() + to.len()).sum();
                if leads {
                    self.held = self.room.hold(said);
                    if self.held.is_none() {
                        drop(reply.send(Err(ResponseError::GroupMaxSizeReached)));
                        return;
                    }
                }
                let Some(member) = self.members.get_mut(who.member) else { return };
                member.synced = true;
                member.sync = Some(reply);
                if leads {
                    self.assign(now, assignments);
                }
            }
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

    pub(super) fn remove(&mut self, now: Instant, id: &str) {
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

    pub(super) fn touch(&mut self, now: Instant, id: &str) {
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

impl Join {
    /// About what a member that says this takes.
    fn bytes(&self) -> usize {
        let instance = self.instance.as_ref().map_or(0, String::len);
        let protocols = self.protocols.iter();
        let protocols: usize = protocols.map(|(name, said)| 64 + name.len() + said.len()).sum();
        MEMBER_BYTES + 2 * self.client.len() + self.kind.len() + instance + protocols
    }
}

impl Member {
    /// It waits for an answer, and its connection is there.
    pub(super) fn waits(&self) -> bool {
        self.join.as_ref().is_some_and(|join| !join.is_closed())
            || self.sync.as_ref().is_some_and(|sync| !sync.is_closed())
    }

    pub fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }
}
