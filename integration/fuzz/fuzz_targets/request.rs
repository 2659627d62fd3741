//! libFuzzer on [`targets::REQUEST`](aquifer_fuzz::targets::REQUEST).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::REQUEST.run)(bytes));
