//! The scalar `DateTime`.

use bank::timestamp::Timestamp;
use juniper::GraphQLScalar;
use std::time::{Duration, SystemTime};

/// A point in time as RFC 3339 has it, in milliseconds: "2026-11-29T13:05:00.250Z". Results are in
/// UTC. An argument may have another offset, as in "2026-11-29T14:05:00+01:00".
#[derive(Debug, Clone, Copy, PartialEq, Eq, GraphQLScalar)]
#[graphql(
    specified_by_url = "https://graphql-scalars.dev/docs/scalars/date-time",
    parse_token(String),
    to_output_with = rfc_3339
)]
pub struct DateTime(SystemTime);

impl DateTime {
    /// `None` outside of the years 1970 to 9999.
    pub fn new(time: Timestamp) -> Option<Self> {
        time.system_time().map(Self)
    }

    pub fn system_time(self) -> SystemTime {
        self.0
    }

    fn from_input(text: &str) -> Result<Self, String> {
        parse(text).map(Self).ok_or_else(|| {
            format!("{text:?} is not a time from 1970 on, as in \"2026-11-29T14:05:00+01:00\"")
        })
    }
}

/// Always with milliseconds, so that texts sort by time.
fn rfc_3339(time: &DateTime) -> String {
    humantime::format_rfc3339_millis(time.0).to_string()
}

/// Parses a time with any offset. `humantime` parses those in UTC.
fn parse(text: &str) -> Option<SystemTime> {
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(text).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+01:00".len())?)?;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str, below: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number < below)
    };
    let offset_s = number(hours, 24)? * 3600 + number(minutes, 60)? * 60;
    let time = match &offset[..1] {
        "+" => local.checked_sub(Duration::from_secs(offset_s))?,
        "-" => local.checked_add(Duration::from_secs(offset_s))?,
        _ => return None,
    };
    (time >= SystemTime::UNIX_EPOCH).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_has_milliseconds_in_utc() {
        let text = |millis| rfc_3339(&DateTime::new(Timestamp::from_millis(millis)).unwrap());
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_795_996_800_250), "2026-11-30T00:00:00.250Z");
        assert_eq!(text(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert!(DateTime::new(Timestamp::from_millis(i64::MAX)).is_none());
    }

    #[test]
    fn input_may_have_any_offset() {
        let time = |text: &str| DateTime::from_input(text).map(|it| rfc_3339(&it));
        for text in [
            "2026-11-30T00:00:00.25Z",
            "2026-11-30T01:00:00.250+01:00",
            "2026-11-29T18:30:00.25-05:30",
        ] {
            assert_eq!(time(text).as_deref(), Ok("2026-11-30T00:00:00.250Z"), "{text}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-11-30",
            "2026-11-30T00:00:00",
            "1795996800250",
            "2026-11-30T00:00:00+1:00",
            "2026-11-30T00:00:00+01:60",
            "2026-11-30T00:00:00 01:00",
            "2026-11-30T00:00:00++1:00",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in ".*", offset in "[+-é]?[0-9:é]{0,6}") {
            let _ = parse(&text);
            let _ = parse(&format!("2026-11-30T00:00:00{offset}"));
        }
    }
}
