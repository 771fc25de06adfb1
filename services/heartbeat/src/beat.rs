//! The beats: on schedule, numbered on from the last one in the topic.

use crate::config::Config;
use crate::control::Control;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::records::Heartbeat;
use messaging::producer::{Outgoing, Sender};
use messaging::{ErrorKind, KafkaClient, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant, SystemTime};

/// How far beats may lag behind their times before the missing ones are left out: after an outage no more than this comes
/// at once.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Time for retries in a call to Kafka, which bounds how late the stop is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// The topic, and where in it this heart is.
pub struct Beats {
    sender: Sender,
    encoder: Encoder<Heartbeat>,
    /// Number of the next beat.
    next: i64,
    /// Records made before they are sent.
    batch_records: usize,
    shutdown: Shutdown,
}

impl Beats {
    /// Waits for the servers, with log lines, and finds the last beat. `None` if the stop was asked for meanwhile.
    ///
    /// # Errors
    /// Waiting does not help.
    pub fn open(config: &Config, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let registry = Registry::new(&config.registry_url);
        let Some(encoder) = Encoder::wait(&registry, shutdown).map_err(Error::Schema)? else {
            return Ok(None);
        };
        let mut bus = messaging::connect_until(&config.producer.kafka, shutdown);
        let Some(next) = next_beat(&mut *bus, &registry, shutdown)? else { return Ok(None) };
        log::info!(next; "ready to beat");
        Ok(Some(Self {
            sender: Sender::new(&config.producer, shutdown),
            encoder,
            next,
            batch_records: config.producer.batch_records,
            shutdown: shutdown.clone(),
        }))
    }

    /// Beats until the stop.
    ///
    /// # Errors
    /// Kafka refuses a record.
    pub fn run(mut self, control: &Control) -> Result<(), Error> {
        let mut schedule = Schedule::new(Instant::now());
        while let Some(batch_size) = control.wait(&mut schedule) {
            self.beat(batch_size, control)?;
        }
        log::info!(next = self.next; "stopped");
        Ok(())
    }

    /// Sends a beat of so many records; what is left of it when the stop is asked for stays unsent.
    fn beat(&mut self, batch_size: u64, control: &Control) -> Result<(), Error> {
        let mut left = batch_size as usize;
        while left > 0 && !self.shutdown.requested() {
            let records = self.records(left.min(self.batch_records));
            let results = self.sender.send_all(&records);
            let written = results.iter().take_while(|result| result.is_ok()).count();
            control.count(written as u64);
            self.next += written as i64;
            match results.into_iter().find_map(Result::err) {
                None => left -= records.len(),
                // It was no longer tried for long.
                Some(err) if self.shutdown.requested() => {
                    log::warn!(beat = self.next, records = records.len() - written, err:%; "beats not sent");
                    return Ok(());
                }
                Some(source) => return Err(Error::Send { beat: self.next, source }),
            }
        }
        Ok(())
    }

