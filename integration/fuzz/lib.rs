//! The fuzz targets as a library, for the libFuzzer programs of `fuzz_targets`.

pub mod targets;
