//! Offsets: log ranges, group coordinators, committed offsets.

use super::error::{from_raw, no_leader};
use super::raw_requests::{self, Bound};
use super::session::Session;
use kafka_client::protocol::codes;
use kafka_client::{Api, CommittedOffset, Error, ErrorKind, Position, Result};
use std::collections::BTreeMap;
use std::io;

impl Session {
    pub fn log_range(&mut self, topic: &str) -> Result<Vec<(i64, i64)>> {
        self.load_metadata(topic)?;
        let count = self.partitions(topic);
        let mut by_leader: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in (0..).take(count) {
            by_leader.entry(self.leader(topic, partition)?).or_default().push(partition);
        }
        let mut ranges = vec![(None, None); count];
        for (host, partitions) in by_leader {
            for bound in [Bound::Earliest, Bound::End] {
                let response = raw_requests::list_offsets(&host, topic, &partitions, bound);
                let what = format_args!("list offsets of {topic} at {host}");
                for (partition, offset) in from_raw(response, &what)? {
                    let Some(range) = ranges.get_mut(partition as usize) else { continue };
                    *(match bound {
                        Bound::Earliest => &mut range.0,
                        Bound::End => &mut range.1,
                    }) = Some(offset).filter(|it| *it >= 0);
                }
            }
        }
        let both = |(partition, (earliest, end)): (i32, (Option<i64>, Option<i64>))| {
            earliest.zip(end).ok_or_else(|| no_leader(topic, partition))
        };
        (0..).zip(ranges).map(both).collect()
    }

    /// Returns the group's coordinator as host:port. It has responded to a probe.
    fn coordinator(&mut self, group: &str) -> Result<String> {
        if let Some(host) = self.coordinators.get(group) {
            return Ok(host.clone());
        }
        let response = raw_requests::find_coordinator(&self.bootstrap, group);
        let what = format_args!("find the coordinator of {group} at {}", self.bootstrap);
        let host = from_raw(response, &what)?;
        self.probe(&host)?;
        self.coordinators.insert(group.to_owned(), host.clone());
        Ok(host)
    }

    pub fn committed(&mut self, group: &str, topic: &str) -> Result<Vec<Option<CommittedOffset>>> {
        let count = self.describe(topic)?.leaders.len();
        let host = self.coordinator(group)?;
        let partitions: Vec<i32> = (0..).take(count).collect();
        let what = format!("fetch committed offsets of {group} for {topic} at {host}");
        let committed = raw_requests::committed_offsets(&host, group, topic, &partitions);
        let mut offsets: Vec<Option<Option<CommittedOffset>>> = vec![None; count];
        for (partition, committed) in from_coordinator(committed, &what)? {
            let index = usize::try_from(partition).ok();
            if let Some(entry) = index.and_then(|index| offsets.get_mut(index)) {
                *entry = Some((committed.offset >= 0).then_some(committed));
            }
        }
        // Without this check, a missing partition would be read from its log start offset.
        let all: Option<Vec<Option<CommittedOffset>>> = offsets.into_iter().collect();
        let missing =
            || Error::retryable(0, format!("{what}: partitions are missing in the response"));
        all.ok_or_else(missing)
    }

    pub fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        metadata: &str,
    ) -> Result<()> {
        let host = self.coordinator(group)?;
        let what = format!("commit offsets of {group} for {topic} at {host}");
        let committed = raw_requests::commit_offsets(&host, group, topic, positions, metadata);
        from_coordinator(committed, &what)
    }
}

/// Returns the result of a request to a group coordinator.
fn from_coordinator<T>(response: io::Result<std::result::Result<T, i16>>, what: &str) -> Result<T> {
    response.map_err(|err| Error::retryable(0, format!("{what}: {err}")))?.map_err(|code| {
        let text = format!("{what}: {}", codes::Name(code));
        Error { kind: ErrorKind::of_code(Api::Other, code), code, text }
    })
}
