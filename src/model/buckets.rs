//! A persistent hash map for what a mesh has a hundred thousand of: a few bytes an entry beside key and value.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Children of each level of arrays: 8,192 buckets in all, with 12 entries each at 100,000. A change copies one array of
/// each level and one bucket, a look-up follows four pointers; a general hash trie has a node, an entry and two lists for
/// each of that. Wider arrays are slower to change, since copying counts up each child, and each is a cache miss. At a
/// million entries a bucket has 122, still little to copy.
const ROWS: usize = 16;
const SHELVES: usize = 16;
const BUCKETS: usize = 32;

/// `K` to `V`. A clone costs two reference counts; clones share all buckets that did not change.
#[derive(Clone)]
pub(crate) struct Buckets<K, V> {
    rows: Arc<[Row<K, V>]>,
    hasher: RandomState,
}

type Row<K, V> = Arc<[Shelf<K, V>]>;
type Shelf<K, V> = Arc<[Arc<Vec<Entry<K, V>>>]>;

#[derive(Clone)]
struct Entry<K, V> {
    /// The upper half of the hash, so that a look-up compares hardly any other key than its own.
    tag: u32,
    key: K,
    value: V,
}

/// Where a key belongs.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    shelf: usize,
    bucket: usize,
    tag: u32,
}

impl<K, V> Default for Buckets<K, V> {
    fn default() -> Self {
        let bucket = Arc::new(Vec::new());
        let shelf: Shelf<K, V> = (0..BUCKETS).map(|_| bucket.clone()).collect();
        let row: Row<K, V> = (0..SHELVES).map(|_| shelf.clone()).collect();
        Self { rows: (0..ROWS).map(|_| row.clone()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq, V> Buckets<K, V> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let bucket = &self.rows[place.row][place.shelf][place.bucket];
        bucket.iter().find(|entry| entry.holds(place, key)).map(|entry| &entry.value)
    }

    /// All entries, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let buckets = self.rows.iter().flat_map(|row| row.iter()).flat_map(|shelf| shelf.iter());
        buckets.flat_map(|bucket| bucket.iter()).map(|entry| (&entry.key, &entry.value))
    }

    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> Place {
        let hash = self.hasher.hash_one(key);
        let low = hash as usize;
        Place {
            row: low % ROWS,
            shelf: low / ROWS % SHELVES,
            bucket: low / (ROWS * SHELVES) % BUCKETS,
            tag: (hash >> 32) as u32,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Buckets<K, V> {
    /// Puts a value in the place of the one that the key had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let place = self.place(&key);
        let bucket = self.bucket(place);
        let entry = Entry { tag: place.tag, key, value };
        match bucket.iter_mut().find(|e| e.holds(place, &entry.key)) {
            Some(before) => *before = entry,
            None => {
                // Exactly: buckets are many and small, slack in each would double them.
                bucket.reserve_exact(1);
                bucket.push(entry);
            }
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if self.get(key).is_none() {
            return;
        }
        let place = self.place(key);
        let bucket = self.bucket(place);
        bucket.retain(|entry| !entry.holds(place, key));
        bucket.shrink_to_fit();
    }

    fn bucket(&mut self, place: Place) -> &mut Vec<Entry<K, V>> {
        let row = &mut Arc::make_mut(&mut self.rows)[place.row];
        let shelf = &mut Arc::make_mut(row)[place.shelf];
        Arc::make_mut(&mut Arc::make_mut(shelf)[place.bucket])
    }
}

impl<K, V> Entry<K, V> {
    fn holds<Q: Eq + ?Sized>(&self, place: Place, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.tag == place.tag && self.key.borrow() == key
    }
}

impl<K: Hash + Eq + fmt::Debug, V: fmt::Debug> fmt::Debug for Buckets<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in_last_and_clones_do_not_move_with_it() {
        let mut map = Buckets::default();
        for n in 0..50_000u32 {
            map.insert(n, n);
        }
        let before = map.clone();
        for n in (0..50_000).step_by(2) {
            map.remove(&n);
        }
        map.remove(&0);
        map.insert(1, 7);
        assert_eq!(map.iter().count(), 25_000);
        assert_eq!((map.get(&0), map.get(&1), map.get(&3)), (None, Some(&7), Some(&3)));
        assert!(before.iter().count() == 50_000 && (0..50_000).all(|n| before.get(&n) == Some(&n)));
    }

    #[test]
    fn a_change_copies_its_own_bucket_and_no_other() {
        let mut map = Buckets::default();
        (0..10_000u32).for_each(|n| map.insert(n, ()));
        let before = map.clone();
        map.insert(10_000, ());
        let buckets = |map: &Buckets<u32, ()>| -> Vec<_> {
            let shelves = map.rows.iter().flat_map(|row| row.iter());
            shelves.flat_map(|shelf| shelf.iter()).map(Arc::as_ptr).collect()
        };
        let (old, new) = (buckets(&before), buckets(&map));
        assert_eq!(old.iter().zip(&new).filter(|(a, b)| a != b).count(), 1);
    }
}
