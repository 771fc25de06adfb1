//! Requests that the kafka crate lacks or sends without timeouts: version probe, topics, group
//! coordinator, committed offsets, log start and end offsets, and the header of a stored batch.
//! Each uses a separate connection.

use crate::config::CLIENT_ID;
use kafka_client::protocol::messages::{
    ApiVersions, Broker, EARLIEST, LATEST, Metadata, MetadataResponse, Partition, Topic,
};
use kafka_client::protocol::{ApiSpec, DecodeError, Reader, Request, Writer};
use kafka_client::{CommittedOffset, Position, broker_address};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Timeout of the connect, and of each read and write.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of most responses, bytes. An ApiVersions response has less than 1 KiB.
const RESPONSE_BYTES_MAX: usize = 64 << 10;
/// Response header: length and correlation id.
const HEADER_BYTES: usize = 8;

/// The first version of Metadata that can leave missing topics alone (Kafka 0.11).
pub const OLD_METADATA: &ApiSpec = &ApiSpec::inflexible(3, "Metadata", 4);
const FETCH: &ApiSpec = &ApiSpec::inflexible(1, "Fetch", 4);
// The crate sends version 0. After a leader election, that version may return an end below
// committed offsets (KIP-207).
const LIST_OFFSETS: &ApiSpec = &ApiSpec::inflexible(2, "ListOffsets", 1);
const OFFSET_COMMIT: &ApiSpec = &ApiSpec::inflexible(8, "OffsetCommit", 2);
const OFFSET_FETCH: &ApiSpec = &ApiSpec::inflexible(9, "OffsetFetch", 1);
const FIND_COORDINATOR: &ApiSpec = &ApiSpec::inflexible(10, "FindCoordinator", 0);

/// The versions of requests that a broker supports, as far as the adapter must know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerVersions {
    pub lowest_fetch: i16,
    pub highest_metadata: i16,
}

/// Returns the versions that the broker at `host` (host:port) supports.
pub fn broker_versions(host: &str) -> io::Result<BrokerVersions> {
    let frame = send(host, ApiVersions::SPEC, &|_| {}, RESPONSE_BYTES_MAX)?;
    let mut response = Reader::new(&frame);
    let body = ApiVersions::decode(&mut response);
    check(&response)?;
    let range = |spec: &ApiSpec| {
        let found = body.api_versions.iter().find(|it| it.key == spec.key);
        let (name, code) = (spec.name, body.error_code);
        let missing = || format!("{name} is not supported (error code {code})");
        found.ok_or_else(|| io::Error::other(missing()))
    };
    Ok(BrokerVersions {
        lowest_fetch: range(FETCH)?.lowest,
        highest_metadata: range(Metadata::SPEC)?.highest,
    })
}

/// Returns the brokers and `topics` as the broker at `host` knows them. A missing topic is not
/// created. That is why this request precedes each metadata request of the crate: its version 0
/// creates missing topics if the broker has `auto.create.topics.enable=true`.
///
/// `highest_metadata` is from [`broker_versions`]. Topics have no ids if it is below version 10.
pub fn metadata(
    host: &str,
    topics: &[&str],
    highest_metadata: i16,
) -> io::Result<MetadataResponse> {
    if highest_metadata >= Metadata::SPEC.version {
        let request = Metadata { topics };
        let bytes_max = Metadata::SPEC.response_bytes_max;
        let frame = send(host, Metadata::SPEC, &|to| request.encode(to), bytes_max)?;
        let mut response = Reader::new(&frame);
        response.tagged_fields(); // of the response header
        let body = Metadata::decode(&mut response);
        check(&response)?;
        return Ok(body);
    }
    let encode = |to: &mut Writer| {
        to.i32(topics.len() as i32);
        topics.iter().for_each(|topic| to.string(topic));
        to.i8(0); // allow_auto_topic_creation
    };
    let frame = send(host, OLD_METADATA, &encode, OLD_METADATA.response_bytes_max)?;
    let mut response = Reader::new(&frame);
    response.throttle_time();
    let mut brokers = Vec::new();
    response.array(&mut |it| {
        brokers.push(Broker { node_id: it.i32(), host: it.string(), port: it.i32() });
        it.string(); // rack
    });
    response.string(); // cluster_id
    response.skip(4); // controller_id
    let mut found = Vec::new();
    response.array(&mut |it| {
        let (error_code, name) = (it.i16(), it.string());
        it.skip(1); // is_internal
        let mut partitions = Vec::new();
        it.array(&mut |it| {
            it.skip(2); // error_code
            let (partition_index, leader_id) = (it.i32(), it.i32());
            let mut replicas = 0;
            it.array(&mut |it| {
                it.skip(4);
                replicas += 1;
            });
            it.array(&mut |it| it.skip(4)); // isr_nodes
            partitions.push(Partition { partition_index, leader_id, replicas });
        });
        found.push(Topic { error_code, name, topic_id: None, partitions });
    });
    check(&response)?;
    Ok(MetadataResponse { brokers, topics: found })
}

