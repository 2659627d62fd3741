//! Counters and gauges by topic, as small typed structs.
#![allow(clippy::todo, unused_variables)]

use std::time::{Duration, SystemTime};

use aquifer_model::Identity;

/// One unit of a gauge, given back when dropped.
#[derive(Debug)]
#[must_use = "the gauge goes down when this is dropped"]
pub struct Counted {}

/// The tunnel pool.
#[derive(Clone, Debug)]
pub struct Pool {}

impl Pool {
    /// A tunnel stands, until the value is dropped.
    pub fn tunnel(&self) -> Counted {
        todo!()
    }
    /// A stream is open in a tunnel, until the value is dropped.
    pub fn stream(&self) -> Counted {
        todo!()
    }
    /// A tunnel was dialled.
    pub fn dialled(&self, took: Duration) {
        todo!()
    }
    /// A dial failed; `reason` is the error's code.
    pub fn dial_failed(&self, reason: &'static str) {
        todo!()
    }
    /// A stream was refused or reset; `reason` is the error's code.
    pub fn stream_failed(&self, reason: &'static str) {
        todo!()
    }
    /// A tunnel was put out of use; `reason` such as `idle`, `endpoint-gone`, `goaway`, `certificate`.
    pub fn retired(&self, reason: &'static str) {
        todo!()
    }
}

/// Certificates and the trust bundle.
#[derive(Clone, Debug)]
pub struct Certificates {}

impl Certificates {
    /// `identity` holds a certificate that ends at `not_after`.
    pub fn holds(&self, identity: &Identity, not_after: SystemTime) {
        todo!()
    }
    /// `identity` is held no more.
    pub fn forgotten(&self, identity: &Identity) {
        todo!()
    }
    /// A certificate was issued: the first for its identity, or a renewal.
    pub fn issued(&self, renewal: bool) {
        todo!()
    }
    /// Issuing failed; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        todo!()
    }
    /// The trust bundle has so many roots now.
    pub fn roots(&self, roots: usize) {
        todo!()
    }
}

/// Enrolment of pods.
#[derive(Clone, Debug)]
pub struct Enrolment {}

impl Enrolment {
    /// A pod is enrolled, until the value is dropped.
    pub fn enrolled(&self) -> Counted {
        todo!()
    }
    /// So many pods should be enrolled on this node.
    pub fn desired(&self, pods: usize) {
        todo!()
    }
    /// Enrolling or un-enrolling failed; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        todo!()
    }
    /// Rules or listeners of an enrolled pod were found broken, and laid again; `what` such as `rules`, `listener`.
    pub fn repaired(&self, what: &'static str) {
        todo!()
    }
}

/// Policy decisions.
#[derive(Clone, Debug)]
pub struct Policy {}

impl Policy {
    /// A connection was denied at its start; `reason` is `DenialReason::code`.
    pub fn denied(&self, reason: &'static str) {
        todo!()
    }
    /// A rule of an AUDIT policy matched.
    pub fn audited(&self) {
        todo!()
    }
    /// So many live connections were checked again.
    pub fn rechecked(&self, connections: u64) {
        todo!()
    }
    /// A live connection was cut; `reason` is `DenialReason::code` or `certificate-expired`, `root-removed`.
    pub fn cut(&self, reason: &'static str) {
        todo!()
    }
}

/// Kinds of objects that a source reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SourceKind {
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    Node,
    ServiceAccount,
    AuthorizationPolicy,
    PeerAuthentication,
}

/// Where the mesh's objects come from.
#[derive(Clone, Debug)]
pub struct Source {}

impl Source {
    /// So many objects of a kind are known.
    pub fn objects(&self, kind: SourceKind, count: usize) {
        todo!()
    }
    /// So many problems stand in the source now (files or objects that are not used).
    pub fn problems(&self, count: usize) {
        todo!()
    }
    /// A change was read and applied.
    pub fn reloaded(&self, at: SystemTime) {
        todo!()
    }
    /// Reading failed, and the last good state stays; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        todo!()
    }
}

/// Bytes that the process holds for connections.
#[derive(Clone, Debug)]
pub struct Buffers {}

impl Buffers {
    /// So many bytes are buffered now, and so many may be.
    pub fn held(&self, bytes: u64, cap: u64) {
        todo!()
    }
    /// A stream was reset since the cap was reached.
    pub fn shed(&self) {
        todo!()
    }
}

/// The worker process, as its parent sees it.
#[derive(Clone, Debug)]
pub struct Workers {}

impl Workers {
    /// So many times the worker was started again.
    pub fn restarts(&self, total: u64) {
        todo!()
    }
}
