//! What requests and replies are made of. Source: Kafka protocol guide, "Protocol Primitive Types", and KIP-482.
//!
//! None of this is generic or has an error for each field: a service holds it once, and the codecs in `messages` are but calls.

/// Elements of arrays and tagged fields in one reply. Read, one takes less than 200 bytes beside its texts.
const ELEMENTS_MAX: usize = 100_000;

/// Why a reply can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// It announces more than it has.
    Cut,
    /// There is something behind its end.
    Longer,
    /// It has more than [`ELEMENTS_MAX`] elements.
    TooMany,
    /// A text is not one in UTF-8.
    NoText,
}

/// Reads a reply. What is not there is read as zeros, empty texts and no elements: [`Reader::finish`] says at the end whether all was.
pub struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    elements: usize,
    misfit: Option<DecodeError>,
    /// How long the broker wants to be left alone, ms.
    pub throttle_ms: i32,
}

impl<'a> Reader<'a> {
    pub fn new(reply: &'a [u8]) -> Self {
        Self { rest: reply, length: reply.len(), elements: 0, misfit: None, throttle_ms: 0 }
    }

    /// # Errors
    /// The reply is not as long as it says, or too large; nothing read from it is to be believed then.
    pub fn finish(&self) -> Result<(), DecodeError> {
        self.so_far()?;
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Longer) }
    }

    /// # Errors
    /// The same, as far as it was read.
    pub fn so_far(&self) -> Result<(), DecodeError> {
        self.misfit.map_or(Ok(()), Err)
    }

    fn fail(&mut self, misfit: DecodeError) {
        self.misfit.get_or_insert(misfit);
        self.rest = &[];
    }

    #[inline(never)]
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        if let Some((taken, rest)) = self.rest.split_at_checked(bytes) {
            self.rest = rest;
            taken
        } else {
            self.fail(DecodeError::Cut);
            &[]
        }
    }

    #[inline(never)]
    fn number(&mut self, bytes: usize) -> i64 {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
    }

    pub fn skip(&mut self, bytes: usize) {
        self.take(bytes);
    }

    pub fn i8(&mut self) -> i8 {
        self.number(1) as i8
    }

    pub fn i16(&mut self) -> i16 {
        self.number(2) as i16
    }

    pub fn i32(&mut self) -> i32 {
        self.number(4) as i32
    }

    pub fn i64(&mut self) -> i64 {
        self.number(8)
    }

    /// How long the broker wants to be left alone.
    pub fn throttle(&mut self) {
        self.throttle_ms = self.i32();
    }

    /// Seven bits a byte, the lowest first.
    #[inline(never)]
    fn varint(&mut self) -> usize {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.number(1) as u64;
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value as usize;
            }
        }
        self.fail(DecodeError::Cut);
        0
    }

    /// Bytes behind their length and one; null is 0, and read as none.
    #[inline(never)]
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.take(length.saturating_sub(1))
    }

    /// Where they are in the reply.
    pub fn place(&mut self) -> std::ops::Range<usize> {
        let length = self.bytes().len();
        let end = self.length - self.rest.len();
        end - length..end
    }

    /// The same as text.
    #[inline(never)]
    pub fn text(&mut self) -> String {
        let bytes = self.bytes();
        self.text_of(bytes)
    }

    /// A text of before KIP-482: behind an i16.
    pub fn old_text(&mut self) -> String {
        let length = usize::try_from(self.i16()).unwrap_or(0);
        let bytes = self.take(length);
        self.text_of(bytes)
    }

    fn text_of(&mut self, bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.fail(DecodeError::NoText);
                String::new()
            }
        }
    }

    /// Elements behind their number and one; null is 0, and read as none.
    #[inline(never)]
    pub fn each(&mut self, one: &mut dyn FnMut(&mut Self)) {
        let count = self.varint();
        self.times(count.saturating_sub(1), one);
    }

    /// Elements of before KIP-482: behind an i32.
    pub fn old_each(&mut self, one: &mut dyn FnMut(&mut Self)) {
        let count = self.i32();
        self.times(usize::try_from(count).unwrap_or(0), one);
    }

    #[inline(never)]
    fn times(&mut self, count: usize, one: &mut dyn FnMut(&mut Self)) {
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX {
            self.fail(DecodeError::TooMany);
        }
        for _ in 0..count {
            // Each takes a byte at least: there is memory for those only that are there.
            if self.rest.is_empty() {
                self.fail(DecodeError::Cut);
                return;
            }
            one(self);
        }
    }

    pub fn array<T>(&mut self, one: fn(&mut Self) -> T) -> Vec<T> {
        let mut all = Vec::new();
        self.each(&mut |it| all.push(one(it)));
        all
    }

    /// Tagged fields: this client needs none.
    #[inline(never)]
    pub fn tags(&mut self) {
        let count = self.varint();
        self.times(count, &mut |it| {
            it.varint();
            let length = it.varint();
            it.take(length);
        });
    }
}

