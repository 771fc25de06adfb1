//! Admin requests for topics and their configs, over one blocking connection of the built-in
//! client. The kafka crate does not have them.
//!
//! In KRaft mode each broker forwards these requests to the controller.

use bank::limits::RESPONSE_BYTES_MAX;
use kafka_client::protocol::messages::{
    CreateTopic, CreateTopics, DescribeConfigs, IncrementalAlterConfigs, Metadata, TopicResult,
};
use kafka_client::protocol::{Request, codes};
use kafka_client::{Connection, ConnectionConfig, ConnectionError, Sasl};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Deadline of a request and its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// `timeout_ms` of CreateTopics; less than [`REQUEST_TIMEOUT`].
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// `config_source` of a config that is set for the topic: DYNAMIC_TOPIC_CONFIG.
const TOPIC_CONFIG: i8 = 1;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker responds, or a response is invalid.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The cluster rejected the request.
    #[error("could not {request}: {message} (error code {code})")]
    Kafka {
        /// The request, for example "create topic heartbeat".
        request: String,
        /// The error message of the response, or the name of `code`.
        message: String,
        /// The error code of the Kafka protocol.
        code: i16,
    },
}

impl Error {
    /// True if a retry of the same request can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connection(ConnectionError::Io { .. }) => true,
            Self::Connection(_) => false,
            // The replication factor is invalid until enough brokers are registered.
            Self::Kafka { code, .. } => {
                codes::is_retriable(*code) || *code == codes::INVALID_REPLICATION_FACTOR
            }
        }
    }
}

/// The state of the cluster and of the described topics.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// Number of registered brokers.
    pub brokers: usize,
    /// Existing topics, by name.
    pub topics: BTreeMap<String, TopicState>,
}

/// An existing topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicState {
    /// Number of partitions.
    pub partitions: usize,
    /// Replication factor; if partitions differ, the smallest.
    pub replication: usize,
    /// Partitions without a leader.
    pub leaderless: Vec<i32>,
    /// Effective configs, by name.
    pub configs: BTreeMap<String, ConfigEntry>,
}

/// The effective value of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    pub value: String,
    /// True if the value is set for this topic; false for a default of the cluster.
    pub is_set: bool,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: &'static str,
    /// Number of partitions.
    pub partitions: i32,
    /// Replication factor.
    pub replication: i16,
    /// Names and values.
    pub configs: Vec<(&'static str, String)>,
}

/// A connection to one of the brokers.
pub struct Admin(Connection);

impl Admin {
    /// Connects to the first broker of `brokers` that responds.
    ///
    /// # Errors
    /// The error of the last broker, if no broker responds.
    pub fn connect(brokers: &[String], sasl: Option<&Sasl>) -> Result<Self, Error> {
        let mut last = None;
        for broker in brokers {
            match Self::open(broker, sasl) {
                Ok(admin) => return Ok(admin),
                Err(err) => last = Some(err),
            }
        }
        Err(last.expect("KAFKA_BROKERS names at least one broker"))
    }

    fn open(broker: &str, sasl: Option<&Sasl>) -> Result<Self, Error> {
        let sasl = sasl.cloned();
        let config = ConnectionConfig {
            connect_timeout: CONNECT_TIMEOUT,
            shutdown: None,
            client_id: "synchronizer".to_owned(),
            sasl,
            response_bytes_max: RESPONSE_BYTES_MAX,
        };
        let mut connection = Connection::open(broker, &config)?;
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        connection.require_version::<Metadata<'_>>(deadline)?;
        connection.require_version::<CreateTopics<'_>>(deadline)?;
        connection.require_version::<DescribeConfigs<'_>>(deadline)?;
        connection.require_version::<IncrementalAlterConfigs<'_>>(deadline)?;
        Ok(Self(connection))
    }

