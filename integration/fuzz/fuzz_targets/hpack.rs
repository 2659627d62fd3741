//! libFuzzer on [`targets::HPACK`](aquifer_fuzz::targets::HPACK).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::HPACK.run)(bytes));
