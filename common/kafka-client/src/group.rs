//! Membership in consumer groups by the classic rebalance protocol (JoinGroup, SyncGroup,
//! Heartbeat, LeaveGroup), on the caller's thread.
//!
//! Subscriptions and assignments have the format of the Java client's protocol type "consumer".
//! Partitions are assigned by its range assignor, so members with other clients can share a group.

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result, check_code};
use crate::map::Map;
use crate::metadata::Cluster;
use crate::protocol::messages::{Heartbeat, JoinGroup, JoinGroupMember, LeaveGroup, SyncGroup};
use crate::protocol::{DecodeError, Reader, Writer, codes};
use crate::types::Assignment;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The coordinator removes a member that sends no heartbeat for this time.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for members to rejoin in a rebalance.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Interval after a failed heartbeat.
const HEARTBEAT_RETRY: Duration = Duration::from_secs(1);
/// Timeout of Heartbeat and LeaveGroup requests.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval in which the group leader checks the number of partitions.
const PARTITIONS_CHECK: Duration = Duration::from_secs(60);
/// Attempts to join. Another rebalance may begin during each of them.
const JOIN_ATTEMPTS: usize = 5;
/// Limit of the topics of a group. The group leader requests metadata of each.
const TOPICS_MAX: usize = 1000;
/// Limit of a topic name, in bytes. Source: org.apache.kafka.common.internals.Topic.
const TOPIC_BYTES_MAX: usize = 249;

const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "range";

/// The memberships of this client, by group id.
#[derive(Default)]
pub struct Members(Map<String, Member>);

#[derive(Default)]
struct Member {
    /// Empty until the coordinator assigns one.
    member_id: String,
    /// `None` unless this client is a member of the current generation.
    membership: Option<Membership>,
}

struct Membership {
    assignment: Assignment,
    last_heartbeat: Instant,
    next_heartbeat: Instant,
    /// For the group leader: the number of partitions of each topic, and the time of that check.
    partition_counts: Option<(Map<String, i32>, Instant)>,
}

/// The member that commits offsets.
pub struct MemberIdentity {
    pub member_id: String,
    pub generation_id: i32,
}

impl Members {
    pub fn poll_assignment(
        &mut self,
        cluster: &mut Cluster,
        backoff: &mut Backoff,
        group_id: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        let member = self.0.or_default(group_id.to_owned());
        if let Some(membership) = &member.membership
            && Instant::now() < membership.next_heartbeat
        {
            return Ok(membership.assignment.clone());
        }
        member.send_heartbeat(cluster, group_id);
        match &member.membership {
            Some(membership) => Ok(membership.assignment.clone()),
            None => backoff.retry(within, || {
                member
                    .join(cluster, group_id, topics)
                    .inspect_err(|_| cluster.invalidate_coordinator(group_id))
            }),
        }
    }

    pub fn leave(&mut self, cluster: &mut Cluster, group_id: &str) -> Result<()> {
        let Some(Member { member_id, .. }) = self.0.remove(group_id) else { return Ok(()) };
        if member_id.is_empty() {
            return Ok(());
        }
        let host = cluster.coordinator(group_id)?;
        let what = format!("leave group {group_id}");
        let request = LeaveGroup { group_id, member_id: &member_id };
        let code = cluster.call(&what, &host, &request, HEARTBEAT_TIMEOUT)?;
        check_code(code, format_args!("{what} at {host}"))
    }

    /// The identity for commits, or `None` if this client has not joined the group.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this client was a member and no longer is.
    pub fn identity(&self, group_id: &str) -> Result<Option<MemberIdentity>> {
        let Some(Member { member_id, membership }) = self.0.get(group_id) else { return Ok(None) };
        let Some(membership) = membership else {
            let text = format!("commit offsets of {group_id}: this client is no longer a member");
            return Err(Error { kind: ErrorKind::Fenced, code: codes::UNKNOWN_MEMBER_ID, text });
        };
        let generation_id = membership.assignment.generation;
        Ok(Some(MemberIdentity { member_id: member_id.clone(), generation_id }))
    }

