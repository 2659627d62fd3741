//! NetworkPolicies that let an application's port in and forget the port of tunnels.

use std::collections::BTreeMap;

use aquifer_model::Workload;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::facts::Facts;
use super::{Finding, some};

/// Where tunnels arrive in a pod.
const TUNNELS: i32 = 15008;

const CHECK: &str = "network-policies";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let (Ok(live), Ok(policies)) = (&facts.mesh, &facts.network_policies) else { return Vec::new() };
    let mut by_namespace: BTreeMap<&str, Vec<&NetworkPolicy>> = BTreeMap::new();
    for policy in policies {
        by_namespace
            .entry(policy.metadata.namespace.as_deref().unwrap_or_default())
            .or_default()
            .push(policy);
    }
    let mut pods: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
    for pod in live.mesh.workloads().filter(|pod| pod.in_mesh()) {
        pods.entry(pod.namespace()).or_default().push(pod);
    }
    let mut findings = Vec::new();
    for (namespace, policies) in by_namespace {
        let Some(pods) = pods.get(namespace) else { continue };
        for way in [Way::In, Way::Out] {
            findings.extend(policies.iter().filter_map(|policy| blocking(policy, &policies, way, pods)));
        }
    }
    findings
}

/// What a policy lets pass and what not; the others are those of its namespace.
fn blocking(policy: &NetworkPolicy, all: &[&NetworkPolicy], way: Way, pods: &[&Workload]) -> Option<Finding> {
    let index = rules(policy, way).iter().position(|ports| is_for_applications(ports))?;
    // What another policy of the same pod allows is allowed.
    let open = |pod: &Workload| all.iter().any(|other| selects(other, way, pod) && lets_tunnels(other, way));
    let blocked = pods.iter().filter(|pod| selects(policy, way, pod) && !open(pod));
    let blocked: Vec<String> = blocked.map(|pod| pod.pod().to_string()).collect();
    if blocked.is_empty() {
        return None;
    }
    let (word, field) = way.words();
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let found = format!(
        "NetworkPolicy {namespace}/{name} lets ports {word} {} and not {TUNNELS}, the port of tunnels: where the network enforces it, calls between nodes fail",
        some(&blocked)
    );
    let mend = format!(
        "kubectl -n {namespace} patch networkpolicy {name} --type=json -p '[{{\"op\":\"add\",\"path\":\"/spec/{field}/{index}/ports/-\",\"value\":{{\"protocol\":\"TCP\",\"port\":{TUNNELS}}}}}]'"
    );
    Some(Finding::warning(CHECK, found, mend).of(format!("the owner of namespace {namespace}")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::In => ("into", "ingress"),
            Self::Out => ("out of", "egress"),
        }
    }
}

/// The ports of each rule; none in a rule mean all.
fn rules(policy: &NetworkPolicy, way: Way) -> Vec<&[NetworkPolicyPort]> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    match way {
        Way::In => {
            spec.ingress.iter().flatten().map(|rule| rule.ports.as_deref().unwrap_or_default()).collect()
        }
        Way::Out => {
            spec.egress.iter().flatten().map(|rule| rule.ports.as_deref().unwrap_or_default()).collect()
        }
    }
}

/// Whether a rule has ports, and others than that of name servers.
fn is_for_applications(ports: &[NetworkPolicyPort]) -> bool {
    ports.iter().any(|port| port.port != Some(IntOrString::Int(53)))
}

/// Whether the policy says what may pass this way to or from the pod.
fn selects(policy: &NetworkPolicy, way: Way, pod: &Workload) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types: Vec<&str> = spec.policy_types.iter().flatten().map(String::as_str).collect();
    let of_this_way = match way {
        Way::In => types.is_empty() || types.contains(&"Ingress"),
        Way::Out => types.contains(&"Egress") || (types.is_empty() && spec.egress.is_some()),
    };
    let selector = spec.pod_selector.clone().unwrap_or_default();
    of_this_way && policy.metadata.namespace.as_deref() == Some(&**pod.namespace()) && matches(&selector, pod)
}

/// Whether any of its rules lets tunnels pass, from whomever.
fn lets_tunnels(policy: &NetworkPolicy, way: Way) -> bool {
    let covers = |port: &NetworkPolicyPort| {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        tcp && match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), None) => *first == TUNNELS,
            (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&TUNNELS),
            (Some(IntOrString::String(_)), _) => false,
        }
    };
    rules(policy, way).iter().any(|ports| ports.is_empty() || ports.iter().any(covers))
}

fn matches(selector: &LabelSelector, pod: &Workload) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| pod.label(key).is_some_and(|own| own.as_str() == value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|wanted| {
            let own = pod.label(&wanted.key);
            let among = || own.is_some_and(|own| wanted.values.iter().flatten().any(|value| value == own));
            match wanted.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => own.is_some(),
                "DoesNotExist" => own.is_none(),
                _ => false,
            }
        })
}
