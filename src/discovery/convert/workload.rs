//! Workloads and nodes.

use aquifer_model::{Membership, Node, PodUid, Pool, TrustDomain, Workload, WorkloadFacts, WorkloadName};

use super::{Wrong, parts};
use crate::proto::mesh;

pub(super) fn to_wire(workload: &Workload) -> mesh::Workload {
    let identity = workload.identity();
    let (owner_kind, owner_name) = workload.owner();
    mesh::Workload {
        name: workload.name().to_string(),
        uid: workload.uid().to_string(),
        namespace: identity.namespace.to_string(),
        trust_domain: identity.trust_domain.as_str().to_owned(),
        service_account: identity.service_account.to_string(),
        addresses: workload.addresses().iter().map(parts::address).collect(),
        node: workload.node().to_string(),
        labels: parts::pairs(workload.labels()),
        named_ports: workload
            .named_ports()
            .iter()
            .map(|(name, port)| mesh::NamedPort { name: name.to_string(), port: (*port).into() })
            .collect(),
        owner_kind: owner_kind.to_owned(),
        owner_name: owner_name.to_string(),
        canonical_name: workload.canonical_name().to_string(),
        canonical_revision: workload.canonical_revision().to_string(),
        membership: i32::from(match workload.membership() {
            Membership::Outside => mesh::Membership::Outside,
            Membership::Desired => mesh::Membership::Desired,
            Membership::Proven => mesh::Membership::Proven,
        }),
        host_network: workload.host_network(),
        terminating: workload.terminating(),
        finished: workload.finished(),
    }
}

/// The network namespace is what a node finds out for itself.
pub(super) fn from_wire(wire: mesh::Workload, pool: &mut Pool) -> Result<Workload, Wrong> {
    let labels = parts::list(wire.labels, |pair| Ok((pair.key.into(), pair.value.into())))?;
    let ports = parts::list(wire.named_ports, |port| Ok((port.name.into(), parts::port(port.port)?)))?;
    let facts = WorkloadFacts {
        name: WorkloadName::from_wire(parts::plain(wire.name)?),
        uid: PodUid::new(wire.uid),
        namespace: parts::plain(wire.namespace)?,
        trust_domain: TrustDomain::new(&wire.trust_domain).map_err(|error| error.to_string())?,
        service_account: wire.service_account.into(),
        addresses: parts::addresses(&wire.addresses)?,
        node: wire.node.into(),
        labels: labels.into(),
        named_ports: ports.into(),
        owner: Some((wire.owner_kind.into(), wire.owner_name.into())),
        canonical_name: Some(wire.canonical_name.into()),
        canonical_revision: wire.canonical_revision.into(),
        membership: match mesh::Membership::try_from(wire.membership) {
            Ok(mesh::Membership::Outside) => Membership::Outside,
            Ok(mesh::Membership::Desired) => Membership::Desired,
            Ok(mesh::Membership::Proven) => Membership::Proven,
            Err(_) => return Err(format!("membership {} is not known", wire.membership)),
        },
        host_network: wire.host_network,
        netns: None,
        terminating: wire.terminating,
        finished: wire.finished,
    };
    Ok(pool.workload(facts))
}

pub(super) fn node_to_wire(node: &Node) -> mesh::Node {
    mesh::Node {
        name: node.name.to_string(),
        region: node.region.to_string(),
        zone: node.zone.to_string(),
        pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn node_from_wire(wire: mesh::Node) -> Result<Node, Wrong> {
    let network = |text: &String| text.parse().map_err(|_| format!("{text:?} is no network"));
    Ok(Node {
        name: parts::plain(wire.name)?,
        region: wire.region.into(),
        zone: wire.zone.into(),
        pod_cidrs: wire.pod_cidrs.iter().map(network).collect::<Result<_, _>>()?,
    })
}
