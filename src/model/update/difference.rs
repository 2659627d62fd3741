//! How one mesh becomes another: for a source that takes over from one that told the mesh before it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Update;
use crate::{NamespacedName, WorkloadName};

/// The updates that lead from a mesh to another, each told whole as upserts ([`Snapshot::updates`](crate::Snapshot::updates)):
/// removals first, and nothing of what is equal in both.
pub fn difference(before: Vec<Update>, after: Vec<Update>) -> Vec<Update> {
    let mut before: HashMap<Subject, Update> =
        before.into_iter().map(|update| (Subject::of(&update), update)).collect();
    let is_new = |update: &Update| before.remove(&Subject::of(update)).as_ref() != Some(update);
    let here: Vec<Update> = after.into_iter().filter(is_new).collect();
    before.into_keys().map(Subject::gone).chain(here).collect()
}

/// What an update is about.
#[derive(PartialEq, Eq, Hash)]
enum Subject {
    Workload(WorkloadName),
    Service(NamespacedName),
    EndpointSlice(NamespacedName),
    Authorization(NamespacedName),
    PeerAuthentication(NamespacedName),
    Node(Arc<str>),
}

impl Subject {
    fn of(update: &Update) -> Self {
        match update {
            Update::Workload(workload) => Self::Workload(workload.name().clone()),
            Update::WorkloadGone(name) => Self::Workload(name.clone()),
            Update::Service(service) => Self::Service(service.name.clone()),
            Update::ServiceGone(name) => Self::Service(name.clone()),
            Update::EndpointSlice(slice) => Self::EndpointSlice(slice.name.clone()),
            Update::EndpointSliceGone(name) => Self::EndpointSlice(name.clone()),
            Update::Authorization(policy) => Self::Authorization(policy.name.clone()),
            Update::AuthorizationGone(name) => Self::Authorization(name.clone()),
            Update::PeerAuthentication(policy) => Self::PeerAuthentication(policy.name.clone()),
            Update::PeerAuthenticationGone(name) => Self::PeerAuthentication(name.clone()),
            Update::Node(node) => Self::Node(node.name.clone()),
            Update::NodeGone(name) => Self::Node(name.clone()),
        }
    }

    fn gone(self) -> Update {
        match self {
            Self::Workload(name) => Update::WorkloadGone(name),
            Self::Service(name) => Update::ServiceGone(name),
            Self::EndpointSlice(name) => Update::EndpointSliceGone(name),
            Self::Authorization(name) => Update::AuthorizationGone(name),
            Self::PeerAuthentication(name) => Update::PeerAuthenticationGone(name),
            Self::Node(name) => Update::NodeGone(name),
        }
    }
}
