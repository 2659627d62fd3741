//! An immutable view of the mesh: whoever holds one sees one moment, whole.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{
    AuthorizationPolicy, EndpointSlice, MtlsMode, NamespacedName, Node, PeerAuthentication, PodUid, Protocol,
    Service, Workload, WorkloadName,
};

/// The mesh at one moment. Shares all that did not change with the snapshots before and after.
#[derive(Clone, Debug)]
pub struct Snapshot {
    version: u64,
}

impl Snapshot {
    /// Grows with each [`Mesh::apply`](crate::Mesh::apply) that changed something.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A workload by its name.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<Workload>> {
        let _ = name;
        todo!()
    }

    /// A workload by its incarnation.
    pub fn workload_by_uid(&self, uid: &PodUid) -> Option<&Arc<Workload>> {
        let _ = uid;
        todo!()
    }

    /// The workload that has an address. Never a host-network pod (the address is the node's) nor a finished one.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        let _ = ip;
        todo!()
    }

    /// Addresses that several workloads claim, with the claimants, the one that wins first.
    pub fn duplicate_addresses(&self) -> impl Iterator<Item = (IpAddr, Vec<WorkloadName>)> {
        std::iter::empty()
    }

    /// A Service by its name.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        let _ = name;
        todo!()
    }

    /// The Service that has a virtual address.
    pub fn service_by_vip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        let _ = ip;
        todo!()
    }

    /// The Service that has a host name.
    pub fn service_by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        let _ = hostname;
        todo!()
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        let _ = name;
        todo!()
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        std::iter::empty()
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        std::iter::empty()
    }

    /// All EndpointSlices, in no particular order.
    pub fn endpoint_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        std::iter::empty()
    }

    /// All authorization policies, in no particular order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        std::iter::empty()
    }

    /// All PeerAuthentications, in no particular order.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        std::iter::empty()
    }

    /// All nodes, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        std::iter::empty()
    }

    /// Authorization policies that apply to a workload, those that deny first.
    pub fn policies_for(&self, workload: &Workload) -> Vec<Arc<AuthorizationPolicy>> {
        let _ = workload;
        todo!()
    }

    /// The mTLS mode of a workload's port, and the PeerAuthentication that says so; permissive where none does.
    pub fn mtls_mode(&self, workload: &Workload, port: u16) -> (MtlsMode, Option<NamespacedName>) {
        let _ = (workload, port);
        todo!()
    }

    /// Whether an address lies in the mesh's networks.
    pub fn in_mesh_networks(&self, ip: IpAddr) -> bool {
        let _ = ip;
        todo!()
    }

    /// Whether a workload serves a Service: an endpoint names it (ready or not), or the selector does.
    pub fn serves(&self, workload: &Workload, service: &Service) -> bool {
        let _ = (workload, service);
        todo!()
    }

    /// The port at `workload` that `port` of `service` leads to.
    pub fn target_port(
        &self,
        service: &Service,
        workload: &Workload,
        port: u16,
        protocol: Protocol,
    ) -> Option<u16> {
        let _ = (service, workload, port, protocol);
        todo!()
    }
}
