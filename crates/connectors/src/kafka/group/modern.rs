//! The newer group protocol (KIP-848): the coordinator assigns, a heartbeat carries everything.
//!
//! ```text
//!  heartbeat ──► this is yours ──► give up the rest ──► heartbeat: this is what I have ──► …
//!                                  take in what came
//! ```

use super::super::cluster::moved;
use super::super::error::{
    FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH, GROUP_ID_NOT_FOUND, INVALID_REQUEST,
    UNKNOWN_MEMBER_ID, UNRELEASED_INSTANCE_ID, UNSUPPORTED_VERSION, answered,
};
use super::super::fetcher::Backoff;
use super::assignor::TopicPartition;
use super::ours::Member;
use super::{Context, Ended, LEAVE_WITHIN};
use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Joins, leaves, and leaves for a while, in place of an epoch.
const JOIN: i32 = 0;
const LEAVE: i32 = -1;
const LEAVE_FOR_A_WHILE: i32 = -2;

/// What we told the coordinator last, and what it told us.
struct Talk {
    id: String,
    epoch: i32,
    /// Everything has to be told, not only what changed.
    all: bool,
    told_topics: BTreeSet<Arc<str>>,
    told_owned: BTreeSet<TopicPartition>,
    /// The same of a heartbeat that was not answered yet.
    telling: (BTreeSet<Arc<str>>, BTreeSet<TopicPartition>),
    /// What is to become ours, by the topics' ids: one of a topic that is gone is never taken for
    /// its successor's.
    assignment: Option<Assignment>,
    every: Duration,
    revoking: Option<BoxFuture<'static, ()>>,
}

impl Context {
    pub(super) async fn run_modern(self: &Arc<Self>) -> Ended {
        let mut backoff = Backoff::new();
        let mut talk = Talk::new();
        let mut taken_since = None;
        while !self.stop.is_cancelled() {
            let request = self.request(&mut talk);
            let beat = tokio::select! {
                beat = self.beat(request) => beat,
                () = self.stop.cancelled() => break,
            };
            match beat {
                Ok(response) if response.error_code == 0 => {
                    self.trouble.goes_on(0);
                    backoff = Backoff::new();
                    self.heard(&mut talk, response);
                }
                Ok(response) => match response.error_code {
                    FENCED_MEMBER_EPOCH | UNKNOWN_MEMBER_ID => {
                        self.lose_all();
                        talk = Talk { id: talk.id, ..Talk::new() };
                        continue;
                    }
                    FENCED_INSTANCE_ID => return Ended::Fenced(self.fenced()),
                    // One that died keeps it for as long as the broker waits for it.
                    UNRELEASED_INSTANCE_ID
                        if taken_since.get_or_insert_with(Instant::now).elapsed()
                            > self.options.session_timeout * 3 / 2 =>
                    {
                        return Ended::Fenced(self.fenced());
                    }
                    UNRELEASED_INSTANCE_ID => {
                        let told = format!(
                            "joining group `{}`: another process has our `instance`, or had it \
                             until it died",
                            self.options.group
                        );
                        self.failed(Error::retry("instance", told), &mut backoff).await;
                        continue;
                    }
                    code @ (UNSUPPORTED_VERSION | GROUP_ID_NOT_FOUND | INVALID_REQUEST)
                        if talk.epoch == JOIN =>
                    {
                        let why = response.error_message.map(|m| m.as_str().to_owned());
                        let why = why.unwrap_or_else(|| super::super::error::words(code));
                        return Ended::UseClassic(why);
                    }
                    code => {
                        if moved(code) {
                            self.forget_coordinator();
                        }
                        let doing = format!("keeping a place in group `{}`", self.options.group);
                        talk.all = true;
                        self.failed(answered(doing, code), &mut backoff).await;
                        continue;
                    }
                },
                Err(error) if error.kind() == "unsupported" => {
                    return Ended::UseClassic(error.to_string());
                }
                Err(error) => {
                    // What we told may not have arrived.
                    talk.all = true;
                    self.failed(error, &mut backoff).await;
                    continue;
                }
            }
            self.reconcile(&mut talk);
            let owned_is_new = talk.told_owned != self.ours.owned() && talk.revoking.is_none();
            if owned_is_new || talk.told_topics != self.subscribed.borrow().names() {
                continue;
            }
            self.wait(&mut talk).await;
        }
        let (id, epoch) = (talk.id, talk.epoch);
        self.leave_modern(id, epoch).await;
        Ended::Left
    }

    /// Waits for the next heartbeat's time, or for something to tell at once.
    async fn wait(self: &Arc<Self>, talk: &mut Talk) {
        let mut subscribed = self.subscribed.clone();
        subscribed.borrow_and_update();
        let mut revoking = talk.revoking.take();
        let mut done = false;
        tokio::select! {
            () = tokio::time::sleep(talk.every) => {}
            () = self.ours.poke.notified() => {}
            () = self.stop.cancelled() => {}
            _ = subscribed.changed() => {}
            () = async {
                match &mut revoking {
                    Some(revoking) => revoking.await,
                    None => std::future::pending().await,
                }
            } => done = true,
        }
        if !done {
            talk.revoking = revoking;
        }
        // Topics may have come, gone, or been made again.
        let now = self.subscribed.borrow().clone();
        self.lose_what_is_gone(&now);
        self.reconcile(talk);
    }

