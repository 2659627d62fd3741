//! Services of the mesh whose ports say what cannot be.

use aquifer_model::{Protocol, ServicePort, Workload};
use aquifer_source::object::{Object, Pod, ServiceFacts, TargetPort};

use super::facts::Facts;
use super::{Finding, some};
use crate::cluster::Live;

/// Names that promise TCP, before a dash or alone, as Istio reads port names.
const OVER_TCP: [&str; 11] =
    ["http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "mongo", "mysql", "redis", "hbone"];

/// What Kubernetes itself defines under its own prefix of `appProtocol`.
const OF_KUBERNETES: [&str; 3] = ["h2c", "ws", "wss"];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "service-ports";
    // Elsewhere it is told why the cluster cannot be read.
    let Ok(live) = &facts.mesh else { return Vec::new() };
    let services = live.objects.iter().filter_map(|(_, object)| match object {
        Object::Service(service) if !service.service.unresolved => Some(service.as_ref()),
        _ => None,
    });
    let mut findings = Vec::new();
    for service in services {
        let pods = selected(live, service);
        if !pods.iter().any(|(workload, _)| workload.in_mesh()) {
            continue;
        }
        let name = &service.service.name;
        for (index, (port, target)) in service.service.ports.iter().zip(&service.targets).enumerate() {
            let wrong = nowhere(port, target, &pods).or_else(|| contradiction(port));
            findings.extend(wrong.map(|wrong| {
                let found = format!("Service {name}, port {}: {}", shown(port), wrong.found);
                let mend = match wrong.patch {
                    Some((field, value)) => format!(
                        "kubectl -n {} patch service {} --type=json -p '[{{\"op\":\"add\",\"path\":\"/spec/ports/{index}/{field}\",\"value\":{value}}}]'",
                        name.namespace, name.name
                    ),
                    None => format!("{}: kubectl -n {} edit service {}", wrong.advice, name.namespace, name.name),
                };
                let finding = if wrong.dead { Finding::error(CHECK, found, mend) } else { Finding::warning(CHECK, found, mend) };
                finding.of(format!("the owner of namespace {}", name.namespace))
            }));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(CHECK, "ports of Services of the mesh lead where they say"));
    }
    findings
}

/// What is wrong with a port.
struct Wrong {
    found: String,
    /// No call to it can succeed.
    dead: bool,
    /// A field of the port and the value, as JSON, that mend it.
    patch: Option<(&'static str, String)>,
    advice: String,
}

fn selected<'a>(live: &'a Live, service: &'a ServiceFacts) -> Vec<(&'a Workload, &'a Pod)> {
    let namespace = &service.service.name.namespace;
    let pods = live.objects.of_namespace(namespace).filter_map(|(_, object)| match object {
        Object::Pod(pod) => Some(pod.as_ref()),
        _ => None,
    });
    let selector = &service.service.selector;
    let selected = pods
        .filter(|pod| !selector.is_empty() && !pod.workload.finished() && pod.workload.has_labels(selector));
    // The mesh's workload knows what the namespace's label says; the object's does not.
    selected.filter_map(|pod| Some((live.mesh.workload(pod.workload.name())?.as_ref(), pod))).collect()
}

/// A target port by a name that pods do not have: the port has no endpoint there.
fn nowhere(port: &ServicePort, target: &TargetPort, pods: &[(&Workload, &Pod)]) -> Option<Wrong> {
    let TargetPort::Named(name) = target else { return None };
    let has = |pod: &Pod| {
        pod.ports.iter().any(|other| other.name.as_str() == &**name && other.protocol == port.protocol)
    };
    let lacking: Vec<String> =
        pods.iter().filter(|(_, pod)| !has(pod)).map(|(workload, _)| workload.pod().to_string()).collect();
    if lacking.is_empty() {
        return None;
    }
    let mut others: Vec<&str> = pods
        .iter()
        .flat_map(|(_, pod)| &pod.ports)
        .filter(|other| other.protocol == port.protocol)
        .map(|other| other.name.as_ref())
        .collect();
    others.sort_unstable();
    others.dedup();
    let dead = lacking.len() == pods.len();
    let whom =
        if dead { "no pod that the Service selects".to_owned() } else { format!("not {}", some(&lacking)) };
    let patch = match others[..] {
        [only] if dead => Some(("targetPort", format!("\"{only}\""))),
        _ => None,
    };
    let found = format!(
        "it leads to the container port named {name:?}, which {whom} has, so calls have nowhere to go"
    );
    Some(Wrong {
        found,
        dead,
        patch,
        advice: format!(
            "give the container port the name {name:?} in the pods' template, or name another targetPort"
        ),
    })
}

/// A name or `appProtocol` that contradicts the protocol, or that nobody defines.
fn contradiction(port: &ServicePort) -> Option<Wrong> {
    let first = port.name.split('-').next().unwrap_or_default();
    let over_tcp = |word: &str| OVER_TCP.contains(&word);
    let wrong = |found: String, patch, advice: &str| {
        Some(Wrong { found, dead: false, patch, advice: advice.to_owned() })
    };
    if port.protocol == Protocol::Udp && (over_tcp(first) || over_tcp(&port.app_protocol)) {
        let word = if over_tcp(first) { first } else { &port.app_protocol };
        return wrong(
            format!(
                "it is called {word:?}, which runs over TCP, and its protocol is UDP, which the mesh does not carry"
            ),
            Some(("protocol", "\"TCP\"".to_owned())),
            "",
        );
    }
    if port.protocol == Protocol::Tcp && first == "udp" {
        let advice = "give the port another name, or protocol UDP";
        return wrong("it is called \"udp\", and its protocol is TCP".to_owned(), None, advice);
    }
    let unknown =
        port.app_protocol.strip_prefix("kubernetes.io/").filter(|rest| !OF_KUBERNETES.contains(rest));
    if unknown.is_some() {
        let found = format!(
            "nobody defines appProtocol {:?}: Kubernetes has {}",
            &*port.app_protocol,
            OF_KUBERNETES.map(|name| format!("kubernetes.io/{name}")).join(", ")
        );
        return wrong(found, None, "write one of these, or an IANA name such as http");
    }
    None
}

fn shown(port: &ServicePort) -> String {
    if port.name.is_empty() { port.port.to_string() } else { format!("{} ({})", port.port, port.name) }
}
