//! Points in time.

use std::time::{Duration, SystemTime};

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z. In Avro a `long` with the logical
/// type `timestamp-millis`, in PostgreSQL a `timestamptz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The end of the year 9999, after which RFC 3339 has no form.
    const MAX: Self = Self(253_402_300_799_999);

    /// Returns the time `millis` after 1970-01-01T00:00:00Z. A negative number is before it.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the number of milliseconds, for Avro.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Returns the time for SQL and RFC 3339. `None` outside of the years 1970 to 9999.
    pub fn system_time(self) -> Option<SystemTime> {
        let millis = u64::try_from(self.0).ok().filter(|_| self <= Self::MAX)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }
}

impl From<SystemTime> for Timestamp {
    /// Rounds down to milliseconds. A time outside of the years 1970 to 9999 becomes the nearest
    /// one in this range.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).map_or(Self::MAX, Self).min(Self::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_years_of_rfc_3339_become_system_times() {
        for (millis, fits) in [
            (i64::MIN, false),
            (-1, false),
            (0, true),
            (1_795_996_800_123, true),
            (Timestamp::MAX.0, true),
            (Timestamp::MAX.0 + 1, false),
            (i64::MAX, false),
        ] {
            let time = Timestamp::from_millis(millis).system_time();
            assert_eq!(time.is_some(), fits, "{millis}");
            assert!(time.is_none_or(|time| Timestamp::from(time).millis() == millis));
        }
    }

    #[test]
    fn system_time_is_rounded_down() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_999);
        assert_eq!(Timestamp::from(time), Timestamp::from_millis(1));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp::from(before), Timestamp::from_millis(0));
    }
}
