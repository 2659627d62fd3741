//! libFuzzer on [`targets::RECORDS`](aquifer_fuzz::targets::RECORDS).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::RECORDS.run)(bytes));
