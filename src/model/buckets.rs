//! A persistent hash table for what a mesh has a hundred thousand of: sixteen bytes for each thing that is found.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::iter::once;
use std::sync::Arc;

/// Children of each level of arrays: 8,192 buckets in all, with 12 entries each at 100,000. A change copies one array of
/// each level and one bucket, a look-up follows four pointers; a general hash trie has a node, an entry and two lists for
/// each of that. Wider arrays are slower to change, since copying counts up each child, and each is a cache miss. At a
/// million entries a bucket has 122, still little to copy.
const ROWS: usize = 16;
const SHELVES: usize = 16;
const BUCKETS: usize = 16;

/// Things that are found by a key which they hold themselves. A clone costs two reference counts; clones share all buckets that
/// did not change.
#[derive(Clone)]
pub(crate) struct Buckets<T> {
    rows: Arc<[Row<T>]>,
    hasher: RandomState,
}

/// A thing that is found by keys of its own. It is put in once for each of them; that one is taken for another would need two equal
/// hashes of 64 bits under a secret key.
pub(crate) trait Holds<K: ?Sized> {
    fn holds(&self, key: &K) -> bool;
}

type Row<T> = Arc<[Shelf<T>]>;
type Shelf<T> = Arc<[Bucket<T>]>;
type Bucket<T> = Arc<[Entry<T>]>;

#[derive(Clone)]
struct Entry<T> {
    /// Of the key. Compared before the key, so that a look-up follows no other pointer than its own.
    hash: u64,
    thing: T,
}

/// Where a key belongs.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    shelf: usize,
    bucket: usize,
    hash: u64,
}

impl<T> Default for Buckets<T> {
    fn default() -> Self {
        let bucket: Bucket<T> = Arc::new([]);
        let shelf: Shelf<T> = (0..BUCKETS).map(|_| bucket.clone()).collect();
        let row: Row<T> = (0..SHELVES).map(|_| shelf.clone()).collect();
        Self { rows: (0..ROWS).map(|_| row.clone()).collect(), hasher: RandomState::new() }
    }
}

impl<T> Buckets<T> {
    pub(crate) fn get<Q: Hash + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        T: Holds<Q>,
    {
        let place = self.place(key);
        let bucket = &self.rows[place.row][place.shelf][place.bucket];
        bucket.iter().find(|entry| entry.is(place, key)).map(|entry| &entry.thing)
    }

    /// All, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let buckets = self.rows.iter().flat_map(|row| row.iter()).flat_map(|shelf| shelf.iter());
        buckets.flat_map(|bucket| bucket.iter()).map(|entry| &entry.thing)
    }

    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> Place {
        let hash = self.hasher.hash_one(key);
        let low = hash as usize;
        Place { row: low % ROWS, shelf: low / ROWS % SHELVES, bucket: low / (ROWS * SHELVES) % BUCKETS, hash }
    }
}

impl<T: Clone> Buckets<T> {
    /// Puts `thing` in the place of the one that held the key; it holds it, too.
    pub(crate) fn insert<Q: Hash + ?Sized>(&mut self, key: &Q, thing: T)
    where
        T: Holds<Q>,
    {
        let place = self.place(key);
        let entry = Entry { hash: place.hash, thing };
        let bucket = self.bucket(place);
        match bucket.iter().position(|entry| entry.is(place, key)) {
            Some(at) => Arc::make_mut(bucket)[at] = entry,
            // Exactly as large: buckets are many and small, slack in each would double them.
            None => *bucket = bucket.iter().cloned().chain(once(entry)).collect(),
        }
    }

    /// What holds the key, to be changed; it holds it afterwards, too.
    pub(crate) fn get_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut T>
    where
        T: Holds<Q>,
    {
        // Nothing is copied for what is not there.
        self.get(key)?;
        let place = self.place(key);
        let bucket = self.bucket(place);
        let at = bucket.iter().position(|entry| entry.is(place, key))?;
        Some(&mut Arc::make_mut(bucket)[at].thing)
    }

    pub(crate) fn remove<Q: Hash + ?Sized>(&mut self, key: &Q)
    where
        T: Holds<Q>,
    {
        if self.get(key).is_none() {
            return;
        }
        let place = self.place(key);
        let bucket = self.bucket(place);
        *bucket = bucket.iter().filter(|entry| !entry.is(place, key)).cloned().collect();
    }

    fn bucket(&mut self, place: Place) -> &mut Bucket<T> {
        let row = &mut Arc::make_mut(&mut self.rows)[place.row];
        let shelf = &mut Arc::make_mut(row)[place.shelf];
        &mut Arc::make_mut(shelf)[place.bucket]
    }
}

impl<T> Entry<T> {
    fn is<Q: ?Sized>(&self, place: Place, key: &Q) -> bool
    where
        T: Holds<Q>,
    {
        self.hash == place.hash && self.thing.holds(key)
    }
}

impl<T: fmt::Debug> fmt::Debug for Buckets<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<V> Holds<u32> for (u32, V) {
        fn holds(&self, key: &u32) -> bool {
            self.0 == *key
        }
    }

    #[test]
    fn it_holds_what_was_put_in_last_and_clones_do_not_move_with_it() {
        let mut map = Buckets::default();
        for n in 0..50_000u32 {
            map.insert(&n, (n, n));
        }
        let before = map.clone();
        for n in (0..50_000).step_by(2) {
            map.remove(&n);
        }
        map.remove(&0);
        map.insert(&1, (1, 7));
        assert_eq!(map.iter().count(), 25_000);
        assert_eq!((map.get(&0), map.get(&1), map.get(&3)), (None, Some(&(1, 7)), Some(&(3, 3))));
        assert!(before.iter().count() == 50_000 && (0..50_000).all(|n| before.get(&n) == Some(&(n, n))));
    }

    #[test]
    fn a_change_copies_its_own_bucket_and_no_other() {
        let mut map = Buckets::default();
        (0..10_000u32).for_each(|n| map.insert(&n, (n, ())));
        let before = map.clone();
        map.insert(&10_000, (10_000, ()));
        let buckets = |map: &Buckets<(u32, ())>| -> Vec<_> {
            let shelves = map.rows.iter().flat_map(|row| row.iter());
            shelves.flat_map(|shelf| shelf.iter()).map(|bucket| bucket.as_ptr()).collect()
        };
        let (old, new) = (buckets(&before), buckets(&map));
        assert_eq!(old.iter().zip(&new).filter(|(a, b)| a != b).count(), 1);
    }
}
