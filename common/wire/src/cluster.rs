//! What is known of the cluster: its brokers, who leads which partition, who coordinates which group; and a connection to each
//! broker for everything but fetches.

use crate::api::Ask;
use crate::client::Config;
use crate::connection::{Connection, Fault, Limits};
use crate::{Error, Kind, Result};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait for the answer of a broker where any other could answer as well.
const ANY: Duration = Duration::from_secs(2);

/// The cluster, as one client sees it.
pub struct Cluster {
    pub config: Config,
    pub limits: Limits,
    /// host:port of each broker.
    addresses: BTreeMap<i32, String>,
    /// Leader of each partition of a topic.
    leaders: HashMap<String, Vec<Option<i32>>>,
    /// Topics whose leaders have perhaps moved.
    moved: HashSet<String>,
    coordinators: HashMap<String, String>,
    connections: HashMap<String, Connection>,
    /// Brokers that failed last time: asked last where any could answer.
    suspects: HashSet<String>,
    /// Which of `config.brokers` is asked first.
    turn: usize,
}

/// A broker that leads a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    pub id: i32,
    /// host:port.
    pub host: String,
}

impl Cluster {
    pub fn new(config: &Config) -> Self {
        Self {
            limits: Limits {
                connect: CONNECT.min(config.timeout),
                stop: config.stop.clone(),
                client_id: config.client_id,
                sasl: config.sasl.clone(),
            },
            config: config.clone(),
            addresses: BTreeMap::new(),
            leaders: HashMap::new(),
            moved: HashSet::new(),
            coordinators: HashMap::new(),
            connections: HashMap::new(),
            suspects: HashSet::new(),
            turn: 0,
        }
    }

    /// A connection to the broker at `host`, which may have yet to answer.
    pub fn connection(&mut self, host: &str) -> std::result::Result<&mut Connection, Fault> {
        if self.connections.get(host).is_some_and(Connection::is_stale) {
            self.connections.remove(host);
        }
        if !self.connections.contains_key(host) {
            let connection = Connection::open(host, &self.limits);
            let connection = connection.inspect_err(|_| {
                self.suspects.insert(host.to_owned());
            })?;
            self.connections.insert(host.to_owned(), connection);
        }
        Ok(self.connections.get_mut(host).expect("it is there or was put there"))
    }

    /// The connections to `hosts`, as far as there are.
    pub fn connected<'a>(&'a self, hosts: &'a [String]) -> impl Iterator<Item = &'a Connection> {
        hosts.iter().filter_map(|host| self.connections.get(host))
    }

    /// The broker at `host` wants to be left alone until then.
    pub fn pause_until(&self, host: &str) -> Option<Instant> {
        self.connections.get(host)?.pause_until()
    }

    /// After a fault: drops the connection.
    pub fn failed(&mut self, host: &str) {
        self.connections.remove(host);
        self.suspects.insert(host.to_owned());
    }

    /// After an answer.
    pub fn answered(&mut self, host: &str) {
        self.suspects.remove(host);
    }

    /// Asks the broker at `host`.
    pub fn ask<R: Ask>(
        &mut self,
        host: &str,
        request: &R,
        deadline: Instant,
    ) -> std::result::Result<R::Response, Fault> {
        let outcome = self.connection(host)?.call(request, deadline);
        match outcome {
            Ok(_) => self.answered(host),
            Err(_) => self.failed(host),
        }
        outcome
    }

    /// Asks one broker after the other, until one answers. Says which one it was.
    pub fn ask_any<R: Ask>(&mut self, what: &str, request: &R) -> Result<(String, R::Response)> {
        let mut refusals = Vec::new();
        for host in self.hosts() {
            let deadline = Instant::now() + ANY.min(self.config.timeout);
            match self.ask(&host, request, deadline) {
                Ok(reply) => return Ok((host, reply)),
                Err(fault) => {
                    let err = explain(what, Kind::Retry, &fault);
                    if err.kind == Kind::Config {
                        return Err(err);
                    }
                    refusals.push(err.text);
                }
            }
        }
        self.turn = (self.turn + 1) % brokers_len(&self.config);
        Err(retry(0, refusals.join("; ")))
    }

