//! Services, alone: their endpoints are found elsewhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_k8s::{self as k8s, IntOrString};
use aquifer_model::{Protocol, Service, ServicePort, TrafficDistribution};

use super::Meta;
use super::meta::{address, port, protocol};
use crate::field::{Complain, Field};
use crate::{Severity, TranslateConfig};

/// What a Service says.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    /// The service, `unresolved` where it is an ExternalName.
    pub service: Arc<Service>,
    /// Where each of its ports leads, in their order.
    pub targets: Vec<TargetPort>,
    /// The only family of its endpoints; `None`: both.
    pub family: Option<Family>,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The same at every pod.
    Number(u16),
    /// The container port of that name, at each pod its own.
    Named(Arc<str>),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Ports of a Service at most; Kubernetes sets no number, its objects end at 1.5 MiB.
const MAX_PORTS: usize = 1_000;

/// Kubernetes' default and bounds of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT: i32 = 10_800;
const AFFINITY_MAX: i32 = 86_400;

/// Reads a Service; `None` where something that counts is unreadable, which was then complained of.
pub fn service(
    meta: &Meta,
    object: &k8s::Service,
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<Arc<ServiceFacts>> {
    let empty = k8s::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let spec_field = Field::ROOT.key("spec");
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    let headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.iter().flatten().any(|address| address == "None");

    let Addresses { vips, external_ips } =
        if external_name { Addresses::default() } else { addresses(object, spec, complain)? };
    if vips.is_empty() && !headless && !external_name {
        let message =
            "the Service has no clusterIP, so only its host name and its pods' own addresses lead to it";
        complain(Severity::Note, &spec_field.key("clusterIP"), message.to_owned());
    }
    let (ports, targets) = ports(spec, complain)?;
    let selector = spec.selector.iter().flatten();
    let service = Service {
        name: meta.namespaced(),
        hostname: format!("{}.{}.svc.{}", meta.name, meta.namespace, config.cluster_domain).into(),
        vips: vips.into_iter().collect(),
        external_ips: external_ips.into_iter().collect(),
        ports: ports.into(),
        headless,
        session_affinity: session_affinity(spec, complain)?,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        traffic_distribution: traffic_distribution(spec, complain),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        unresolved: external_name,
        selector: selector.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
    };
    Some(Arc::new(ServiceFacts { service: Arc::new(service), targets, family: family(spec) }))
}

/// Addresses that lead to a Service.
#[derive(Default)]
struct Addresses {
    /// ClusterIPs, external IPs and what a load balancer gave, each once, in this order. Node ports are no addresses
    /// of the Service: calls to them are left alone.
    vips: Vec<IpAddr>,
    /// Those that are no ClusterIP.
    external_ips: Vec<IpAddr>,
}

fn addresses(
    object: &k8s::Service,
    spec: &k8s::ServiceSpec,
    complain: &mut Complain<'_>,
) -> Option<Addresses> {
    let mut found = Addresses::default();
    let (spec_field, status) = (Field::ROOT.key("spec"), Field::ROOT.key("status"));
    if let Some(ip) = &spec.cluster_ip {
        found.add(ip, false, &spec_field.key("clusterIP"), complain)?;
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        found.add(ip, false, &spec_field.key("clusterIPs").index(index), complain)?;
    }
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        found.add(ip, true, &spec_field.key("externalIPs").index(index), complain)?;
    }
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    for (index, each) in ingress.into_iter().flatten().enumerate() {
        // With `Proxy` the balancer wants to see the call itself, even one from inside.
        let kept = each.ip_mode.as_deref() != Some("Proxy");
        if let Some(ip) = each.ip.as_deref().filter(|_| kept) {
            found.add(
                ip,
                true,
                &status.key("loadBalancer").key("ingress").index(index).key("ip"),
                complain,
            )?;
        }
    }
    Some(found)
}

impl Addresses {
    fn add(
        &mut self,
        text: &str,
        external: bool,
        field: &Field<'_>,
        complain: &mut Complain<'_>,
    ) -> Option<()> {
        if text.is_empty() || text == "None" {
            return Some(());
        }
        let ip = address(text, field, complain)?;
        if !self.vips.contains(&ip) {
            self.vips.push(ip);
            if external {
                self.external_ips.push(ip);
            }
        }
        Some(())
    }
}