    /// Ends the membership after an error of the kind [`ErrorKind::Fenced`].
    pub fn fenced(&mut self, group_id: &str, err: &Error) {
        if let Some(member) = self.0.get_mut(group_id) {
            member.fenced(err);
        }
    }
}

impl Member {
    fn fenced(&mut self, err: &Error) {
        self.membership = None;
        if err.code == codes::UNKNOWN_MEMBER_ID {
            self.member_id.clear();
        }
    }

    /// Sends a heartbeat. Ends the membership if a rebalance has begun or the session timed out.
    fn send_heartbeat(&mut self, cluster: &mut Cluster, group_id: &str) {
        let Some(membership) = &mut self.membership else { return };
        let generation_id = membership.assignment.generation;
        let result = heartbeat(cluster, group_id, &self.member_id, generation_id);
        let now = Instant::now();
        match result {
            Ok(()) => {
                membership.last_heartbeat = now;
                membership.next_heartbeat = now + HEARTBEAT_INTERVAL;
                if membership.partitions_changed(cluster) {
                    self.membership = None;
                }
            }
            Err(err) if err.kind == ErrorKind::Fenced => {
                log::info!(
                    group = group_id, error:% = err;
                    "consumer group rebalances, joining again"
                );
                self.fenced(&err);
            }
            Err(err) => {
                log::warn!(group = group_id, error:% = err; "heartbeat failed, retrying");
                cluster.invalidate_coordinator(group_id);
                membership.next_heartbeat = now + HEARTBEAT_RETRY;
                // Before the session timeout, the coordinator does not reassign the partitions.
                if now >= membership.last_heartbeat + SESSION_TIMEOUT {
                    self.membership = None;
                }
            }
        }
    }

    /// Joins the group, again if another rebalance begins.
    fn join(
        &mut self,
        cluster: &mut Cluster,
        group_id: &str,
        topics: &[&str],
    ) -> Result<Assignment> {
        for _ in 0..JOIN_ATTEMPTS {
            match self.try_join(cluster, group_id, topics) {
                Ok(Some(membership)) => {
                    let assignment = membership.assignment.clone();
                    self.membership = Some(membership);
                    return Ok(assignment);
                }
                Ok(None) => {}
                Err(err) if err.kind == ErrorKind::Fenced => self.fenced(&err),
                Err(err) => return Err(err),
            }
        }
        Err(Error::retryable(0, format!("join group {group_id}: the group keeps rebalancing")))
    }

    /// Returns `None` if the coordinator assigned a member id for the next attempt (KIP-394).
    fn try_join(
        &mut self,
        cluster: &mut Cluster,
        group_id: &str,
        topics: &[&str],
    ) -> Result<Option<Membership>> {
        let host = cluster.coordinator(group_id)?;
        let what = format!("join group {group_id}");
        let request = JoinGroup {
            group_id,
            session_timeout_ms: SESSION_TIMEOUT.as_millis() as i32,
            rebalance_timeout_ms: REBALANCE_TIMEOUT.as_millis() as i32,
            member_id: &self.member_id,
            protocol_type: PROTOCOL_TYPE,
            protocol_name: ASSIGNOR,
            metadata: &encode_subscription(topics),
        };
        let within = REBALANCE_TIMEOUT + cluster.config.timeout;
        let response = cluster.call(&what, &host, &request, within)?;
        if response.error_code == codes::MEMBER_ID_REQUIRED {
            self.member_id = response.member_id;
            return Ok(None);
        }
        check_code(response.error_code, format_args!("{what} at {host}"))?;
        self.member_id = response.member_id;
        let generation_id = response.generation_id;
        let (mut assignments, mut partition_counts) = (Vec::new(), None);
        if response.leader == self.member_id {
            let counts = count_partitions(cluster, &response.members)?;
            assignments = assign_ranges(&response.members, &counts);
            partition_counts = Some((counts, Instant::now()));
        }
        let member_id = &self.member_id;
        let request = SyncGroup { group_id, generation_id, member_id, assignments: &assignments };
        let response = cluster.call(&what, &host, &request, within)?;
        check_code(response.error_code, format_args!("{what}, wait for its leader, at {host}"))?;
        let unreadable = || Error::retryable(0, format!("{what}: the assignment is unreadable"));
        let partitions = decode_assignment(&response.assignment).ok_or_else(unreadable)?;
        let now = Instant::now();
        Ok(Some(Membership {
            assignment: Assignment { generation: generation_id, partitions },
            last_heartbeat: now,
            next_heartbeat: now + HEARTBEAT_INTERVAL,
            partition_counts,
        }))
    }
}

