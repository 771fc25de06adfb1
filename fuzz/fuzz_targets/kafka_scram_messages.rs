//! Passes libFuzzer's input to `kafka_client::fuzzing::scram_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafka_client::fuzzing::scram_messages(bytes));
