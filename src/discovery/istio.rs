//! The mesh as a ztunnel is told of it: Istio's own resources, made of a snapshot, and of what changed only what changes by it.

mod address;
mod authorization;
mod index;
mod strict;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_model::{
    AuthorizationPolicy, Mesh, MeshConfig, NamespacedName, PeerAuthentication, PolicyScope, Service,
    Snapshot, Update, Workload, WorkloadName,
};
use bytes::Bytes;
use prost::Message;

use crate::IstioType;
use index::{Index, Member};
use strict::Strict;

/// A resource as it is now.
pub(crate) struct Resource {
    pub(crate) of: IstioType,
    pub(crate) name: Arc<str>,
    /// `None`: there is none of the name.
    pub(crate) value: Option<Bytes>,
}

/// The mesh that was told of last, with what is needed to tell of the next.
#[derive(Debug)]
pub(crate) struct View {
    mesh: Arc<Snapshot>,
    index: Index,
    /// Who demands mutual TLS. Bounded by the workloads, as are their policies.
    demands: HashMap<WorkloadName, Strict>,
    demanded: HashMap<Strict, usize>,
}

/// Resources that may have changed.
#[derive(Default)]
struct Stale {
    workloads: HashSet<WorkloadName>,
    /// Endpoints that no pod is named for.
    addresses: HashSet<IpAddr>,
    services: HashSet<NamespacedName>,
    /// With the names that their resources had.
    authorizations: HashMap<NamespacedName, Option<Arc<str>>>,
}

impl View {
    /// A view of a mesh, with all resources.
    pub(crate) fn new(mesh: Arc<Snapshot>) -> (Self, Vec<Resource>) {
        let root_namespace = mesh.root_namespace().clone();
        let nothing = Mesh::new(MeshConfig { root_namespace, networks: None }).snapshot();
        let (index, demands, demanded) = Default::default();
        let mut view = Self { mesh: nothing, index, demands, demanded };
        let updates = mesh.updates();
        let resources = view.apply(&updates, mesh);
        (view, resources)
    }

    /// Takes up the next moment of the mesh. Returns what may be another resource by it.
    pub(crate) fn apply(&mut self, updates: &[Update], mesh: Arc<Snapshot>) -> Vec<Resource> {
        let before = std::mem::replace(&mut self.mesh, mesh);
        let mut stale = Stale::default();
        for update in updates {
            self.note(update, &before, &mut stale);
        }
        let mut resources = Vec::new();
        let mut say = |of, name: &str, value: Option<Bytes>| {
            resources.push(Resource { of, name: name.into(), value });
        };
        for (name, had) in &stale.authorizations {
            let policy = self.index.authorization(name);
            let has = policy.and_then(|policy| authorization::name(policy));
            if let Some(had) = had.as_ref().filter(|had| Some(*had) != has.as_ref()) {
                say(IstioType::Authorization, had, None);
            }
            if let (Some(policy), Some(has)) = (policy, has) {
                let value = authorization::to_wire(policy).encode_to_vec();
                say(IstioType::Authorization, &has, Some(value.into()));
            }
        }
        let mut demands = HashSet::new();
        for name in &stale.workloads {
            let (value, strict) = self.workload(name);
            say(IstioType::Address, &name.to_string(), value);
            demands.extend(self.demand(name, strict));
        }
        let root = self.mesh.root_namespace();
        for strict in &demands {
            let needed = self.demanded.contains_key(strict);
            let value = needed.then(|| strict.to_wire(root).encode_to_vec().into());
            say(IstioType::Authorization, &strict.name(root), value);
        }
        for ip in stale.addresses {
            let value = address::bare(&self.mesh, &self.index, ip);
            say(IstioType::Address, &address::bare_name(ip), value.map(|value| value.encode_to_vec().into()));
        }
        for name in &stale.services {
            let (had, has) = (before.service(name), self.mesh.service(name));
            let named = has.map(|service| address::service_name(service));
            if let Some(had) = had.map(|s| address::service_name(s)).filter(|had| Some(had) != named.as_ref())
            {
                say(IstioType::Address, &had, None);
            }
            if let (Some(service), Some(name)) = (has, named) {
                let value = address::service(service).map(|value| value.encode_to_vec().into());
                say(IstioType::Address, &name, value);
            }
        }
        resources
    }

    /// Names of the resources that are meant by a name: its own, an address, or a Service's with all that serve it. They may not be there.
    pub(crate) fn find(&self, of: IstioType, name: &str) -> Vec<Arc<str>> {
        if of == IstioType::Authorization {
            return vec![name.into()];
        }
        let service = match address::of_alias(name) {
            Some(ip) => match self.mesh.workload_by_ip(ip) {
                Some(workload) => return vec![workload.name().to_string().into()],
                None => self.mesh.service_by_vip(ip),
            },
            None => self.service(name),
        };
        let Some(service) = service else { return vec![name.into()] };
        let member = |member| match member {
            Member::Pod(name) => name.to_string(),
            Member::Address(ip) => match self.mesh.workload_by_ip(ip) {
                Some(workload) => workload.name().to_string(),
                None => address::bare_name(ip),
            },
        };
        let members = self.index.members(&service.name).map(member);
        std::iter::once(address::service_name(service)).chain(members).map(Arc::from).collect()
    }

