//! Positions of the handler are in its database: foreign members of the consumer group, handlers
//! without Kafka, refused outcomes, deleted commands, topics that change, and restored databases.
//! Those of the command-generator are in Kafka: deleted offsets.

use avro::Encoder;
use bank::records::{Atype, ConfirmMoneyTransfer, Heartbeat};
use bank::topology::{
    ACCOUNT_CREATION_CONFIRMED, CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT,
    MONEY_TRANSFER_CONFIRMED, Topic,
};
use bank_tests::bank_client::{BankClient, GENERATOR_GROUP, committed, wait_committed};
use bank_tests::handler::{Handler, Settings};
use bank_tests::kafka_admin::{
    delete_group, delete_records, grow_topic, recreate_topic, set_config,
};
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use bank_tests::{Account, creation};
use messaging::Position;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The group in which the handler commits its offsets.
const GROUP: &str = "command-handler";

/// Deposits one cent in each account, `count` times.
fn deposits(accounts: &[Account], count: usize) -> Vec<ConfirmMoneyTransfer> {
    accounts.iter().cycle().take(count).map(|account| account.gets(1)).collect()
}

/// Number of partitions of transfers that any worker owns.
fn owned(stack: &Stack) -> i64 {
    let sql = "SELECT count(owner) FROM topic_partition
               WHERE topic = 'confirm_money_transfer' AND partition < 9";
    stack.database().query_one(sql, &[]).expect("read the owners").get(0)
}

/// Number of outcomes in the database.
fn stored(stack: &Stack, ids: &[Uuid]) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM transfer WHERE id = ANY($1))
                    + (SELECT count(*) FROM account_creation WHERE id = ANY($1))";
    stack.database().query_one(sql, &[&ids]).expect("count outcomes").get(0)
}

/// Stops the handler, which has not ended before, and checks the contract.
fn finish(mut client: BankClient<'_>, handler: &Handler) {
    assert!(handler.exits().is_empty(), "{:?}", handler.exits());
    handler.stop();
    client.read_to_the_end();
    client.check();
}

/// The broker refuses commits of a client that is no member while the group has a member. The bank
/// does not need these offsets.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn foreign_group_member_stops_nothing() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    let (has_joined, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut member = stack.built_in_client();
            let topics = [CONFIRM_ACCOUNT_CREATION.name, CONFIRM_MONEY_TRANSFER.name];
            while !is_over.load(Ordering::Relaxed) {
                if member.poll_assignment(GROUP, &topics, Duration::from_secs(1)).is_ok() {
                    has_joined.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(100));
            }
            member.leave(GROUP).expect("leave the group");
        });
        until("the foreign member has joined", PATIENCE, || {
            has_joined.load(Ordering::Relaxed).then_some(())
        });
        client.send_transfers(&deposits(&accounts, 200));
        client.send_creations(&[creation(Atype::Manual)]);
        client.settle(PATIENCE);
        until("the handler logs the refused commit", PATIENCE, || {
            handler.log().contains("offsets not committed to Kafka").then_some(())
        });
        assert!(handler.is_ready());
        is_over.store(true, Ordering::Relaxed);
    });
    until("offsets are committed again", PATIENCE, || {
        handler.log().contains("offsets committed to Kafka again").then_some(())
    });
    finish(client, &handler);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_without_kafka_owns_nothing() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    // Nothing listens on port 1.
    let env = &[("KAFKA_BROKERS", "127.0.0.1:1")];
    let lost = Handler::launch(&stack, Settings { env, ..Settings::default() });
    let before = Instant::now();
    until("the handler without Kafka has tried for a while", PATIENCE, || {
        client.send_transfers(&deposits(&accounts, 20));
        client.settle(Duration::from_secs(5));
        (before.elapsed() > Duration::from_secs(5)).then_some(())
    });
    assert!(lost.log().contains("Kafka request failed"), "{}", lost.log());
    assert!(!lost.is_ready() && handler.is_ready());
    assert!(lost.exits().is_empty(), "{:?}", lost.exits());
    lost.stop();
    finish(client, &handler);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_that_loses_kafka_gives_its_partitions_back() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    assert_eq!(owned(&stack), 9);
    let fault = stack.freeze("kafka-1");
    until("the partitions are free", Duration::from_secs(20), || {
        (owned(&stack) == 0).then_some(())
    });
    assert!(!handler.is_ready());
    fault.end();
    client.send_transfers(&deposits(&accounts, 20));
    client.settle(PATIENCE);
    handler.wait_ready(PATIENCE);
    finish(client, &handler);
}

