//! libFuzzer on [`targets::PROTOCOL`](aquifer_fuzz::targets::PROTOCOL).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::PROTOCOL.run)(bytes));
