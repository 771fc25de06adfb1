//! A headless Chromium, controlled over its DevTools protocol. Source:
//! https://chromedevtools.github.io/devtools-protocol/

use crate::error::Error;
use crate::websocket::Socket;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Timeout of the start and of each response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running Chromium; dropping it ends the process.
pub struct Chromium {
    process: Child,
    profile: PathBuf,
    /// Host and port of the DevTools server.
    address: String,
    browser: String,
}

pub struct Tab {
    socket: Socket,
    /// Id of the last command.
    id: u64,
    /// Arguments of calls of [`Tab::RECEIVED`] that came while another message was awaited.
    received: VecDeque<String>,
}

impl Chromium {
    /// Starts `program`, with an empty profile.
    pub fn start(program: &str) -> Result<Self, Error> {
        let profile = std::env::temp_dir().join(format!("bench-chromium-{}", std::process::id()));
        let process = Command::new(program)
            // As root Chromium runs only without its sandbox. It loads only this bank's pages.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"])
            .args(["--disable-backgrounding-occluded-windows", "--disable-dev-shm-usage"])
            .args(["--remote-debugging-port=0", "--window-size=1280,900"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::Browser { program: program.to_owned(), source })?;
        let mut chromium =
            Self { process, profile, address: String::new(), browser: String::new() };
        let port_file = chromium.profile.join("DevToolsActivePort");
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // A port, and below it a path. The file may be incomplete.
            let text = fs::read_to_string(&port_file).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
                chromium.address = format!("127.0.0.1:{port}");
                chromium.browser = path.trim().to_owned();
                return Ok(chromium);
            }
            if Instant::now() > deadline {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(Error::Browser { program: program.to_owned(), source });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens a new tab that shows `url`.
    pub fn open(&self, url: &str) -> Result<Tab, Error> {
        let mut browser = Tab::connect(&format!("ws://{}{}", self.address, self.browser))?;
        // In a separate window, since Chromium does not draw hidden tabs.
        let wanted = json!({ "url": url, "newWindow": true });
        let made = browser.call("Target.createTarget", &wanted)?;
        let target = made["targetId"].as_str().unwrap_or_default();
        let mut tab = Tab::connect(&format!("ws://{}/devtools/page/{target}", self.address))?;
        tab.call("Emulation.setFocusEmulationEnabled", &json!({ "enabled": true }))?;
        tab.call("Runtime.enable", &json!({}))?;
        tab.call("Runtime.addBinding", &json!({ "name": Tab::RECEIVED }))?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // During the navigation an evaluation may fail for lack of a page.
            let place = tab.run("document.readyState === 'complete' && location.href");
            match place {
                Ok(place) if place == url => return Ok(tab),
                Err(err) if Instant::now() > deadline => return Err(err),
                Ok(place) if Instant::now() > deadline => {
                    return Err(tab.socket.odd("an unexpected page", place.to_string()));
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Child processes may still write files for a moment; then a few files remain.
        let _ = fs::remove_dir_all(&self.profile);
    }
}

impl Tab {
    /// A function in the page. [`Tab::receive`] returns the arguments of its calls.
    pub const RECEIVED: &'static str = "received";

    fn connect(url: &str) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(url, None)?, id: 0, received: VecDeque::new() })
    }

    /// Evaluates a JavaScript expression, and awaits it if it is a promise.
    pub fn run(&mut self, expression: &str) -> Result<Value, Error> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &params)?;
        if answer["exceptionDetails"].is_object() {
            return Err(self.socket.odd("an exception", answer["exceptionDetails"].to_string()));
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until `until` for a call of [`Tab::RECEIVED`], and returns its argument.
    pub fn receive(&mut self, until: Instant) -> Result<Option<String>, Error> {
        loop {
            if let Some(received) = self.received.pop_front() {
                return Ok(Some(received));
            }
            match self.socket.receive(until)? {
                Some(message) => self.note(&message),
                None => return Ok(None),
            }
        }
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        self.id += 1;
        self.socket.send(&json!({ "id": self.id, "method": method, "params": params }))?;
        let deadline = Instant::now() + TIMEOUT;
        while let Some(mut message) = self.socket.receive(deadline)? {
            if message["id"] != self.id {
                self.note(&message);
            } else if message["error"].is_object() {
                return Err(self.socket.odd("an error", message["error"].to_string()));
            } else {
                return Ok(message["result"].take());
            }
        }
        Err(self.socket.odd("no response", method.to_owned()))
    }

    fn note(&mut self, message: &Value) {
        if message["method"] == "Runtime.bindingCalled"
            && let Some(text) = message["params"]["payload"].as_str()
        {
            self.received.push_back(text.to_owned());
        }
    }
}
