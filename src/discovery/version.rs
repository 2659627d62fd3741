//! Versions of resources.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

/// Of the bytes themselves, so that two replicas of the controller give the same.
pub(crate) fn version(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}

/// As it is on the wire.
pub(crate) fn version_text(version: u64) -> String {
    format!("{version:016x}")
}
