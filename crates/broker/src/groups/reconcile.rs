//! The modern group (KIP-848): the server makes the assignment and walks each member to it.
//!
//! A new member, another subscription or a new partition raises the group's epoch and makes a new
//! target. A member first gives up what is not in its target and says so; then it has the group's
//! epoch, and gets what others have given up. A partition is never in two members' hands.
//!
//! No I/O and no clock: topics and the time are arguments.

use super::assign::{Assignor, Part, Parts, Subscriptions, Topics};
use super::room::{Held, Room};
use kafka_protocol::ResponseError;
use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::{Duration, Instant};

/// About what a member takes, and what its pattern takes, and at most.
const MEMBER_BYTES: usize = 1 << 10;
const PATTERN_BYTES: usize = 32 << 10;
const PROGRAM_BYTES_MAX: usize = 256 << 10;
const PATTERN_BYTES_MAX: usize = 4 << 10;

pub const JOIN: i32 = 0;
pub const LEAVE: i32 = -1;
/// A static member leaves and will be back.
pub const LEAVE_FOR_NOW: i32 = -2;

#[derive(Debug)]
pub struct Group {
    pub epoch: i32,
    pub members: BTreeMap<String, Member>,
    pub assignor: Assignor,
    target: BTreeMap<String, Parts>,
    /// What the target was made for.
    made_for: (Subscriptions, Topics, Assignor),
    owners: BTreeMap<Part, String>,
    session: Duration,
    members_max: usize,
    room: Room,
    /// The topics that were last looked at; none where members have changed since.
    planned: Option<u64>,
}

#[derive(Debug)]
pub struct Member {
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub client: String,
    pub host: String,
    pub topics: BTreeSet<String>,
    pub regex: Option<Regex>,
    pub epoch: i32,
    /// What it may read.
    pub assigned: Parts,
    previous_epoch: i32,
    assignor: Option<Assignor>,
    /// What it is to give up first.
    revoking: Parts,
    revoke_by: Option<Instant>,
    rebalance: Duration,
    deadline: Instant,
    /// What it was told last.
    told: Option<Parts>,
    away: bool,
    held: Option<Held>,
}

/// One heartbeat; what is `None` is as it was.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    pub member: String,
    pub epoch: i32,
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub client: String,
    pub host: String,
    pub rebalance: Option<Duration>,
    pub topics: Option<BTreeSet<String>>,
    pub regex: Option<String>,
    pub assignor: Option<String>,
    pub owned: Option<Parts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub epoch: i32,
    /// `None` where nothing has changed.
    pub assigned: Option<Parts>,
}

/// All topics by name, with the id and the partitions of each.
#[derive(Debug, Default)]
pub struct Known {
    /// Another one for other topics.
    pub revision: u64,
    pub topics: BTreeMap<String, (uuid::Uuid, i32)>,
}

