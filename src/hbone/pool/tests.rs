//! The pool against peers that die, refuse, drain or allow little; and many openers at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::*;
use crate::tests::support::*;
use crate::{CloseReason, Config, Control, ResetReason};

type TestPool = Pool<u32, usize>;

fn pool() -> TestPool {
    Pool::new(PoolConfig::default())
}

/// A peer that takes any number of tunnels, and a dialer to it that counts.
#[derive(Clone)]
struct Peer {
    address: std::net::SocketAddr,
    config: Config,
    dials: Arc<AtomicUsize>,
    controls: Arc<Mutex<Vec<Control>>>,
    /// Dials wait for a permit here after they have begun.
    hold: Arc<Semaphore>,
    begun: Arc<Notify>,
}

impl Peer {
    async fn new(server: Config) -> Self {
        let (listener, address) = listen().await;
        let peer = Self {
            address,
            config: Config::default(),
            dials: Arc::default(),
            controls: Arc::default(),
            hold: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            begun: Arc::default(),
        };
        let controls = Arc::clone(&peer.controls);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (server, controls) = (server.clone(), Arc::clone(&controls));
                tokio::spawn(async move {
                    let accepted = crate::accept(io, Arc::clone(&mesh().server), chain_length, &server).await;
                    if let Ok((incoming, _)) = accepted {
                        controls.lock().unwrap().push(serve(incoming, echo));
                    }
                });
            }
        });
        peer
    }

    fn held(mut self) -> Self {
        self.hold = Arc::new(Semaphore::new(0));
        self
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    fn dialer(&self) -> impl Dialer<usize> + Sync + Send + Clone + 'static {
        let peer = self.clone();
        move || {
            let peer = peer.clone();
            async move {
                peer.dials.fetch_add(1, Ordering::SeqCst);
                peer.begun.notify_one();
                peer.hold.acquire().await.unwrap().forget();
                dial_to(peer.address, &peer.config).await
            }
        }
    }

    async fn open(&self, pool: &TestPool) -> Result<(Stream, Opened<usize>), OpenError> {
        let opened = within("open", pool.open(&1, &self.dialer(), &request())).await;
        opened.map(|(stream, _, opened)| (stream, opened))
    }

    /// Openers as tasks, all of them waiting by the time this returns.
    async fn openers(
        &self,
        pool: &TestPool,
        count: usize,
    ) -> JoinSet<Result<(Stream, Opened<usize>), OpenError>> {
        let mut openers = JoinSet::new();
        for _ in 0..count {
            let (peer, pool) = (self.clone(), pool.clone());
            openers.spawn(async move { peer.open(&pool).await });
        }
        // One thread, first come first served: each of them runs before this comes back.
        tokio::task::yield_now().await;
        openers
    }
}

async fn works(stream: &mut Stream) {
    stream.send(Bytes::from_static(b"are you there")).await.unwrap();
    let echo = within("the echo", stream.data()).await.unwrap().unwrap();
    assert_eq!(&echo[..], b"are you there");
}

#[tokio::test]
async fn one_dial_serves_all_who_wait_and_those_who_come_later() {
    let peer = Peer::new(Config::default()).await.held();
    let pool = pool();
    let openers = peer.openers(&pool, 50).await;
    assert_eq!(peer.dials(), 1);
    peer.hold.add_permits(1);
    let opened = openers.join_all().await;
    assert!(opened.iter().all(|opened| opened.as_ref().is_ok_and(|(_, opened)| !opened.reused)));
    let (mut stream, later) = peer.open(&pool).await.unwrap();
    assert!(later.reused);
    works(&mut stream).await;
    assert_eq!(peer.dials(), 1);
    assert_eq!(pool.report()[0].tunnels, [51]);
}

