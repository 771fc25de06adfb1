//! An HTTP client for the services: the heartbeat's control endpoint and `/metrics`.

use crate::error::Error;
use serde_json::{Value, json};
use service::env::Variable;
use std::time::Duration;
use ureq::Agent;

/// `HEARTBEAT_URL`: the heartbeat's control endpoint.
pub const HEARTBEAT_URL: Variable = Variable::required(
    "HEARTBEAT_URL",
    "the heartbeat's control endpoint, as in http://127.0.0.1:17888",
);

const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest response body, bytes.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Milliseconds between batches of heartbeat records: short, for an even load.
const SLEEP_MS: std::ops::RangeInclusive<u32> = 20..=100;
/// Relative deviation from a load that counts as exact.
const DEVIATION_MAX: f64 = 0.002;

/// An HTTP client for services on this machine.
#[derive(Debug, Clone)]
pub struct Http(Agent);

impl Default for Http {
    fn default() -> Self {
        // The services run on this machine, so a proxy is never used.
        let config = Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).build();
        Self(config.new_agent())
    }
}

impl Http {
    /// Returns the response body of a GET request.
    pub fn get(&self, url: &str) -> Result<String, Error> {
        let failed =
            |source| Error::Http { method: "GET", url: url.to_owned(), source: Box::new(source) };
        let mut reply = self.0.get(url).call().map_err(failed)?;
        reply.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string().map_err(failed)
    }

    fn put(&self, url: &str, body: &str) -> Result<(), Error> {
        let failed =
            |source| Error::Http { method: "PUT", url: url.to_owned(), source: Box::new(source) };
        self.0.put(url).content_type("application/json").send(body).map(drop).map_err(failed)
    }
}

/// The heartbeat's control endpoint.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    http: Http,
    url: String,
}

impl Heartbeat {
    /// Uses the endpoint at `url`; no I/O yet.
    pub fn new(url: &str) -> Self {
        Self { http: Http::default(), url: url.trim_end_matches('/').to_owned() }
    }

    /// Sets the heartbeat records per second, from the next batch on; 0 stops them.
    pub fn set_load(&self, per_s: u32) -> Result<(), Error> {
        let (batch_size, sleep_ms) = batches(per_s);
        let body = json!({ "batch_size": batch_size, "sleep_ms": sleep_ms });
        self.http.put(&format!("{}/", self.url), &body.to_string())
    }

    /// The current number of heartbeat records per batch; 0 is no load.
    pub fn batch_size(&self) -> Result<u64, Error> {
        let url = format!("{}/", self.url);
        let found = self.http.get(&url)?;
        let settings: Option<Value> = serde_json::from_str(&found).ok();
        settings.and_then(|settings| settings["batch_size"].as_u64()).ok_or(Error::Answer {
            what: "no batch_size in the response",
            url,
            found,
        })
    }
}

/// Records per batch and milliseconds between batches for a load. Returns the shortest interval
/// that matches the load, or the one with the smallest deviation.
fn batches(per_s: u32) -> (u32, u32) {
    let off = |(records, ms): &(u32, u32)| {
        (f64::from(*records) * 1000.0 / f64::from(*ms) / f64::from(per_s) - 1.0).abs()
    };
    let round = |ms: u32| ((u64::from(per_s) * u64::from(ms) + 500) / 1000) as u32;
    match per_s {
        0 => (0, 1000),
        1..10 => (1, 1000 / per_s),
        _ => {
            let mut pairs = SLEEP_MS.map(|ms| (round(ms), ms)).filter(|(records, _)| *records > 0);
            let near = pairs.clone().find(|pair| off(pair) < DEVIATION_MAX);
            near.or_else(|| pairs.by_ref().min_by(|a, b| off(a).total_cmp(&off(b))))
                .unwrap_or((1, 100))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_to_the_load() {
        for (per_s, expected) in [
            (0, (0, 1000)),
            (1, (1, 1000)),
            (10, (1, 100)),
            (50, (1, 20)),
            (100, (2, 20)),
            (20_000, (400, 20)),
        ] {
            assert_eq!(batches(per_s), expected, "{per_s}/s");
        }
        for per_s in (10..1000).chain([1410, 2830, 11_300, 999_999]) {
            let (records, ms) = batches(per_s);
            let load = f64::from(records) * 1000.0 / f64::from(ms);
            assert!(
                (load / f64::from(per_s) - 1.0).abs() < 0.01,
                "{per_s}/s: {records} each {ms} ms"
            );
        }
    }
}
