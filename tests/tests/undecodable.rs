//! Undecodable records.

use bank::limits::COMMAND_BYTES_MAX;
use bank::records::{Atype, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use bank_tests::{Account, SHOP, creation};
use messaging::partitioner::partition;
use observer::ObservedRecord;
use observer::undecodable::{UndecodableCase, cases, transfers};
use std::time::Duration;
use uuid::Uuid;

/// All cases of both topics.
fn all_cases(stack: &Stack, account: &Account) -> Vec<UndecodableCase> {
    let heartbeat = stack.schema_ids[HEARTBEAT.name];
    let creation = stack.creations.encode(&creation(Atype::Auto));
    let payment = || account.pays(1, SHOP);
    let mut all = cases(CONFIRM_ACCOUNT_CREATION, &creation, heartbeat);
    all.extend(cases(CONFIRM_MONEY_TRANSFER, &stack.transfers.encode(&payment()), heartbeat));
    all.extend(transfers(&payment(), |order| stack.transfers.encode(order)));
    all
}

/// Sends undecodable records, each followed by a valid command in the same partition. The first
/// must reach dead_letter, the second must be answered.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn undecodable_record_goes_to_dead_letter() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut kafka = stack.kafka_client();
    let cases = all_cases(&stack, &account);
    let count_of_transfers = cases.iter().filter(|it| it.topic == CONFIRM_MONEY_TRANSFER).count();
    let count = cases.len();
    for (index, case) in cases.into_iter().enumerate() {
        let UndecodableCase { what, reason, topic, key, value } = case;
        let at = key.as_ref().map_or(0, |key| partition(key, topic.partitions));
        let (id, good) = if topic == CONFIRM_ACCOUNT_CREATION {
            let command = creation(Atype::Manual);
            (command.id, stack.creation(&command))
        } else {
            let command = in_partition(at, || account.pays(1, SHOP));
            (command.id, stack.transfer(&command))
        };
        assert_eq!((good.topic, good.partition), (topic.name, at));
        let bad = Post { topic: topic.name, partition: at, key, value: value.clone() };
        let offset = post(&mut *kafka, &[bad])[0];
        client.expect([id]);
        post(&mut *kafka, &[good]);
        client.settle(PATIENCE);
        let record = dead_letter(&mut client, index);
        let key = record.key_text();
        let origin = format!("{}/{at}/{offset}: ", topic.name);
        let found =
            key.strip_prefix(&origin).unwrap_or_else(|| panic!("{key} instead of {origin}"));
        assert!(found.contains(reason), "{what}: {found} does not contain {reason:?}");
        assert!(record.value == value.unwrap_or_default(), "{what}: {key}: other bytes");
    }
    assert!(handler.exits().is_empty());
    let counted = r#"bank_commands_total{outcome="dead_letter",topic="confirm_money_transfer"}"#;
    assert_eq!(handler.metric(counted), Some(count_of_transfers as f64));
    client.read_to_the_end();
    client.check();
    assert_eq!((client.counts().repeated, client.dead_letters.len()), (0, count));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn command_up_to_the_size_limit_is_accepted() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let _handler = Handler::start(&stack);
    let [account] = client.open_accounts(1, 1_000).try_into().unwrap();
    let mut order = account.pays(1, SHOP);
    let bytes = stack.transfers.encode(&order).len();
    // The length of a longer string takes two more bytes.
    order.description = "x".repeat(COMMAND_BYTES_MAX - bytes + order.description.len() - 2);
    assert_eq!(stack.transfers.encode(&order).len(), COMMAND_BYTES_MAX);
    assert_eq!(client.decide(&order), None);
    assert_eq!(client.changes(&account.iban)[1].description, order.description);

    order.id = Uuid::new_v4();
    order.description.push('x');
    post(&mut *stack.kafka_client(), &[stack.transfer(&order)]);
    let key = dead_letter(&mut client, 0).key_text();
    assert!(key.ends_with("value of 65537 bytes, more than 65536"), "{key}");
    assert_eq!(client.decide(&account.pays(1, SHOP)), None);
    client.check();
}

/// A command whose id belongs to the partition `wanted`.
fn in_partition(wanted: i32, command: impl Fn() -> ConfirmMoneyTransfer) -> ConfirmMoneyTransfer {
    let partitions = CONFIRM_MONEY_TRANSFER.partitions;
    loop {
        let command = command();
        if partition(command.id.to_string().as_bytes(), partitions) == wanted {
            return command;
        }
    }
}

/// The dead letter of the test with this index.
fn dead_letter(client: &mut BankClient<'_>, index: usize) -> ObservedRecord {
    until("a record in dead_letter", PATIENCE, || {
        client.read(Duration::from_millis(100));
        client.dead_letters.get(index).cloned()
    })
}