/// The last commit of a handler that was killed may have failed. The display of the lag must not
/// show these commands for as long as no other one follows.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn outdated_offsets_are_committed_at_the_start() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    client.send_transfers(&deposits(&accounts, 50));
    client.settle(PATIENCE);
    handler.stop();
    let topic = CONFIRM_MONEY_TRANSFER.name;
    let first: Vec<_> = (0..9).map(|partition| Position { partition, next: 0 }).collect();
    stack.kafka_client().commit(GROUP, topic, &first, PATIENCE).expect("commit the offsets");
    assert_eq!(committed(&stack, topic), [0; 9]);

    let handler = Handler::start(&stack);
    wait_committed(&stack, topic, PATIENCE);
    finish(client, &handler);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn refused_outcomes_are_published_later() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    let (topic, config) = (MONEY_TRANSFER_CONFIRMED.name, "max.message.bytes");
    set_config(&stack, topic, config, "10");
    client.send_transfers(&deposits(&accounts, 20));
    until("the handler logs the refusal", PATIENCE, || {
        handler.log().contains("Kafka refuses an outcome").then_some(())
    });
    until("the handler reports that it is not ready", PATIENCE, || {
        (!handler.is_ready()).then_some(())
    });
    set_config(&stack, topic, config, &MONEY_TRANSFER_CONFIRMED.batch_bytes_max.to_string());
    client.settle(PATIENCE);
    handler.wait_ready(PATIENCE);
    finish(client, &handler);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn deleted_commands_stop_the_handler() {
    // Its own servers: other tests read all commands of theirs.
    let stack = Stack::separate(1);
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(5, 100);
    let delete_commands = || {
        // A fetch that is in flight returns the first one.
        for command in deposits(&accounts, 5) {
            let command = Post { partition: 3, ..stack.transfer(&command) };
            let offset = post(&mut *stack.kafka_client(), &[command])[0];
            delete_records(&stack, CONFIRM_MONEY_TRANSFER.name, 3, offset + 1);
        }
    };
    handler.stop();
    delete_commands();
    let handler = Handler::launch(&stack, Settings::default());
    accept_the_loss(&stack, &handler, 0);

    handler.freeze();
    delete_commands();
    let logged = handler.log().len();
    handler.thaw();
    accept_the_loss(&stack, &handler, logged);
    client.send_transfers(&deposits(&accounts, 20));
    client.settle(PATIENCE);
    assert!(handler.exits().is_empty(), "{:?}", handler.exits());
    handler.stop();
}

/// Executes the SQL that the handler logs after `logged` bytes of its log.
fn accept_the_loss(stack: &Stack, handler: &Handler, logged: usize) {
    let remedy = until("the handler logs the remedy", PATIENCE, || {
        let log = &handler.log()[logged..];
        let start = log.find("UPDATE topic_partition")?;
        let end = start + log[start..].find("partition = 3")?;
        Some(format!("{}partition = 3", &log[start..end]))
    });
    until("the handler is not ready", PATIENCE, || (!handler.is_ready()).then_some(()));
    stack.database().batch_execute(&remedy).expect("the remedy is SQL");
    handler.wait_ready(PATIENCE);
}

/// The handler runs all the time. It has no position in a new partition, and its positions in a
/// recreated topic are those of another log.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn grown_and_recreated_topic_is_followed() {
    // Its own servers: other tests read all commands of theirs.
    let stack = Stack::separate(1);
    let topic = CONFIRM_MONEY_TRANSFER.name;
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(20, 100);
    client.send_transfers(&deposits(&accounts, 200));
    client.settle(PATIENCE);

    client.check();

    grow_topic(&stack, topic, 12);
    let grown = deposits(&accounts, 60);
    let posts: Vec<Post> = (9..12)
        .cycle()
        .zip(&grown)
        .map(|(partition, command)| Post { partition, ..stack.transfer(command) })
        .collect();
    post(&mut *stack.kafka_client(), &posts);
    let ids: Vec<Uuid> = grown.iter().map(|command| command.id).collect();
    until("commands in new partitions are decided", PATIENCE, || {
        (stored(&stack, &ids) == 60).then_some(())
    });

    recreate_topic(&stack, topic);
    let mut client = BankClient::open(&stack);
    client.send_transfers(&deposits(&accounts, 200));
    client.settle(PATIENCE);
    client.check();
    assert!(handler.exits().is_empty(), "{:?}", handler.exits());
    handler.stop();
}

