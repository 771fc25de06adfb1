//! Metadata of the cluster: brokers, partition leaders and group coordinators. It also has a
//! connection to each broker for all requests but fetches.

use crate::config::{Config, ConnectionConfig};
use crate::connection::Connection;
use crate::error::{Api, ConnectionError, Error, ErrorKind, Result, check_code};
use crate::map::Map;
use crate::protocol::messages::{self, FindCoordinator, Metadata, MetadataResponse};
use crate::protocol::{ApiSpec, Reader, Request, Writer, codes};
use crate::types::{TopicDescription, TopicId};
use std::time::{Duration, Instant};

/// Longest wait for a response that any broker could send. The next broker is tried after it.
const ANY_BROKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The metadata and the connections of one client.
pub struct Cluster {
    pub config: Config,
    pub connection_config: ConnectionConfig,
    /// Brokers as host:port, by node id.
    addresses: Map<i32, String>,
    topics: Map<String, TopicDescription>,
    /// Topics whose metadata may be stale.
    stale_topics: Map<String, ()>,
    coordinators: Map<String, String>,
    connections: Map<String, Connection>,
    /// Brokers whose last request failed. They are tried last for a request to any broker.
    failed_brokers: Map<String, ()>,
    /// Index in `config.brokers` of the broker that is tried first.
    first_broker: usize,
}

/// The leader of a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    pub id: i32,
    /// host:port.
    pub host: String,
}

impl Cluster {
    pub fn new(config: &Config) -> Self {
        Self {
            connection_config: config.connection(),
            config: config.clone(),
            addresses: Map::default(),
            topics: Map::default(),
            stale_topics: Map::default(),
            coordinators: Map::default(),
            connections: Map::default(),
            failed_brokers: Map::default(),
            first_broker: 0,
        }
    }

    /// The connection to the broker at `host`, which is opened if needed.
    pub fn connection(
        &mut self,
        host: &str,
    ) -> std::result::Result<&mut Connection, ConnectionError> {
        if self.connections.get(host).is_some_and(Connection::is_stale) {
            self.close(host);
        }
        if !self.connections.contains(host) {
            let connection = self.open(host);
            let connection = connection.inspect_err(|_| {
                self.failed_brokers.insert(host.to_owned(), ());
            })?;
            self.connections.insert(host.to_owned(), connection);
        }
        Ok(self.connections.get_mut(host).expect("it was found or inserted above"))
    }

    /// Closes the connections that are stale.
    pub fn close_stale(&mut self) {
        let stale = self.connections.0.iter().filter(|(_, connection)| connection.is_stale());
        let stale: Vec<String> = stale.map(|(host, _)| host.clone()).collect();
        stale.iter().for_each(|host| self.close(host));
    }

    /// Closes the connection to the broker at `host`. When the broker accepts another one, it may
    /// have other topics, so all metadata is stale.
    fn close(&mut self, host: &str) {
        if self.connections.remove(host).is_some() {
            for (topic, _) in &self.topics.0 {
                self.stale_topics.insert(topic.clone(), ());
            }
        }
    }

    /// Opens a connection to the broker at `host`.
    pub fn open(&self, host: &str) -> std::result::Result<Connection, ConnectionError> {
        let advertises = |(_, address): &&(i32, String)| address == host;
        let is_bootstrap = self.config.brokers.iter().any(|it| it == host);
        let advertiser = self.addresses.0.iter().find(advertises).filter(|_| !is_bootstrap);
        Connection::open(host, &self.connection_config).map_err(|err| match (err, advertiser) {
            (ConnectionError::Io { broker, step, source }, Some(&(node_id, _))) => {
                ConnectionError::Advertised { broker, node_id, step, source }
            }
            (err, _) => err,
        })
    }

    /// The open connections among those to `hosts`.
    pub fn connected<'a>(&'a self, hosts: &'a [String]) -> impl Iterator<Item = &'a Connection> {
        hosts.iter().filter_map(|host| self.connections.get(host))
    }

    /// The end of the throttle time of the broker at `host`.
    pub fn throttled_until(&self, host: &str) -> Option<Instant> {
        self.connections.get(host)?.throttled_until()
    }

    /// Drops the connection after a failed request.
    pub fn broker_failed(&mut self, host: &str) {
        self.close(host);
        self.failed_brokers.insert(host.to_owned(), ());
    }

