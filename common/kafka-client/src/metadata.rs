//! What is known of the cluster: its brokers, who leads which partition, who coordinates which group; and a connection to each
//! broker for everything but fetches.

use crate::client::Config;
use crate::connection::{Connection, ConnectionError, Limits};
use crate::map::Map;
use crate::protocol::codes;
use crate::protocol::fields::{Reader, Writer};
use crate::protocol::messages::{FindCoordinator, Metadata};
use crate::protocol::{ApiSpec, Request};
use crate::{Error, ErrorKind, Result};
use std::fmt;
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
    addresses: Map<i32, String>,
    /// Leader of each partition of a topic.
    leaders: Map<String, Vec<Option<i32>>>,
    /// Topics whose leaders have perhaps moved.
    moved: Map<String, ()>,
    coordinators: Map<String, String>,
    connections: Map<String, Connection>,
    /// Brokers that failed last time: asked last where any could answer.
    suspects: Map<String, ()>,
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
            addresses: Map::default(),
            leaders: Map::default(),
            moved: Map::default(),
            coordinators: Map::default(),
            connections: Map::default(),
            suspects: Map::default(),
            turn: 0,
        }
    }

    /// A connection to the broker at `host`, which may have yet to answer.
    pub fn connection(
        &mut self,
        host: &str,
    ) -> std::result::Result<&mut Connection, ConnectionError> {
        if self.connections.get(host).is_some_and(Connection::is_stale) {
            self.connections.remove(host);
        }
        if !self.connections.has(host) {
            let connection = Connection::open(host, &self.limits);
            let connection = connection.inspect_err(|_| {
                self.suspects.insert(host.to_owned(), ());
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
        self.suspects.insert(host.to_owned(), ());
    }

    /// After an answer.
    pub fn answered(&mut self, host: &str) {
        self.suspects.remove(host);
    }

    /// Asks the broker at `host`.
    ///
    /// # Errors
    /// That it does not answer; `what` was tried.
    pub fn ask<R: Request>(
        &mut self,
        what: &str,
        host: &str,
        request: &R,
        within: Duration,
    ) -> Result<R::Reply> {
        let mut reply = R::Reply::default();
        let put = |to: &mut Writer| request.put(to);
        self.exchange(host, R::SPEC, &put, &mut |from| reply = R::take(from), within)
            .map_err(|fault| explain(what, ErrorKind::Retry, &fault))?;
        Ok(reply)
    }

    fn exchange(
        &mut self,
        host: &str,
        spec: &'static ApiSpec,
        put: &dyn Fn(&mut Writer),
        take: &mut dyn FnMut(&mut Reader<'_>),
        within: Duration,
    ) -> std::result::Result<(), ConnectionError> {
        let deadline = Instant::now() + within;
        let outcome = self.connection(host)?.exchange(spec, put, take, deadline);
        match outcome {
            Ok(()) => self.answered(host),
            Err(_) => self.failed(host),
        }
        outcome
    }

    /// Asks one broker after the other, until one answers. Says which one it was.
    pub fn ask_any<R: Request>(&mut self, what: &str, request: &R) -> Result<(String, R::Reply)> {
        let mut reply = R::Reply::default();
        let put = |to: &mut Writer| request.put(to);
        let host = self.exchange_any(what, R::SPEC, &put, &mut |from| reply = R::take(from))?;
        Ok((host, reply))
    }

    fn exchange_any(
        &mut self,
        what: &str,
        spec: &'static ApiSpec,
        put: &dyn Fn(&mut Writer),
        take: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<String> {
        let within = ANY.min(self.config.timeout);
        let mut refusals = Vec::new();
        for host in self.hosts() {
            match self.exchange(&host, spec, put, take, within) {
                Ok(()) => return Ok(host),
                Err(fault) => {
                    let err = explain(what, ErrorKind::Retry, &fault);
                    if err.kind == ErrorKind::Config {
                        return Err(err);
                    }
                    refusals.push(err.text);
                }
            }
        }
        self.ask_another();
        Err(retry(0, refusals.join("; ")))
    }

    /// Whoever was asked first among any is asked last the next time.
    pub fn ask_another(&mut self) {
        self.turn = (self.turn + 1) % brokers_len(&self.config);
    }

    /// All brokers, those last that did not answer the last time.
    fn hosts(&self) -> Vec<String> {
        let brokers = &self.config.brokers;
        let given = (0..brokers.len()).map(|i| &brokers[(self.turn + i) % brokers.len()]);
        let known = self.addresses.values().filter(|it| !brokers.contains(it));
        let (suspects, mut hosts): (Vec<String>, Vec<String>) =
            given.chain(known).cloned().partition(|host| self.suspects.has(host));
        hosts.extend(suspects);
        hosts
    }

    /// Loads the leaders of `topic` anew.
    pub fn load(&mut self, topic: &str) -> Result<&[Option<i32>]> {
        let what = format!("load metadata of {topic}");
        let (host, reply) = self.ask_any(&what, &Metadata { topics: &[topic] })?;
        for broker in &reply.brokers {
            if let Ok(port) = u16::try_from(broker.port) {
                let name = &broker.host;
                // An address of IPv6 is told from its port by brackets.
                let address = if name.contains(':') {
                    format!("[{name}]:{port}")
                } else {
                    format!("{name}:{port}")
                };
                self.addresses.insert(broker.id, address);
            }
        }
        let text = |words: &str| format!("{what} at {host}: {words}");
        let Some(found) = reply.topics.iter().find(|it| it.name == topic) else {
            return Err(retry(0, text("it is left out of the answer")));
        };
        match found.code {
            codes::LEADER_NOT_AVAILABLE => {}
            codes::UNKNOWN_TOPIC_OR_PARTITION => {
                let text =
                    format!("topic {topic} does not exist at {host}; the synchronizer creates it");
                return Err(retry(found.code, text));
            }
            code => check(code, format_args!("{what} at {host}"))?,
        }
        let mut leaders = vec![None; found.partitions.len()];
        for partition in &found.partitions {
            let index = usize::try_from(partition.index).ok();
            let Some(leader) = index.and_then(|index| leaders.get_mut(index)) else {
                return Err(retry(0, text("its partitions are not counted from 0")));
            };
            let id = partition.leader;
            *leader = Some(id).filter(|id| self.addresses.has(id));
        }
        if leaders.is_empty() {
            return Err(retry(0, text("it has no partitions")));
        }
        if leaders.iter().all(Option::is_some) {
            self.moved.remove(topic);
        }
        Ok(self.leaders.insert(topic.to_owned(), leaders))
    }

    /// Who leads a partition, or did when that was last asked.
    pub fn known_leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        let index = usize::try_from(partition).ok()?;
        let id = (*self.leaders.get(topic)?.get(index)?)?;
        Some(Leader { id, host: self.addresses.get(&id)?.clone() })
    }

    /// The leaders of `topic` have moved, or may have: the cluster is asked before the next use.
    pub fn forget(&mut self, topic: &str) {
        self.moved.insert(topic.to_owned(), ());
    }

    /// Is the cluster to be asked who leads `topic`?
    pub fn is_moved(&self, topic: &str) -> bool {
        self.moved.has(topic)
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
        let what = format!("find the coordinator of {group}");
        let (host, reply) = self.ask_any(&what, &FindCoordinator { group })?;
        check(reply.code, format_args!("{what} at {host}"))?;
        let coordinator = format!("{}:{}", reply.host, reply.port);
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

pub fn retry(code: i16, text: String) -> Error {
    Error { kind: ErrorKind::Retry, code, text }
}

pub fn no_leader(topic: &str, partition: i32) -> Error {
    retry(codes::LEADER_NOT_AVAILABLE, format!("{topic}/{partition} has no leader"))
}

/// What a fault means for whoever asked; `otherwise` if it may pass.
pub fn explain(what: &str, otherwise: ErrorKind, fault: &ConnectionError) -> Error {
    let (kind, code) = match fault {
        ConnectionError::Unserved { .. } => (ErrorKind::Config, codes::UNSUPPORTED_VERSION),
        ConnectionError::Refused { .. } => (ErrorKind::Config, codes::SASL_AUTHENTICATION_FAILED),
        ConnectionError::Io { .. }
        | ConnectionError::Protocol { .. }
        | ConnectionError::TooLarge { .. } => (otherwise, 0),
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

/// An error if `code` is one; `what` was asked.
pub fn check(code: i16, what: fmt::Arguments<'_>) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(refused(Api::Other, code, what)) }
}

/// What `code`, which is none of success, means for whoever asked `what`.
pub fn refused(api: Api, code: i16, what: fmt::Arguments<'_>) -> Error {
    Error { kind: kind_of(api, code), code, text: format!("{what}: {}", codes::Name(code)) }
}

/// What Kafka's error code means for whoever asked.
pub fn kind_of(api: Api, code: i16) -> ErrorKind {
    match code {
        codes::OFFSET_OUT_OF_RANGE if api == Api::Fetch => ErrorKind::Position,
        codes::CORRUPT_MESSAGE
        | codes::UNKNOWN_SERVER_ERROR
        | codes::UNSUPPORTED_COMPRESSION_TYPE
            if api == Api::Fetch =>
        {
            ErrorKind::Undecodable
        }
        codes::CORRUPT_MESSAGE
        | codes::MESSAGE_TOO_LARGE
        | codes::RECORD_LIST_TOO_LARGE
        | codes::INVALID_RECORD
        | codes::INVALID_TIMESTAMP
        | codes::UNSUPPORTED_COMPRESSION_TYPE
            if api == Api::Produce =>
        {
            ErrorKind::Message
        }
        codes::REQUEST_TIMED_OUT
        | codes::NOT_ENOUGH_REPLICAS_AFTER_APPEND
        | codes::UNKNOWN_SERVER_ERROR
            if api == Api::Produce =>
        {
            ErrorKind::Unknown
        }
        codes::INVALID_TOPIC_EXCEPTION
        | codes::INVALID_REQUIRED_ACKS
        | codes::INVALID_GROUP_ID
        | codes::INVALID_SESSION_TIMEOUT
        | codes::INCONSISTENT_GROUP_PROTOCOL
        | codes::OFFSET_METADATA_TOO_LARGE
        | codes::INVALID_COMMIT_OFFSET_SIZE
        | codes::TOPIC_AUTHORIZATION_FAILED
        | codes::GROUP_AUTHORIZATION_FAILED
        | codes::CLUSTER_AUTHORIZATION_FAILED
        | codes::UNSUPPORTED_SASL_MECHANISM
        | codes::ILLEGAL_SASL_STATE
        | codes::SASL_AUTHENTICATION_FAILED
        | codes::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | codes::UNSUPPORTED_VERSION => ErrorKind::Config,
        codes::ILLEGAL_GENERATION
        | codes::UNKNOWN_MEMBER_ID
        | codes::REBALANCE_IN_PROGRESS
        | codes::FENCED_INSTANCE_ID => ErrorKind::Fenced,
        // Metadata has changed, replicas or the coordinator are on their way: all that passes.
        _ => ErrorKind::Retry,
    }
}