/// Brokers delete the offsets of a generator that was stopped for 7 days. Its heartbeats become the
/// same commands again.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn deleted_offsets_of_the_generator_change_nothing() {
    // On the shared stack, the accounts of all tests would get a salary.
    let stack = Stack::separate(1);
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let encoder = Encoder::<Heartbeat>::with_id(stack.schema_ids[HEARTBEAT.name]);
    let mut kafka = stack.kafka_client();
    let mut generate = |client: &mut BankClient<'_>, beats: Range<i64>| {
        let heartbeat = |beat| {
            let value = encoder.encode(&Heartbeat { beat });
            Post::keyed(&HEARTBEAT, "1700000000000".to_owned(), value)
        };
        post(&mut *kafka, &beats.map(heartbeat).collect::<Vec<_>>());
        stack.command(&["start", "command-generator"], &[]);
        client.settle_generator(PATIENCE);
        stack.command(&["stop", "command-generator"], &[]);
        client.counts()
    };
    // 20 accounts, each with a first salary, and 80 transfers.
    let before = generate(&mut client, 0..100);
    assert_eq!((before.commands, before.commands_repeated), (120, 0), "{before:?}");

    delete_group(&stack, GENERATOR_GROUP);
    let after = generate(&mut client, 100..200);
    // The 120 commands of before. The bank confirms the 20 accounts again, and each confirmation
    // results in the same first salary.
    assert_eq!((after.commands, after.commands_repeated), (220, 140), "{after:?}");
    let log = std::fs::read_to_string(stack.log_dir().join("command-generator.log"));
    let log = log.expect("the service has a log");
    let warnings = |topic: Topic| {
        let topic = format!("topic={} ", topic.name);
        let lines = log.lines().filter(|line| line.contains("level=warn"));
        lines
            .filter(|line| line.contains(&topic) && line.contains("no committed offset, reading"))
            .count()
    };
    // At the first start there were heartbeats, but no accounts.
    let found = [HEARTBEAT, ACCOUNT_CREATION_CONFIRMED].map(warnings);
    assert_eq!(found, [2, 1], "{log}");
    // A different second outcome of a command would be a violation.
    finish(client, &handler);
}

/// The database of the bank goes back to a copy from before some commands, as after a restore or
/// the failover to an asynchronous standby.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn restored_database_decides_lost_commands_again() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    client.ignores_times = true;
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(10, 100);
    handler.stop();
    let backup = Backup::of(&stack);

    let handler = Handler::start(&stack);
    let creations: Vec<_> = (0..10).map(|_| creation(Atype::Auto)).collect();
    client.send_creations(&creations);
    // One transfer for each account: the outcomes do not depend on the order.
    let transfers = deposits(&accounts, accounts.len());
    client.send_transfers(&transfers);
    client.settle(PATIENCE);
    handler.stop();

    let ids: Vec<Uuid> =
        creations.iter().map(|it| it.id).chain(transfers.iter().map(|it| it.id)).collect();
    backup.restore();
    assert_eq!(stored(&stack, &ids), 0);
    let handler = Handler::start(&stack);
    until("the lost commands are decided again", PATIENCE, || {
        client.read(Duration::from_millis(20));
        (stored(&stack, &ids) == ids.len() as i64).then_some(())
    });
    handler.stop();
    // The repeated outcomes are equal to the published ones, ibans and tokens included. Only the
    // times are later.
    client.read_to_the_end();
    client.check();
    // A transfer has two records: its outcome and the change of a balance.
    let records = creations.len() + 2 * transfers.len();
    assert_eq!(client.counts().repeated, records as u64);
}

/// A copy of balancedb on the same server.
struct Backup<'a>(&'a Stack);

impl<'a> Backup<'a> {
    fn of(stack: &'a Stack) -> Self {
        let backup = Self(stack);
        backup
            .run(&["DROP DATABASE IF EXISTS backup", "CREATE DATABASE backup TEMPLATE balancedb"]);
        backup
    }

    /// Replaces the database by the copy.
    fn restore(self) {
        self.run(&[
            "DROP DATABASE balancedb WITH (FORCE)",
            "ALTER DATABASE backup RENAME TO balancedb",
        ]);
    }

    fn run(&self, statements: &[&str]) {
        let mut config: postgres::Config = self.0.database_url().parse().expect("a valid URL");
        let mut client = config.dbname("postgres").connect(postgres::NoTls).expect("connect");
        for sql in statements {
            client.batch_execute(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
        }
    }
}