    /// Ends the state of a failed broker after a response.
    pub fn broker_responded(&mut self, host: &str) {
        self.failed_brokers.remove(host);
    }

    /// Sends a request to the broker at `host` and waits for the response.
    ///
    /// # Errors
    /// Retryable, unless the broker does not support the request or refuses the credentials. The
    /// text begins with `what`.
    pub fn call<R: Request>(
        &mut self,
        what: &str,
        host: &str,
        request: &R,
        within: Duration,
    ) -> Result<R::Response> {
        let mut response = R::Response::default();
        let encode = |to: &mut Writer| request.encode(to);
        self.call_dyn(host, R::SPEC, &encode, &mut |from| response = R::decode(from), within)
            .map_err(|err| Error::from_connection(what, ErrorKind::Retry, &err))?;
        Ok(response)
    }

    fn call_dyn(
        &mut self,
        host: &str,
        spec: &'static ApiSpec,
        encode: &dyn Fn(&mut Writer),
        decode: &mut dyn FnMut(&mut Reader<'_>),
        within: Duration,
    ) -> std::result::Result<(), ConnectionError> {
        let deadline = Instant::now() + within;
        let result = self.connection(host)?.call_dyn(spec, encode, decode, deadline);
        match result {
            Ok(()) => self.broker_responded(host),
            Err(_) => self.broker_failed(host),
        }
        result
    }

    /// Sends a request to one broker after the other until one responds. Returns its host:port and
    /// the response.
    pub fn call_any<R: Request>(
        &mut self,
        what: &str,
        request: &R,
    ) -> Result<(String, R::Response)> {
        let mut response = R::Response::default();
        let encode = |to: &mut Writer| request.encode(to);
        let decode = &mut |from: &mut Reader<'_>| response = R::decode(from);
        let host = self.call_any_dyn(what, R::SPEC, &encode, decode)?;
        Ok((host, response))
    }

    fn call_any_dyn(
        &mut self,
        what: &str,
        spec: &'static ApiSpec,
        encode: &dyn Fn(&mut Writer),
        decode: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<String> {
        let within = ANY_BROKER_TIMEOUT.min(self.config.timeout);
        let mut errors = Vec::new();
        for host in self.hosts() {
            match self.call_dyn(&host, spec, encode, decode, within) {
                Ok(()) => return Ok(host),
                Err(err) => {
                    let err = Error::from_connection(what, ErrorKind::Retry, &err);
                    if err.kind == ErrorKind::Config {
                        return Err(err);
                    }
                    errors.push(err.text);
                }
            }
        }
        self.rotate_brokers();
        Err(Error::retryable(0, errors.join("; ")))
    }

    /// Selects another broker as the first one for the next request to any broker.
    pub fn rotate_brokers(&mut self) {
        self.first_broker = (self.first_broker + 1) % self.config.brokers.len().max(1);
    }

    /// All brokers: bootstrap brokers first, failed ones last.
    fn hosts(&self) -> Vec<String> {
        let brokers = &self.config.brokers;
        let bootstrap =
            (0..brokers.len()).map(|i| &brokers[(self.first_broker + i) % brokers.len()]);
        let others = self.addresses.values().filter(|it| !brokers.contains(it));
        let (failed, mut hosts): (Vec<String>, Vec<String>) =
            bootstrap.chain(others).cloned().partition(|host| self.failed_brokers.contains(host));
        hosts.extend(failed);
        hosts
    }

    /// Requests metadata of `topic`.
    pub fn load_metadata(&mut self, topic: &str) -> Result<&TopicDescription> {
        let what = format!("load metadata of {topic}");
        let (host, response) = self.call_any(&what, &Metadata { topics: &[topic] })?;
        self.add_brokers(&response);
        let failed = |why: &str| Error::retryable(0, format!("{what} at {host}: {why}"));
        let Some(found) = response.topics.iter().find(|it| it.name == topic) else {
            return Err(failed("the topic is missing in the response"));
        };
        match found.error_code {
            codes::LEADER_NOT_AVAILABLE => {}
            codes::UNKNOWN_TOPIC_OR_PARTITION => return Err(Error::no_topic(topic, &host)),
            code => check_code(code, format_args!("{what} at {host}"))?,
        }
        let mut leaders = vec![None; found.partitions.len()];
        for messages::Partition { partition_index, leader_id, .. } in &found.partitions {
            let index = usize::try_from(*partition_index).ok();
            let Some(leader) = index.and_then(|index| leaders.get_mut(index)) else {
                return Err(failed("its partition indexes are not contiguous"));
            };
            *leader = Some(*leader_id).filter(|id| self.addresses.contains(id));
        }
        if leaders.is_empty() {
            return Err(failed("the topic has no partitions"));
        }
        if leaders.iter().all(Option::is_some) {
            self.stale_topics.remove(topic);
        }
        let id = found.topic_id;
        Ok(self.topics.insert(topic.to_owned(), TopicDescription { id, leaders }))
    }

    /// Requests the ids of `topics`, in the same order.
    ///
    /// # Errors
    /// Retryable if a topic does not exist.
    pub fn topic_ids(&mut self, topics: &[&str]) -> Result<Vec<Option<TopicId>>> {
        let what = format!("look up the topic ids of {}", topics.join(", "));
        let (host, response) = self.call_any(&what, &Metadata { topics })?;
        self.add_brokers(&response);
        let id = |topic: &&str| {
            let Some(found) = response.topics.iter().find(|it| it.name == *topic) else {
                let text = format!("{what} at {host}: {topic} is missing in the response");
                return Err(Error::retryable(0, text));
            };
            match found.error_code {
                0 | codes::LEADER_NOT_AVAILABLE => Ok(found.topic_id),
                codes::UNKNOWN_TOPIC_OR_PARTITION => Err(Error::no_topic(topic, &host)),
                code => Err(Error::from_code(Api::Other, code, format_args!("{what} at {host}"))),
            }
        };
        topics.iter().map(id).collect()
    }

    /// The id of `topic` in the last metadata.
    pub fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.topics.get(topic)?.id
    }

    fn add_brokers(&mut self, response: &MetadataResponse) {
        for messages::Broker { node_id, host, port } in &response.brokers {
            if (0..=i32::from(u16::MAX)).contains(port) {
                self.addresses.insert(*node_id, broker_address(host, *port));
            }
        }
    }

    /// The leader of a partition in the last metadata.
    pub fn known_leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        let index = usize::try_from(partition).ok()?;
        let id = (*self.topics.get(topic)?.leaders.get(index)?)?;
        Some(Leader { id, host: self.addresses.get(&id)?.clone() })
    }

