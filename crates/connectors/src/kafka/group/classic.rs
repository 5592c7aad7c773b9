//! The classic group protocol with cooperative rebalancing: join, sync, heartbeat.
//!
//! ```text
//!  join ─► (leader: assign) ─► sync ─► give up what went elsewhere ─► join again
//!    ▲                           └───► take in what came ─► heartbeat ─┐
//!    └───────────────────── the group is being shared out anew ◄───────┘
//! ```

use super::super::cluster::moved;
use super::super::error::{
    COORDINATOR_LOADING, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, MEMBER_ID_REQUIRED,
    REBALANCE_IN_PROGRESS, UNKNOWN_MEMBER_ID, answered,
};
use super::super::fetcher::Backoff;
use super::assignor::{Candidate, TopicPartition, assign};
use super::ours::Member;
use super::{Context, Ended, FENCED, LEAVE_WITHIN};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Assigned;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as Owned;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, HeartbeatRequest, JoinGroupRequest,
    LeaveGroupRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millstream_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "cooperative-sticky";
/// The version of our subscriptions: 2 has the generation in which partitions came to be owned.
const SUBSCRIPTION_VERSION: i16 = 2;
const ASSIGNMENT_VERSION: i16 = 1;

/// What the coordinator said to a step.
pub(super) enum Step<T> {
    Done(T),
    /// Join anew, as the member we are.
    Rejoin,
    /// We are not a member any more.
    Forgotten,
}

struct Joined {
    generation: i32,
    protocol: String,
    /// Everybody, when it is ours to share out.
    members: Option<Vec<JoinGroupResponseMember>>,
}

impl Context {
    pub(super) async fn run_classic(self: &Arc<Self>) -> Ended {
        let mut backoff = Backoff::new();
        let mut member_id = String::new();
        self.ours.set_member(Member::default());
        while !self.stop.is_cancelled() {
            let round = tokio::select! {
                round = self.round(&mut member_id) => round,
                () = self.stop.cancelled() => break,
            };
            match round {
                Ok(Step::Done(()) | Step::Rejoin) => {
                    self.trouble.goes_on(0);
                    backoff = Backoff::new();
                }
                Ok(Step::Forgotten) => {
                    self.lose_all();
                    member_id.clear();
                    self.ours.set_member(Member::default());
                }
                Err(error) if error.kind() == FENCED => return Ended::Fenced(error),
                Err(error) => self.failed(error, &mut backoff).await,
            }
        }
        self.leave_classic(&member_id).await;
        Ended::Left
    }

    /// From a join to the moment when the next one is due.
    async fn round(self: &Arc<Self>, member_id: &mut String) -> Result<Step<()>> {
        let subscribed = self.subscribed.borrow().clone();
        self.lose_what_is_gone(&subscribed);
        let joined = match self.join_classic(member_id).await? {
            Step::Done(joined) => joined,
            Step::Rejoin => return Ok(Step::Rejoin),
            Step::Forgotten => return Ok(Step::Forgotten),
        };
        let assignments = match &joined.members {
            Some(members) => self.share_out(members).await?,
            None => Vec::new(),
        };
        let leads = joined.members.is_some();
        let target = match self.sync(member_id, &joined, assignments).await? {
            Step::Done(target) => target,
            Step::Rejoin => return Ok(Step::Rejoin),
            Step::Forgotten => return Ok(Step::Forgotten),
        };
        self.ours.set_member(Member { id: member_id.clone(), generation: joined.generation });

        let owned = self.ours.owned();
        let revoked: BTreeSet<_> = owned.difference(&target).cloned().collect();
        self.take_in(target.difference(&owned).cloned());
        let rejoin = !revoked.is_empty();
        let revoking = self.clone().revoke(revoked, self.release_within());
        self.stay(member_id, joined.generation, leads, rejoin, revoking).await
    }

