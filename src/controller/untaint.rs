//! New nodes are opened for pods: the replica that leads takes the taint `aquifer.dev/not-ready` off each node whose proxy is ready.
//!
//! A node that never had a proxy has no CNI plug-in either, and a pod of the mesh that begins there is captured a moment late. Whoever
//! registers nodes with the taint lets pods wait for the proxy, which says that it is ready once the plug-in is in its place. The taint is
//! taken off only, never put on: a node that had a proxy once holds its pods by the plug-in.

use std::collections::BTreeMap;
use std::time::Duration;

use aquifer_k8s::{Node, Pod, Time, names, ready};
use aquifer_telemetry::Telemetry;
use kube::api::{Api, ListParams};
use kube::{Client, Error, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::leader::Leading;
use crate::objects::{News, follow};

/// How often it is looked at although nothing was heard, for what is due again and for who leads.
const LOOK: Duration = Duration::from_secs(5);
/// A node that changed under the hand is tried again after so long, if nothing is heard of its taints before.
const SOON: Duration = Duration::from_secs(2);
/// One that could not be changed is tried again after so long.
const LATER: Duration = Duration::from_secs(30);
/// A proxy's pod that is older than its Node is of an earlier machine of the name. What it says of itself counts once it was so for so
/// long: kubelet says otherwise within seconds where it is not so, and Kubernetes within 40 s where there is no kubelet.
const SETTLED: Duration = Duration::from_secs(60);
/// An answer of the API server is waited for so long.
const CALL: Duration = Duration::from_secs(4);
/// News that wait. A list comes as one.
const QUEUE: usize = 64;

/// Takes the taint off while this replica leads.
pub(crate) struct Untaint {
    client: Client,
    namespace: String,
    leading: Leading,
    telemetry: Telemetry,
}

impl Untaint {
    /// With the mesh's own namespace, in which node proxies run.
    pub(crate) fn new(client: Client, namespace: &str, leading: Leading, telemetry: Telemetry) -> Self {
        Self { client, namespace: namespace.to_owned(), leading, telemetry }
    }

    /// Looks for ever.
    pub(crate) async fn run(self) {
        loop {
            self.leading.clone().leads().await;
            let ((nodes, mut of_nodes), (proxies, mut of_proxies)) =
                (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
            // They end with this: nobody but the leader looks.
            let mut followers = JoinSet::new();
            followers.spawn(follow(
                Api::all(self.client.clone()),
                ListParams::default(),
                Tainted::read,
                nodes,
            ));
            let of_node =
                ListParams::default().labels(&format!("{}={}", names::APPLICATION_LABEL, names::NODE));
            let pods = Api::namespaced(self.client.clone(), &self.namespace);
            followers.spawn(follow(pods, of_node, Proxy::read, proxies));
            let mut view = View::default();
            while self.leading.now() {
                for node in view.due(Instant::now()) {
                    if self.leading.now() {
                        let again = self.take_off(&node).await;
                        view.tried(&node, again.map(|pause| Instant::now() + pause));
                    }
                }
                tokio::select! {
                    Some(news) = of_nodes.recv() => view.nodes(news),
                    Some(news) = of_proxies.recv() => view.proxies(news, Instant::now()),
                    () = sleep(LOOK) => {}
                }
            }
        }
    }

    /// After how long it is to be tried again, if it is.
    async fn take_off(&self, node: &Tainted) -> Option<Duration> {
        let name = &node.name;
        let why = match timeout(CALL, self.patch(node)).await {
            Ok(Ok(())) => {
                info!(
                    node = name,
                    taint = names::NOT_READY_TAINT,
                    "the node's proxy is ready: its taint is taken off"
                );
                self.telemetry.controller().untainted("written");
                return None;
            }
            // It went, or its taints were changed meanwhile; what is so now is on its way here.
            Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
                debug!(node = name, why = status.message, "the node changed meanwhile");
                return Some(SOON);
            }
            Ok(Err(Error::Api(status))) if status.code == 403 => {
                format!("{}: `aquifer install --untaint-nodes` gives the right", status.message)
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CALL.as_secs()),
        };
        self.telemetry.controller().untainted("failed");
        warn!(
            node = name,
            taint = names::NOT_READY_TAINT,
            why,
            "the taint of a node cannot be taken off; tried again"
        );
        Some(LATER)
    }

    async fn patch(&self, node: &Tainted) -> Result<(), Error> {
        let url = format!("/api/v1/nodes/{}?fieldManager={}", node.name, names::FIELD_MANAGER);
        let request = http::Request::patch(url).header("content-type", "application/json-patch+json");
        let body = serde_json::to_vec(&node.removal()).map_err(Error::SerdeError)?;
        let request = request.body(body).map_err(Error::HttpError)?;
        self.client.request::<Value>(request).await.map(drop)
    }
}

/// A node, by what is looked at of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tainted {
    name: String,
    created: Option<Time>,
    /// Where in its list of taints ours stand, of whatever value and effect, in order.
    at: Vec<usize>,
}

