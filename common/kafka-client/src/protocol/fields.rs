//! Primitive types of requests and responses. Source: the protocol guide, "Protocol Primitive
//! Types", and KIP-482.
//!
//! For small binaries, hardly any method is generic, and the methods that read and write fields do
//! not return a `Result`. The codecs in `messages` compile to plain calls.

/// Limit of array elements and tagged fields in one response. A decoded element takes less than 200
/// bytes in addition to its strings.
const ELEMENTS_MAX: usize = 100_000;

/// The reason that a response cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A length or a count exceeds the remaining bytes.
    Truncated,
    /// Bytes follow the last field.
    TrailingBytes,
    /// The response has more than 100,000 array elements and tagged fields.
    TooManyElements,
    /// A string is not UTF-8, or a topic name has more than 249 bytes.
    InvalidString,
}

/// Reads the fields of a response. After an error, all fields are 0, empty or null, and
/// [`Reader::finish`] returns the error.
pub struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    elements: usize,
    error: Option<DecodeError>,
    /// `throttle_time_ms` of the response, in milliseconds.
    pub throttle_time_ms: i32,
}

impl<'a> Reader<'a> {
    /// A reader of the bytes after the length field of a response.
    pub fn new(response: &'a [u8]) -> Self {
        Self {
            rest: response,
            length: response.len(),
            elements: 0,
            error: None,
            throttle_time_ms: 0,
        }
    }

    /// Ends reading.
    ///
    /// # Errors
    /// The first error, or [`DecodeError::TrailingBytes`]. The decoded fields are not valid then.
    pub fn finish(&self) -> Result<(), DecodeError> {
        self.so_far()?;
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    /// Checks the fields that were read. Bytes may follow.
    ///
    /// # Errors
    /// The first error.
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

    /// Skips a field of `bytes` bytes.
    pub fn skip(&mut self, bytes: usize) {
        self.raw(bytes);
    }

    /// INT8, or BOOLEAN as 0 or 1.
    pub fn i8(&mut self) -> i8 {
        self.number(1) as i8
    }

    /// INT16, big-endian.
    pub fn i16(&mut self) -> i16 {
        self.number(2) as i16
    }

    /// INT32, big-endian.
    pub fn i32(&mut self) -> i32 {
        self.number(4) as i32
    }

    /// INT64, big-endian.
    pub fn i64(&mut self) -> i64 {
        self.number(8)
    }

    /// UUID, as its 16 bytes.
    pub fn uuid(&mut self) -> [u8; 16] {
        self.raw(16).try_into().unwrap_or_default()
    }

    /// INT32 `throttle_time_ms`, which is kept in [`Reader::throttle_time_ms`].
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

    /// COMPACT_BYTES. Null is read as empty.
    #[inline(never)]
    pub fn compact_bytes(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.raw(length.saturating_sub(1))
    }

    /// The range of COMPACT_BYTES in the response.
    pub fn compact_bytes_range(&mut self) -> std::ops::Range<usize> {
        let length = self.compact_bytes().len();
        let end = self.length - self.rest.len();
        end - length..end
    }

    /// COMPACT_STRING. Null is read as empty.
    #[inline(never)]
    pub fn compact_string(&mut self) -> String {
        let bytes = self.compact_bytes();
        self.utf8(bytes)
    }

    /// STRING. Null is read as empty.
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

    /// COMPACT_ARRAY. Calls `element` to read each element. Null is read as empty.
    #[inline(never)]
    pub fn compact_array(&mut self, element: &mut dyn FnMut(&mut Self)) {
        let count = self.varint();
        self.elements(count.saturating_sub(1), element);
    }

    /// COMPACT_ARRAY as a vector.
    pub fn compact_vec<T>(&mut self, element: fn(&mut Self) -> T) -> Vec<T> {
        let mut all = Vec::new();
        self.compact_array(&mut |it| all.push(element(it)));
        all
    }

    /// ARRAY. Calls `element` to read each element. Null is read as empty.
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
            // An element takes at least one byte: without this check, a wrong count would allocate
            // memory for elements that do not exist.
            if self.rest.is_empty() {
                self.fail(DecodeError::Truncated);
                return;
            }
            element(self);
        }
    }

    /// Skips tagged fields, because this client uses none.
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

/// Writes the fields of a request into its buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Bytes without a length.
    #[inline(never)]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// INT8, or BOOLEAN as 0 or 1.
    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    /// INT16, big-endian.
    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    /// INT32, big-endian.
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// INT64, big-endian.
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

    /// COMPACT_BYTES, not null.
    #[inline(never)]
    pub fn compact_bytes(&mut self, bytes: &[u8]) {
        self.compact_array(bytes.len());
        self.raw(bytes);
    }

    /// COMPACT_STRING, not null.
    pub fn compact_string(&mut self, string: &str) {
        self.compact_bytes(string.as_bytes());
    }

    /// STRING, not null.
    pub fn string(&mut self, string: &str) {
        self.i16(string.len() as i16);
        self.raw(string.as_bytes());
    }

    /// The length of a COMPACT_ARRAY, before its elements.
    pub fn compact_array(&mut self, elements: usize) {
        self.varint(elements + 1);
    }

    /// A null COMPACT_STRING, COMPACT_BYTES or COMPACT_ARRAY.
    pub fn compact_null(&mut self) {
        self.varint(0);
    }

    /// An empty section of tagged fields.
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
        let array_length = |count: usize| (count as u32).to_be_bytes();
        let none = |reader: &mut Reader<'_>| reader.array(&mut |_| panic!("the array is empty"));
        assert_eq!(finish(&array_length(0), none), Ok(()));
        assert_eq!(finish(&array_length(ELEMENTS_MAX), none), Err(DecodeError::Truncated));
        assert_eq!(finish(&array_length(usize::MAX), none), Ok(()), "null");
        let bytes = [&array_length(ELEMENTS_MAX)[..], &[0; ELEMENTS_MAX]].concat();
        let one = |reader: &mut Reader<'_>| reader.array(&mut |it| it.skip(1));
        assert_eq!(finish(&bytes, one), Ok(()));
        let bytes = [&array_length(ELEMENTS_MAX + 1)[..], &[0; ELEMENTS_MAX + 1]].concat();
        assert_eq!(finish(&bytes, one), Err(DecodeError::TooManyElements));
        // Elements of nested arrays count, too.
        let nested = |reader: &mut Reader<'_>| reader.compact_array(&mut |it| one(it));
        let inner = [&array_length(ELEMENTS_MAX / 2)[..], &[0; ELEMENTS_MAX / 2]].concat();
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
        reader.compact_array(&mut |_| panic!("the array is empty"));
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
