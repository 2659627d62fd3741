//! libFuzzer on [`targets::YAML`](aquifer_fuzz::targets::YAML).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (aquifer_fuzz::targets::YAML.run)(bytes));
