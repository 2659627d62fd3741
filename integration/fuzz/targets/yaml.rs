//! Kubernetes YAML, all the way from bytes to the mesh's own data.

/// Reads the bytes as a file of the manifests' folder. The parser's own bounds (depth, size, aliases) must hold too: an
/// input that takes long is a finding.
pub(super) fn run(bytes: &[u8]) {
    aquifer_source::fuzz_yaml(bytes);
}
