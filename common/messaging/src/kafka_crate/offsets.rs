//! Offsets: log ranges, group coordinators, committed offsets.

use super::error::{Call, from_raw, no_leader};
use super::raw_requests::{self, Bound};
use super::session::Session;
use kafka::client::{CommitOffset, PartitionOffset};
use kafka_client::{Position, Result};
use std::collections::BTreeMap;
use std::time::Duration;

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

    pub fn committed(&mut self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        self.load_metadata(topic)?;
        let host = self.coordinator(group)?;
        let committed = self.call(Call::Committed, &host, topic, Duration::ZERO, |kafka| {
            kafka.fetch_group_topic_offset(group, topic)
        })?;
        let mut offsets = vec![None; self.partitions(topic)];
        for PartitionOffset { offset, partition } in committed {
            if let Some(entry) = offsets.get_mut(partition as usize).filter(|_| offset >= 0) {
                *entry = Some(offset);
            }
        }
        Ok(offsets)
    }

    pub fn commit(&mut self, group: &str, topic: &str, positions: &[Position]) -> Result<()> {
        self.ensure_metadata(topic)?;
        let host = self.coordinator(group)?;
        let offsets = positions.iter().map(|it| CommitOffset::new(topic, it.partition, it.next));
        self.call(Call::Commit, &host, topic, Duration::ZERO, |kafka| {
            kafka.commit_offsets(group, offsets)
        })
    }
}
