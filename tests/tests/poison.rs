//! Records that are no commands.

use avro::Record;
use bank::records::{Atype, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER, HEARTBEAT};
use bank_tests::handler::Handler;
use bank_tests::ledger::Ledger;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::tape::{Tape, Told};
use bank_tests::wait::until;
use bank_tests::{SHOP, creation};
use messaging::partitioner::partition;
use rand::Rng;
use std::time::Duration;
use uuid::Uuid;

/// Largest command that the bank reads, bytes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// A record and what dead_letter should say of it.
struct Poison {
    post: Post,
    reason: &'static str,
}

/// What can be wrong with the value of any topic, given a right one.
fn poisons(stack: &Stack, good: &Post) -> Vec<Poison> {
    let value = good.value.clone().expect("a command has a value");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut value = value.clone();
        change(&mut value);
        Some(value)
    };
    let id = |id: u32| with(&|value| value[1..5].copy_from_slice(&id.to_be_bytes()));
    let random = |len: usize| {
        let mut bytes = vec![0; len];
        rand::rng().fill_bytes(&mut bytes);
        bytes[0] |= 1;
        Some(bytes)
    };
    let cases = [
        (random(100), "magic byte"),
        (random(2 << 20), "2097152 bytes"),
        (with(&|value| value[0] = 1), "magic byte 1 instead of 0"),
        (Some(vec![0]), "too short"),
        (Some(value[..4].to_vec()), "too short"),
        (Some(value[..5].to_vec()), "schema"),
        (id(u32::MAX), "does not know"),
        (id(2_000_000_000), "does not know"),
        (id(0), "does not know"),
        (id(stack.schema_ids[HEARTBEAT.name]), "schema"),
        (with(&|value| value.truncate(value.len() - 1)), "schema"),
        (with(&|value| value.push(0)), "schema"),
        (with(&|value| value.resize(2 << 20, 0)), "2097152 bytes"),
        (None, "no value"),
    ];
    let mut poisons: Vec<Poison> = cases
        .into_iter()
        .map(|(value, reason)| {
            let key = Some(Uuid::new_v4().to_string().into_bytes());
            Poison { post: Post { key, value, ..*good }, reason }
        })
        .collect();
    let post = Post { key: None, value: Some(value), ..*good };
    poisons.push(Poison { post, reason: "no key" });
    let post = Post { key: None, value: None, ..*good };
    poisons.push(Poison { post, reason: "no " });
    poisons
}

/// Sends poison, each time followed by a good command in the same partition: both are dealt with.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn poison_goes_to_dead_letter_and_the_partition_goes_on() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let mut letters = Tape::from_now(&stack, &[DEAD_LETTER]);
    let handler = Handler::start(&stack);
    let [account] = ledger.open_accounts(1, 1_000).try_into().unwrap();
    let mut bus = stack.bus();

    let sample = creation(Atype::Auto);
    let mut poison: Vec<Poison> = poisons(&stack, &stack.creation(&sample));
    poison.extend(poisons(&stack, &stack.transfer(&account.pays(1, SHOP))));
    for change in [
        |order: &mut ConfirmMoneyTransfer| order.description = "a\0b".to_owned(),
        |order: &mut ConfirmMoneyTransfer| order.to.push('\0'),
        |order: &mut ConfirmMoneyTransfer| order.from = "\0".to_owned(),
    ] {
        let mut order = account.pays(1, SHOP);
        change(&mut order);
        poison.push(Poison { post: stack.transfer(&order), reason: "NUL" });
    }
    let mut not_text = stack.transfer(&account.pays(1, SHOP));
    *not_text.value.as_mut().unwrap().last_mut().unwrap() = 0xff;
    poison.push(Poison { post: not_text, reason: "description" });

    for Poison { post: bad, reason } in &poison {
        let good = if bad.topic == CONFIRM_ACCOUNT_CREATION.name {
            let command = creation(Atype::Manual);
            ledger.note_creations(std::slice::from_ref(&command));
            stack.creation(&command)
        } else {
            let command = in_partition(bad.partition, || account.pays(1, SHOP));
            ledger.note(std::slice::from_ref(&command));
            stack.transfer(&command)
        };
        assert_eq!((good.topic, good.partition), (bad.topic, bad.partition));
        let offset = post(&mut *bus, std::slice::from_ref(bad))[0];
        post(&mut *bus, &[good]);
        ledger.settle(PATIENCE);
        let letter = next_letter(&mut letters);
        let key = String::from_utf8(letter.key).unwrap();
        let origin = format!("{}/{}/{offset}: ", bad.topic, bad.partition);
        let told = key.strip_prefix(&origin).unwrap_or_else(|| panic!("{key} instead of {origin}"));
        assert!(told.contains(reason), "{told}: nothing of {reason:?}");
        assert!(letter.value == bad.value.clone().unwrap_or_default(), "{key}: other bytes");
    }
    assert_eq!(letters.next(Duration::ZERO), None);
    assert!(handler.exits().is_empty());
    let counted = r#"bank_commands_total{outcome="dead_letter",topic="confirm_money_transfer"}"#;
    let transfers = poison.iter().filter(|it| it.post.topic == CONFIRM_MONEY_TRANSFER.name).count();
    assert_eq!(handler.metric(counted), Some(transfers as f64));
    ledger.check();
    assert_eq!(ledger.repeats, 0);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_command_may_be_large_up_to_the_limit() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let mut letters = Tape::from_now(&stack, &[DEAD_LETTER]);
    let _handler = Handler::start(&stack);
    let [account] = ledger.open_accounts(1, 1_000).try_into().unwrap();
    let mut order = account.pays(1, SHOP);
    let bytes = stack.transfers.encode(&order).len();
    // A longer text has two more bytes in front that tell its length.
    order.description = "x".repeat(COMMAND_BYTES_MAX - bytes + order.description.len() - 2);
    assert_eq!(stack.transfers.encode(&order).len(), COMMAND_BYTES_MAX);
    assert_eq!(ledger.decide(&order), None);
    assert_eq!(ledger.changes(&account.iban)[1].description, order.description);

    order.id = Uuid::new_v4();
    order.description.push('x');
    post(&mut *stack.bus(), &[stack.transfer(&order)]);
    let key = String::from_utf8(next_letter(&mut letters).key).unwrap();
    assert!(key.ends_with("value of 65537 bytes, more than 65536"), "{key}");
    assert_eq!(ledger.decide(&account.pays(1, SHOP)), None);
    ledger.check();
}

/// A command whose id belongs into `wanted`.
fn in_partition(wanted: i32, command: impl Fn() -> ConfirmMoneyTransfer) -> ConfirmMoneyTransfer {
    let partitions = ConfirmMoneyTransfer::TOPIC.partitions;
    loop {
        let command = command();
        if partition(command.id.to_string().as_bytes(), partitions) == wanted {
            return command;
        }
    }
}

fn next_letter(letters: &mut Tape) -> Told {
    until("a letter in dead_letter", PATIENCE, || letters.next(Duration::from_millis(100)))
}
