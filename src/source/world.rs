//! Objects become the mesh's own data; the difference of two worlds is a list of updates.
//!
//! A world is kept by namespace. Nothing in one namespace hangs on another, except on Nodes, whose zones endpoints
//! carry; so after a change only the namespaces in which something changed are looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_model::{
    AuthorizationPolicy, EndpointSlice, Membership, NamespacedName, Node, PeerAuthentication, Pool, Service,
    Update, Workload, WorkloadName,
};

use crate::Objects;
use crate::object::{Key, Kind, Namespace, Object, OptIn, Pod, ServiceFacts};
use crate::slices::{PodsByLabel, derive};

/// Everything that a source says about the mesh. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    namespaces: BTreeMap<Arc<str>, Arc<Content>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
}

/// What stands in one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    services: BTreeMap<NamespacedName, Arc<Service>>,
    slices: BTreeMap<NamespacedName, Arc<EndpointSlice>>,
    policies: BTreeMap<NamespacedName, Arc<AuthorizationPolicy>>,
    peers: BTreeMap<NamespacedName, Arc<PeerAuthentication>>,
}

/// What the objects mean, from nothing.
pub fn translate(objects: &Objects) -> World {
    let mut world = World::default();
    world.advance(objects, objects.iter().map(|(key, _)| key));
    world
}

impl World {
    /// The updates that lead from `self` to `next`. An object that is equal in both yields none. Removals come first.
    pub fn diff(&self, next: &World) -> Vec<Update> {
        let mut updates = Updates::default();
        let names: BTreeSet<_> = self.namespaces.keys().chain(next.namespaces.keys()).collect();
        let nothing = Arc::new(Content::default());
        for name in names {
            let before = self.namespaces.get(name).unwrap_or(&nothing);
            let after = next.namespaces.get(name).unwrap_or(&nothing);
            if !Arc::ptr_eq(before, after) {
                updates.content(before, after);
            }
        }
        updates.each(&self.nodes, &next.nodes, Update::Node, Update::NodeGone);
        updates.in_order()
    }

    /// Takes up what changed: `changed` are the keys of the objects that came, went or changed since the objects were
    /// last looked at. Leads to the same world as translating from nothing, and what is equal keeps its place in
    /// memory.
    pub fn advance<'k>(
        &mut self,
        objects: &Objects,
        changed: impl IntoIterator<Item = &'k Key>,
    ) -> Vec<Update> {
        let before = self.clone();
        let mut dirty: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut zones_changed = false;
        for key in changed {
            match (key.kind, objects.object(key)) {
                (Kind::Node, Some(Object::Node(node))) => {
                    let old = self.nodes.get(&key.name);
                    zones_changed |= old.is_none_or(|old| old.zone != node.zone);
                    if old.is_none_or(|old| old != node) {
                        self.nodes.insert(key.name.clone(), node.clone());
                    }
                }
                (Kind::Node, _) => zones_changed |= self.nodes.remove(&key.name).is_some(),
                _ => _ = dirty.insert(key.namespace.clone()),
            }
        }
        if zones_changed {
            dirty.extend(self.namespaces.keys().cloned());
        }
        for name in dirty {
            let mut content = self.namespace(&name, objects);
            match self.namespaces.get(&name) {
                Some(old) => content.keep(old),
                None if content == Content::default() => continue,
                None => {}
            }
            if content == Content::default() {
                self.namespaces.remove(&name);
            } else {
                self.namespaces.insert(name, Arc::new(content));
            }
        }
        before.diff(self)
    }

    fn namespace(&self, name: &Arc<str>, objects: &Objects) -> Content {
        let mut content = Content::default();
        let mut namespace = Namespace::default();
        let mut pods: Vec<&Arc<Pod>> = Vec::new();
        let mut services: Vec<&ServiceFacts> = Vec::new();
        for (key, object) in objects.of_namespace(name) {
            match object {
                Object::Namespace(object) => namespace = *object,
                Object::Node(_) | Object::ServiceAccount => {}
                Object::Pod(pod) => pods.push(pod),
                Object::Service(service) => services.push(service),
                Object::EndpointSlice(slice) => _ = content.slices.insert(slice.name.clone(), slice.clone()),
                Object::AuthorizationPolicy(policy) => {
                    let name = policy_name(key, Kind::AuthorizationPolicy, objects);
                    let policy = match name == policy.name {
                        true => policy.clone(),
                        false => Arc::new(AuthorizationPolicy { name: name.clone(), ..(**policy).clone() }),
                    };
                    content.policies.insert(name, policy);
                }
                Object::PeerAuthentication(peer) => {
                    let name = policy_name(key, Kind::PeerAuthentication, objects);
                    let peer = match name == peer.name {
                        true => peer.clone(),
                        false => Arc::new(PeerAuthentication { name: name.clone(), ..(**peer).clone() }),
                    };
                    content.peers.insert(name, peer);
                }
            }
        }
        let mut pool = Pool::default();
        for pod in &pods {
            let ambient = match pod.opt_in {
                OptIn::In => true,
                OptIn::Out => false,
                OptIn::Unsaid => namespace.ambient,
            };
            let membership = if ambient { Membership::Desired } else { Membership::Outside };
            let workload = pool.workload(pod.workload.with_membership(membership));
            content.workloads.insert(workload.name().clone(), Arc::new(workload));
        }
        content.resolve(&services, &pods, &self.nodes);
        content
    }
}

