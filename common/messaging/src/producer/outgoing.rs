//! A record to write, and the dead letter of an undecodable one.

use bank::topology::{DEAD_LETTER, record_bytes_max};
use kafka_client::protocol::codes;
use kafka_client::{Error, ErrorKind};

/// Maximum length of the reason of a dead letter, characters.
const REASON_MAX: usize = 500;

/// A record to write. Its key selects the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: &'static str,
    /// Key, as UTF-8.
    pub key: String,
    /// The encoded value.
    pub value: Vec<u8>,
}

impl Outgoing {
    /// Size in a request, bytes: key, value, and the overhead of a message in protocol version 0.
    pub(super) fn bytes(&self) -> usize {
        26 + self.key.len() + self.value.len()
    }

    pub(super) fn check_size(&self) -> Result<(), Error> {
        let (topic, bytes) = (self.topic, self.key.len() + self.value.len());
        let limit = record_bytes_max(topic);
        if bytes <= limit {
            return Ok(());
        }
        let text = format!("record for {topic} has {bytes} bytes, the limit is {limit}");
        Err(Error { kind: ErrorKind::Message, code: codes::MESSAGE_TOO_LARGE, text })
    }

    /// Returns the dead letter of an undecodable record. Its key is
    /// `topic/partition/offset: reason`, its value that of the record. A value that is too large
    /// for the topic is cut, and the key ends with both sizes.
    pub fn dead_letter(
        topic: &str,
        partition: i32,
        offset: i64,
        value: Vec<u8>,
        reason: &str,
    ) -> Self {
        let reason: String = reason.chars().take(REASON_MAX).collect();
        let key = format!("{topic}/{partition}/{offset}: {reason}");
        let mut letter = Self { topic: DEAD_LETTER.name, key, value };
        let limit = record_bytes_max(letter.topic);
        if letter.key.len() + letter.value.len() > limit {
            // The sizes in the key take less than 100 bytes.
            let bytes = limit - letter.key.len() - 100;
            letter.key = letter.key_after_cut(bytes);
            letter.value.truncate(bytes);
        }
        letter
    }

    /// Returns this dead letter with the first `bytes` bytes of its value, at most all of them. Its
    /// key contains the original size.
    pub(super) fn cut(&self, bytes: usize) -> Self {
        let (key, value) = (self.key_after_cut(bytes), self.value[..bytes].to_vec());
        Self { topic: self.topic, key, value }
    }

    fn key_after_cut(&self, bytes: usize) -> String {
        const FIRST: &str = ", first ";
        let earlier_cut = || {
            let (start, sizes) = self.key.rsplit_once(FIRST)?;
            let (_, original) = sizes.strip_suffix(" bytes")?.split_once(" of ")?;
            Some((start, original.parse().ok()?))
        };
        let (start, original): (&str, usize) =
            earlier_cut().unwrap_or((&self.key, self.value.len()));
        format!("{start}{FIRST}{bytes} of {original} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_value_is_cut_to_the_limit() {
        let limit = record_bytes_max(DEAD_LETTER.name);
        let largest = Outgoing::dead_letter("t", 1, 2, vec![7; limit - 8], "r");
        assert_eq!((largest.key.as_str(), largest.value.len()), ("t/1/2: r", limit - 8));
        let larger = vec![7; limit - 7];
        let once = Outgoing::dead_letter("t", 1, 2, larger.clone(), "r");
        assert!(once.key.len() + once.value.len() <= limit);
        assert!(once.value.len() + 200 > larger.len());
        let (first, original) = (once.value.len(), larger.len());
        assert_eq!(once.key, format!("t/1/2: r, first {first} of {original} bytes"));
        let twice = once.cut(3);
        assert_eq!(twice.key, format!("t/1/2: r, first 3 of {original} bytes"));
        assert_eq!(twice.value, [7, 7, 7]);
    }

    #[test]
    fn long_reason_is_cut() {
        let letter = Outgoing::dead_letter("t", 1, 2, Vec::new(), &"é".repeat(100_000));
        assert_eq!(letter.key.chars().count(), "t/1/2: ".len() + REASON_MAX);
    }
}