    /// Heartbeats until something asks for another round.
    pub(super) async fn stay(
        &self,
        member_id: &str,
        generation: i32,
        leads: bool,
        rejoin: bool,
        revoking: impl Future<Output = ()> + Send,
    ) -> Result<Step<()>> {
        let every = (self.options.session_timeout / 3).min(Duration::from_secs(3));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscribed = self.subscribed.clone();
        let before = subscribed.borrow_and_update().clone();
        let revoking = revoking.fuse();
        tokio::pin!(revoking);
        let mut given_up = false;
        let mut due = false;
        loop {
            if given_up && (due || rejoin) {
                return Ok(Step::Rejoin);
            }
            tokio::select! {
                () = &mut revoking, if !given_up => {
                    given_up = true;
                    continue;
                }
                _ = ticks.tick() => {}
                () = self.ours.poke.notified() => {}
                changed = subscribed.changed() => {
                    if changed.is_err() {
                        return Ok(Step::Rejoin);
                    }
                    let now = subscribed.borrow_and_update().clone();
                    let remade = now.topics.iter().any(|(name, topic)| {
                        before.topics.get(name).is_some_and(|old| old.id != topic.id)
                    });
                    // The leader shares new partitions out; the others follow.
                    due |= leads || remade || now.names() != before.names();
                    continue;
                }
            }
            match self.heartbeat(member_id, generation).await {
                Ok(Step::Done(())) => self.trouble.goes_on(0),
                Ok(Step::Rejoin) => due = true,
                Ok(Step::Forgotten) => return Ok(Step::Forgotten),
                // What the engine is giving up must be gone before a round counts what is owned.
                Err(error) if !given_up && error.kind() != FENCED => {
                    self.trouble.waits(0, &error);
                    self.forget_coordinator();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn join_classic(&self, member_id: &mut String) -> Result<Step<Joined>> {
        let doing = || format!("joining group `{}`", self.options.group);
        let connection = self.coordinator(self.purpose).await?;
        let version = connection.version::<JoinGroupRequest>(9)?;
        let request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(self.options.session_timeout.as_millis() as i32)
            .with_rebalance_timeout_ms(self.options.rebalance_timeout.as_millis() as i32)
            .with_member_id(StrBytes::from_string(member_id.clone()))
            .with_group_instance_id(self.instance())
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![
                JoinGroupRequestProtocol::default()
                    .with_name(StrBytes::from_static_str(ASSIGNOR))
                    .with_metadata(self.describe()?),
            ]);
        let within = self.options.rebalance_timeout + self.cluster.timeout();
        let response = connection.call(&request, version, within).await?;
        match response.error_code {
            0 => {}
            MEMBER_ID_REQUIRED => {
                *member_id = response.member_id.as_str().to_owned();
                return Ok(Step::Rejoin);
            }
            UNKNOWN_MEMBER_ID | ILLEGAL_GENERATION => return Ok(Step::Forgotten),
            REBALANCE_IN_PROGRESS => return Ok(Step::Rejoin),
            FENCED_INSTANCE_ID => return Err(self.fenced()),
            code => return Err(answered(doing(), code)),
        }
        *member_id = response.member_id.as_str().to_owned();
        let leads = response.leader == response.member_id && !response.skip_assignment;
        Ok(Step::Done(Joined {
            generation: response.generation_id,
            protocol: response.protocol_name.unwrap_or_default().as_str().to_owned(),
            members: leads.then_some(response.members),
        }))
    }

    async fn sync(
        &self,
        member_id: &str,
        joined: &Joined,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Step<BTreeSet<TopicPartition>>> {
        let doing = || format!("taking up partitions of group `{}`", self.options.group);
        let connection = self.coordinator(self.purpose).await?;
        let version = connection.version::<SyncGroupRequest>(5)?;
        let mut request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(joined.generation)
            .with_member_id(StrBytes::from_string(member_id.to_owned()))
            .with_group_instance_id(self.instance())
            .with_assignments(assignments);
        if version >= 5 {
            request = request
                .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
                .with_protocol_name(Some(StrBytes::from_string(joined.protocol.clone())));
        }
        let within = self.options.rebalance_timeout + self.cluster.timeout();
        let response = connection.call(&request, version, within).await?;
        match response.error_code {
            0 => Ok(Step::Done(assigned(response.assignment)?)),
            UNKNOWN_MEMBER_ID | ILLEGAL_GENERATION => Ok(Step::Forgotten),
            REBALANCE_IN_PROGRESS => Ok(Step::Rejoin),
            FENCED_INSTANCE_ID => Err(self.fenced()),
            code => Err(answered(doing(), code)),
        }
    }

    async fn heartbeat(&self, member_id: &str, generation: i32) -> Result<Step<()>> {
        let connection = self.coordinator(self.purpose).await?;
        let version = connection.version::<HeartbeatRequest>(4)?;
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(generation)
            .with_member_id(StrBytes::from_string(member_id.to_owned()))
            .with_group_instance_id(self.instance());
        let response = connection.call(&request, version, self.cluster.timeout()).await?;
        match response.error_code {
            0 => Ok(Step::Done(())),
            REBALANCE_IN_PROGRESS => Ok(Step::Rejoin),
            UNKNOWN_MEMBER_ID | ILLEGAL_GENERATION => Ok(Step::Forgotten),
            // The membership outlives its coordinator's move.
            code if moved(code) || code == COORDINATOR_LOADING => {
                self.forget_coordinator();
                Ok(Step::Done(()))
            }
            FENCED_INSTANCE_ID => Err(self.fenced()),
            code => Err(answered("keeping the place in the group", code)),
        }
    }

    async fn leave_classic(&self, member_id: &str) {
        // One with a name of its own comes back, and finds its partitions as they were.
        if member_id.is_empty() || self.options.instance.is_some() {
            return;
        }
        let leaving = async {
            let connection = self.coordinator(self.purpose).await?;
            let version = connection.version::<LeaveGroupRequest>(5)?;
            let id = StrBytes::from_string(member_id.to_owned());
            let request = LeaveGroupRequest::default().with_group_id(self.group_id());
            let request = match version {
                3.. => request.with_members(vec![MemberIdentity::default().with_member_id(id)]),
                _ => request.with_member_id(id),
            };
            connection.call(&request, version, LEAVE_WITHIN).await
        };
        if let Err(error) = leaving.await {
            tracing::debug!("group `{}`: leaving: {}", self.options.group, error.chain());
        }
    }

    pub(super) fn group_id(&self) -> kafka_protocol::messages::GroupId {
        StrBytes::from_string(self.options.group.clone()).into()
    }

    /// What we read and what we have, as the leader gets to see it.
    fn describe(&self) -> Result<Bytes> {
        let mut owned: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for (topic, index) in self.ours.owned() {
            owned.entry(topic).or_default().push(index);
        }
        let topics = self.subscribed.borrow().names();
        let subscription = ConsumerProtocolSubscription::default()
            .with_topics(topics.iter().map(|t| StrBytes::from_string(t.to_string())).collect())
            .with_owned_partitions(
                owned
                    .into_iter()
                    .map(|(topic, partitions)| {
                        Owned::default().with_topic(name(&topic)).with_partitions(partitions)
                    })
                    .collect(),
            )
            .with_generation_id(self.ours.member().generation);
        versioned(&subscription, SUBSCRIPTION_VERSION)
    }

    /// The leader's part: who gets what.
    async fn share_out(
        &self,
        members: &[JoinGroupResponseMember],
    ) -> Result<Vec<SyncGroupRequestAssignment>> {
        let mut candidates = BTreeMap::new();
        let mut topics: BTreeSet<Arc<str>> = BTreeSet::new();
        for member in members {
            let candidate = candidate(member.metadata.clone())?;
            topics.extend(candidate.topics.iter().cloned());
            candidates.insert(member.member_id.as_str().to_owned(), candidate);
        }
        let topics: Vec<_> = topics.into_iter().collect();
        let known = match topics.is_empty() {
            true => BTreeMap::new(),
            false => self.cluster.refresh(Some(&topics)).await?,
        };
        let counts =
            known.into_iter().map(|(name, topic)| (name, topic.partitions.len() as i32)).collect();
        let mut assignments = Vec::new();
        for (member, partitions) in assign(&candidates, &counts) {
            let mut by_topic: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
            for (topic, index) in partitions {
                by_topic.entry(topic).or_default().push(index);
            }
            let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(
                by_topic
                    .into_iter()
                    .map(|(topic, partitions)| {
                        Assigned::default().with_topic(name(&topic)).with_partitions(partitions)
                    })
                    .collect(),
            );
            assignments.push(
                SyncGroupRequestAssignment::default()
                    .with_member_id(StrBytes::from_string(member))
                    .with_assignment(versioned(&assignment, ASSIGNMENT_VERSION)?),
            );
        }
        Ok(assignments)
    }
}

fn name(topic: &str) -> TopicName {
    super::super::cluster::topic_name(topic)
}

/// The messages inside the group's messages begin with their version.
fn versioned(message: &impl Encodable, version: i16) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(version);
    message
        .encode(&mut bytes, version)
        .map_err(|e| Error::stop("protocol", format!("writing a group's message: {e}")))?;
    Ok(bytes.freeze())
}

fn candidate(mut metadata: Bytes) -> Result<Candidate> {
    let read = |e| Error::retry("protocol", format!("a member's subscription cannot be read: {e}"));
    let version = version_of(&mut metadata)?.min(3);
    let told = ConsumerProtocolSubscription::decode(&mut metadata, version).map_err(read)?;
    let owned = told.owned_partitions.iter().flat_map(|owned| {
        let topic: Arc<str> = owned.topic.as_str().into();
        owned.partitions.iter().map(move |index| (topic.clone(), *index))
    });
    Ok(Candidate {
        topics: told.topics.iter().map(|topic| topic.as_str().into()).collect(),
        owned: owned.collect(),
        generation: told.generation_id,
    })
}

fn assigned(mut assignment: Bytes) -> Result<BTreeSet<TopicPartition>> {
    if assignment.is_empty() {
        return Ok(BTreeSet::new());
    }
    let version = version_of(&mut assignment)?.min(3);
    let told = ConsumerProtocolAssignment::decode(&mut assignment, version)
        .map_err(|e| Error::retry("protocol", format!("the assignment cannot be read: {e}")))?;
    let partitions = told.assigned_partitions.iter().flat_map(|assigned| {
        let topic: Arc<str> = assigned.topic.as_str().into();
        assigned.partitions.iter().map(move |index| (topic.clone(), *index))
    });
    Ok(partitions.collect())
}

fn version_of(bytes: &mut Bytes) -> Result<i16> {
    match bytes.len() {
        0 | 1 => Err(Error::retry("protocol", "a group's message has no version")),
        _ => Ok(bytes.get_i16().max(0)),
    }
}