    async fn beat(
        &self,
        request: ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse> {
        let connection = self.coordinator(self.purpose).await?;
        let version = connection.version::<ConsumerGroupHeartbeatRequest>(1)?;
        if version < 1 {
            return Err(Error::stop(
                "unsupported",
                "the broker has a preview of the newer protocol only",
            ));
        }
        connection.call(&request, version, self.cluster.timeout()).await
    }

    fn request(&self, talk: &mut Talk) -> ConsumerGroupHeartbeatRequest {
        let topics = self.subscribed.borrow().names();
        let owned = match talk.epoch {
            JOIN => BTreeSet::new(),
            _ => self.ours.owned(),
        };
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_member_id(StrBytes::from_string(talk.id.clone()))
            .with_member_epoch(talk.epoch)
            .with_instance_id(self.instance())
            .with_rebalance_timeout_ms(-1)
            .with_topic_partitions(None);
        if talk.all {
            request = request
                .with_rebalance_timeout_ms(self.options.rebalance_timeout.as_millis() as i32);
        }
        if talk.all || topics != talk.told_topics {
            let named = |topic: &Arc<str>| TopicName(StrBytes::from_string(topic.to_string()));
            request = request.with_subscribed_topic_names(Some(topics.iter().map(named).collect()));
        }
        let tells_owned = talk.all || (owned != talk.told_owned && talk.revoking.is_none());
        if tells_owned {
            request = request.with_topic_partitions(Some(self.by_id(&owned)));
        }
        talk.telling = (topics, if tells_owned { owned } else { talk.told_owned.clone() });
        request
    }

    fn heard(self: &Arc<Self>, talk: &mut Talk, response: ConsumerGroupHeartbeatResponse) {
        // What has changed since the heartbeat was written is not told yet.
        (talk.told_topics, talk.told_owned) = std::mem::take(&mut talk.telling);
        talk.all = false;
        talk.epoch = response.member_epoch;
        talk.every =
            Duration::from_millis(response.heartbeat_interval_ms.clamp(100, 60_000) as u64);
        self.ours.set_member(Member { id: talk.id.clone(), generation: talk.epoch });
        if let Some(assignment) = response.assignment {
            talk.assignment = Some(assignment);
        }
    }

    fn target(&self, assignment: &Assignment) -> BTreeSet<TopicPartition> {
        let subscribed = self.subscribed.borrow().clone();
        let names: BTreeMap<Uuid, &Arc<str>> =
            subscribed.topics.iter().map(|(name, topic)| (topic.id, name)).collect();
        let mut target = BTreeSet::new();
        for topic in &assignment.topic_partitions {
            match names.get(&topic.topic_id) {
                Some(name) => {
                    target.extend(topic.partitions.iter().map(|index| ((*name).clone(), *index)));
                }
                // A new one that we have not heard of yet, or one that is gone.
                None => self.look.notify_one(),
            }
        }
        target
    }

    /// One step from what we have to what we are to have.
    fn reconcile(self: &Arc<Self>, talk: &mut Talk) {
        let Some(assignment) = talk.assignment.as_ref().filter(|_| talk.revoking.is_none()) else {
            return;
        };
        let target = &self.target(assignment);
        let owned = self.ours.owned();
        let revoked: BTreeSet<_> = owned.difference(target).cloned().collect();
        if !revoked.is_empty() {
            talk.revoking = Some(self.clone().revoke(revoked, self.release_within()).boxed());
            return;
        }
        self.take_in(target.difference(&owned).cloned());
    }

    fn by_id(&self, owned: &BTreeSet<TopicPartition>) -> Vec<TopicPartitions> {
        let subscribed = self.subscribed.borrow().clone();
        let mut by_id: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for (topic, index) in owned {
            if let Some(topic) = subscribed.topics.get(topic) {
                by_id.entry(topic.id).or_default().push(*index);
            }
        }
        by_id
            .into_iter()
            .map(|(id, partitions)| {
                TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
            })
            .collect()
    }

    async fn leave_modern(&self, id: String, epoch: i32) {
        if epoch == JOIN {
            return;
        }
        let leaving = async {
            let connection = self.coordinator(self.purpose).await?;
            let version = connection.version::<ConsumerGroupHeartbeatRequest>(1)?;
            let epoch = match self.options.instance {
                Some(_) => LEAVE_FOR_A_WHILE,
                None => LEAVE,
            };
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(self.group_id())
                .with_member_id(StrBytes::from_string(id))
                .with_instance_id(self.instance())
                .with_member_epoch(epoch)
                .with_rebalance_timeout_ms(-1)
                .with_topic_partitions(None);
            connection.call(&request, version, LEAVE_WITHIN).await
        };
        if let Err(error) = leaving.await {
            tracing::debug!("group `{}`: leaving: {}", self.options.group, error.chain());
        }
    }
}

impl Talk {
    fn new() -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            epoch: JOIN,
            all: true,
            told_topics: BTreeSet::new(),
            told_owned: BTreeSet::new(),
            telling: Default::default(),
            assignment: None,
            every: Duration::from_secs(3),
            revoking: None,
        }
    }
}
