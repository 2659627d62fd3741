//! What a controller tells a node.

/// Reads the bytes as a resource, which is understood alike when it was written again.
pub(super) fn resource(bytes: &[u8]) {
    aquifer_discovery::fuzz_resource(bytes);
}

/// Reads the bytes as answers of a stream.
pub(super) fn answers(bytes: &[u8]) {
    aquifer_discovery::fuzz_answer(bytes);
}
