//! Nodes and Namespaces, alone.

use std::sync::Arc;

use aquifer_k8s::{self as k8s, ObjectMeta, names};
use aquifer_model::Node;

use super::Meta;
use super::meta::{label, network};
use super::pod::{OptIn, opt_in};
use crate::field::{Complain, Field};

/// What a Namespace says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its pods are in the mesh, unless they say otherwise.
    pub ambient: bool,
}

/// Reads a Namespace.
pub fn namespace(object: &k8s::Namespace, complain: &mut Complain<'_>) -> Namespace {
    Namespace { ambient: opt_in(&object.metadata, complain) == OptIn::In }
}

/// Reads a Node; `None` where something that counts is unreadable, which was then complained of.
pub fn node(meta: &Meta, object: &k8s::Node, complain: &mut Complain<'_>) -> Option<Arc<Node>> {
    let spec = Field::ROOT.key("spec");
    let no_networks = Vec::new();
    let mut pod_cidrs = Vec::new();
    if let Some(node) = &object.spec {
        let several = node.pod_cidrs.as_ref().unwrap_or(&no_networks);
        for (index, cidr) in several.iter().enumerate() {
            pod_cidrs.push(network(cidr, &spec.key("podCIDRs").index(index), complain)?);
        }
        if let Some(cidr) = node.pod_cidr.as_deref().filter(|cidr| several.is_empty() && !cidr.is_empty()) {
            pod_cidrs.push(network(cidr, &spec.key("podCIDR"), complain)?);
        }
    }
    let place = |meta: &ObjectMeta, key| label(meta, key).unwrap_or_default().into();
    Some(Arc::new(Node {
        name: meta.name.clone(),
        region: place(&object.metadata, names::REGION_LABEL),
        zone: place(&object.metadata, names::ZONE_LABEL),
        pod_cidrs,
    }))
}
