//! The resources of now, encoded once, with the order in which they changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use aquifer_model::{Snapshot, Update};
use tokio::sync::{Semaphore, watch};

use super::istio::Istio;
use super::store::{Look, Stores};
use crate::convert::encode;
use crate::{Encoded, IstioType, Served, Type};

/// Streams that are told the whole at once. With each the names and versions of all that its client has are in memory until it was told
/// what it lacks (at 100,000 workloads some 30 MB); after a restart of the controller all nodes come at the same time.
const TURNS: usize = 8;

/// Rejections that are kept to be shown.
const SHOWN: usize = 32;

/// A moment of the feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Number of the last change.
    pub(super) revision: u64,
    /// Everything that there is is in it.
    pub(super) synced: bool,
    /// Nothing comes after it: the server ends.
    pub(super) ended: bool,
}

impl Moment {
    /// Wakes those who wait for news, if it is any. What was in sync stays so.
    pub(super) fn reach(now: &watch::Sender<Self>, revision: u64, synced: bool) {
        now.send_if_modified(|moment| {
            let next = Self { revision, synced: moment.synced || synced, ..*moment };
            let changed = *moment != next;
            *moment = next;
            changed
        });
    }
}

/// The resources of now. A change costs the change, whoever listens.
#[derive(Debug)]
pub struct Feed {
    state: RwLock<Stores>,
    moment: watch::Sender<Moment>,
    istio: Istio,
    turns: Semaphore,
    clients: Mutex<Clients>,
    rejections: AtomicU64,
}

/// Who listens. Bounded by the streams, which the server bounds.
#[derive(Debug, Default)]
struct Clients {
    next: u64,
    now: BTreeMap<u64, Listener>,
    rejected: VecDeque<Rejection>,
}

/// A client that listens now.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it says that it is, at most 300 characters.
    pub id: String,
    /// Since when.
    pub since: SystemTime,
    /// The revision of the feed that it was told last; 0 before the first.
    pub told: u64,
    /// The revision that it said last that it has.
    pub has: u64,
}

/// Something that a client could not take.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Which client.
    pub id: String,
    /// When.
    pub at: SystemTime,
    /// Of which type.
    pub of: Served,
    /// Why, in its own words: at most 500 characters.
    pub why: String,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            state: RwLock::new(Stores::new(Type::ALL.len())),
            moment: watch::Sender::new(Moment::default()),
            istio: Istio::default(),
            turns: Semaphore::new(TURNS),
            clients: Mutex::default(),
            rejections: AtomicU64::new(0),
        }
    }
}

impl Feed {
    /// An empty feed, which tells nothing until it is in sync.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a batch as one moment. `synced`: with it, everything that there is is known.
    pub fn apply(&self, updates: &[Update], synced: bool) {
        let encoded: Vec<Encoded> = updates.iter().map(encode).collect();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for Encoded { of, name, value } in encoded {
            state.put(of.index(), name, value);
        }
        let revision = state.revision();
        drop(state);
        Moment::reach(&self.moment, revision, synced);
    }

    /// Shows the mesh after the updates of a batch, for those who ask for it in Istio's types. While nobody does, nothing is made of it.
    pub fn show(&self, updates: &[Update], mesh: Arc<Snapshot>, synced: bool) {
        self.istio.show(updates, mesh, synced);
    }

    /// Ends all streams, those of now and those to come: their clients turn to another replica at once, or come again.
    pub fn end(&self) {
        self.moment.send_modify(|moment| moment.ended = true);
    }

    /// Streams that are served now.
    pub fn streams(&self) -> usize {
        self.clients().now.len()
    }

    /// Who listens, in the order in which they came.
    pub fn listeners(&self) -> Vec<Listener> {
        self.clients().now.values().cloned().collect()
    }

    /// What clients could not take, the last 32 of it.
    pub fn rejected(&self) -> Vec<Rejection> {
        self.clients().rejected.iter().cloned().collect()
    }

    /// Number of the last change.
    pub fn revision(&self) -> u64 {
        self.moment.borrow().revision
    }

    /// Answers that a client could not take, since the start.
    pub fn rejections(&self) -> u64 {
        self.rejections.load(Ordering::Relaxed)
    }

    /// How many resources there are of each type.
    pub fn counts(&self) -> Vec<(Type, usize)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Type::ALL.into_iter().map(|of| (of, state.count(of.index()))).collect()
    }

    /// How many there are of Istio's types; nothing while nobody listens to them.
    pub fn istio_counts(&self) -> Vec<(Served, usize)> {
        let count = |of: IstioType| Some((Served::Istio(of), self.istio.count(of)?));
        IstioType::ALL.into_iter().filter_map(count).collect()
    }

    pub(super) fn istio(&self) -> &Istio {
        &self.istio
    }

    pub(super) fn moments(&self) -> watch::Receiver<Moment> {
        self.moment.subscribe()
    }

    /// Those that are told the whole at once; the others wait.
    pub(super) fn turns(&self) -> &Semaphore {
        &self.turns
    }

    pub(super) fn reject(&self, rejection: Rejection) {
        self.rejections.fetch_add(1, Ordering::Relaxed);
        let mut clients = self.clients();
        if clients.rejected.len() >= SHOWN {
            clients.rejected.pop_front();
        }
        clients.rejected.push_back(rejection);
    }

    pub(super) fn opened(self: &Arc<Self>) -> Opened {
        let mut clients = self.clients();
        clients.next += 1;
        let number = clients.next;
        let listener = Listener { id: String::new(), since: SystemTime::now(), told: 0, has: 0 };
        clients.now.insert(number, listener);
        Opened { feed: self.clone(), number }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all types in one moment.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Look<'_>) -> T) -> T {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        look(&Look::of(&state))
    }
}

/// A stream that is listed for as long as it is served.
pub(super) struct Opened {
    feed: Arc<Feed>,
    number: u64,
}

impl Opened {
    /// Notes something about the client.
    pub(super) fn note(&self, note: impl FnOnce(&mut Listener)) {
        if let Some(listener) = self.feed.clients().now.get_mut(&self.number) {
            note(listener);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.feed.clients().now.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
