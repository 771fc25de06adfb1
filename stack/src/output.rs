//! Messages and progress on stderr. The result of a command is on stdout.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct State {
    /// File for messages instead of stderr.
    file: Option<File>,
    /// Seconds in the progress line.
    shown_s: u64,
}

static STATE: Mutex<State> = Mutex::new(State { file: None, shown_s: 0 });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    // A closed stderr must not end the program, which has processes to stop.
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

/// Prints a line.
pub fn say(message: impl Display) {
    let mut state = state();
    state.clear_progress();
    state.write(&format!("{message}\n"));
}

/// Appends messages to `file` from now on.
pub fn redirect(file: File) {
    let mut state = state();
    state.clear_progress();
    state.file = Some(file);
}

/// Prints after two seconds, and then at intervals, what the program waits for. On a terminal the
/// line is updated in place.
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

/// Removes the progress line from the terminal.
pub fn clear_progress() {
    state().clear_progress();
}

/// A duration as in "1.4 s".
pub fn seconds(duration: Duration) -> String {
    format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100)
}

/// Prints the last 15 lines of a log.
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
