//! Membership in consumer groups by Kafka's classic protocol (join, sync, heartbeat, leave), on the caller's thread: whoever holds
//! partitions calls often enough. What members tell each other is Java's "consumer" protocol and its range assignor, so
//! that members of any client share a group.

use crate::map::Map;
use crate::metadata::{Cluster, check, retry};
use crate::protocol::codes;
use crate::protocol::fields::Writer;
use crate::protocol::messages::{Heartbeat, JoinGroup, JoinedMember, LeaveGroup, SyncGroup};
use crate::record_batch::Reader;
use crate::{Assignment, Backoff, Error, ErrorKind, Result};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A member that has not been heard of for so long is out, and others get what it held.
const SESSION: Duration = Duration::from_secs(10);
/// How long members may take to come back when the group changes.
const REBALANCE: Duration = Duration::from_secs(10);
/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Between two attempts to give one.
const HEARTBEAT_AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for the answer to one.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the leader looks whether topics have more partitions.
const COUNT: Duration = Duration::from_secs(60);
/// Attempts to join before an error is told; the group may change meanwhile.
const JOINS: usize = 5;
/// Topics of a group: the leader asks for the partitions of each.
const TOPICS_MAX: usize = 1000;
/// Partitions that a leader may give to one member.
const PARTITIONS_MAX: usize = 100_000;
/// Longest name of a topic. Source: org.apache.kafka.common.internals.Topic.
const TOPIC_BYTES_MAX: usize = 249;

const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "range";

/// This client's memberships, by group.
#[derive(Default)]
pub struct Members(Map<String, Member>);

#[derive(Default)]
struct Member {
    /// Given by the coordinator; empty before that.
    id: String,
    joined: Option<Joined>,
}

struct Joined {
    held: Assignment,
    /// The last sign of life that was answered.
    heard_at: Instant,
    /// The next sign of life.
    due_at: Instant,
    /// Of the group's leader: partitions of each topic, and when they were counted.
    counted: Option<(Map<String, i32>, Instant)>,
}

/// As whom offsets are committed.
pub struct Identity {
    pub id: String,
    pub generation: i32,
}

impl Members {
    pub fn poll_assignment(
        &mut self,
        cluster: &mut Cluster,
        pace: &mut Backoff,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        let member = self.0.or_default(group.to_owned());
        if let Some(joined) = &member.joined
            && Instant::now() < joined.due_at
        {
            return Ok(joined.held.clone());
        }
        member.live(cluster, group);
        match &member.joined {
            Some(joined) => Ok(joined.held.clone()),
            None => pace.retry(within, || {
                member
                    .join(cluster, group, topics)
                    .inspect_err(|_| cluster.forget_coordinator(group))
            }),
        }
    }

    pub fn leave(&mut self, cluster: &mut Cluster, group: &str) -> Result<()> {
        let Some(Member { id, .. }) = self.0.remove(group) else { return Ok(()) };
        if id.is_empty() {
            return Ok(());
        }
        let host = cluster.coordinator(group)?;
        let what = format!("leave group {group}");
        let code = cluster.ask(&what, &host, &LeaveGroup { group, member: &id }, ANSWER)?;
        check(code, format_args!("{what} at {host}"))
    }

    /// As whom offsets of `group` are committed; `None` if it was never joined.
    ///
    /// # Errors
    /// It was, but this is no member now.
    pub fn identity(&self, group: &str) -> Result<Option<Identity>> {
        let Some(Member { id, joined }) = self.0.get(group) else { return Ok(None) };
        match joined {
            Some(joined) => {
                Ok(Some(Identity { id: id.clone(), generation: joined.held.generation }))
            }
            None => {
                let text = format!("commit offsets of {group}: this is no member now");
                Err(Error { kind: ErrorKind::Fenced, code: codes::UNKNOWN_MEMBER_ID, text })
            }
        }
    }

    /// After a call was refused because others hold the partitions by now.
    pub fn fenced(&mut self, group: &str, err: &Error) {
        if let Some(member) = self.0.get_mut(group) {
            member.fenced(err);
        }
    }
}

impl Member {
    fn fenced(&mut self, err: &Error) {
        self.joined = None;
        if err.code == codes::UNKNOWN_MEMBER_ID {
            self.id.clear();
        }
    }

    /// Gives a sign of life; afterwards it is joined, or not any more.
    fn live(&mut self, cluster: &mut Cluster, group: &str) {
        let Some(joined) = &mut self.joined else { return };
        let result = heartbeat(cluster, group, &self.id, joined.held.generation);
        let now = Instant::now();
        match result {
            Ok(()) => {
                (joined.heard_at, joined.due_at) = (now, now + HEARTBEAT);
                if joined.has_outgrown(cluster) {
                    self.joined = None;
                }
            }
            Err(err) if err.kind == ErrorKind::Fenced => {
                log::info!(group, err:%; "the consumer group changes");
                self.fenced(&err);
            }
            Err(err) => {
                log::warn!(group, err:%; "no sign of life got through");
                cluster.forget_coordinator(group);
                joined.due_at = now + HEARTBEAT_AGAIN;
                // Until then nobody else gets what is held.
                if now >= joined.heard_at + SESSION {
                    self.joined = None;
                }
            }
        }
    }

