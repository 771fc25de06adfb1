//! Web pages of the bank. Serves one page, which connects to the GraphQL endpoint, and the results
//! of the performance test that the page shows. Needs no other server to start.

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

pub const SERVICE: Service = Service {
    name: "frontend",
    about: "Web pages of the bank, which connect to the GraphQL endpoint",
    variables: &[VARIABLES],
    flags: &[],
    run,
};

/// A browser opens about six short connections. The limits of threads in compose.yml and in the
/// systemd unit allow this number.
const CAPACITY: Capacity = Capacity { workers: 4, connections: 200 };

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