    /// Addresses by which a resource is found, as names.
    pub(crate) fn aliases(&self, of: IstioType, name: &str) -> Vec<String> {
        if of == IstioType::Authorization {
            return Vec::new();
        }
        if let Some(service) = self.service(name) {
            return service.vips.iter().map(address::alias).collect();
        }
        match self.mesh.workload(&WorkloadName::from_wire(name)) {
            Some(workload) if !workload.host_network() => {
                address::held(&self.mesh, workload).into_iter().map(address::alias).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Names of the Services that a resource serves.
    pub(crate) fn serves(&self, of: IstioType, name: &str) -> Vec<String> {
        if of == IstioType::Authorization {
            return Vec::new();
        }
        let serving = match address::of_bare_name(name) {
            Some(ip) => {
                let places = self.index.places(&Member::Address(ip)).iter();
                Some(address::Serving::of(&self.mesh, &self.index, places))
            }
            None => {
                let workload = self.mesh.workload(&WorkloadName::from_wire(name));
                workload.map(|workload| address::serving(&self.mesh, &self.index, workload))
            }
        };
        serving.map(|serving| serving.services.into_keys().collect()).unwrap_or_default()
    }

    /// The Service that has a resource's name.
    fn service(&self, name: &str) -> Option<&Arc<Service>> {
        let (namespace, hostname) = name.split_once('/')?;
        self.mesh.service_by_hostname(hostname).filter(|service| *service.name.namespace == *namespace)
    }

    /// The resource of a workload, and where it demands mutual TLS.
    fn workload(&self, name: &WorkloadName) -> (Option<Bytes>, Option<Strict>) {
        let Some(workload) = self.mesh.workload(name) else { return (None, None) };
        let strict = self.index.peers.strict(&self.mesh, workload);
        let selected = |policy: &Arc<AuthorizationPolicy>| {
            is_selected(policy).then(|| authorization::name(policy)).flatten().map(|name| name.to_string())
        };
        let policies = self.mesh.policies_for(workload);
        let root = self.mesh.root_namespace();
        let demand = strict.as_ref().map(|strict| strict.name(root).to_string());
        let mut policies: Vec<String> = policies.iter().filter_map(selected).chain(demand).collect();
        policies.sort();
        match address::workload(&self.mesh, &self.index, workload, policies) {
            Some(told) => (Some(told.encode_to_vec().into()), strict),
            None => (None, None),
        }
    }

    /// Notes what a workload demands. Returns what is or was demanded.
    fn demand(&mut self, name: &WorkloadName, strict: Option<Strict>) -> Vec<Strict> {
        let before = match &strict {
            Some(strict) => self.demands.insert(name.clone(), strict.clone()),
            None => self.demands.remove(name),
        };
        if before == strict {
            return Vec::new();
        }
        if let Some(strict) = &strict {
            *self.demanded.entry(strict.clone()).or_default() += 1;
        }
        if let Some(before) = &before
            && let Some(count) = self.demanded.get_mut(before)
        {
            *count -= 1;
            if *count == 0 {
                self.demanded.remove(before);
            }
        }
        before.into_iter().chain(strict).collect()
    }

    /// Notes what may change by an update.
    fn note(&mut self, update: &Update, before: &Snapshot, stale: &mut Stale) {
        match update {
            Update::Workload(workload) => self.note_workload(workload.name(), before, stale),
            Update::WorkloadGone(name) => self.note_workload(name, before, stale),
            Update::Service(service) => self.note_service(&service.name, before, stale),
            Update::ServiceGone(name) => self.note_service(name, before, stale),
            Update::EndpointSlice(slice) => {
                let members = self.index.put_slice(&slice.name, Some(slice));
                members.into_iter().for_each(|member| self.note_member(member, before, stale));
            }
            Update::EndpointSliceGone(name) => {
                let members = self.index.put_slice(name, None);
                members.into_iter().for_each(|member| self.note_member(member, before, stale));
            }
            Update::Authorization(policy) => {
                self.note_authorization(&policy.name, Some(policy), before, stale);
            }
            Update::AuthorizationGone(name) => self.note_authorization(name, None, before, stale),
            Update::PeerAuthentication(policy) => {
                self.note_authentication(&policy.name, Some(policy), before, stale);
            }
            Update::PeerAuthenticationGone(name) => self.note_authentication(name, None, before, stale),
            Update::Node(node) => self.note_node(&node.name, before, stale),
            Update::NodeGone(name) => self.note_node(name, before, stale),
        }
    }

    fn note_workload(&mut self, name: &WorkloadName, before: &Snapshot, stale: &mut Stale) {
        let (old, new) = (before.workload(name).cloned(), self.mesh.workload(name).cloned());
        self.index.move_workload(old.as_deref(), new.as_deref());
        stale.workloads.insert(name.clone());
        // Who gives an address up leaves it to another.
        let addresses = old.iter().chain(&new).flat_map(|workload| workload.addresses().iter());
        for ip in addresses.map(|ip| ip.to_canonical()) {
            self.note_holders(ip, before, stale);
            if !self.index.places(&Member::Address(ip)).is_empty() {
                stale.addresses.insert(ip);
            }
        }
    }

    fn note_holders(&self, ip: IpAddr, before: &Snapshot, stale: &mut Stale) {
        let holders = [before, &self.mesh].into_iter().filter_map(|mesh| mesh.workload_by_ip(ip));
        stale.workloads.extend(holders.map(|holder| holder.name().clone()));
    }

    fn note_member(&self, member: Member, before: &Snapshot, stale: &mut Stale) {
        match member {
            Member::Pod(name) => _ = stale.workloads.insert(name),
            Member::Address(ip) => {
                self.note_holders(ip, before, stale);
                stale.addresses.insert(ip);
            }
        }
    }

    fn note_service(&mut self, name: &NamespacedName, before: &Snapshot, stale: &mut Stale) {
        stale.services.insert(name.clone());
        let meant = |mesh: &Snapshot| {
            let service = mesh.service(name)?;
            let Service { ports, hostname, publish_not_ready, unresolved, .. } = &**service;
            Some((ports.clone(), hostname.clone(), *publish_not_ready, *unresolved))
        };
        if meant(before) != meant(&self.mesh) {
            let members: Vec<Member> = self.index.members(name).collect();
            members.into_iter().for_each(|member| self.note_member(member, before, stale));
        }
        let selector = |mesh: &Snapshot| mesh.service(name).map(|service| service.selector.clone());
        let attached = |policy: &Arc<AuthorizationPolicy>| match &policy.scope {
            PolicyScope::Services(services) => services.contains(name),
            _ => false,
        };
        if selector(before) != selector(&self.mesh) && self.index.authorizations().any(attached) {
            stale.workloads.extend(self.index.in_namespace(&name.namespace).cloned());
        }
    }

    fn note_authorization(
        &mut self,
        name: &NamespacedName,
        policy: Option<&Arc<AuthorizationPolicy>>,
        before: &Snapshot,
        stale: &mut Stale,
    ) {
        let old = self.index.put_authorization(name, policy);
        let had = old.as_deref().and_then(authorization::name);
        stale.authorizations.entry(name.clone()).or_insert(had);
        let names = |mesh: &Snapshot, policy: Option<&AuthorizationPolicy>, workload: &Workload| {
            policy.is_some_and(|policy| {
                is_selected(policy)
                    && authorization::name(policy).is_some()
                    && mesh.applies(&policy.name, &policy.scope, workload)
            })
        };
        if !old.as_deref().is_some_and(is_selected) && !policy.is_some_and(|policy| is_selected(policy)) {
            return;
        }
        let changes = |workload: &Workload| {
            names(before, old.as_deref(), workload) != names(&self.mesh, policy.map(|p| &**p), workload)
        };
        self.note_reached(name, changes, stale);
    }

    fn note_authentication(
        &mut self,
        name: &NamespacedName,
        policy: Option<&Arc<PeerAuthentication>>,
        before: &Snapshot,
        stale: &mut Stale,
    ) {
        let old = self.index.put_authentication(name, policy);
        if old.as_ref() == policy {
            return;
        }
        let applies = |mesh: &Snapshot, policy: Option<&PeerAuthentication>, workload: &Workload| {
            policy.is_some_and(|policy| mesh.applies(&policy.name, &policy.scope, workload))
        };
        let reached = |workload: &Workload| {
            applies(before, old.as_deref(), workload) || applies(&self.mesh, policy.map(|p| &**p), workload)
        };
        self.note_reached(name, reached, stale);
    }

    /// Looks at all workloads that a policy could be about: those of its namespace, or all.
    fn note_reached(&self, name: &NamespacedName, is_stale: impl Fn(&Workload) -> bool, stale: &mut Stale) {
        let stale_name = |workload: &Arc<Workload>| is_stale(workload).then(|| workload.name().clone());
        if name.namespace == *self.mesh.root_namespace() {
            stale.workloads.extend(self.mesh.workloads().filter_map(stale_name));
        } else {
            let own = self.index.in_namespace(&name.namespace);
            let own = own.filter_map(|name| self.mesh.workload(name));
            stale.workloads.extend(own.filter_map(stale_name));
        }
    }

    fn note_node(&mut self, name: &Arc<str>, before: &Snapshot, stale: &mut Stale) {
        let (old, new) = (before.node(name), self.mesh.node(name));
        if old == new {
            return;
        }
        stale.workloads.extend(self.index.on_node(name).cloned());
        stale.addresses.extend(self.index.addresses());
    }
}

/// Whether workloads say that a policy is about them.
fn is_selected(policy: &AuthorizationPolicy) -> bool {
    matches!(policy.scope, PolicyScope::Selector(_) | PolicyScope::Services(_))
}