    fn records(&self, count: usize) -> Vec<Outgoing> {
        // A clock before 1970 tells no time.
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

/// When beats are due: at absolute times, so that a late one does not delay those after it.
#[derive(Debug)]
pub struct Schedule {
    /// When the last beat was due, not when it came.
    last: Instant,
    sleep: Duration,
    /// Beats have been left out since it was last on time.
    behind: bool,
}

impl Schedule {
    /// The first beat is due one sleep after `now`.
    pub fn new(now: Instant) -> Self {
        Self { last: now, sleep: Duration::ZERO, behind: false }
    }

    /// Time until the next beat, if beats are `sleep` apart. With another `sleep` than before the past counts no more: a
    /// beat that would have been due is due now.
    pub fn left(&mut self, sleep: Duration, now: Instant) -> Duration {
        if sleep != self.sleep {
            self.sleep = sleep;
            self.leave_out(now, sleep);
        }
        let left = (self.last + sleep).saturating_duration_since(now);
        self.behind &= left.is_zero();
        left
    }

    /// The beat that is due begins.
    pub fn begin(&mut self, now: Instant) {
        self.last += self.sleep;
        if self.leave_out(now, LAG_MAX) && !self.behind {
            log::warn!("beats are left out: they can't be sent so fast");
            self.behind = true;
        }
    }

    /// Leaves out the beats that are later than `lag`; true if there are any.
    fn leave_out(&mut self, now: Instant, lag: Duration) -> bool {
        let lost = now.saturating_duration_since(self.last).saturating_sub(lag);
        self.last += lost;
        !lost.is_zero()
    }
}

/// Waits until Kafka tells the number of the next beat; `None` if the stop was asked for meanwhile.
fn next_beat(
    bus: &mut dyn KafkaClient,
    registry: &Registry,
    shutdown: &Shutdown,
) -> Result<Option<i64>, Error> {
    let mut decoder = Decoder::new(registry.clone());
    loop {
        match after_last(bus, &mut decoder) {
            Err(err) if err.is_retryable() => {
                let reason = Chain(&err).to_string();
                log::warn!(reason = reason.as_str(); "waiting for the last beat");
            }
            done => return done.map(Some),
        }
        // The bus itself pauses longer and longer.
        if shutdown.wait(SLICE) {
            return Ok(None);
        }
    }
}

/// One more than the last beat in the topic. If that has been deleted, or something else stands there, the end of the
/// log: each beat has taken an offset, so no number comes twice.
fn after_last(bus: &mut dyn KafkaClient, decoder: &mut Decoder<Heartbeat>) -> Result<i64, Error> {
    let topic = Heartbeat::TOPIC.name;
    let bounds = bus.log_range(topic, SLICE).map_err(Error::LastBeat)?;
    let (mut next, mut ends) = (None, 0);
    for (partition, (start, end)) in (0..).zip(bounds) {
        ends += end;
        if start == end {
            continue;
        }
        let value = value_at(bus, topic, Position { partition, next: end - 1 })?;
        match decoder.decode(&value.unwrap_or_default()) {
            Ok(Heartbeat { beat }) => next = next.max(Some(beat.saturating_add(1))),
            Err(avro::Error::Registry { source, .. }) => return Err(Error::Schema(source)),
            Err(avro::Error::Undecodable(reason)) => {
                log::warn!(topic, partition, offset = end - 1, reason = reason.as_str(); "the last record is no beat");
            }
        }
    }
    Ok(next.unwrap_or(ends))
}

/// The value of the record at `position`, if it has one that can be read.
fn value_at(
    bus: &mut dyn KafkaClient,
    topic: &str,
    position: Position,
) -> Result<Option<Vec<u8>>, Error> {
    let mut value = None;
    for chunk in bus.fetch(topic, &[position], SLICE).map_err(Error::LastBeat)? {
        match chunk.error {
            Some(err) if err.kind != ErrorKind::Undecodable => return Err(Error::LastBeat(err)),
            _ => value = value.or(chunk.records.into_iter().next().and_then(|record| record.value)),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    use messaging::{Batch, FetchedRecord, PartitionData, Result};

    /// A log of one partition that begins at `start`; each record is its value.
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
    fn where_the_last_beat_is_unknown_counting_goes_on_at_the_end_of_the_log() {
        // Nobody answers there: a beat of an unknown schema has to wait for the registry.
        let mut decoder = Decoder::new(Registry::new("http://127.0.0.1:9"));
        let mut next = |start, values| after_last(&mut Log { start, values }, &mut decoder);
        assert_eq!(next(0, vec![]).unwrap(), 0);
        assert_eq!(next(5, vec![]).unwrap(), 5, "deleted");
        assert_eq!(next(5, vec![b"", b"no beat"]).unwrap(), 7);
        assert!(next(5, vec![b"\0\0\0\0\x01\x02"]).unwrap_err().is_retryable());
    }

    const MS: Duration = Duration::from_millis(1);

    /// Beats until `end`, each of which takes `took`: when they begin, all in ms from `start`.
    fn beats(schedule: &mut Schedule, start: Instant, sleep: u32, took: u32, end: u32) -> Vec<u32> {
        let (mut now, end, mut times) = (start, start + end * MS, Vec::new());
        loop {
            now += schedule.left(sleep * MS, now);
            if now >= end {
                return times;
            }
            schedule.begin(now);
            times.push(now.duration_since(start).as_millis() as u32);
            now += took * MS;
        }
    }

    #[test]
    fn beats_do_not_drift() {
        let start = Instant::now();
        let times = beats(&mut Schedule::new(start), start, 10, 7, 1001);
        assert_eq!(times, (1..=100).map(|i| 10 * i).collect::<Vec<_>>());
    }

    #[test]
    fn late_beats_are_made_up_for_but_only_those_of_the_last_second() {
        let start = Instant::now();
        for (outage, made_up) in [(500, 50), (1000, 100), (60_000, 101)] {
            let mut schedule = Schedule::new(start);
            beats(&mut schedule, start, 10, outage, 11);
            let after = start + (10 + outage) * MS;
            let times = beats(&mut schedule, after, 10, 0, 11);
            // Those at once, the one of this moment among them, and one 10 ms later. The first comes however late it is.
            assert_eq!(times.iter().filter(|&&at| at == 0).count(), made_up, "{outage}");
            assert_eq!(times.last(), Some(&10), "{outage}");
        }
    }

    #[test]
    fn a_shorter_sleep_begins_with_one_beat_and_makes_up_for_none() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.left(3_600_000 * MS, start), 3_600_000 * MS);
        let later = start + 1_000_000 * MS;
        assert_eq!(beats(&mut schedule, later, 10, 0, 31), [0, 10, 20, 30]);
        assert_eq!(schedule.left(100 * MS, later + 50 * MS), 80 * MS);
    }
}
