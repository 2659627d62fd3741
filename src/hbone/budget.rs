//! The cap on bytes that this process holds for readers that do not read. Windows bound what one stream may hold; this
//! bounds their sum. Past it the streams whose readers stopped longest are reset, so the others keep their pace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::waker::register;

/// A cap shared by all copies of a process.
#[derive(Debug)]
pub struct Budget {
    cap: usize,
    used: AtomicUsize,
    resets: AtomicU64,
    stopped: Mutex<Stopped>,
}

#[derive(Debug, Default)]
struct Stopped {
    next: u64,
    /// By the order in which they stopped. At most one a connection.
    slots: BTreeMap<u64, Arc<Slot>>,
    /// Bytes of streams that are told to end and have not yet.
    doomed: usize,
}

#[derive(Debug, Default)]
struct Slot {
    held: AtomicUsize,
    doomed: AtomicBool,
    /// What it held when it was doomed: the part of `Stopped::doomed` that is its own.
    counted: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Budget {
    /// A budget of `cap` bytes. A quarter of the process's memory limit is a good cap.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self {
            cap,
            used: AtomicUsize::new(0),
            resets: AtomicU64::new(0),
            stopped: Mutex::new(Stopped::default()),
        })
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The cap, in bytes.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Connections that were reset because of the cap, since the start.
    pub fn resets(&self) -> u64 {
        self.resets.load(Relaxed)
    }

    fn stopped(&self) -> MutexGuard<'_, Stopped> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the streams that stopped longest to end, until what stays fits.
    fn relieve(&self) {
        let mut stopped = self.stopped();
        while self.used().saturating_sub(stopped.doomed) > self.cap {
            let Some((_, slot)) = stopped.slots.pop_first() else { break };
            let held = slot.held.load(Relaxed);
            slot.counted.store(held, Relaxed);
            stopped.doomed += held;
            slot.doomed.store(true, Relaxed);
            self.resets.fetch_add(1, Relaxed);
            let waker = slot.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// One stream's share of a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    budget: Arc<Budget>,
    held: usize,
    /// Made when the reader first stops; most never do.
    slot: Option<Arc<Slot>>,
    place: Option<u64>,
}

impl Hold {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, held: 0, slot: None, place: None }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.held += bytes;
        if self.doomed() {
            // Its bytes were counted as going away; these go with them.
            self.held -= bytes;
            return;
        }
        if let Some(slot) = &self.slot {
            slot.held.store(self.held, Relaxed);
        }
        if self.budget.used.fetch_add(bytes, Relaxed) + bytes > self.budget.cap {
            self.budget.relieve();
        }
    }

    /// The reader took `bytes`: it is no longer stopped.
    pub(crate) fn take(&mut self, bytes: usize) {
        if self.doomed() {
            return;
        }
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.budget.used.fetch_sub(bytes, Relaxed);
        if let Some(slot) = &self.slot {
            slot.held.store(self.held, Relaxed);
        }
        self.leave();
    }

    /// The reader takes nothing now. Wakes `cx` if the stream must end.
    pub(crate) fn stop(&mut self, cx: &Context<'_>) {
        let slot = self.slot.get_or_insert_default();
        register(&mut slot.waker.lock().unwrap_or_else(PoisonError::into_inner), cx);
        if self.place.is_some() {
            return;
        }
        slot.held.store(self.held, Relaxed);
        let mut stopped = self.budget.stopped();
        let place = stopped.next;
        stopped.next += 1;
        stopped.slots.insert(place, Arc::clone(slot));
        self.place = Some(place);
        drop(stopped);
        if self.budget.used() > self.budget.cap {
            self.budget.relieve();
        }
    }

    /// Whether the stream must end.
    pub(crate) fn doomed(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.doomed.load(Relaxed))
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.budget.stopped().slots.remove(&place);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leave();
        let mut stopped = self.budget.stopped();
        // Under the lock, so that nobody chooses by a sum that counts these bytes half.
        self.budget.used.fetch_sub(self.held, Relaxed);
        if let Some(slot) = self.slot.as_ref().filter(|slot| slot.doomed.load(Relaxed)) {
            stopped.doomed -= slot.counted.load(Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn the_one_that_stopped_longest_ends_first() {
        let budget = Budget::new(100);
        let mut holds: Vec<Hold> = (0..3).map(|_| Hold::new(Arc::clone(&budget))).collect();
        for hold in &mut holds {
            hold.add(30);
            hold.stop(&cx());
        }
        // The first one reads a little and stops again: now the second stopped longest.
        holds[0].take(1);
        holds[0].stop(&cx());
        let mut reader = Hold::new(Arc::clone(&budget));
        reader.add(20);
        assert_eq!(holds.iter().map(Hold::doomed).collect::<Vec<_>>(), [false, true, false]);
        // Its bytes still stand, but they are on their way out: nobody else has to go.
        reader.add(10);
        assert_eq!(budget.resets(), 1);
        holds.remove(1);
        assert_eq!(budget.used(), 29 + 30 + 30);
        drop((holds, reader));
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.stopped().doomed, 0);
        assert!(budget.stopped().slots.is_empty());
    }

    #[test]
    fn a_stream_that_stops_when_all_is_full_ends_at_once() {
        let budget = Budget::new(10);
        let mut hold = Hold::new(Arc::clone(&budget));
        hold.add(11);
        assert!(!hold.doomed(), "it reads, so it may yet take it");
        hold.stop(&cx());
        assert!(hold.doomed());
    }
}
