//! What a controller tells a node, and what the node keeps of it.

/// Reads the bytes as a resource, which is understood alike when it was written again.
pub(super) fn resource(bytes: &[u8]) {
    aquifer_discovery::fuzz_resource(bytes);
}

/// Reads the bytes as answers of a stream.
pub(super) fn answers(bytes: &[u8]) {
    aquifer_discovery::fuzz_answer(bytes);
}

/// Reads the bytes as the file of a moment. A mutation rarely has the checksum, which is looked at last: so all before it is read.
pub(super) fn moment(bytes: &[u8]) {
    aquifer_discovery::fuzz_kept(bytes);
}
