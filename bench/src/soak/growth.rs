//! The rule by which a quantity counts as flat or growing.

use crate::output::short;
use std::fmt;

/// A change by less than this fraction is flat.
const FLAT: f64 = 0.05;
/// A change by less than this many standard deviations of the samples in a tenth is flat.
const DEVIATIONS: f64 = 2.0;

/// The change of a quantity from the first to the last tenth of its samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Means of the first and the last tenth.
    pub first: f64,
    pub last: f64,
    pub per_hour: f64,
    pub is_flat: bool,
}

impl Growth {
    /// From the time of each sample, s, and its value. `None` for fewer than two samples.
    pub fn of(samples: &[(f64, f64)]) -> Option<Self> {
        let tenth = (samples.len() / 10).max(1);
        if samples.len() < 2 {
            return None;
        }
        let (first, last) = (&samples[..tenth], &samples[samples.len() - tenth..]);
        let at = |part: &[(f64, f64)]| mean(part.iter().map(|(at, _)| *at));
        let value = |part: &[(f64, f64)]| mean(part.iter().map(|(_, value)| *value));
        let deviation = |part: &[(f64, f64)]| {
            let mean_value = value(part);
            mean(part.iter().map(|(_, value)| (value - mean_value).powi(2))).sqrt()
        };
        let change = value(last) - value(first);
        let noise = DEVIATIONS * deviation(first).max(deviation(last));
        Some(Self {
            first: value(first),
            last: value(last),
            per_hour: change / (at(last) - at(first)) * 3600.0,
            is_flat: change.abs() <= noise.max(value(first).abs() * FLAT),
        })
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.per_hour > 0.0 { "grows" } else { "falls" };
        match self.is_flat {
            true => f.write_str("flat"),
            false => write!(f, "{verb} by {} per hour", short(self.per_hour.abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on an hour with a sample each minute.
    fn verdict(value: impl Fn(f64) -> f64) -> String {
        let samples: Vec<_> =
            (0..60).map(|minute| f64::from(minute) * 60.0).map(|at| (at, value(at))).collect();
        Growth::of(&samples).unwrap().to_string()
    }

    #[test]
    fn growth_is_the_difference_of_tenths_per_hour() {
        let samples: Vec<_> = (0..20).map(|n| (f64::from(n) * 10.0, f64::from(n))).collect();
        let growth = Growth::of(&samples).unwrap();
        assert_eq!((growth.first, growth.last), (0.5, 18.5));
        assert!((growth.per_hour - 360.0).abs() < 1e-9, "{growth:?}");
        assert_eq!(Growth::of(&samples[..1]), None);
        assert!(Growth::of(&samples[..2]).is_some());
    }

    #[test]
    fn change_above_five_percent_is_a_trend() {
        let ramp = |percent: f64| verdict(|at| 100.0 + at / 3600.0 * percent);
        assert_eq!(ramp(5.0), "flat");
        assert_eq!(ramp(6.0), "grows by 6.0 per hour");
        assert_eq!(ramp(-6.0), "falls by 6.0 per hour");
        assert_eq!(verdict(|_| 0.0), "flat");
        assert_eq!(verdict(|at| if at < 1800.0 { 0.0 } else { 2.7 }), "grows by 3.0 per hour");
    }

    #[test]
    fn change_within_the_noise_is_flat() {
        // 0 and 20 in turn, with a standard deviation of 10.
        let noise = |at: f64| if at % 120.0 > 0.0 { 20.0 } else { 0.0 };
        assert_eq!(verdict(|at| noise(at) + at / 3600.0 * 20.0), "flat");
        assert_eq!(verdict(|at| noise(at) + at / 3600.0 * 30.0), "grows by 30.0 per hour");
    }
}
