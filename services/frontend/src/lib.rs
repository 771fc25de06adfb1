//! The bank in a browser: serves a page that sends requests to the GraphQL endpoint, and the
//! results of the performance test that the page shows. It needs no other server.

mod config;
mod metrics;
mod page;
mod results;
mod web;

use crate::config::{Config, VARIABLES};
use crate::web::Site;
use service::health::Health;
use service::http::{self, Capacity};
use service::{BoxError, Service, Start};
use std::process::ExitCode;

/// This service.
pub const SERVICE: Service = Service {
    name: "frontend",
    about: "The bank in a browser: pages on FRONTEND_PORT that use the GraphQL endpoint",
    variables: &[VARIABLES],
    flags: &[],
    run,
};

/// A browser opens about six connections, each for a moment. The Compose file and the unit allow as
/// many threads.
const CAPACITY: Capacity = Capacity { workers: 4, connections: 200 };

/// Config -> ports, until shutdown.
fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let Config { port, graphql_url, results_dirs } = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    metrics::register();
    http::serve(&http::everywhere(port), CAPACITY, Site::new(graphql_url, results_dirs))?;
    health.set_ready(true);
    log::info!(port; "listening");
    start.shutdown.wait_for_ever();
    Ok(ExitCode::SUCCESS)
}
