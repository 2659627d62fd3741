//! What a mesh is not asked otherwise: who is where, so that a change finds what it changes without a search.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_model::{
    AuthorizationPolicy, Endpoint, EndpointSlice, NamespacedName, PeerAuthentication, Text, Workload,
    WorkloadName,
};

use super::strict::Peers;

/// Whom an endpoint means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Member {
    Pod(WorkloadName),
    /// Whoever has the address, if it is anybody that is known.
    Address(IpAddr),
}

/// That somebody is an endpoint of a slice.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) slice: NamespacedName,
    pub(super) ready: bool,
}

/// Bounded by the mesh itself.
#[derive(Debug, Default)]
pub(super) struct Index {
    slices: HashMap<NamespacedName, Arc<EndpointSlice>>,
    slices_of: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    places: HashMap<Member, Vec<Place>>,
    namespaces: HashMap<Arc<str>, HashSet<WorkloadName>>,
    nodes: HashMap<Text, HashSet<WorkloadName>>,
    authorizations: HashMap<NamespacedName, Arc<AuthorizationPolicy>>,
    authentications: HashMap<NamespacedName, Arc<PeerAuthentication>>,
    pub(super) peers: Peers,
}

impl Member {
    fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.workload {
            Some(name) => Self::Pod(name.clone()),
            None => Self::Address(endpoint.address.to_canonical()),
        }
    }
}

impl Index {
    pub(super) fn slice(&self, name: &NamespacedName) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(name)
    }

    /// Where somebody is an endpoint.
    pub(super) fn places(&self, member: &Member) -> &[Place] {
        self.places.get(member).map_or(&[], Vec::as_slice)
    }

    /// Whoever is an endpoint of a Service.
    pub(super) fn members(&self, service: &NamespacedName) -> impl Iterator<Item = Member> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        slices
            .filter_map(|name| self.slices.get(name))
            .flat_map(|slice| slice.endpoints.iter().map(Member::of))
    }

    /// All endpoints that no pod is named for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.places.keys().filter_map(|member| match member {
            Member::Address(ip) => Some(*ip),
            Member::Pod(_) => None,
        })
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &WorkloadName> {
        self.namespaces.get(namespace).into_iter().flatten()
    }

    pub(super) fn on_node(&self, node: &str) -> impl Iterator<Item = &WorkloadName> {
        self.nodes.get(node).into_iter().flatten()
    }

    pub(super) fn authorization(&self, name: &NamespacedName) -> Option<&Arc<AuthorizationPolicy>> {
        self.authorizations.get(name)
    }

    pub(super) fn authorizations(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.authorizations.values()
    }

    pub(super) fn move_workload(&mut self, before: Option<&Workload>, after: Option<&Workload>) {
        if let Some(before) = before {
            forget(&mut self.namespaces, before.namespace(), before.name());
            forget(&mut self.nodes, before.node(), before.name());
        }
        if let Some(after) = after {
            self.namespaces.entry(after.namespace().clone()).or_default().insert(after.name().clone());
            self.nodes.entry(after.node().clone()).or_default().insert(after.name().clone());
        }
    }

    /// Returns what there was.
    pub(super) fn put_authorization(
        &mut self,
        name: &NamespacedName,
        policy: Option<&Arc<AuthorizationPolicy>>,
    ) -> Option<Arc<AuthorizationPolicy>> {
        match policy {
            Some(policy) => self.authorizations.insert(name.clone(), policy.clone()),
            None => self.authorizations.remove(name),
        }
    }

    /// Returns what there was.
    pub(super) fn put_authentication(
        &mut self,
        name: &NamespacedName,
        policy: Option<&Arc<PeerAuthentication>>,
    ) -> Option<Arc<PeerAuthentication>> {
        self.peers.put(name, policy);
        match policy {
            Some(policy) => self.authentications.insert(name.clone(), policy.clone()),
            None => self.authentications.remove(name),
        }
    }

    /// Returns for whom something changed by it.
    pub(super) fn put_slice(
        &mut self,
        name: &NamespacedName,
        slice: Option<&Arc<EndpointSlice>>,
    ) -> Vec<Member> {
        let before = match slice {
            Some(slice) => self.slices.insert(name.clone(), slice.clone()),
            None => self.slices.remove(name),
        };
        let facts = |slice: Option<&Arc<EndpointSlice>>| {
            let mut all: BTreeMap<Member, (bool, Option<(Text, Text)>)> = BTreeMap::new();
            for endpoint in slice.iter().flat_map(|slice| &slice.endpoints) {
                // Of a pod it is the pod that says where it is.
                let bare = endpoint.workload.is_none();
                let place = bare.then(|| (endpoint.node.clone(), endpoint.zone.clone()));
                all.entry(Member::of(endpoint)).or_insert((false, place)).0 |= endpoint.ready;
            }
            all
        };
        let meant = |slice: &Arc<EndpointSlice>| (slice.service.clone(), slice.ports.clone());
        let whole = before.as_ref().map(meant) != slice.map(meant);
        let (old, new) = (facts(before.as_ref()), facts(slice));
        let mut changed = Vec::new();
        for (member, facts) in &new {
            let was = old.get(member);
            if was != Some(facts) {
                let places = self.places.entry(member.clone()).or_default();
                places.retain(|place| place.slice != *name);
                places.push(Place { slice: name.clone(), ready: facts.0 });
                // Their order must not tell when each came.
                places.sort_by(|a, b| a.slice.cmp(&b.slice));
            }
            if whole || was != Some(facts) {
                changed.push(member.clone());
            }
        }
        for member in old.into_keys().filter(|member| !new.contains_key(member)) {
            if let Some(places) = self.places.get_mut(&member) {
                places.retain(|place| place.slice != *name);
                if places.is_empty() {
                    self.places.remove(&member);
                }
            }
            changed.push(member);
        }
        if let Some(before) = before
            && let Some(slices) = self.slices_of.get_mut(&before.service)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&before.service);
            }
        }
        if let Some(slice) = slice {
            self.slices_of.entry(slice.service.clone()).or_default().insert(name.clone());
        }
        changed
    }
}

fn forget<K: Hash + Eq>(index: &mut HashMap<K, HashSet<WorkloadName>>, key: &K, name: &WorkloadName) {
    if let Some(names) = index.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            index.remove(key);
        }
    }
}
