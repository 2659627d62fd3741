//! What is fuzzed: one function for each kind of input from outside, which returns whatever the bytes are and panics only on a
//! fault of ours. libFuzzer (`fuzz_targets`) and the harness on stable (`integration/tests/fuzz.rs`) call the same functions.

mod cni;
mod discovery;
mod draw;
mod frames;
mod hpack;
mod policy;
mod protocol;
mod records;
mod request;
mod yaml;

/// A target: its name, which is that of its corpus folder, and its function.
pub struct Target {
    /// Name of the target and of its folder in `corpus`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

/// Files of Kubernetes YAML, as a user writes them.
pub const YAML: Target = Target { name: "yaml", run: yaml::run };
/// The headers of a CONNECT request, as any peer sends them.
pub const REQUEST: Target = Target { name: "request", run: request::run };
/// Policies against connections: the decision over many is what the decisions of each alone say.
pub const POLICY: Target = Target { name: "policy", run: policy::run };
/// Messages between parent and worker, with their descriptors.
pub const PROTOCOL: Target = Target { name: "protocol", run: protocol::run };
/// HTTP/2 frames of a peer.
pub const FRAMES: Target = Target { name: "frames", run: frames::run };
/// Header blocks of a peer.
pub const HPACK: Target = Target { name: "hpack", run: hpack::run };
/// TLS records of a peer, or of whoever is between.
pub const RECORDS: Target = Target { name: "records", run: records::run };

/// Resources of discovery.
pub const DISCOVERY: Target = Target { name: "discovery", run: discovery::resource };
/// Answers of discovery.
pub const ANSWERS: Target = Target { name: "answers", run: discovery::answers };
/// The moment of the mesh that a node kept.
pub const MOMENT: Target = Target { name: "moment", run: discovery::moment };

/// What the CNI plug-in reads, and the file that it is put into.
pub const CNI: Target = Target { name: "cni", run: cni::run };

/// All targets.
pub const ALL: &[&Target] =
    &[&YAML, &REQUEST, &POLICY, &PROTOCOL, &FRAMES, &HPACK, &RECORDS, &DISCOVERY, &ANSWERS, &MOMENT, &CNI];
