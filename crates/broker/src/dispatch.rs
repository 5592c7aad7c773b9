//! From a request to who answers it.

use crate::broker::Inner;
use crate::failures::Failures;
use crate::sasl::{self, Session};
use crate::shape::APIS;
use crate::wire::{Answer, Refused, Request};
use crate::{cluster, configs, fetch, groups, list_offsets, produce, topics, transactions};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A request that was begun, or waits for its turn.
pub struct Pending {
    begun: bool,
    finish: BoxFuture<'static, Result<Option<Answered>, Refused>>,
}

pub struct Answered {
    pub answer: Answer,
    /// The errors that it tells, to be counted.
    pub failures: Vec<i16>,
    /// The answer's share of a budget.
    pub permit: Option<OwnedSemaphorePermit>,
    /// The connection ends after it.
    pub last: bool,
}

impl Pending {
    pub fn ready(answered: Answered) -> Pending {
        Pending::begun(async { Some(answered) })
    }

    /// What remains of a request that has no more use for its own bytes.
    pub fn begun(finish: impl Future<Output = Option<Answered>> + Send + 'static) -> Pending {
        Pending { begun: true, finish: finish.map(Ok).boxed() }
    }

    /// A request that does nothing before its turn. It is decoded then, since that takes many times
    /// the room of its bytes, which are all that is counted.
    pub fn later(
        finish: impl Future<Output = Result<Answered, Refused>> + Send + 'static,
    ) -> Pending {
        Pending { begun: false, finish: finish.map(|done| done.map(Some)).boxed() }
    }

    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// `None` where the client waits for no answer. An error ends the connection.
    pub async fn finish(self) -> Result<Option<Answered>, Refused> {
        self.finish.await
    }
}

impl Answered {
    pub fn new<R: Encodable + HeaderVersion + Failures>(
        request: &Request,
        response: &R,
    ) -> Answered {
        Answered::with(request.answer(response), response.failures())
    }

    pub fn with(answer: Answer, failures: Vec<i16>) -> Answered {
        Answered { answer, failures, permit: None, last: false }
    }
}

/// Does what must be done in the order of the requests, and gives what is left to do.
pub async fn begin(
    broker: &Arc<Inner>,
    session: &mut Session,
    request: Request,
) -> Result<Pending, Refused> {
    match (request.api.key, session.is_open()) {
        (17, _) => return sasl::handshake(broker, session, &request),
        (18, _) => return Ok(Pending::ready(api_versions(&request))),
        (36, _) => return sasl::authenticate(broker, session, &request).await,
        (_, false) => {
            return Err(Refused::Unreadable {
                name: request.api.name,
                version: request.version,
                why: "the client has not shown who it is".to_owned(),
            });
        }
        _ => {}
    }
    let broker = broker.clone();
    let ends = session.ends;
    match request.api.key {
        0 => produce::begin(&broker, request).await,
        1 => fetch::begin(broker, ends, request),
        2 => later(request, async move |q, v| list_offsets::list(&broker, q, v).await),
        3 => later(request, async move |q, v| cluster::metadata(&broker, ends, q, v).await),
        8 => groups::offsets::commit(&broker, request),
        9 => later(request, async move |q, v| groups::offsets::fetch(&broker, q, v)),
        10 => later(request, async move |q, v| cluster::find_coordinator(&broker, ends, q, v)),
        11 => {
            let client = groups::Client { id: request.client_id.clone(), ends };
            later(request, async move |q, v| groups::classic::join(&broker, client, q, v).await)
        }
        12 => later(request, async move |q, _| groups::classic::heartbeat(&broker, q)),
        13 => later(request, async move |q, v| groups::classic::leave(&broker, q, v)),
        14 => later(request, async move |q, _| groups::classic::sync(&broker, q).await),
        15 => later(request, async move |q, v| groups::describe::describe(&broker, q, v)),
        16 => later(request, async move |q, _| groups::describe::list(&broker, q)),
        19 => later(request, async move |q, v| topics::create(&broker, q, v).await),
        20 => later(request, async move |q, v| topics::delete(&broker, q, v).await),
        21 => later(request, async move |q, _| topics::delete_records(&broker, q).await),
        22 => later(request, async move |q, _| produce::init_producer_id(&broker, q).await),
        23 => later(request, async move |q, _| list_offsets::leader_epochs(&broker, q)),
        24 => later(request, async move |q, v| transactions::add_partitions(q, v)),
        25 => later(request, async move |q, _| transactions::add_offsets(q)),
        26 => later(request, async move |q, _| transactions::end(q)),
        28 => later(request, async move |q, _| transactions::commit_offsets(q)),
        29 => later(request, async move |_: DescribeAclsRequest, _| cluster::describe_acls()),
        30 => later(request, async move |q, _| cluster::create_acls(q)),
        31 => later(request, async move |q, _| cluster::delete_acls(q)),
        32 => later(request, async move |q, _| configs::describe(&broker, q)),
        33 => later(request, async move |q, _| configs::alter(&broker, q).await),
        37 => later(request, async move |q, _| topics::create_partitions(&broker, q).await),
        42 => later(request, async move |q, _| groups::describe::delete(&broker, q).await),
        44 => later(request, async move |q, _| configs::alter_some(&broker, q).await),
        47 => later(request, async move |q, _| groups::offsets::delete(&broker, q).await),
        60 => later(request, async move |q, v| cluster::describe(&broker, ends, q, v)),
        68 => {
            let client = groups::Client { id: request.client_id.clone(), ends };
            later(request, async move |q, _| groups::modern::heartbeat(&broker, client, q))
        }
        69 => later(request, async move |q, _| groups::modern::describe(&broker, q)),
        75 => later(request, async move |q, _| cluster::topic_partitions(&broker, q)),
        key => Err(Refused::Key(key)),
    }
}

