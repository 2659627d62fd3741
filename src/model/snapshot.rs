//! An immutable view of the mesh: whoever holds one sees one moment, whole.

use std::net::IpAddr;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use crate::buckets::{Buckets, Holds};
use crate::claims::Claims;
use crate::networks::Networks;
use crate::pick::{Nodes, Plan, Prepared};
use crate::scope::{Policies, Scoped};
use crate::{
    AuthorizationPolicy, EndpointSlice, Membership, MtlsMode, NamespacedName, Node, PeerAuthentication,
    PodUid, PolicyScope, Protocol, Service, Update, Workload, WorkloadName,
};

/// The mesh at one moment. Shares all that did not change with the snapshots before and after.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) root_namespace: Arc<str>,
    pub(crate) networks: Networks,
    pub(crate) workloads: Buckets<Arc<Workload>>,
    pub(crate) uids: Claims<PodUid, Ranked>,
    pub(crate) addresses: Claims<IpAddr, Ranked>,
    pub(crate) services: Buckets<Arc<Plan>>,
    pub(crate) vips: Claims<IpAddr, First>,
    pub(crate) hostnames: Claims<Arc<str>, First>,
    pub(crate) slices: Buckets<Arc<Prepared>>,
    pub(crate) nodes: Nodes,
    pub(crate) authorizations: Policies<AuthorizationPolicy>,
    pub(crate) authentications: Policies<PeerAuthentication>,
}

/// A workload in the order of its right to an address or uid that several claim: one that stays before one that
/// terminates, then the one whose membership is more certain, then the greater uid, then the greater name.
#[derive(Clone, Debug)]
pub(crate) struct Ranked(pub(crate) Arc<Workload>);

/// A Service in the order of its right to an address or host name that several claim: the first by name has it.
#[derive(Clone, Debug)]
pub(crate) struct First(pub(crate) Arc<Service>);

impl Snapshot {
    pub(crate) fn empty(root_namespace: Arc<str>, networks: Networks) -> Self {
        Self {
            version: 0,
            root_namespace,
            networks,
            workloads: Buckets::default(),
            uids: Claims::default(),
            addresses: Claims::default(),
            services: Buckets::default(),
            vips: Claims::default(),
            hostnames: Claims::default(),
            slices: Buckets::default(),
            nodes: HashTrieMapSync::new_sync(),
            authorizations: Policies::default(),
            authentications: Policies::default(),
        }
    }

    /// Grows with each [`Mesh::apply`](crate::Mesh::apply) that changed something.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The namespace whose policies without selector hold in the whole mesh.
    pub fn root_namespace(&self) -> &Arc<str> {
        &self.root_namespace
    }