/// Writes a request.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    #[inline(never)]
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn i8(&mut self, value: i8) {
        self.put(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    #[inline(never)]
    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    #[inline(never)]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.put(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A text of before KIP-482: behind an i16.
    pub fn old_text(&mut self, text: &str) {
        self.i16(text.len() as i16);
        self.put(text.as_bytes());
    }

    /// Before so many elements.
    pub fn count(&mut self, elements: usize) {
        self.varint(elements + 1);
    }

    /// Null, as a text, bytes or an array.
    pub fn null(&mut self) {
        self.varint(0);
    }

    /// No tagged fields.
    pub fn tags(&mut self) {
        self.varint(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(bytes: &[u8], read: impl Fn(&mut Reader<'_>)) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        read(&mut reader);
        reader.finish()
    }

    #[test]
    fn elements_are_counted_before_they_are_made() {
        let old = |count: usize| (count as u32).to_be_bytes();
        let none = |reader: &mut Reader<'_>| reader.old_each(&mut |_| panic!("there is none"));
        assert_eq!(finish(&old(0), none), Ok(()));
        assert_eq!(finish(&old(ELEMENTS_MAX), none), Err(DecodeError::Cut));
        assert_eq!(finish(&old(usize::MAX), none), Ok(()), "null");
        let bytes = [&old(ELEMENTS_MAX)[..], &[0; ELEMENTS_MAX]].concat();
        let one = |reader: &mut Reader<'_>| reader.old_each(&mut |it| it.skip(1));
        assert_eq!(finish(&bytes, one), Ok(()));
        let bytes = [&old(ELEMENTS_MAX + 1)[..], &[0; ELEMENTS_MAX + 1]].concat();
        assert_eq!(finish(&bytes, one), Err(DecodeError::TooMany));
        // Those of arrays in arrays, together.
        let nested = |reader: &mut Reader<'_>| reader.each(&mut |it| one(it));
        let inner = [&old(ELEMENTS_MAX / 2)[..], &[0; ELEMENTS_MAX / 2]].concat();
        assert_eq!(finish(&[&[2][..], &inner].concat(), nested), Ok(()));
        let twice = [&[3][..], &inner, &inner].concat();
        assert_eq!(finish(&twice, nested), Err(DecodeError::TooMany));
    }

    #[test]
    fn after_a_misfit_all_is_empty() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!((reader.i16(), reader.i32(), reader.i8()), (0x102, 0, 0));
        assert_eq!((reader.text(), reader.bytes().len(), reader.place()), (String::new(), 0, 3..3));
        reader.each(&mut |_| panic!("there is none"));
        assert_eq!(reader.finish(), Err(DecodeError::Cut));
    }

    #[test]
    fn tags_are_skipped_as_long_as_they_say() {
        let tags = |reader: &mut Reader<'_>| reader.tags();
        assert_eq!(finish(&[0], tags), Ok(()));
        assert_eq!(finish(&[2, 1, 2, 0, 0, 9, 0], tags), Ok(()));
        assert_eq!(finish(&[1, 1, 2, 0], tags), Err(DecodeError::Cut));
        assert_eq!(finish(&[1, 1, 1, 0, 0], tags), Err(DecodeError::Longer));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert_eq!(finish(&[3, 0xff, 0xfe], |it| drop(it.text())), Err(DecodeError::NoText));
        assert_eq!(finish(&[0xff; 6], |it| drop(it.text())), Err(DecodeError::Cut));
    }
}
