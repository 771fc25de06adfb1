//! The queue of log lines, and the loop that writes them.
//!
//! The reader of stderr may have stopped, so that a write never returns. Only the thread of the
//! loop waits for it. Lines that do not fit into the queue are dropped and counted.

use super::repetitions::Repetitions;
use prometheus::{IntCounter, register_int_counter};
use std::fmt::Write as _;
use std::io;
use std::mem;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Maximum of bytes that wait to be written.
const BYTES_MAX: usize = 64 << 10;

pub static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Log lines dropped because stderr was not read in time or could not be written";
    register_int_counter!("log_lines_dropped_total", help).expect("the only metric of this name")
});

/// Lines that wait to be written.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: String,
    /// Number of lines in `waiting`.
    lines: u64,
    /// Lines that were dropped since the last report.
    dropped: u64,
    /// True while the lines taken from `waiting` are being written.
    writing: bool,
    repetitions: Repetitions,
}

impl Queue {
    pub const fn new() -> Self {
        let repetitions = Repetitions::new();
        let state =
            State { waiting: String::new(), lines: 0, dropped: 0, writing: false, repetitions };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds a line without a time. A failure with a `cause` is limited, see [`Repetitions`].
    pub fn push(&self, cause: Option<u64>, line: String) {
        let mut state = self.state();
        let admitted = match cause {
            Some(cause) => state.repetitions.admit(cause, line, Instant::now()),
            None => Some(line),
        };
        if let Some(line) = admitted {
            state.add_event(&line);
        }
        self.changed.notify_all();
    }

    /// Adds the lines that are held back, and then `line` as it is.
    pub fn push_last(&self, line: &str) {
        let mut state = self.state();
        state.add_due(None);
        state.add(line);
        self.changed.notify_all();
    }

    /// Waits until all lines are written, also those that are held back. Returns false if they are
    /// not after `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let mut state = self.state();
        state.add_due(None);
        self.changed.notify_all();
        let unwritten = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.changed.wait_timeout_while(state, limit, unwritten);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes all lines to `out`. Never returns.
    pub fn write_to(&self, mut out: impl io::Write) -> ! {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            state.add_due(Some(now));
            if state.waiting.is_empty() {
                let next = state.repetitions.next_due();
                // Without a line that is held back, only a new line ends the wait.
                let limit = next.map_or(Duration::MAX, |next| next.saturating_duration_since(now));
                let waited = self.changed.wait_timeout(state, limit);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let (text, lines, reported) = state.take();
            drop(state);
            let written = out.write_all(text.as_bytes());
            state = self.state();
            state.writing = false;
            if written.is_err() {
                state.count_dropped(lines);
                state.dropped += reported;
            }
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, line: &str) {
        if self.waiting.len() + line.len() >= BYTES_MAX {
            self.count_dropped(1);
            return;
        }
        self.waiting.push_str(line);
        self.waiting.push('\n');
        self.lines += 1;
    }

    fn add_event(&mut self, line: &str) {
        self.add(&with_time(line));
    }

    /// Adds the lines that are held back until `now`, or all of them.
    fn add_due(&mut self, now: Option<Instant>) {
        for line in self.repetitions.due(now) {
            self.add_event(&line);
        }
    }

    fn count_dropped(&mut self, lines: u64) {
        self.dropped += lines;
        DROPPED.inc_by(lines);
    }

    /// Takes all waiting lines, and a report if lines were dropped. Returns the text, the number of
    /// lines, and the number of dropped lines in the report.
    fn take(&mut self) -> (String, u64, u64) {
        self.writing = true;
        let mut text = mem::take(&mut self.waiting);
        let lines = mem::take(&mut self.lines);
        let dropped = mem::take(&mut self.dropped);
        if dropped > 0 {
            text += &with_time("level=warn msg=\"log lines dropped: stderr was not read in time\"");
            let _ = writeln!(text, " dropped={dropped}");
        }
        (text, lines, dropped)
    }
}

fn with_time(line: &str) -> String {
    format!("ts={} {line}", humantime::format_rfc3339_millis(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A reader that takes what is written only when the test does.
    struct Pipe(mpsc::SyncSender<String>);

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.0.send(text).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue, and what its thread writes. The thread waits while the test does not receive.
    fn queue() -> (Arc<Queue>, mpsc::Receiver<String>) {
        let queue = Arc::new(Queue::new());
        let (sender, written) = mpsc::sync_channel(0);
        let writer = queue.clone();
        thread::spawn(move || writer.write_to(Pipe(sender)));
        (queue, written)
    }

    /// Receives `lines` lines.
    fn receive(written: &mpsc::Receiver<String>, lines: usize) -> String {
        let mut text = String::new();
        while text.lines().count() < lines {
            text += &written.recv_timeout(LIMIT).unwrap();
        }
        text
    }

    #[test]
    fn unread_lines_are_dropped_and_counted() {
        let (queue, written) = queue();
        let line = "x".repeat(1_000);
        const PUSHED: u64 = 1_000;
        for _ in 0..PUSHED {
            queue.push(None, line.clone());
        }
        // A report is also written if the thread started after the first drop.
        let (mut kept, mut dropped) = (0, 0);
        while kept + dropped < PUSHED {
            for written in written.recv_timeout(LIMIT).unwrap().lines() {
                match written.rsplit_once(" in time\" dropped=") {
                    Some((_, count)) => dropped += count.parse::<u64>().unwrap(),
                    None => kept += u64::from(written.ends_with(&line)),
                }
            }
        }
        assert!(kept + dropped == PUSHED && kept * 1_000 < 3 * BYTES_MAX as u64, "{kept} kept");
        queue.push(None, "next".to_owned());
        let next = receive(&written, 1);
        assert!(next.ends_with(" next\n") && !next.contains("dropped"), "{next}");
    }

    #[test]
    fn flush_waits_for_the_last_line() {
        let (queue, written) = queue();
        queue.push(None, "last".to_owned());
        assert!(!queue.flush(Duration::from_millis(10)), "the test does not read");
        let reader = thread::spawn(move || receive(&written, 1));
        assert!(queue.flush(LIMIT));
        assert!(reader.join().unwrap().ends_with(" last\n"));
    }

    #[test]
    fn closed_stderr_loses_only_lines() {
        let (queue, written) = queue();
        drop(written);
        for line in 0..3 {
            queue.push(None, line.to_string());
            assert!(queue.flush(LIMIT));
        }
        assert_eq!(queue.state().dropped, 3);
    }

    #[test]
    fn repeated_failure_is_written_once_a_second() {
        let (queue, written) = queue();
        let started = Instant::now();
        for n in 0..50 {
            queue.push(Some(1), format!("n={n}"));
        }
        queue.push(Some(2), "other".to_owned());
        let first = receive(&written, 2);
        assert!(first.contains(" n=0\n") && first.ends_with(" other\n"), "{first}");
        let next = receive(&written, 1);
        assert!(next.ends_with(" n=49 suppressed=48\n"), "{next}");
        assert!(started.elapsed() >= Duration::from_secs(1));
        queue.push(Some(1), "n=50".to_owned());
        let reader = thread::spawn(move || receive(&written, 2));
        queue.push_last("done");
        let last = reader.join().unwrap();
        assert!(last.ends_with(" n=50\ndone\n"), "{last}");
    }
}
