//! Notices that the registry was replaced or restored, so that an id in use has another schema.

use crate::registry::{Error, Registry};
use crate::schema::Schema;
use crate::writer_schema::WriterSchema;
use bank::topology::Topic;
use service::EXIT_TEMPORARY;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// Time between two checks of all ids in use. One check is one request for each id.
const INTERVAL: Duration = Duration::from_secs(5);

/// Checks from now on that `id` has the schema of `topic`. Otherwise the registry was replaced, and
/// the process exits with code 75: see docs/decisions/0031-replaced-registry.md.
pub fn check_regularly(registry: &Registry, topic: Topic, id: u32, shutdown: &Shutdown) {
    let mut ids = registry.ids_in_use.lock().unwrap_or_else(PoisonError::into_inner);
    ids.push((topic, id));
    if ids.len() > 1 {
        return;
    }
    // One thread checks all ids.
    let (registry, shutdown) = (registry.clone(), shutdown.clone());
    let check = move || {
        while !shutdown.wait(INTERVAL) {
            check_all(&registry, &shutdown);
        }
    };
    if let Err(err) = thread::Builder::new().name("schema-ids".into()).spawn(check) {
        log::error!(error:% = err; "could not start the thread that checks schema ids");
    }
}

/// Ends the process if an id has another schema. All that depends on ids ends with it: encoded
/// records that are not sent yet, and the schemas in the caches of the decoders.
fn check_all(registry: &Registry, shutdown: &Shutdown) {
    let ids = registry.ids_in_use.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (topic, id) in ids {
        match still_has_schema(registry, &topic, id) {
            Ok(true) => {}
            Ok(false) if shutdown.requested() => {}
            Ok(false) => {
                log::error!(
                    topic = topic.name, id;
                    "the schema registry was replaced: the schema id is not valid, exiting with \
                     code 75"
                );
                service::exit(EXIT_TEMPORARY);
            }
            // A running service does not need the registry.
            Err(err) => {
                log::debug!(topic = topic.name, id, error:% = Chain(&err); "schema id not checked");
            }
        }
    }
}

/// True if `id` has the schema of `topic`, or one that encodes to the same bytes.
fn still_has_schema(registry: &Registry, topic: &Topic, id: u32) -> Result<bool, Error> {
    let ours = Schema::parse(&[topic.schema.unwrap_or_default()]);
    Ok(match registry.schema(id)? {
        WriterSchema::Found(texts) => Schema::parse(&texts)
            .is_ok_and(|found| ours.is_ok_and(|ours| found.encodes_like(&ours))),
        WriterSchema::Absent | WriterSchema::Impossible => false,
        // The response of a proxy, for example, proves nothing.
        WriterSchema::Unusable(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::Fake;
    use bank::topology::{HEARTBEAT, MONEY_TRANSFER_FAILED};
    use serde_json::json;

    #[test]
    fn id_with_another_schema_is_noticed() {
        let has = |topic: Topic| (200, json!({ "schema": topic.schema.unwrap() }).to_string());
        let absent = (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned());
        for (response, expected) in [
            (has(HEARTBEAT), Some(true)),
            (has(MONEY_TRANSFER_FAILED), Some(false)),
            (absent, Some(false)),
            ((503, String::new()), None),
            ((404, "wrong path".to_owned()), None),
        ] {
            let registry = Registry::new(&Fake::start(vec![response.clone()]).url);
            let found = still_has_schema(&registry, &HEARTBEAT, 7).ok();
            assert_eq!(found, expected, "{response:?}");
        }
    }
}
