//! How long this machine's disk takes to flush a write, without the bank. A slow host is no slow
//! bank.

use crate::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Size of a write, that of a page of PostgreSQL.
const BYTES: usize = 8192;
const WRITES: usize = 50;
/// No further write begins after this time.
const TIME_MAX: Duration = Duration::from_secs(5);
/// A longer median distorts the figures. An idle disk takes less than 3 ms.
pub const MEDIAN_MAX_MS: f64 = 10.0;

/// Times of fdatasync after a write of 8 kB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlushTimes {
    pub median_ms: f64,
    pub max_ms: f64,
}

impl FlushTimes {
    /// Writes and flushes a file in `folder`, which is on the disk of the bank's data.
    pub fn measure(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("flush-times");
        let times = flush(&path);
        let _ = fs::remove_file(&path);
        times.map(Self::of).map_err(|source| Error::Csv { path, source })
    }

    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let ms = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        Self { median_ms: ms(times.len() / 2), max_ms: ms(times.len().saturating_sub(1)) }
    }
}

fn flush(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.len() < WRITES && began.elapsed() < TIME_MAX {
        let start = Instant::now();
        file.write_all(&[1; BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_maximum_are_in_milliseconds() {
        let times = [30, 1, 2, 500, 3].map(Duration::from_millis).to_vec();
        assert_eq!(FlushTimes::of(times), FlushTimes { median_ms: 3.0, max_ms: 500.0 });
    }

    #[test]
    fn disk_is_measured_and_no_file_is_left() {
        let folder = std::env::temp_dir().join(format!("bench-flush-{}", std::process::id()));
        assert!(FlushTimes::measure(&folder).is_err());
        fs::create_dir(&folder).unwrap();
        let times = FlushTimes::measure(&folder).unwrap();
        assert!(times.median_ms > 0.0 && times.max_ms >= times.median_ms, "{times:?}");
        fs::remove_dir(&folder).unwrap();
    }
}
