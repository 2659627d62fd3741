//! Resources by name, with the order in which they changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::version::{version, version_text};

/// Removals that are remembered of each type. A stream that is further behind begins anew.
pub(super) const REMEMBERED: usize = 10_000;

/// Resources of several types, which are told by their places.
#[derive(Debug)]
pub(super) struct Stores {
    revision: u64,
    stores: Box<[Store]>,
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

/// One moment, while nothing changes.
pub(super) struct Look<'a>(&'a Stores);

impl<'a> Look<'a> {
    pub(super) fn of(stores: &'a Stores) -> Self {
        Self(stores)
    }
}

impl Look<'_> {
    pub(super) fn revision(&self) -> u64 {
        self.0.revision
    }

    /// What differs from what a client says that it has: names with the versions that it got from a server.
    pub(super) fn beside(&self, of: usize, has: &HashMap<String, String>) -> Vec<Told> {
        let store = &self.0.stores[of];
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
    pub(super) fn named(&self, of: usize, name: &str) -> Told {
        let held = self.0.stores[of].resources.get(name);
        let here = held.and_then(|held| Some((held.version, held.value.clone()?)));
        Told { name: name.into(), here }
    }

    /// What changed after a revision.
    pub(super) fn since(&self, of: usize, revision: u64) -> Result<Vec<Told>, Forgotten> {
        let store = &self.0.stores[of];
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

impl Stores {
    pub(super) fn new(types: usize) -> Self {
        Self { revision: 0, stores: (0..types).map(|_| Store::default()).collect() }
    }

    /// Number of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// How many there are of a type.
    pub(super) fn count(&self, of: usize) -> usize {
        self.stores[of].resources.len() - self.stores[of].gone
    }

    pub(super) fn put(&mut self, of: usize, name: Arc<str>, value: Option<Bytes>) {
        let store = &mut self.stores[of];
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
