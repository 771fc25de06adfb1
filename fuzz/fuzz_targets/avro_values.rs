//! Passes libFuzzer's input to `avro::fuzzing::values`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| avro::fuzzing::values(bytes));
