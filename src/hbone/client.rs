//! The dialling half: TLS and HTTP/2 over a socket that is connected, and the task that drives the tunnel.

mod driver;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::baggage::Baggage;
use crate::config::{Config, RESET_MEMORY};
use crate::error::{Cause, CloseReason, DialError, OpenError};
use crate::gate::Gate;
use crate::reason::{self, Reason};
use crate::request::ConnectRequest;
use crate::stream::Stream;
use crate::transport::transport;
use driver::{Broken, Driver};

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
    requests: Mutex<Option<SendRequest<Bytes>>>,
    driver: Mutex<Option<Waker>>,
    gate: Arc<Gate>,
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
            self.0.wake();
        }
    }
}

/// TLS and HTTP/2 over `io`, which is connected to `to`.
///
/// `verify` looks at the peer's certificates after each handshake, also a resumed one, for which rustls itself verifies
/// nothing; what it returns comes back with the tunnel. The tunnel is ready when the peer's SETTINGS are there: so a peer
/// that rejects our certificate is a failed dial and not a failed stream, and its limit of streams is known.
/// Dropped early, the future leaves nothing behind.
pub async fn dial<P>(
    io: TcpStream,
    to: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    config: &Config,
) -> Result<(Tunnel, P), DialError> {
    let deadline = Instant::now() + config.handshake;
    let dialled = timeout_at(deadline, async {
        let _ = io.set_nodelay(true);
        // An IP as server name: rustls sends no SNI, and keeps the sessions of different peers apart.
        let stream = TlsConnector::from(tls).connect(ServerName::IpAddress(to.ip().into()), io).await;
        let (io, tls) = stream.map_err(tls_error)?.into_inner();
        if tls.alpn_protocol() != Some(b"h2") {
            return Err(DialError::NotHttp2);
        }
        let peer = verify(tls.peer_certificates().unwrap_or_default()).map_err(DialError::Identity)?;
        let (transport, wire) = transport(io, tls.into());
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window(config.client_streams))
            .max_frame_size(config.frame)
            .max_header_list_size(config.header_list)
            .max_send_buffer_size(config.send_buffer)
            .data_frame_budget(config.data_frame_budget)
            .reset_stream_duration(RESET_MEMORY)
            .max_concurrent_reset_streams(config.reset_streams)
            .max_local_error_reset_streams(Some(config.forgotten_streams))
            .enable_push(false)
            // None before SETTINGS: the limit of this peer is not known yet, and 0 tells that it is not.
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(transport)
            .await
            .map_err(|error| Broken::Http2(error).before_ready(&wire))?;
        let mut driver = Driver::new(requests, connection, wire, config);
        let ready = poll_fn(|cx| driver.poll_ready(cx)).await;
        ready.map_err(|broken| broken.before_ready(&driver.wire))?;
        Ok((driver, peer))
    })
    .await;
    let (driver, peer) = dialled.map_err(|_| DialError::Deadline(config.handshake))??;
    let shared = Arc::clone(&driver.shared);
    tokio::spawn(driver.run());
    Ok((Tunnel(Arc::new(Handle(shared))), peer))
}

fn tls_error(error: std::io::Error) -> DialError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => DialError::Tls(error),
        Err(error) => DialError::Io(error),
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
        let http = request.to_http()?;
        let (response, mut send) = {
            // A handle of its own: one that had to wait for the peer's limit would hold up the next request.
            let mut requests = shared.requests().clone().ok_or(OpenError::Unavailable)?;
            requests.send_request(http, false).map_err(|error| self.open_error(error))?
        };
        send.reserve_capacity(1);
        let mut send = Unanswered(Some(send));
        let answer = timeout(shared.reply, response).await.map_err(|_| OpenError::Deadline(shared.reply))?;
        let answer = answer.map_err(|error| self.open_error(error))?;
        let (head, recv) = answer.into_parts();
        if !head.status.is_success() {
            let reason = head.headers.get(reason::HEADER).and_then(Reason::parse);
            return Err(OpenError::Refused { status: head.status.as_u16(), reason });
        }
        let Some(send) = send.0.take() else { return Err(OpenError::Unavailable) };
        let reply = Reply { baggage: Baggage::from_headers(&head.headers) };
        let mut stream = Stream::new(send, recv, Arc::clone(&shared.gate), permit.into());
        let starved = timeout(STARVED_AFTER, poll_fn(|cx| stream.poll_capacity(cx, 1))).await.is_err();
        stream.unreserve();
        Ok((stream, reply, starved))
    }

    fn open_error(&self, error: h2::Error) -> OpenError {
        match error.reason() {
            Some(reason) if error.is_reset() => OpenError::Reset(reason),
            _ => {
                // Whatever ended the connection, no stream begins on it again, also before its driver has seen it.
                self.retire();
                OpenError::Closed(close_reason(&error))
            }
        }
    }
}

/// A request without an answer: given up, it is reset.
struct Unanswered(Option<h2::SendStream<Bytes>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(send) = &mut self.0 {
            send.send_reset(h2::Reason::CANCEL);
        }
    }
}

pub(crate) fn close_reason(error: &h2::Error) -> CloseReason {
    let eof = error.get_io().is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof);
    if eof || error.reason() == Some(h2::Reason::NO_ERROR) {
        CloseReason::PeerClosed
    } else {
        CloseReason::Failed(error.to_string())
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        self.streams.fetch_or(RETIRED, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn register(&self, cx: &Context<'_>) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        match &*driver {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *driver = Some(cx.waker().clone()),
        }
    }
}
