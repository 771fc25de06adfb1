//! Records that can't be decoded, and committed offsets.

use crate::accounts::Account;
use crate::error::Error;
use crate::handler_process::GROUP;
use crate::topic_reader::is_done;
use crate::verify::findings::Point;
use crate::verify::verification::{Verification, in_partition};
use crate::verify::witness::Answer;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER, HEARTBEAT};
use messaging::partitioner::partition;
use messaging::producer::Outgoing;
use messaging::{Batch, KafkaClient, NewRecord};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Largest command that a handler must read, bytes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// Sends records that are wrong in one thing each, to both topics of commands.
pub fn undecodable(verification: &mut Verification<'_>, account: &Account) -> Result<(), Error> {
    let mut client = verification.cluster.bus();
    for case in cases(verification, account)? {
        if verification.findings.is_hopeless(Point::Undecodable) {
            break;
        }
        let result = send_and_check(verification, account, &mut *client, &case)?;
        let result = result.map_err(|fault| format!("{} in {}: {fault}", case.what, case.topic));
        verification.findings.note(Point::Undecodable, result);
    }
    Ok(())
}

fn cases(verification: &Verification<'_>, account: &Account) -> Result<Vec<Undecodable>, Error> {
    let heartbeat = verification
        .cluster
        .registry
        .id_of(&HEARTBEAT)
        .map_err(|source| Error::Registry { topic: HEARTBEAT.name, source })?;
    let creation = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Auto };
    let transfer = verification.transfer(&account.gets(1));
    let mut cases = wrong_in_one_thing(&verification.creation(&creation), heartbeat);
    cases.extend(wrong_in_one_thing(&transfer, heartbeat));
    let nul = ConfirmMoneyTransfer { description: "a\0b".to_owned(), ..account.gets(1) };
    cases.push(Undecodable::of(&verification.transfer(&nul), "a NUL in its description"));
    let nul = ConfirmMoneyTransfer { to: format!("{}\0", account.iban), ..account.gets(1) };
    cases.push(Undecodable::of(&verification.transfer(&nul), "a NUL in its to"));
    let mut not_text = Undecodable::of(&transfer, "a description that is not UTF-8");
    if let Some(last) = not_text.value.as_mut().and_then(|value| value.last_mut()) {
        *last = 0xff;
    }
    cases.push(not_text);
    Ok(cases)
}

/// Sends the record and a good command after it: the first must arrive in dead_letter, the second
/// must be answered.
fn send_and_check(
    verification: &mut Verification<'_>,
    account: &Account,
    client: &mut dyn KafkaClient,
    case: &Undecodable,
) -> Result<Result<(), String>, Error> {
    let Undecodable { topic, key, value, .. } = case;
    let creates = *topic == CONFIRM_ACCOUNT_CREATION.name;
    let partitions = if creates { 1 } else { CONFIRM_MONEY_TRANSFER.partitions };
    let at = key.as_ref().map_or(0, |key| partition(key, partitions));
    let record = NewRecord { key: key.as_deref(), value: value.as_deref(), headers: &[] };
    let batch = Batch { topic, partition: at, records: vec![record] };
    let within = Duration::from_secs(10);
    let written = client.produce(std::slice::from_ref(&batch), within).swap_remove(0);
    let offset = written
        .map_err(|source| Error::Kafka { step: "send an undecodable record".to_owned(), source })?;
    let (id, order) = if creates {
        let command = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Manual };
        let record = verification.creation(&command);
        verification.asked.push(command.clone());
        verification.send(&[record])?;
        (command.id, None)
    } else {
        let order = in_partition(at, || account.gets(1));
        verification.order(std::slice::from_ref(&order))?;
        (order.id, Some(order))
    };
    let origin = format!("{topic}/{at}/{offset}: ");
    let before = verification.witness.letters.len();
    let dead_letter = |it: &Verification<'_>| {
        let letters = &it.witness.letters[before..];
        letters.iter().find(|(key, _)| key.starts_with(&origin)).map(|(_, bytes)| bytes.clone())
    };
    let went_on = verification
        .wait(|it| dead_letter(it).is_some() && it.is_told(id, order.as_ref()))?
        || verification.is_told(id, order.as_ref());
    if let (true, Some(Answer::Opened(opened))) = (creates, verification.witness.answer(id)) {
        verification.known.insert(opened.iban.clone());
    }
    Ok(match dead_letter(verification) {
        _ if !went_on => Err("the next command is not answered".to_owned()),
        None => Err(format!("nothing in dead_letter with key {origin:?}")),
        Some(bytes) if bytes != value.clone().unwrap_or_default() => {
            Err("other bytes in dead_letter".to_owned())
        }
        Some(_) => Ok(()),
    })
}

/// The group is at the end of both topics of commands.
pub fn offsets(verification: &mut Verification<'_>) -> Result<(), Error> {
    let mut bus = verification.cluster.bus();
    let deadline = Instant::now() + verification.patience;
    for topic in [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER] {
        let mut done = is_done(&mut *bus, GROUP, &topic)?;
        while !done && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            done = is_done(&mut *bus, GROUP, &topic)?;
        }
        let fault = || format!("group {GROUP} is not at the end of {}", topic.name);
        verification.findings.note(Point::Offsets, done.then_some(()).ok_or_else(fault));
    }
    Ok(())
}

/// A record that is no command.
struct Undecodable {
    topic: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    what: &'static str,
}

impl Undecodable {
    fn of(record: &Outgoing, what: &'static str) -> Self {
        let key = Some(record.key.clone().into_bytes());
        Self { topic: record.topic, key, value: Some(record.value.clone()), what }
    }
}

/// What can be wrong with any record, given a good one and the id of another schema.
fn wrong_in_one_thing(good: &Outgoing, other_schema: u32) -> Vec<Undecodable> {
    debug_assert_ne!(good.topic, DEAD_LETTER.name);
    let with = |what: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut case = Undecodable::of(good, what);
        // A key of its own: the good command's may come later.
        case.key = Some(Uuid::new_v4().to_string().into_bytes());
        change(case.value.get_or_insert_default());
        case
    };
    let schema =
        |id: u32| move |value: &mut Vec<u8>| value[1..5].copy_from_slice(&id.to_be_bytes());
    vec![
        with("magic byte 1", &|value| value[0] = 1),
        with("one byte", &|value| value.truncate(1)),
        with("half a schema id", &|value| value.truncate(3)),
        with("no datum", &|value| value.truncate(5)),
        with("a byte too few", &|value| value.truncate(value.len() - 1)),
        with("a byte too many", &|value| value.push(0)),
        with("an unknown schema", &schema(2_000_000_000)),
        with("a schema id that is no int", &schema(u32::MAX)),
        with("another record's schema", &schema(other_schema)),
        with("more than 64 KiB", &|value| value.resize(COMMAND_BYTES_MAX + 1, 0)),
        Undecodable { value: None, ..with("no value", &|_| {}) },
        Undecodable { key: None, ..with("no key", &|_| {}) },
    ]
}