impl Membership {
    /// For the group leader: true if the number of partitions of a topic has changed.
    fn partitions_changed(&mut self, cluster: &mut Cluster) -> bool {
        let Some((counts, checked_at)) = &mut self.partition_counts else { return false };
        if checked_at.elapsed() < PARTITIONS_CHECK {
            return false;
        }
        *checked_at = Instant::now();
        let changed = |(topic, count): &(String, i32)| {
            cluster.load_metadata(topic).is_ok_and(|it| it.leaders.len() != *count as usize)
        };
        counts.0.iter().any(changed)
    }
}

fn heartbeat(
    cluster: &mut Cluster,
    group_id: &str,
    member_id: &str,
    generation_id: i32,
) -> Result<()> {
    let host = cluster.coordinator(group_id)?;
    let what = format!("send a heartbeat to group {group_id}");
    let request = Heartbeat { group_id, generation_id, member_id };
    let within = HEARTBEAT_TIMEOUT.min(cluster.config.timeout);
    let code = cluster.call(&what, &host, &request, within)?;
    check_code(code, format_args!("{what} at {host}"))
}

/// The number of partitions of each topic that members subscribe to. It is 0 if the topic does not
/// exist.
fn count_partitions(
    cluster: &mut Cluster,
    members: &[JoinGroupMember],
) -> Result<Map<String, i32>> {
    let mut counts = Map::default();
    for topic in members.iter().flat_map(topics_of) {
        if counts.contains(&topic) {
            continue;
        }
        if counts.0.len() == TOPICS_MAX {
            let text = format!("members of the group subscribe to more than {TOPICS_MAX} topics");
            return Err(Error { kind: ErrorKind::Config, code: 0, text });
        }
        let count = match cluster.load_metadata(&topic) {
            Ok(found) => i32::try_from(found.leaders.len()).unwrap_or(i32::MAX),
            Err(err) if err.code == codes::UNKNOWN_TOPIC_OR_PARTITION => 0,
            Err(err) => return Err(err),
        };
        counts.insert(topic, count);
    }
    Ok(counts)
}

/// The partitions that one member is assigned, by topic.
type Ranges<'a> = Vec<(&'a str, Range<i32>)>;