    /// All brokers, those last that did not answer the last time.
    fn hosts(&self) -> Vec<String> {
        let brokers = &self.config.brokers;
        let given = (0..brokers.len()).map(|i| &brokers[(self.turn + i) % brokers.len()]);
        let mut hosts: Vec<String> = given.cloned().collect();
        let known: Vec<&String> = self.addresses.values().collect();
        hosts.extend(known.into_iter().filter(|it| !brokers.contains(it)).cloned());
        hosts.sort_by_key(|host| self.suspects.contains(host));
        hosts
    }

    /// Loads the leaders of `topic` anew.
    pub fn load(&mut self, topic: &str) -> Result<&[Option<i32>]> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(false);
        let what = format!("load metadata of {topic}");
        let (host, reply) = self.ask_any(&what, &request)?;
        for broker in &reply.brokers {
            if let Ok(port) = u16::try_from(broker.port) {
                let name = broker.host.as_str();
                // An address of IPv6 is told from its port by brackets.
                let address = if name.contains(':') {
                    format!("[{name}]:{port}")
                } else {
                    format!("{name}:{port}")
                };
                self.addresses.insert(broker.node_id.0, address);
            }
        }
        let named = |it: &&MetadataResponseTopic| {
            it.name.as_ref().is_some_and(|name| name.0.as_str() == topic)
        };
        let text = |words: &str| format!("{what} at {host}: {words}");
        let Some(found) = reply.topics.iter().find(named) else {
            return Err(retry(0, text("it is left out of the answer")));
        };
        match ResponseError::try_from_code(found.error_code) {
            None | Some(ResponseError::LeaderNotAvailable) => {}
            Some(ResponseError::UnknownTopicOrPartition) => {
                let text =
                    format!("topic {topic} does not exist at {host}; the synchronizer creates it");
                return Err(retry(found.error_code, text));
            }
            Some(err) => {
                let kind = kind_of(Api::Other, found.error_code);
                return Err(Error { kind, code: found.error_code, text: text(&err.to_string()) });
            }
        }
        let mut leaders = vec![None; found.partitions.len()];
        for partition in &found.partitions {
            let index = usize::try_from(partition.partition_index).ok();
            let Some(leader) = index.and_then(|index| leaders.get_mut(index)) else {
                return Err(retry(0, text("its partitions are not counted from 0")));
            };
            let id = partition.leader_id.0;
            *leader = Some(id).filter(|id| self.addresses.contains_key(id));
        }
        if leaders.is_empty() {
            return Err(retry(0, text("it has no partitions")));
        }
        if leaders.iter().all(Option::is_some) {
            self.moved.remove(topic);
        }
        Ok(self.leaders.entry(topic.to_owned()).insert_entry(leaders).into_mut())
    }

    /// Who leads a partition, or did when that was last asked.
    pub fn known_leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        let index = usize::try_from(partition).ok()?;
        let id = (*self.leaders.get(topic)?.get(index)?)?;
        Some(Leader { id, host: self.addresses.get(&id)?.clone() })
    }

    /// The leaders of `topic` have moved, or may have: the cluster is asked before the next use.
    pub fn forget(&mut self, topic: &str) {
        self.moved.insert(topic.to_owned());
    }

    /// Is the cluster to be asked who leads `topic`?
    pub fn is_moved(&self, topic: &str) -> bool {
        self.moved.contains(topic)
    }

    /// The leader of each partition of `topic`, loaded anew.
    ///
    /// # Errors
    /// Not all have one.
    pub fn all_leaders(&mut self, topic: &str) -> Result<Vec<Leader>> {
        let count = self.load(topic)?.len();
        let leader = |partition| {
            self.known_leader(topic, partition).ok_or_else(|| no_leader(topic, partition))
        };
        (0..).take(count).map(leader).collect()
    }

    /// The group's coordinator as host:port.
    pub fn coordinator(&mut self, group: &str) -> Result<String> {
        if let Some(host) = self.coordinators.get(group) {
            return Ok(host.clone());
        }
        let request =
            FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let what = format!("find the coordinator of {group}");
        let (host, reply) = self.ask_any(&what, &request)?;
        if let Some(err) = ResponseError::try_from_code(reply.error_code) {
            let kind = kind_of(Api::Other, reply.error_code);
            let text = format!("{what} at {host}: {err}");
            return Err(Error { kind, code: reply.error_code, text });
        }
        let coordinator = format!("{}:{}", reply.host.as_str(), reply.port);
        self.coordinators.insert(group.to_owned(), coordinator.clone());
        Ok(coordinator)
    }

    /// Another broker coordinates the group, or may.
    pub fn forget_coordinator(&mut self, group: &str) {
        self.coordinators.remove(group);
    }
}

