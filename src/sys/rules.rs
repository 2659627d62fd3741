//! Capture rules of one pod: laid in one transaction, proved by reading them back, removed only by their owner.

use std::{io, net::SocketAddr};

use crate::NetNs;

/// What is to stand in a pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which life of the enrolment laid them; [`remove`] can be told to remove only its own.
    pub generation: u64,
    /// What is captured.
    pub mode: Mode,
}

/// What of a pod's TCP traffic is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only connections that begin now (SYN packets and what they became): the first of three steps of enrolment.
    CaptureNew,
    /// Everything but these connections, which stood before.
    Capture {
        /// The connections that pass untouched until they end.
        standing: Vec<FourTuple>,
    },
    /// Nothing new; only what we carry stays with us until it ends.
    Leave {
        /// The connections that stay diverted to us.
        carried: Vec<FourTuple>,
    },
}

/// One TCP connection, as the application in the pod sees it. Addresses of the two ends are of one family, never v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FourTuple {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No table of ours.
    Absent,
    /// A table of ours.
    Present(Found),
}

/// A table of ours, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The generation written in it; `None` where that cannot be read, so that the table is nobody's.
    pub generation: Option<u64>,
    /// What it captures; `None` where that cannot be read.
    pub mode: Option<Mode>,
    /// What differs from what was laid, one sentence each, empty if all stands as laid.
    pub faults: Vec<String>,
}

impl Found {
    /// Whether every rule, set and route stands as it was laid.
    pub fn intact(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Why rules could not be laid, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The namespace could not be entered, or a netlink socket not opened in it.
    #[error("cannot reach the kernel's packet rules from the pod's network namespace: {0}")]
    Namespace(#[source] io::Error),
}

/// Lays the rules, replacing whatever table of ours stands there, in one transaction.
pub fn lay(_ns: &NetNs, _rules: &Rules) -> Result<(), RulesError> {
    todo!()
}

/// Replaces the set of exempt (mode capture) or carried (mode leave) connections and nothing else, in one transaction.
/// False if the table is absent or of another generation.
pub fn set_standing(_ns: &NetNs, _generation: u64, _standing: &[FourTuple]) -> Result<bool, RulesError> {
    todo!()
}

/// Reads back what stands in the namespace.
pub fn inspect(_ns: &NetNs) -> Result<Standing, RulesError> {
    todo!()
}

/// Removes the table, routing rules and routes; with `Some(g)` only if they are of that generation. True if something was removed.
pub fn remove(_ns: &NetNs, _generation: Option<u64>) -> Result<bool, RulesError> {
    todo!()
}
