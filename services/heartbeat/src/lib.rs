//! Sends the beats that drive the load of the bank.

use common::service::{Service, Start};
use std::process::ExitCode;

/// This service.
pub const SERVICE: Service = Service {
    name: "heartbeat",
    about: "Sends the beats that drive the load of the bank",
    variables: &[],
    flags: &[],
    run,
};

fn run(start: &Start<'_>) -> Result<ExitCode, common::service::BoxError> {
    start.shutdown.wait_for_ever();
    Ok(ExitCode::SUCCESS)
}
