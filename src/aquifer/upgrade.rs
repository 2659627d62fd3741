//! `aquifer upgrade`: the manifests of this version with the settings of the mesh that runs; what an older one had and this one has not;
//! and how far an upgrade is.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aquifer_k8s::names;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::Value;

use crate::cli::UpgradeFlags;
use crate::cluster;
use crate::install::{self, Standing};

/// Label of every object of an installation.
const PART_OF: &str = "app.kubernetes.io/part-of=aquifer";

/// Between two looks with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Kinds that any version may have had: group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str); 14] = [
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ResourceQuota", "resourcequotas"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    ),
];

/// What a DaemonSet's controller writes down of each of its templates.
const REVISION: (&str, &str, &str, &str) = ("apps", "v1", "ControllerRevision", "controllerrevisions");
/// Label of a pod and of the [`REVISION`] that it is of.
const REVISION_LABEL: &str = "controller-revision-hash";

/// Prints manifests or what is left over, or waits. What is for people goes to standard error.
pub(crate) async fn run(flags: &UpgradeFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.cluster).await?;
    if let Some(patience) = flags.wait {
        return wait(&client, patience).await;
    }
    let controller = object(&client, "Deployment", names::CONTROLLER).await?;
    let node = object(&client, "DaemonSet", names::NODE).await?;
    let (Some(controller), Some(node)) = (controller, node) else {
        bail!("no mesh is installed: aquifer install | kubectl apply -f -");
    };
    let mut standing = Standing::of(&controller, &node);
    let runs = standing.get("image").context("the controller has no image")?.to_owned();
    standing.set("image", next_image(&runs, flags.image.as_deref())?);
    if !flags.any_version {
        let image = standing.get("image").unwrap_or_default();
        near(tag(&runs), tag(image))?;
    }
    let text = install::put_all(&standing.settings)?;
    let left = left_over(&client, &install::documents(&text)?).await?;
    if flags.left_over {
        left.iter().for_each(|object| println!("---\n{}", object.manifest()));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{text}");
    eprintln!(
        "aquifer: from {runs} to {}; settings of the running mesh are kept:",
        standing.get("image").unwrap_or_default()
    );
    for (key, value) in standing.settings.iter().filter(|(key, _)| *key != "image") {
        eprintln!("aquifer:   {key}: {value}");
    }
    for key in &standing.absent {
        eprintln!("aquifer:   {key}: the running version does not know it, this one's default is taken");
    }
    if !left.is_empty() {
        let each: Vec<String> =
            left.iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
        eprintln!(
            "aquifer: this version has no use for {}; once it runs: aquifer upgrade --left-over | kubectl delete -f -",
            each.join(", ")
        );
    }
    eprintln!(
        "aquifer: then `aquifer upgrade --wait` tells how far it is, and `aquifer check` whether all is well"
    );
    Ok(ExitCode::SUCCESS)
}

/// The image of this version: where the running one is of a registry of the user's own, from there.
fn next_image(runs: &str, chosen: Option<&str>) -> anyhow::Result<String> {
    if let Some(chosen) = chosen {
        return Ok(chosen.to_owned());
    }
    let own = install::IMAGE;
    let repository =
        |image: &str| image.strip_suffix(&format!(":{}", tag(image))).unwrap_or(image).to_owned();
    if repository(runs) == repository(own) || runs == own {
        return Ok(own.to_owned());
    }
    bail!(
        "the mesh runs {runs}, which is not where this version is from: say where it is, --image {}:{}",
        repository(runs),
        tag(own)
    )
}

/// What stands after the last colon of an image's name, where that is a tag.
pub(crate) fn tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    image.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/')).unwrap_or_default()
}

/// Nodes and controllers of neighbouring minor versions understand each other while an upgrade runs.
fn near(from: &str, to: &str) -> anyhow::Result<()> {
    let numbers = |version: &str| {
        let mut parts = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u64>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let (Some(old), Some(new)) = (numbers(from), numbers(to)) else {
        bail!(
            "{from:?} and {to:?} are not both versions, so it is not known whether they understand each other; --any-version upgrades all the same"
        );
    };
    if (old.0, old.1) > (new.0, new.1) || (old.0 == new.0 && old.1 == new.1 && old.2 > new.2) {
        bail!(
            "{from} runs, which is newer than {to}: take the program of that version; --any-version goes back all the same"
        );
    }
    if old.0 != new.0 || new.1 - old.1 > 1 {
        bail!(
            "{from} runs, and {to} is more than one minor version further: upgrade by one at a time; --any-version does it at once"
        );
    }
    Ok(())
}

/// An object that stands in the cluster.
struct Object {
    api_version: String,
    kind: &'static str,
    name: String,
    namespace: Option<String>,
}

impl Object {
    /// As much of it as `kubectl delete` needs.
    fn manifest(&self) -> String {
        let namespace =
            self.namespace.as_ref().map(|namespace| format!(", namespace: {namespace}")).unwrap_or_default();
        format!(
            "apiVersion: {}\nkind: {}\nmetadata: {{name: {}{namespace}}}",
            self.api_version, self.kind, self.name
        )
    }
}

fn resource((group, version, kind, plural): (&str, &str, &str, &str)) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Objects with the label of an installation that are not among these.
async fn left_over(client: &Client, kept: &[Value]) -> anyhow::Result<Vec<Object>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kept: BTreeSet<(String, String)> =
        kept.iter().map(|each| (text(&each["kind"]), text(&each["metadata"]["name"]))).collect();
    let mut left = Vec::new();
    for each in KINDS {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(each));
        let found = api.list_metadata(&ListParams::default().labels(PART_OF)).await;
        let found = found.with_context(|| format!("{} of the mesh cannot be listed", each.3))?;
        for object in found.items.into_iter().map(|object| object.metadata) {
            let name = object.name.unwrap_or_default();
            if !kept.contains(&(each.2.to_owned(), name.clone())) {
                let api_version =
                    if each.0.is_empty() { each.1.to_owned() } else { format!("{}/{}", each.0, each.1) };
                left.push(Object { api_version, kind: each.2, name, namespace: object.namespace });
            }
        }
    }
    Ok(left)
}

