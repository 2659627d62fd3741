//! Controllers with the option to take the taint off nodes, against a real API server: which taints go, of which nodes, and by whom.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![allow(unreachable_pub, reason = "support is a module of this test alone")]

mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{ApiServer, PATIENCE, Running, SYSTEM, port};
use tokio::time::timeout;

const LOOK: Duration = Duration::from_millis(20);
const OURS: &str = "aquifer.dev/not-ready";
const OTHER: &str = "example.com/other";
const WRITTEN: &str = "aquifer_controller_untaints_total{outcome=\"written\"}";
const FAILED: &str = "aquifer_controller_untaints_total{outcome=\"failed\"}";

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(timeout(PATIENCE, reached).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({ "key": key, "value": value, "effect": effect })
}

/// A cluster of new nodes.
struct Cluster {
    server: ApiServer,
    nodes: Api<Node>,
}

impl Cluster {
    async fn start() -> Option<Self> {
        let server = ApiServer::start().await?;
        server.namespace(SYSTEM, json!({})).await;
        server.install().await;
        server.account(SYSTEM, "aquifer-node").await;
        let nodes = Api::all(server.client.clone());
        Some(Self { server, nodes })
    }

    /// A Node with these taints, and no other.
    async fn node(&self, name: &str, taints: Value) {
        self.server.node(name).await;
        self.taint(name, taints).await;
    }

    async fn taint(&self, node: &str, taints: Value) {
        let change = Patch::Merge(json!({ "spec": { "taints": taints } }));
        self.nodes.patch(node, &PatchParams::default(), &change).await.unwrap();
    }

    /// Keys of a node's taints, in order.
    async fn keys(&self, node: &str) -> Vec<String> {
        let spec = self.nodes.get(node).await.unwrap().spec.unwrap_or_default();
        spec.taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect()
    }

    /// A node proxy's pod.
    async fn proxy(&self, node: &str, ready: bool) {
        let name = format!("aquifer-node-{node}");
        self.server.pod(SYSTEM, &name, "aquifer-node", node).await;
        let label = json!({ "metadata": { "labels": { "app.kubernetes.io/name": "aquifer-node" } } });
        self.pods().patch(&name, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
        self.becomes(node, ready).await;
    }

    /// What kubelet says of it.
    async fn becomes(&self, node: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
        let name = format!("aquifer-node-{node}");
        self.pods().patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        self.server.pods(SYSTEM)
    }

    fn controller(&self, untaint_nodes: bool) -> Running {
        Running::start_with(self.server.controller(), port(), untaint_nodes)
    }
}

/// A Node without what every change of its taints changes.
async fn rest(cluster: &Cluster, name: &str) -> Value {
    let mut node = cluster.nodes.get(name).await.unwrap();
    (node.metadata.resource_version, node.metadata.managed_fields) = (None, None);
    let mut node = serde_json::to_value(node).unwrap();
    node["spec"].as_object_mut().unwrap().remove("taints");
    node
}

#[tokio::test]
async fn the_taint_goes_once_the_nodes_proxy_is_ready_and_nothing_else_goes() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.server.let_patch_nodes().await;
    let ours =
        [taint(OURS, "", "NoSchedule"), taint(OURS, "x", "NoExecute"), taint(OURS, "", "PreferNoSchedule")];
    let [first, second, third] = ours;
    cluster.node("a", json!([first, taint(OTHER, "", "NoSchedule"), second, third])).await;
    cluster.node("b", json!([first])).await;
    cluster.node("bare", json!([first])).await;
    cluster.proxy("a", false).await;
    cluster.proxy("b", true).await;
    let before = rest(&cluster, "a").await;
    let controller = cluster.controller(true);
    until("the taint of a node with a ready proxy to go", async || cluster.keys("b").await.is_empty()).await;
    assert_eq!(cluster.keys("a").await, [OURS, OTHER, OURS, OURS], "its proxy is not ready");

