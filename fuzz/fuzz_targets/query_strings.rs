//! Passes libFuzzer's input to `graphql_endpoint::fuzzing::query_strings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| graphql_endpoint::fuzzing::query_strings(bytes));
