//! libFuzzer on [`targets::FRAMES`](aquifer_fuzz::targets::FRAMES).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::FRAMES.run)(bytes));