    cluster.becomes("a", true).await;
    until("the taints to go", async || cluster.keys("a").await == [OTHER]).await;
    assert_eq!(rest(&cluster, "a").await, before);
    until("it to be counted", async || controller.metric(WRITTEN).await == Some(2.0)).await;

    // A node that gets it again, as one that is registered anew, is looked at again.
    cluster.taint("b", json!([taint(OURS, "", "NoSchedule")])).await;
    until("the taint to go again", async || cluster.keys("b").await.is_empty()).await;
    assert_eq!(cluster.keys("bare").await, [OURS], "it has no proxy");
    assert_eq!(controller.metric(FAILED).await, None);
    controller.stop().await;
}

#[tokio::test]
async fn only_the_leader_takes_it_off_and_only_with_the_option() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.server.let_patch_nodes().await;
    cluster.node("a", json!([taint(OURS, "", "NoSchedule")])).await;
    cluster.proxy("a", true).await;
    let without = cluster.controller(false);
    until("the one without the option to lead", async || without.leads().await).await;
    let with = cluster.controller(true);
    until("the other to have asked", async || with.metric("aquifer_controller_leads").await.is_some()).await;
    assert!(!with.leads().await);
    assert_eq!(cluster.keys("a").await, [OURS]);
    without.stop().await;
    until("the taint to go", async || cluster.keys("a").await.is_empty()).await;
    assert!(with.leads().await, "it went before its Lease was taken");
    with.stop().await;
}

#[tokio::test]
async fn taints_that_others_change_meanwhile_are_theirs() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.server.let_patch_nodes().await;
    cluster.node("a", json!([taint("turn-0", "", "NoSchedule")])).await;
    cluster.proxy("a", true).await;
    let controller = cluster.controller(true);
    until("it to lead", async || controller.leads().await).await;
    // Another, careful as it should be, replaces its own taint by the next at another place, and puts ours there again.
    for turn in 1..=40 {
        let put = async || {
            let mut node = cluster.nodes.get("a").await.unwrap();
            let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
            let own = format!("turn-{}", turn - 1);
            assert!(taints.iter().any(|taint| taint.key == own), "another's taint was lost: {taints:?}");
            taints.retain(|taint| taint.key != own);
            let next = format!("turn-{turn}");
            for (index, key) in [next.as_str(), OURS, OTHER].into_iter().enumerate() {
                if !taints.iter().any(|taint| taint.key == key) {
                    let at = (turn + index) % (taints.len() + 1);
                    taints.insert(at, serde_json::from_value(taint(key, "", "NoSchedule")).unwrap());
                }
            }
            cluster.nodes.replace("a", &PostParams::default(), &node).await.is_ok()
        };
        until("another's turn", put).await;
    }
    until("the taint to go", async || !cluster.keys("a").await.contains(&OURS.to_owned())).await;
    let mut left = cluster.keys("a").await;
    left.sort();
    assert_eq!(left, [OTHER, "turn-40"]);
    assert_eq!(controller.metric(FAILED).await, None);
    controller.stop().await;
}

#[tokio::test]
async fn without_the_right_it_is_said_and_tried_again() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.node("a", json!([taint(OURS, "", "NoSchedule")])).await;
    cluster.proxy("a", true).await;
    let controller = cluster.controller(true);
    until("it to be refused", async || controller.metric(FAILED).await == Some(1.0)).await;
    let version = cluster.nodes.get("a").await.unwrap().resource_version();
    cluster.server.let_patch_nodes().await;
    assert_eq!(cluster.nodes.get("a").await.unwrap().resource_version(), version);
    // A change of its taints is reason enough to try before the time.
    cluster.taint("a", json!([taint(OTHER, "", "NoSchedule"), taint(OURS, "", "NoSchedule")])).await;
    until("the taint to go", async || cluster.keys("a").await == [OTHER]).await;
    controller.stop().await;
}
