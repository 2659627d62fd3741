//! The accepting half: TLS and HTTP/2 over a socket that was accepted, and the requests of its client.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as ResetReason, RecvStream};
use http::{Response, StatusCode};
use rustls::InvalidMessage;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::baggage::Baggage;
use crate::client::close_reason;
use crate::config::{Config, RESET_MEMORY};
use crate::error::{AcceptError, Cause, CloseReason, StreamError, TunnelError};
use crate::gate::Gate;
use crate::keepalive::Keepalive;
use crate::reason::{self, Reason};
use crate::request::{BAGGAGE, ConnectRequest, RequestError};
use crate::stream::Stream;
use crate::transport::{Transport, Wire, transport};

/// An accepted tunnel. [`Self::next`] gives its requests and drives it: nothing moves on its streams while nobody awaits
/// that. Dropped, it ends all its streams.
pub struct Incoming {
    connection: h2::server::Connection<Transport, Bytes>,
    wire: Wire,
    keepalive: Option<Keepalive>,
    control: Control,
    draining: bool,
    over: bool,
}

/// Ends an accepted tunnel from elsewhere; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    drain: AtomicBool,
    cut: AtomicBool,
    streams: AtomicUsize,
    driver: Mutex<Option<Waker>>,
    gate: Arc<Gate>,
}

/// One request of the client. Dropped without an answer, it is reset.
#[derive(Debug)]
pub struct Connect {
    /// What it asks, or what is wrong with it.
    pub request: Result<ConnectRequest, RequestError>,
    answer: SendResponse<Bytes>,
    recv: RecvStream,
    permit: Permit,
}

/// Counts one stream until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Permit {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// TLS and HTTP/2 over `io`.
///
/// `verify` looks at the client's certificates after each handshake, also a resumed one, for which rustls itself verifies
/// nothing; what it returns comes back with the tunnel.
pub async fn accept<P>(
    io: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    config: &Config,
) -> Result<(Incoming, P), AcceptError> {
    let deadline = Instant::now() + config.handshake;
    let accepted = timeout_at(deadline, async {
        let _ = io.set_nodelay(true);
        let (io, tls) = TlsAcceptor::from(tls).accept(io).await.map_err(tls_error)?.into_inner();
        if tls.alpn_protocol() != Some(b"h2") {
            return Err(AcceptError::NotHttp2);
        }
        let peer = verify(tls.peer_certificates().unwrap_or_default()).map_err(AcceptError::Identity)?;
        let (transport, wire) = transport(io, tls.into());
        let connection = h2::server::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window(config.server_streams))
            .max_frame_size(config.frame)
            .max_header_list_size(config.header_list)
            .max_concurrent_streams(config.server_streams)
            .max_send_buffer_size(config.send_buffer)
            .data_frame_budget(config.data_frame_budget)
            .reset_stream_duration(RESET_MEMORY)
            .max_concurrent_reset_streams(config.reset_streams)
            .max_local_error_reset_streams(Some(config.forgotten_streams))
            // Each of an honest client's streams may be given up before it was looked at.
            .max_pending_accept_reset_streams(config.server_streams as usize)
            .handshake::<_, Bytes>(transport)
            .await
            .map_err(|error| http2_error(error, &wire))?;
        Ok((connection, wire, peer))
    })
    .await;
    let (mut connection, wire, peer) = accepted.map_err(|_| AcceptError::Deadline(config.handshake))??;
    let keepalive =
        connection.ping_pong().map(|pings| Keepalive::new(pings, config.ping, config.ping_timeout));
    let control = Control::default();
    Ok((Incoming { connection, wire, keepalive, control, draining: false, over: false }, peer))
}

fn tls_error(error: std::io::Error) -> AcceptError {
    match error.downcast::<rustls::Error>() {
        Ok(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )) => AcceptError::NotTls,
        Ok(rustls::Error::NoCertificatesPresented) => AcceptError::NoCertificate,
        Ok(error) => AcceptError::Tls(error),
        Err(error) => AcceptError::Io(error),
    }
}

fn http2_error(error: h2::Error, wire: &Wire) -> AcceptError {
    match wire.tls_error() {
        Some(error) => AcceptError::Tls(error),
        None if error.is_io() => AcceptError::Io(error.into_io().unwrap_or_else(|| ErrorKind::Other.into())),
        None => AcceptError::Http2(error),
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("control", &self.control).finish_non_exhaustive()
    }
}

