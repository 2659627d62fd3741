//! The resources of now, encoded once, with the order in which they changed.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use aquifer_model::Update;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::convert::encode;
use crate::{Encoded, Type};

/// Removals that are remembered of each type. A stream that is further behind begins anew.
const REMEMBERED: usize = 10_000;

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

/// The resources of now. A change costs the change, whoever listens.
#[derive(Debug)]
pub struct Feed {
    state: RwLock<State>,
    moment: watch::Sender<Moment>,
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
    pub of: Type,
    /// Why, in its own words: at most 500 characters.
    pub why: String,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    stores: [Store; Type::ALL.len()],
}

/// The resources of one type.
#[derive(Debug, Default)]
struct Store {
    resources: HashMap<Arc<str>, Held>,
    /// Names by the number of their last change.
    order: BTreeMap<u64, Arc<str>>,
    /// How many of `resources` are gone.
    gone: usize,
    /// What changed up to here and is gone is forgotten.
    floor: u64,
}

#[derive(Debug)]
struct Held {
    /// `None`: it is gone.
    value: Option<Bytes>,
    version: u64,
    changed: u64,
}

/// A resource, or that it is gone.
pub(super) struct Told {
    pub(super) name: Arc<str>,
    /// Version and value.
    pub(super) here: Option<(u64, Bytes)>,
}

/// What a stream told is too long ago to tell the difference.
pub(super) struct Forgotten;

impl Default for Feed {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            moment: watch::Sender::new(Moment::default()),
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
            state.put(of, name, value);
        }
        let revision = state.revision;
        drop(state);
        self.moment.send_if_modified(|moment| {
            let next = Moment { revision, synced: moment.synced || synced, ..*moment };
            let changed = *moment != next;
            *moment = next;
            changed
        });
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
        let count = |of: Type| state.stores[of.index()].resources.len() - state.stores[of.index()].gone;
        Type::ALL.into_iter().map(|of| (of, count(of))).collect()
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
        look(&Look(&state))
    }
}

/// One moment, while nothing changes.
pub(super) struct Look<'a>(&'a State);

impl Look<'_> {
    pub(super) fn revision(&self) -> u64 {
        self.0.revision
    }

    /// What differs from what a client says that it has: names with the versions that it got from a server.
    pub(super) fn beside(&self, of: Type, has: &HashMap<String, String>) -> Vec<Told> {
        let store = &self.0.stores[of.index()];
        let here = store.resources.iter().filter_map(|(name, held)| {
            let value = held.value.as_ref()?;
            let same = has.get(&**name).is_some_and(|version| *version == version_text(held.version));
            (!same).then(|| Told { name: name.clone(), here: Some((held.version, value.clone())) })
        });
        let is_gone = |name: &str| store.resources.get(name).is_none_or(|held| held.value.is_none());
        let gone = has
            .keys()
            .filter(|name| is_gone(name))
            .map(|name| Told { name: name.as_str().into(), here: None });
        here.chain(gone).collect()
    }

    /// What there is of one name.
    pub(super) fn named(&self, of: Type, name: &str) -> Told {
        let held = self.0.stores[of.index()].resources.get(name);
        let here = held.and_then(|held| Some((held.version, held.value.clone()?)));
        Told { name: name.into(), here }
    }

    /// What changed after a revision.
    pub(super) fn since(&self, of: Type, revision: u64) -> Result<Vec<Told>, Forgotten> {
        let store = &self.0.stores[of.index()];
        if revision < store.floor {
            return Err(Forgotten);
        }
        let changed = store.order.range(revision + 1..);
        Ok(changed
            .filter_map(|(_, name)| {
                let held = store.resources.get(name)?;
                Some(Told { name: name.clone(), here: held.value.clone().map(|value| (held.version, value)) })
            })
            .collect())
    }
}

impl State {
    fn put(&mut self, of: Type, name: Arc<str>, value: Option<Bytes>) {
        let store = &mut self.stores[of.index()];
        let version = value.as_deref().map_or(0, version);
        if let Some(before) = store.resources.get(&name) {
            if before.value == value {
                return;
            }
            store.order.remove(&before.changed);
            store.gone -= usize::from(before.value.is_none());
        } else if value.is_none() {
            return;
        }
        self.revision += 1;
        store.gone += usize::from(value.is_none());
        store.order.insert(self.revision, name.clone());
        store.resources.insert(name, Held { value, version, changed: self.revision });
        while store.gone > REMEMBERED {
            store.forget();
        }
    }
}

impl Store {
    /// Forgets the removal that is longest ago.
    fn forget(&mut self) {
        let is_gone = |name: &Arc<str>| self.resources.get(name).is_some_and(|held| held.value.is_none());
        let Some(oldest) = self.order.iter().find(|(_, name)| is_gone(name)).map(|(number, _)| *number)
        else {
            return;
        };
        if let Some(name) = self.order.remove(&oldest) {
            self.resources.remove(&name);
            self.gone -= 1;
            self.floor = oldest;
        }
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

/// Of the bytes themselves, so that two replicas of the controller give the same.
pub(crate) fn version(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}

pub(crate) fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

#[cfg(test)]
mod tests;
