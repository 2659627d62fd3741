//! What must hold of a mesh that was installed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aquifer_k8s::{Namespace, Node, Pod, names};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{Api, ListParams};

use super::before::forbidden;
use super::{Finding, some};
use crate::cluster::{self, name_of, node_of};
use crate::status::{Status, span};

/// Where the user names no other time, an authority that ends so soon is worth a warning.
const EXPIRING: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) async fn look(client: &Client, fail_within: Option<Duration>) -> Vec<Finding> {
    let mut findings = vec![controller(client).await];
    let pods = match cluster::pods(client, names::NODE).await {
        Ok(pods) => pods,
        Err(error) => {
            findings.push(Finding::error(
                "node-proxies",
                format!("{error:#}"),
                "check as a user with more rights",
            ));
            return findings;
        }
    };
    findings.push(proxies(client, &pods).await);
    findings.push(versions(client, &pods).await);
    match Status::of(client).await {
        Ok(status) => {
            findings.push(answers(&status));
            findings.push(enrolments(client, &status).await);
        }
        Err(error) => findings.push(Finding::error(
            "admin-pages",
            format!("the nodes cannot be asked: {error:#}"),
            "check as a user who may list pods and forward ports in aquifer-system",
        )),
    }
    findings.extend(roots(client, &pods, fail_within).await);
    findings
}

async fn controller(client: &Client) -> Finding {
    const CHECK: &str = "controller";
    let api: Api<Deployment> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let look = format!("kubectl -n {} describe deployment/{}", names::SYSTEM_NAMESPACE, names::CONTROLLER);
    match api.get_opt(names::CONTROLLER).await {
        Ok(None) => {
            Finding::error(CHECK, "the mesh is not installed", "aquifer install | kubectl apply -f -")
        }
        Ok(Some(deployment)) => {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            let found = format!("{ready} of {wanted} replicas are ready");
            match ready {
                0 => Finding::error(CHECK, found, look),
                ready if ready < wanted => Finding::warning(CHECK, found, look),
                _ => Finding::good(CHECK, found),
            }
        }
        Err(error) => forbidden(CHECK, "read the controller's Deployment", &error),
    }
}

/// Each node that runs pods has a proxy, and it is ready.
async fn proxies(client: &Client, pods: &[Pod]) -> Finding {
    const CHECK: &str = "node-proxies";
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        Err(error) => return forbidden(CHECK, "list the nodes", &error),
    };
    let served: BTreeSet<&str> = pods.iter().filter(|pod| is_ready(pod)).map(node_of).collect();
    let all: Vec<String> = nodes.into_iter().filter_map(|node| node.metadata.name).collect();
    let bare: Vec<String> = all.iter().filter(|node| !served.contains(node.as_str())).cloned().collect();
    if bare.is_empty() {
        return Finding::good(CHECK, format!("ready on {} nodes", all.len()));
    }
    Finding::error(
        CHECK,
        format!(
            "no proxy is ready on {}: new connections of pods of the mesh are refused there",
            some(&bare)
        ),
        format!(
            "kubectl -n {} get pods -o wide -l {}={}",
            names::SYSTEM_NAMESPACE,
            names::APPLICATION_LABEL,
            names::NODE
        ),
    )
}

/// Whether a pod's condition says ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// All pods of the mesh run one image, and it is of this program's version.
async fn versions(client: &Client, nodes: &[Pod]) -> Finding {
    const CHECK: &str = "versions";
    let controllers = cluster::pods(client, names::CONTROLLER).await.unwrap_or_default();
    let mut images: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pod in nodes.iter().chain(&controllers) {
        let image = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .find_map(|container| container.image.as_deref());
        images.entry(image.unwrap_or_default()).or_default().push(name_of(pod).to_owned());
    }
    let own = env!("CARGO_PKG_VERSION");
    let upgrade = "finish the upgrade with the program of the version that you want: aquifer install | kubectl apply -f -";
    match images.len() {
        0 => Finding::warning(CHECK, "no pod of the mesh runs", "aquifer install | kubectl apply -f -"),
        1 => {
            let image = images.keys().next().copied().unwrap_or_default();
            let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
            if tag == own {
                Finding::good(CHECK, format!("all pods of the mesh are of {own}, as this program"))
            } else {
                Finding::warning(CHECK, format!("the mesh runs {image}, this program is {own}"), upgrade)
            }
        }
        _ => {
            let each: Vec<String> =
                images.iter().map(|(image, pods)| format!("{image} ({} pods)", pods.len())).collect();
            Finding::warning(CHECK, format!("several versions run: {}", some(&each)), upgrade)
        }
    }
}

fn answers(status: &Status) -> Finding {
    const CHECK: &str = "admin-pages";
    if status.silent.is_empty() {
        return Finding::good(CHECK, "every node proxy answers");
    }
    let silent: Vec<String> = status.silent.iter().map(|(pod, why)| format!("{pod} ({why})")).collect();
    Finding::error(
        CHECK,
        format!("no answer from {}", some(&silent)),
        format!(
            "kubectl -n {} logs POD; is it of another version, or may this user not forward ports?",
            names::SYSTEM_NAMESPACE
        ),
    )
}