    /// Marks the metadata of `topic` as stale. It is loaded before the next use.
    pub fn invalidate(&mut self, topic: &str) {
        self.stale_topics.insert(topic.to_owned(), ());
    }

    pub fn is_stale(&self, topic: &str) -> bool {
        self.stale_topics.contains(topic)
    }

    /// Requests metadata of `topic`. Returns the leader of each partition.
    ///
    /// # Errors
    /// Retryable if a partition has no leader.
    pub fn all_leaders(&mut self, topic: &str) -> Result<Vec<Leader>> {
        let count = self.load_metadata(topic)?.leaders.len();
        let leader = |partition| {
            self.known_leader(topic, partition).ok_or_else(|| Error::no_leader(topic, partition))
        };
        (0..).take(count).map(leader).collect()
    }

    /// The group coordinator as host:port.
    pub fn coordinator(&mut self, group_id: &str) -> Result<String> {
        if let Some(host) = self.coordinators.get(group_id) {
            return Ok(host.clone());
        }
        let what = format!("find the coordinator of {group_id}");
        let (host, response) = self.call_any(&what, &FindCoordinator { group_id })?;
        check_code(response.error_code, format_args!("{what} at {host}"))?;
        let coordinator = broker_address(&response.host, response.port);
        self.coordinators.insert(group_id.to_owned(), coordinator.clone());
        Ok(coordinator)
    }

    /// Removes the coordinator, which may have moved, so that the next use requests it again.
    pub fn invalidate_coordinator(&mut self, group_id: &str) {
        self.coordinators.remove(group_id);
    }
}

/// Returns host:port from the host and port in a response. An IPv6 address gets brackets, as in
/// `[::1]:9092` (RFC 3986, section 3.2.2).
pub fn broker_address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
