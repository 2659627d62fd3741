//! `aquifer status`: who is in the mesh, on which node, since when, and until when their certificates hold; as the nodes say it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use aquifer_k8s::names;
use jiff::Timestamp;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::StatusFlags;
use crate::cluster::{self, Failure, name_of, node_of};
use crate::table::{Paint, Table};

/// Prints the mesh as its nodes see it.
pub(crate) async fn run(flags: &StatusFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.ask.cluster).await?;
    let mut status = Status::of(&client).await?;
    if let Some(namespace) = &flags.namespace {
        status.pods.retain(|pod| pod.pod.split_once('/').is_some_and(|(ns, _)| ns == namespace));
    }
    flags.ask.output.print(&status, || status.print())?;
    Ok(if status.silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The mesh as its nodes see it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    /// Pods that are in the mesh, or should be.
    pub(crate) pods: Vec<PodStatus>,
    /// Nodes that serve the mesh as they kept it, and since when nobody told them another.
    pub(crate) cached: BTreeMap<String, String>,
    /// Node pods that did not answer, and why.
    pub(crate) silent: BTreeMap<String, String>,
}

/// A pod as its node sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// Name of the Node.
    pub(crate) node: String,
    /// Whether its enrolment was proved.
    pub(crate) ready: bool,
    /// Whether it leaves: what it carried goes on to its end, and nothing new is captured.
    pub(crate) leaving: bool,
    /// One line why.
    pub(crate) why: String,
    /// Since when that is so.
    pub(crate) since: Option<Timestamp>,
    /// What its certificate says it is.
    pub(crate) identity: Option<String>,
    /// When its certificate ends; it is renewed at half of its life.
    pub(crate) certificate_ends: Option<Timestamp>,
}

/// A pod on a node's page of enrolments.
#[derive(Deserialize)]
struct Enrolled {
    pod: String,
    uid: String,
    ready: bool,
    /// A node of an earlier version does not say so.
    #[serde(default)]
    leaving: bool,
    why: String,
    since: Option<Timestamp>,
    identity: Option<String>,
}

/// The page of a node that says whether it serves the mesh from its cache.
const CACHE: &str = "/problems/cache";

/// A line of it.
#[derive(Deserialize)]
struct Problem {
    found: String,
}

/// A node's page of certificates.
#[derive(Deserialize)]
struct Certificates {
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Certificate {
    identity: String,
    /// Seconds since 1970.
    not_after: i64,
}

impl Status {
    /// Asks all nodes at once.
    pub(crate) async fn of(client: &Client) -> anyhow::Result<Self> {
        let mut asked = tokio::task::JoinSet::new();
        for pod in cluster::pods(client, names::NODE).await? {
            let (client, name, node) = (client.clone(), name_of(&pod).to_owned(), node_of(&pod).to_owned());
            asked.spawn(async move { (ask(&client, &name, &node).await, name) });
        }
        let mut status = Self::default();
        while let Some(answer) = asked.join_next().await {
            match answer? {
                (Ok((pods, cached)), _) => {
                    status.pods.extend(pods);
                    status.cached.extend(cached);
                }
                (Err(failure), name) => _ = status.silent.insert(name, failure.to_string()),
            }
        }
        status.pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(status)
    }

    fn print(&self) {
        let paint = Paint::of_stdout();
        let now = Timestamp::now();
        let rows = self.pods.iter().map(|pod| {
            let (namespace, name) = pod.pod.split_once('/').unwrap_or(("", &pod.pod));
            vec![
                namespace.to_owned(),
                name.to_owned(),
                pod.node.clone(),
                pod.state().to_owned(),
                pod.since.map_or_else(String::new, |since| span(since, now)),
                pod.certificate_ends.map_or_else(|| "none".into(), |ends| span(now, ends)),
                pod.identity.clone().unwrap_or_default(),
            ]
        });
        let table = Table {
            heading: vec!["NAMESPACE", "POD", "NODE", "STATE", "SINCE", "CERTIFICATE FOR", "IDENTITY"],
            numbers: 0,
            rows: rows.collect(),
        };
        if self.pods.is_empty() {
            println!(
                "No pod is in the mesh. Put a namespace in it: kubectl label namespace NAME {}={}",
                names::MESH_LABEL,
                names::MESH_AMBIENT
            );
        } else {
            table.lines("", paint).iter().for_each(|line| println!("{line}"));
        }
        for pod in self.pods.iter().filter(|pod| !pod.ready || pod.leaving) {
            println!("\n{} {}: {}", pod.pod, pod.state(), pod.why);
        }
        for (node, what) in &self.cached {
            println!("\nthe mesh on {node}: {what}");
        }
        for (name, why) in &self.silent {
            println!("\nnode pod {name} did not answer: {why}");
        }
    }
}

impl PodStatus {
    fn state(&self) -> &'static str {
        match (self.ready, self.leaving) {
            (_, true) => "leaves",
            (true, false) => "in the mesh",
            (false, false) => "waits",
        }
    }
}

/// The pods of a node, and what it serves from its cache, if so.
async fn ask(
    client: &Client,
    pod: &str,
    node: &str,
) -> Result<(Vec<PodStatus>, Option<(String, String)>), Failure> {
    let enrolments = cluster::get(client, pod, "/enrolments");
    let certificates = cluster::get(client, pod, "/certificates");
    let problems = async {
        match cluster::get(client, pod, CACHE).await {
            // A node of an earlier version keeps none.
            Err(Failure::Status { .. }) => Ok(Value::Array(Vec::new())),
            problems => problems,
        }
    };
    let (enrolments, certificates, problems) = tokio::try_join!(enrolments, certificates, problems)?;
    let cached: Vec<Problem> =
        serde_json::from_value(problems).map_err(|error| Failure::talk(pod, CACHE, error))?;
    let enrolled: Vec<Enrolled> =
        serde_json::from_value(enrolments).map_err(|error| Failure::talk(pod, "/enrolments", error))?;
    let held: Certificates =
        serde_json::from_value(certificates).map_err(|error| Failure::talk(pod, "/certificates", error))?;
    let ends: BTreeMap<String, Timestamp> = held
        .certificates
        .into_iter()
        .filter_map(|held| Some((held.identity, Timestamp::from_second(held.not_after).ok()?)))
        .collect();
    let pods = enrolled
        .into_iter()
        .map(|pod| PodStatus {
            certificate_ends: pod.identity.as_ref().and_then(|identity| ends.get(identity).copied()),
            pod: pod.pod,
            uid: pod.uid,
            node: node.to_owned(),
            ready: pod.ready,
            leaving: pod.leaving,
            why: pod.why,
            since: pod.since,
            identity: pod.identity,
        })
        .collect();
    Ok((pods, cached.into_iter().next().map(|problem| (node.to_owned(), problem.found))))
}

/// `3d4h`, `5m2s`: two units, as kubectl writes ages.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(each, _)| seconds >= *each).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut text = String::new();
    for (each, unit) in units.iter().skip(first).take(2) {
        if rest / each > 0 || text.is_empty() {
            text.push_str(&format!("{}{unit}", rest / each));
        }
        rest %= each;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let from = Timestamp::UNIX_EPOCH;
        let spans =
            [0, 59, 60, 61, 3600, 90_000, 86_400].map(|s| span(from, Timestamp::from_second(s).unwrap()));
        assert_eq!(spans, ["0s", "59s", "1m", "1m1s", "1h", "1d1h", "1d"]);
        assert_eq!(span(Timestamp::from_second(5).unwrap(), from), "0s");
    }
}
