//! Which namespaces are outside the mesh, as far as their pods show.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_model::{Membership, Workload};

/// The label that says of a pod, and of its namespace, whether it is in the mesh: that of the Kubernetes names, which the node proxy
/// does not know.
pub const MESH_LABEL: &str = "aquifer.dev/mesh";

/// What the pods of a namespace show of it.
#[derive(Default)]
struct Shown {
    /// A pod without a label of its own is outside: so its namespace is.
    outside: bool,
    /// A pod is to be in the mesh, by whatever label.
    inside: bool,
}

/// Namespaces with a pod that shows that they are outside, and none that is in the mesh; sorted.
pub(super) fn namespaces<'a>(
    workloads: impl Iterator<Item = &'a Arc<Workload>>,
) -> impl Iterator<Item = &'a str> {
    let mut shown: BTreeMap<&str, Shown> = BTreeMap::new();
    for workload in workloads {
        let namespace = shown.entry(workload.namespace()).or_default();
        if workload.membership() != Membership::Outside {
            namespace.inside = true;
        } else if workload.label(MESH_LABEL).is_none() {
            namespace.outside = true;
        }
    }
    shown.into_iter().filter(|(_, shown)| shown.outside && !shown.inside).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use aquifer_model::{PodUid, TrustDomain, WorkloadFacts, WorkloadName};

    use super::*;

    fn pod(name: &str, membership: Membership, label: Option<&str>) -> Arc<Workload> {
        let (namespace, pod) = name.split_once('/').unwrap();
        let facts = WorkloadFacts {
            name: WorkloadName::pod("c", namespace, pod),
            uid: PodUid::new(name),
            namespace: namespace.into(),
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            service_account: "default".into(),
            addresses: [std::net::IpAddr::from_str("10.0.0.1").unwrap()].into_iter().collect(),
            node: "n1".into(),
            labels: label.iter().map(|value| (MESH_LABEL.into(), (*value).into())).collect(),
            named_ports: Vec::new(),
            owner: None,
            canonical_name: None,
            canonical_revision: "latest".into(),
            membership,
            host_network: false,
            netns: None,
            terminating: false,
            finished: false,
        };
        Arc::new(facts.into())
    }

    #[test]
    fn a_namespace_is_outside_only_where_its_pods_show_it() {
        use Membership::{Desired, Outside};
        let pods = [
            pod("plain/a", Outside, None),
            pod("plain/b", Outside, Some("none")),
            pod("shop/a", Desired, None),
            // Nothing is known of its namespace: it opted out by itself.
            pod("shop/b", Outside, Some("none")),
            pod("shy/a", Outside, Some("none")),
            // One pod asks for the mesh; others of it may, too.
            pod("mixed/a", Outside, None),
            pod("mixed/b", Desired, Some("ambient")),
        ];
        assert_eq!(namespaces(pods.iter()).collect::<Vec<_>>(), ["plain"]);
    }
}