/// A request of a known kind that is answered when its turn comes.
fn later<Q, R, W, F>(request: Request, work: W) -> Result<Pending, Refused>
where
    Q: Decodable + Send + 'static,
    R: Encodable + HeaderVersion + Failures,
    W: FnOnce(Q, i16) -> F + Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    Ok(Pending::later(async move {
        let (decoded, request) = request.take::<Q>()?;
        let response = work(decoded, request.version).await;
        Ok(Answered::new(&request, &response))
    }))
}

fn api_versions(request: &Request) -> Answered {
    Answered::new(request, &ApiVersionsResponse::default().with_api_keys(versions()))
}

/// In version 0, which says what there is.
pub fn unknown_api_versions(correlation: i32) -> Answered {
    let response = ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(versions());
    Answered::with(Answer::of(correlation, 0, &response), response.failures())
}

fn versions() -> Vec<ApiVersion> {
    let listed = APIS.iter().filter(|api| api.listed).map(|api| {
        // Some clients look for version 0 of Produce to know what codecs a broker takes; they never
        // send it.
        let min = if api.key == 0 { 0 } else { api.min };
        ApiVersion::default().with_api_key(api.key).with_min_version(min).with_max_version(api.max)
    });
    listed.collect()
}

/// Decodes a frame as a connection would. True when it is a request.
pub fn decode_only(frame: Bytes) -> bool {
    let Ok(request) = Request::read(frame) else { return false };
    fn decodes<Q: Decodable>(request: &Request) -> bool {
        request.decode::<Q>().is_ok()
    }
    let decode: fn(&Request) -> bool = match request.api.key {
        0 => decodes::<ProduceRequest>,
        1 => decodes::<FetchRequest>,
        2 => decodes::<ListOffsetsRequest>,
        3 => decodes::<MetadataRequest>,
        8 => decodes::<OffsetCommitRequest>,
        9 => decodes::<OffsetFetchRequest>,
        10 => decodes::<FindCoordinatorRequest>,
        11 => decodes::<JoinGroupRequest>,
        12 => decodes::<HeartbeatRequest>,
        13 => decodes::<LeaveGroupRequest>,
        14 => decodes::<SyncGroupRequest>,
        15 => decodes::<DescribeGroupsRequest>,
        16 => decodes::<ListGroupsRequest>,
        17 => decodes::<SaslHandshakeRequest>,
        18 => decodes::<ApiVersionsRequest>,
        19 => decodes::<CreateTopicsRequest>,
        20 => decodes::<DeleteTopicsRequest>,
        21 => decodes::<DeleteRecordsRequest>,
        22 => decodes::<InitProducerIdRequest>,
        23 => decodes::<OffsetForLeaderEpochRequest>,
        24 => decodes::<AddPartitionsToTxnRequest>,
        25 => decodes::<AddOffsetsToTxnRequest>,
        26 => decodes::<EndTxnRequest>,
        28 => decodes::<TxnOffsetCommitRequest>,
        29 => decodes::<DescribeAclsRequest>,
        30 => decodes::<CreateAclsRequest>,
        31 => decodes::<DeleteAclsRequest>,
        32 => decodes::<DescribeConfigsRequest>,
        33 => decodes::<AlterConfigsRequest>,
        36 => decodes::<SaslAuthenticateRequest>,
        37 => decodes::<CreatePartitionsRequest>,
        42 => decodes::<DeleteGroupsRequest>,
        44 => decodes::<IncrementalAlterConfigsRequest>,
        47 => decodes::<OffsetDeleteRequest>,
        60 => decodes::<DescribeClusterRequest>,
        68 => decodes::<ConsumerGroupHeartbeatRequest>,
        69 => decodes::<ConsumerGroupDescribeRequest>,
        75 => decodes::<DescribeTopicPartitionsRequest>,
        _ => return false,
    };
    decode(&request)
}