    /// Returns the state of the topics `names`, with their configs. A missing topic has no entry.
    pub fn describe(&mut self, names: &[&'static str]) -> Result<ClusterState, Error> {
        let metadata = self.call(&Metadata { topics: names })?;
        let mut state = ClusterState { brokers: metadata.brokers.len(), topics: BTreeMap::new() };
        for topic in metadata.topics {
            let name = topic.name;
            if topic.error_code == codes::UNKNOWN_TOPIC_OR_PARTITION {
                continue;
            }
            check(topic.error_code, "", || format!("describe topic {name}"))?;
            let partitions = &topic.partitions;
            let leaderless = partitions.iter().filter(|partition| partition.leader_id < 0);
            let replicas = partitions.iter().map(|partition| partition.replicas);
            let topic = TopicState {
                partitions: partitions.len(),
                replication: replicas.min().unwrap_or(0),
                leaderless: leaderless.map(|partition| partition.partition_index).collect(),
                configs: BTreeMap::new(),
            };
            state.topics.insert(name, topic);
        }
        if !state.topics.is_empty() {
            self.add_configs(&mut state.topics)?;
        }
        Ok(state)
    }

    fn add_configs(&mut self, topics: &mut BTreeMap<String, TopicState>) -> Result<(), Error> {
        let names = topics.keys().map(String::as_str).collect();
        for found in self.call(&DescribeConfigs { topics: names })? {
            let TopicResult { error_code, error_message, topic: name } = found.result;
            check(error_code, &error_message, || format!("describe the configs of topic {name}"))?;
            let Some(topic) = topics.get_mut(&name) else { continue };
            for config in found.configs {
                let is_set = config.config_source == TOPIC_CONFIG;
                topic.configs.insert(config.name, ConfigEntry { value: config.value, is_set });
            }
        }
        Ok(())
    }

    /// Creates `topics`. Returns one result per topic, in the same order; an existing topic is not
    /// an error.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn create(&mut self, topics: &[&NewTopic]) -> Result<Vec<Result<(), Error>>, Error> {
        let new = topics.iter().map(|topic| CreateTopic {
            name: topic.name,
            num_partitions: topic.partitions,
            replication_factor: topic.replication,
            configs: &topic.configs,
        });
        let timeout_ms = CREATE_TIMEOUT.as_millis() as i32;
        let results = self.call(&CreateTopics { topics: new.collect(), timeout_ms })?;
        each(topics.iter().map(|topic| topic.name), |name| {
            let TopicResult { error_code, error_message, .. } =
                results.iter().find(|it| it.topic == name)?;
            // Another synchronizer may have created the topic.
            let exists = *error_code == codes::TOPIC_ALREADY_EXISTS;
            let code = if exists { 0 } else { *error_code };
            Some(check(code, error_message, || format!("create topic {name}")))
        })
        .ok_or_else(|| self.protocol("a topic is missing in the response".to_owned()))
    }

    /// Sets configs of topics. Returns one result per topic, in the same order.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn set_configs(
        &mut self,
        topics: &BTreeMap<&'static str, Vec<(&'static str, String)>>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let configs = topics.iter().map(|(topic, configs)| (*topic, &configs[..]));
        let results = self.call(&IncrementalAlterConfigs { topics: configs.collect() })?;
        each(topics.keys().copied(), |name| {
            let TopicResult { error_code, error_message, .. } =
                results.iter().find(|it| it.topic == name)?;
            Some(check(*error_code, error_message, || format!("set the configs of topic {name}")))
        })
        .ok_or_else(|| self.protocol("a topic is missing in the response".to_owned()))
    }

    fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, Error> {
        Ok(self.0.call(request, Instant::now() + REQUEST_TIMEOUT)?)
    }

    fn protocol(&self, what: String) -> Error {
        ConnectionError::Protocol { broker: self.0.broker().to_owned(), what }.into()
    }
}

/// Collects the result of each name; `None` if one is missing.
fn each<'a, T>(
    names: impl Iterator<Item = &'a str>,
    result: impl FnMut(&'a str) -> Option<T>,
) -> Option<Vec<T>> {
    names.map(result).collect()
}

fn check(code: i16, message: &str, request: impl FnOnce() -> String) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let message =
        if message.is_empty() { codes::Name(code).to_string() } else { message.to_owned() };
    Err(Error::Kafka { request: request(), message, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// A broker that responds to the first request of each connection with `reply(correlation_id)`,
    /// including the frame, and closes the connection.
    fn broker(reply: impl Fn(i32) -> Vec<u8> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 12];
                stream.read_exact(&mut head).unwrap();
                let correlation = i32::from_be_bytes(head[8..].try_into().unwrap());
                stream.write_all(&reply(correlation)).unwrap();
            }
        });
        address
    }

    fn framed(correlation: i32, body: &[u8]) -> Vec<u8> {
        let length = (4 + body.len()) as i32;
        [&length.to_be_bytes()[..], &correlation.to_be_bytes(), body].concat()
    }

    fn connect_error(broker: String) -> Error {
        Admin::connect(&[broker], None).err().expect("the broker is rejected")
    }

    #[test]
    fn broker_without_a_request_version_is_rejected() {
        let address = broker(|correlation| {
            // ApiVersions response: Metadata (key 3) in versions 0 to 5.
            let body = [0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 5];
            framed(correlation, &body)
        });
        let err = connect_error(address);
        assert!(!err.is_retryable());
        assert!(err.to_string().contains("does not serve Metadata version 10"), "{err}");
    }

    #[test]
    fn server_that_is_not_a_broker_is_rejected() {
        for (reply, text) in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "response of 1213486160 bytes exceeds"),
            (framed(77, &[0; 6]), "response belongs to another request"),
            (framed(1, &[0, 0]), "unreadable response"),
        ] {
            let err = connect_error(broker(move |_| reply.clone()));
            assert!(err.to_string().contains(text), "{err}");
            assert!(!err.is_retryable());
        }
    }

    #[test]
    fn truncated_response_is_retryable() {
        let err = connect_error(broker(|correlation| framed(correlation, &[0; 6])[..7].to_vec()));
        assert!(err.is_retryable(), "{err}");
    }

    #[test]
    fn unreachable_broker_is_skipped() {
        let second = broker(|_| framed(77, &[]));
        let err = Admin::connect(&["127.0.0.1:1".to_owned(), second.clone()], None).err().unwrap();
        assert!(err.to_string().starts_with(&second), "{err}");
    }
}
