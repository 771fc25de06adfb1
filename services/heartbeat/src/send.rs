//! Sends heartbeat records on schedule. Their numbers continue from the last record in the topic.

use crate::config::Config;
use crate::control::Control;
use crate::error::Error;
use crate::schedule::Schedule;
use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::records::Heartbeat;
use messaging::producer::{Outgoing, Sender};
use messaging::{ErrorKind, KafkaClient, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant, SystemTime};

/// Deadline of one call to Kafka. A shutdown request is noticed at most this late.
const SLICE: Duration = Duration::from_millis(200);

/// Sends heartbeat records and counts them.
pub struct HeartbeatSender {
    sender: Sender,
    encoder: Encoder<Heartbeat>,
    /// Number of the next record.
    next: i64,
    /// Maximum number of records encoded at a time.
    batch_records: usize,
    shutdown: Shutdown,
}

impl HeartbeatSender {
    /// Waits for Kafka and the registry and reads the last record. Returns `None` if shutdown is
    /// requested first.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn open(config: &Config, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let registry = Registry::new(&config.registry_url);
        let Some(encoder) = Encoder::wait(&registry, shutdown).map_err(Error::Schema)? else {
            return Ok(None);
        };
        let mut client = messaging::connect_until(&config.producer.kafka, shutdown);
        let Some(next) = next_number(&mut *client, &registry, shutdown)? else { return Ok(None) };
        log::info!(next; "ready to send heartbeats");
        Ok(Some(Self {
            sender: Sender::new(&config.producer, shutdown),
            encoder,
            next,
            batch_records: config.producer.batch_records,
            shutdown: shutdown.clone(),
        }))
    }

    /// Sends heartbeat records until shutdown.
    ///
    /// # Errors
    /// Kafka rejected a record.
    pub fn run(mut self, control: &Control) -> Result<(), Error> {
        let mut schedule = Schedule::new(Instant::now());
        while let Some(batch_size) = control.wait(&mut schedule) {
            self.send(batch_size, control)?;
        }
        log::info!(next = self.next; "stopped");
        Ok(())
    }

    /// Sends `batch_size` records. After a shutdown request the remaining ones are not sent.
    fn send(&mut self, batch_size: u64, control: &Control) -> Result<(), Error> {
        let mut left = batch_size as usize;
        while left > 0 && !self.shutdown.requested() {
            let records = self.records(left.min(self.batch_records));
            let results = self.sender.send_all(&records);
            let written = results.iter().take_while(|result| result.is_ok()).count();
            control.count(written as u64);
            self.next += written as i64;
            match results.into_iter().find_map(Result::err) {
                None => left -= records.len(),
                // During shutdown the sender retries only for a short time.
                Some(err) if self.shutdown.requested() => {
                    log::warn!(
                        beat = self.next, records = records.len() - written, error:% = err;
                        "heartbeat records not sent before shutdown"
                    );
                    return Ok(());
                }
                Some(source) => return Err(Error::Send { beat: self.next, source }),
            }
        }
        Ok(())
    }

    fn records(&self, count: usize) -> Vec<Outgoing> {
        // A clock before 1970 results in 0.
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let key = now.as_millis().to_string();
        let numbers = self.next..self.next + count as i64;
        let record = |beat| Outgoing {
            topic: Heartbeat::TOPIC.name,
            key: key.clone(),
            value: self.encoder.encode(&Heartbeat { beat }),
        };
        numbers.map(record).collect()
    }
}

/// Waits for Kafka and returns the number of the next record, or `None` if shutdown is requested
/// first.
fn next_number(
    client: &mut dyn KafkaClient,
    registry: &Registry,
    shutdown: &Shutdown,
) -> Result<Option<i64>, Error> {
    let mut decoder = Decoder::new(registry.clone());
    loop {
        match after_last(client, &mut decoder) {
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "waiting for the last heartbeat record");
            }
            done => return done.map(Some),
        }
        // The Kafka client has its own backoff.
        if shutdown.wait(SLICE) {
            return Ok(None);
        }
    }
}

