//! The dialling half: TLS and HTTP/2 over a socket that is connected, and the task that drives the tunnel.

mod driver;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use crate::baggage::Baggage;
use crate::config::Config;
use crate::error::{Cause, CloseReason, DialError, OpenError, StreamError};
use crate::head::Fields;
use crate::link::{Broken, Link};
use crate::mux::Role;
use crate::reason::{self, Reason};
use crate::request::ConnectRequest;
use crate::stream::{Handle as StreamHandle, Stream};
use crate::tls::{self, Failed};
use driver::Driver;

/// Set in [`Shared::streams`] once no new stream may begin.
const RETIRED: usize = 1 << (usize::BITS - 1);
/// How long a fresh stream waits for its first byte of window, before its tunnel counts as starved.
const STARVED_AFTER: Duration = Duration::from_millis(100);
/// How long a starved tunnel is passed over, before a new stream tries it again.
const STARVED_FOR: Duration = Duration::from_secs(5);

/// A tunnel that this process dialled. Cheap to clone; when the last clone goes, the tunnel is retired.
#[derive(Clone, Debug)]
pub struct Tunnel(Arc<Handle>);

/// The peer's answer to a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The destination, in the peer's words.
    pub baggage: Option<Baggage>,
}

/// Retires the tunnel when the last [`Tunnel`] goes; streams live on.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// What the driver, the tunnel's handles and its streams share.
#[derive(Debug)]
struct Shared {
    /// Streams that are open or being opened, and [`RETIRED`].
    streams: AtomicUsize,
    /// How many there may be: ours or the peer's limit, whichever is lower.
    limit: AtomicUsize,
    cut: AtomicBool,
    /// Milliseconds after `since` until which the tunnel is passed over.
    starved_until: AtomicU64,
    since: Instant,
    link: Link,
    closed: watch::Sender<Option<CloseReason>>,
    reply: Duration,
}

/// The right to one stream, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.streams.fetch_sub(1, Ordering::AcqRel);
        if before == RETIRED | 1 {
            self.0.link.lock().wake_driver();
        }
    }
}

/// TLS and HTTP/2 over `io`, which is connected to `to`.
///
/// `tls` must allow rustls to hand the traffic keys over (`enable_secret_extraction`): the records of the tunnel are sealed
/// here. `verify` looks at the peer's certificates after each handshake, also a resumed one, for which rustls itself verifies
/// nothing; what it returns comes back with the tunnel. The tunnel is ready when the peer's SETTINGS are there: so a peer
/// that rejects our certificate is a failed dial and not a failed stream, and its limit of streams is known.
/// Dropped early, the future leaves nothing behind.
pub async fn dial<P>(
    mut io: TcpStream,
    to: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    config: &Config,
) -> Result<(Tunnel, P), DialError> {
    let deadline = Instant::now() + config.handshake;
    let dialled = timeout_at(deadline, async {
        let _ = io.set_nodelay(true);
        // An IP as server name: rustls sends no SNI, and keeps the sessions of different peers apart.
        let name = ServerName::IpAddress(to.ip().into());
        let established = tls::connect(&mut io, tls, name).await.map_err(|failed| match failed {
            Failed::Tls(error) => DialError::Tls(error),
            Failed::Io(error) => DialError::Io(error),
        })?;
        if !established.http2 {
            return Err(DialError::NotHttp2);
        }
        let peer = verify(&established.chain).map_err(DialError::Identity)?;
        let link = Link::new(io, established, Role::Client, config).map_err(before_ready)?;
        let mut driver = Driver::new(link, config);
        poll_fn(|cx| driver.poll_ready(cx)).await.map_err(before_ready)?;
        Ok((driver, peer))
    })
    .await;
    let (driver, peer) = dialled.map_err(|_| DialError::Deadline(config.handshake))??;
    let shared = Arc::clone(&driver.shared);
    tokio::spawn(driver.run());
    Ok((Tunnel(Arc::new(Handle(shared))), peer))
}

/// With TLS 1.3 a server judges the client's certificate after the client has finished: its alert arrives only when TLS is
/// done on this side.
fn before_ready(broken: Broken) -> DialError {
    match broken {
        Broken::Tls(error) => DialError::Tls(error),
        Broken::Io(kind, text) => DialError::Io(std::io::Error::new(kind, text)),
        Broken::Vanished => DialError::Io(std::io::ErrorKind::UnexpectedEof.into()),
        Broken::PeerClosed => DialError::Left,
        other => DialError::Http2(other.close_reason()),
    }
}

impl Tunnel {
    /// Opens a stream: sends the request and waits for the answer, at most [`Config::reply`].
    pub async fn open(&self, request: &ConnectRequest) -> Result<(Stream, Reply), OpenError> {
        let permit = self.reserve().ok_or(OpenError::Unavailable)?;
        let (stream, reply, _) = self.open_with(permit, request).await?;
        Ok((stream, reply))
    }