    /// Until the group has agreed on who holds what.
    fn join(&mut self, cluster: &mut Cluster, group: &str, topics: &[&str]) -> Result<Assignment> {
        for _ in 0..JOINS {
            match self.try_join(cluster, group, topics) {
                Ok(Some(joined)) => {
                    let held = joined.held.clone();
                    self.joined = Some(joined);
                    return Ok(held);
                }
                Ok(None) => {}
                Err(err) if err.kind == ErrorKind::Fenced => self.fenced(&err),
                Err(err) => return Err(err),
            }
        }
        Err(retry(0, format!("join group {group}: it changes again and again")))
    }

    /// `None` if the coordinator gave an id that it wants to see again.
    fn try_join(
        &mut self,
        cluster: &mut Cluster,
        group: &str,
        topics: &[&str],
    ) -> Result<Option<Joined>> {
        let host = cluster.coordinator(group)?;
        let what = format!("join group {group}");
        let request = JoinGroup {
            group,
            session_ms: SESSION.as_millis() as i32,
            rebalance_ms: REBALANCE.as_millis() as i32,
            member: &self.id,
            protocol_type: PROTOCOL_TYPE,
            protocol: ASSIGNOR,
            subscription: &subscription(topics),
        };
        let patience = REBALANCE + cluster.config.timeout;
        let reply = cluster.ask(&what, &host, &request, patience)?;
        if reply.code == codes::MEMBER_ID_REQUIRED {
            self.id = reply.member;
            return Ok(None);
        }
        check(reply.code, format_args!("{what} at {host}"))?;
        self.id = reply.member;
        let generation = reply.generation;
        let (mut assignments, mut counted) = (Vec::new(), None);
        if reply.leader == self.id {
            let counts = count(cluster, &reply.members)?;
            assignments = share_out(&reply.members, &counts);
            counted = Some((counts, Instant::now()));
        }
        let request = SyncGroup { group, generation, member: &self.id, assignments: &assignments };
        let reply = cluster.ask(&what, &host, &request, patience)?;
        check(reply.code, format_args!("{what}, and wait for its leader, at {host}"))?;
        let partitions = read_assignment(&reply.assignment)
            .ok_or_else(|| retry(0, format!("{what}: its leader's assignment is unreadable")))?;
        let now = Instant::now();
        let held = Assignment { generation, partitions };
        Ok(Some(Joined { held, heard_at: now, due_at: now + HEARTBEAT, counted }))
    }
}

impl Joined {
    /// Of the leader: has a topic other partitions than were shared out?
    fn has_outgrown(&mut self, cluster: &mut Cluster) -> bool {
        let Some((counts, at)) = &mut self.counted else { return false };
        if at.elapsed() < COUNT {
            return false;
        }
        *at = Instant::now();
        let grown = |(topic, count): &(String, i32)| {
            cluster.load(topic).is_ok_and(|leaders| leaders.len() != *count as usize)
        };
        counts.0.iter().any(grown)
    }
}

fn heartbeat(cluster: &mut Cluster, group: &str, id: &str, generation: i32) -> Result<()> {
    let host = cluster.coordinator(group)?;
    let what = format!("give group {group} a sign of life");
    let request = Heartbeat { group, generation, member: id };
    let code = cluster.ask(&what, &host, &request, ANSWER.min(cluster.config.timeout))?;
    check(code, format_args!("{what} at {host}"))
}

/// Partitions of all topics that members read; a topic that does not exist has none.
fn count(cluster: &mut Cluster, members: &[JoinedMember]) -> Result<Map<String, i32>> {
    let mut counts = Map::default();
    for topic in members.iter().flat_map(JoinedMember::topics) {
        if counts.has(&topic) {
            continue;
        }
        if counts.0.len() == TOPICS_MAX {
            let text = format!("the members of the group read more than {TOPICS_MAX} topics");
            return Err(Error { kind: ErrorKind::Config, code: 0, text });
        }
        let count = match cluster.load(&topic) {
            Ok(leaders) => i32::try_from(leaders.len()).unwrap_or(i32::MAX),
            Err(err) if err.code == codes::UNKNOWN_TOPIC_OR_PARTITION => 0,
            Err(err) => return Err(err),
        };
        counts.insert(topic, count);
    }
    Ok(counts)
}

/// What one member gets: topics, and partitions of each.
type Share<'a> = Vec<(&'a str, Range<i32>)>;

