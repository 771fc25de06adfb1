//! Requests to the cluster that the kafka crate lacks: topics, partitions and configs, over one blocking connection.
//!
//! In KRaft mode every broker hands them on to the controller.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wire::{Ask, Connection, Fault, Limits, Sasl};

const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a request and its reply.
const CALL: Duration = Duration::from_secs(15);
/// How long the cluster may take to make a topic before it answers; less than [`CALL`].
const CREATE: Duration = Duration::from_secs(10);

/// Kafka's number for "topic" as a holder of configs.
const TOPIC_RESOURCE: i8 = 2;
/// Kafka's number for "set" among the changes of a config.
const SET: i8 = 0;
/// Kafka's number for "this topic's own" among the origins of a config.
const TOPIC_CONFIG: i8 = 1;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker answers, or none in a way that this program understands.
    #[error(transparent)]
    Connection(#[from] Fault),
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
            Self::Connection(Fault::Io { .. }) => true,
            Self::Connection(_) => false,
            // Brokers that have yet to register make a replication too large.
            Self::Kafka { code, .. } => ResponseError::try_from_code(*code).is_some_and(|err| {
                err.is_retriable() || err == ResponseError::InvalidReplicationFactor
            }),
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
        let limits = Limits { connect: CONNECT, stop: None, client_id: "synchronizer", sasl };
        let mut connection = Connection::open(broker, &limits)?;
        let deadline = Instant::now() + CALL;
        connection.require::<MetadataRequest>(deadline)?;
        connection.require::<CreateTopicsRequest>(deadline)?;
        connection.require::<DescribeConfigsRequest>(deadline)?;
        connection.require::<IncrementalAlterConfigsRequest>(deadline)?;
        Ok(Self(connection))
    }

    /// What there is of the topics `names`, with their configs.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn look(&mut self, names: &[&'static str]) -> Result<Seen, Error> {
        let asked = names
            .iter()
            .map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))));
        let request = MetadataRequest::default()
            .with_topics(Some(asked.collect()))
            .with_allow_auto_topic_creation(false);
        let metadata = self.call(&request)?;
        let mut seen = Seen { brokers: metadata.brokers.len(), topics: BTreeMap::new() };
        for topic in metadata.topics {
            let name = topic.name.map(|name| name.0.to_string()).unwrap_or_default();
            if topic.error_code == ResponseError::UnknownTopicOrPartition.code() {
                continue;
            }
            check(topic.error_code, None, || format!("look at topic {name}"))?;
            let partitions = &topic.partitions;
            let leaderless = partitions.iter().filter(|partition| partition.leader_id.0 < 0);
            let replicas = partitions.iter().map(|partition| partition.replica_nodes.len());
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
        let resources = topics.keys().map(|name| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from(name.clone()))
                .with_configuration_keys(None)
        });
        let request = DescribeConfigsRequest::default().with_resources(resources.collect());
        for result in self.call(&request)?.results {
            let name = result.resource_name;
            check(result.error_code, result.error_message, || format!("configs of topic {name}"))?;
            let Some(topic) = topics.get_mut(name.as_str()) else { continue };
            for config in result.configs {
                let own = config.config_source == TOPIC_CONFIG;
                let value = config.value.map(|value| value.to_string()).unwrap_or_default();
                topic.configs.insert(config.name.to_string(), Config { value, own });
            }
        }
        Ok(())
    }

    /// Makes `topics`, each with its own result.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn create(&mut self, topics: &[&NewTopic]) -> Result<Vec<Result<(), Error>>, Error> {
        let wanted = topics.iter().map(|topic| {
            let configs = topic.configs.iter().map(|(name, value)| {
                CreatableTopicConfig::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_value(Some(StrBytes::from(value.clone())))
            });
            CreatableTopic::default()
                .with_name(topic_name(topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication)
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(wanted.collect())
            .with_timeout_ms(CREATE.as_millis() as i32);
        let results = self.call(&request)?.topics;
        each(topics.iter().map(|topic| topic.name), |name| {
            let result = results.iter().find(|result| result.name.0.as_str() == name)?;
            // Another synchronizer was faster: as good as made.
            let code = match ResponseError::try_from_code(result.error_code) {
                Some(ResponseError::TopicAlreadyExists) => 0,
                _ => result.error_code,
            };
            Some(check(code, result.error_message.clone(), || format!("create topic {name}")))
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
        let resources = topics.iter().map(|(topic, configs)| {
            let configs = configs.iter().map(|(name, value)| {
                AlterableConfig::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_config_operation(SET)
                    .with_value(Some(StrBytes::from(value.clone())))
            });
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_static_str(topic))
                .with_configs(configs.collect())
        });
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect());
        let results = self.call(&request)?.responses;
        each(topics.keys().copied(), |name| {
            let result = results.iter().find(|result| result.resource_name.as_str() == name)?;
            let what = || format!("set configs of topic {name}");
            Some(check(result.error_code, result.error_message.clone(), what))
        })
        .ok_or_else(|| self.protocol("leaves out a topic in its answer".to_owned()))
    }

    fn call<R: Ask>(&mut self, request: &R) -> Result<R::Response, Error> {
        Ok(self.0.call(request, Instant::now() + CALL)?)
    }

    fn protocol(&self, what: String) -> Error {
        Fault::Protocol { broker: self.0.broker().to_owned(), what }.into()
    }
}

fn topic_name(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

/// The result of each name; `None` if one is missing.
fn each<'a, T>(
    names: impl Iterator<Item = &'a str>,
    result: impl FnMut(&'a str) -> Option<T>,
) -> Option<Vec<T>> {
    names.map(result).collect()
}

fn check(code: i16, words: Option<StrBytes>, what: impl FnOnce() -> String) -> Result<(), Error> {
    let Some(err) = ResponseError::try_from_code(code) else { return Ok(()) };
    let words = words.map_or_else(|| err.to_string(), |words| words.to_string());
    Err(Error::Kafka { what: what(), words, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiVersionsResponse;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::protocol::{Encodable, Request};
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
            let metadata = ApiVersion::default().with_api_key(MetadataRequest::KEY);
            let old =
                ApiVersionsResponse::default().with_api_keys(vec![metadata.with_max_version(5)]);
            let mut body = Vec::new();
            old.encode(&mut body, 0).unwrap();
            framed(correlation, &body)
        });
        let err = refusal(address);
        assert!(!err.is_retryable());
        assert!(err.to_string().contains("does not serve Metadata version 9"), "{err}");
    }

    #[test]
    fn what_is_no_broker_is_refused_before_its_bytes_are_believed() {
        for (reply, words) in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "announces a reply of 1213486160 bytes"),
            (framed(77, &[0; 6]), "answers another request"),
            (framed(1, &[0, 0]), "unreadable reply"),
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