/// A policy of Istio's group that has the name of one of ours stands beside it, and neither may be lost. Kubernetes
/// allows no `@` in a name, so the longer name cannot meet a third.
fn policy_name(key: &Key, ours: Kind, objects: &Objects) -> NamespacedName {
    let twin = Key { kind: ours, ..key.clone() };
    let name = match key.kind != ours && objects.object(&twin).is_some() {
        true => format!("{}@{}", key.name, aquifer_k8s::names::ISTIO_GROUP).into(),
        false => key.name.clone(),
    };
    NamespacedName::new(key.namespace.clone(), name)
}

impl Content {
    /// Services, each with the slices that somebody gave it, or with those that its selector makes.
    fn resolve(
        &mut self,
        services: &[&ServiceFacts],
        pods: &[&Arc<Pod>],
        nodes: &BTreeMap<Arc<str>, Arc<Node>>,
    ) {
        let given: BTreeSet<NamespacedName> =
            self.slices.values().map(|slice| slice.service.clone()).collect();
        let derived: Vec<&ServiceFacts> = services
            .iter()
            .copied()
            .filter(|facts| !facts.service.unresolved && !facts.service.selector.is_empty())
            .filter(|facts| !given.contains(&facts.service.name))
            .collect();
        let by_label = PodsByLabel::new(&derived, pods.iter().map(|pod| &***pod));
        for facts in derived {
            for slice in derive(facts, &by_label, |name| nodes.get(name)) {
                self.slices.insert(slice.name.clone(), Arc::new(slice));
            }
        }
        for facts in services {
            let name = &facts.service.name;
            let unresolved =
                facts.service.unresolved || (facts.service.selector.is_empty() && !given.contains(name));
            let service = match unresolved == facts.service.unresolved {
                true => facts.service.clone(),
                false => Arc::new(Service { unresolved, ..(*facts.service).clone() }),
            };
            self.services.insert(name.clone(), service);
        }
    }

    /// Puts the old object in the place of each new one that is equal to it.
    fn keep(&mut self, old: &Content) {
        fn each<K: Ord, T: PartialEq>(new: &mut BTreeMap<K, Arc<T>>, old: &BTreeMap<K, Arc<T>>) {
            for (key, object) in new {
                if let Some(kept) = old.get(key)
                    && kept == object
                {
                    *object = kept.clone();
                }
            }
        }
        each(&mut self.workloads, &old.workloads);
        each(&mut self.services, &old.services);
        each(&mut self.slices, &old.slices);
        each(&mut self.policies, &old.policies);
        each(&mut self.peers, &old.peers);
    }
}

#[derive(Default)]
struct Updates {
    gone: Vec<Update>,
    here: Vec<Update>,
}

impl Updates {
    fn content(&mut self, before: &Content, after: &Content) {
        self.each(&before.workloads, &after.workloads, Update::Workload, Update::WorkloadGone);
        self.each(&before.services, &after.services, Update::Service, Update::ServiceGone);
        self.each(&before.slices, &after.slices, Update::EndpointSlice, Update::EndpointSliceGone);
        self.each(&before.policies, &after.policies, Update::Authorization, Update::AuthorizationGone);
        let gone = Update::PeerAuthenticationGone;
        self.each(&before.peers, &after.peers, Update::PeerAuthentication, gone);
    }

    fn each<K: Ord + Clone, T: PartialEq>(
        &mut self,
        before: &BTreeMap<K, Arc<T>>,
        after: &BTreeMap<K, Arc<T>>,
        here: fn(Arc<T>) -> Update,
        gone: fn(K) -> Update,
    ) {
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            self.gone.push(gone(key.clone()));
        }
        for (key, object) in after {
            let same = before.get(key).is_some_and(|old| Arc::ptr_eq(old, object) || old == object);
            if !same {
                self.here.push(here(object.clone()));
            }
        }
    }

    fn in_order(self) -> Vec<Update> {
        let mut updates = self.gone;
        updates.extend(self.here);
        updates
    }
}

#[cfg(test)]
mod tests;
