//! Policies that decide nothing: they select no pod, or none where somebody enforces them.

use aquifer_model::{NamespacedName, PolicyScope, Workload};
use aquifer_source::object::Object;

use super::facts::Facts;
use super::{Finding, some};
use crate::cluster::Live;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "policies";
    let Ok(live) = &facts.mesh else { return Vec::new() };
    let policies = live.objects.iter().filter_map(|(key, object)| match object {
        Object::AuthorizationPolicy(policy) => Some((key, &policy.name, &policy.scope)),
        Object::PeerAuthentication(policy) => Some((key, &policy.name, &policy.scope)),
        _ => None,
    });
    let (mut findings, mut count) = (Vec::new(), 0_usize);
    for (key, name, scope) in policies {
        count += 1;
        let idle = idle(live, name, scope);
        findings.extend(idle.map(|(found, mend)| {
            Finding::warning(CHECK, format!("{key} {found}"), mend)
                .of(format!("the owner of namespace {}", key.namespace))
        }));
    }
    if findings.is_empty() && count > 0 {
        findings.push(Finding::good(CHECK, format!("{count} policies select pods of the mesh")));
    }
    findings
}

/// Why a policy decides nothing, and what to do.
fn idle(live: &Live, name: &NamespacedName, scope: &PolicyScope) -> Option<(String, String)> {
    let namespace = &name.namespace;
    if *scope == PolicyScope::Elsewhere {
        let mend = "attach it to a Service, or use a selector".to_owned();
        return Some((
            "is attached to what no node proxy enforces (a Gateway or its class)".to_owned(),
            mend,
        ));
    }
    if let PolicyScope::Services(services) = scope {
        let missing: Vec<String> = services
            .iter()
            .filter(|service| service.namespace != *namespace || live.mesh.service(service).is_none())
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            let found =
                format!("is attached to Service {}, which does not exist in its namespace", some(&missing));
            return Some((found, format!("name one of these: kubectl -n {namespace} get services")));
        }
    }
    let pods = live.mesh.workloads().map(AsRef::as_ref);
    let reached: Vec<&Workload> = pods.filter(|pod| live.mesh.applies(name, scope, pod)).collect();
    if reached.iter().any(|pod| pod.in_mesh()) {
        return None;
    }
    let live_pods = reached.iter().filter(|pod| !pod.finished()).count();
    match scope {
        // It waits for its first pod, as a default for a namespace or the mesh does.
        PolicyScope::Mesh | PolicyScope::Namespace if live_pods == 0 => None,
        PolicyScope::Mesh => None,
        PolicyScope::Selector(labels) if live_pods == 0 => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let wanted = labels.join(",");
            let near =
                nearest(live, name, scope).map(|near| format!("; pods here have {near}")).unwrap_or_default();
            let found = format!("selects nothing: no pod has {wanted}{near}");
            Some((
                found,
                format!("mend its selector by the labels of: kubectl -n {namespace} get pods --show-labels"),
            ))
        }
        _ if live_pods == 0 => {
            let found = "selects nothing: no pod serves the Service that it is attached to".to_owned();
            Some((found, format!("kubectl -n {namespace} get endpointslices,pods --show-labels")))
        }
        _ => {
            let found = format!("selects {live_pods} pods, of which none is in the mesh: nobody enforces it");
            let of = reached.first().map_or(namespace, |pod| pod.namespace());
            Some((found, format!("kubectl label namespace {of} aquifer.dev/mesh=ambient")))
        }
    }
}

/// Another value that pods have under a key of the selector: mostly what was meant.
fn nearest(live: &Live, name: &NamespacedName, scope: &PolicyScope) -> Option<String> {
    let PolicyScope::Selector(labels) = scope else { return None };
    let pods = || live.mesh.workloads().filter(|pod| *pod.namespace() == name.namespace && !pod.finished());
    let mut found: Vec<String> = labels
        .iter()
        .flat_map(|(key, _)| pods().filter_map(move |pod| Some(format!("{key}={}", pod.label(key)?))))
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| some(&found))
}
