//! A batch of updates with one last word for each object.

use std::sync::Arc;

use crate::{
    AuthorizationPolicy, EndpointSlice, NamespacedName, Node, PeerAuthentication, Service, Snapshot, Update,
    Workload, WorkloadName,
};

/// What a batch says of each object, sorted, so that a [`Change`](crate::Change) is too.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) workloads: Words<WorkloadName, Workload>,
    pub(super) services: Words<NamespacedName, Service>,
    pub(super) slices: Words<NamespacedName, EndpointSlice>,
    pub(super) authorizations: Words<NamespacedName, AuthorizationPolicy>,
    pub(super) authentications: Words<NamespacedName, PeerAuthentication>,
    pub(super) nodes: Words<Arc<str>, Node>,
}

/// Names with the objects that they have now; `None` where it is gone.
///
/// A list, and no tree: the first batch is the whole mesh, and the nodes of a tree would lie between what stays of it, as holes
/// that are too small to give back.
pub(super) type Words<K, T> = Vec<(K, Option<Arc<T>>)>;

impl Batch {
    /// The last word of each object, where it differs from what is `now`.
    pub(super) fn new(updates: impl IntoIterator<Item = Update>, now: &Snapshot) -> Self {
        let mut batch = Self::default();
        updates.into_iter().for_each(|update| batch.push(update));
        settle(&mut batch.workloads, |name| now.workload(name));
        settle(&mut batch.services, |name| now.service(name));
        settle(&mut batch.slices, |name| now.slices.get(name).map(|prepared| &prepared.slice));
        settle(&mut batch.authorizations, |name| now.authorizations.named(name));
        settle(&mut batch.authentications, |name| now.authentications.named(name));
        settle(&mut batch.nodes, |name| now.node(name));
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workloads.is_empty()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.authorizations.is_empty()
            && self.authentications.is_empty()
            && self.nodes.is_empty()
    }

    fn push(&mut self, update: Update) {
        match update {
            Update::Workload(w) => self.workloads.push((w.name().clone(), Some(w))),
            Update::WorkloadGone(name) => self.workloads.push((name, None)),
            Update::Service(s) => self.services.push((s.name.clone(), Some(s))),
            Update::ServiceGone(name) => self.services.push((name, None)),
            Update::EndpointSlice(s) => self.slices.push((s.name.clone(), Some(s))),
            Update::EndpointSliceGone(name) => self.slices.push((name, None)),
            Update::Authorization(p) => self.authorizations.push((p.name.clone(), Some(p))),
            Update::AuthorizationGone(name) => self.authorizations.push((name, None)),
            Update::PeerAuthentication(p) => self.authentications.push((p.name.clone(), Some(p))),
            Update::PeerAuthenticationGone(name) => self.authentications.push((name, None)),
            Update::Node(n) => self.nodes.push((n.name.clone(), Some(n))),
            Update::NodeGone(name) => self.nodes.push((name, None)),
        }
    }
}

fn settle<'a, K: Ord, T: PartialEq + 'a>(words: &mut Words<K, T>, now: impl Fn(&K) -> Option<&'a Arc<T>>) {
    // Stable: of several words on one object the last stays the last.
    words.sort_by(|(a, _), (b, _)| a.cmp(b));
    words.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    words.retain(|(name, next)| now(name) != next.as_ref());
}