    /// Whether a stream may begin: not retired, not closed, not full.
    pub fn usable(&self) -> bool {
        let streams = self.0.0.streams.load(Ordering::Acquire);
        streams & RETIRED == 0 && streams < self.0.0.limit.load(Ordering::Acquire)
    }

    /// Streams that are open or being opened.
    pub fn active(&self) -> usize {
        self.0.0.streams.load(Ordering::Acquire) & !RETIRED
    }

    /// No new streams; the tunnel closes when the last one ends.
    pub fn retire(&self) {
        self.0.0.retire();
    }

    /// Ends the tunnel and all its streams at once.
    pub fn cut(&self) {
        self.0.0.cut.store(true, Ordering::Release);
        self.retire();
    }

    /// Waits for the end of the tunnel. The future holds no handle: it keeps no tunnel from being retired.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + use<> {
        let mut closed = self.0.0.closed.subscribe();
        async move {
            match closed.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(CloseReason::Finished),
                // The driver went without a word: its runtime is gone.
                Err(_) => CloseReason::Cut,
            }
        }
    }

    pub(crate) fn retired(&self) -> bool {
        self.0.0.streams.load(Ordering::Acquire) & RETIRED != 0
    }

    pub(crate) fn starved(&self) -> bool {
        let shared = &self.0.0;
        let until = shared.starved_until.load(Ordering::Relaxed);
        until > 0 && shared.since.elapsed() < Duration::from_millis(until)
    }

    /// Passes the tunnel over for a while.
    pub(crate) fn mark_starved(&self) {
        let until = self.0.0.since.elapsed() + STARVED_FOR;
        self.0.0.starved_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn reserve(&self) -> Option<Permit> {
        let shared = &self.0.0;
        let limit = shared.limit.load(Ordering::Acquire);
        shared
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < limit && n & RETIRED == 0).then(|| n + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(shared)))
    }

    /// Also says whether the tunnel has no window left for even one byte: the connection window stays empty.
    pub(crate) async fn open_with(
        &self,
        permit: Permit,
        request: &ConnectRequest,
    ) -> Result<(Stream, Reply, bool), OpenError> {
        let shared = &self.0.0;
        let block = request.block()?;
        let opening = self.begin(&block)?;
        let answer = poll_fn(|cx| opening.poll_answer(cx));
        let fields = timeout(shared.reply, answer).await.map_err(|_| OpenError::Deadline(shared.reply))??;
        let status = fields.status.unwrap_or_default();
        if !(200..300).contains(&status) {
            let reason = fields.headers.get(reason::HEADER).and_then(Reason::parse);
            return Err(OpenError::Refused { status, reason });
        }
        tracing::debug!(id = opening.0.id(), to = %request.authority, "stream opened");
        let reply = Reply { baggage: Baggage::from_headers(&fields.headers) };
        let mut stream = Stream::new(opening.0, permit.into());
        let starved = !stream.has_room()
            && timeout(STARVED_AFTER, poll_fn(|cx| stream.poll_room(cx).map(drop))).await.is_err();
        Ok((stream, reply, starved))
    }

    /// Sends the request.
    fn begin(&self, block: &[u8]) -> Result<Opening, OpenError> {
        let shared = &self.0.0;
        let mut core = shared.link.lock();
        if let Some(over) = core.over() {
            return Err(OpenError::Closed(over.close_reason()));
        }
        let core_mut = &mut *core;
        let id = core_mut.mux.request(block, &mut core_mut.out).ok_or(OpenError::Unavailable)?;
        core.sent_some();
        drop(core);
        Ok(Opening(StreamHandle::new(shared.link.clone(), id)))
    }
}

/// A request without an answer: given up, it is reset.
struct Opening(StreamHandle);

impl Opening {
    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<Fields, OpenError>> {
        let mut core = self.0.lock();
        let id = self.0.id();
        if let Some(entry) = core.mux.stream(id) {
            entry.register(cx);
            // First: an answer in full may be followed by a reset (RFC 9113, 8.1).
            if let Some(fields) = entry.head.take() {
                return Poll::Ready(Ok(fields));
            }
        }
        match core.stream_error(id) {
            None => Poll::Pending,
            Some(StreamError::Reset(code)) => Poll::Ready(Err(OpenError::Reset(code))),
            Some(_) => {
                let reason = core.over().map_or(CloseReason::Cut, Broken::close_reason);
                Poll::Ready(Err(OpenError::Closed(reason)))
            }
        }
    }
}

impl Shared {
    fn retire(&self) {
        self.streams.fetch_or(RETIRED, Ordering::AcqRel);
        self.link.lock().wake_driver();
    }
}