fn brokers_len(config: &Config) -> usize {
    config.brokers.len().max(1)
}

pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub fn retry(code: i16, text: String) -> Error {
    Error { kind: Kind::Retry, code, text }
}

pub fn no_leader(topic: &str, partition: i32) -> Error {
    let code = ResponseError::LeaderNotAvailable.code();
    retry(code, format!("{topic}/{partition} has no leader"))
}

/// What a fault means for whoever asked; `otherwise` if it may pass.
pub fn explain(what: &str, otherwise: Kind, fault: &Fault) -> Error {
    let (kind, code) = match fault {
        Fault::Unserved { .. } => (Kind::Config, ResponseError::UnsupportedVersion.code()),
        Fault::Refused { .. } => (Kind::Config, ResponseError::SaslAuthenticationFailed.code()),
        Fault::Io { .. } | Fault::Protocol { .. } | Fault::TooLarge { .. } => (otherwise, 0),
    };
    Error { kind, code, text: format!("{what}: {}", fault.words()) }
}

/// What was asked, by what an error in it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Produce,
    Fetch,
    Other,
}

/// What Kafka's error code means for whoever asked.
pub fn kind_of(api: Api, code: i16) -> Kind {
    use ResponseError as E;
    let Some(err) = E::try_from_code(code) else { return Kind::Retry };
    match err {
        E::OffsetOutOfRange if api == Api::Fetch => Kind::Position,
        E::CorruptMessage | E::UnknownServerError | E::UnsupportedCompressionType
            if api == Api::Fetch =>
        {
            Kind::Poison
        }
        E::CorruptMessage
        | E::MessageTooLarge
        | E::RecordListTooLarge
        | E::InvalidRecord
        | E::InvalidTimestamp
        | E::UnsupportedCompressionType
            if api == Api::Produce =>
        {
            Kind::Message
        }
        E::RequestTimedOut | E::NotEnoughReplicasAfterAppend | E::UnknownServerError
            if api == Api::Produce =>
        {
            Kind::Unknown
        }
        E::InvalidTopicException
        | E::InvalidRequiredAcks
        | E::InvalidGroupId
        | E::InvalidSessionTimeout
        | E::InconsistentGroupProtocol
        | E::OffsetMetadataTooLarge
        | E::InvalidCommitOffsetSize
        | E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::UnsupportedSaslMechanism
        | E::IllegalSaslState
        | E::SaslAuthenticationFailed
        | E::UnsupportedForMessageFormat
        | E::UnsupportedVersion => Kind::Config,
        E::IllegalGeneration
        | E::UnknownMemberId
        | E::RebalanceInProgress
        | E::FencedInstanceId => Kind::Fenced,
        // Metadata has changed, replicas or the coordinator are on their way: all that passes.
        _ => Kind::Retry,
    }
}
