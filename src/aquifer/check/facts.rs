//! Everything that an installed mesh is judged by, asked for at once.

use std::collections::BTreeSet;
use std::time::Duration;

use aquifer_k8s::{Node, Pod, names, ready};
use hyper::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::certificates::Held;
use crate::cluster::{self, Failure, Live, name_of, node_of};

/// Pods that are asked at a time; each costs a few streams through the API server.
const AT_A_TIME: usize = 32;

/// A node is behind while a change is on its way to it. It is asked again this often before that is told.
const LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Something that was asked for, or why there is no answer.
pub(super) type Fact<T> = Result<T, String>;

/// What is known of a cluster with a mesh.
pub(super) struct Facts {
    /// By the API server's clock.
    pub(super) now: Timestamp,
    pub(super) nodes: Fact<Vec<Node>>,
    pub(super) deployment: Fact<Option<Deployment>>,
    pub(super) controllers: Fact<Vec<Member>>,
    pub(super) proxies: Fact<Vec<Member>>,
    /// All that the mesh is made of, as the controller should read it.
    pub(super) mesh: Fact<Live>,
    pub(super) network_policies: Fact<Vec<NetworkPolicy>>,
}

/// A pod of the mesh itself.
pub(super) struct Member {
    pub(super) pod: Pod,
    pub(super) pages: Fact<Pages>,
}

/// What a pod of the mesh says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// How far its clock is ahead of the API server's.
    pub(super) ahead: Option<SignedDuration>,
    pub(super) certificates: Held,
    /// Of a node proxy.
    pub(super) enrolments: Vec<Enrolled>,
    /// Of a node proxy: what it finds wrong now.
    pub(super) faults: Vec<Fault>,
    /// Of a node proxy: how often it found a pod's capture broken and repaired it, since it started.
    pub(super) repairs: u64,
    /// Of a node proxy: how often it found the CNI plug-in taken out of its place and put it back, since it started.
    pub(super) plugin_repairs: u64,
    /// Of a node proxy: problems that stand in what it reads, such as the controller being away.
    pub(super) source_problems: u64,
    /// Of a controller.
    pub(super) discovery: Discovery,
}

/// A pod on a node's page of enrolments.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Enrolled {
    pub(super) uid: String,
    pub(super) ready: bool,
    pub(super) why: String,
}

/// A fault on a node's page of problems.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Fault {
    pub(super) code: String,
    pub(super) about: String,
    pub(super) found: String,
    pub(super) mend: String,
}

/// A controller's page of discovery.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Discovery {
    /// Whether it is the replica that writes statuses; one of an earlier version does not say.
    #[serde(default)]
    pub(super) leads: Option<bool>,
    #[serde(default)]
    pub(super) listeners: Vec<Listener>,
    #[serde(default)]
    pub(super) rejected: Vec<Rejection>,
    #[serde(default)]
    pub(super) problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listener {
    /// `ztunnel~IP~NODE.NAMESPACE~…`
    pub(super) id: String,
    /// Revisions that it has not yet.
    pub(super) behind: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rejection {
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) at: i64,
    pub(super) why: String,
}

impl Facts {
    pub(super) async fn gather(client: &Client) -> Self {
        let server = server_ahead(client).await;
        let namespaced = ListParams::default();
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
        let (nodes_api, walls_api) =
            (Api::<Node>::all(client.clone()), Api::<NetworkPolicy>::all(client.clone()));
        let (nodes, deployment, controllers, proxies, mesh, walls) = tokio::join!(
            nodes_api.list(&namespaced),
            deployments.get_opt(names::CONTROLLER),
            members(client, names::CONTROLLER, server),
            members(client, names::NODE, server),
            Live::read(client),
            walls_api.list(&namespaced),
        );
        let mut facts = Self {
            now: Timestamp::now() + server.unwrap_or_default(),
            nodes: nodes.map(|list| list.items).map_err(|error| error.to_string()),
            deployment: deployment.map_err(|error| error.to_string()),
            controllers,
            proxies,
            mesh: mesh.map_err(|error| format!("{error:#}")),
            network_policies: walls.map(|list| list.items).map_err(|error| error.to_string()),
        };
        for _ in 1..LOOKS {
            if !facts.someone_is_behind() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            facts.controllers = members(client, names::CONTROLLER, server).await;
        }
        facts
    }

    fn someone_is_behind(&self) -> bool {
        let discoveries = self.answers(&self.controllers).map(|(_, pages)| &pages.discovery);
        discoveries.flat_map(|discovery| &discovery.listeners).any(|listener| listener.behind > 0)
    }

