//! Requests to the cluster that the kafka crate lacks: topics, partitions and configs, over one blocking connection.
//!
//! In KRaft mode every broker hands them on to the controller.

use kafka_client::protocol::messages::{
    CreateTopic, CreateTopics, DescribeConfigs, IncrementalAlterConfigs, Metadata, TopicResult,
};
use kafka_client::protocol::{Request, codes};
use kafka_client::{Connection, ConnectionConfig, ConnectionError, Sasl};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a request and its reply.
const CALL: Duration = Duration::from_secs(15);
/// How long the cluster may take to make a topic before it answers; less than [`CALL`].
const CREATE: Duration = Duration::from_secs(10);

/// Kafka's number for "this topic's own" among the origins of a config.
const TOPIC_CONFIG: i8 = 1;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker answers, or none in a way that this program understands.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The cluster can't do it, now or ever.
    #[error("{what}: {words} ({code})")]
    Kafka {
        /// What was asked.
        what: String,
        /// The cluster's words.
        words: String,
        /// Kafka's error code.
        code: i16,
    },
}

impl Error {
    /// True if the same request may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connection(ConnectionError::Io { .. }) => true,
            Self::Connection(_) => false,
            // Brokers that have yet to register make a replication too large.
            Self::Kafka { code, .. } => {
                codes::is_retriable(*code) || *code == codes::INVALID_REPLICATION_FACTOR
            }
        }
    }
}

/// What the cluster has of the topics asked for.
#[derive(Debug, Default)]
pub struct Seen {
    /// Brokers that are there.
    pub brokers: usize,
    /// By name; a topic that does not exist is missing here.
    pub topics: BTreeMap<String, SeenTopic>,
}

/// A topic as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenTopic {
    /// Number of partitions.
    pub partitions: usize,
    /// Replicas of the partition that has the fewest.
    pub replication: usize,
    /// Partitions without a leader.
    pub leaderless: Vec<i32>,
    /// Configs in force.
    pub configs: BTreeMap<String, Config>,
}

/// A config in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its value.
    pub value: String,
    /// Set for this topic, not a default of the cluster.
    pub own: bool,
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: &'static str,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication: i16,
    /// Its own configs.
    pub configs: Vec<(&'static str, String)>,
}

/// A connection to one of the brokers.
pub struct Admin(Connection);