/// One workload of the mesh as the API server has it.
async fn object(client: &Client, kind: &str, name: &str) -> anyhow::Result<Option<Value>> {
    let found = KINDS.iter().find(|known| known.2 == kind).context("no such kind")?;
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), names::SYSTEM_NAMESPACE, &resource(*found));
    let object = api.get_opt(name).await.with_context(|| format!("{kind} {name} cannot be read"))?;
    Ok(object.map(serde_json::to_value).transpose()?)
}

/// Objects of a kind that belong to the node proxies.
async fn objects_of_node_proxies(
    client: &Client,
    kind: (&str, &str, &str, &str),
) -> anyhow::Result<Vec<Value>> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), names::SYSTEM_NAMESPACE, &resource(kind));
    let label = format!("{}={}", names::APPLICATION_LABEL, names::NODE);
    let found = api.list(&ListParams::default().labels(&label)).await;
    let found = found.with_context(|| format!("{} of the node proxies cannot be listed", kind.3))?;
    found.items.into_iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
}

/// Until each node has a proxy, and each replica a controller, of the newest template that is ready. The code is 1 where that takes too
/// long.
///
/// The DaemonSet's own status would not do: it looks at the oldest pod of a node, which for up to an hour may be one that was taken over
/// from and serves its last connections.
async fn wait(client: &Client, patience: Duration) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + patience;
    let mut said = String::new();
    loop {
        let controller =
            object(client, "Deployment", names::CONTROLLER).await?.context("no mesh is installed")?;
        let node = object(client, "DaemonSet", names::NODE).await?.context("no mesh is installed")?;
        let revisions = objects_of_node_proxies(client, REVISION).await?;
        let pods = objects_of_node_proxies(client, ("", "v1", "Pod", "pods")).await?;
        let controller = Progress::of_deployment(&controller);
        let node = Progress::of_node_proxies(&node, &revisions, &pods);
        let now = format!("controller {controller}, node proxies {node}");
        if now != said {
            eprintln!("aquifer: {now}");
            said = now;
        }
        if controller.done() && node.done() {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= until {
            eprintln!("aquifer: not within {} s; see `aquifer check`", patience.as_secs());
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How far a workload is.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    wanted: u64,
    /// Of the newest template.
    new: u64,
    ready: u64,
    /// Pods of older templates that are there too.
    old: u64,
    /// Those are waited for: they serve, and do not only end.
    old_count: bool,
    /// Its controller has not looked at its newest template.
    unseen: bool,
}

impl Progress {
    fn of_deployment(object: &Value) -> Self {
        let status = |key: &str| object["status"][key].as_u64().unwrap_or_default();
        Self {
            wanted: object["spec"]["replicas"].as_u64().unwrap_or(1),
            new: status("updatedReplicas"),
            ready: status("availableReplicas"),
            old: status("replicas").saturating_sub(status("updatedReplicas")),
            old_count: true,
            unseen: unseen(object),
        }
    }

    /// Counts nodes, by the pods themselves.
    fn of_node_proxies(daemon_set: &Value, revisions: &[Value], pods: &[Value]) -> Self {
        let own = |revision: &&Value| {
            let owners = revision["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|owner| owner["uid"] == daemon_set["metadata"]["uid"])
        };
        let newest = revisions.iter().filter(own).max_by_key(|revision| revision["revision"].as_u64());
        let newest = newest.map(|revision| &revision["metadata"]["labels"][REVISION_LABEL]);
        let is_new = |pod: &&Value| {
            Some(&pod["metadata"]["labels"][REVISION_LABEL]) == newest
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
        };
        let nodes = |pods: &mut dyn Iterator<Item = &Value>| {
            let names = pods.filter_map(|pod| pod["spec"]["nodeName"].as_str());
            names.collect::<BTreeSet<_>>().len() as u64
        };
        Self {
            wanted: daemon_set["status"]["desiredNumberScheduled"].as_u64().unwrap_or_default(),
            new: nodes(&mut pods.iter().filter(is_new)),
            ready: nodes(&mut pods.iter().filter(is_new).filter(is_ready)),
            old: pods.iter().filter(|pod| !is_new(pod)).count() as u64,
            old_count: false,
            unseen: unseen(daemon_set),
        }
    }

    fn done(&self) -> bool {
        let old = self.old_count && self.old > 0;
        !self.unseen && !old && self.new >= self.wanted && self.ready >= self.wanted
    }
}

fn unseen(object: &Value) -> bool {
    object["status"]["observedGeneration"].as_u64() < object["metadata"]["generation"].as_u64()
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.unseen {
            return f.write_str("not looked at yet");
        }
        write!(f, "{} of {} new, {} ready", self.new, self.wanted, self.ready)?;
        match self.old {
            0 => Ok(()),
            old => write!(f, ", {old} of before serve or end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_of_another_registry_is_asked_for() {
        assert_eq!(next_image("ghcr.io/aquifer-mesh/aquifer:0.0.9", None).unwrap(), install::IMAGE);
        assert_eq!(next_image("r:5000/aquifer:0.0.9", Some("x:1")).unwrap(), "x:1");
        let error = next_image("r:5000/aquifer:0.0.9", None).unwrap_err().to_string();
        assert!(error.contains(&format!("--image r:5000/aquifer:{}", env!("CARGO_PKG_VERSION"))), "{error}");
        assert_eq!([tag("r:5000/a"), tag("r:5000/a:1"), tag("a:2@sha256:00")], ["", "1", "2"]);
    }

    #[test]
    fn versions_go_one_step_forward() {
        for (from, to) in
            [("0.1.0", "0.1.0"), ("0.1.0", "0.1.9"), ("0.1.3", "0.2.0"), ("v0.1.0", "0.1.1-rc.1")]
        {
            near(from, to).unwrap();
        }
        for (from, to) in [
            ("0.1.0", "0.3.0"),
            ("0.2.0", "0.1.9"),
            ("0.1.2", "0.1.1"),
            ("0.9.0", "1.0.0"),
            ("latest", "0.1.0"),
        ] {
            near(from, to).unwrap_err();
        }
    }

    #[test]
    fn an_upgrade_is_done_when_everything_is_new_and_ready() {
        let deployment = |new: u64, all: u64, seen: u64| {
            json!({
                "metadata": { "generation": 2 }, "spec": { "replicas": 2 },
                "status": { "observedGeneration": seen, "replicas": all, "updatedReplicas": new, "availableReplicas": 2 },
            })
        };
        assert!(Progress::of_deployment(&deployment(2, 2, 2)).done());
        for not_yet in [deployment(1, 2, 2), deployment(2, 3, 2), deployment(2, 2, 1)] {
            assert!(!Progress::of_deployment(&not_yet).done(), "{not_yet}");
        }
    }

    #[test]
    fn a_node_is_upgraded_once_its_new_proxy_is_ready_whatever_the_old_one_does() {
        let revision = |number: u64, hash: &str, owner: &str| {
            json!({
                "revision": number,
                "metadata": { "labels": { "controller-revision-hash": hash }, "ownerReferences": [{ "uid": owner }] },
            })
        };
        let pod = |node: &str, hash: &str, ready: bool, ends: bool| {
            json!({
                "metadata": {
                    "labels": { "controller-revision-hash": hash },
                    "deletionTimestamp": ends.then_some("2026-01-01T00:00:00Z"),
                },
                "spec": { "nodeName": node },
                "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
            })
        };
        let daemon_set = json!({
            "metadata": { "uid": "d", "generation": 3 },
            "status": { "observedGeneration": 3, "desiredNumberScheduled": 2, "updatedNumberScheduled": 0 },
        });
        // Going back to an older template gives its revision a new number.
        let revisions = [revision(4, "new", "d"), revision(3, "old", "d"), revision(9, "other", "another")];
        let progress = |pods: &[Value]| Progress::of_node_proxies(&daemon_set, &revisions, pods);

        let ends = pod("a", "old", true, true);
        let done = [ends.clone(), pod("a", "new", true, false), pod("b", "new", true, false)];
        assert!(progress(&done).done());
        assert_eq!(progress(&done).to_string(), "2 of 2 new, 2 ready, 1 of before serve or end");
        for not_yet in [
            pod("b", "new", false, false),
            pod("b", "new", true, true),
            pod("a", "new", true, false),
            pod("b", "old", true, false),
            pod("b", "other", true, false),
        ] {
            let pods = [ends.clone(), pod("a", "new", true, false), not_yet];
            assert!(!progress(&pods).done(), "{pods:?}");
        }
        let mut unseen = daemon_set.clone();
        unseen["metadata"]["generation"] = json!(4);
        assert!(!Progress::of_node_proxies(&unseen, &revisions, &done).done());
    }
}
