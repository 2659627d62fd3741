//! libFuzzer on [`targets::ANSWERS`](aquifer_fuzz::targets::ANSWERS).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::ANSWERS.run)(bytes));