type Refused = (ResponseError, &'static str);

impl Group {
    pub fn new(session: Duration, members_max: usize, room: Room) -> Group {
        Group {
            epoch: 0,
            members: BTreeMap::new(),
            assignor: Assignor::default(),
            target: BTreeMap::new(),
            made_for: Default::default(),
            owners: BTreeMap::new(),
            session,
            members_max,
            room,
            planned: None,
        }
    }

    pub fn heartbeat(&mut self, now: Instant, beat: Beat, known: &Known) -> Result<Told, Refused> {
        if beat.epoch == LEAVE || beat.epoch == LEAVE_FOR_NOW {
            return self.goes(now, &beat, known);
        }
        let full = beat.epoch == JOIN || (beat.topics.is_some() && beat.owned.is_some());
        if beat.epoch == JOIN {
            self.comes(now, &beat)?;
        } else {
            self.check(&beat)?;
        }
        if let Err(refused) = self.update(now, &beat) {
            // One that could not come in leaves nothing behind.
            if beat.epoch == JOIN {
                self.remove(&beat.member);
            }
            return Err(refused);
        }
        self.plan(known);
        self.reconcile(now, &beat);
        let Some(member) = self.members.get_mut(&beat.member) else {
            return Err((ResponseError::UnknownMemberId, "the member is not in the group"));
        };
        let changed = member.told.as_ref() != Some(&member.assigned);
        member.told = Some(member.assigned.clone());
        Ok(Told {
            epoch: member.epoch,
            assigned: (full || changed).then(|| member.assigned.clone()),
        })
    }

    fn check(&self, beat: &Beat) -> Result<(), Refused> {
        let Some(member) = self.members.get(&beat.member) else {
            return Err((ResponseError::UnknownMemberId, "the member is not in the group"));
        };
        if let Some(instance) = &beat.instance
            && member.instance.as_ref() != Some(instance)
        {
            return Err((ResponseError::FencedInstanceId, "another member has this instance id"));
        }
        // The answer that raised the epoch may have been lost.
        let retried = beat.epoch == member.previous_epoch
            && beat.owned.as_ref().is_none_or(|owned| owned.is_subset(&member.assigned));
        match beat.epoch == member.epoch || retried {
            true => Ok(()),
            false => Err((
                ResponseError::FencedMemberEpoch,
                "the member's epoch is not the one that the group gave it: it must join again",
            )),
        }
    }

    fn comes(&mut self, now: Instant, beat: &Beat) -> Result<(), Refused> {
        if beat.topics.is_none() && beat.regex.is_none() {
            return Err((ResponseError::InvalidRequest, "a member joins with a subscription"));
        }
        if let Some(instance) = &beat.instance {
            let holds = |member: &&Member| member.instance.as_ref() == Some(instance);
            let holder = self.members.iter().find(|(_, member)| holds(member));
            if let Some((id, member)) = holder
                && *id != beat.member
            {
                if !member.away {
                    return Err((
                        ResponseError::UnreleasedInstanceId,
                        "another member has this instance id and has not left",
                    ));
                }
                let old = id.clone();
                self.rename(&old, &beat.member);
            }
        }
        if let Some(member) = self.members.get_mut(&beat.member) {
            // Whatever it had, it holds nothing now.
            let held: Vec<Part> = member.assigned.union(&member.revoking).copied().collect();
            member.assigned.clear();
            member.revoking.clear();
            member.revoke_by = None;
            member.told = None;
            (member.epoch, member.previous_epoch, member.away) = (JOIN, JOIN, false);
            held.iter().for_each(|part| drop(self.owners.remove(part)));
            return Ok(());
        }
        if self.members.len() >= self.members_max {
            return Err((ResponseError::GroupMaxSizeReached, "the group has no room"));
        }
        let member = Member {
            instance: beat.instance.clone(),
            rack: None,
            client: String::new(),
            host: String::new(),
            topics: BTreeSet::new(),
            regex: None,
            epoch: JOIN,
            previous_epoch: JOIN,
            assignor: None,
            assigned: Parts::new(),
            revoking: Parts::new(),
            revoke_by: None,
            rebalance: self.session,
            deadline: now + self.session,
            told: None,
            away: false,
            held: None,
        };
        self.planned = None;
        self.members.insert(beat.member.clone(), member);
        Ok(())
    }

    /// A static member's place goes to its new id.
    fn rename(&mut self, old: &str, new: &str) {
        self.planned = None;
        let Some(member) = self.members.remove(old) else { return };
        self.members.insert(new.to_owned(), member);
        if let Some(target) = self.target.remove(old) {
            self.target.insert(new.to_owned(), target);
        }
        for owner in self.owners.values_mut().filter(|owner| *owner == old) {
            *owner = new.to_owned();
        }
        if let Some(subscription) = self.made_for.0.remove(old) {
            self.made_for.0.insert(new.to_owned(), subscription);
        }
    }

    fn goes(&mut self, now: Instant, beat: &Beat, known: &Known) -> Result<Told, Refused> {
        let told = Told { epoch: beat.epoch, assigned: None };
        let Some(member) = self.members.get_mut(&beat.member) else {
            return Err((ResponseError::UnknownMemberId, "the member is not in the group"));
        };
        if beat.epoch == LEAVE_FOR_NOW && member.instance.is_some() {
            member.away = true;
            member.deadline = now + self.session;
            return Ok(told);
        }
        self.remove(&beat.member);
        self.plan(known);
        Ok(told)
    }

    pub fn leave(
        &mut self,
        _now: Instant,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ResponseError> {
        let by_instance = self
            .members
            .iter()
            .find(|(_, found)| instance.is_some() && found.instance.as_deref() == instance);
        let id = by_instance.map_or(member.to_owned(), |(id, _)| id.clone());
        match self.members.contains_key(&id) {
            true => {
                self.remove(&id);
                Ok(())
            }
            false => Err(ResponseError::UnknownMemberId),
        }
    }

    fn remove(&mut self, id: &str) {
        self.planned = None;
        self.members.remove(id);
        self.target.remove(id);
        self.owners.retain(|_, owner| owner != id);
    }

    fn update(&mut self, now: Instant, beat: &Beat) -> Result<(), Refused> {
        let Some(member) = self.members.get_mut(&beat.member) else { return Ok(()) };
        member.deadline = now + self.session;
        // Also what it said before and keeps.
        let bytes = member.bytes_after(beat);
        let has_room = match &mut member.held {
            Some(held) => self.room.change(held, bytes),
            none => {
                *none = self.room.hold(bytes);
                none.is_some()
            }
        };
        if !has_room {
            return Err((ResponseError::GroupMaxSizeReached, "the groups have no room"));
        }
        (member.client, member.host) = (beat.client.clone(), beat.host.clone());
        if let Some(rebalance) = beat.rebalance {
            member.rebalance = rebalance;
        }
        if beat.rack.is_some() {
            member.rack = beat.rack.clone();
        }
        if beat.topics.is_some() || beat.regex.is_some() || beat.assignor.is_some() {
            self.planned = None;
        }
        if let Some(topics) = &beat.topics {
            member.topics = topics.clone();
        }
        match beat.regex.as_deref() {
            None => {}
            Some("") => member.regex = None,
            Some(pattern) => {
                let wrong =
                    (ResponseError::InvalidRegularExpression, "the pattern of topics is not one");
                if pattern.len() > PATTERN_BYTES_MAX {
                    return Err(wrong);
                }
                let mut whole = RegexBuilder::new(&format!("^(?:{pattern})$"));
                let whole = whole.size_limit(PROGRAM_BYTES_MAX).dfa_size_limit(PROGRAM_BYTES_MAX);
                member.regex = Some(whole.build().map_err(|_| wrong)?);
            }
        }
        match beat.assignor.as_deref() {
            None | Some("") => {}
            Some(name) => {
                let found = Assignor::of_name(name);
                member.assignor = Some(found.ok_or((
                    ResponseError::UnsupportedAssignor,
                    "there are the assignors uniform and range",
                ))?);
            }
        }
        Ok(())
    }

    /// Makes a new target when what it depends on has changed.
    fn plan(&mut self, known: &Known) {
        if self.planned == Some(known.revision) {
            return;
        }
        self.planned = Some(known.revision);
        let known = &known.topics;
        let subscriptions: Subscriptions = self
            .members
            .iter()
            .map(|(id, member)| {
                let wanted = known.iter().filter(|(name, _)| member.wants(name));
                (id.clone(), wanted.map(|(_, (topic, _))| *topic).collect())
            })
            .collect();
        let read: BTreeSet<_> = subscriptions.values().flatten().copied().collect();
        let topics: Topics = known.values().filter(|(id, _)| read.contains(id)).copied().collect();
        let mut votes: BTreeMap<&'static str, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.assignor) {
            *votes.entry(assignor.name()).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        let assignor = most.and_then(|(name, _)| Assignor::of_name(name)).unwrap_or_default();
        let made_for = (subscriptions, topics, assignor);
        if made_for == self.made_for && self.epoch > 0 {
            return;
        }
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.target = assignor.assign(&made_for.0, &made_for.1, &self.target);
        self.assignor = assignor;
        self.made_for = made_for;
    }

    fn reconcile(&mut self, now: Instant, beat: &Beat) {
        let Some(member) = self.members.get_mut(&beat.member) else { return };
        let target = self.target.get(&beat.member).cloned().unwrap_or_default();
        let gave_up = |owned: &Option<Parts>, revoking: &Parts| {
            owned.as_ref().is_some_and(|owned| owned.is_disjoint(revoking))
        };
        if !member.revoking.is_empty() && gave_up(&beat.owned, &member.revoking) {
            for part in std::mem::take(&mut member.revoking) {
                self.owners.remove(&part);
            }
            member.revoke_by = None;
        }
        if !member.revoking.is_empty() {
            return;
        }
        let surplus: Parts = member.assigned.difference(&target).copied().collect();
        if !surplus.is_empty() {
            member.assigned.retain(|part| target.contains(part));
            if !gave_up(&beat.owned, &surplus) {
                member.revoking = surplus;
                member.revoke_by = Some(now + member.rebalance);
                return;
            }
            surplus.iter().for_each(|part| drop(self.owners.remove(part)));
        }
        if member.epoch != self.epoch {
            (member.previous_epoch, member.epoch) = (member.epoch, self.epoch);
        }
        for part in target {
            let free = self.owners.get(&part).is_none_or(|owner| *owner == beat.member);
            if free {
                self.owners.insert(part, beat.member.clone());
                member.assigned.insert(part);
            }
        }
    }

    /// Whether a member may commit offsets now.
    pub fn may_commit(&mut self, member: &str, epoch: i32) -> Result<(), ResponseError> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        match self.members.get(member) {
            None => Err(ResponseError::UnknownMemberId),
            Some(found) if found.epoch == epoch => Ok(()),
            Some(_) => Err(ResponseError::StaleMemberEpoch),
        }
    }

    /// Does what is due, and says when to look again. New targets are made by the next heartbeats.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        let due = |member: &Member| {
            member.deadline <= now || member.revoke_by.is_some_and(|by| by <= now)
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, m)| due(m)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            tracing::info!(member = id, "a member of a group was silent too long");
            self.remove(&id);
        }
        let deadlines = self
            .members
            .values()
            .flat_map(|member| std::iter::once(member.deadline).chain(member.revoke_by));
        deadlines.min()
    }

    pub fn state_name(&self) -> &'static str {
        match self.members.is_empty() {
            true => "Empty",
            false if self.members.iter().all(|(id, member)| self.is_settled(id, member)) => {
                "Stable"
            }
            false => "Reconciling",
        }
    }

    fn is_settled(&self, id: &str, member: &Member) -> bool {
        member.epoch == self.epoch
            && member.revoking.is_empty()
            && self.target.get(id).is_none_or(|target| *target == member.assigned)
    }

    pub fn target_of(&self, id: &str) -> Parts {
        self.target.get(id).cloned().unwrap_or_default()
    }
}

