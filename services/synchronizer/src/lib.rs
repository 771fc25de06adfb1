//! Makes the topics and schemas of the bank what they should be.

use common::service::{Service, Start};
use std::process::ExitCode;

/// This service.
pub const SERVICE: Service = Service {
    name: "synchronizer",
    about: "Makes the topics and schemas of the bank what they should be",
    variables: &[],
    flags: &[],
    run,
};

fn run(start: &Start<'_>) -> Result<ExitCode, common::service::BoxError> {
    start.shutdown.wait_for_ever();
    Ok(ExitCode::SUCCESS)
}
