//! Tunnels by key: one dial at a time, streams on what stands, and another attempt before a byte is lost.
//!
//! A key says whose tunnel it is and where it leads (the source's identity, the destination's identity and incarnation,
//! address, network); this module knows none of that. A key's entry is there exactly while it has a tunnel or a dial.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smallvec::SmallVec;
use tokio::sync::{oneshot, watch};

use crate::client::{Permit, Reply, Tunnel};
use crate::error::{DialError, OpenError};
use crate::request::ConnectRequest;
use crate::stream::Stream;

/// Tunnels dialled for one stream that may fail it, before its opener is told: a peer that ends each tunnel at once is
/// not to be dialled for ever.
const FRESH_FAILURES: usize = 2;

/// Makes a tunnel for one key. The dial is a task of its own, since any of those who wait for it may leave; so its future
/// owns what it needs. Closures are dialers.
pub trait Dialer<P> {
    /// Connects the socket and calls [`crate::dial`].
    fn dial(&self) -> impl Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static;
}

impl<P, F, D> Dialer<P> for F
where
    F: Fn() -> D,
    D: Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static,
{
    fn dial(&self) -> impl Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static {
        self()
    }
}

/// Bounds of a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Tunnels that one key may have at once. Ordinary peers need one for each hundred streams; a peer that allows one
    /// stream a tunnel needs one for each.
    pub tunnels: usize,
    /// Tunnels that one key may have because the others have no window left: each of them is a peer that stopped reading.
    pub starved_tunnels: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { tunnels: 64, starved_tunnels: 4 }
    }
}

/// How a stream came to be.
#[derive(Clone, Debug)]
pub struct Opened<P> {
    /// It is on a tunnel that stood already.
    pub reused: bool,
    /// What the dialer said of the peer.
    pub peer: P,
}

/// One key, for reports.
#[derive(Clone, Debug)]
pub struct KeyReport<K> {
    /// The key.
    pub key: K,
    /// Streams on each tunnel.
    pub tunnels: Vec<usize>,
    /// A dial is under way.
    pub dialing: bool,
}

/// A pool; cheap to clone. When the last clone goes, its tunnels are retired and its dials given up.
#[derive(Debug)]
pub struct Pool<K, P>(Arc<Inner<K, P>>);

impl<K, P> Clone for Pool<K, P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<K, P> {
    config: PoolConfig,
    state: Mutex<State<K, P>>,
}

#[derive(Debug)]
struct State<K, P> {
    entries: HashMap<K, Entry<P>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<P> {
    members: SmallVec<[Member<P>; 1]>,
    /// The dial under way and its number. Those who wait hold it; with the last of them it goes.
    dialing: Option<(u64, Weak<Dialing>)>,
}

#[derive(Clone, Debug)]
struct Member<P> {
    id: u64,
    tunnel: Tunnel,
    peer: P,
}

#[derive(Debug)]
struct Dialing {
    number: u64,
    result: watch::Receiver<Option<Result<(), DialFailure>>>,
    /// Evicted while under way: what comes of it is not for use.
    evicted: Arc<AtomicBool>,
    /// Dropped with the last waiter, which tells the task to give up.
    _waiters: oneshot::Sender<()>,
}

#[derive(Clone, Debug)]
enum DialFailure {
    Failed(Arc<DialError>),
    Evicted,
}

/// What a caller has to do next.
enum Step<P> {
    Use(Member<P>, Permit),
    Wait(Arc<Dialing>),
    Full(usize),
}

impl<K, P> Pool<K, P>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    P: Clone + Send + Sync + 'static,
{
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Self {
        let state = Mutex::new(State { entries: HashMap::new(), next: 0 });
        Self(Arc::new(Inner { config, state }))
    }

