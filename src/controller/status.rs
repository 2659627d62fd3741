//! The statuses of policies: what became of each, written by the replica that leads.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use aquifer_k8s::names;
use aquifer_model::Snapshot;
use aquifer_source::{Kind, Standings, Taken};
use aquifer_telemetry::Telemetry;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::events::{Events, Refusal};
use crate::leader::Leading;
use crate::rates::Rates;
use plan::{Due, Memory, Write};

/// What comes close together is looked at together.
const QUIET: Duration = Duration::from_millis(100);

/// Of its time a look at all policies takes at most one part in so many.
const SHARE: u32 = 20;

/// Statuses that are written: at once, and each second from then on.
const WRITES: (u32, u32) = (50, 20);

/// What could not be written is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// A write that takes longer than this is given up; leadership ends later than that.
const CALL: Duration = Duration::from_secs(4);

/// The mesh of one moment, with the policy objects that it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) mesh: Arc<Snapshot>,
    pub(crate) policies: Arc<Standings>,
}

/// Counts policies that are not accepted, once for each version of them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    last: Arc<Standings>,
}

impl Refusals {
    /// Takes up what is known of policies now.
    pub(crate) fn count(&mut self, policies: &Arc<Standings>, telemetry: &Telemetry) {
        if Arc::ptr_eq(&self.last, policies) {
            return;
        }
        for (key, standing) in policies.iter() {
            let reason = match standing.taken {
                Taken::AsWritten => continue,
                Taken::LastGood => "last-good",
                Taken::StandIn => "denies",
            };
            let before = self.last.get(key).filter(|before| before.taken != Taken::AsWritten);
            let version = |standing: &aquifer_source::Standing| {
                (standing.written.uid.clone(), standing.written.generation)
            };
            if before.map(version) != Some(version(standing)) {
                telemetry.controller().policy_refused(key.kind.as_str(), reason);
            }
        }
        self.last = policies.clone();
    }
}

/// Writes statuses while this replica leads.
pub(crate) struct Status {
    pub(crate) client: Client,
    pub(crate) root: Arc<str>,
    pub(crate) leading: Leading,
    pub(crate) moments: watch::Receiver<Option<Moment>>,
    pub(crate) events: Events,
    pub(crate) telemetry: Telemetry,
}

impl Status {
    /// Writes for ever.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let rates = Rates::new(WRITES.0, WRITES.1);
        let mut memory = Memory::default();
        loop {
            self.leading.leads().await;
            let moment = self.moments.borrow_and_update().clone();
            let mut again = None;
            let began = Instant::now();
            if let Some(moment) = moment {
                let (due, later) = self.look(moment.clone(), &mut memory).await?;
                again = later;
                if !self.refusals(&moment.policies, &mut memory) {
                    again = Some(AGAIN);
                }
                for write in due {
                    while !rates.allow(&(), std::time::Instant::now()) {
                        sleep(QUIET).await;
                    }
                    if !self.leading.now() {
                        break;
                    }
                    if !self.write(write, &mut memory).await {
                        again = Some(AGAIN);
                    }
                }
            }
            sleep(QUIET.max(began.elapsed() * SHARE)).await;
            tokio::select! {
                changed = self.moments.changed() => changed?,
                () = async { sleep(again.unwrap_or_default()).await }, if again.is_some() => {}
            }
        }
    }

    /// What is to be written now, and after how long to look again. Large meshes take a while: it does not hold up the thread that serves.
    async fn look(
        &self,
        moment: Moment,
        memory: &mut Memory,
    ) -> anyhow::Result<(Vec<Write>, Option<Duration>)> {
        let (root, mut moved) = (self.root.clone(), std::mem::take(memory));
        let looked = tokio::task::spawn_blocking(move || {
            let due = moved.due(&moment, &root, Timestamp::now(), std::time::Instant::now());
            (due, moved)
        });
        let (Due { writes, again }, back) = looked.await?;
        *memory = back;
        Ok((writes, again))
    }

    /// An event on each policy that is not accepted, once for each version of it. Whether there was room for all.
    fn refusals(&self, policies: &Standings, memory: &mut Memory) -> bool {
        let refused = policies.iter().filter(|(_, standing)| standing.taken != Taken::AsWritten);
        for (key, standing) in refused {
            if memory.is_told(key, standing) {
                continue;
            }
            let about = ObjectReference {
                api_version: Some(standing.written.api_version.clone()),
                kind: Some(key.kind.as_str().to_owned()),
                namespace: Some(key.namespace.to_string()),
                name: Some(key.name.to_string()),
                uid: Some(standing.written.uid.clone()),
                ..ObjectReference::default()
            };
            let Some(problem) = standing.problems.first() else { continue };
            let field = problem.field.as_deref().map(|field| format!("{field}: ")).unwrap_or_default();
            let note = format!("{field}{}", problem.message);
            if !self.events.say(Refusal::policy(about, standing.written.generation, note)) {
                debug!(%key, "too many refusals wait to become events");
                return false;
            }
            memory.told(key, standing);
        }
        true
    }

    /// Whether it needs no second try.
    async fn write(&self, write: Write, memory: &mut Memory) -> bool {
        let (kind, plural) = match write.key.kind {
            Kind::PeerAuthentication => ("PeerAuthentication", "peerauthentications"),
            _ => ("AuthorizationPolicy", "authorizationpolicies"),
        };
        let api_version = format!("{}/{}", names::GROUP, names::VERSION);
        let resource = ApiResource {
            group: names::GROUP.to_owned(),
            version: names::VERSION.to_owned(),
            api_version: api_version.clone(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &write.key.namespace, &resource);
        // The uid is a condition: what was made anew under the name is another policy.
        let status = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": { "name": *write.key.name, "namespace": *write.key.namespace, "uid": write.uid },
            "status": { "conditions": write.conditions },
        });
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        let patched = timeout(CALL, api.patch_status(&write.key.name, &params, &Patch::Apply(&status))).await;
        let why = match patched {
            Ok(Ok(_)) => {
                debug!(policy = %write.key, "status written");
                self.telemetry.controller().status_written("written");
                memory.wrote(write, std::time::Instant::now());
                return true;
            }
            // It went, or is another by now; the next look shows it.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CALL.as_secs()),
        };
        self.telemetry.controller().status_written("failed");
        warn!(policy = %write.key, why, "the status of a policy cannot be written");
        false
    }
}