#[tokio::test]
async fn waiters_on_a_dead_peer_fail_together() {
    let (pool, begun, fail) = (pool(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let dialer = {
        let (begun, fail) = (Arc::clone(&begun), Arc::clone(&fail));
        move || {
            let (begun, fail) = (Arc::clone(&begun), Arc::clone(&fail));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                fail.notified().await;
                Err(DialError::Deadline(Duration::from_secs(10)))
            }
        }
    };
    let mut openers = JoinSet::new();
    for _ in 0..200 {
        let (pool, dialer) = (pool.clone(), dialer.clone());
        openers.spawn(async move { pool.open(&1, &dialer, &request()).await.map(drop).unwrap_err() });
    }
    until("the dial", || begun.load(Ordering::SeqCst) == 1).await;
    fail.notify_one();
    let errors = within("all of them", openers.join_all()).await;
    assert!(errors.iter().all(|error| error.code() == "tunnel-handshake-timeout"));
    assert_eq!(begun.load(Ordering::SeqCst), 1, "nobody dialled again after the others' failure");
    assert!(pool.report().is_empty(), "nothing stays of a key that failed");
}

#[tokio::test]
async fn the_last_waiter_takes_the_dial_with_it() {
    let peer = Peer::new(Config::default()).await.held();
    let pool = pool();
    let mut openers = peer.openers(&pool, 3).await;
    peer.begun.notified().await;
    assert!(pool.report()[0].dialing);
    openers.abort_all();
    while openers.join_next().await.is_some() {}
    until("the key is gone", || pool.report().is_empty()).await;
    assert_eq!(Arc::strong_count(&peer.dials), 1, "the dial's future is gone too");
}

#[tokio::test]
async fn a_waiter_that_leaves_costs_the_others_nothing() {
    let peer = Peer::new(Config::default()).await.held();
    let pool = pool();
    let mut leaving = peer.openers(&pool, 1).await;
    let staying = peer.openers(&pool, 1).await;
    leaving.abort_all();
    while leaving.join_next().await.is_some() {}
    peer.hold.add_permits(1);
    assert!(staying.join_all().await.remove(0).is_ok());
    assert_eq!(peer.dials(), 1);
}

#[tokio::test]
async fn a_tunnel_that_drains_or_died_is_dialled_again() {
    for how in ["drain", "cut"] {
        let peer = Peer::new(Config::default()).await;
        let pool = pool();
        drop(peer.open(&pool).await.unwrap());
        until("the tunnel at the peer", || !peer.controls.lock().unwrap().is_empty()).await;
        let control = peer.controls.lock().unwrap()[0].clone();
        if how == "drain" {
            control.drain()
        } else {
            control.cut()
        }
        // No pause: the news may not have arrived, and the next stream must succeed in any case.
        let (mut stream, opened) = peer.open(&pool).await.unwrap();
        works(&mut stream).await;
        assert!(!opened.reused || how == "drain", "{how}");
        until("only a living tunnel stays", || pool.report()[0].tunnels.len() == 1).await;
    }
}

#[tokio::test]
async fn a_peer_that_allows_one_stream_gets_a_tunnel_for_each() {
    let peer = Peer::new(Config { server_streams: 1, ..Config::default() }).await;
    let pool = pool();
    let openers = peer.openers(&pool, 5).await;
    let mut opened = within("all of them", openers.join_all()).await;
    for opened in &mut opened {
        works(&mut opened.as_mut().unwrap().0).await;
    }
    assert_eq!(peer.dials(), 5);
    opened.pop();
    // The tunnel that got free is used again.
    until("a stream ended", || pool.report()[0].tunnels.contains(&0)).await;
    assert!(peer.open(&pool).await.unwrap().1.reused);
}

#[tokio::test]
async fn past_the_bound_of_tunnels_openers_are_told_so() {
    let peer = Peer::new(Config { server_streams: 1, ..Config::default() }).await;
    let pool = Pool::new(PoolConfig { tunnels: 2, ..PoolConfig::default() });
    let _first = peer.open(&pool).await.unwrap();
    let _second = peer.open(&pool).await.unwrap();
    assert!(matches!(peer.open(&pool).await, Err(OpenError::Exhausted(2))));
}

#[tokio::test]
async fn a_hundred_and_one_streams_take_two_tunnels() {
    let peer = Peer::new(Config::default()).await;
    let pool = pool();
    let mut streams = Vec::new();
    for _ in 0..101 {
        streams.push(peer.open(&pool).await.unwrap());
    }
    let mut tunnels = pool.report().remove(0).tunnels;
    tunnels.sort_unstable();
    assert_eq!(tunnels, [1, 100]);
}

/// A raw server whose first stream on the first tunnel is refused; all others are answered.
async fn refuses_first(reason: ResetReason) -> std::net::SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut refuse = true;
        loop {
            let mut server = raw_server(&listener, &h2::server::Builder::new()).await;
            let mut refuse_this = std::mem::take(&mut refuse);
            tokio::spawn(async move {
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = server.accept().await {
                    if std::mem::take(&mut refuse_this) {
                        respond.send_reset(reason.0.into());
                    } else {
                        let send = respond.send_response(http::Response::new(()), false).unwrap();
                        held.push((request, send));
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stream_refused_unseen_is_tried_again_and_another_reset_is_not() {
    let dialer = |address| move || async move { dial_to(address, &Config::default()).await };
    let address = refuses_first(ResetReason::REFUSED_STREAM).await;
    assert!(within("open", pool().open(&1, &dialer(address), &request())).await.is_ok());
    let address = refuses_first(ResetReason::INTERNAL_ERROR).await;
    let error = within("open", pool().open(&1, &dialer(address), &request())).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Reset(ResetReason::INTERNAL_ERROR)), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_ends_each_tunnel_at_once_is_not_dialled_for_ever() {
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let mut server = raw_server(&listener, &h2::server::Builder::new()).await;
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move { server.accept().await.map(drop) });
        }
    });
    let dialer = move || async move { dial_to(address, &Config::default()).await };
    let error = within("open", pool().open(&1, &dialer, &request())).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Closed(_)), "{error:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), FRESH_FAILURES + 1);
}

#[tokio::test]
async fn a_peer_whose_connection_window_stays_empty_gets_another_tunnel() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            // A window of 64 KiB for the whole connection, and nobody reads.
            let mut server = raw_server(&listener, &h2::server::Builder::new()).await;
            tokio::spawn(async move {
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = server.accept().await {
                    held.push((request, respond.send_response(http::Response::new(()), false).unwrap()));
                }
            });
        }
    });
    let dialer = move || async move { dial_to(address, &Config::default()).await };
    let pool = pool();
    let (mut stopped, ..) = within("open", pool.open(&1, &dialer, &request())).await.unwrap();
    let filling = tokio::spawn(async move { stopped.send(Bytes::from(vec![0; 1 << 20])).await });
    let (mut stream, ..) = within("open", async {
        loop {
            let opened = pool.open(&1, &dialer, &request()).await.unwrap();
            if pool.report()[0].tunnels.len() == 2 {
                return opened;
            }
        }
    })
    .await;
    within("room on the new tunnel", stream.send(Bytes::from_static(b"moves"))).await.unwrap();
    assert!(!filling.is_finished());
    filling.abort();
}

