//! Pauses of this program: it was stopped, or other processes had the CPU. In its figures a pause
//! looks like a stall of the bank.

use crate::error::Error;
use service::shutdown::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A longer pause distorts the figures.
pub const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Time between two ticks.
const TICK: Duration = Duration::from_millis(10);

/// A thread that ticks, and measures how late it is.
pub struct OwnPauses {
    ticks: Arc<Mutex<Ticks>>,
    stop: Shutdown,
    thread: Option<JoinHandle<()>>,
}

struct Ticks {
    last: Instant,
    longest: Duration,
}

impl OwnPauses {
    pub fn start() -> Result<Self, Error> {
        let ticks = Ticks { last: Instant::now(), longest: Duration::ZERO };
        let (ticks, stop) = (Arc::new(Mutex::new(ticks)), Shutdown::default());
        let (ticking, stopped) = (ticks.clone(), stop.clone());
        let run = move || {
            while !stopped.wait(TICK) {
                ticking.lock().unwrap_or_else(PoisonError::into_inner).tick(Instant::now());
            }
        };
        let thread = thread::Builder::new().name("ticks".into()).spawn(run);
        Ok(Self { ticks, stop, thread: Some(thread.map_err(Error::Thread)?) })
    }

    /// The longest pause since the last call. Includes a pause that the thread has not seen yet.
    pub fn take(&self) -> Duration {
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        ticks.tick(Instant::now());
        std::mem::take(&mut ticks.longest)
    }
}

impl Drop for OwnPauses {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic ends the process");
        }
    }
}

impl Ticks {
    fn tick(&mut self, now: Instant) {
        self.longest = self.longest.max((now - self.last).saturating_sub(TICK));
        self.last = now;
    }
}

/// A warning if a pause of this program distorts the figures.
pub fn warning(longest: Duration) -> Option<String> {
    let ms = longest.as_millis();
    (longest > PAUSE_MAX).then(|| format!("the measuring program was paused for up to {ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_between_ticks_is_a_pause() {
        let start = Instant::now();
        let mut ticks = Ticks { last: start, longest: Duration::ZERO };
        for millis in [10, 19, 29, 2039, 2049] {
            ticks.tick(start + Duration::from_millis(millis));
        }
        assert_eq!(ticks.longest, Duration::from_secs(2));
        assert!(warning(ticks.longest).unwrap().contains(" 2000 ms"));
        assert_eq!(warning(PAUSE_MAX), None);
    }

    #[test]
    fn pause_is_taken_once_and_before_its_tick() {
        let pauses = OwnPauses::start().unwrap();
        let paused = pauses.ticks.lock().unwrap();
        // The thread can't tick meanwhile.
        thread::sleep(Duration::from_millis(300));
        drop(paused);
        let pause = pauses.take();
        assert!(pause >= Duration::from_millis(290), "{pause:?}");
        assert!(pauses.take() < pause);
    }
}
