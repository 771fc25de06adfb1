//! Ids of commands that contain a time (RFC 9562).

use uuid::{Builder, Uuid, Variant};

/// The time in an id of version 7, or of version 8 by [`derived`], ms since 1970. `None` for other
/// ids. Zero is no time.
pub fn time_ms(id: Uuid) -> Option<u64> {
    let has_time = matches!(id.get_version_num(), 7 | 8) && id.get_variant() == Variant::RFC4122;
    has_time.then(|| id.as_u64_pair().0 >> 16).filter(|ms| *ms > 0)
}

/// Returns the id that always follows from these values: a UUID of version 8 (section 5.8) with
/// `time_ms` in the first 48 bits, as in version 7, followed by a hash of `name`. So such ids
/// ascend with the time.
pub fn derived(namespace: &Uuid, time_ms: u64, name: &[u8]) -> Uuid {
    let mut bytes = Uuid::new_v5(namespace, name).into_bytes();
    bytes[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 1_700_000_000_000;

    #[test]
    fn ids_have_times_in_versions_7_and_8() {
        let id = |version: u128| {
            Uuid::from_u128(u128::from(TIME) << 80 | version << 76 | 0b10 << 62 | 7)
        };
        for version in 0..=15 {
            let expected = matches!(version, 7 | 8).then_some(TIME);
            assert_eq!(time_ms(id(version)), expected, "version {version}");
        }
        let other_variant = Uuid::from_u128(id(7).as_u128() | 0b11 << 62);
        assert_eq!(time_ms(other_variant), None);
        assert_eq!(time_ms(Uuid::max()), None);
    }

    #[test]
    fn derived_id_follows_from_time_and_name() {
        let id = |time, name| derived(&Uuid::nil(), time, name);
        assert_eq!(time_ms(id(TIME, b"a")), Some(TIME));
        assert_eq!(time_ms(id(0, b"a")), None);
        assert_eq!(id(TIME, b"a"), id(TIME, b"a"));
        assert_ne!(id(TIME, b"a"), id(TIME, b"b"));
        assert!(id(TIME, b"a") < id(TIME + 1, b"a"));
    }
}
