//! The real servers of the tests, with the addresses that `stack.sh env` prints.

use crate::wait::until;
use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::limits::{BATCH_BYTES_MAX, BATCH_OVERHEAD_BYTES};
use bank::records::{ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{TOPICS, Topic};
use messaging::KafkaConfig;
use messaging::partitioner::partition;
use messaging::{Batch, KafkaClient, NewRecord};
use postgres::NoTls;
use service::env::Env;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Timeout of requests of the tests to slow servers.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Running Kafka, registry and PostgreSQL, with all topics and schemas.
pub struct Stack {
    variables: BTreeMap<String, String>,
    pub kafka: KafkaConfig,
    pub registry: Registry,
    /// Schema id of each topic that has one.
    pub schema_ids: BTreeMap<&'static str, u32>,
    /// Encodes commands.
    pub creations: Encoder<ConfirmAccountCreation>,
    /// Encodes commands.
    pub transfers: Encoder<ConfirmMoneyTransfer>,
    /// Stops the servers that this value has started.
    _own: Option<Own>,
}

impl Stack {
    /// The stack in the environment variables of this process.
    ///
    /// # Panics
    /// If a variable is missing: a missing server fails a test.
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

    /// Starts a stack of three brokers: see [`Self::separate`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn of_three_brokers() -> Self {
        Self::separate(3)
    }

    /// The same with Kafka 3.9, also if the shared stack has Kafka 4. `stack.sh upgrade` upgrades a
    /// broker.
    ///
    /// # Panics
    /// If it does not start.
    pub fn of_three_old_brokers() -> Self {
        Self::start(3, &[("KAFKA", "3.9")])
    }

    /// Starts a stack with this number of brokers in addition to the shared one. Each port is 100
    /// above that of the shared stack. Dropping it stops the servers and deletes their data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn separate(brokers: u8) -> Self {
        Self::start(brokers, &[])
    }

    /// Starts a stack with one broker and an asynchronous standby of PostgreSQL: see
    /// [`Self::separate`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn with_asynchronous_standby() -> Self {
        let port = (Self::shared().port("BALANCE_DATABASE_URL") + 101).to_string();
        let options = "synchronous_standby_names=";
        Self::start(1, &[("STANDBY_PORT", &port), ("POSTGRES_OPTIONS", options)])
    }

    fn start(brokers: u8, settings: &[(&str, &str)]) -> Self {
        let shared = Self::shared();
        let dir = format!("{}-{brokers}", shared.variables["STACK_DIR"]);
        let port = |name: &str| (shared.port(name) + 100).to_string();
        let mut variables = BTreeMap::from([
            ("STACK".to_owned(), shared.variables["STACK"].clone()),
            ("STACK_DIR".to_owned(), dir),
            ("BROKERS".to_owned(), brokers.to_string()),
            ("KAFKA_PORT".to_owned(), port("KAFKA_BROKERS")),
            ("RAFT_PORT".to_owned(), String::new()),
            ("REGISTRY_PORT".to_owned(), port("SCHEMA_REGISTRY_URL")),
            ("POSTGRES_PORT".to_owned(), port("BALANCE_DATABASE_URL")),
        ]);
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        variables.extend(settings);
        // Removes the rest of a run that was killed.
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

    /// Replaces the registry by an empty one, and registers the schemas in it with other ids.
    ///
    /// # Panics
    /// If a step fails.
    pub fn replace_registry(&mut self) {
        self.wipe("registry");
        // The ids of all schemas of the bank are one higher.
        self.registry.register("first", r#""long""#).expect("the registry is empty");
        synchronize(&self.variables);
        let own = self._own.take();
        *self = Self::describe(std::mem::take(&mut self.variables), own);
    }

    /// Replaces the only broker by an empty one. The synchronizer creates the topics again.
    ///
    /// # Panics
    /// If a step fails.
    pub fn replace_kafka(&self) {
        self.wipe("kafka-1");
        self.synchronize();
    }

    /// Kills a server, and starts it without its data.
    fn wipe(&self, server: &str) {
        let fault = self.stop(server, "KILL");
        std::fs::remove_dir_all(self.data_dir(server)).expect("the server is stopped");
        fault.end();
    }

    /// The data folder of a server of a separate stack.
    fn data_dir(&self, server: &str) -> PathBuf {
        Path::new(&self.variables["STACK_DATA_DIR"]).join(server)
    }

    fn describe(variables: BTreeMap<String, String>, own: Option<Own>) -> Self {
        // Longer than the time for which tests freeze a broker.
        let lookup = |name: &str| match name {
            "KAFKA_TIMEOUT_MS" => Some("110000".to_owned()),
            // The same client as in the services that the tests start.
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

    /// The built-in client, also if the services use the kafka crate. It has an idempotent producer
    /// and can be a member of a consumer group.
    ///
    /// # Panics
    /// If the addresses of the brokers are invalid.
    pub fn built_in_client(&self) -> Box<dyn KafkaClient> {
        let lookup = |name: &str| match name {
            "KAFKA_BROKERS" => Some(self.kafka.brokers.join(",")),
            "KAFKA_CLIENT" => Some("built-in".to_owned()),
            _ => None,
        };
        let config = KafkaConfig::from_env(&Env::new(&lookup));
        messaging::connect(&config.expect("valid addresses"))
    }

    /// True if these tests, and the services that they start, use the built-in client. Otherwise
    /// they use the kafka crate.
    ///
    /// # Panics
    /// If the cluster does not respond.
    pub fn built_in(&self) -> bool {
        let mut kafka_client = self.kafka_client();
        kafka_client
            .leaders(ConfirmMoneyTransfer::TOPIC.name, PATIENCE)
            .expect("the topic is there");
        kafka_client.fetches_from_all()
    }

    /// A command as a record for its topic.
    pub fn creation(&self, command: &ConfirmAccountCreation) -> Post {
        let topic = ConfirmAccountCreation::TOPIC;
        Post::keyed(&topic, command.id.to_string(), self.creations.encode(command))
    }

    /// A command as a record for its topic.
    pub fn transfer(&self, command: &ConfirmMoneyTransfer) -> Post {
        let topic = ConfirmMoneyTransfer::TOPIC;
        Post::keyed(&topic, command.id.to_string(), self.transfers.encode(command))
    }

    /// Runs the synchronizer, which creates missing topics.
    ///
    /// # Panics
    /// If it fails.
    pub fn synchronize(&self) {
        synchronize(&self.variables);
    }

    /// A connection to balancedb.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn database(&self) -> postgres::Client {
        postgres::Client::connect(self.database_url(), NoTls).expect("connect to balancedb")
    }

    /// A connection to a database of the standby.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn standby_database(&self, name: &str) -> postgres::Client {
        let of_both: postgres::Config = self.database_url().parse().expect("a valid URL");
        let port = *of_both.get_ports().last().expect("the URL has the ports of both servers");
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(port).dbname(name);
        config.user(of_both.get_user().expect("the URL has a user"));
        config.password(of_both.get_password().expect("the URL has a password"));
        config.connect(NoTls).expect("connect to the standby")
    }

    /// Ends the replication after the standby has all that was committed before this call. The
    /// standby gets nothing of what is committed later.
    ///
    /// # Panics
    /// If a step fails.
    pub fn cut_standby_off(&self) {
        let (mut primary, mut standby) = (self.database(), self.standby_database("balancedb"));
        let row = primary.query_one("SELECT pg_current_wal_lsn()::text", &[]);
        let end: String = row.expect("read the end of the WAL").get(0);
        let is_replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        until("the standby has replayed the WAL", PATIENCE, || {
            let row = standby.query_one(&is_replayed, &[]).expect("read the replayed WAL");
            row.get::<_, bool>(0).then_some(())
        });
        // The last line of a setting counts. Without this one the standby connects to no server.
        let file = self.data_dir("standby").join("postgresql.auto.conf");
        let file = std::fs::File::options().append(true).open(file);
        file.and_then(|mut file| file.write_all(b"primary_conninfo = ''\n"))
            .expect("the standby has this file");
        self.command(&["kill", "standby", "HUP"], &[]);
        until("the primary has no standby", PATIENCE, || {
            let row = primary.query_one("SELECT count(*) FROM pg_stat_replication", &[]);
            (row.expect("count the standbys").get::<_, i64>(0) == 0).then_some(())
        });
    }

    /// URL of balancedb.
    pub fn database_url(&self) -> &str {
        &self.variables["BALANCE_DATABASE_URL"]
    }

    /// URL of the registry.
    pub fn registry_url(&self) -> &str {
        &self.variables["SCHEMA_REGISTRY_URL"]
    }

    /// The port in the URL or address with this name.
    fn port(&self, name: &str) -> u16 {
        let address = &self.variables[name];
        let digits = address.rsplit(':').next().and_then(|rest| rest.split('/').next());
        digits.and_then(|it| it.parse().ok()).expect("env gives host:port")
    }

    /// An address that `stack.sh env` prints.
    pub fn variable(&self, name: &str) -> &str {
        &self.variables[name]
    }

    /// Runs a command of `stack.sh`. The services that it starts have the variables `env` too.
    ///
    /// # Panics
    /// If it fails.
    pub fn command(&self, words: &[&str], env: &[(&str, &str)]) {
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        script(&self.variables.clone().into_iter().chain(env).collect(), words);
    }

    /// Folder for the logs of the stack and of the tests.
    pub fn log_dir(&self) -> PathBuf {
        Path::new(&self.variables["STACK_DIR"]).join("log")
    }

    /// Stops a part with TERM or KILL. Ending or dropping the fault starts it again.
    #[must_use = "the part starts again when the fault is dropped"]
    pub fn stop(&self, part: &str, signal: &str) -> Fault<'_> {
        self.fault(part, &["stop", part, signal], "start")
    }

    /// Freezes a part (SIGSTOP). Ending or dropping the fault continues it.
    #[must_use = "the part continues when the fault is dropped"]
    pub fn freeze(&self, part: &str) -> Fault<'_> {
        self.fault(part, &["kill", part, "STOP"], "CONT")
    }

    fn fault(&self, part: &str, words: &[&str], undo: &'static str) -> Fault<'_> {
        let fault = Fault { stack: self, part: part.to_owned(), undo };
        script(&self.variables, words);
        fault
    }
}

