//! Primitive types of requests and responses. Source: Kafka protocol guide, "Protocol Primitive
//! Types", and KIP-482.
//!
//! Nothing here is generic or returns an error for each field: a binary contains this code once,
//! and the codecs in `messages` compile to calls of it.

/// Limit of array elements and tagged fields in one response. A decoded element takes less than 200
/// bytes, plus its strings.
const ELEMENTS_MAX: usize = 100_000;

/// Why a response cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A length or count exceeds the bytes that are left.
    Truncated,
    /// Bytes are left at the end.
    TrailingBytes,
    /// It has more than 100,000 elements.
    TooManyElements,
    /// A string is not UTF-8, or too long for what it names.
    InvalidString,
}

/// Reads the fields of a response. Missing fields are read as 0, empty or null; [`Reader::finish`]
/// returns the error.
pub struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    elements: usize,
    error: Option<DecodeError>,
    /// `throttle_time_ms` of the response.
    pub throttle_time_ms: i32,
}

#[allow(missing_docs, reason = "the names are those of the protocol guide")]
impl<'a> Reader<'a> {
    pub fn new(response: &'a [u8]) -> Self {
        Self {
            rest: response,
            length: response.len(),
            elements: 0,
            error: None,
            throttle_time_ms: 0,
        }
    }

    /// # Errors
    /// The response is malformed: none of its fields is valid.
    pub fn finish(&self) -> Result<(), DecodeError> {
        self.so_far()?;
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    /// The same, but bytes may be left.
    ///
    /// # Errors
    /// See [`Reader::finish`].
    pub fn so_far(&self) -> Result<(), DecodeError> {
        self.error.map_or(Ok(()), Err)
    }

    pub(crate) fn fail(&mut self, error: DecodeError) {
        self.error.get_or_insert(error);
        self.rest = &[];
    }

    #[inline(never)]
    fn raw(&mut self, bytes: usize) -> &'a [u8] {
        if let Some((raw, rest)) = self.rest.split_at_checked(bytes) {
            self.rest = rest;
            raw
        } else {
            self.fail(DecodeError::Truncated);
            &[]
        }
    }

    #[inline(never)]
    fn number(&mut self, bytes: usize) -> i64 {
        self.raw(bytes).iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
    }

    pub fn skip(&mut self, bytes: usize) {
        self.raw(bytes);
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

    pub fn throttle_time(&mut self) {
        self.throttle_time_ms = self.i32();
    }

    /// UNSIGNED_VARINT.
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
        self.fail(DecodeError::Truncated);
        0
    }

    /// COMPACT_BYTES; null is read as empty.
    #[inline(never)]
    pub fn compact_bytes(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.raw(length.saturating_sub(1))
    }

    /// COMPACT_BYTES: their range in the response.
    pub fn compact_bytes_range(&mut self) -> std::ops::Range<usize> {
        let length = self.compact_bytes().len();
        let end = self.length - self.rest.len();
        end - length..end
    }

    /// COMPACT_STRING; null is read as empty.
    #[inline(never)]
    pub fn compact_string(&mut self) -> String {
        let bytes = self.compact_bytes();
        self.utf8(bytes)
    }

    /// STRING.
    pub fn string(&mut self) -> String {
        let length = usize::try_from(self.i16()).unwrap_or(0);
        let bytes = self.raw(length);
        self.utf8(bytes)
    }

    fn utf8(&mut self, bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(string) => string.to_owned(),
            Err(_) => {
                self.fail(DecodeError::InvalidString);
                String::new()
            }
        }
    }

    /// COMPACT_ARRAY; null is read as empty.
    #[inline(never)]
    pub fn compact_array(&mut self, element: &mut dyn FnMut(&mut Self)) {
        let count = self.varint();
        self.elements(count.saturating_sub(1), element);
    }

    /// COMPACT_ARRAY, collected.
    pub fn compact_vec<T>(&mut self, element: fn(&mut Self) -> T) -> Vec<T> {
        let mut all = Vec::new();
        self.compact_array(&mut |it| all.push(element(it)));
        all
    }

    /// ARRAY; null is read as empty.
    pub fn array(&mut self, element: &mut dyn FnMut(&mut Self)) {
        let count = self.i32();
        self.elements(usize::try_from(count).unwrap_or(0), element);
    }

    #[inline(never)]
    fn elements(&mut self, count: usize, element: &mut dyn FnMut(&mut Self)) {
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX {
            self.fail(DecodeError::TooManyElements);
        }
        for _ in 0..count {
            // An element takes at least one byte: memory is allocated only for elements that are
            // there.
            if self.rest.is_empty() {
                self.fail(DecodeError::Truncated);
                return;
            }
            element(self);
        }
    }

    /// Skips tagged fields: this client uses none.
    #[inline(never)]
    pub fn tagged_fields(&mut self) {
        let count = self.varint();
        self.elements(count, &mut |it| {
            it.varint();
            let length = it.varint();
            it.raw(length);
        });
    }
}

