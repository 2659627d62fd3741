//! libFuzzer on [`targets::CNI`](aquifer_fuzz::targets::CNI).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::CNI.run)(bytes));
