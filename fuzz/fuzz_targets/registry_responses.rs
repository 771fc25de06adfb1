//! Passes libFuzzer's input to `avro::fuzzing::registry_responses`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| avro::fuzzing::registry_responses(bytes));
