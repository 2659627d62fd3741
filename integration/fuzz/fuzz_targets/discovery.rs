//! libFuzzer on [`targets::DISCOVERY`](aquifer_fuzz::targets::DISCOVERY).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::DISCOVERY.run)(bytes));