/// Returns one more than the number of the last record in the topic. If that record is deleted or
/// undecodable, returns the end offset of the log. Each record has an offset, so no number is used
/// twice.
fn after_last(
    client: &mut dyn KafkaClient,
    decoder: &mut Decoder<Heartbeat>,
) -> Result<i64, Error> {
    let topic = Heartbeat::TOPIC.name;
    let ranges = client.log_range(topic, SLICE).map_err(Error::LastBeat)?;
    let (mut next, mut ends) = (None, 0);
    for (partition, (start, end)) in (0..).zip(ranges) {
        ends += end;
        if start == end {
            continue;
        }
        let value = value_at(client, topic, Position { partition, next: end - 1 })?;
        match decoder.decode(&value.unwrap_or_default()) {
            Ok(Heartbeat { beat }) => next = next.max(Some(beat.saturating_add(1))),
            Err(avro::Error::Registry { source, .. }) => return Err(Error::Schema(source)),
            Err(avro::Error::Undecodable(reason)) => {
                log::warn!(
                    topic, partition, offset = end - 1, error = reason.as_str();
                    "last record is undecodable, continuing with the end offset of the log"
                );
            }
        }
    }
    Ok(next.unwrap_or(ends))
}

/// Returns the value of the record at `position`, or `None` if it has no value or its batch is
/// undecodable.
fn value_at(
    client: &mut dyn KafkaClient,
    topic: &str,
    position: Position,
) -> Result<Option<Vec<u8>>, Error> {
    let mut value = None;
    for data in client.fetch(topic, &[position], SLICE).map_err(Error::LastBeat)? {
        match data.error {
            Some(err) if err.kind != ErrorKind::Undecodable => return Err(Error::LastBeat(err)),
            _ => value = value.or(data.records.into_iter().next().and_then(|record| record.value)),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    use messaging::{Batch, FetchedRecord, PartitionData, Result};

    /// A log with one partition, whose first offset is `start`.
    struct Log {
        start: i64,
        values: Vec<&'static [u8]>,
    }

    impl KafkaClient for Log {
        fn log_range(&mut self, _: &str, _: Duration) -> Result<Vec<(i64, i64)>> {
            Ok(vec![(self.start, self.start + self.values.len() as i64)])
        }

        fn fetch(
            &mut self,
            _: &str,
            positions: &[Position],
            _: Duration,
        ) -> Result<Vec<PartitionData>> {
            let Position { partition, next: offset } = positions[0];
            let value = Some(self.values[(offset - self.start) as usize].to_vec());
            let records = vec![FetchedRecord { offset, value, ..FetchedRecord::default() }];
            Ok(vec![PartitionData {
                partition,
                records,
                next: offset + 1,
                end: offset + 1,
                error: None,
            }])
        }

        fn leaders(&mut self, _: &str, _: Duration) -> Result<Vec<i32>> {
            unimplemented!()
        }

        fn produce(&mut self, _: &[Batch<'_>], _: Duration) -> Vec<Result<i64>> {
            unimplemented!()
        }

        fn committed(&mut self, _: &str, _: &str, _: Duration) -> Result<Vec<Option<i64>>> {
            unimplemented!()
        }

        fn commit(&mut self, _: &str, _: &str, _: &[Position], _: Duration) -> Result<()> {
            unimplemented!()
        }
    }

    #[test]
    fn numbers_continue_at_the_end_offset() {
        // No registry listens at this address, so an unknown schema is a retryable error.
        let mut decoder = Decoder::new(Registry::new("http://127.0.0.1:9"));
        let mut next = |start, values| after_last(&mut Log { start, values }, &mut decoder);
        assert_eq!(next(0, vec![]).unwrap(), 0);
        assert_eq!(next(5, vec![]).unwrap(), 5, "deleted");
        assert_eq!(next(5, vec![b"", b"not Avro"]).unwrap(), 7);
        assert!(next(5, vec![b"\0\0\0\0\x01\x02"]).unwrap_err().is_retryable());
    }
}
