//! Passes libFuzzer's input to `avro::fuzzing::schemas`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| avro::fuzzing::schemas(bytes));
