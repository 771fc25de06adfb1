//! What the kafka crate asks of the crate that this one stands in for: the checksum of a message in the protocol's old format. It asks
//! for a new `Crc` per message, and that crate makes a table of 256 entries for each. kafka-protocol asks for one as a constant, and never
//! uses it. docs/decisions/0015-checksum-and-copies.md has what that cost.

use std::marker::PhantomData;

/// A checksum's parameters. There is one: see [`CRC_32_ISO_HDLC`].
#[derive(Debug)]
pub struct Algorithm(());

/// The checksum of Ethernet, gzip and Kafka's messages before version 2, as the catalogue of parametrised CRC algorithms names it.
pub static CRC_32_ISO_HDLC: Algorithm = Algorithm(());

/// Makes checksums of width `W`, which is `u32`.
#[derive(Debug)]
pub struct Crc<W>(PhantomData<W>);

impl Crc<u32> {
    /// One for that algorithm; costs nothing.
    pub const fn new(_: &'static Algorithm) -> Self {
        Self(PhantomData)
    }

    /// The checksum of all of `bytes`.
    pub fn checksum(&self, bytes: &[u8]) -> u32 {
        crc32fast::hash(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        assert_eq!(crc.checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc.checksum(b""), 0);
    }
}
