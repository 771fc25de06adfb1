//! Passes libFuzzer's input to `kafka_client::fuzzing::group_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafka_client::fuzzing::group_messages(bytes));
