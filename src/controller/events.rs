//! Kubernetes events on what was refused: one for each refusal, whoever of the replicas says it and however often.
//!
//! An event's name is made of what it says, so that the API server itself tells a second one apart, and nothing has to be read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aquifer_k8s::names;
use aquifer_telemetry::Telemetry;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::rates::Rates;

/// Refusals that wait to be said; what comes while so many wait is in log and metrics alone.
const QUEUE: usize = 64;

/// Events in one namespace: at once, and each second from then on.
const OF_NAMESPACE: (u32, u32) = (20, 1);

/// What was said is remembered so long, which saves the question.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Of so many.
const KEPT: usize = 10_000;

/// A node that asks for what it may not have gets one event in so long.
const NODE_SLOT: u64 = 600;

/// An answer of the API server is waited for so long.
const CALL: Duration = Duration::from_secs(4);

/// Bytes of a note at most (events.k8s.io/v1), and of an object's name within an event's.
const LONGEST_NOTE: usize = 1_000;
const LONGEST_NAME: usize = 200;

/// Where events on Nodes stand, as kubelet's do.
const OF_NODES: &str = "default";

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    about: ObjectReference,
    reason: &'static str,
    action: &'static str,
    note: String,
    /// What two of the same have in common.
    same: String,
}

impl Refusal {
    /// A policy was not accepted; one event for each version of it.
    pub(crate) fn policy(about: ObjectReference, generation: i64, note: String) -> Self {
        let same = format!("{} {generation} {note}", about.uid.as_deref().unwrap_or_default());
        Self { about, reason: "PolicyNotAccepted", action: "Read", note, same }
    }

    /// A node asked for an identity that no pod on it has. The first in ten minutes is said.
    pub(crate) fn identity(node: &str, note: String, at: std::time::SystemTime) -> Self {
        let seconds = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As kubelet does: events of a Node are found by its name.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        let same = format!("{node} {}", seconds / NODE_SLOT);
        Self { about, reason: "IdentityRefused", action: "Sign", note, same }
    }

    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().unwrap_or(OF_NODES)
    }

    /// The same for the same refusal, on every replica.
    fn name(&self) -> String {
        let hash = digest(&SHA256, format!("{} {}", self.reason, self.same).as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let of = self.about.name.as_deref().unwrap_or_default();
        format!("{}.{hash}", of.get(..LONGEST_NAME).unwrap_or(of).trim_end_matches(['.', '-']))
    }
}

/// Where refusals are put down.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Refusal>);

impl Events {
    /// With the half that writes them.
    pub(crate) fn new(client: Client, replica: &str, telemetry: Telemetry) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            replica: replica.chars().take(128).collect(),
            telemetry,
            queue,
            rates: Rates::new(OF_NAMESPACE.0, OF_NAMESPACE.1),
            said: HashMap::new(),
        };
        (Self(sender), writer)
    }

    /// Puts one down; whether there was room for it.
    pub(crate) fn say(&self, refusal: Refusal) -> bool {
        self.0.try_send(refusal).is_ok()
    }
}

/// Writes events.
pub(crate) struct Writer {
    client: Client,
    replica: String,
    telemetry: Telemetry,
    queue: mpsc::Receiver<Refusal>,
    rates: Rates<String>,
    /// Names of events that are there, since when. Bounded by [`KEPT`].
    said: HashMap<String, Instant>,
}

impl Writer {
    /// Writes until nobody can put one down any more.
    pub(crate) async fn run(mut self) {
        while let Some(refusal) = self.queue.recv().await {
            let (name, now) = (refusal.name(), Instant::now());
            let key = format!("{}/{name}", refusal.namespace());
            if self.said.get(&key).is_some_and(|at| now.duration_since(*at) < REMEMBERED) {
                continue;
            }
            if !self.rates.allow(&refusal.namespace().to_owned(), now) {
                debug!(event = key, "too many events in this namespace; one is left out");
                continue;
            }
            if self.said.len() >= KEPT {
                self.said.retain(|_, at| now.duration_since(*at) < REMEMBERED);
            }
            let outcome = self.write(refusal, name).await;
            self.telemetry.controller().event(outcome);
            if outcome != "failed" && self.said.len() < KEPT {
                self.said.insert(key, now);
            }
        }
    }

    async fn write(&self, refusal: Refusal, name: String) -> &'static str {
        let namespace = refusal.namespace().to_owned();
        let mut note = refusal.note;
        while note.len() > LONGEST_NOTE {
            note.pop();
        }
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            type_: Some("Warning".to_owned()),
            reason: Some(refusal.reason.to_owned()),
            action: Some(refusal.action.to_owned()),
            note: Some(note),
            regarding: Some(refusal.about),
            reporting_controller: Some(format!("{}/controller", names::GROUP)),
            reporting_instance: Some(self.replica.clone()),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match timeout(CALL, events.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => "written",
            Ok(Err(Error::Api(status))) if status.is_already_exists() => "known",
            Ok(Err(error)) => {
                warn!(%error, event = format!("{namespace}/{name}"), "an event cannot be written");
                "failed"
            }
            Err(_) => {
                warn!(event = format!("{namespace}/{name}"), "an event cannot be written: no answer");
                "failed"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_has_one_name_and_another_another() {
        let about = |uid: &str| ObjectReference {
            name: Some("p".repeat(253)),
            namespace: Some("shop".to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let name = |uid, generation| Refusal::policy(about(uid), generation, "why".to_owned()).name();
        assert_eq!(name("a", 1), name("a", 1));
        assert_ne!(name("a", 1), name("a", 2));
        assert_ne!(name("a", 1), name("b", 1));
        assert!(name("a", 1).len() <= 253);
        let at = |seconds| std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        let node = |seconds| Refusal::identity("n1", format!("{seconds}"), at(seconds));
        assert_eq!(node(0).name(), node(599).name());
        assert_ne!(node(0).name(), node(600).name());
        assert_eq!(node(0).namespace(), "default");
    }
}
