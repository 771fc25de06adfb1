//! The shapes of replies. The codecs of the `kafka-protocol` crate ask for the memory of as many elements as a reply announces,
//! which ends the process if that is a lie: so a reply is measured first, and decoded only if all that it announces is there.

/// A part of a reply.
#[derive(Debug)]
pub enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// Bytes or a string behind an unsigned varint; null is 0, empty 1 and so on.
    Compact,
    /// A string behind an i16; null is -1.
    Text,
    /// Elements behind an i32.
    Array(&'static [Shape]),
    /// Elements behind an unsigned varint; null is 0, none is 1 and so on.
    CompactArray(&'static [Shape]),
    /// Tagged fields. Those listed are decoded, others are kept as bytes.
    Tagged(&'static [(u32, &'static [Shape])]),
}

/// Elements of arrays and tagged fields in one reply. Decoded, one takes less than 500 bytes beside its strings.
const ELEMENTS_MAX: usize = 100_000;

/// What doesn't fit.
#[derive(Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It announces more than it has.
    Cut,
    /// There is something behind its end.
    Longer,
    /// It has more than [`ELEMENTS_MAX`] elements.
    TooMany,
    /// A tagged field is not as long as it says.
    Tag,
}

/// Does `reply` have this shape, to the last byte?
pub fn check(shape: &[Shape], reply: &[u8]) -> Result<(), Misfit> {
    let mut measure = Measure { rest: reply, elements: 0 };
    measure.all(shape)?;
    if measure.rest.is_empty() { Ok(()) } else { Err(Misfit::Longer) }
}

struct Measure<'a> {
    rest: &'a [u8],
    elements: usize,
}

impl<'a> Measure<'a> {
    fn all(&mut self, shapes: &[Shape]) -> Result<(), Misfit> {
        shapes.iter().try_for_each(|shape| self.one(shape))
    }

    fn one(&mut self, shape: &Shape) -> Result<(), Misfit> {
        match shape {
            Shape::Fixed(bytes) => self.skip(*bytes),
            Shape::Compact => {
                let length = self.varint()?;
                self.skip(length.saturating_sub(1))
            }
            Shape::Text => {
                let [a, b] = *self.take(2)? else { return Err(Misfit::Cut) };
                self.skip(usize::try_from(i16::from_be_bytes([a, b])).unwrap_or(0))
            }
            Shape::Array(element) => {
                let [a, b, c, d] = *self.take(4)? else { return Err(Misfit::Cut) };
                let count = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(0);
                self.elements(count, element)
            }
            Shape::CompactArray(element) => {
                let count = self.varint()?.saturating_sub(1);
                self.elements(count, element)
            }
            Shape::Tagged(known) => {
                let count = self.varint()?;
                self.count(count)?;
                for _ in 0..count {
                    let tag = self.varint()?;
                    let length = self.varint()?;
                    let value = self.take(length)?;
                    if let Some((_, shape)) = known.iter().find(|(it, _)| *it as usize == tag) {
                        let mut inner = Measure { rest: value, elements: self.elements };
                        inner.all(shape)?;
                        if !inner.rest.is_empty() {
                            return Err(Misfit::Tag);
                        }
                        self.elements = inner.elements;
                    }
                }
                Ok(())
            }
        }
    }

    fn elements(&mut self, count: usize, shape: &[Shape]) -> Result<(), Misfit> {
        self.count(count)?;
        (0..count).try_for_each(|_| self.all(shape))
    }

    fn count(&mut self, count: usize) -> Result<(), Misfit> {
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX { Err(Misfit::TooMany) } else { Ok(()) }
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Misfit> {
        self.take(bytes).map(|_| ())
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Misfit> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Misfit::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<usize, Misfit> {
        let mut value = 0;
        for i in 0..5 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                // As a u32, like the codecs: what is above is lost there.
                return Ok(value as u32 as usize);
            }
        }
        Err(Misfit::Cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Ask;
    use crate::samples::{self, Visit};
    use bytes::Bytes;
    use kafka_protocol::protocol::{Decodable, Encodable};
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    /// What fits is decoded to its last byte; what is changed is decoded or refused, and asks for no more memory than its
    /// elements take. A count that is believed would end this process.
    fn proves<R: Ask>(reply: R::Response) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes, R::VERSION).unwrap();
        assert_eq!(check(R::REPLY, &bytes), Ok(()), "{}", R::NAME);
        for cut in 0..bytes.len() {
            assert_eq!(check(R::REPLY, &bytes[..cut]), Err(Misfit::Cut), "{} at {cut}", R::NAME);
        }
        let longer = [&*bytes, &[0]].concat();
        assert_eq!(check(R::REPLY, &longer), Err(Misfit::Longer), "{}", R::NAME);
        let changes = prop::collection::vec((0..bytes.len(), any::<u8>()), 1..5);
        let property = |changes: Vec<(usize, u8)>| {
            let mut bytes = bytes.clone();
            changes.into_iter().for_each(|(place, byte)| bytes[place] = byte);
            if check(R::REPLY, &bytes) == Ok(()) {
                let mut rest = Bytes::from(bytes);
                // It may still refuse null where there must be something.
                if R::Response::decode(&mut rest, R::VERSION).is_ok() {
                    prop_assert!(rest.is_empty(), "{}: {} bytes left", R::NAME, rest.len());
                }
            }
            Ok(())
        };
        TestRunner::default().run(&changes, property).unwrap();
    }

    struct Proof;

    impl Visit for Proof {
        fn reply<R: Ask>(&mut self, reply: R::Response) {
            proves::<R>(reply);
        }
    }

    #[test]
    fn replies_have_their_shapes() {
        samples::replies(&mut Proof);
    }

    #[test]
    fn elements_are_counted_before_they_are_made() {
        let shape = &[Shape::Array(&[])];
        let reply = |count: usize| (count as u32).to_be_bytes();
        assert_eq!(check(shape, &reply(ELEMENTS_MAX)), Ok(()));
        assert_eq!(check(shape, &reply(ELEMENTS_MAX + 1)), Err(Misfit::TooMany));
        let nested = &[Shape::CompactArray(&[Shape::Array(&[])])];
        let reply = [&[3][..], &reply(ELEMENTS_MAX - 2), &reply(1)].concat();
        assert_eq!(check(nested, &reply), Err(Misfit::TooMany));
    }

    #[test]
    fn a_tagged_field_is_as_long_as_it_says() {
        let shape = &[Shape::Tagged(&[(1, &[Shape::Fixed(2)])])];
        assert_eq!(check(shape, &[1, 1, 2, 0, 0]), Ok(()));
        assert_eq!(check(shape, &[1, 9, 1, 0]), Ok(()));
        assert_eq!(check(shape, &[1, 1, 3, 0, 0, 0]), Err(Misfit::Tag));
        assert_eq!(check(shape, &[1, 1, 1, 0]), Err(Misfit::Cut));
    }
}