/// Divides the partitions of each topic into one range for each subscribed member, in the order of
/// member ids.
fn assign_ranges<'a>(
    members: &'a [JoinGroupMember],
    counts: &Map<String, i32>,
) -> Vec<(&'a str, Vec<u8>)> {
    let mut topics: Map<&str, Vec<String>> = Map::default();
    for member in members {
        topics.insert(&member.member_id, topics_of(member));
    }
    let mut assignments: Vec<(&str, Ranges<'_>)> =
        topics.0.iter().map(|(id, _)| (*id, Ranges::new())).collect();
    for (topic, count) in &counts.0 {
        let is_subscribed = |i: &usize| topics.0[*i].1.contains(topic);
        let subscribed: Vec<usize> = (0..assignments.len()).filter(is_subscribed).collect();
        let members = i32::try_from(subscribed.len()).unwrap_or(i32::MAX).max(1);
        let (each, remainder) = (count / members, count % members);
        let mut first = 0;
        for (i, member) in (0..).zip(subscribed) {
            let end = first + each + i32::from(i < remainder);
            if end > first {
                assignments[member].1.push((topic, first..end));
            }
            first = end;
        }
    }
    assignments.into_iter().map(|(id, ranges)| (id, encode_assignment(&ranges))).collect()
}

/// The topics that a member subscribes to.
fn topics_of(member: &JoinGroupMember) -> Vec<String> {
    decode_subscription(&member.metadata).unwrap_or_default()
}

/// ConsumerProtocolSubscription, version 0.
fn encode_subscription(topics: &[&str]) -> Vec<u8> {
    let mut to = Writer::default();
    to.i16(0); // version
    to.i32(topics.len() as i32);
    topics.iter().for_each(|topic| to.string(topic));
    to.i32(-1); // user_data
    to.0
}

/// ConsumerProtocolAssignment, version 0.
fn encode_assignment(ranges: &Ranges<'_>) -> Vec<u8> {
    let mut to = Writer::default();
    to.i16(0); // version
    to.i32(ranges.len() as i32);
    for (topic, partitions) in ranges {
        to.string(topic);
        to.i32(partitions.len() as i32);
        partitions.clone().for_each(|partition| to.i32(partition));
    }
    to.i32(-1); // user_data
    to.0
}

/// The topics of a subscription. The fields after them differ between versions and are not read.
pub fn decode_subscription(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(bytes);
    reader.skip(2); // version
    let mut topics = Vec::new();
    reader.array(&mut |it| topics.push(decode_topic(it)));
    reader.so_far().ok()?;
    Some(topics)
}

/// The partitions of an assignment. It may have no bytes if no partition is assigned.
pub fn decode_assignment(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut partitions = Vec::new();
    if bytes.is_empty() {
        return Some(partitions);
    }
    let mut reader = Reader::new(bytes);
    reader.skip(2); // version
    reader.array(&mut |it| {
        let topic = decode_topic(it);
        it.array(&mut |it| partitions.push((topic.clone(), it.i32())));
    });
    reader.so_far().ok()?;
    Some(partitions)
}

fn decode_topic(from: &mut Reader<'_>) -> String {
    let topic = from.string();
    if topic.len() > TOPIC_BYTES_MAX {
        from.fail(DecodeError::InvalidString);
        return String::new();
    }
    topic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, topics: &[&str]) -> JoinGroupMember {
        JoinGroupMember { member_id: id.to_owned(), metadata: encode_subscription(topics) }
    }

    fn assignments(
        members: &[JoinGroupMember],
        counts: &[(&str, i32)],
    ) -> Vec<(String, Vec<(String, i32)>)> {
        let mut all = Map::default();
        for (topic, count) in counts {
            all.insert((*topic).to_owned(), *count);
        }
        let decoded =
            |(id, bytes): (&str, Vec<u8>)| (id.to_owned(), decode_assignment(&bytes).unwrap());
        assign_ranges(members, &all).into_iter().map(decoded).collect()
    }

    #[test]
    fn range_assignor_divides_topics_among_subscribers() {
        let members = [member("b", &["t", "u"]), member("a", &["t"]), member("c", &["t", "gone"])];
        let of = |topic: &str, partitions: Range<i32>| {
            partitions.map(|it| (topic.to_owned(), it)).collect::<Vec<_>>()
        };
        let assigned = assignments(&members, &[("t", 8), ("u", 2), ("gone", 0)]);
        let expected = [
            ("a".to_owned(), of("t", 0..3)),
            ("b".to_owned(), [of("t", 3..6), of("u", 0..2)].concat()),
            ("c".to_owned(), of("t", 6..8)),
        ];
        assert_eq!(assigned, expected);
        // With more members than partitions, the last ones get an empty assignment.
        let assigned = assignments(&members, &[("t", 1)]);
        assert_eq!(assigned.iter().map(|(_, it)| it.len()).collect::<Vec<_>>(), [1, 0, 0]);
    }

    /// A subscription of the Java client in version 1: topics "a" and "bc", no user data, and
    /// partition 7 of "a" as an owned partition.
    #[test]
    fn subscriptions_of_later_versions_are_decoded() {
        let bytes =
            b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x07";
        assert_eq!(decode_subscription(bytes).unwrap(), ["a", "bc"]);
        assert_eq!(decode_subscription(&encode_subscription(&["a", "bc"])).unwrap(), ["a", "bc"]);
        for cut in 0..13 {
            assert_eq!(decode_subscription(&bytes[..cut]), None);
        }
        assert_eq!(decode_subscription(b"\0\0\x7f\xff\xff\xff\0\x01a"), None);
        assert_eq!(decode_assignment(b"\0\0\0\0\0\x01\0\x01a\x7f\xff\xff\xff\0\0\0\x01"), None);
        assert_eq!(decode_assignment(b"").unwrap(), []);
    }
}
