//! The task that drives a dialled tunnel: turns, limits, keepalive, and the end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::{RETIRED, Shared, close_reason};
use crate::config::Config;
use crate::error::{CloseReason, DialError};
use crate::keepalive::Keepalive;
use crate::transport::{Transport, Wire};

/// Drives one tunnel to its end.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    /// Asked whether the peer still takes requests: after GOAWAY it does not.
    probe: Option<SendRequest<Bytes>>,
    connection: h2::client::Connection<Transport, Bytes>,
    pub(super) wire: Wire,
    keepalive: Option<Keepalive>,
    own_limit: usize,
    idle: Duration,
    idle_since: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        requests: SendRequest<Bytes>,
        mut connection: h2::client::Connection<Transport, Bytes>,
        wire: Wire,
        config: &Config,
    ) -> Self {
        let keepalive =
            connection.ping_pong().map(|pings| Keepalive::new(pings, config.ping, config.ping_timeout));
        let shared = Arc::new(Shared {
            streams: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            starved_until: AtomicU64::new(0),
            since: Instant::now(),
            requests: Mutex::new(Some(requests.clone())),
            driver: Mutex::new(None),
            gate: Arc::default(),
            closed: watch::Sender::new(None),
            reply: config.reply,
        });
        Self {
            shared,
            probe: Some(requests),
            connection,
            wire,
            keepalive,
            own_limit: config.client_streams as usize,
            idle: config.idle,
            idle_since: Some(Instant::now()),
        }
    }

    /// Ready when the peer's SETTINGS are there.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.poll_turn(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(Err(Broken::Left)),
            Poll::Pending if self.shared.limit.load(Ordering::Acquire) > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// One turn: HTTP/2 reads and writes what it can, then all that was written leaves at once.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.wire.begin_turn();
        let turn = Pin::new(&mut self.connection).poll(cx);
        let limit = self.connection.max_concurrent_send_streams().min(self.own_limit);
        self.shared.limit.store(limit, Ordering::Release);
        match self.wire.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.shared.gate.set_open(true),
            Poll::Ready(Err(error)) if turn.is_pending() => return Poll::Ready(Err(Broken::Io(error))),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.shared.gate.set_open(false),
        }
        turn.map_err(Broken::Http2)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.shared.register(cx);
        if self.shared.cut.load(Ordering::Acquire) {
            return Poll::Ready(CloseReason::Cut);
        }
        loop {
            match self.poll_turn(cx) {
                Poll::Ready(Ok(())) if self.probe.is_none() => return Poll::Ready(CloseReason::Finished),
                Poll::Ready(Ok(())) => return Poll::Ready(CloseReason::PeerClosed),
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {}
            }
            if let Some(probe) = &mut self.probe {
                let mut noop = Context::from_waker(Waker::noop());
                if let Poll::Ready(Err(_)) = probe.poll_ready(&mut noop) {
                    self.shared.streams.fetch_or(RETIRED, Ordering::AcqRel);
                }
                if self.shared.streams.load(Ordering::Acquire) == RETIRED {
                    // Without handles to it the connection says goodbye and closes.
                    self.probe = None;
                    *self.shared.requests() = None;
                    continue;
                }
            }
            break;
        }
        let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
        let (shared, idle_since) = (&self.shared, &mut self.idle_since);
        let mut retire = false;
        let dead = keepalive.poll_dead(cx, self.wire.read_total(), || {
            if shared.streams.load(Ordering::Acquire) != 0 {
                *idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= self.idle {
                // From none to retired in one step: a stream that begins just now keeps the tunnel.
                retire =
                    shared.streams.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire).is_ok();
            }
        });
        if retire {
            cx.waker().wake_by_ref();
        }
        dead.map(|()| CloseReason::Dead)
    }

    pub(super) async fn run(mut self) {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(%reason, "tunnel closed");
        let shared = Arc::clone(&self.shared);
        shared.streams.fetch_or(RETIRED, Ordering::AcqRel);
        *shared.requests() = None;
        // Dropping the connection gives its streams their error; only then may those at the gate look.
        drop(self);
        shared.gate.set_open(true);
        shared.closed.send_replace(Some(reason));
    }
}

/// What ends a turn of the driver.
pub(super) enum Broken {
    Http2(h2::Error),
    Io(std::io::Error),
    /// Closed in good order.
    Left,
}

impl Broken {
    /// With TLS 1.3 a server judges the client's certificate after the client has finished: its alert arrives only when
    /// TLS is done on this side.
    pub(super) fn before_ready(self, wire: &Wire) -> DialError {
        if let Some(error) = wire.tls_error() {
            return DialError::Tls(error);
        }
        match self {
            Self::Http2(error) if !error.is_io() => DialError::Http2(error),
            Self::Http2(error) => error.into_io().map_or(DialError::GivenUp, DialError::Io),
            Self::Io(error) => DialError::Io(error),
            Self::Left => DialError::Left,
        }
    }
}

impl From<Broken> for CloseReason {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Http2(error) => close_reason(&error),
            Broken::Io(error) => Self::Failed(error.to_string()),
            Broken::Left => Self::PeerClosed,
        }
    }
}
