//! `aquifer flows`: who calls whom, with which verdict and why, live from the nodes.

mod filter;

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use aquifer_k8s::names;
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::cli::{FlowsFlags, Output};
use crate::cluster::{self, Answer, Failure, name_of, node_of};
use crate::table::Paint;
use filter::Filter;

/// Records on their way to the terminal, of all nodes together. A terminal that is slower holds up the nodes' own lines, which are
/// bounded and say what they dropped.
const QUEUE: usize = 1_024;

/// How often new node pods are looked for, and lost ones asked again.
const LOOK: Duration = Duration::from_secs(2);

/// Bytes of one record. A longer line is no record.
const LONGEST: usize = 64 * 1024;

/// What came from a node.
enum News {
    Record { node: String, record: Map<String, Value> },
    Lost { node: String, failure: Failure },
}

/// Prints records until it is interrupted, or standard output is closed.
pub(crate) async fn run(flags: &FlowsFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.cluster).await?;
    let filter = Filter::of(flags);
    let (sender, mut news) = mpsc::channel(QUEUE);
    let mut listeners: HashMap<String, AbortHandle> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    let paint = Paint::of_stdout();
    let mut said: HashMap<String, String> = HashMap::new();
    loop {
        tokio::select! {
            _ = look.tick() => listen(&client, &mut listeners, &sender).await?,
            Some(came) = news.recv() => match came {
                News::Record { node, record } if filter.takes(&record) => {
                    said.remove(&node);
                    let line = match flags.output {
                        Output::Json => serde_json::to_string(&named(&node, record))?,
                        Output::Yaml => format!("---\n{}", serde_saphyr::to_string(&named(&node, record))?.trim_end()),
                        Output::Text => text(&node, &record, paint),
                    };
                    // A closed pipe (`| head`) is the reader's way to say that it has enough.
                    if writeln!(std::io::stdout(), "{line}").is_err() {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                News::Record { .. } => {}
                News::Lost { node, failure } => {
                    let why = failure.to_string();
                    if said.get(&node) != Some(&why) {
                        eprintln!("aquifer: node {node}: {why}; asked again");
                        said.insert(node, why);
                    }
                }
            },
        }
    }
}

/// Listens to every node pod that is not listened to.
async fn listen(
    client: &Client,
    listeners: &mut HashMap<String, AbortHandle>,
    news: &mpsc::Sender<News>,
) -> anyhow::Result<()> {
    let pods = cluster::pods(client, names::NODE).await?;
    listeners.retain(|name, task| !task.is_finished() && pods.iter().any(|pod| name_of(pod) == name));
    let new: Vec<_> = pods.iter().filter(|pod| !listeners.contains_key(name_of(pod))).collect();
    for pod in new {
        let (client, news) = (client.clone(), news.clone());
        let (name, node) = (name_of(pod).to_owned(), node_of(pod).to_owned());
        let task = tokio::spawn(async move {
            let told = async {
                let records = Listening::begin(&client, &name).await?;
                records.hand_on(&news, |record| News::Record { node: node.clone(), record }).await
            };
            if let Err(failure) = told.await {
                let _ = news.send(News::Lost { node, failure }).await;
            }
        });
        listeners.insert(name_of(pod).to_owned(), task.abort_handle());
    }
    Ok(())
}

/// Where a node tells its records.
const PATH: &str = "/flows";

/// The records of one node, from the moment of [`Listening::begin`] on.
pub(crate) struct Listening {
    pod: String,
    answer: Answer,
}

impl Listening {
    /// Begins to listen to the node proxy of this name.
    pub(crate) async fn begin(client: &Client, pod: &str) -> Result<Self, Failure> {
        Ok(Self { pod: pod.to_owned(), answer: cluster::open(client, pod, PATH).await? })
    }

    /// Hands on records, each as `news` makes it, until the receiver is gone; an error where the node ends before that.
    pub(crate) async fn hand_on<T>(
        mut self,
        sender: &mpsc::Sender<T>,
        news: impl Fn(Map<String, Value>) -> T,
    ) -> Result<(), Failure> {
        let pod = &self.pod;
        let mut pending = Vec::new();
        while let Some(frame) = self.answer.body.frame().await {
            let frame = frame.map_err(|error| Failure::talk(pod, PATH, error))?;
            pending.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let record =
                    serde_json::from_slice(&line).map_err(|error| Failure::talk(pod, PATH, error))?;
                if sender.send(news(record)).await.is_err() {
                    return Ok(());
                }
            }
            if pending.len() > LONGEST {
                return Err(Failure::talk(pod, PATH, format!("a record is longer than {LONGEST} bytes")));
            }
        }
        Err(Failure::talk(pod, PATH, "it ended the list, as it does when it stops or is replaced"))
    }
}

