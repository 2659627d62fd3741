//! What must hold before the mesh can be installed.

use aquifer_k8s::{Namespace, Node, names};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error};

use super::{CLUSTER, Finding, Level, some};

/// Name of the check without which no other makes sense.
pub(super) const API_SERVER: &str = "api-server";

/// The minor version that the mesh is tested with.
const TESTED: &str = "36";

/// Oldest kernel of the nodes: the first with all that capture stands on (`socket transparent`, SOCK_DESTROY and TPROXY for inet tables
/// are older; a mark set by CAP_NET_RAW alone is younger).
const KERNEL: (u32, u32) = (5, 4);

pub(super) async fn look(client: &Client, all: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let server = server(client).await;
    let reached = server.level != Level::Error;
    findings.push(server);
    if reached {
        findings.push(nodes(client).await);
        if all {
            findings.push(rights(client).await);
            findings.push(namespace(client).await);
        }
    }
    findings
}

async fn server(client: &Client) -> Finding {
    match client.apiserver_version().await {
        Ok(version) if version.minor.trim_end_matches('+') == TESTED => {
            Finding::good(API_SERVER, format!("Kubernetes {}", version.git_version))
        }
        Ok(version) => Finding::warning(
            API_SERVER,
            format!(
                "Kubernetes {} is not a version that Aquifer is tested with (1.{TESTED})",
                version.git_version
            ),
            "nothing, if all else is well; please report what is not",
        )
        .of(CLUSTER),
        Err(error) => Finding::error(
            API_SERVER,
            format!("the API server does not answer: {error}"),
            "check the kubeconfig, its context and the network with `kubectl version`",
        )
        .of(CLUSTER),
    }
}

async fn nodes(client: &Client) -> Finding {
    const CHECK: &str = "nodes";
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        Err(error) => return forbidden(CHECK, "list the nodes", &error),
    };
    let unfit: Vec<String> = nodes
        .iter()
        .filter_map(|node| {
            let info = node.status.as_ref()?.node_info.as_ref()?;
            let fit = info.operating_system == "linux"
                && info.architecture == "amd64"
                && kernel(&info.kernel_version).is_none_or(|version| version >= KERNEL);
            let name = node.metadata.name.as_deref().unwrap_or_default();
            (!fit).then(|| {
                format!(
                    "{name} ({} {}, kernel {})",
                    info.operating_system, info.architecture, info.kernel_version
                )
            })
        })
        .collect();
    if unfit.is_empty() {
        return Finding::good(CHECK, format!("{} nodes, Linux on amd64", nodes.len()));
    }
    Finding::error(
        CHECK,
        format!("no node proxy can run on {}", some(&unfit)),
        format!(
            "keep pods of the mesh off these nodes, or give them Linux {}.{} or newer on amd64",
            KERNEL.0, KERNEL.1
        ),
    )
    .of(CLUSTER)
}

/// Major and minor number of a kernel; `None` where the text has none.
fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether this user may create what the installation creates.
async fn rights(client: &Client) -> Finding {
    const CHECK: &str = "rights";
    let wanted = [
        ("", "namespaces"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("apps", "daemonsets"),
        ("apps", "deployments"),
    ];
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource) in wanted {
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        match api.create(&PostParams::default(), &review).await {
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => missing.push(resource.to_owned()),
            Err(error) => return forbidden(CHECK, "ask what it may", &error),
        }
    }
    if missing.is_empty() {
        return Finding::good(CHECK, "this user may install the mesh");
    }
    let found = format!("this user may not create {}", some(&missing));
    Finding::error(CHECK, found, "install as a cluster administrator").of("this user's rights")
}

/// A namespace that is just going away would take the new mesh along; one that forbids privileged pods would never run a node proxy.
async fn namespace(client: &Client) -> Finding {
    const CHECK: &str = "namespace";
    let name = names::SYSTEM_NAMESPACE;
    match Api::<Namespace>::all(client.clone()).get_opt(name).await {
        Ok(None) => Finding::good(CHECK, format!("{name} is free")),
        Ok(Some(namespace)) if namespace.metadata.deletion_timestamp.is_some() => Finding::error(
            CHECK,
            format!("{name} is being deleted"),
            format!("wait until it is gone: kubectl wait --for=delete namespace/{name}"),
        )
        .of(CLUSTER),
        Ok(Some(namespace)) => pod_security(&namespace),
        Err(error) => forbidden(CHECK, "read a namespace", &error),
    }
}

/// Whether a namespace takes the node proxies, by the Pod Security Standards.
fn pod_security(namespace: &Namespace) -> Finding {
    const CHECK: &str = "namespace";
    const LABEL: &str = "pod-security.kubernetes.io/enforce";
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let mend = format!("kubectl label --overwrite namespace {name} {LABEL}=privileged");
    match namespace.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).map(String::as_str) {
        Some("privileged") => {
            Finding::good(CHECK, format!("{name} is there already, and takes privileged pods"))
        }
        Some(level) => {
            let found = format!(
                "{name} enforces Pod Security level {level:?}: node proxies enter pods' network namespaces, and are refused"
            );
            Finding::error(CHECK, found, mend).of(CLUSTER)
        }
        None => {
            let found = format!(
                "{name} has no Pod Security level of its own; where the cluster's default is not `privileged`, node proxies are refused"
            );
            Finding::warning(CHECK, found, mend).of(CLUSTER)
        }
    }
}

/// The API server did not say.
fn forbidden(check: &'static str, what: &str, error: &Error) -> Finding {
    Finding::error(
        check,
        format!("this user cannot {what}: {error}"),
        "check as a user with the right to read the cluster (such as ClusterRole view, and nodes)",
    )
    .of("this user's rights")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_refuses_node_proxies_is_told() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("aquifer-system".into());
        assert_eq!(pod_security(&namespace).level, Level::Warning);
        let mut with = |level: &str| {
            let label = ("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
            namespace.metadata.labels = Some([label].into());
            pod_security(&namespace)
        };
        assert_eq!(with("privileged").level, Level::Good);
        let refused = with("restricted");
        assert_eq!(refused.level, Level::Error);
        assert!(
            refused
                .mend
                .is_some_and(|mend| mend.starts_with("kubectl label --overwrite namespace aquifer-system"))
        );
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(kernel("6.18.44-fc-v769"), Some((6, 18)));
        assert_eq!(kernel("5.4"), Some((5, 4)));
        assert!(kernel("4.19.0-x") < Some(KERNEL) && kernel("5.15+") > Some(KERNEL));
        assert_eq!(kernel("unknown"), None);
    }
}
