//! Questions to a broker on a connection of their own, with time-outs that the kafka crate lacks: does it answer, does it serve
//! protocol version 0, where is a group's coordinator, where does a log begin and end, and what is in it where the crate reads nothing.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longest wait for a connection, and for each part of an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read, bytes; ApiVersions takes less than one KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const FIND_COORDINATOR: i16 = 10;
const API_VERSIONS: i16 = 18;

/// The lowest version of Fetch that the broker at `host` (host:port) serves.
pub fn lowest_fetch_version(host: &str) -> io::Result<i16> {
    let answer = ask(host, API_VERSIONS, 0, &[], ANSWER_BYTES_MAX)?;
    let mut answer = Reader(&answer);
    let code = answer.i16()?;
    for _ in 0..answer.i32()? {
        let (api, lowest, _highest) = (answer.i16()?, answer.i16()?, answer.i16()?);
        if api == FETCH {
            return Ok(lowest);
        }
    }
    Err(io::Error::other(format!("it names no version of Fetch (error code {code})")))
}

/// Where `group`'s coordinator is, as host:port, asked from the broker at `host`; or Kafka's error code.
pub fn coordinator(host: &str, group: &str) -> io::Result<Result<String, i16>> {
    let mut body = Vec::new();
    put_str(&mut body, group);
    let answer = ask(host, FIND_COORDINATOR, 0, &body, ANSWER_BYTES_MAX)?;
    let mut answer = Reader(&answer);
    match answer.i16()? {
        0 => {
            let _id = answer.i32()?;
            Ok(Ok(format!("{}:{}", answer.str()?, answer.i32()?)))
        }
        code => Ok(Err(code)),
    }
}

/// Which offset of a partition, as a time of `ListOffsets`.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// Of the first record that is kept.
    Earliest = -2,
    /// Of the next record that will be written.
    End = -1,
}

/// (partition, offset) of `partitions`, asked from their leader at `host`; or Kafka's error code for one of them. Version 1, not the
/// crate's 0: to that a leader just elected tells an end lower than what others have read and committed (KIP-207).
pub fn offsets(
    host: &str,
    topic: &str,
    partitions: &[i32],
    bound: Bound,
) -> io::Result<Result<Vec<(i32, i64)>, i16>> {
    let mut body = Vec::new();
    for number in [-1, 1] {
        put_i32(&mut body, number); // No replica, one topic.
    }
    put_str(&mut body, topic);
    put_i32(&mut body, partitions.len() as i32);
    for &partition in partitions {
        put_i32(&mut body, partition);
        body.extend((bound as i64).to_be_bytes());
    }
    let answer_max = 4 + (2 + topic.len()) + 4 + partitions.len() * (4 + 2 + 8 + 8);
    let answer = ask(host, LIST_OFFSETS, 1, &body, answer_max)?;
    let mut answer = Reader(&answer);
    let (_topics, _name) = (answer.i32()?, answer.str()?);
    let mut found = Vec::new();
    for _ in 0..answer.i32()? {
        let (partition, code) = (answer.i32()?, answer.i16()?);
        if code != 0 {
            return Ok(Err(code));
        }
        let (_timestamp, offset) = (answer.i64()?, answer.i64()?);
        found.push((partition, offset));
    }
    Ok(Ok(found))
}

/// The record batch that holds an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its size in the log, bytes.
    pub bytes: i32,
    /// Its last offset.
    pub last: i64,
    /// It holds the end of a transaction and no records.
    pub control: bool,
}

/// What is stored at `offset`, asked from the partition's leader at `host`; `None` if nothing is. Protocol version 4 answers
/// with the whole batch, however large; only its head is read.
pub fn stored(
    host: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> io::Result<Result<Option<Stored>, i16>> {
    let mut body = Vec::new();
    for number in [-1, 0, 1, 1] {
        put_i32(&mut body, number); // No replica, no wait, at least a byte, the smallest answer there is.
    }
    body.push(0); // Uncommitted records, too: version 0 reads them all.
    put_i32(&mut body, 1);
    put_str(&mut body, topic);
    for number in [1, partition] {
        put_i32(&mut body, number);
    }
    body.extend(offset.to_be_bytes());
    put_i32(&mut body, 1);
    let answer_max = 4 + (4 + 2 + topic.len()) + (4 + 4 + 2 + 8 + 8 + 4) + 4 + 27;
    let answer = ask(host, FETCH, 4, &body, answer_max)?;
    let mut answer = Reader(&answer);
    let (_throttle, _topics, _name) = (answer.i32()?, answer.i32()?, answer.str()?);
    let (_partitions, _partition) = (answer.i32()?, answer.i32()?);
    match answer.i16()? {
        0 => {}
        code => return Ok(Err(code)),
    }
    let (_high_watermark, _last_stable, _aborted) = (answer.i64()?, answer.i64()?, answer.i32()?);
    if answer.i32()? <= 0 {
        return Ok(Ok(None));
    }
    let (base, length, _epoch) = (answer.i64()?, answer.i32()?, answer.i32()?);
    let [magic] = answer.bytes()?;
    if magic < 2 {
        // Before Kafka 0.11 there were no batches: this is one message.
        return Ok(Ok(Some(Stored { bytes: length + 12, last: base, control: false })));
    }
    let _crc = answer.i32()?;
    let attributes = answer.i16()?;
    let last = base + i64::from(answer.i32()?);
    Ok(Ok(Some(Stored { bytes: length + 12, last, control: attributes & 0x20 != 0 })))
}

/// Sends one request and reads the answer after its correlation id, at most `answer_max` bytes of it.
fn ask(host: &str, api: i16, version: i16, body: &[u8], answer_max: usize) -> io::Result<Vec<u8>> {
    const CORRELATION: i32 = 0x5ca7_c4ba;
    let mut stream = connect(host)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = vec![0; 4];
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    put_i32(&mut request, CORRELATION);
    put_str(&mut request, crate::config::CLIENT_ID);
    request.extend(body);
    let length = (request.len() - 4) as u32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&request)?;

    let mut head = [0; 8];
    stream.read_exact(&mut head).map_err(|err| match err.kind() {
        // What a read time-out is called on Linux says nothing to the reader of a log.
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => err,
    })?;
    let mut head = Reader(&head);
    let (length, correlation) = (head.i32()?, head.i32()?);
    if correlation != CORRELATION {
        return Err(io::Error::other("the answer belongs to another request"));
    }
    let length = usize::try_from(length.saturating_sub(4)).unwrap_or(0).min(answer_max);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Connects to the first address of `host` that doesn't refuse, as the kafka crate does. An address that times out ends the
/// search: the crate has no time-out and would hang there.
fn connect(host: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(err) if err.kind() == io::ErrorKind::TimedOut => return Err(err),
            Err(err) => last = err,
        }
    }
    Err(last)
}

fn put_i32(buffer: &mut Vec<u8>, number: i32) {
    buffer.extend(number.to_be_bytes());
}

fn put_str(buffer: &mut Vec<u8>, text: &str) {
    // Topics, groups and the client id are short: Kafka refuses names of more than 249 bytes.
    buffer.extend((text.len() as i16).to_be_bytes());
    buffer.extend(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn i16(&mut self) -> io::Result<i16> {
        self.bytes().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> io::Result<i32> {
        self.bytes().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> io::Result<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    fn str(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        let (text, rest) = self.0.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}
