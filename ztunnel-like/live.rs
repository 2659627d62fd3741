//! The connections that a core carries now, so that they can be checked again, listed and ended.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use aquifer_hbone::copy::Cut;
use aquifer_model::{Access, Identity, PodUid, Snapshot, Workload};
use aquifer_pki::{PeerCertificate, Store, Trust};
use aquifer_telemetry::Policy;
use tokio::sync::Notify;

use crate::admit;

/// Live connections of one core. Locked by that core for each connection's start and end, and by control for a look at
/// all; bounded by the number of connections.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_id: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    since: Instant,
    ending: Arc<Ending>,
}

/// The word by which control ends a connection, said at most once.
#[derive(Debug, Default)]
struct Ending {
    said: OnceLock<Ended>,
    wake: Notify,
}

/// Why control ended a connection.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    cut: Cut,
    /// Policy or trust forbids it now; otherwise the pod or the node went away.
    pub(crate) denied: bool,
    /// The deciding rule.
    pub(crate) policy: Option<String>,
}

/// What has to be known of a live connection to judge it again.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Pods of this node that it belongs to.
    pub(crate) pods: [Option<PodUid>; 2],
    /// Who calls whom, as the destination sees it; on the source's side alone there is nothing to authorize.
    pub(crate) access: Option<Claim>,
    /// The other end of its tunnel.
    pub(crate) peer: Option<PeerCertificate>,
    /// The caller's address.
    pub(crate) source: SocketAddr,
    /// What was called.
    pub(crate) destination: SocketAddr,
    /// How it is carried, for listings.
    pub(crate) path: &'static str,
}

/// An access to a pod of this node, as owned data.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) identity: Option<Identity>,
    pub(crate) source: IpAddr,
    pub(crate) destination: PodUid,
    pub(crate) address: SocketAddr,
}

impl Claim {
    pub(crate) fn access<'a>(&'a self, destination: &'a Workload) -> Access<'a> {
        Access { identity: self.identity.as_ref(), source: self.source, destination, address: self.address }
    }
}

/// A connection's place in the list, until dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    live: &'a Live,
    id: u64,
    ending: Arc<Ending>,
}

/// A line of the listing.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Listed {
    source: SocketAddr,
    destination: SocketAddr,
    identity: Option<String>,
    path: &'static str,
    seconds: u64,
}

impl Live {
    /// Adds a connection, before it is authorized: whatever changes from here on finds it.
    pub(crate) fn enter(&self, facts: Facts) -> Entered<'_> {
        let ending = Arc::<Ending>::default();
        let mut entries = self.lock();
        let id = entries.next;
        entries.next += 1;
        entries.by_id.insert(id, Entry { facts, since: Instant::now(), ending: ending.clone() });
        Entered { live: self, id, ending }
    }

    /// Judges all connections by the mesh and the trust of now, and ends those that may not go on.
    pub(crate) fn recheck(&self, mesh: &Snapshot, store: &Store, metrics: &Policy) {
        let now = store.now();
        let entries = self.lock();
        metrics.rechecked(entries.by_id.len() as u64);
        for entry in entries.by_id.values() {
            if let Some(ended) = forbidden(&entry.facts, mesh, store, now) {
                let code = ended.cut.code;
                if entry.ending.say(ended) {
                    metrics.cut(code);
                }
            }
        }
    }

    /// Ends all connections of a pod.
    pub(crate) fn cut_pod(&self, uid: &PodUid, code: &'static str, text: &str) {
        for entry in self.lock().by_id.values().filter(|entry| entry.facts.concerns(uid)) {
            entry.ending.say(Ended::without_policy(code, text));
        }
    }

    /// Ends all connections.
    pub(crate) fn cut_all(&self, code: &'static str, text: &str) {
        for entry in self.lock().by_id.values() {
            entry.ending.say(Ended::without_policy(code, text));
        }
    }

    /// Whether connections of the pod are carried.
    pub(crate) fn carries(&self, uid: &PodUid) -> bool {
        self.lock().by_id.values().any(|entry| entry.facts.concerns(uid))
    }

    /// How many connections are carried.
    pub(crate) fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    /// At most `limit` connections, the oldest first.
    pub(crate) fn list(&self, limit: usize) -> Vec<Listed> {
        let entries = self.lock();
        let mut ids: Vec<_> = entries.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids.truncate(limit);
        ids.iter().filter_map(|id| entries.by_id.get(id)).map(Entry::list).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// True for the first word; later ones are not heard.
    fn say(&self, ended: Ended) -> bool {
        let first = self.said.set(ended).is_ok();
        if first {
            self.wake.notify_one();
        }
        first
    }

    async fn heard(&self) -> Cut {
        loop {
            if let Some(ended) = self.said.get() {
                return ended.cut.clone();
            }
            self.wake.notified().await;
        }
    }
}

impl Ended {
    fn without_policy(code: &'static str, text: &str) -> Self {
        Self { cut: Cut { code, text: text.to_owned() }, denied: false, policy: None }
    }
}

impl Entered<'_> {
    /// Ends the connection when it resolves.
    pub(crate) async fn cut(&self) -> Cut {
        self.ending.heard().await
    }

    /// Why control ended the connection, if it did.
    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ending.said.get()
    }
}

impl Entry {
    fn list(&self) -> Listed {
        let identity = self.facts.access.as_ref().and_then(|claim| claim.identity.as_ref());
        Listed {
            source: self.facts.source,
            destination: self.facts.destination,
            identity: identity.map(ToString::to_string),
            path: self.facts.path,
            seconds: self.since.elapsed().as_secs(),
        }
    }
}

impl Facts {
    fn concerns(&self, uid: &PodUid) -> bool {
        self.pods.iter().flatten().any(|pod| pod == uid)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.live.lock().by_id.remove(&self.id);
    }
}

/// Why a connection may not go on, if it may not.
fn forbidden(facts: &Facts, mesh: &Snapshot, store: &Store, now: std::time::SystemTime) -> Option<Ended> {
    if let Some(peer) = &facts.peer
        && store.still_trusted(peer, now) == Trust::RootRemoved
    {
        let text = format!("the root that vouched for {} is trusted no more", peer.identity);
        return Some(Ended { cut: Cut { code: "root-removed", text }, denied: true, policy: None });
    }
    let claim = facts.access.as_ref()?;
    let destination = mesh.workload_by_uid(&claim.destination)?;
    let denial = admit::decide(mesh, &claim.access(destination)).err()?;
    Some(Ended {
        cut: Cut { code: denial.reason.code(), text: format!("{denial}; the connection stood and was cut") },
        denied: true,
        policy: denial.by.as_ref().map(ToString::to_string),
    })
}
