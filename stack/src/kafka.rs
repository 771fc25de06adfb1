//! Apache Kafka in KRaft mode. Each broker is also a controller.

use crate::error::{Context, Result, failed};
use crate::foreground::{self, Report};
use crate::settings::Settings;
use crate::stack::Stack;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Cluster id of all stacks: 16 bytes in base64.
const CLUSTER_ID: &str = "c2NyYXRjaGJhbmstc3RhYw";
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
/// Timeout of a broker's response.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

const LOG4J: &str = "\
log4j.rootLogger=WARN, out
log4j.logger.kafka.server=INFO
log4j.logger.org.apache.kafka.raft=INFO
# It writes the whole configuration, again and again.
log4j.logger.kafka.server.KafkaConfig=WARN
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %m (%c)%n
";

/// The version to which [`upgrade`] changes a broker.
pub const NEWEST: &str = "4";

/// The folder of broker `n`.
fn dir(stack: &Stack, n: u16) -> PathBuf {
    stack.data_dir().join(format!("kafka-{n}"))
}

/// The version that broker `n` runs: that of the stack, unless the broker was upgraded.
fn version(stack: &Stack, n: u16) -> &str {
    if upgrade_mark(stack, n).exists() { NEWEST } else { &stack.settings.kafka }
}

/// Lets broker `n` run [`NEWEST`] from its next start on, with its data.
pub fn upgrade(stack: &Stack, n: u16) -> Result<()> {
    write(&upgrade_mark(stack, n), "")
}

/// A file that exists if the broker was upgraded. It is deleted with the broker's data.
fn upgrade_mark(stack: &Stack, n: u16) -> PathBuf {
    dir(stack, n).join("upgraded")
}

/// Writes the settings of broker `n`, and formats its data folder once.
pub fn prepare(stack: &Stack, n: u16) -> Result<()> {
    let dir = dir(stack, n);
    fs::create_dir_all(&dir).context(dir.display())?;
    write(&dir.join("server.properties"), &properties(&stack.settings, n, &dir))?;
    write(&dir.join("log4j.properties"), LOG4J)?;
    if dir.join("data/meta.properties").is_file() {
        return Ok(());
    }
    let name = format!("kafka-{n}");
    let mut words = java(stack, n, &["-Xmx128m", "-XX:TieredStopAtLevel=1"]);
    let properties = dir.join("server.properties").display().to_string();
    let arguments = ["format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", &properties];
    words.push("kafka.tools.StorageTool".to_owned());
    words.extend(arguments.map(str::to_owned));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let what = format!("formatting the data of {name}");
    let log = stack.log(&name);
    let status =
        foreground::run_logged(&mut command, &what, &log, "", Report::Nothing, FORMAT_LIMIT)?;
    if status.success() { Ok(()) } else { Err(failed(format!("{what} failed: {status}"))) }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(path.display())
}

fn properties(settings: &Settings, n: u16, dir: &Path) -> String {
    let brokers = settings.brokers;
    let port = settings.kafka_port + n - 1;
    let controller = settings.raft_port + n - 1;
    let voters: Vec<String> =
        (1..=brokers).map(|i| format!("{i}@127.0.0.1:{}", settings.raft_port + i - 1)).collect();
    let mut text = format!(
        "\
node.id={n}
process.roles=broker,controller
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={dir}/data

# Topics are created by the synchronizer alone.
auto.create.topics.enable=false
default.replication.factor={brokers}
offsets.topic.replication.factor={brokers}
transaction.state.log.replication.factor={brokers}
transaction.state.log.min.isr={min_isr}

# Few and small for a small machine: the defaults are made for clusters.
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
log.cleaner.dedupe.buffer.size=16777216
group.initial.rebalance.delay.ms=0
",
        voters = voters.join(","),
        dir = dir.display(),
        min_isr = brokers.div_ceil(2),
    );
    if brokers == 1 {
        // After kill -9 a broker registers again only when its former session has timed out. A
        // single broker has no other one to take over, so the timeout is short.
        text.push_str("broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=1000\n");
    }
    if let Some(sasl_port) = settings.sasl_port {
        text.push_str(&sasl_listener(port, sasl_port + n - 1, controller));
    }
    for option in settings.text("KAFKA_OPTIONS").split_whitespace() {
        let _ = writeln!(text, "{option}");
    }
    text
}

/// An additional listener that requires SASL. PLAIN accepts the user `bank`. SCRAM accepts the
/// users
/// that Kafka's tools or clients create.
fn sasl_listener(port: u16, sasl_port: u16, controller: u16) -> String {
    let modules = "org.apache.kafka.common.security";
    let mut text = format!(
        "\
listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl_port},\
CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
user_bank=\"in plain words\";
"
    );
    for mechanism in ["scram-sha-256", "scram-sha-512"] {
        let _ = writeln!(
            text,
            "listener.name.sasl.{mechanism}.sasl.jaas.config={modules}.scram.ScramLoginModule \
             required;"
        );
    }
    text
}

