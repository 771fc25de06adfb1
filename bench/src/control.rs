//! HTTP to the services: the heartbeat's control, and `/metrics`.

use crate::error::Error;
use serde_json::{Value, json};
use service::env::Variable;
use std::time::Duration;
use ureq::Agent;

/// `HEARTBEAT_URL`: the control endpoint.
pub const HEARTBEAT_URL: Variable = Variable::required(
    "HEARTBEAT_URL",
    "the heartbeat's control endpoint, as in http://127.0.0.1:17888",
);

const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Times between beats, so that the load comes evenly.
const BEAT_MS: std::ops::RangeInclusive<u32> = 20..=100;
/// A load that is met this well is met.
const NEAR: f64 = 0.002;

/// A client of services on this machine.
#[derive(Debug, Clone)]
pub struct Http(Agent);

impl Default for Http {
    fn default() -> Self {
        // A neighbour: no proxy is meant for it.
        let config = Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).build();
        Self(config.new_agent())
    }
}

impl Http {
    /// The text at `url`.
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

/// The heartbeat's control.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    http: Http,
    url: String,
}

impl Heartbeat {
    /// The control at `url`; no I/O yet.
    pub fn new(url: &str) -> Self {
        Self { http: Http::default(), url: url.trim_end_matches('/').to_owned() }
    }

    /// Beats per second from the next beat on; 0 stops them.
    pub fn set_load(&self, per_s: u32) -> Result<(), Error> {
        let (batch_size, sleep_ms) = beats(per_s);
        let body = json!({ "batch_size": batch_size, "sleep_ms": sleep_ms });
        self.http.put(&format!("{}/", self.url), &body.to_string())
    }

    /// Records per beat now: 0 is silence.
    pub fn batch_size(&self) -> Result<u64, Error> {
        let url = format!("{}/", self.url);
        let found = self.http.get(&url)?;
        let settings: Option<Value> = serde_json::from_str(&found).ok();
        settings.and_then(|settings| settings["batch_size"].as_u64()).ok_or(Error::Answer {
            what: "no batch_size in the answer",
            url,
            found,
        })
    }
}

/// Records per beat and milliseconds between beats for a load: the shortest time with which it is
/// met, or the one with which it is met best.
fn beats(per_s: u32) -> (u32, u32) {
    let off = |(records, ms): &(u32, u32)| {
        (f64::from(*records) * 1000.0 / f64::from(*ms) / f64::from(per_s) - 1.0).abs()
    };
    let round = |ms: u32| ((u64::from(per_s) * u64::from(ms) + 500) / 1000) as u32;
    match per_s {
        0 => (0, 1000),
        1..10 => (1, 1000 / per_s),
        _ => {
            let mut pairs = BEAT_MS.map(|ms| (round(ms), ms)).filter(|(records, _)| *records > 0);
            let near = pairs.clone().find(|pair| off(pair) < NEAR);
            near.or_else(|| pairs.by_ref().min_by(|a, b| off(a).total_cmp(&off(b))))
                .unwrap_or((1, 100))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_make_up_the_load() {
        for (per_s, expected) in [
            (0, (0, 1000)),
            (1, (1, 1000)),
            (10, (1, 100)),
            (50, (1, 20)),
            (100, (2, 20)),
            (20_000, (400, 20)),
        ] {
            assert_eq!(beats(per_s), expected, "{per_s}/s");
        }
        for per_s in (10..1000).chain([1410, 2830, 11_300, 999_999]) {
            let (records, ms) = beats(per_s);
            let load = f64::from(records) * 1000.0 / f64::from(ms);
            assert!(
                (load / f64::from(per_s) - 1.0).abs() < 0.01,
                "{per_s}/s: {records} each {ms} ms"
            );
        }
    }
}