impl Admin {
    /// Connects to the first of `brokers` that answers, as `sasl` says.
    ///
    /// # Errors
    /// That of the last one, if none does.
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
            connect_timeout: CONNECT,
            shutdown: None,
            client_id: "synchronizer",
            sasl,
        };
        let mut connection = Connection::open(broker, &config)?;
        let deadline = Instant::now() + CALL;
        connection.require_version::<Metadata<'_>>(deadline)?;
        connection.require_version::<CreateTopics<'_>>(deadline)?;
        connection.require_version::<DescribeConfigs<'_>>(deadline)?;
        connection.require_version::<IncrementalAlterConfigs<'_>>(deadline)?;
        Ok(Self(connection))
    }

    /// What there is of the topics `names`, with their configs.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn look(&mut self, names: &[&'static str]) -> Result<Seen, Error> {
        let metadata = self.call(&Metadata { topics: names })?;
        let mut seen = Seen { brokers: metadata.brokers.len(), topics: BTreeMap::new() };
        for topic in metadata.topics {
            let name = topic.name;
            if topic.error_code == codes::UNKNOWN_TOPIC_OR_PARTITION {
                continue;
            }
            check(topic.error_code, "", || format!("look at topic {name}"))?;
            let partitions = &topic.partitions;
            let leaderless = partitions.iter().filter(|partition| partition.leader_id < 0);
            let replicas = partitions.iter().map(|partition| partition.replicas);
            let topic = SeenTopic {
                partitions: partitions.len(),
                replication: replicas.min().unwrap_or(0),
                leaderless: leaderless.map(|partition| partition.partition_index).collect(),
                configs: BTreeMap::new(),
            };
            seen.topics.insert(name, topic);
        }
        if !seen.topics.is_empty() {
            self.add_configs(&mut seen.topics)?;
        }
        Ok(seen)
    }

    fn add_configs(&mut self, topics: &mut BTreeMap<String, SeenTopic>) -> Result<(), Error> {
        let asked = topics.keys().map(String::as_str).collect();
        for found in self.call(&DescribeConfigs { topics: asked })? {
            let TopicResult { error_code, error_message, topic: name } = found.result;
            check(error_code, &error_message, || format!("configs of topic {name}"))?;
            let Some(topic) = topics.get_mut(&name) else { continue };
            for config in found.configs {
                let own = config.config_source == TOPIC_CONFIG;
                topic.configs.insert(config.name, Config { value: config.value, own });
            }
        }
        Ok(())
    }

    /// Makes `topics`, each with its own result.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn create(&mut self, topics: &[&NewTopic]) -> Result<Vec<Result<(), Error>>, Error> {
        let wanted = topics.iter().map(|topic| CreateTopic {
            name: topic.name,
            num_partitions: topic.partitions,
            replication_factor: topic.replication,
            configs: &topic.configs,
        });
        let timeout_ms = CREATE.as_millis() as i32;
        let results = self.call(&CreateTopics { topics: wanted.collect(), timeout_ms })?;
        each(topics.iter().map(|topic| topic.name), |name| {
            let TopicResult { error_code, error_message, .. } =
                results.iter().find(|it| it.topic == name)?;
            // Another synchronizer was faster: as good as made.
            let exists = *error_code == codes::TOPIC_ALREADY_EXISTS;
            let code = if exists { 0 } else { *error_code };
            Some(check(code, error_message, || format!("create topic {name}")))
        })
        .ok_or_else(|| self.protocol("leaves out a topic in its answer".to_owned()))
    }

    /// Sets configs of topics, each topic with its own result.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn set_configs(
        &mut self,
        topics: &BTreeMap<&'static str, Vec<(&'static str, String)>>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let wanted = topics.iter().map(|(topic, configs)| (*topic, &configs[..]));
        let results = self.call(&IncrementalAlterConfigs { topics: wanted.collect() })?;
        each(topics.keys().copied(), |name| {
            let TopicResult { error_code, error_message, .. } =
                results.iter().find(|it| it.topic == name)?;
            Some(check(*error_code, error_message, || format!("set configs of topic {name}")))
        })
        .ok_or_else(|| self.protocol("leaves out a topic in its answer".to_owned()))
    }

    fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, Error> {
        Ok(self.0.call(request, Instant::now() + CALL)?)
    }

    fn protocol(&self, what: String) -> Error {
        ConnectionError::Protocol { broker: self.0.broker().to_owned(), what }.into()
    }
}

/// The result of each name; `None` if one is missing.
fn each<'a, T>(
    names: impl Iterator<Item = &'a str>,
    result: impl FnMut(&'a str) -> Option<T>,
) -> Option<Vec<T>> {
    names.map(result).collect()
}

fn check(code: i16, words: &str, what: impl FnOnce() -> String) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let words = if words.is_empty() { codes::Name(code).to_string() } else { words.to_owned() };
    Err(Error::Kafka { what: what(), words, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// A broker that answers each request with `reply(correlation id)`, frame and all, then closes.
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

    fn refusal(broker: String) -> Error {
        Admin::connect(&[broker], None).err().expect("no such broker is taken")
    }

    #[test]
    fn a_broker_that_lacks_a_request_is_told_apart() {
        let address = broker(|correlation| {
            // Of Metadata, key 3, versions 0 to 5.
            let body = [0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 5];
            framed(correlation, &body)
        });
        let err = refusal(address);
        assert!(!err.is_retryable());
        assert!(err.to_string().contains("does not serve Metadata version 9"), "{err}");
    }

    #[test]
    fn what_is_no_broker_is_refused_before_its_bytes_are_believed() {
        for (reply, words) in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "response of 1213486160 bytes exceeds"),
            (framed(77, &[0; 6]), "response belongs to another request"),
            (framed(1, &[0, 0]), "unreadable response"),
        ] {
            let err = refusal(broker(move |_| reply.clone()));
            assert!(err.to_string().contains(words), "{err}");
            assert!(!err.is_retryable());
        }
    }

    #[test]
    fn a_reply_cut_off_may_be_whole_the_next_time() {
        let err = refusal(broker(|correlation| framed(correlation, &[0; 6])[..7].to_vec()));
        assert!(err.is_retryable(), "{err}");
    }

    #[test]
    fn the_next_broker_is_tried() {
        let second = broker(|_| framed(77, &[]));
        let err = Admin::connect(&["127.0.0.1:1".to_owned(), second.clone()], None).err().unwrap();
        assert!(err.to_string().starts_with(&second), "{err}");
    }
}
