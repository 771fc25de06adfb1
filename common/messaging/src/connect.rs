//! Selects the Kafka client by `KAFKA_CLIENT` and by the versions that the brokers support.

use crate::client::KafkaClient;
use crate::config::{CLIENT_ID, ClientChoice, KafkaConfig};
#[cfg(feature = "kafka-crate")]
use crate::kafka_crate::BrokerVersions;
use bank::limits::{FETCH_MEMORY, RESPONSE_BYTES_MAX};
#[cfg(feature = "kafka-crate")]
use kafka_client::broker_address;
use kafka_client::protocol::codes;
use kafka_client::{
    Assignment, Backoff, Batch, CommittedOffset, Error, ErrorKind, PartitionData, Position, Result,
    TopicDescription, TopicId,
};
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

    fn call<T>(
        &mut self,
        within: Duration,
        call: impl FnOnce(&mut dyn KafkaClient) -> Result<T>,
    ) -> Result<T> {
        let result = call(self.client(within)?);
        result.map_err(|err| self.follow_upgrade(err))
    }

    /// Changes to the built-in client, for the whole process, if a broker was upgraded and no
    /// longer supports the protocol version of the kafka crate. A repeated call then uses it.
    fn follow_upgrade(&mut self, mut err: Error) -> Error {
        self.follow_upgrade_in([&mut err], ErrorKind::Retry);
        err
    }

    /// Like [`Self::follow_upgrade`], for the errors of the partitions of one call. Those by an
    /// upgrade become errors of the retryable `kind`.
    fn follow_upgrade_in<'a>(
        &mut self,
        errors: impl IntoIterator<Item = &'a mut Error>,
        kind: ErrorKind,
    ) {
        let uses_crate = self.client.as_ref().is_some_and(|client| !client.fetches_from_all());
        if !uses_crate || self.config.client != ClientChoice::Auto {
            return;
        }
        let by_upgrade =
            |err: &Error| err.kind == ErrorKind::Config && err.code == codes::UNSUPPORTED_VERSION;
        for err in errors.into_iter().filter(|err| by_upgrade(err)) {
            select_built_in(&self.config, err);
            self.client = None;
            err.kind = kind;
        }
    }
}

impl KafkaClient for SelectedClient {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.call(within, |client| client.leaders(topic, within))
    }

    fn topic_ids(&mut self, topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>> {
        self.call(within, |client| client.topic_ids(topics, within))
    }

    fn describe_topic(&mut self, topic: &str, within: Duration) -> Result<TopicDescription> {
        self.call(within, |client| client.describe_topic(topic, within))
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        let mut results = match self.client(within) {
            Ok(client) => client.produce(batches, within),
            Err(err) => vec![Err(err); batches.len()],
        };
        // An earlier attempt of this call may have written the batch.
        let errors = results.iter_mut().filter_map(|result| result.as_mut().err());
        self.follow_upgrade_in(errors, ErrorKind::Unknown);
        results
    }

    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let mut fetched = self.call(wait, |client| client.fetch(topic, positions, wait))?;
        let errors = fetched.iter_mut().filter_map(|data| data.error.as_mut());
        self.follow_upgrade_in(errors, ErrorKind::Retry);
        Ok(fetched)
    }

    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        self.call(within, |client| client.log_range(topic, within))
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        self.call(within, |client| client.committed(group, topic, within))
    }

    fn committed_offsets(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>> {
        self.call(within, |client| client.committed_offsets(group, topic, within))
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.call(within, |client| client.commit(group, topic, positions, within))
    }

    fn commit_with_metadata(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        metadata: &str,
        within: Duration,
    ) -> Result<()> {
        self.call(within, |client| {
            client.commit_with_metadata(group, topic, positions, metadata, within)
        })
    }

    fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        self.call(within, |client| client.poll_assignment(group, topics, within))
    }

    fn leave(&mut self, group: &str) -> Result<()> {
        self.client.as_mut().map_or(Ok(()), |client| client.leave(group))
    }

    fn fetches_from_all(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.fetches_from_all())
    }
}

