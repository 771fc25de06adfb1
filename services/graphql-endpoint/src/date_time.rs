//! The scalar `DateTime`.

use bank::timestamp::Timestamp;
use juniper::GraphQLScalar;
use std::time::SystemTime;

/// A point in time as RFC 3339 has it, in milliseconds: "2026-11-29T13:05:00.250Z". Results are in
/// UTC. An argument may have another offset, as in "2026-11-29T14:05:00+01:00".
#[derive(Debug, Clone, Copy, PartialEq, Eq, GraphQLScalar)]
#[graphql(
    specified_by_url = "https://graphql-scalars.dev/docs/scalars/date-time",
    parse_token(String),
    to_output_with = rfc_3339
)]
pub struct DateTime(jiff::Timestamp);

impl DateTime {
    /// `None` if the time does not have a year of four digits in every time zone.
    pub fn new(time: Timestamp) -> Option<Self> {
        jiff::Timestamp::from_millisecond(time.millis()).ok().map(Self)
    }

    /// Not before 1970, so that every database has it.
    pub fn system_time(self) -> SystemTime {
        SystemTime::from(self.0).max(SystemTime::UNIX_EPOCH)
    }

    fn from_input(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not a time of RFC 3339"))
    }
}

/// Always with milliseconds, so that texts sort by time.
fn rfc_3339(time: &DateTime) -> String {
    format!("{:.3}", time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_has_milliseconds_in_utc() {
        let text = |millis| rfc_3339(&DateTime::new(Timestamp::from_millis(millis)).unwrap());
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_795_996_800_250), "2026-11-30T00:00:00.250Z");
        assert!(DateTime::new(Timestamp::from_millis(i64::MAX)).is_none());
    }

    #[test]
    fn input_may_have_any_offset() {
        let time = |text: &str| DateTime::from_input(text).map(|it| rfc_3339(&it));
        for text in ["2026-11-30T00:00:00.25Z", "2026-11-30T01:00:00.250+01:00"] {
            assert_eq!(time(text).as_deref(), Ok("2026-11-30T00:00:00.250Z"), "{text}");
        }
        let ancient = DateTime::from_input("-009999-01-03T00:00:00Z").unwrap();
        assert_eq!(ancient.system_time(), SystemTime::UNIX_EPOCH);
        for wrong in ["", "yesterday", "2026-11-30", "2026-11-30T00:00:00", "1795996800250"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
