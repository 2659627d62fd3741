//! Who may have which identity: a node those of the pods that run on it now, anybody else its own.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aquifer_model::{Change, Identity, Text, Workload};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::caller::Caller;

/// The pods that an identity may be asked for on a node.
type Place = (Text, Arc<str>, Arc<str>);

/// How many pods there are by node, namespace and service account. Bounded by the pods.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    places: RwLock<HashMap<Place, usize>>,
    changed: watch::Sender<()>,
}

/// Why somebody may not have an identity.
enum Not {
    /// They never may.
    Ever(String),
    /// No pod gives it to them now.
    Now(String),
}

impl Grants {
    /// Takes up a change of the mesh.
    pub(crate) fn apply(&self, change: &Change) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for change in &change.workloads {
            if let Some(place) = change.before.as_deref().and_then(place)
                && let Some(count) = places.get_mut(&place)
            {
                *count -= 1;
                if *count == 0 {
                    places.remove(&place);
                }
            }
            if let Some(place) = change.after.as_deref().and_then(place) {
                *places.entry(place).or_default() += 1;
            }
        }
        drop(places);
        self.changed.send_replace(());
    }

    /// Whether the caller may have the identity; the error says why not. Waits for a pod that is not known yet.
    pub(crate) async fn allow_within(
        &self,
        caller: &Caller,
        identity: &Identity,
        patience: Duration,
    ) -> Result<(), String> {
        let mut changed = self.changed.subscribe();
        let until = Instant::now() + patience;
        loop {
            let why = match self.allow(caller, identity) {
                Ok(()) => return Ok(()),
                Err(Not::Ever(why)) => return Err(why),
                Err(Not::Now(why)) => why,
            };
            match timeout_at(until, changed.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(why),
            }
        }
    }

    fn allow(&self, caller: &Caller, identity: &Identity) -> Result<(), Not> {
        let own =
            *identity.namespace == *caller.namespace && *identity.service_account == *caller.service_account;
        if own {
            return Ok(());
        }
        let who = format!("{}/{}", caller.namespace, caller.service_account);
        if !caller.is_node {
            let why = format!("{who} is no node proxy and may have its own identity only, not {identity}");
            return Err(Not::Ever(why));
        }
        let Some(node) = &caller.node else {
            let why = format!(
                "the token of {who} is not bound to a pod on a node, so it may have no pod's identity"
            );
            return Err(Not::Ever(why));
        };
        let place = (node.as_str().into(), identity.namespace.clone(), identity.service_account.clone());
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        if places.contains_key(&place) {
            return Ok(());
        }
        Err(Not::Now(format!("no pod on node {node} runs as {identity} now")))
    }
}

/// Where a workload counts: on its node, for as long as it runs.
fn place(workload: &Workload) -> Option<Place> {
    let runs = !workload.finished() && !workload.node().is_empty();
    let Identity { namespace, service_account, .. } = workload.identity();
    runs.then(|| (workload.node().clone(), namespace, service_account))
}
