//! The bank: decides each command once, stores and announces the outcome.

use common::service::{Service, Start};
use std::process::ExitCode;

/// This service.
pub const SERVICE: Service = Service {
    name: "command-handler",
    about: "The bank: decides each command once, stores and announces the outcome",
    variables: &[],
    flags: &[],
    run,
};

fn run(start: &Start<'_>) -> Result<ExitCode, common::service::BoxError> {
    start.shutdown.wait_for_ever();
    Ok(ExitCode::SUCCESS)
}