fn ports(
    spec: &k8s::ServiceSpec,
    complain: &mut Complain<'_>,
) -> Option<(Vec<ServicePort>, Vec<TargetPort>)> {
    let all = spec.ports.as_deref().unwrap_or_default();
    let spec_field = Field::ROOT.key("spec");
    let list = spec_field.key("ports");
    if all.len() > MAX_PORTS {
        complain(
            Severity::Error,
            &list,
            format!("{} ports are more than the bound of {MAX_PORTS}", all.len()),
        );
        return None;
    }
    let (mut ports, mut targets) =
        (Vec::<ServicePort>::with_capacity(all.len()), Vec::with_capacity(all.len()));
    let mut keys: std::collections::HashSet<(Protocol, u16)> = std::collections::HashSet::new();
    for (index, each) in all.iter().enumerate() {
        let field = list.index(index);
        let number = port(each.port.into(), &field.key("port"), complain)?;
        let protocol = protocol(each.protocol.as_deref(), &field.key("protocol"), complain)?;
        if !keys.insert((protocol, number)) {
            complain(
                Severity::Error,
                &field.key("port"),
                format!("{number} is there twice for the same protocol"),
            );
            return None;
        }
        targets.push(match &each.target_port {
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => {
                TargetPort::Number(port((*target).into(), &field.key("targetPort"), complain)?)
            }
            // A number in quotes is a number to Kubernetes, too.
            Some(IntOrString::String(text)) => match text.parse::<i64>() {
                Ok(target) => TargetPort::Number(port(target, &field.key("targetPort"), complain)?),
                Err(_) if text.is_empty() => TargetPort::Number(number),
                Err(_) => TargetPort::Named(text.as_str().into()),
            },
        });
        ports.push(ServicePort {
            name: each.name.as_deref().unwrap_or_default().into(),
            protocol,
            port: number,
            app_protocol: each.app_protocol.as_deref().unwrap_or_default().into(),
        });
    }
    Some((ports, targets))
}

/// `Some(None)` where there is none.
fn session_affinity(spec: &k8s::ServiceSpec, complain: &mut Complain<'_>) -> Option<Option<Duration>> {
    let spec_field = Field::ROOT.key("spec");
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Some(None),
        Some("ClientIP") => {
            let client_ip =
                spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = client_ip.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_DEFAULT);
            if let Some(seconds) =
                u64::try_from(seconds).ok().filter(|_| (1..=AFFINITY_MAX).contains(&seconds))
            {
                return Some(Some(Duration::from_secs(seconds)));
            }
            let config = spec_field.key("sessionAffinityConfig");
            let client = config.key("clientIP");
            let message = format!("{seconds} s is out of range: 1 to {AFFINITY_MAX}");
            complain(Severity::Error, &client.key("timeoutSeconds"), message);
            None
        }
        Some(other) => {
            let message = format!("{other:?} is neither ClientIP nor None");
            complain(Severity::Error, &spec_field.key("sessionAffinity"), message);
            None
        }
    }
}

fn traffic_distribution(spec: &k8s::ServiceSpec, complain: &mut Complain<'_>) -> TrafficDistribution {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => TrafficDistribution::Any,
        Some("PreferClose" | "PreferSameZone") => TrafficDistribution::PreferSameZone,
        Some("PreferSameNode") => TrafficDistribution::PreferSameNode,
        Some(other) => {
            let message = format!("{other:?} is not known; all endpoints count alike");
            complain(Severity::Warning, &Field::ROOT.key("spec").key("trafficDistribution"), message);
            TrafficDistribution::Any
        }
    }
}

/// Kubernetes makes endpoints of the Service's own families only.
fn family(spec: &k8s::ServiceSpec) -> Option<Family> {
    match spec.ip_families.as_deref() {
        Some([one]) if one == "IPv4" => Some(Family::V4),
        Some([one]) if one == "IPv6" => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