/// `java` with `options` and the class path of broker `n`. A class and its arguments follow.
fn java(stack: &Stack, n: u16, options: &[&str]) -> Vec<String> {
    let mut words = vec!["java".to_owned()];
    words.extend(options.iter().map(|&option| option.to_owned()));
    words.push("-cp".to_owned());
    words.push(format!("{}/*", stack.kafka_jars(version(stack, n)).display()));
    let dir = dir(stack, n);
    words.push(format!("-Dlog4j.configuration=file:{}/log4j.properties", dir.display()));
    words
}

/// The command line of broker `n`.
pub fn command(stack: &Stack, n: u16) -> Vec<String> {
    let dir = dir(stack, n);
    // The settings of the garbage collector are those of Kafka's start scripts.
    let options = [
        "-Xms256m",
        "-Xmx512m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
        "-Djava.awt.headless=true",
    ];
    let mut words = java(stack, n, &options);
    words.push("kafka.Kafka".to_owned());
    words.push(dir.join("server.properties").display().to_string());
    words
}

/// True if broker `n` responds and lists itself and at least `count` brokers as alive.
pub fn is_ready(settings: &Settings, n: u16, count: u16) -> bool {
    alive_brokers(settings.kafka_port + n - 1)
        .is_ok_and(|ids| ids.contains(&i32::from(n)) && ids.len() >= usize::from(count))
}

/// Ids of the brokers in a metadata response of the broker at `port`.
fn alive_brokers(port: u16) -> io::Result<Vec<i32>> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    // Length; metadata request (API key 3) version 1; correlation id 0; no client id; no topics.
    stream.write_all(b"\0\0\0\x0e\0\x03\0\x01\0\0\0\0\xff\xff\0\0\0\0")?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    // A response with three brokers and no topics has about 100 bytes.
    let length = u32::from_be_bytes(length).min(4096);
    let mut response = vec![0; length as usize];
    stream.read_exact(&mut response)?;
    parse_brokers(&response).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_brokers(response: &[u8]) -> Option<Vec<i32>> {
    let mut rest = response.get(4..)?;
    let count = take_i32(&mut rest)?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(take_i32(&mut rest)?);
        skip_string(&mut rest)?; // host
        take_i32(&mut rest)?; // port
        skip_string(&mut rest)?; // rack
    }
    Some(ids)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

fn skip_string(rest: &mut &[u8]) -> Option<()> {
    let (length, after) = rest.split_first_chunk()?;
    // A length of -1 is null.
    let length = usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0);
    *rest = after.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Values;

    #[test]
    fn brokers_are_parsed_from_a_metadata_response() {
        let mut response = vec![0, 0, 0, 0, 0, 0, 0, 2];
        for id in [1, 3] {
            response.extend([0, 0, 0, id, 0, 2]);
            response.extend(b"ab\0\0\x4a\x94\xff\xff");
        }
        assert_eq!(parse_brokers(&response), Some(vec![1, 3]));
        assert_eq!(parse_brokers(&response[..response.len() - 1]), None);
        assert_eq!(parse_brokers(&[]), None);
    }

    #[test]
    fn upgraded_broker_has_the_newest_jars() {
        let dir = std::env::temp_dir().join(format!("upgraded-broker-{}", std::process::id()));
        let mut stack = Stack::open_in(Path::new("/checkout"), dir.clone()).unwrap();
        stack.settings = Settings::configured(&Values::new()).unwrap();
        fs::create_dir_all(super::dir(&stack, 1)).unwrap();
        let runs = |version: &str| {
            let jars = format!("/kafka-{version}/*");
            command(&stack, 1).iter().any(|word| word.ends_with(&jars))
        };
        assert!(runs("3.9"));
        upgrade(&stack, 1).unwrap();
        assert!(runs(NEWEST));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn three_brokers_vote_and_replicate() {
        let given = [("BROKERS", "3"), ("SASL_PORT", "29292"), ("KAFKA_OPTIONS", "a=b c=d")];
        let given: Values =
            given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = Settings::configured(&given).unwrap();
        let text = properties(&settings, 2, Path::new("/a b"));
        for line in [
            "controller.quorum.voters=1@127.0.0.1:19102,2@127.0.0.1:19103,3@127.0.0.1:19104",
            "log.dirs=/a b/data",
            "transaction.state.log.min.isr=2",
            "advertised.listeners=PLAINTEXT://127.0.0.1:19093,SASL://127.0.0.1:29293",
            "a=b",
            "c=d",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        assert!(!text.contains("broker.session.timeout.ms"));
    }
}