impl Tainted {
    fn read(node: &Node) -> Self {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).enumerate();
        let ours = taints.filter(|(_, taint)| taint.key == names::NOT_READY_TAINT);
        Self {
            name: node.name_any(),
            created: node.metadata.creation_timestamp.clone(),
            at: ours.map(|(index, _)| index).collect(),
        }
    }

    /// Takes them off, as a JSON patch (RFC 6902): where another stands in the place of one by now, the server changes nothing.
    fn removal(&self) -> Value {
        // The last first, so that none moves before its turn.
        let each = self.at.iter().rev().flat_map(|index| {
            let path = format!("/spec/taints/{index}");
            let test =
                json!({ "op": "test", "path": format!("{path}/key"), "value": names::NOT_READY_TAINT });
            [test, json!({ "op": "remove", "path": path })]
        });
        each.collect()
    }
}

/// A node proxy's pod, by what is looked at of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proxy {
    name: String,
    node: String,
    created: Option<Time>,
    ready: bool,
}

impl Proxy {
    fn read(pod: &Pod) -> Self {
        Self {
            name: pod.name_any(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            created: pod.metadata.creation_timestamp.clone(),
            // One that ends has a successor, or leaves its node without one.
            ready: ready(pod).is_some() && pod.metadata.deletion_timestamp.is_none(),
        }
    }
}

/// What is known of the cluster; as large as it has nodes.
#[derive(Debug, Default)]
struct View {
    /// Nodes that have the taint, each with the time before which it is not to be tried again.
    tainted: BTreeMap<String, (Tainted, Option<Instant>)>,
    /// Proxies that are ready, by name, each since when it is seen to be.
    ready: BTreeMap<String, (Proxy, Instant)>,
}

impl View {
    fn nodes(&mut self, news: News<Tainted>) {
        let (put, mut before) = match news {
            News::Whole(all) => (all, std::mem::take(&mut self.tainted)),
            News::Put(node) => (vec![node], BTreeMap::new()),
            News::Gone(node) => (vec![Tainted { at: Vec::new(), ..node }], BTreeMap::new()),
        };
        for node in put {
            let known = before.remove(&node.name).or_else(|| self.tainted.remove(&node.name));
            if !node.at.is_empty() {
                let again = known.filter(|(known, _)| *known == node).and_then(|(_, again)| again);
                self.tainted.insert(node.name.clone(), (node, again));
            }
        }
    }

    /// Its taints were taken off, or are to be tried again at a time.
    fn tried(&mut self, node: &Tainted, again: Option<Instant>) {
        match again {
            Some(_) => _ = self.tainted.insert(node.name.clone(), (node.clone(), again)),
            None => _ = self.tainted.remove(&node.name),
        }
    }

    fn proxies(&mut self, news: News<Proxy>, now: Instant) {
        let (put, mut before) = match news {
            News::Whole(all) => (all, std::mem::take(&mut self.ready)),
            News::Put(proxy) => (vec![proxy], BTreeMap::new()),
            News::Gone(proxy) => (vec![Proxy { ready: false, ..proxy }], BTreeMap::new()),
        };
        for proxy in put {
            let known = before.remove(&proxy.name).or_else(|| self.ready.remove(&proxy.name));
            if proxy.ready {
                let since = known.map_or(now, |(_, since)| since);
                self.ready.insert(proxy.name.clone(), (proxy, since));
            }
        }
    }

    /// Nodes with the taint whose proxy is ready.
    fn due(&self, now: Instant) -> Vec<Tainted> {
        if self.tainted.is_empty() {
            return Vec::new();
        }
        let mut due = BTreeMap::new();
        for (proxy, since) in self.ready.values() {
            let Some((node, again)) = self.tainted.get(&proxy.node) else { continue };
            if again.is_some_and(|again| now < again) {
                continue;
            }
            let of_this_node =
                proxy.created.as_ref().map(|time| time.0) >= node.created.as_ref().map(|time| time.0);
            if of_this_node || now.duration_since(*since) >= SETTLED {
                due.insert(&node.name, node);
            }
        }
        due.into_values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str, created: &str, taints: &[(&str, &str)]) -> Tainted {
        let taints: Vec<Value> =
            taints.iter().map(|(key, effect)| json!({ "key": key, "effect": effect })).collect();
        Tainted::read(&of(json!({
            "metadata": { "name": name, "creationTimestamp": created }, "spec": { "taints": taints },
        })))
    }

