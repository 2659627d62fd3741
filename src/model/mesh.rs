//! Applies updates: turns one snapshot of the mesh into the next, and tells what that changed.

mod batch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use batch::Batch;

use crate::networks::Networks;
use crate::pick::{Needs, Plan, Prepared};
use crate::snapshot::{First, Ranked};
use crate::{
    AuthorizationPolicy, Change, EndpointSlice, NamespacedName, Node, PolicyScope, Service, Snapshot, Text,
    Update, Workload, WorkloadChange, WorkloadName,
};

/// What a [`Mesh`] must be told once.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Namespace whose policies without selector hold in the whole mesh (by default `aquifer-system`).
    pub root_namespace: Arc<str>,
    /// Networks whose addresses all belong to the mesh. `None`: the podCIDRs of the Nodes; `Some(vec![])`: none, the
    /// rule about unknown destinations is off.
    pub networks: Option<Vec<IpNet>>,
}

/// The mesh as it is now: takes [`Update`]s, gives out [`Snapshot`]s.
#[derive(Debug)]
pub struct Mesh {
    current: Arc<Snapshot>,
    networks_of_nodes: bool,
    // What follows only updates ask for, hence it is not part of a snapshot.
    /// Slices whose Service is not there; a Service that is knows its own.
    orphans: HashMap<NamespacedName, Vec<NamespacedName>>,
    /// Slices whose preparation took a zone over from the node.
    zone_users: HashMap<Text, BTreeSet<NamespacedName>>,
    /// How many policies are attached to a Service.
    attached: HashMap<NamespacedName, usize>,
}

/// What the first half of a batch leaves for its end, when Services, slices and nodes are all known.
#[derive(Default)]
struct Stale {
    /// Slices to prepare (again).
    slices: Vec<NamespacedName>,
    /// Services to plan (again), each with the slices that may be its own beside those that it knows.
    services: BTreeMap<NamespacedName, Vec<NamespacedName>>,
}

impl Mesh {
    /// An empty mesh.
    pub fn new(config: MeshConfig) -> Self {
        let mut networks = Networks::default();
        for net in config.networks.iter().flatten() {
            networks.add(*net);
        }
        Self {
            current: Arc::new(Snapshot::empty(config.root_namespace, networks)),
            networks_of_nodes: config.networks.is_none(),
            orphans: HashMap::new(),
            zone_users: HashMap::new(),
            attached: HashMap::new(),
        }
    }