/// The node's own record, and which node.
fn named(node: &str, mut record: Map<String, Value>) -> Map<String, Value> {
    record.insert("node".to_owned(), node.into());
    record
}

/// `TIME NODE VERDICT DIRECTION FROM -> TO …`, one line, for people.
fn text(node: &str, record: &Map<String, Value>, paint: Paint) -> String {
    if let Some(missed) = record.get("dropped") {
        return paint.strong(&format!("{node}: {missed} records were dropped, this reader is too slow"));
    }
    let get = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_f64).unwrap_or_default();
    let time = get("timestamp").split_once('T').map_or("", |(_, time)| time.get(..12).unwrap_or(time));
    let verdict = match get("verdict") {
        "allowed" => paint.good("allowed"),
        other => paint.bad(&format!("{other:<7}")),
    };
    let end = |side: &str| {
        let (namespace, pod) = (get(&format!("{side}_namespace")), get(&format!("{side}_pod")));
        let address = get(&format!("{side}_address"));
        match pod {
            "" => address.to_owned(),
            // The client's port says nothing.
            _ if side == "source" => format!("{namespace}/{pod}"),
            _ => format!("{namespace}/{pod}:{}", address.rsplit_once(':').map_or("", |(_, port)| port)),
        }
    };
    let mut line =
        format!("{time} {node} {verdict} {} {} -> {}", get("direction"), end("source"), end("destination"));
    if !get("destination_service").is_empty() {
        line.push_str(&format!(" (called {})", get("destination_service")));
    }
    let tls = if record.get("tls") == Some(&Value::Bool(true)) { " with mutual TLS" } else { "" };
    line.push_str(&format!(
        " by {}{tls}, {} B sent, {} B received, {} ms",
        get("path"),
        number("bytes_sent"),
        number("bytes_received"),
        number("duration_ms")
    ));
    for (word, name) in
        [(", reason ", "reason"), (", decided by ", "policy"), (": ", "error"), ("; ", "advice")]
    {
        if !get(name).is_empty() {
            line.push_str(word);
            line.push_str(get(name));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_one_line_with_who_whom_and_why() {
        let record = json!({
            "timestamp": "2026-01-02T03:04:05.678901Z", "verdict": "denied", "direction": "inbound",
            "source_namespace": "shop", "source_pod": "web-1", "source_address": "10.0.0.1:40000",
            "destination_namespace": "shop", "destination_pod": "cart-2", "destination_address": "10.0.0.2:8080",
            "destination_service": "cart.shop.svc.cluster.local", "path": "tunnel", "tls": true,
            "bytes_sent": 12, "bytes_received": 0, "duration_ms": 1.5, "reason": "no-allow-match",
        });
        let expected = "03:04:05.678 n1 denied  inbound shop/web-1 -> shop/cart-2:8080 (called cart.shop.svc.cluster.local) by tunnel with \
                        mutual TLS, 12 B sent, 0 B received, 1.5 ms, reason no-allow-match";
        assert_eq!(text("n1", record.as_object().unwrap(), Paint::off()), expected);
        let dropped = json!({ "dropped": 7 });
        assert!(
            text("n1", dropped.as_object().unwrap(), Paint::off()).contains("n1: 7 records were dropped")
        );
    }

    #[test]
    fn a_peer_without_a_pod_is_its_address() {
        let record = json!({ "source_address": "192.0.2.1:7", "destination_address": "10.0.0.2:80", "verdict": "allowed" });
        let line = text("n1", record.as_object().unwrap(), Paint::off());
        assert!(line.contains("192.0.2.1:7 -> 10.0.0.2:80"), "{line}");
    }
}