/// Returns the coordinator of `group` as host:port, or the error code of Kafka.
pub fn find_coordinator(host: &str, group: &str) -> io::Result<Result<String, i16>> {
    let frame = send(host, FIND_COORDINATOR, &|to| to.string(group), RESPONSE_BYTES_MAX)?;
    let mut response = Reader::new(&frame);
    let code = response.i16();
    response.skip(4); // node_id
    let coordinator = broker_address(&response.string(), response.i32());
    if code != 0 {
        return Ok(Err(code));
    }
    check(&response)?;
    Ok(Ok(coordinator))
}

/// An end of a partition's log.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// Log start offset.
    Earliest,
    /// High watermark.
    End,
}

/// Returns (partition, offset) for each of `partitions`, which the broker at `host` leads. If one
/// of them fails, returns the error code of Kafka.
pub fn list_offsets(
    host: &str,
    topic: &str,
    partitions: &[i32],
    bound: Bound,
) -> io::Result<Result<Vec<(i32, i64)>, i16>> {
    let encode = |to: &mut Writer| {
        to.i32(-1); // replica_id: a consumer
        to.i32(1); // one topic
        to.string(topic);
        to.i32(partitions.len() as i32);
        for &partition in partitions {
            to.i32(partition);
            to.i64(match bound {
                Bound::Earliest => EARLIEST,
                Bound::End => LATEST,
            });
        }
    };
    let bytes_max = 4 + (2 + topic.len()) + 4 + partitions.len() * (4 + 2 + 8 + 8);
    let frame = send(host, LIST_OFFSETS, &encode, bytes_max)?;
    let mut response = Reader::new(&frame);
    response.skip(4); // one topic
    response.string();
    let (mut offsets, mut error_code) = (Vec::new(), 0);
    response.array(&mut |it| {
        let (partition, code) = (it.i32(), it.i16());
        it.skip(8); // timestamp
        offsets.push((partition, it.i64()));
        error_code = if error_code == 0 { code } else { error_code };
    });
    check(&response)?;
    Ok(if error_code == 0 { Ok(offsets) } else { Err(error_code) })
}

/// Returns the partition, offset and metadata for each of `partitions`. The offset is -1 if the
/// group has committed none. If one of them fails, returns the error code of Kafka. The broker at
/// `host` is the group's coordinator.
///
/// The crate's own request drops the metadata.
pub fn committed_offsets(
    host: &str,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> io::Result<Result<Vec<(i32, CommittedOffset)>, i16>> {
    let encode = |to: &mut Writer| {
        to.string(group);
        to.i32(1); // one topic
        to.string(topic);
        to.i32(partitions.len() as i32);
        partitions.iter().for_each(|partition| to.i32(*partition));
    };
    let frame = send(host, OFFSET_FETCH, &encode, OFFSET_FETCH.response_bytes_max)?;
    let mut response = Reader::new(&frame);
    response.skip(4); // one topic
    response.string();
    let (mut offsets, mut error_code) = (Vec::new(), 0);
    response.array(&mut |it| {
        let (partition, offset, metadata) = (it.i32(), it.i64(), it.string());
        let code = it.i16();
        offsets.push((partition, CommittedOffset { offset, metadata }));
        error_code = if error_code == 0 { code } else { error_code };
    });
    check(&response)?;
    Ok(if error_code == 0 { Ok(offsets) } else { Err(error_code) })
}

/// Commits `positions` with `metadata`, without membership in the group. If one of them fails,
/// returns the error code of Kafka. The broker at `host` is the group's coordinator.
///
/// The crate's own request has no metadata, and repeats a failed request forever.
pub fn commit_offsets(
    host: &str,
    group: &str,
    topic: &str,
    positions: &[Position],
    metadata: &str,
) -> io::Result<Result<(), i16>> {
    let encode = |to: &mut Writer| {
        to.string(group);
        to.i32(-1); // generation_id: not a member
        to.string(""); // member_id
        to.i64(-1); // retention_time_ms: that of the broker
        to.i32(1); // one topic
        to.string(topic);
        to.i32(positions.len() as i32);
        for position in positions {
            to.i32(position.partition);
            to.i64(position.next);
            to.string(metadata);
        }
    };
    let frame = send(host, OFFSET_COMMIT, &encode, OFFSET_COMMIT.response_bytes_max)?;
    let mut response = Reader::new(&frame);
    response.skip(4); // one topic
    response.string();
    let (mut results, mut error_code) = (0, 0);
    response.array(&mut |it| {
        it.skip(4); // partition_index
        let code = it.i16();
        results += 1;
        error_code = if error_code == 0 { code } else { error_code };
    });
    check(&response)?;
    if results != positions.len() {
        return Err(io::Error::other("partitions are missing in the response"));
    }
    Ok(if error_code == 0 { Ok(()) } else { Err(error_code) })
}

/// The record batch that holds an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBatch {
    /// Size in the log, bytes.
    pub bytes: i32,
    pub last_offset: i64,
    /// True for a control batch. It marks the end of a transaction and has no records.
    pub is_control: bool,
}