    /// Opens a stream on a tunnel of `key`, dialling one where none can take it.
    ///
    /// All who wait for one dial learn its failure together. A tunnel that died, or that the peer is closing, or that
    /// refused the stream unseen, costs another attempt and nothing else.
    pub async fn open(
        &self,
        key: &K,
        dialer: &(impl Dialer<P> + Sync),
        request: &ConnectRequest,
    ) -> Result<(Stream, Reply, Opened<P>), OpenError> {
        let mut dialled = None;
        let mut fresh_failures = 0;
        // Each attempt uses up a tunnel, so what stands at most can fail, and then what is dialled instead.
        let mut attempts = self.0.config.tunnels + 3;
        loop {
            attempts -= 1;
            let (member, permit) = match self.step(key, dialer) {
                Step::Use(member, permit) => (member, permit),
                Step::Full(tunnels) => return Err(OpenError::Exhausted(tunnels)),
                Step::Wait(dialing) => {
                    let mut result = dialing.result.clone();
                    let outcome = match result.wait_for(Option::is_some).await {
                        Ok(result) => result.clone(),
                        Err(_) => Some(Err(DialFailure::Failed(Arc::new(DialError::GivenUp)))),
                    };
                    match outcome {
                        Some(Err(DialFailure::Failed(error))) => return Err(OpenError::Dial(error)),
                        Some(Err(DialFailure::Evicted)) if attempts == 0 => {
                            return Err(OpenError::Unavailable);
                        }
                        _ => dialled = Some(dialing.number),
                    }
                    if attempts == 0 {
                        return Err(OpenError::Unavailable);
                    }
                    continue;
                }
            };
            match member.tunnel.open_with(permit, request).await {
                Ok((stream, reply, starved)) => {
                    if starved {
                        member.tunnel.mark_starved();
                        if attempts > 0 && self.other_may_do(key) {
                            continue;
                        }
                    }
                    let reused = dialled != Some(member.id);
                    return Ok((stream, reply, Opened { reused, peer: member.peer }));
                }
                Err(error) if error.retry() && attempts > 0 && fresh_failures < FRESH_FAILURES => {
                    fresh_failures += usize::from(dialled == Some(member.id));
                    if matches!(error, OpenError::Reset(_)) {
                        // Refused although its limit allows it: the peer is full in a way that it does not say.
                        member.tunnel.mark_starved();
                    } else {
                        member.tunnel.retire();
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Retires the tunnels that `which` names: no new streams, those that stand live on. A dial under way has no peer
    /// yet; named, its result is not used, and who waits for it dials anew. Returns how many were named.
    pub fn evict(&self, which: impl FnMut(&K, Option<&P>) -> bool) -> usize {
        self.remove(which, Tunnel::retire)
    }

    /// Like [`Self::evict`], and ends the streams at once.
    pub fn cut(&self, which: impl FnMut(&K, Option<&P>) -> bool) -> usize {
        self.remove(which, Tunnel::cut)
    }

    /// The keys and what stands for them.
    pub fn report(&self) -> Vec<KeyReport<K>> {
        let state = self.0.state();
        let report = |(key, entry): (&K, &Entry<P>)| KeyReport {
            key: key.clone(),
            tunnels: entry.members.iter().map(|member| member.tunnel.active()).collect(),
            dialing: entry.dialing.is_some(),
        };
        state.entries.iter().map(report).collect()
    }

    fn remove(&self, mut which: impl FnMut(&K, Option<&P>) -> bool, end: impl Fn(&Tunnel)) -> usize {
        let mut removed = 0;
        let mut state = self.0.state();
        for (key, entry) in &mut state.entries {
            for member in entry.members.iter().filter(|member| which(key, Some(&member.peer))) {
                end(&member.tunnel);
                removed += 1;
            }
            if let Some(dialing) = entry.dialing.as_ref().and_then(|(_, dialing)| dialing.upgrade())
                && which(key, None)
            {
                dialing.evicted.store(true, Ordering::Release);
                entry.dialing = None;
                removed += 1;
            }
        }
        state.entries.retain(|_, entry| !entry.is_empty());
        removed
    }

    /// Whether a starved tunnel need not be taken: another stands, or may be dialled.
    fn other_may_do(&self, key: &K) -> bool {
        let state = self.0.state();
        state.entries.get(key).is_none_or(|entry| {
            let mut usable = entry.members.iter().filter(|member| !member.tunnel.retired());
            usable.clone().any(|member| !member.tunnel.starved() && member.tunnel.usable())
                || usable.by_ref().count() < self.0.config.starved_tunnels
        })
    }

    fn step(&self, key: &K, dialer: &impl Dialer<P>) -> Step<P> {
        let mut state = self.0.state();
        let mut standing = 0;
        if let Some(entry) = state.entries.get_mut(key) {
            let usable = || entry.members.iter().filter(|member| !member.tunnel.retired());
            // The first that has room: tunnels that are not needed empty, and close.
            for member in usable().filter(|member| !member.tunnel.starved()) {
                if let Some(permit) = member.tunnel.reserve() {
                    return Step::Use(member.clone(), permit);
                }
            }
            if let Some(dialing) = entry.dialing.as_ref().and_then(|(_, dialing)| dialing.upgrade()) {
                return Step::Wait(dialing);
            }
            standing = usable().count();
            let starved = usable().filter(|member| member.tunnel.starved()).count();
            if starved >= self.0.config.starved_tunnels || standing >= self.0.config.tunnels {
                // A stream that may have to wait is better than none.
                let reserved = |member: &Member<P>| Some((member.clone(), member.tunnel.reserve()?));
                if let Some((member, permit)) = usable().find_map(reserved) {
                    return Step::Use(member, permit);
                }
            }
        }
        if standing >= self.0.config.tunnels {
            return Step::Full(standing);
        }
        Step::Wait(self.start_dial(&mut state, key, dialer))
    }

    fn start_dial(&self, state: &mut State<K, P>, key: &K, dialer: &impl Dialer<P>) -> Arc<Dialing> {
        let number = state.next;
        state.next += 1;
        let (publish, result) = watch::channel(None);
        let (waiters, no_waiter) = oneshot::channel::<()>();
        let evicted = Arc::new(AtomicBool::new(false));
        let dialing = Arc::new(Dialing { number, result, evicted: Arc::clone(&evicted), _waiters: waiters });
        let entry = state
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry { members: SmallVec::new(), dialing: None });
        entry.dialing = Some((number, Arc::downgrade(&dialing)));
        let (pool, key, dial) = (Arc::downgrade(&self.0), key.clone(), dialer.dial());
        tokio::spawn(async move {
            let task = DialTask { pool, key, number };
            let result = tokio::select! {
                result = dial => result,
                _ = no_waiter => return,
            };
            match result {
                Err(error) => {
                    // Out of the map first: who comes now starts a dial of its own.
                    drop(task);
                    publish.send_replace(Some(Err(DialFailure::Failed(Arc::new(error)))));
                }
                Ok(_) if evicted.load(Ordering::Acquire) => {
                    drop(task);
                    publish.send_replace(Some(Err(DialFailure::Evicted)));
                }
                Ok((tunnel, peer)) => {
                    let closed = tunnel.closed();
                    task.join(tunnel, peer);
                    publish.send_replace(Some(Ok(())));
                    closed.await;
                }
            }
        });
        dialing
    }
}

/// Takes its dial, and later its tunnel, out of the map whatever way the task ends.
struct DialTask<K: Eq + Hash, P> {
    pool: Weak<Inner<K, P>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, P> DialTask<K, P> {
    /// The dial became a tunnel.
    fn join(&self, tunnel: Tunnel, peer: P) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut state = pool.state();
        // Without an entry nobody wants it any more.
        let Some(entry) = state.entries.get_mut(&self.key) else { return };
        if entry.dialing.as_ref().is_some_and(|(number, _)| *number == self.number) {
            entry.dialing = None;
            entry.members.push(Member { id: self.number, tunnel, peer });
        }
    }
}

impl<K: Eq + Hash, P> Drop for DialTask<K, P> {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut state = pool.state();
        let Some(entry) = state.entries.get_mut(&self.key) else { return };
        let gone = entry.members.iter().position(|member| member.id == self.number);
        let gone = gone.map(|at| entry.members.remove(at));
        if entry.dialing.as_ref().is_some_and(|(number, _)| *number == self.number) {
            entry.dialing = None;
        }
        if entry.is_empty() {
            state.entries.remove(&self.key);
        }
        drop(state);
        // Its last handle may go here, which wakes its driver: not under the lock.
        drop(gone);
    }
}

impl<P> Entry<P> {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.dialing.is_none()
    }
}

impl<K, P> Inner<K, P> {
    fn state(&self) -> MutexGuard<'_, State<K, P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
