//! Addresses of the running stack.

use crate::error::{Result, failed};
use crate::parts::{self, Part};
use crate::postgres;
use crate::settings::Settings;
use crate::stack::Stack;

/// Addresses of the brokers.
pub fn kafka_brokers(settings: &Settings) -> String {
    addresses(settings.kafka_port, settings.brokers)
}

fn addresses(first: u16, count: u16) -> String {
    let addresses: Vec<String> =
        (first..first + count).map(|port| format!("127.0.0.1:{port}")).collect();
    addresses.join(",")
}

/// URL of the registry's Confluent API.
pub fn registry_url(settings: &Settings) -> String {
    format!("http://127.0.0.1:{}/apis/ccompat/v7", settings.registry_port)
}

/// The variables that `env` prints. Fails if nothing runs.
pub fn variables(stack: &Stack) -> Result<Vec<(String, String)>> {
    if stack.parts_up().is_empty() {
        return Err(failed(format!("nothing runs in {}: run `make up`", stack.dir.display())));
    }
    let settings = &stack.settings;
    let mut variables = Vec::new();
    let mut add = |name: &str, value: String| variables.push((name.to_owned(), value));
    add("STACK_DIR", stack.dir.display().to_string());
    add("STACK_DATA_DIR", stack.data_dir().display().to_string());
    add("STACK", stack.script().display().to_string());
    add("KAFKA_BROKERS", kafka_brokers(settings));
    if let Some(port) = settings.sasl_port {
        add("KAFKA_SASL_BROKERS", addresses(port, settings.brokers));
    }
    add("KAFKA_JARS", stack.kafka_jars(&settings.kafka).display().to_string());
    add("SCHEMA_REGISTRY_URL", registry_url(settings));
    add("BALANCE_DATABASE_URL", postgres::url(stack, "balancedb")?);
    add("TRANSACTION_DATABASE_URL", postgres::url(stack, "transactiondb")?);
    for part in parts::services() {
        let prefix = variable_prefix(part);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        add(&format!("{prefix}_URL"), url(part.first_port(settings)));
        add(&format!("{prefix}_HEALTH_URL"), url(part.health_port(settings)));
    }
    Ok(variables)
}

/// As in COMMAND_HANDLER.
fn variable_prefix(part: Part) -> String {
    part.to_string().to_uppercase().replace('-', "_")
}
