//! The flow series: bounded in number, expiring some time after their last connection, counted without locks.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::labels::{Flags, FlowLabels};
use crate::Metric;
use crate::catalog::{CLOSED, OPENED, OVERFLOWED, RECEIVED, SENT, SERIES};
use crate::clock::{Timeline, millis};
use crate::exposition::Exposition;

/// A connection takes one lock for a moment, and only that of its label set's shard. 16 are many for the cores of one
/// node and few for a sweep.
const SHARDS: usize = 16;
/// While series are being added, those that are over are looked for this often.
const SWEEP_EVERY: u64 = 10_000;
/// The same when the limit is reached: often enough to make room, rarely enough that a flood of label sets does not
/// pay for a sweep each.
const SWEEP_EVERY_FULL: u64 = 1_000;

/// All flow series of a process.
#[derive(Debug)]
pub(crate) struct FlowSeries {
    shards: [RwLock<HashSet<Entry>>; SHARDS],
    hasher: RandomState,
    timeline: Arc<Timeline>,
    limit: usize,
    idle: u64,
    /// Series that count against the limit: all but those of `other`, of which there are a few dozen at most.
    known: AtomicUsize,
    overflowed: AtomicU64,
    swept: AtomicU64,
}

/// One series: a label set and its four counters.
#[derive(Debug)]
pub(crate) struct Series {
    labels: FlowLabels,
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    holders: AtomicUsize,
    /// When it was last let go of, in milliseconds of the timeline.
    released: AtomicU64,
}

/// A series that cannot expire while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    series: Arc<Series>,
    timeline: Arc<Timeline>,
}

/// A series in a set of series, found by its labels.
#[derive(Debug)]
struct Entry(Arc<Series>);

impl FlowSeries {
    pub(crate) fn new(limit: usize, idle: Duration, timeline: Arc<Timeline>) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
            timeline,
            limit,
            idle: millis(idle),
            known: AtomicUsize::new(0),
            overflowed: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        }
    }

    /// The series of a label set, or past the limit the one that counts for it.
    pub(crate) fn hold(&self, labels: FlowLabels) -> Held {
        if let Some(held) = self.find(&labels) {
            return held;
        }
        self.sweep_if_due();
        if labels.is_other() {
            return self.add(labels).0;
        }
        if self.reserve() {
            let (held, added) = self.add(labels);
            if !added {
                self.known.fetch_sub(1, Ordering::Relaxed);
            }
            return held;
        }
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        let labels = labels.into_other();
        self.find(&labels).unwrap_or_else(|| self.add(labels).0)
    }

    /// Drops all series that nobody has held for the idle time.
    pub(crate) fn sweep(&self) {
        let now = self.timeline.millis();
        self.swept.store(now, Ordering::Relaxed);
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            // Holders only appear under the shard's lock, so what nobody holds now, nobody can begin to hold.
            shard.retain(|Entry(series)| {
                let over = series.holders.load(Ordering::Acquire) == 0
                    && now.saturating_sub(series.released.load(Ordering::Relaxed)) >= self.idle;
                if over && !series.labels.is_other() {
                    self.known.fetch_sub(1, Ordering::Relaxed);
                }
                !over
            });
            // The room of a burst is not kept for ever.
            if shard.capacity() > 4 * shard.len().max(16) {
                shard.shrink_to_fit();
            }
        }
    }

    /// Writes what stands, after a sweep.
    pub(crate) fn render(&self, out: &mut Exposition) {
        self.sweep();
        let mut all: Vec<(String, Arc<Series>)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.iter().map(|Entry(series)| (String::new(), series.clone())));
        }
        // The strings are made after the locks are let go.
        for (text, series) in &mut all {
            *text = series.labels.render();
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut family = |metric: &Metric, value: fn(&Series) -> &AtomicU64| {
            out.family(metric);
            for (text, series) in &all {
                let value = value(series).load(Ordering::Relaxed);
                // Series of failures hold closed connections, and mostly nothing else: zeros are left out there.
                if value > 0 || series.labels.flags() == Flags::None {
                    out.sample(metric, text, value);
                }
            }
        };
        family(&OPENED, |s| &s.opened);
        family(&CLOSED, |s| &s.closed);
        family(&SENT, |s| &s.sent);
        family(&RECEIVED, |s| &s.received);
        out.single(&SERIES, self.known.load(Ordering::Relaxed));
        out.single(&OVERFLOWED, self.overflowed.load(Ordering::Relaxed));
    }

    fn find(&self, labels: &FlowLabels) -> Option<Held> {
        let shard = self.shard(labels).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(labels).map(|Entry(series)| Held::new(series, &self.timeline))
    }

    /// Adds a series unless it is there; whether it was added.
    fn add(&self, labels: FlowLabels) -> (Held, bool) {
        let mut shard = self.shard(&labels).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Entry(series)) = shard.get(&labels) {
            return (Held::new(series, &self.timeline), false);
        }
        let series = Arc::new(Series::new(labels));
        let held = Held::new(&series, &self.timeline);
        shard.insert(Entry(series));
        (held, true)
    }

    fn reserve(&self) -> bool {
        let more = |known: usize| (known < self.limit).then_some(known + 1);
        self.known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn sweep_if_due(&self) {
        let full = self.known.load(Ordering::Relaxed) >= self.limit;
        let every = if full { SWEEP_EVERY_FULL } else { SWEEP_EVERY };
        let (now, swept) = (self.timeline.millis(), self.swept.load(Ordering::Relaxed));
        let due = now.saturating_sub(swept) >= every;
        // One thread sweeps; the others go on.
        if due && self.swept.compare_exchange(swept, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.sweep();
        }
    }

    fn shard(&self, labels: &FlowLabels) -> &RwLock<HashSet<Entry>> {
        // The sets hash with states of their own, so taking low bits here does not crowd them.
        &self.shards[self.hasher.hash_one(labels) as usize % SHARDS]
    }
}

impl Series {
    fn new(labels: FlowLabels) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            holders: AtomicUsize::new(0),
            released: AtomicU64::new(0),
        }
    }

    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes from client to server, which Istio calls received (during the request).
    pub(crate) fn to_server(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes from server to client, which Istio calls sent (during the response).
    pub(crate) fn to_client(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn labels(&self) -> &FlowLabels {
        &self.labels
    }
}

impl Held {
    /// Call under the lock of the series' shard.
    fn new(series: &Arc<Series>, timeline: &Arc<Timeline>) -> Self {
        series.holders.fetch_add(1, Ordering::Relaxed);
        Self { series: series.clone(), timeline: timeline.clone() }
    }
}

impl std::ops::Deref for Held {
    type Target = Series;

    fn deref(&self) -> &Series {
        &self.series
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The time first: a sweep that sees no holder must see when the last one left.
        self.series.released.fetch_max(self.timeline.millis(), Ordering::Relaxed);
        self.series.holders.fetch_sub(1, Ordering::Release);
    }
}

impl Borrow<FlowLabels> for Entry {
    fn borrow(&self) -> &FlowLabels {
        &self.0.labels
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.labels.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.labels == other.0.labels
    }
}

impl Eq for Entry {}