/// Every running pod that its label puts in the mesh is proved to be there, by its node.
async fn enrolments(client: &Client, status: &Status) -> Finding {
    const CHECK: &str = "enrolment";
    let desired = match desired(client).await {
        Ok(desired) => desired,
        Err(error) => return forbidden(CHECK, "list pods and namespaces", &error),
    };
    let proved: BTreeSet<&str> =
        status.pods.iter().filter(|pod| pod.ready).map(|pod| pod.uid.as_str()).collect();
    let why: BTreeMap<&str, &str> =
        status.pods.iter().map(|pod| (pod.uid.as_str(), pod.why.as_str())).collect();
    let outside: Vec<String> = desired
        .iter()
        .filter(|(uid, _)| !proved.contains(uid.as_str()))
        .map(|(uid, name)| match why.get(uid.as_str()) {
            Some(why) => format!("{name} ({why})"),
            None => format!("{name} (its node does not know it)"),
        })
        .collect();
    if outside.is_empty() {
        return Finding::good(CHECK, format!("{} pods are in the mesh, as their labels say", desired.len()));
    }
    Finding::error(
        CHECK,
        format!(
            "{} of {} pods are not in the mesh, though their labels say so: {}",
            outside.len(),
            desired.len(),
            some(&outside)
        ),
        "the reason in parentheses says what is missing; the node tries again by itself",
    )
}

/// Uid and name of each running pod that should be in the mesh.
async fn desired(client: &Client) -> Result<BTreeMap<String, String>, kube::Error> {
    let labels = |labels: Option<BTreeMap<String, String>>| {
        labels.and_then(|labels| labels.get(names::MESH_LABEL).cloned()).unwrap_or_default()
    };
    let everything = ListParams::default();
    let namespaces = Api::<Namespace>::all(client.clone()).list(&everything).await?;
    let ambient: BTreeSet<String> = namespaces
        .items
        .into_iter()
        .filter(|namespace| labels(namespace.metadata.labels.clone()) == names::MESH_AMBIENT)
        .filter_map(|namespace| namespace.metadata.name)
        .collect();
    let pods = Api::<Pod>::all(client.clone()).list(&everything).await?;
    Ok(pods
        .items
        .into_iter()
        .filter(|pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let said = labels(pod.metadata.labels.clone());
            let wanted =
                said == names::MESH_AMBIENT || (ambient.contains(&namespace) && said != names::MESH_NONE);
            let spec = pod.spec.as_ref();
            let host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
            let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            wanted && !host && running && pod.metadata.deletion_timestamp.is_none()
        })
        .filter_map(|pod| {
            let name = format!("{}/{}", pod.metadata.namespace?, pod.metadata.name?);
            Some((pod.metadata.uid?, name))
        })
        .collect())
}

/// The roots that nodes trust: one set everywhere, and none that ends soon.
async fn roots(client: &Client, pods: &[Pod], fail_within: Option<Duration>) -> Vec<Finding> {
    const CHECK: &str = "roots";
    let mut sets: BTreeMap<BTreeSet<String>, Vec<String>> = BTreeMap::new();
    let mut earliest: Option<(Timestamp, String)> = None;
    for pod in pods {
        let Ok(page) = cluster::get(client, name_of(pod), "/certificates").await else {
            continue;
        };
        let roots = page["roots"].as_array().cloned().unwrap_or_default();
        let ids = roots.iter().filter_map(|root| root["id"].as_str().map(str::to_owned)).collect();
        sets.entry(ids).or_default().push(name_of(pod).to_owned());
        for root in &roots {
            let ends = root["notAfter"].as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok());
            let subject = root["subject"].as_str().unwrap_or_default();
            if let Some(ends) = ends.filter(|ends| earliest.as_ref().is_none_or(|(other, _)| ends < other)) {
                earliest = Some((ends, subject.to_owned()));
            }
        }
    }
    let mut findings = Vec::new();
    if sets.len() > 1 {
        let each: Vec<String> = sets.values().map(|pods| pods.join(" and ")).collect();
        findings.push(Finding::warning(
            CHECK,
            format!("nodes trust different roots: {}", each.join("; ")),
            "wait a minute: a change of roots is on its way; if it stays, look at the logs of the nodes",
        ));
    }
    findings.extend(earliest.map(|(ends, subject)| expiry(ends, &subject, Timestamp::now(), fail_within)));
    findings
}

fn expiry(ends: Timestamp, subject: &str, now: Timestamp, fail_within: Option<Duration>) -> Finding {
    const CHECK: &str = "root-expiry";
    let left = Duration::try_from(ends.duration_since(now)).unwrap_or_default();
    let found = match left {
        Duration::ZERO => format!("the root {subject:?} has ended: nobody trusts anybody any more"),
        _ => format!("the root {subject:?} holds for {}", span(now, ends)),
    };
    let mend = "put the next root beside it in the Secret aquifer-ca (root-cert.pem), then let the next issuer sign, then take the old one away";
    if left.is_zero() || fail_within.is_some_and(|within| left <= within) {
        return Finding::error(CHECK, found, mend);
    }
    if left <= EXPIRING {
        return Finding::warning(CHECK, found, mend);
    }
    Finding::good(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn a_root_that_ends_is_told_in_time() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let day = 24 * 3600;
        let level = |days: i64, within: Option<u64>| {
            let ends = Timestamp::from_second(1_000_000_000 + days * day).unwrap();
            expiry(ends, "r", now, within.map(|days| Duration::from_secs(days * 24 * 3600))).level
        };
        assert_eq!(level(100, None), Level::Good);
        assert_eq!(level(29, None), Level::Warning);
        assert_eq!(level(100, Some(101)), Level::Error);
        assert_eq!(level(-1, None), Level::Error);
        assert_eq!(level(0, None), Level::Error);
    }
}
