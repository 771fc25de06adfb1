//! Web pages of the bank. Serves one page, which connects to the GraphQL endpoint, and the results
//! of the performance test that the page shows. Needs no other server to start.

mod config;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod metrics;
mod page;
mod results;
mod web;

use crate::config::{Config, VARIABLES};
use crate::web::Site;
use service::health::Health;
use service::http::{self, Limits, Request};
use service::{BoxError, Service, Start};
use std::process::ExitCode;

pub const SERVICE: Service = Service {
    name: "frontend",
    about: "Web pages of the bank, which connect to the GraphQL endpoint",
    variables: &[VARIABLES],
    flags: &[],
    run,
};

/// Maximum of open connections. A browser opens about six short ones.
const CONNECTIONS_MAX: usize = 200;

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let Config { addr, graphql_url, results_dirs } = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    metrics::register();
    let site = Site::new(graphql_url, results_dirs);
    let limits = Limits { connections: CONNECTIONS_MAX, ..Limits::default() };
    http::serve(addr, limits, move |request: &Request| site.response(request))?;
    health.set_ready(true);
    log::info!(port = addr.port(); "listening");
    start.shutdown.wait_for_ever();
    Ok(ExitCode::SUCCESS)
}
