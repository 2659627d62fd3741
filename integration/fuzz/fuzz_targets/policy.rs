//! libFuzzer on [`targets::POLICY`](aquifer_fuzz::targets::POLICY).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::POLICY.run)(bytes));
