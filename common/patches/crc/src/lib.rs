//! A replacement of the crate `crc`, with only the API that the crates `kafka` and `kafka-protocol`
//! use.
//!
//! The kafka crate creates a `Crc` for each message in the old format, to compute its checksum. The
//! original crate builds a table of 256 entries each time. kafka-protocol has a constant `Crc` that
//! it never uses. docs/decisions/0015-checksum-and-copies.md has measurements.

use std::marker::PhantomData;

/// The parameters of a checksum. The only value is [`CRC_32_ISO_HDLC`].
#[derive(Debug)]
pub struct Algorithm(());

/// The checksum of Ethernet, gzip, and Kafka messages before format version 2. Source of the name:
/// "Catalogue of parametrised CRC algorithms".
pub static CRC_32_ISO_HDLC: Algorithm = Algorithm(());

/// Computes checksums of width `W`, which is `u32`.
#[derive(Debug)]
pub struct Crc<W>(PhantomData<W>);

impl Crc<u32> {
    /// Returns a value for the only algorithm. It needs no computation.
    pub const fn new(_: &'static Algorithm) -> Self {
        Self(PhantomData)
    }

    /// Returns the checksum of `bytes`.
    pub fn checksum(&self, bytes: &[u8]) -> u32 {
        crc32fast::hash(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_equals_the_catalogues_check_value() {
        let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        assert_eq!(crc.checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc.checksum(b""), 0);
    }
}
