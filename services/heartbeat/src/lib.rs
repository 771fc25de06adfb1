//! Sends the heartbeat records that set the load of the bank: `batch_size` records every
//! `sleep_ms`. HTTP requests change both while the service runs.

pub mod config;
pub mod control;
pub mod error;
pub mod schedule;
pub mod send;

use config::Config;
use control::Control;
use messaging::KafkaConfig;
use messaging::producer::ProducerConfig;
use send::HeartbeatSender;
use service::env::SCHEMA_REGISTRY_URL;
use service::health::Health;
use service::{BoxError, Service, Start};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// Name, help text and entry point of the service.
pub const SERVICE: Service = Service {
    name: "heartbeat",
    about: "Sends the heartbeat records that set the load of the bank; GET and PUT / on \
            CONTROL_PORT return and change the load",
    variables: &[
        Config::VARIABLES,
        &[SCHEMA_REGISTRY_URL],
        KafkaConfig::VARIABLES,
        ProducerConfig::VARIABLES,
    ],
    flags: &[],
    run,
};

/// Opens the ports before it waits for Kafka, so that the load can be changed during the wait.
fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let config = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    let control = Arc::new(Control::new(config.load));
    control::serve(config.control_addr, config.control_token.clone(), control.clone())?;
    let Some(sender) = HeartbeatSender::open(&config, &start.shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };
    health.set_ready(true);

    let (stop, stopping) = (start.shutdown.clone(), control.clone());
    thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait_for_ever();
        stopping.stop();
    })?;
    sender.run(&control)?;
    Ok(ExitCode::SUCCESS)
}