    /// The mesh at this moment. Costs a reference count.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.clone()
    }

    /// Applies a batch as one step: readers see all of it or nothing. Returns the net effect, workloads sorted by name; a
    /// batch without an effect leaves the snapshot and its version as they are.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Change {
        let batch = Batch::new(updates, &self.current);
        if batch.is_empty() {
            return Change::default();
        }
        Arc::make_mut(&mut self.current).version += 1;

        let mut change = Change {
            workloads: Vec::with_capacity(batch.workloads.len()),
            policies: !batch.authorizations.is_empty() || !batch.authentications.is_empty(),
            services: !batch.services.is_empty() || !batch.slices.is_empty() || !batch.nodes.is_empty(),
        };
        let mut stale = Stale::default();
        for (name, node) in batch.nodes {
            self.replace_node(&name, node, &mut stale);
        }
        for (name, slice) in batch.slices {
            change.policies |= self.replace_slice(&name, slice, &mut stale);
        }
        for (name, service) in batch.services {
            change.policies |= self.attached.contains_key(&name);
            self.replace_service(&name, service, &mut stale);
        }
        self.prepare(stale);
        for (name, after) in batch.workloads {
            let before = self.replace_workload(&name, after.clone());
            change.workloads.push(WorkloadChange { before, after });
        }
        for (name, policy) in batch.authorizations {
            self.replace_authorization(&name, policy);
        }
        for (name, policy) in batch.authentications {
            let state = Arc::make_mut(&mut self.current);
            state.authentications.replace(&name, policy, &state.root_namespace);
        }
        change
    }

    fn replace_node(&mut self, name: &Arc<str>, node: Option<Arc<Node>>, stale: &mut Stale) {
        let state = Arc::make_mut(&mut self.current);
        let before = state.nodes.get(name).cloned();
        let zone = |node: &Option<Arc<Node>>| node.as_ref().map(|node| node.zone.clone()).unwrap_or_default();
        if zone(&before) != zone(&node) {
            for slice in self.zone_users.get(&**name).into_iter().flatten() {
                if let Some(prepared) = state.slices.get(slice) {
                    stale.services.entry(prepared.slice.service.clone()).or_default();
                }
                stale.slices.push(slice.clone());
            }
        }
        if self.networks_of_nodes {
            let nets =
                |node: &Option<Arc<Node>>| node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default();
            nets(&before).into_iter().for_each(|net| state.networks.remove(net));
            nets(&node).into_iter().for_each(|net| state.networks.add(net));
        }
        match node {
            Some(node) => state.nodes.insert_mut(name.clone(), node),
            None => drop(state.nodes.remove_mut(name)),
        }
    }

    /// Returns whether a Service that a policy is attached to gained or lost something by it.
    fn replace_slice(
        &mut self,
        name: &NamespacedName,
        slice: Option<Arc<EndpointSlice>>,
        stale: &mut Stale,
    ) -> bool {
        let state = Arc::make_mut(&mut self.current);
        let mut attached = false;
        if let Some(before) = state.slices.get(name) {
            let service = &before.slice.service;
            before.zone_nodes().for_each(|node| forget(&mut self.zone_users, node, name));
            attached |= self.attached.contains_key(service);
            stale.services.entry(service.clone()).or_default();
        }
        match slice {
            Some(slice) => {
                attached |= self.attached.contains_key(&slice.service);
                stale.services.entry(slice.service.clone()).or_default().push(name.clone());
                // Bare at first: which Service it serves and where its nodes are is known at the end of the batch.
                state.slices.insert(name, Arc::new(Prepared::bare(slice)));
                stale.slices.push(name.clone());
            }
            None => state.slices.remove(name),
        }
        attached
    }

    fn replace_service(&mut self, name: &NamespacedName, service: Option<Arc<Service>>, stale: &mut Stale) {
        let state = Arc::make_mut(&mut self.current);
        let slices = stale.services.entry(name.clone()).or_default();
        if let Some(plan) = state.services.get(name).cloned() {
            slices.extend(plan.slices().cloned());
            let claimant = First(plan.service.clone());
            state.hostnames.release(&plan.service.hostname, &claimant);
            for ip in plan.service.vips.iter() {
                state.vips.release(&ip.to_canonical(), &claimant);
            }
        }
        match service {
            Some(service) => {
                let claimant = First(service.clone());
                state.hostnames.claim(service.hostname.clone(), claimant.clone());
                for ip in service.vips.iter() {
                    state.vips.claim(ip.to_canonical(), claimant.clone());
                }
                state.services.insert(name, Arc::new(Plan::new(service, Box::default())));
            }
            None => state.services.remove(name),
        }
    }

    /// Prepares slices and plans Services that a batch made stale.
    fn prepare(&mut self, mut stale: Stale) {
        let state = Arc::make_mut(&mut self.current);
        for (service, slices) in &mut stale.services {
            let plan = state.services.get(service);
            slices.extend(plan.into_iter().flat_map(|plan| plan.slices()).cloned());
            slices.extend(self.orphans.remove(service).into_iter().flatten());
            let its_own =
                |name: &NamespacedName| state.slices.get(name).filter(|s| s.slice.service == *service);
            slices.sort();
            slices.dedup();
            slices.retain(|name| its_own(name).is_some());
            let needs = plan.map(|plan| Needs::of(&plan.service)).unwrap_or_default();
            let outdated = |name: &&NamespacedName| its_own(name).is_some_and(|slice| slice.needs() != needs);
            stale.slices.extend(slices.iter().filter(outdated).cloned());
        }
        stale.slices.sort();
        stale.slices.dedup();
        for name in &stale.slices {
            let Some(place) = state.slices.get_mut(name) else { continue };
            let slice = place.slice.clone();
            place.zone_nodes().for_each(|node| forget(&mut self.zone_users, node, name));
            let needs = state.services.get(&slice.service).map(|plan| Needs::of(&plan.service));
            let prepared = Prepared::new(slice, needs.unwrap_or_default(), &state.nodes);
            for node in prepared.zone_nodes() {
                self.zone_users.entry(node.clone()).or_default().insert(name.clone());
            }
            put(place, prepared);
        }
        for (name, slices) in stale.services {
            match state.services.get_mut(&name) {
                Some(place) => {
                    let slices = slices.iter().filter_map(|slice| state.slices.get(slice)).cloned().collect();
                    put(place, Plan::new(place.service.clone(), slices));
                }
                None if slices.is_empty() => {}
                None => _ = self.orphans.insert(name, slices),
            }
        }
    }

    fn replace_workload(
        &mut self,
        name: &WorkloadName,
        after: Option<Arc<Workload>>,
    ) -> Option<Arc<Workload>> {
        let state = Arc::make_mut(&mut self.current);
        let before = state.workload(name).cloned();
        if let Some(before) = &before {
            let claimant = Ranked(before.clone());
            state.uids.release(before.uid(), &claimant);
            indexed_addresses(before).for_each(|ip| state.addresses.release(&ip, &claimant));
            state.workloads.remove(name);
        }
        if let Some(after) = after {
            let claimant = Ranked(after.clone());
            state.uids.claim(after.uid().clone(), claimant.clone());
            indexed_addresses(&after).for_each(|ip| state.addresses.claim(ip, claimant.clone()));
            state.workloads.insert(name, after);
        }
        before
    }

    fn replace_authorization(&mut self, name: &NamespacedName, policy: Option<Arc<AuthorizationPolicy>>) {
        let state = Arc::make_mut(&mut self.current);
        let services = |policy: &AuthorizationPolicy| match &policy.scope {
            PolicyScope::Services(services) => services.clone(),
            _ => Vec::new(),
        };
        for service in state.authorizations.named(name).map(|p| services(p)).unwrap_or_default() {
            if let Some(count) = self.attached.get_mut(&service) {
                *count -= 1;
                if *count == 0 {
                    self.attached.remove(&service);
                }
            }
        }
        for service in policy.as_deref().map(services).unwrap_or_default() {
            *self.attached.entry(service).or_default() += 1;
        }
        state.authorizations.replace(name, policy, &state.root_namespace);
    }
}

/// Takes the place of what was there; what no other snapshot holds is not made anew.
fn put<T>(place: &mut Arc<T>, thing: T) {
    match Arc::get_mut(place) {
        Some(own) => *own = thing,
        None => *place = Arc::new(thing),
    }
}

/// Addresses that lead to the workload: not those of a node, nor those that a finished pod had.
fn indexed_addresses(workload: &Workload) -> impl Iterator<Item = IpAddr> {
    let reachable = !workload.host_network() && !workload.finished();
    workload.addresses().iter().filter(move |_| reachable).map(|ip| ip.to_canonical())
}

fn forget(users: &mut HashMap<Text, BTreeSet<NamespacedName>>, node: &Text, slice: &NamespacedName) {
    if let Some(slices) = users.get_mut(node) {
        slices.remove(slice);
        if slices.is_empty() {
            users.remove(node);
        }
    }
}

#[cfg(test)]
mod tests;
