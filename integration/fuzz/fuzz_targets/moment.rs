//! libFuzzer on [`targets::MOMENT`](aquifer_fuzz::targets::MOMENT).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::MOMENT.run)(bytes));