/// The clients selected in this process.
static SELECTED: Mutex<Vec<Selected>> = Mutex::new(Vec::new());

struct Selected {
    brokers: Vec<String>,
    choice: ClientChoice,
    client: ClientChoice,
}

impl Selected {
    fn is_for(&self, config: &KafkaConfig) -> bool {
        self.brokers == config.brokers && self.choice == config.client
    }
}

/// Selects the client for this cluster. [`ClientChoice::Auto`] probes the brokers once per process.
fn choose(config: &KafkaConfig) -> Result<ClientChoice> {
    let mut selected = SELECTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = selected.iter().find(|it| it.is_for(config)) {
        return Ok(found.client);
    }
    let (client, why) = match config.client {
        ClientChoice::Auto => probe_brokers(config)?,
        client @ (ClientChoice::KafkaCrate | ClientChoice::BuiltIn) => {
            (client, "set by KAFKA_CLIENT".to_owned())
        }
    };
    log::info!(client:%, why; "Kafka client selected");
    let (brokers, choice) = (config.brokers.clone(), config.client);
    selected.push(Selected { brokers, choice, client });
    Ok(client)
}

/// Selects the built-in client instead of the former one, because of `err`.
fn select_built_in(config: &KafkaConfig, err: &Error) {
    let mut selected = SELECTED.lock().unwrap_or_else(PoisonError::into_inner);
    for it in selected.iter_mut().filter(|it| it.is_for(config)) {
        if it.client != ClientChoice::BuiltIn {
            let client = ClientChoice::BuiltIn;
            log::warn!(client:%, why:% = err; "Kafka client selected, since a broker was upgraded");
            it.client = client;
        }
    }
}

/// Selects the kafka crate if all brokers of the cluster that respond support its protocol version.
/// In a rolling upgrade to Kafka 4, only some of them do.
#[cfg(feature = "kafka-crate")]
fn probe_brokers(config: &KafkaConfig) -> Result<(ClientChoice, String)> {
    // The probe has timeouts, but name resolution has none.
    let limit = config.timeout + Duration::from_secs(60);
    let _watch = service::watchdog::watch(
        limit,
        None,
        "probe the versions that the brokers support".to_owned(),
    );
    let mut hosts = config.brokers.clone();
    let mut errors = Vec::new();
    let mut next = 0;
    while let Some(host) = hosts.get(next).cloned() {
        next += 1;
        let probed = crate::kafka_crate::broker_versions(&host).and_then(|versions| {
            let BrokerVersions { lowest_fetch, highest_metadata } = versions;
            let is_old = lowest_fetch == 0;
            // Of a broker of Kafka 4, the version is enough.
            let metadata =
                is_old.then(|| crate::kafka_crate::metadata(&host, &[], highest_metadata));
            Ok((lowest_fetch, metadata.transpose()?))
        });
        match probed {
            Ok((lowest, None)) => {
                let why = format!("broker {host} only supports Fetch from version {lowest} on");
                return Ok((ClientChoice::BuiltIn, why));
            }
            Ok((_, Some(metadata))) => {
                for it in &metadata.brokers {
                    let address = broker_address(&it.host, it.port);
                    if !hosts.contains(&address) {
                        hosts.push(address);
                    }
                }
            }
            Err(err) => errors.push(format!("broker {host} does not respond: {err}")),
        }
    }
    let responded = hosts.len() - errors.len();
    if responded == 0 {
        return Err(Error::retryable(0, errors.join("; ")));
    }
    let why = format!("all brokers that respond ({responded}) support protocol version 0");
    Ok((ClientChoice::KafkaCrate, why))
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
        #[cfg(not(feature = "kafka-crate"))]
        ClientChoice::KafkaCrate => unreachable!("`ClientChoice::CHOICES` does not have it"),
        ClientChoice::Auto => unreachable!("`choose` returns the selected client"),
        ClientChoice::BuiltIn => Box::new(kafka_client::Client::new(&kafka_client::Config {
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
