//! The task that drives a dialled tunnel: turns, limits, keepalive, and the end.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::{RETIRED, Shared};
use crate::config::Config;
use crate::keepalive::Keepalive;
use crate::link::{Broken, Core, Link};

/// Drives one tunnel to its end.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    keepalive: Keepalive,
    own_limit: usize,
    idle: Duration,
    idle_since: Option<Instant>,
}

impl Driver {
    pub(super) fn new(link: Link, config: &Config) -> Self {
        let shared = Arc::new(Shared {
            streams: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            starved_until: AtomicU64::new(0),
            since: Instant::now(),
            link,
            closed: watch::Sender::new(None),
            reply: config.reply,
        });
        Self {
            shared,
            keepalive: Keepalive::new(config),
            own_limit: config.client_streams as usize,
            idle: config.idle,
            idle_since: Some(Instant::now()),
        }
    }

    /// Ready when the peer's SETTINGS are there.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let shared = Arc::clone(&self.shared);
        let mut core = shared.link.lock();
        if let Poll::Ready(broken) = self.turn(cx, &mut core) {
            return Poll::Ready(Err(broken));
        }
        if core.mux.goaway().is_some() {
            return Poll::Ready(Err(core.end(Broken::PeerClosed)));
        }
        if core.mux.ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn turn(&self, cx: &mut Context<'_>, core: &mut Core) -> Poll<Broken> {
        let turn = core.poll_turn(cx);
        let limit = (core.mux.peer_streams() as usize).min(self.own_limit);
        self.shared.limit.store(if core.mux.ready() { limit } else { 0 }, Ordering::Release);
        turn
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let shared = Arc::clone(&self.shared);
        let mut core = shared.link.lock();
        if shared.cut.load(Ordering::Acquire) {
            return Poll::Ready(core.end(Broken::Cut));
        }
        if let Poll::Ready(broken) = self.turn(cx, &mut core) {
            return Poll::Ready(broken);
        }
        let left = core.mux.goaway().is_some();
        if left {
            shared.streams.fetch_or(RETIRED, Ordering::AcqRel);
        }
        if shared.streams.load(Ordering::Acquire) == RETIRED {
            return Poll::Ready(core.end(if left { Broken::PeerClosed } else { Broken::Finished }));
        }
        let (idle_since, mut retired) = (&mut self.idle_since, false);
        let dead = self.keepalive.poll_dead(cx, &mut core, || {
            if shared.streams.load(Ordering::Acquire) != 0 {
                *idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= self.idle {
                // From none to retired in one step: a stream that begins just now keeps the tunnel.
                retired =
                    shared.streams.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire).is_ok();
            }
        });
        match dead {
            Poll::Ready(()) => Poll::Ready(core.end(Broken::Dead)),
            Poll::Pending if retired => Poll::Ready(core.end(Broken::Finished)),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) async fn run(mut self) {
        let ended = Ended(Arc::clone(&self.shared));
        let broken = poll_fn(|cx| self.poll(cx)).await;
        let reason = broken.close_reason();
        tracing::debug!(%reason, "tunnel closed");
        // Whoever was told has seen the end: no stream begins any more.
        drop(ended);
        self.shared.closed.send_replace(Some(reason));
    }
}

/// The driver is gone, in whatever way: nobody moves the bytes of its streams any more.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.streams.fetch_or(RETIRED, Ordering::AcqRel);
        self.0.link.lock().end(Broken::Cut);
    }
}