    fn proxy(name: &str, node: &str, created: &str, ready: &str) -> Value {
        json!({
            "metadata": { "name": name, "creationTimestamp": created },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    }

    const NINE: &str = "2026-01-01T09:00:00Z";
    const TEN: &str = "2026-01-01T10:00:00Z";
    const OURS: (&str, &str) = (names::NOT_READY_TAINT, "NoSchedule");

    fn names(due: Vec<Tainted>) -> Vec<String> {
        due.into_iter().map(|node| node.name).collect()
    }

    #[test]
    fn every_taint_of_the_key_goes_and_nothing_else() {
        let other = ("example.com/other", "NoExecute");
        let found = node("n", NINE, &[other, OURS, other, (names::NOT_READY_TAINT, "NoExecute")]);
        let expected = json!([
            { "op": "test", "path": "/spec/taints/3/key", "value": "aquifer.dev/not-ready" },
            { "op": "remove", "path": "/spec/taints/3" },
            { "op": "test", "path": "/spec/taints/1/key", "value": "aquifer.dev/not-ready" },
            { "op": "remove", "path": "/spec/taints/1" },
        ]);
        assert_eq!(found.removal(), expected);
        assert!(node("n", NINE, &[other]).at.is_empty());
    }

    #[test]
    fn a_node_is_due_while_it_has_the_taint_and_a_proxy_that_is_ready() {
        let (mut view, now) = (View::default(), Instant::now());
        let told = |pod: Value| News::Put(Proxy::read(&of(pod)));
        view.nodes(News::Whole(vec![
            node("a", NINE, &[OURS]),
            node("b", NINE, &[OURS]),
            node("c", NINE, &[]),
        ]));
        assert!(view.due(now).is_empty());
        for (pod, ready) in [("a", "False"), ("c", "True")] {
            view.proxies(told(proxy(pod, pod, TEN, ready)), now);
        }
        assert!(view.due(now).is_empty());
        view.proxies(told(proxy("a", "a", TEN, "True")), now);
        assert_eq!(names(view.due(now)), ["a"]);
        // A proxy that ends does not count.
        let mut ends = proxy("a", "a", TEN, "True");
        ends["metadata"]["deletionTimestamp"] = json!(TEN);
        view.proxies(told(ends), now);
        assert!(view.due(now).is_empty());
        let all = [proxy("x", "a", TEN, "True"), proxy("y", "a", TEN, "True"), proxy("z", "b", TEN, "True")];
        view.proxies(News::Whole(all.map(|pod| Proxy::read(&of(pod))).into()), now);
        assert_eq!(names(view.due(now)), ["a", "b"]);
        // One that was tried in vain waits, unless its taints change.
        view.tried(&node("a", NINE, &[OURS]), Some(now + LATER));
        view.nodes(News::Put(node("a", NINE, &[OURS])));
        assert_eq!(names(view.due(now)), ["b"]);
        assert_eq!(names(view.due(now + LATER)), ["a", "b"]);
        view.nodes(News::Put(node("a", NINE, &[("example.com/other", "NoSchedule"), OURS])));
        assert_eq!(names(view.due(now)), ["a", "b"]);
        view.tried(&node("a", NINE, &[OURS]), None);
        assert_eq!(names(view.due(now)), ["b"]);
        view.nodes(News::Put(node("b", NINE, &[("example.com/other", "NoSchedule")])));
        view.nodes(News::Gone(node("b", NINE, &[OURS])));
        assert!(view.due(now).is_empty());
    }

    #[test]
    fn a_pod_that_is_older_than_its_node_is_believed_later() {
        let (mut view, now) = (View::default(), Instant::now());
        view.nodes(News::Put(node("a", TEN, &[OURS])));
        let told = |ready| News::Put(Proxy::read(&of(proxy("a", "a", NINE, ready))));
        view.proxies(told("True"), now);
        assert!(view.due(now).is_empty());
        view.proxies(told("False"), now + SETTLED / 2);
        view.proxies(told("True"), now + SETTLED / 2);
        assert!(view.due(now + SETTLED).is_empty(), "it was not ready in between");
        assert_eq!(names(view.due(now + SETTLED * 2)), ["a"]);
    }
}