impl Incoming {
    /// The next request; `None` when the tunnel is over in good order, an error when it is not. Await it again and again:
    /// it also moves the bytes of all streams. May be dropped and called anew at any time.
    pub async fn next(&mut self) -> Option<Result<Connect, TunnelError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// A handle that ends this tunnel from elsewhere.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// See [`Control::drain`].
    pub fn drain(&self) {
        self.control.drain();
    }

    /// See [`Control::cut`].
    pub fn cut(&self) {
        self.control.cut();
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Connect, TunnelError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.control.0.register(cx);
        if self.control.0.cut.load(Ordering::Acquire) {
            return self.end(cx, Some(Err(TunnelError(CloseReason::Cut))), true);
        }
        if !self.draining && self.control.0.drain.load(Ordering::Acquire) {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
        self.wire.begin_turn();
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, answer)))) => {
                let permit = Permit::new(&self.control.0);
                let read = ConnectRequest::from_http(&request);
                let connect = Connect { request: read, answer, recv: request.into_body(), permit };
                return Poll::Ready(Some(Ok(connect)));
            }
            Poll::Ready(Some(Err(error))) => {
                return self.end(cx, Some(Err(TunnelError(close_reason(&error)))), false);
            }
            Poll::Ready(None) => return self.end(cx, None, false),
            Poll::Pending => {}
        }
        // All that the streams wrote since the last turn leaves now, at once.
        match self.wire.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.control.0.gate.set_open(true),
            Poll::Ready(Err(error)) => {
                let reason = CloseReason::Failed(error.to_string());
                return self.end(cx, Some(Err(TunnelError(reason))), true);
            }
            Poll::Pending => self.control.0.gate.set_open(false),
        }
        let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
        if keepalive.poll_dead(cx, self.wire.read_total(), || {}).is_ready() {
            return self.end(cx, Some(Err(TunnelError(CloseReason::Dead))), true);
        }
        Poll::Pending
    }

    /// The tunnel is over: its streams get their errors, those at the gate get to see them, and what can still be told
    /// to the peer is told.
    fn end(
        &mut self,
        cx: &mut Context<'_>,
        last: Option<Result<Connect, TunnelError>>,
        abrupt: bool,
    ) -> Poll<Option<Result<Connect, TunnelError>>> {
        self.over = true;
        if abrupt {
            self.connection.abrupt_shutdown(ResetReason::CANCEL);
            let _ = self.connection.poll_closed(cx);
        }
        let _ = self.wire.poll_flush(cx);
        self.control.0.gate.set_open(true);
        Poll::Ready(last)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.end(&mut Context::from_waker(Waker::noop()), None, true);
        }
    }
}

impl Control {
    /// Tells the client that no more streams are taken (GOAWAY); the tunnel closes when the last one ends.
    pub fn drain(&self) {
        self.0.drain.store(true, Ordering::Release);
        self.0.wake();
    }

    /// Ends the tunnel and all its streams at once.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.wake();
    }

    /// Requests and streams that are open.
    pub fn active(&self) -> usize {
        self.0.streams.load(Ordering::Acquire)
    }
}

impl Shared {
    fn register(&self, cx: &Context<'_>) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        match &*driver {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *driver = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        let waker = self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Connect {
    /// Answers 200; `baggage` says who the destination is.
    pub fn admit(mut self, baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        let mut response = Response::new(());
        if let Some(value) = baggage.and_then(Baggage::to_header) {
            response.headers_mut().insert(BAGGAGE, value);
        }
        let send = self.answer.send_response(response, false)?;
        let gate = Arc::clone(&self.permit.0.gate);
        Ok(Stream::new(send, self.recv, gate, self.permit.into()))
    }

    /// Answers with a status and the reason: a code in kebab case and one sentence. 400: bad request, or not this
    /// workload; 401: denied by policy; 503: the destination could not be reached.
    pub fn refuse(mut self, status: u16, code: &str, text: &str) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if let Some(value) = Reason::new(code, text).to_header() {
            response.headers_mut().insert(reason::HEADER, value);
        }
        // A client that is gone needs no answer.
        let _ = self.answer.send_response(response, true);
    }

    /// Ready when the client gave the request up: nothing is to be done for it any more.
    pub async fn given_up(&mut self) {
        let _ = poll_fn(|cx| self.answer.poll_reset(cx)).await;
    }
}
