//! A simulated user in a browser, like the one in the talk's test. It uses the page as people do.

use super::client::{Client, TransferEnd};
use crate::browser::{Chromium, Tab};
use crate::error::Error;
use crate::output;
use bank::iban::COMPANY_IBAN;
use serde_json::json;
use std::time::Instant;
use uuid::Uuid;

/// The script in the page. docs/frontend.md lists the selectors that it uses.
const SCRIPT: &str = include_str!("browser_user.js");

/// The tab of a user who is logged in.
pub struct BrowserUser(Tab);

impl BrowserUser {
    /// Opens the page at `url` and logs in a new user. Waits for the empty list of transactions.
    pub fn log_in(browser: &Chromium, url: &str) -> Result<Self, Error> {
        let mut tab = browser.open(&format!("{}/client", url.trim_end_matches('/')))?;
        let asked = json!({
            "name": format!("bench-{}", Uuid::new_v4().simple()),
            "password": Uuid::new_v4().to_string(),
            "company": COMPANY_IBAN,
        });
        tab.run(&format!("({SCRIPT})({asked})"))?;
        Ok(Self(tab))
    }
}

impl Client for BrowserUser {
    fn transfer(&mut self, number: u64, cents: i64) -> Result<(), Error> {
        self.0.run(&format!("bench({number}, {cents})")).map(drop)
    }

    fn receive(&mut self, until: Instant) -> Result<Option<TransferEnd>, Error> {
        let Some(received) = self.0.receive(until)? else { return Ok(None) };
        let number = received.parse().ok().map(TransferEnd::Changed);
        if number.is_none() {
            // The message does not name the step, which times out.
            output::progress(&format!("The page shows a message: {received}"));
        }
        Ok(number)
    }

    /// The page reconnects by itself. A lost browser connection is an error.
    fn reconnect(&mut self) -> Result<(), Error> {
        self.0.run("0").map(drop)
    }
}
