//! An index in which several may claim one key: the winner is found at once, and all claimants are remembered.

use std::hash::Hash;

use rpds::{HashTrieMapSync, RedBlackTreeSetSync};

use crate::buckets::{Buckets, Holds};

/// `K` to the greatest of its claimants, which hold the key themselves. Persistent: a clone costs nothing, a change costs its own
/// path. Among n claimants of one key a change costs log n, so that a source full of duplicates is no worse than any other.
#[derive(Clone, Debug)]
pub(crate) struct Claims<K: Hash + Eq, R: Ord> {
    winners: Buckets<R>,
    /// All claimants, winner included, of the keys that have more than one: empty in a healthy mesh.
    contested: HashTrieMapSync<K, RedBlackTreeSetSync<R>>,
}

impl<K: Hash + Eq, R: Ord> Default for Claims<K, R> {
    fn default() -> Self {
        Self { winners: Buckets::default(), contested: HashTrieMapSync::new_sync() }
    }
}

impl<K: Hash + Eq + Clone, R: Ord + Clone + Holds<K>> Claims<K, R> {
    /// The winner.
    pub(crate) fn winner<Q>(&self, key: &Q) -> Option<&R>
    where
        R: Holds<Q>,
        Q: Hash + ?Sized,
    {
        self.winners.get(key)
    }

    /// All claimants, the winner first.
    pub(crate) fn claimants(&self, key: &K) -> impl Iterator<Item = &R> {
        let winner = self.winners.get(key);
        let contested = winner.filter(|_| !self.contested.is_empty()).and_then(|_| self.contested.get(key));
        winner.into_iter().chain(contested.into_iter().flat_map(|all| all.iter().rev().skip(1)))
    }

    /// Keys with more than one claimant, and the claimants, winner first.
    pub(crate) fn contested(&self) -> impl Iterator<Item = (&K, impl Iterator<Item = &R>)> {
        self.contested.iter().map(|(key, all)| (key, all.iter().rev()))
    }

    /// Adds a claim; to repeat one changes nothing.
    pub(crate) fn claim(&mut self, key: K, claimant: R) {
        if let Some(all) = self.contested.get_mut(&key) {
            all.insert_mut(claimant.clone());
            if all.last() == Some(&claimant) {
                self.winners.insert(&key, claimant);
            }
            return;
        }
        match self.winners.get(&key) {
            Some(winner) if *winner == claimant => {}
            Some(winner) => {
                let mut all = RedBlackTreeSetSync::new_sync();
                all.insert_mut(winner.clone());
                all.insert_mut(claimant.clone());
                if claimant > *winner {
                    self.winners.insert(&key, claimant);
                }
                self.contested.insert_mut(key, all);
            }
            None => self.winners.insert(&key, claimant),
        }
    }

    /// Takes a claim back; where there was none, nothing changes.
    pub(crate) fn release(&mut self, key: &K, claimant: &R) {
        let Some(all) = self.contested.get_mut(key) else {
            if self.winners.get(key) == Some(claimant) {
                self.winners.remove(key);
            }
            return;
        };
        all.remove_mut(claimant);
        if let Some(winner) = all.last() {
            self.winners.insert(key, winner.clone());
        }
        if all.size() < 2 {
            self.contested.remove_mut(key);
        }
    }
}