    /// Those of a kind that answered.
    pub(super) fn answers<'a>(
        &self,
        members: &'a Fact<Vec<Member>>,
    ) -> impl Iterator<Item = (&'a Pod, &'a Pages)> {
        let members = members.iter().flatten();
        members.filter_map(|member| Some((&member.pod, member.pages.as_ref().ok()?)))
    }

    /// Those of a kind that are ready and did not answer, with the reason.
    pub(super) fn silent(members: &[Member]) -> impl Iterator<Item = (&Pod, &str)> {
        let ready = members.iter().filter(|member| is_ready(&member.pod));
        ready.filter_map(|member| Some((&member.pod, member.pages.as_ref().err()?.as_str())))
    }

    /// Whether there is no mesh at all, so that nothing more can be said of it.
    pub(super) fn nothing_installed(&self) -> bool {
        matches!(&self.deployment, Ok(None)) && matches!(&self.proxies, Ok(proxies) if proxies.is_empty())
    }

    /// For how long a node's proxy is ready, by its condition; `None` where none is.
    pub(super) fn ready_for(&self, node: &str) -> Option<SignedDuration> {
        let of_node =
            self.proxies.iter().flatten().map(|member| &member.pod).filter(|pod| node_of(pod) == node);
        let since = of_node.filter_map(|pod| Some(ready(pod)?.last_transition_time.as_ref()?.0)).min()?;
        Some(self.now.duration_since(since))
    }

    /// Nodes whose proxy is ready.
    pub(super) fn served(&self) -> BTreeSet<&str> {
        let ready = self.proxies.iter().flatten().filter(|member| is_ready(&member.pod));
        ready.map(|member| node_of(&member.pod)).collect()
    }
}

/// Whether a pod's condition says ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    ready(pod).is_some()
}

/// How far the API server's clock is ahead of this machine's; `None` where it does not say.
async fn server_ahead(client: &Client) -> Option<SignedDuration> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    cluster::ahead(client.send(request).await.ok()?.headers())
}

async fn members(client: &Client, application: &str, server: Option<SignedDuration>) -> Fact<Vec<Member>> {
    let pods = cluster::pods(client, application).await.map_err(|error| format!("{error:#}"))?;
    let places = std::sync::Arc::new(Semaphore::new(AT_A_TIME));
    let mut asked = JoinSet::new();
    // One that was evicted or has ended is listed for a while, and says nothing any more.
    let living = pods.into_iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Failed" | "Succeeded"))
    });
    for (index, pod) in living.enumerate() {
        let (client, places, node) = (client.clone(), places.clone(), application == names::NODE);
        asked.spawn(async move {
            // Never closed.
            let _place = places.acquire_owned().await;
            let pages =
                pages(&client, name_of(&pod), node, server).await.map_err(|failure| failure.to_string());
            (index, Member { pod, pages })
        });
    }
    let mut members = asked.join_all().await;
    members.sort_by_key(|(index, _)| *index);
    Ok(members.into_iter().map(|(_, member)| member).collect())
}

async fn pages(
    client: &Client,
    pod: &str,
    node: bool,
    server: Option<SignedDuration>,
) -> Result<Pages, Failure> {
    const CERTIFICATES: &str = "/certificates";
    let first = cluster::page(client, pod, &Method::GET, CERTIFICATES).await?;
    let certificates =
        serde_json::from_slice(&first.text).map_err(|error| Failure::talk(pod, CERTIFICATES, error))?;
    let ahead = first.ahead.zip(server).map(|(pod, server)| pod - server);
    let mut pages = Pages { ahead, certificates, ..Pages::default() };
    if !node {
        pages.discovery = read(client, pod, "/discovery").await?;
        return Ok(pages);
    }
    let (enrolments, faults, metrics) = tokio::join!(
        read(client, pod, "/enrolments"),
        read(client, pod, "/problems"),
        cluster::page(client, pod, &Method::GET, "/metrics"),
    );
    pages.enrolments = enrolments?;
    // A node of an earlier version has no such page; that its version is another is told elsewhere.
    pages.faults = match faults {
        Err(Failure::Status { .. }) => Vec::new(),
        faults => faults?,
    };
    let metrics = String::from_utf8_lossy(&metrics?.text).into_owned();
    let plugin = |line: &str| line.contains("\"cni-plugin\"");
    pages.repairs = sum(metrics.lines().filter(|line| !plugin(line)), "aquifer_enrolment_repairs_total");
    pages.plugin_repairs =
        sum(metrics.lines().filter(|line| plugin(line)), "aquifer_enrolment_repairs_total");
    pages.source_problems = sum(metrics.lines(), "aquifer_source_problems");
    Ok(pages)
}

async fn read<T: DeserializeOwned>(client: &Client, pod: &str, path: &str) -> Result<T, Failure> {
    serde_json::from_value(cluster::get(client, pod, path).await?)
        .map_err(|error| Failure::talk(pod, path, error))
}

/// All series of a metric together, of lines of Prometheus' text format.
fn sum<'a>(lines: impl Iterator<Item = &'a str>, name: &str) -> u64 {
    let series = lines.filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let ends = rest.starts_with(['{', ' ']);
        ends.then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).flatten()
    });
    // Counts are whole and small.
    series.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn series_are_summed() {
        let text = "# TYPE a counter\na{what=\"rules\"} 2\na{what=\"x y\"} 3\nab 7\na_total 9\n";
        let sum = |name| super::sum(text.lines(), name);
        assert_eq!((sum("a"), sum("ab"), sum("none")), (5, 7, 0));
    }
}
