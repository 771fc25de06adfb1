//! The real servers that the tests run on, as `stack.sh env` describes them.

use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::records::{ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{TOPICS, Topic};
use messaging::KafkaConfig;
use messaging::partitioner::partition;
use messaging::{Batch, KafkaClient, NewRecord};
use postgres::NoTls;
use service::env::Env;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long the harness itself may wait for a server that answers slowly.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running Kafka, registry and PostgreSQL, with topics and schemas made.
pub struct Stack {
    variables: BTreeMap<String, String>,
    /// The cluster.
    pub kafka: KafkaConfig,
    /// The registry.
    pub registry: Registry,
    /// Schema id of each topic that has one.
    pub schema_ids: BTreeMap<&'static str, u32>,
    /// Writes commands.
    pub creations: Encoder<ConfirmAccountCreation>,
    /// Writes commands.
    pub transfers: Encoder<ConfirmMoneyTransfer>,
    /// Stops the servers again, where this value has started them.
    _own: Option<Own>,
}

impl Stack {
    /// The stack that this process's environment names.
    ///
    /// # Panics
    /// It is not there: a missing server fails a test.
    pub fn shared() -> Self {
        let names =
            ["STACK", "STACK_DIR", "KAFKA_BROKERS", "SCHEMA_REGISTRY_URL", "BALANCE_DATABASE_URL"];
        let variable = |name: &str| {
            let value = std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: make test-integration sets it"));
            (name.to_owned(), value)
        };
        Self::describe(names.into_iter().map(variable).collect(), None)
    }

    /// A stack of three brokers beside the shared one, each of its ports 100 above the shared one's; stopped and deleted when
    /// dropped.
    ///
    /// # Panics
    /// It does not start.
    pub fn of_three_brokers() -> Self {
        let shared = Self::shared();
        let dir = format!("{}-3", shared.variables["STACK_DIR"]);
        let port = |name: &str| {
            let url = &shared.variables[name];
            let digits = url.rsplit(':').next().and_then(|rest| rest.split('/').next());
            let port: u16 = digits.and_then(|it| it.parse().ok()).expect("env gives host:port");
            (port + 100).to_string()
        };
        let mut variables = BTreeMap::from([
            ("STACK".to_owned(), shared.variables["STACK"].clone()),
            ("STACK_DIR".to_owned(), dir),
            ("BROKERS".to_owned(), "3".to_owned()),
            ("KAFKA_PORT".to_owned(), port("KAFKA_BROKERS")),
            ("RAFT_PORT".to_owned(), String::new()),
            ("REGISTRY_PORT".to_owned(), port("SCHEMA_REGISTRY_URL")),
            ("POSTGRES_PORT".to_owned(), port("BALANCE_DATABASE_URL")),
        ]);
        // What a run that was killed has left.
        script(&variables, &["wipe"]);
        let own = Own(variables.clone());
        script(&variables, &["up", "--servers-only"]);
        let environment = script(&variables, &["env"]);
        for line in environment.lines() {
            if let Some((name, value)) = line.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        Self::describe(variables, Some(own))
    }

    fn describe(variables: BTreeMap<String, String>, own: Option<Own>) -> Self {
        // The harness outlives a broker that is frozen for a while.
        let lookup = |name: &str| match name {
            "KAFKA_TIMEOUT_MS" => Some("110000".to_owned()),
            // As the services that the tests start.
            "KAFKA_CLIENT" => std::env::var(name).ok(),
            _ => variables.get(name).cloned(),
        };
        let kafka = KafkaConfig::from_env(&Env::new(&lookup)).expect("env gives host:port");
        let registry = Registry::new(&variables["SCHEMA_REGISTRY_URL"]);
        synchronize(&variables);
        let id = |topic: &Topic| {
            let id = registry.id_of(topic).expect("the synchronizer has registered it");
            (topic.name, id)
        };
        let schema_ids: BTreeMap<_, _> =
            TOPICS.iter().filter(|topic| topic.schema.is_some()).map(id).collect();
        let creations = Encoder::with_id(schema_ids[ConfirmAccountCreation::TOPIC.name]);
        let transfers = Encoder::with_id(schema_ids[ConfirmMoneyTransfer::TOPIC.name]);
        Self { variables, kafka, registry, schema_ids, creations, transfers, _own: own }
    }

    /// A client of the cluster.
    pub fn kafka_client(&self) -> Box<dyn KafkaClient> {
        messaging::connect(&self.kafka)
    }

    /// Is it today's protocol that these tests, and the services that they start, run on? Else it is the kafka crate.
    ///
    /// # Panics
    /// The cluster does not answer.
    pub fn built_in(&self) -> bool {
        let mut kafka_client = self.kafka_client();
        kafka_client
            .leaders(ConfirmMoneyTransfer::TOPIC.name, PATIENCE)
            .expect("the topic is there");
        kafka_client.fetches_from_all()
    }

    /// A command as a record.
    pub fn creation(&self, command: &ConfirmAccountCreation) -> Post {
        let topic = ConfirmAccountCreation::TOPIC;
        Post::keyed(&topic, command.id.to_string(), self.creations.encode(command))
    }

    /// A command as a record.
    pub fn transfer(&self, command: &ConfirmMoneyTransfer) -> Post {
        let topic = ConfirmMoneyTransfer::TOPIC;
        Post::keyed(&topic, command.id.to_string(), self.transfers.encode(command))
    }

    /// A connection to balancedb.
    ///
    /// # Panics
    /// It can't be had.
    pub fn database(&self) -> postgres::Client {
        postgres::Client::connect(self.database_url(), NoTls).expect("connect to balancedb")
    }

    /// The URL of balancedb.
    pub fn database_url(&self) -> &str {
        &self.variables["BALANCE_DATABASE_URL"]
    }

    /// The URL of the registry.
    pub fn registry_url(&self) -> &str {
        &self.variables["SCHEMA_REGISTRY_URL"]
    }

    /// Where the stack keeps its logs, and the tests theirs.
    pub fn log_dir(&self) -> PathBuf {
        Path::new(&self.variables["STACK_DIR"]).join("log")
    }

    /// Stops a part with TERM or KILL; ending or dropping the fault starts it again.
    #[must_use = "the part starts again when the fault is dropped"]
    pub fn stop(&self, part: &str, signal: &str) -> Fault<'_> {
        self.fault(part, &["stop", part, signal], "start")
    }

    /// Freezes a part by SIGSTOP; ending or dropping the fault lets it go on.
    #[must_use = "the part goes on when the fault is dropped"]
    pub fn freeze(&self, part: &str) -> Fault<'_> {
        self.fault(part, &["kill", part, "STOP"], "CONT")
    }

    fn fault(&self, part: &str, words: &[&str], mend: &'static str) -> Fault<'_> {
        let fault = Fault { stack: self, part: part.to_owned(), mend };
        script(&self.variables, words);
        fault
    }
}

/// Servers that end, and whose data go, when this is dropped.
struct Own(BTreeMap<String, String>);

impl Drop for Own {
    fn drop(&mut self) {
        let output = run(&self.0, &["wipe"]);
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A part of the stack that is down or frozen for as long as this lives.
pub struct Fault<'a> {
    stack: &'a Stack,
    part: String,
    mend: &'static str,
}

impl Fault<'_> {
    /// Ends it; returns once the part is ready again.
    pub fn end(self) {}
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        let words: &[&str] = if self.mend == "CONT" {
            &["kill", &self.part, "CONT"]
        } else {
            &["start", &self.part]
        };
        let output = run(&self.stack.variables, words);
        let failed = !output.status.success();
        if failed && !std::thread::panicking() {
            panic!("{} {words:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Runs `stack.sh`.
fn run(variables: &BTreeMap<String, String>, words: &[&str]) -> Output {
    Command::new(&variables["STACK"])
        .args(words)
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|err| panic!("{}: {err}", variables["STACK"]))
}

/// The output of `stack.sh`.
fn script(variables: &BTreeMap<String, String>, words: &[&str]) -> String {
    let output = run(variables, words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "stack.sh {words:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("the script writes text")
}

/// Runs the synchronizer: topics and schemas are what they should be.
fn synchronize(variables: &BTreeMap<String, String>) {
    let output = Command::new(binary("synchronizer"))
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .expect("run the synchronizer: make test-integration builds it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "synchronizer: {}\n{errors}", output.status);
}

/// A binary of this build: in `BIN_DIR`, or where Cargo has put this test.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("BIN_DIR").filter(|dir| !dir.is_empty());
    dir.map_or_else(profile_dir, PathBuf::from).join(name)
}

/// Cargo's folder for what is built.
pub fn target_dir() -> PathBuf {
    let mut dir = profile_dir();
    dir.pop();
    dir
}

fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("Cargo puts tests into deps/ beside the binaries").to_owned()
}

/// A record on its way to a topic.
pub struct Post {
    /// Topic name.
    pub topic: &'static str,
    /// Partition, from 0.
    pub partition: i32,
    /// Key; null if there is none.
    pub key: Option<Vec<u8>>,
    /// Value; null if there is none.
    pub value: Option<Vec<u8>>,
}

impl Post {
    /// A record where its key belongs.
    pub fn keyed(topic: &Topic, key: String, value: Vec<u8>) -> Self {
        let partition = partition(key.as_bytes(), topic.partitions);
        Self { topic: topic.name, partition, key: Some(key.into_bytes()), value: Some(value) }
    }
}

/// Writes all of `posts`, in order within each partition, and again what perhaps was not written: a cluster in trouble can
/// get a record twice. The offset of each.
///
/// # Panics
/// Not all could be written within [`PATIENCE`].
pub fn post(kafka_client: &mut dyn KafkaClient, posts: &[Post]) -> Vec<i64> {
    let mut left: BTreeMap<(&str, i32), Vec<usize>> = BTreeMap::new();
    for (at, post) in posts.iter().enumerate() {
        left.entry((post.topic, post.partition)).or_default().push(at);
    }
    let mut offsets = vec![-1; posts.len()];
    crate::wait::until("records are written", PATIENCE, || {
        let record = |&at: &usize| NewRecord {
            key: posts[at].key.as_deref(),
            value: posts[at].value.as_deref(),
            headers: &[],
        };
        let batches: Vec<Batch<'_>> = left
            .iter()
            .map(|(&(topic, partition), records)| {
                let records = records.iter().map(record).collect();
                Batch { topic, partition, records }
            })
            .collect();
        let results = kafka_client.produce(&batches, Duration::from_secs(10));
        let places: Vec<(&str, i32)> = left.keys().copied().collect();
        for (place, result) in places.into_iter().zip(results) {
            if let Ok(first) = result {
                for (offset, at) in (first..).zip(left.remove(&place).into_iter().flatten()) {
                    offsets[at] = offset;
                }
            }
        }
        left.is_empty().then_some(())
    });
    offsets
}
