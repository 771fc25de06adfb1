//! Entry points of the fuzz targets in the folder fuzz.

use crate::config::Config;
use crate::web::Site;
use service::env::{self, Env};
use service::http::Request;
use service::http::fuzzing::exchange;
use std::sync::LazyLock;

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let config = Config::from_env(&Env::new(&|_| None)).expect("all variables have defaults");
    Site::new(config.graphql_url, config.results_dirs)
});

/// Reads the variables of the frontend.
pub fn configuration(env: &Env<'_>) -> Result<(), env::Error> {
    Config::from_env(env).map(drop)
}

/// Sends an HTTP request to the frontend.
pub fn http_requests(bytes: &[u8]) {
    exchange(&|request: &Request| SITE.response(request), bytes, &[], 1, || {});
}
