//! Turns each heartbeat record into a command to the bank.
//!
//! One instance is enough: it generates more commands than the bank can decide. A second instance
//! derives the same command ids from the same records, and the bank decides each id once. As
//! members of a consumer group, instances share the partitions of the topic. If the topic has one
//! partition, the other members are on standby.

pub mod config;
pub mod consume;
pub mod domain;
pub mod generate;
mod metrics;

use config::{CONSUMER_GROUP_PROTOCOL, Config, SEED};
use generate::Generator;
use messaging::KafkaConfig;
use messaging::producer::ProducerConfig;
use service::env::{COMPANY_TOKEN, COMPANY_TOKEN_FILE, SCHEMA_REGISTRY_URL};
use service::health::Health;
use service::{BoxError, Service, Start};
use std::process::ExitCode;

/// Name, help text and entry point of the service.
pub const SERVICE: Service = Service {
    name: "command-generator",
    about: "Turns each heartbeat record into a command to the bank",
    variables: &[
        KafkaConfig::VARIABLES,
        ProducerConfig::VARIABLES,
        &[SCHEMA_REGISTRY_URL, SEED, CONSUMER_GROUP_PROTOCOL, COMPANY_TOKEN, COMPANY_TOKEN_FILE],
    ],
    flags: &[],
    run,
};

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let config = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    if config.has_well_known_token() {
        log::warn!(
            "salaries are sent with the token of the talk, 20 zeros: set COMPANY_TOKEN of \
             command-handler and command-generator to 20 random digits"
        );
    }
    if let Some(generator) = Generator::open(config, &start.shutdown)? {
        generator.run(|| health.set_ready(true))?;
    }
    Ok(ExitCode::SUCCESS)
}
