//! How often somebody may do something: a bucket for each, which fills again with time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets that are kept. Those that are full again are forgotten first; where that is not enough, who is new has to wait.
const KEPT: usize = 20_000;

/// A bucket of each key.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    burst: f64,
    per_second: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// So many at once, and so many each second from then on.
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self { burst: burst.into(), per_second: per_second.into(), buckets: Mutex::default() }
    }

    /// Whether `key` may do it once more now.
    pub(crate) fn allow(&self, key: &K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEPT && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| self.left(bucket, now) < self.burst);
            if buckets.len() >= KEPT {
                return false;
            }
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket { left: self.burst, at: now });
        let left = self.left(bucket, now);
        let allowed = left >= 1.0;
        *bucket = Bucket { left: if allowed { left - 1.0 } else { left }, at: now };
        allowed
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.per_second).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (rates, start) = (Rates::new(3, 2), Instant::now());
        let allowed = (0..10).filter(|_| rates.allow(&"a", start)).count();
        assert_eq!(allowed, 3);
        assert!(rates.allow(&"b", start), "another has a bucket of its own");
        let later = start + Duration::from_secs(1);
        let allowed = (0..10).filter(|_| rates.allow(&"a", later)).count();
        assert_eq!(allowed, 2);
    }

    #[test]
    fn buckets_are_bounded_and_the_full_ones_go_first() {
        let (rates, start) = (Rates::new(1, 1), Instant::now());
        assert!((0..KEPT).all(|key| rates.allow(&key, start)));
        assert!(!rates.allow(&KEPT, start), "all buckets are in use");
        assert!(rates.allow(&KEPT, start + Duration::from_secs(2)));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
