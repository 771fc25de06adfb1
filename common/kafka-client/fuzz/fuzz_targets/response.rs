#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafka_client::fuzzing::response(bytes));