    /// A workload by its name.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<Workload>> {
        self.workloads.get(name)
    }

    /// A workload by its incarnation. Of several with one uid the winner, as for addresses.
    pub fn workload_by_uid(&self, uid: &PodUid) -> Option<&Arc<Workload>> {
        self.uids.winner(uid).map(|found| &found.0)
    }

    /// The workload that has an address. Never a host-network pod (the address is the node's) nor a finished one.
    /// Of several that claim the address the one that is not terminating, then `Proven` before `Desired` before
    /// `Outside`, then the greater uid.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.addresses.winner(&ip.to_canonical()).map(|found| &found.0)
    }

    /// Addresses that several workloads claim, with the claimants, the one that wins first. Bounded by the workloads.
    pub fn duplicate_addresses(&self) -> impl Iterator<Item = (IpAddr, Vec<WorkloadName>)> {
        let names =
            |claimants: &mut dyn Iterator<Item = &Ranked>| claimants.map(|c| c.0.name().clone()).collect();
        self.addresses.contested().map(move |(ip, mut claimants)| (*ip, names(&mut claimants)))
    }

    /// A Service by its name.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|plan| &plan.service)
    }

    /// The Service that has a virtual address; of several the first by name. Services can share an external address
    /// by port, see [`Snapshot::resolve`].
    pub fn service_by_vip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.vips.winner(&ip.to_canonical()).map(|found| &found.0)
    }

    /// The Service that has a host name.
    pub fn service_by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.hostnames.winner(hostname).map(|found| &found.0)
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().map(|plan| &plan.service)
    }

    /// All EndpointSlices, in no particular order.
    pub fn endpoint_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.iter().map(|prepared| &prepared.slice)
    }

    /// All authorization policies, in no particular order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.authorizations.iter()
    }

    /// All PeerAuthentications, in no particular order.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.authentications.iter()
    }

    /// All nodes, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Everything that is in it, as the updates that would make it of nothing.
    pub fn updates(&self) -> Vec<Update> {
        let nodes = self.nodes().cloned().map(Update::Node);
        let policies = self.policies().cloned().map(Update::Authorization);
        let peers = self.peer_authentications().cloned().map(Update::PeerAuthentication);
        let workloads = self.workloads().cloned().map(Update::Workload);
        let services = self.services().cloned().map(Update::Service);
        let slices = self.endpoint_slices().cloned().map(Update::EndpointSlice);
        nodes.chain(policies).chain(peers).chain(workloads).chain(services).chain(slices).collect()
    }

    /// Authorization policies that apply to a workload: DENY, then unknown actions, ALLOW, AUDIT; those of the whole
    /// mesh before those of its namespace; by name.
    pub fn policies_for(&self, workload: &Workload) -> Vec<Arc<AuthorizationPolicy>> {
        let reaching = self.authorizations.reaching(workload.namespace());
        let mut policies: Vec<_> =
            reaching.filter(|p| self.in_scope(p.as_ref(), workload)).cloned().collect();
        policies.sort_by_key(|policy| policy.rank());
        policies
    }

    /// The mTLS mode of a workload's port, and the PeerAuthentication that says so; permissive where none does.
    ///
    /// The port's own mode in a PeerAuthentication with a selector wins, then that object's mode, then the namespace's,
    /// then the mesh's. Of several with a matching selector those of the workload's namespace come before those of the
    /// root namespace; else the first by name that says anything wins.
    pub fn mtls_mode(&self, workload: &Workload, port: u16) -> (MtlsMode, Option<NamespacedName>) {
        let scope = |policy: &PeerAuthentication| match policy.scope {
            PolicyScope::Selector(_) if policy.name.namespace == *workload.namespace() => 0,
            PolicyScope::Selector(_) => 1,
            PolicyScope::Namespace => 2,
            PolicyScope::Mesh => 3,
            PolicyScope::Services(_) | PolicyScope::Elsewhere => 4,
        };
        let says = |policy: &PeerAuthentication| {
            let of_port = |policy: &PeerAuthentication| policy.ports.iter().find(|(p, _)| *p == port)?.1;
            let own = matches!(policy.scope, PolicyScope::Selector(_)).then(|| of_port(policy)).flatten();
            own.or(policy.mode)
        };
        let reaching = self.authentications.reaching(workload.namespace());
        let decisive = reaching
            .filter(|policy| self.in_scope(policy.as_ref(), workload))
            .filter_map(|policy| Some((scope(policy), &policy.name, says(policy)?)))
            .min_by_key(|(scope, name, _)| (*scope, *name));
        match decisive {
            Some((_, name, mode)) => (mode, Some(name.clone())),
            None => (MtlsMode::Permissive, None),
        }
    }

    /// Whether an address lies in the mesh's networks.
    pub fn in_mesh_networks(&self, ip: IpAddr) -> bool {
        self.networks.contain(ip)
    }

    /// Whether a workload serves a Service: an endpoint names it (ready or not) or has its address, or the Service's
    /// selector selects it.
    pub fn serves(&self, workload: &Workload, service: &Service) -> bool {
        let selected = !service.selector.is_empty()
            && !workload.finished()
            && service.name.namespace == *workload.namespace()
            && workload.has_labels(&service.selector);
        selected || self.services.get(&service.name).is_some_and(|plan| plan.has(workload))
    }

    /// The port at `workload` that `port` of `service` leads to; `None` where the Service has no such port or no
    /// endpoint is the workload.
    pub fn target_port(
        &self,
        service: &Service,
        workload: &Workload,
        port: u16,
        protocol: Protocol,
    ) -> Option<u16> {
        self.services.get(&service.name)?.target(workload, port, protocol)
    }
}

impl Ranked {
    fn rank(&self) -> (bool, Membership, &PodUid, &WorkloadName) {
        (!self.0.terminating(), self.0.membership(), self.0.uid(), self.0.name())
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialEq for First {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for First {}

impl PartialOrd for First {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for First {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.name.cmp(&self.0.name)
    }
}

impl Holds<WorkloadName> for Arc<Workload> {
    fn holds(&self, key: &WorkloadName) -> bool {
        self.name() == key
    }
}

impl Holds<PodUid> for Ranked {
    fn holds(&self, key: &PodUid) -> bool {
        self.0.uid() == key
    }
}

/// An address in its canonical form.
impl Holds<IpAddr> for Ranked {
    fn holds(&self, key: &IpAddr) -> bool {
        self.0.addresses().iter().any(|ip| ip.to_canonical() == *key)
    }
}

/// An address in its canonical form.
impl Holds<IpAddr> for First {
    fn holds(&self, key: &IpAddr) -> bool {
        self.0.vips.iter().any(|ip| ip.to_canonical() == *key)
    }
}

impl Holds<str> for First {
    fn holds(&self, key: &str) -> bool {
        *self.0.hostname == *key
    }
}

impl Holds<Arc<str>> for First {
    fn holds(&self, key: &Arc<str>) -> bool {
        self.0.hostname == *key
    }
}

impl Holds<NamespacedName> for Arc<Plan> {
    fn holds(&self, key: &NamespacedName) -> bool {
        self.service.name == *key
    }
}

impl Holds<NamespacedName> for Arc<Prepared> {
    fn holds(&self, key: &NamespacedName) -> bool {
        self.slice.name == *key
    }
}
