//! NetworkPolicies that let an application's port in and forget the port of tunnels.

use aquifer_model::Workload;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Finding;
use super::facts::Facts;

/// Where tunnels arrive in a pod.
const TUNNELS: i32 = 15008;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "network-policies";
    let (Ok(live), Ok(policies)) = (&facts.mesh, &facts.network_policies) else { return Vec::new() };
    let mut findings = Vec::new();
    for way in [Way::In, Way::Out] {
        for policy in policies {
            let name = (
                policy.metadata.namespace.as_deref().unwrap_or_default(),
                policy.metadata.name.as_deref().unwrap_or_default(),
            );
            // What another policy of the same pod allows is allowed.
            let blocked =
                live.mesh.workloads().filter(|pod| pod.in_mesh() && selects(policy, way, pod)).filter(
                    |pod| !policies.iter().any(|other| selects(other, way, pod) && lets_tunnels(other, way)),
                );
            let pods: Vec<String> = blocked.map(|pod| pod.pod().to_string()).collect();
            let Some(index) = rules(policy, way).iter().position(|ports| is_for_applications(ports)) else {
                continue;
            };
            if pods.is_empty() {
                continue;
            }
            let (word, field) = way.words();
            let found = format!(
                "NetworkPolicy {}/{} lets ports {word} of {} and not {TUNNELS}, the port of tunnels: where the network enforces it, calls between nodes fail",
                name.0,
                name.1,
                super::some(&pods)
            );
            let mend = format!(
                "kubectl -n {} patch networkpolicy {} --type=json -p '[{{\"op\":\"add\",\"path\":\"/spec/{field}/{index}/ports/-\",\"value\":{{\"protocol\":\"TCP\",\"port\":{TUNNELS}}}}}]'",
                name.0, name.1
            );
            findings
                .push(Finding::warning(CHECK, found, mend).of(format!("the owner of namespace {}", name.0)));
        }
    }
    findings
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::In => ("into pods", "ingress"),
            Self::Out => ("out of pods", "egress"),
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