/// Each topic's partitions in ranges, one for each of its members in the order of their ids, as Java's range assignor does.
fn share_out<'a>(
    members: &'a [JoinedMember],
    counts: &Map<String, i32>,
) -> Vec<(&'a str, Vec<u8>)> {
    let mut topics: Map<&str, Vec<String>> = Map::default();
    for member in members {
        topics.insert(&member.id, member.topics());
    }
    let mut shares: Vec<(&str, Share<'_>)> =
        topics.0.iter().map(|(id, _)| (*id, Share::new())).collect();
    for (topic, count) in &counts.0 {
        let reads = |i: &usize| topics.0[*i].1.contains(topic);
        let readers: Vec<usize> = (0..shares.len()).filter(reads).collect();
        let members = i32::try_from(readers.len()).unwrap_or(i32::MAX).max(1);
        let (each, more) = (count / members, count % members);
        let mut first = 0;
        for (i, reader) in (0..).zip(readers) {
            let end = first + each + i32::from(i < more);
            if end > first {
                shares[reader].1.push((topic, first..end));
            }
            first = end;
        }
    }
    shares.into_iter().map(|(id, share)| (id, assignment(&share))).collect()
}

impl JoinedMember {
    /// Those that it reads.
    fn topics(&self) -> Vec<String> {
        read_subscription(&self.subscription).unwrap_or_default()
    }
}

/// What a member tells the leader, in version 0 of Java's ConsumerProtocolSubscription: the topics, and no data of the user's.
fn subscription(topics: &[&str]) -> Vec<u8> {
    let mut out = Writer::default();
    out.i16(0);
    out.i32(topics.len() as i32);
    topics.iter().for_each(|topic| out.old_text(topic));
    out.i32(-1);
    out.0
}

/// What the leader tells a member, in version 0 of Java's ConsumerProtocolAssignment.
fn assignment(share: &Share<'_>) -> Vec<u8> {
    let mut out = Writer::default();
    out.i16(0);
    out.i32(share.len() as i32);
    for (topic, partitions) in share {
        out.old_text(topic);
        out.i32(partitions.len() as i32);
        partitions.clone().for_each(|partition| out.i32(partition));
    }
    out.i32(-1);
    out.0
}

/// The topics of a subscription. Later versions have more behind them.
pub fn read_subscription(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader(bytes);
    let _version = reader.i16()?;
    let mut topics = Vec::new();
    for _ in 0..reader.i32()? {
        topics.push(read_text(&mut reader)?);
    }
    Some(topics)
}

/// The partitions of an assignment; no bytes at all are none.
pub fn read_assignment(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut partitions = Vec::new();
    if bytes.is_empty() {
        return Some(partitions);
    }
    let mut reader = Reader(bytes);
    let _version = reader.i16()?;
    for _ in 0..reader.i32()? {
        let topic = read_text(&mut reader)?;
        for _ in 0..reader.i32()? {
            if partitions.len() == PARTITIONS_MAX {
                return None;
            }
            partitions.push((topic.clone(), reader.i32()?));
        }
    }
    Some(partitions)
}

fn read_text(reader: &mut Reader<'_>) -> Option<String> {
    let length = usize::try_from(reader.i16()?).ok().filter(|it| *it <= TOPIC_BYTES_MAX)?;
    Some(String::from_utf8_lossy(reader.take(length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, topics: &[&str]) -> JoinedMember {
        JoinedMember { id: id.to_owned(), subscription: subscription(topics) }
    }

    fn shares(
        members: &[JoinedMember],
        counts: &[(&str, i32)],
    ) -> Vec<(String, Vec<(String, i32)>)> {
        let mut all = Map::default();
        for (topic, count) in counts {
            all.insert((*topic).to_owned(), *count);
        }
        let share =
            |(id, share): (&str, Vec<u8>)| (id.to_owned(), read_assignment(&share).unwrap());
        share_out(members, &all).into_iter().map(share).collect()
    }

    #[test]
    fn each_topic_is_shared_out_in_ranges_among_those_who_read_it() {
        let members = [member("b", &["t", "u"]), member("a", &["t"]), member("c", &["t", "gone"])];
        let of = |topic: &str, partitions: Range<i32>| {
            partitions.map(|it| (topic.to_owned(), it)).collect::<Vec<_>>()
        };
        let found = shares(&members, &[("t", 8), ("u", 2), ("gone", 0)]);
        let expected = [
            ("a".to_owned(), of("t", 0..3)),
            ("b".to_owned(), [of("t", 3..6), of("u", 0..2)].concat()),
            ("c".to_owned(), of("t", 6..8)),
        ];
        assert_eq!(found, expected);
        // More members than partitions: the last ones get none, but an answer.
        let found = shares(&members, &[("t", 1)]);
        assert_eq!(found.iter().map(|(_, it)| it.len()).collect::<Vec<_>>(), [1, 0, 0]);
    }

    /// Version 1 by Java's client: topics "a" and "bc", no data, partition 7 of "a" owned.
    #[test]
    fn subscriptions_of_later_versions_are_read() {
        let bytes =
            b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x07";
        assert_eq!(read_subscription(bytes).unwrap(), ["a", "bc"]);
        assert_eq!(read_subscription(&subscription(&["a", "bc"])).unwrap(), ["a", "bc"]);
        for cut in 0..13 {
            assert_eq!(read_subscription(&bytes[..cut]), None);
        }
        assert_eq!(read_subscription(b"\0\0\x7f\xff\xff\xff\0\x01a"), None);
        assert_eq!(read_assignment(b"\0\0\0\0\0\x01\0\x01a\x7f\xff\xff\xff\0\0\0\x01"), None);
        assert_eq!(read_assignment(b"").unwrap(), []);
    }
}
