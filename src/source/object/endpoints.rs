//! EndpointSlices as given.

use std::sync::Arc;

use aquifer_k8s::{self as k8s, names};
use aquifer_model::{Endpoint, EndpointPort, EndpointSlice, NamespacedName, WorkloadName};

use super::Meta;
use super::meta::{address, label, port, protocol};
use crate::field::{Complain, Field};
use crate::{Severity, TranslateConfig};

/// Kubernetes' own bounds of a slice.
pub(crate) const MAX_ENDPOINTS: usize = 1_000;
const MAX_PORTS: usize = 100;

/// Reads an EndpointSlice; `None` where it is unreadable or belongs to no Service, which was then complained of.
pub fn endpoint_slice(
    meta: &Meta,
    object: &k8s::EndpointSlice,
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<Arc<EndpointSlice>> {
    let Some(service) = label(&object.metadata, names::SERVICE_NAME_LABEL) else {
        let metadata = Field::ROOT.key("metadata");
        let message =
            format!("the slice belongs to no Service; name it in the label {}", names::SERVICE_NAME_LABEL);
        complain(Severity::Error, &metadata.key("labels"), message);
        return None;
    };
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        let message = format!("{:?} is neither IPv4 nor IPv6", object.address_type);
        complain(Severity::Error, &Field::ROOT.key("addressType"), message);
        return None;
    }
    let slice_ports = object.ports.as_deref().unwrap_or_default();
    for (count, bound, what) in
        [(object.endpoints.len(), MAX_ENDPOINTS, "endpoints"), (slice_ports.len(), MAX_PORTS, "ports")]
    {
        if count > bound {
            let message = format!("{count} are more than a slice may have ({bound}); make several of it");
            complain(Severity::Error, &Field::ROOT.key(what), message);
            return None;
        }
    }
    let mut ports = Vec::with_capacity(slice_ports.len());
    let list = Field::ROOT.key("ports");
    for (index, each) in slice_ports.iter().enumerate() {
        let field = list.index(index);
        // Without a number it means "all ports", which no Service port can be resolved to.
        let Some(number) = each.port else { continue };
        ports.push(EndpointPort {
            name: each.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(each.protocol.as_deref(), &field.key("protocol"), complain)?,
            port: port(number.into(), &field.key("port"), complain)?,
        });
    }
    let list = Field::ROOT.key("endpoints");
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (index, each) in object.endpoints.iter().enumerate() {
        let field = list.index(index);
        let addresses = field.key("addresses");
        // All addresses of an endpoint mean the same; Kubernetes says to take the first.
        let Some(text) = each.addresses.first() else { continue };
        let ip = address(text, &addresses.index(0), complain)?;
        if ip.is_ipv4() != (object.address_type == "IPv4") {
            let message = format!("{ip} is not of the slice's addressType, {}", object.address_type);
            complain(Severity::Error, &addresses.index(0), message);
            return None;
        }
        let pod = each.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let workload = pod.and_then(|pod| {
            let namespace = pod.namespace.as_deref().unwrap_or(&meta.namespace);
            Some(WorkloadName::pod(&config.cluster_id, namespace, pod.name.as_deref()?))
        });
        let conditions = each.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        endpoints.push(Endpoint {
            address: ip,
            workload,
            node: each.node_name.as_deref().unwrap_or_default().into(),
            zone: each.zone.as_deref().unwrap_or_default().into(),
            ready,
            serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
            terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        });
    }
    Some(Arc::new(EndpointSlice {
        name: meta.namespaced(),
        service: NamespacedName::new(meta.namespace.clone(), service),
        ports: ports.into(),
        endpoints: endpoints.into(),
    }))
}
