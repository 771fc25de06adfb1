//! Passes libFuzzer's input to `graphql_endpoint::fuzzing::generated_documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| graphql_endpoint::fuzzing::generated_documents(bytes));
