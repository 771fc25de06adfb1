//! Undecodable records, and committed offsets.

use crate::error::Error;
use crate::handler_process::GROUP;
use crate::topic_reader::is_done;
use crate::verify::findings::Point;
use crate::verify::verification::{Verification, in_partition};
use bank::records::{Atype, ConfirmAccountCreation};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT};
use messaging::partitioner::partition;
use messaging::{Batch, KafkaClient, NewRecord};
use observer::rule_cases::Account;
use observer::undecodable::{self, UndecodableCase};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Sends records with one defect each to both topics of commands.
pub fn undecodable(verification: &mut Verification<'_>, account: &Account) -> Result<(), Error> {
    let mut client = verification.cluster.kafka_client();
    for case in cases(verification, account)? {
        if verification.findings.has_enough_faults(Point::Undecodable) {
            break;
        }
        let result = send_and_check(verification, account, &mut *client, &case)?;
        let result =
            result.map_err(|fault| format!("{} in {}: {fault}", case.what, case.topic.name));
        verification.findings.note(Point::Undecodable, result);
    }
    Ok(())
}

fn cases(
    verification: &Verification<'_>,
    account: &Account,
) -> Result<Vec<UndecodableCase>, Error> {
    let heartbeat = verification
        .cluster
        .registry
        .id_of(&HEARTBEAT)
        .map_err(|source| Error::Registry { topic: HEARTBEAT.name, source })?;
    let creation = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Auto };
    let creation = verification.creation(&creation).value;
    let transfer = verification.transfer(&account.gets(1)).value;
    let mut cases = undecodable::cases(CONFIRM_ACCOUNT_CREATION, &creation, heartbeat);
    cases.extend(undecodable::cases(CONFIRM_MONEY_TRANSFER, &transfer, heartbeat));
    cases.extend(undecodable::transfers(&account.gets(1), |it| verification.transfer(it).value));
    Ok(cases)
}

/// Sends an undecodable record and a valid command after it. The first must be written to
/// dead_letter, the second must be answered.
fn send_and_check(
    verification: &mut Verification<'_>,
    account: &Account,
    client: &mut dyn KafkaClient,
    case: &UndecodableCase,
) -> Result<Result<(), String>, Error> {
    let UndecodableCase { topic, key, value, .. } = case;
    let at = key.as_ref().map_or(0, |key| partition(key, topic.partitions));
    let record = NewRecord { key: key.as_deref(), value: value.as_deref(), headers: &[] };
    let batch = Batch { topic: topic.name, partition: at, records: vec![record] };
    let within = Duration::from_secs(10);
    let written = client.produce(std::slice::from_ref(&batch), within).swap_remove(0);
    let offset = written
        .map_err(|source| Error::Kafka { step: "send an undecodable record".to_owned(), source })?;
    let id = if *topic == CONFIRM_ACCOUNT_CREATION {
        let command = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Manual };
        let record = verification.creation(&command);
        verification.asked.push(command.clone());
        verification.send(&[record])?;
        command.id
    } else {
        let order = in_partition(at, || account.gets(1));
        verification.order(std::slice::from_ref(&order))?;
        order.id
    };
    let origin = format!("{}/{at}/{offset}: ", topic.name);
    let before = verification.dead_letters.len();
    let dead_letter = |it: &Verification<'_>| {
        let mut records = it.dead_letters[before..].iter();
        records.find(|it| it.key_text().starts_with(&origin)).map(|it| it.value.clone())
    };
    let continued = verification.wait(|it| dead_letter(it).is_some() && it.is_answered(id))?
        || verification.is_answered(id);
    Ok(match dead_letter(verification) {
        _ if !continued => Err("the next command is unanswered".to_owned()),
        None => Err(format!("dead_letter has no record with key {origin:?}")),
        Some(bytes) if bytes != value.clone().unwrap_or_default() => {
            Err("the record in dead_letter has other bytes".to_owned())
        }
        Some(_) => Ok(()),
    })
}

/// Checks that the group has committed the end of both topics of commands.
pub fn offsets(verification: &mut Verification<'_>) -> Result<(), Error> {
    let mut kafka_client = verification.cluster.kafka_client();
    let deadline = Instant::now() + verification.outcome_timeout;
    for topic in [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER] {
        let mut done = is_done(&mut *kafka_client, GROUP, &topic)?;
        while !done && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            done = is_done(&mut *kafka_client, GROUP, &topic)?;
        }
        let fault = || format!("group {GROUP} has not committed the end of {}", topic.name);
        verification.findings.note(Point::Offsets, done.then_some(()).ok_or_else(fault));
    }
    Ok(())
}
