//! The narrow interface to Kafka, and which of its two clients stands behind it: the kafka crate, which Kafka up to 3.9 serves, or
//! the one of the crate `wire`, which speaks today's protocol.

use super::{Client, KafkaConfig};
use crate::shutdown::Shutdown;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use ::kafka_client::{
    Batch, Bus, Chunk, Compression, Error, Header, Held, In, Kind, Out, Position, Result,
};

/// A client of the cluster. No I/O happens before the first call.
pub fn connect(config: &KafkaConfig) -> Box<dyn Bus> {
    Box::new(Chosen::new(config, None))
}

/// The same; a call that hangs when the stop is asked for holds up the process for two seconds at most.
pub fn connect_until(config: &KafkaConfig, stop: &Shutdown) -> Box<dyn Bus> {
    Box::new(Chosen::new(config, Some(stop.clone())))
}

#[cfg(feature = "client-kafka")]
pub use super::kafka_crate::guards_panics;

/// The client that `KAFKA_CLIENT` and the cluster call for, from the first call on.
struct Chosen {
    config: KafkaConfig,
    stop: Option<Shutdown>,
    bus: Option<Box<dyn Bus>>,
    pace: ::kafka_client::Pace,
}

impl Chosen {
    fn new(config: &KafkaConfig, stop: Option<Shutdown>) -> Self {
        Self { config: config.clone(), stop, bus: None, pace: ::kafka_client::Pace::default() }
    }

    fn bus(&mut self, within: Duration) -> Result<&mut dyn Bus> {
        let Self { config, stop, bus, pace } = self;
        if bus.is_none() {
            let client = pace.retry(within, || choose(config))?;
            *bus = Some(open(client, config, stop.clone()));
        }
        Ok(&mut **bus.as_mut().expect("it was there or has just been put there"))
    }
}

impl Bus for Chosen {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.bus(within)?.leaders(topic, within)
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        match self.bus(within) {
            Ok(bus) => bus.produce(batches, within),
            Err(err) => vec![Err(err); batches.len()],
        }
    }

    fn fetch(&mut self, topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<Chunk>> {
        self.bus(wait)?.fetch(topic, positions, wait)
    }

    fn bounds(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        self.bus(within)?.bounds(topic, within)
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        self.bus(within)?.committed(group, topic, within)
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.bus(within)?.commit(group, topic, positions, within)
    }

    fn held(&mut self, group: &str, topics: &[&str], within: Duration) -> Result<Held> {
        self.bus(within)?.held(group, topics, within)
    }

    fn leave(&mut self, group: &str) -> Result<()> {
        self.bus.as_mut().map_or(Ok(()), |bus| bus.leave(group))
    }

    fn fetches_from_all(&self) -> bool {
        self.bus.as_ref().is_some_and(|bus| bus.fetches_from_all())
    }
}

/// The client for this cluster; [`Client::Auto`] asks its brokers, once in the life of the process.
fn choose(config: &KafkaConfig) -> Result<Client> {
    static KNOWN: Mutex<Vec<(Vec<String>, Client, Client)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |(brokers, asked, _): &&(Vec<String>, Client, Client)| {
        *brokers == config.brokers && *asked == config.client
    };
    if let Some((_, _, client)) = known.iter().find(same) {
        return Ok(*client);
    }
    let (client, why) = match config.client {
        Client::Auto => ask_brokers(config)?,
        client => (client, "as the environment says".to_owned()),
    };
    log::info!(client:%, why; "Kafka client");
    known.push((config.brokers.clone(), config.client, client));
    Ok(client)
}

/// The kafka crate where it is served.
#[cfg(all(feature = "client-kafka", feature = "client-modern"))]
fn ask_brokers(config: &KafkaConfig) -> Result<(Client, String)> {
    // The probe has time-outs of its own, but names take as long as the resolver likes.
    let limit = config.timeout + Duration::from_secs(60);
    let _watch =
        crate::watchdog::watch(limit, None, "ask which client the brokers serve".to_owned());
    let mut refusals = Vec::new();
    for host in &config.brokers {
        match super::probe::lowest_fetch_version(host) {
            Ok(0) => {
                return Ok((Client::Kafka, format!("{host} serves protocol version 0")));
            }
            Ok(lowest) => {
                let why = format!("{host} serves Fetch from version {lowest} on");
                return Ok((Client::Modern, why));
            }
            Err(err) => refusals.push(format!("broker {host} does not answer: {err}")),
        }
    }
    Err(Error { kind: Kind::Retry, code: 0, text: refusals.join("; ") })
}

/// The one that was built in.
#[cfg(not(all(feature = "client-kafka", feature = "client-modern")))]
fn ask_brokers(_config: &KafkaConfig) -> Result<(Client, String)> {
    let only = if cfg!(feature = "client-kafka") { Client::Kafka } else { Client::Modern };
    Ok((only, "the only one in this program".to_owned()))
}

fn open(client: Client, config: &KafkaConfig, stop: Option<Shutdown>) -> Box<dyn Bus> {
    match client {
        #[cfg(feature = "client-kafka")]
        Client::Kafka => Box::new(super::kafka_crate::KafkaBus::new(config, stop)),
        #[cfg(feature = "client-modern")]
        Client::Modern => ::kafka_client::connect(&::kafka_client::Config {
            brokers: config.brokers.clone(),
            timeout: config.timeout,
            fetch_bytes: config.fetch_bytes,
            compression: config.compression,
            client_id: super::CLIENT_ID,
            sasl: config.sasl.clone(),
            stop: stop
                .map(|stop| -> ::kafka_client::Stop { std::sync::Arc::new(move || stop.requested()) }),
        }),
        _ => unreachable!("`choose` names one that is built in"),
    }
}
