//! Messages and progress. They go to stderr: stdout carries the result of a command.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct State {
    /// Where messages go instead of stderr.
    file: Option<File>,
    /// The seconds that the progress line shows.
    shown_s: u64,
}

static STATE: Mutex<State> = Mutex::new(State { file: None, shown_s: 0 });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    // A closed stderr does not end the program: it has processes to stop.
    fn write(&mut self, text: &str) {
        let _ = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()),
            None => std::io::stderr().write_all(text.as_bytes()),
        };
    }

    fn is_terminal(&self) -> bool {
        self.file.is_none() && std::io::stderr().is_terminal()
    }

    fn clear_progress(&mut self) {
        if self.shown_s > 0 && self.is_terminal() {
            self.write("\r\x1b[K");
        }
        self.shown_s = 0;
    }
}

/// Writes a line.
pub fn say(message: impl Display) {
    let mut state = state();
    state.clear_progress();
    state.write(&format!("{message}\n"));
}

/// From now on messages are appended to `file`.
pub fn redirect(file: File) {
    let mut state = state();
    state.clear_progress();
    state.file = Some(file);
}

/// After two seconds, and then now and again, writes that `what` is waited for. On a terminal it is
/// one line that changes.
pub fn progress(what: impl Display, since: Instant) {
    let seconds = since.elapsed().as_secs();
    let mut state = state();
    if seconds < 2 || seconds == state.shown_s {
        return;
    }
    if state.is_terminal() {
        state.write(&format!("\r\x1b[K{what} ... {seconds} s"));
    } else if seconds == 2 || seconds.is_multiple_of(10) {
        state.write(&format!("{what} ... {seconds} s\n"));
    }
    state.shown_s = seconds;
}

/// Removes the progress line from a terminal.
pub fn clear_progress() {
    state().clear_progress();
}

/// As in "1.4 s".
pub fn seconds(duration: Duration) -> String {
    format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100)
}

/// Writes the last 15 lines of a log.
pub fn end_of_log(path: &Path) {
    let Ok(bytes) = fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    say(format!("The end of {}:", path.display()));
    for line in &lines[lines.len().saturating_sub(15)..] {
        say(format!("    {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_decimal() {
        assert_eq!(seconds(Duration::from_millis(1499)), "1.4 s");
    }
}