#[tokio::test]
async fn eviction_retires_by_key_and_by_peer() {
    let peer = Peer::new(Config::default()).await;
    let pool = pool();
    let (mut stream, _) = peer.open(&pool).await.unwrap();
    assert_eq!(pool.evict(|key, _| *key == 2), 0);
    assert_eq!(pool.evict(|_, peer| *peer.unwrap() == 1), 1);
    works(&mut stream).await;
    let (_other, opened) = peer.open(&pool).await.unwrap();
    assert!(!opened.reused);
    assert_eq!(peer.dials(), 2);
    drop(stream);
    until("the retired one is gone", || pool.report()[0].tunnels.len() == 1).await;
    assert_eq!(pool.cut(|_, _| true), 1);
    until("nothing stays", || pool.report().is_empty()).await;
}

#[tokio::test]
async fn a_dial_that_was_evicted_is_not_used() {
    let peer = Peer::new(Config::default()).await.held();
    let pool = pool();
    let openers = peer.openers(&pool, 3).await;
    peer.begun.notified().await;
    assert_eq!(pool.evict(|_, peer| peer.is_none()), 1);
    peer.hold.add_permits(2);
    let opened = within("all of them", openers.join_all()).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(peer.dials(), 2);
}

#[tokio::test]
async fn the_pool_s_end_retires_its_tunnels() {
    let peer = Peer::new(Config::default()).await;
    let closed = Arc::new(Mutex::new(None));
    let dialer = {
        let (peer, closed) = (peer.clone(), Arc::clone(&closed));
        move || {
            let (peer, closed) = (peer.clone(), Arc::clone(&closed));
            async move {
                let (tunnel, chain) = dial_to(peer.address, &peer.config).await?;
                *closed.lock().unwrap() = Some(tunnel.closed());
                Ok((tunnel, chain))
            }
        }
    };
    let pool = pool();
    drop(within("open", pool.open(&1, &dialer, &request())).await.unwrap());
    drop(pool);
    let closed = closed.lock().unwrap().take().unwrap();
    assert_eq!(within("the tunnel's end", closed).await, CloseReason::Finished);
}

/// What can happen to a pool, in any order.
#[derive(Clone, Debug)]
enum Event {
    Open(u32),
    Leave(usize),
    Finish(usize),
    Evict(u32),
    PeerDrains,
    PeerCuts,
    Pause,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u32..3).prop_map(Event::Open),
        2 => any::<usize>().prop_map(Event::Leave),
        2 => any::<usize>().prop_map(Event::Finish),
        1 => (0u32..3).prop_map(Event::Evict),
        1 => Just(Event::PeerDrains),
        1 => Just(Event::PeerCuts),
        3 => Just(Event::Pause),
    ]
}

/// Whatever the order: each opener that stays gets a stream, and at the end nothing is left.
async fn any_order(events: Vec<Event>) {
    let peer = Peer::new(Config { server_streams: 3, ..Config::default() }).await;
    let pool = pool();
    let (mut opening, mut open) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Open(key) => {
                let (peer, pool) = (peer.clone(), pool.clone());
                opening.push(tokio::spawn(async move {
                    within("open", pool.open(&key, &peer.dialer(), &request()))
                        .await
                        .map(|(stream, ..)| stream)
                }));
            }
            Event::Leave(which) if !opening.is_empty() => {
                opening.swap_remove(which % opening.len()).abort();
            }
            Event::Finish(which) if !opening.is_empty() => {
                let stream = opening.swap_remove(which % opening.len()).await.unwrap();
                open.push(stream.expect("whoever waits gets a stream"));
            }
            Event::Evict(key) => drop(pool.evict(|k, _| *k == key)),
            Event::PeerDrains => peer.controls.lock().unwrap().drain(..).for_each(|control| control.drain()),
            Event::PeerCuts => peer.controls.lock().unwrap().drain(..).for_each(|control| control.cut()),
            Event::Leave(_) | Event::Finish(_) | Event::Pause => tokio::task::yield_now().await,
        }
    }
    for opening in opening {
        open.push(opening.await.unwrap().expect("whoever waits gets a stream"));
    }
    drop(open);
    pool.evict(|_, _| true);
    until("the map is empty", || pool.report().is_empty()).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_order_of_events_strands_an_opener(events in proptest::collection::vec(event(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(any_order(events));
    }
}