impl Member {
    /// About what it takes once it has said this.
    fn bytes_after(&self, beat: &Beat) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let topics = beat.topics.as_ref().unwrap_or(&self.topics);
        let topics: usize = topics.iter().map(|name| 64 + name.len()).sum();
        let has_pattern = beat.regex.as_ref().map_or(self.regex.is_some(), |said| !said.is_empty());
        let pattern = if has_pattern { PATTERN_BYTES } else { 0 };
        let rack = if beat.rack.is_some() { len(&beat.rack) } else { len(&self.rack) };
        let names = beat.member.len() + beat.client.len() + len(&self.instance) + rack;
        MEMBER_BYTES + 2 * names + topics + pattern
    }

    fn wants(&self, topic: &str) -> bool {
        self.topics.contains(topic)
            || self.regex.as_ref().is_some_and(|regex| regex.is_match(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_keeps_counts_also_where_it_said_it_before() {
        let room = Room::new(PATTERN_BYTES + 4 * MEMBER_BYTES);
        let mut group = Group::new(Duration::from_secs(9), 9, room.clone());
        let (now, known) = (Instant::now(), Known::default());
        let beat = |epoch: i32| Beat { member: "m".to_owned(), epoch, ..Beat::default() };
        let joins = Beat { regex: Some("a.*".to_owned()), ..beat(JOIN) };
        let mut epoch = group.heartbeat(now, joins, &known).unwrap().epoch;
        let has_room = |bytes: usize| room.hold(bytes).is_some();
        assert!(!has_room(PATTERN_BYTES));
        let named = Beat { topics: Some(["t".to_owned()].into()), ..beat(epoch) };
        epoch = group.heartbeat(now, named, &known).unwrap().epoch;
        assert!(!has_room(PATTERN_BYTES), "it has its pattern still");
        let long = Beat { rack: Some("r".repeat(10 * MEMBER_BYTES)), ..beat(epoch) };
        let refused = group.heartbeat(now, long, &known).unwrap_err();
        assert_eq!(refused.0, ResponseError::GroupMaxSizeReached);
        let without = Beat { regex: Some(String::new()), ..beat(epoch) };
        group.heartbeat(now, without, &known).unwrap();
        assert!(has_room(PATTERN_BYTES));
    }
}
