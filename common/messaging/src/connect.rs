//! Selects the Kafka client by `KAFKA_CLIENT` and by the versions that the brokers support.

use crate::client::KafkaClient;
use crate::config::{CLIENT_ID, ClientChoice, KafkaConfig};
use bank::limits::{FETCH_MEMORY, RESPONSE_BYTES_MAX};
use kafka_client::{Assignment, Backoff, Batch, PartitionData, Position, Result, TopicId};
#[cfg(feature = "kafka-crate")]
use kafka_client::{Error, ErrorKind};
use service::shutdown::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Returns a client of the cluster. No I/O happens before the first call.
pub fn connect(config: &KafkaConfig) -> Box<dyn KafkaClient> {
    Box::new(SelectedClient::new(config, None))
}

/// Like [`connect`]. After `stop` is requested, a hung call delays the shutdown by at most 2 s.
pub fn connect_until(config: &KafkaConfig, stop: &Shutdown) -> Box<dyn KafkaClient> {
    Box::new(SelectedClient::new(config, Some(stop.clone())))
}

/// The client of the cluster. The first call selects it.
struct SelectedClient {
    config: KafkaConfig,
    stop: Option<Shutdown>,
    client: Option<Box<dyn KafkaClient>>,
    backoff: Backoff,
}

impl SelectedClient {
    fn new(config: &KafkaConfig, stop: Option<Shutdown>) -> Self {
        Self { config: config.clone(), stop, client: None, backoff: Backoff::default() }
    }

    fn client(&mut self, within: Duration) -> Result<&mut dyn KafkaClient> {
        let Self { config, stop, client, backoff } = self;
        if client.is_none() {
            let choice = backoff.retry(within, || choose(config))?;
            *client = Some(open(choice, config, stop.clone()));
        }
        Ok(&mut **client.as_mut().expect("it is set above if it was None"))
    }
}

impl KafkaClient for SelectedClient {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.client(within)?.leaders(topic, within)
    }

    fn topic_ids(&mut self, topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>> {
        self.client(within)?.topic_ids(topics, within)
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        match self.client(within) {
            Ok(client) => client.produce(batches, within),
            Err(err) => vec![Err(err); batches.len()],
        }
    }

    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.client(wait)?.fetch(topic, positions, wait)
    }

    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        self.client(within)?.log_range(topic, within)
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        self.client(within)?.committed(group, topic, within)
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.client(within)?.commit(group, topic, positions, within)
    }

    fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        self.client(within)?.poll_assignment(group, topics, within)
    }

    fn leave(&mut self, group: &str) -> Result<()> {
        self.client.as_mut().map_or(Ok(()), |client| client.leave(group))
    }

    fn fetches_from_all(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.fetches_from_all())
    }
}

/// Selects the client for this cluster. [`ClientChoice::Auto`] probes the brokers once per process.
fn choose(config: &KafkaConfig) -> Result<ClientChoice> {
    static KNOWN: Mutex<Vec<(Vec<String>, ClientChoice, ClientChoice)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |(brokers, choice, _): &&(Vec<String>, ClientChoice, ClientChoice)| {
        *brokers == config.brokers && *choice == config.client
    };
    if let Some((_, _, client)) = known.iter().find(same) {
        return Ok(*client);
    }
    let (client, why) = match config.client {
        ClientChoice::Auto => probe_brokers(config)?,
        client => (client, "set by KAFKA_CLIENT".to_owned()),
    };
    log::info!(client:%, why; "Kafka client selected");
    known.push((config.brokers.clone(), config.client, client));
    Ok(client)
}

/// Selects the kafka crate if the first reachable broker supports its protocol version.
#[cfg(feature = "kafka-crate")]
fn probe_brokers(config: &KafkaConfig) -> Result<(ClientChoice, String)> {
    // The probe has timeouts, but name resolution has none.
    let limit = config.timeout + Duration::from_secs(60);
    let _watch = service::watchdog::watch(
        limit,
        None,
        "probe the versions that the brokers support".to_owned(),
    );
    let mut errors = Vec::new();
    for host in &config.brokers {
        match crate::kafka_crate::broker_versions(host).map(|it| it.lowest_fetch) {
            Ok(0) => {
                let why = format!("broker {host} supports protocol version 0");
                return Ok((ClientChoice::KafkaCrate, why));
            }
            Ok(lowest) => {
                let why = format!("broker {host} only supports Fetch from version {lowest} on");
                return Ok((ClientChoice::BuiltIn, why));
            }
            Err(err) => errors.push(format!("broker {host} does not respond: {err}")),
        }
    }
    Err(Error { kind: ErrorKind::Retry, code: 0, text: errors.join("; ") })
}

/// Selects the only client of this build.
#[cfg(not(feature = "kafka-crate"))]
fn probe_brokers(_config: &KafkaConfig) -> Result<(ClientChoice, String)> {
    Ok((ClientChoice::BuiltIn, "the only client in this program".to_owned()))
}

fn open(
    choice: ClientChoice,
    config: &KafkaConfig,
    stop: Option<Shutdown>,
) -> Box<dyn KafkaClient> {
    match choice {
        #[cfg(feature = "kafka-crate")]
        ClientChoice::KafkaCrate => {
            Box::new(crate::kafka_crate::KafkaCrateClient::new(config, stop))
        }
        _ => Box::new(kafka_client::Client::new(&kafka_client::Config {
            brokers: config.brokers.clone(),
            timeout: config.timeout,
            fetch_bytes: config.fetch_bytes,
            fetch_memory: FETCH_MEMORY,
            response_bytes_max: RESPONSE_BYTES_MAX,
            compression: config.compression,
            client_id: CLIENT_ID.to_owned(),
            sasl: config.sasl.clone(),
            shutdown: stop
                .map(|stop| -> kafka_client::ShutdownCheck { Arc::new(move || stop.requested()) }),
        })),
    }
}