/// Returns the batch at `offset` from the partition's leader at `host`. `None` if there is no batch
/// at that offset. Only the header of the batch is read, although the response contains all of it.
pub fn stored_batch(
    host: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> io::Result<Result<Option<StoredBatch>, i16>> {
    let encode = |to: &mut Writer| {
        to.i32(-1); // replica_id: a consumer
        to.i32(0); // max_wait_ms
        to.i32(1); // min_bytes
        to.i32(1); // max_bytes
        to.i8(0); // isolation_level: uncommitted, as in version 0
        to.i32(1); // one topic
        to.string(topic);
        to.i32(1); // one partition
        to.i32(partition);
        to.i64(offset);
        to.i32(1); // partition_max_bytes
    };
    const BATCH_HEADER: usize = 27;
    let bytes_max = 4 + (4 + 2 + topic.len()) + (4 + 4 + 2 + 8 + 8 + 4) + 4 + BATCH_HEADER;
    let frame = send(host, FETCH, &encode, bytes_max)?;
    let mut response = Reader::new(&frame);
    response.skip(4 + 4); // throttle_time_ms, one topic
    response.string();
    response.skip(4 + 4); // one partition and its index
    let code = response.i16();
    check(&response)?;
    if code != 0 {
        return Ok(Err(code));
    }
    response.skip(8 + 8 + 4); // high_watermark, last_stable_offset, aborted_transactions
    if response.i32() <= 0 {
        return check(&response).map(|()| Ok(None));
    }
    let (base_offset, bytes) = (response.i64(), response.i32().saturating_add(12));
    response.skip(4); // partition_leader_epoch
    let magic = response.i8();
    if magic < 2 {
        // The format before Kafka 0.11: a single message.
        check(&response)?;
        return Ok(Ok(Some(StoredBatch { bytes, last_offset: base_offset, is_control: false })));
    }
    response.skip(4); // crc
    let is_control = response.i16() & 0x20 != 0;
    let last_offset = base_offset + i64::from(response.i32());
    check(&response)?;
    Ok(Ok(Some(StoredBatch { bytes, last_offset, is_control })))
}

fn check(response: &Reader<'_>) -> io::Result<()> {
    let error = |err: DecodeError| io::Error::other(format!("unreadable response: {err:?}"));
    response.so_far().map_err(error)
}

/// Sends one request. Returns up to `bytes_max` bytes of the response, from after the correlation
/// id.
fn send(
    host: &str,
    spec: &ApiSpec,
    encode: &dyn Fn(&mut Writer),
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    const CORRELATION_ID: i32 = 0x5ca7_c4ba;
    let mut stream = connect(host)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = Writer(vec![0; 4]);
    spec.encode_header(&mut request, CORRELATION_ID, CLIENT_ID);
    encode(&mut request);
    let Writer(mut request) = request;
    let length = (request.len() - 4) as u32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&request)?;

    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).map_err(|err| match err.kind() {
        // Linux reports a read timeout as "Resource temporarily unavailable", which is misleading.
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => err,
    })?;
    let mut header = Reader::new(&header);
    let (length, correlation_id) = (header.i32(), header.i32());
    if correlation_id != CORRELATION_ID {
        return Err(io::Error::other("response belongs to another request"));
    }
    let length = usize::try_from(length.saturating_sub(4)).unwrap_or(0).min(bytes_max);
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// Connects to the first address that accepts, as the kafka crate does. A timeout is returned
/// without trying further addresses, since the crate has no timeout and would hang at that one.
fn connect(host: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the host name has no address");
    let unresolved = |err| io::Error::other(format!("cannot resolve its name: {err}"));
    for address in host.to_socket_addrs().map_err(unresolved)? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(err) if err.kind() == io::ErrorKind::TimedOut => return Err(err),
            Err(err) => last = err,
        }
    }
    Err(last)
}