/// Writes the fields of a request.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

#[allow(missing_docs, reason = "the names are those of the protocol guide")]
impl Writer {
    #[inline(never)]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// UNSIGNED_VARINT.
    #[inline(never)]
    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// COMPACT_BYTES.
    #[inline(never)]
    pub fn compact_bytes(&mut self, bytes: &[u8]) {
        self.compact_array(bytes.len());
        self.raw(bytes);
    }

    /// COMPACT_STRING.
    pub fn compact_string(&mut self, string: &str) {
        self.compact_bytes(string.as_bytes());
    }

    /// STRING.
    pub fn string(&mut self, string: &str) {
        self.i16(string.len() as i16);
        self.raw(string.as_bytes());
    }

    /// The length of a COMPACT_ARRAY.
    pub fn compact_array(&mut self, elements: usize) {
        self.varint(elements + 1);
    }

    /// A null COMPACT_STRING, COMPACT_BYTES or COMPACT_ARRAY.
    pub fn compact_null(&mut self) {
        self.varint(0);
    }

    /// No tagged fields.
    pub fn tagged_fields(&mut self) {
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
    fn elements_are_limited_before_allocation() {
        let old = |count: usize| (count as u32).to_be_bytes();
        let none = |reader: &mut Reader<'_>| reader.array(&mut |_| panic!("there is none"));
        assert_eq!(finish(&old(0), none), Ok(()));
        assert_eq!(finish(&old(ELEMENTS_MAX), none), Err(DecodeError::Truncated));
        assert_eq!(finish(&old(usize::MAX), none), Ok(()), "null");
        let bytes = [&old(ELEMENTS_MAX)[..], &[0; ELEMENTS_MAX]].concat();
        let one = |reader: &mut Reader<'_>| reader.array(&mut |it| it.skip(1));
        assert_eq!(finish(&bytes, one), Ok(()));
        let bytes = [&old(ELEMENTS_MAX + 1)[..], &[0; ELEMENTS_MAX + 1]].concat();
        assert_eq!(finish(&bytes, one), Err(DecodeError::TooManyElements));
        // Those of arrays in arrays, together.
        let nested = |reader: &mut Reader<'_>| reader.compact_array(&mut |it| one(it));
        let inner = [&old(ELEMENTS_MAX / 2)[..], &[0; ELEMENTS_MAX / 2]].concat();
        assert_eq!(finish(&[&[2][..], &inner].concat(), nested), Ok(()));
        let twice = [&[3][..], &inner, &inner].concat();
        assert_eq!(finish(&twice, nested), Err(DecodeError::TooManyElements));
    }

    #[test]
    fn fields_after_an_error_are_empty() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!((reader.i16(), reader.i32(), reader.i8()), (0x102, 0, 0));
        assert_eq!(
            (reader.compact_string(), reader.compact_bytes().len(), reader.compact_bytes_range()),
            (String::new(), 0, 3..3)
        );
        reader.compact_array(&mut |_| panic!("there is none"));
        assert_eq!(reader.finish(), Err(DecodeError::Truncated));
    }

    #[test]
    fn tagged_fields_are_skipped() {
        let tags = |reader: &mut Reader<'_>| reader.tagged_fields();
        assert_eq!(finish(&[0], tags), Ok(()));
        assert_eq!(finish(&[2, 1, 2, 0, 0, 9, 0], tags), Ok(()));
        assert_eq!(finish(&[1, 1, 2, 0], tags), Err(DecodeError::Truncated));
        assert_eq!(finish(&[1, 1, 1, 0, 0], tags), Err(DecodeError::TrailingBytes));
    }

    #[test]
    fn invalid_utf8_is_refused() {
        assert_eq!(
            finish(&[3, 0xff, 0xfe], |it| drop(it.compact_string())),
            Err(DecodeError::InvalidString)
        );
        assert_eq!(finish(&[0xff; 6], |it| drop(it.compact_string())), Err(DecodeError::Truncated));
    }
}
