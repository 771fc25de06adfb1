//! Passes libFuzzer's input to `kafka_client::fuzzing::batches`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafka_client::fuzzing::batches(bytes));
