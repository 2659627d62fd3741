//! `aquifer check --probe`: real calls between pods of different nodes, and what both ends' records say of them.

mod app;
mod stage;
mod verdict;

use std::io::IsTerminal;
use std::time::Duration;

use aquifer_k8s::names;
use kube::Client;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::facts::Facts;
use super::nodes::image;
use super::{Finding, Level};
use crate::cluster::{self, Failure, name_of, node_of};
use crate::flows::Listening;
pub(crate) use app::serve;
use stage::{Actor, Stage};
use verdict::{Call, judge};

/// The check that this is.
const CHECK: &str = "probe";

/// Nodes that take part; each costs a pod for some seconds.
const NODES: usize = 16;

/// A call that is refused on its way is told by the node within this: it dials for 10 s, and again for 5 s.
const CALL: Duration = Duration::from_secs(20);

/// A record is written when the connection ends, and read through the API server.
const RECORDS: Duration = Duration::from_secs(5);

/// Records that wait to be looked at.
const QUEUE: usize = 1_024;

/// A record, with the node that told it.
type Told = (String, Map<String, Value>);

/// Calls from a pod on each node to one on the next, and says what became of it; `None` where it was interrupted. What it made is gone
/// when this returns, either way; after a kill the pods end by themselves, and a later probe clears away the rest.
pub(super) async fn look(client: &Client, facts: &Facts) -> Option<Vec<Finding>> {
    let stage = match Stage::open(client).await {
        Ok(stage) => stage,
        Err(error) => {
            let mend = "probe as a user who may create and delete namespaces and pods";
            let found = format!("no namespace for the probe: {error}");
            return Some(vec![Finding::error(CHECK, found, mend).of("this user's rights")]);
        }
    };
    if std::io::stderr().is_terminal() {
        eprintln!("probing with pods in namespace {} …", stage.namespace);
    }
    let found = tokio::select! {
        found = play(client, facts, &stage) => Some(found),
        _ = tokio::signal::ctrl_c() => None,
    };
    let left = stage.close().await.err().map(|error| {
        let found = format!("namespace {} is left behind: {error}", stage.namespace);
        let mend = format!("kubectl delete namespace {}", stage.namespace);
        Finding::warning(CHECK, found, mend).of("this user's rights")
    });
    let mut findings = found?.unwrap_or_else(|why| {
        let mend = format!(
            "mend what is named here or above, then probe again; kubectl -n {} get pods -o wide",
            names::SYSTEM_NAMESPACE
        );
        vec![Finding::error(CHECK, format!("no call could be made: {why}"), mend)]
    });
    findings.extend(left);
    Some(findings)
}

async fn play(client: &Client, facts: &Facts, stage: &Stage) -> Result<Vec<Finding>, String> {
    let served = facts.served();
    let proxies = facts.proxies.as_ref().map_err(Clone::clone)?;
    let proxies: Vec<_> = proxies
        .iter()
        .map(|member| &member.pod)
        .filter(|pod| served.contains(node_of(pod)))
        .take(NODES)
        .collect();
    let Some(first) = proxies.first() else { return Err("no node proxy is ready".to_owned()) };
    // On a single node, one pod calls another beside it.
    let places: Vec<&str> = match proxies.len() {
        1 => vec![node_of(first); 2],
        _ => proxies.iter().map(|pod| node_of(pod)).collect(),
    };
    let actors = stage.enter(image(first), &places).await?;
    let mut records = Records::open(client, &proxies).await?;
    let mut calls = JoinSet::new();
    for (index, from) in actors.iter().enumerate() {
        let (from, to) = (from.clone(), actors[(index + 1) % actors.len()].clone());
        let (client, namespace) = (client.clone(), stage.namespace.clone());
        calls.spawn(async move {
            let outcome = order(&client, &namespace, &from, &to).await;
            Call { from, to, outcome, outbound: None, inbound: None }
        });
    }
    let mut calls = calls.join_all().await;
    calls.sort_by(|a, b| a.from.pod.cmp(&b.from.pod));
    records.assign(&mut calls).await;
    let mut findings: Vec<Finding> = calls.iter().map(judge).collect();
    let good: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Good).collect();
    if let [sample, _, ..] = good[..] {
        let found = format!(
            "{} calls between {} nodes were carried, such as {}",
            good.len(),
            places.len(),
            sample.found
        );
        findings.retain(|finding| finding.level > Level::Good);
        findings.insert(0, Finding::good(CHECK, found));
    }
    Ok(findings)
}

/// Tells a pod to call another, and gives the milliseconds that it took.
async fn order(client: &Client, namespace: &str, from: &Actor, to: &Actor) -> Result<f64, String> {
    let talk = async {
        let (forwarder, stream) = cluster::connect(client, namespace, &from.pod, app::ORDERS).await?;
        let mut stream = BufReader::new(stream);
        let lost = |error: std::io::Error| Failure::talk(&from.pod, "a call", error);
        stream.get_mut().write_all(format!("{}\n", to.address).as_bytes()).await.map_err(lost)?;
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(lost)?;
        forwarder.abort();
        Ok::<String, Failure>(line)
    };
    let line = match timeout(CALL, talk).await {
        Ok(line) => line.map_err(|failure| failure.to_string())?,
        Err(_) => return Err(format!("the caller saw no answer within {} s", CALL.as_secs())),
    };
    app::outcome(&line)
}

/// Flow records of nodes, from the moment of opening on.
struct Records {
    told: mpsc::Receiver<Told>,
    /// They end with this.
    _readers: JoinSet<Result<(), Failure>>,
}

impl Records {
    async fn open(client: &Client, proxies: &[&aquifer_k8s::Pod]) -> Result<Self, String> {
        let (sender, told) = mpsc::channel(QUEUE);
        let mut readers = JoinSet::new();
        for proxy in proxies {
            let records =
                Listening::begin(client, name_of(proxy)).await.map_err(|failure| failure.to_string())?;
            let (node, sender) = (node_of(proxy).to_owned(), sender.clone());
            // A node that tells no more is missed in the calls that it should have told of.
            readers.spawn(async move { records.hand_on(&sender, |record| (node.clone(), record)).await });
        }
        Ok(Self { told, _readers: readers })
    }

    /// Gives each call its two records, as far as they come in time.
    async fn assign(&mut self, calls: &mut [Call]) {
        let until = Instant::now() + RECORDS;
        while calls.iter().any(|call| !call.told()) {
            let Ok(Some((node, record))) = timeout_at(until, self.told.recv()).await else { return };
            calls.iter_mut().for_each(|call| call.hear(&node, &record));
        }
    }
}