/// Servers that are stopped, and whose data are deleted, on drop.
struct Own(BTreeMap<String, String>);

impl Drop for Own {
    fn drop(&mut self) {
        let output = run(&self.0, &["wipe"]);
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A stopped or frozen part of the stack. Dropping this value ends the fault.
pub struct Fault<'a> {
    stack: &'a Stack,
    part: String,
    undo: &'static str,
}

impl Fault<'_> {
    /// Ends the fault and waits until the part is ready.
    pub fn end(self) {}
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        let words: &[&str] = if self.undo == "CONT" {
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

/// Runs the synchronizer, which creates topics and schemas.
fn synchronize(variables: &BTreeMap<String, String>) {
    let output = Command::new(binary("synchronizer"))
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .expect("run the synchronizer: make test-integration builds it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "synchronizer: {}\n{errors}", output.status);
}

/// A binary of this build, in `BIN_DIR` or in Cargo's folder.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("BIN_DIR").filter(|dir| !dir.is_empty());
    dir.map_or_else(profile_dir, PathBuf::from).join(name)
}

/// Cargo's target folder.
pub fn target_dir() -> PathBuf {
    let mut dir = profile_dir();
    dir.pop();
    dir
}

fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test is known");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("Cargo puts tests into deps/ next to the binaries").to_owned()
}

/// A record for a topic.
pub struct Post {
    pub topic: &'static str,
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Post {
    /// A record for the partition of its key.
    pub fn keyed(topic: &Topic, key: String, value: Vec<u8>) -> Self {
        let partition = partition(key.as_bytes(), topic.partitions);
        Self { topic: topic.name, partition, key: Some(key.into_bytes()), value: Some(value) }
    }
}

/// Writes `posts`, in order within each partition, and returns their offsets. Retries after errors,
/// so a record may be written twice.
///
/// # Panics
/// If they are not written after [`PATIENCE`].
pub fn post(kafka_client: &mut dyn KafkaClient, posts: &[Post]) -> Vec<i64> {
    let mut left: BTreeMap<(&str, i32), VecDeque<Vec<usize>>> = BTreeMap::new();
    for (at, post) in posts.iter().enumerate() {
        let batches = left.entry((post.topic, post.partition)).or_default();
        match batches.back_mut() {
            Some(last) if fits(posts, last, post) => last.push(at),
            _ => batches.push_back(vec![at]),
        }
    }
    let mut offsets = vec![-1; posts.len()];
    until("records are written", PATIENCE, || {
        let record = |&at: &usize| NewRecord {
            key: posts[at].key.as_deref(),
            value: posts[at].value.as_deref(),
            headers: &[],
        };
        // The first batch of each partition.
        let batches: Vec<Batch<'_>> = left
            .iter()
            .map(|(&(topic, partition), batches)| {
                let records = batches[0].iter().map(record).collect();
                Batch { topic, partition, records }
            })
            .collect();
        let results = kafka_client.produce(&batches, Duration::from_secs(10));
        for (batches, result) in left.values_mut().zip(results) {
            if let Ok(first) = result {
                for (offset, at) in (first..).zip(batches.pop_front().into_iter().flatten()) {
                    offsets[at] = offset;
                }
            }
        }
        left.retain(|_, batches| !batches.is_empty());
        left.is_empty().then_some(())
    });
    offsets
}

/// True if a batch with the records `batch` and `post` is within the limit of the topics.
fn fits(posts: &[Post], batch: &[usize], post: &Post) -> bool {
    let bytes = |post: &Post| {
        let [key, value] = [&post.key, &post.value].map(|it| it.as_ref().map_or(0, Vec::len));
        32 + key + value
    };
    let batch: usize = batch.iter().map(|&at| bytes(&posts[at])).sum();
    batch + bytes(post) <= BATCH_BYTES_MAX - BATCH_OVERHEAD_BYTES
}
