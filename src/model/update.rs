//! `Update`, the one language that all sources speak, and `Change`, what an applied batch of them meant.

mod difference;

use std::sync::Arc;

use crate::{
    AuthorizationPolicy, EndpointSlice, NamespacedName, Node, PeerAuthentication, Service, Workload,
    WorkloadName,
};

pub use difference::difference;

/// One thing that a source says about the mesh. Upserts replace the whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each pair is an upsert and a removal of the type it names.
pub enum Update {
    Workload(Arc<Workload>),
    WorkloadGone(WorkloadName),
    Service(Arc<Service>),
    ServiceGone(NamespacedName),
    EndpointSlice(Arc<EndpointSlice>),
    EndpointSliceGone(NamespacedName),
    Authorization(Arc<AuthorizationPolicy>),
    AuthorizationGone(NamespacedName),
    PeerAuthentication(Arc<PeerAuthentication>),
    PeerAuthenticationGone(NamespacedName),
    Node(Arc<Node>),
    NodeGone(Arc<str>),
}

/// What a batch of updates changed, for those who must act on it: enrol, evict pooled tunnels, re-check live
/// connections.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Workloads that came, went or changed.
    pub workloads: Vec<WorkloadChange>,
    /// Some authorization policy, mTLS mode, or Service with a policy attached changed: live connections are checked again.
    pub policies: bool,
    /// Some Service, EndpointSlice or Node changed.
    pub services: bool,
}

/// One workload before and after.
#[derive(Clone, Debug)]
pub struct WorkloadChange {
    /// As it was; `None` where it is new.
    pub before: Option<Arc<Workload>>,
    /// As it is; `None` where it is gone.
    pub after: Option<Arc<Workload>>,
}
