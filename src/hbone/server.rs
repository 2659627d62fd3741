//! The accepting half: TLS and HTTP/2 over a socket that was accepted, and the requests of its client.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::HeaderMap;
use rustls::InvalidMessage;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::baggage::Baggage;
use crate::config::Config;
use crate::error::{AcceptError, Cause, StreamError, TunnelError};
use crate::head;
use crate::keepalive::Keepalive;
use crate::link::{Broken, Core, Link};
use crate::mux::Role;
use crate::reason::{self, Reason};
use crate::request::{BAGGAGE, ConnectRequest, RequestError};
use crate::stream::{Handle, Stream};
use crate::tls::{self, Failed};

/// An accepted tunnel. [`Self::next`] gives its requests and drives it: nothing moves on its streams while nobody awaits
/// that. Dropped, it ends all its streams.
pub struct Incoming {
    control: Control,
    keepalive: Keepalive,
    over: bool,
}

/// Ends an accepted tunnel from elsewhere; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    drain: AtomicBool,
    cut: AtomicBool,
    streams: AtomicUsize,
    link: Link,
}

/// One request of the client. Dropped without an answer, it is reset.
#[derive(Debug)]
pub struct Connect {
    /// What it asks, or what is wrong with it.
    pub request: Result<ConnectRequest, RequestError>,
    handle: Handle,
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
/// `tls` must allow rustls to hand the traffic keys over (`enable_secret_extraction`): the records of the tunnel are sealed
/// here. `verify` looks at the client's certificates after each handshake, also a resumed one, for which rustls itself
/// verifies nothing; what it returns comes back with the tunnel.
pub async fn accept<P>(
    mut io: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    config: &Config,
) -> Result<(Incoming, P), AcceptError> {
    let deadline = Instant::now() + config.handshake;
    let accepted = timeout_at(deadline, async {
        let _ = io.set_nodelay(true);
        let established = tls::accept(&mut io, tls).await.map_err(tls_error)?;
        if !established.http2 {
            return Err(AcceptError::NotHttp2);
        }
        let peer = verify(&established.chain).map_err(AcceptError::Identity)?;
        let link = Link::new(io, established, Role::Server, config).map_err(before_ready)?;
        // The client's preface and SETTINGS belong to the handshake.
        poll_fn(|cx| {
            let mut core = link.lock();
            match core.poll_turn(cx) {
                Poll::Ready(broken) => Poll::Ready(Err(before_ready(broken))),
                Poll::Pending if core.mux.ready() => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        Ok((link, peer))
    })
    .await;
    let (link, peer) = accepted.map_err(|_| AcceptError::Deadline(config.handshake))??;
    let (drain, cut, streams) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let control = Control(Arc::new(Shared { drain, cut, streams, link }));
    Ok((Incoming { control, keepalive: Keepalive::new(config), over: false }, peer))
}

fn tls_error(failed: Failed) -> AcceptError {
    match failed {
        Failed::Tls(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )) => AcceptError::NotTls,
        Failed::Tls(rustls::Error::NoCertificatesPresented) => AcceptError::NoCertificate,
        Failed::Tls(error) => AcceptError::Tls(error),
        Failed::Io(error) => AcceptError::Io(error),
    }
}

fn before_ready(broken: Broken) -> AcceptError {
    match broken {
        Broken::Tls(error) => AcceptError::Tls(error),
        Broken::Io(kind, text) => AcceptError::Io(std::io::Error::new(kind, text)),
        Broken::Vanished | Broken::PeerClosed => AcceptError::Io(std::io::ErrorKind::UnexpectedEof.into()),
        other => AcceptError::Http2(other.close_reason()),
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
        let shared = Arc::clone(&self.control.0);
        let mut guard = shared.link.lock();
        if let Some(connect) = take(&shared, &mut guard) {
            return Poll::Ready(Some(Ok(connect)));
        }
        match self.poll_driven(cx, &shared, &mut guard) {
            Poll::Ready(broken) => {
                self.over = true;
                let good = match &broken {
                    Broken::Finished => true,
                    // Whoever has nothing open may go at any time.
                    Broken::PeerClosed | Broken::Vanished => guard.mux.open_streams() == 0,
                    _ => false,
                };
                Poll::Ready((!good).then(|| Err(TunnelError(broken.close_reason()))))
            }
            Poll::Pending => match take(&shared, &mut guard) {
                Some(connect) => Poll::Ready(Some(Ok(connect))),
                None => Poll::Pending,
            },
        }
    }

    /// Ready: the tunnel is over.
    fn poll_driven(&mut self, cx: &mut Context<'_>, shared: &Shared, core: &mut Core) -> Poll<Broken> {
        if shared.cut.load(Ordering::Acquire) {
            return Poll::Ready(core.end(Broken::Cut));
        }
        if shared.drain.load(Ordering::Acquire) {
            let core = &mut *core;
            core.mux.drain(&mut core.out);
        }
        if let Poll::Ready(broken) = core.poll_turn(cx) {
            return Poll::Ready(broken);
        }
        if core.mux.drained() {
            return Poll::Ready(core.end(Broken::Finished));
        }
        match self.keepalive.poll_dead(cx, core, || {}) {
            Poll::Ready(()) => Poll::Ready(core.end(Broken::Dead)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The next request that came.
fn take(shared: &Arc<Shared>, core: &mut Core) -> Option<Connect> {
    let id = core.mux.take_request()?;
    let fields = core.mux.stream(id)?.head.take()?;
    let request = ConnectRequest::from_fields(&fields);
    Some(Connect { request, handle: Handle::new(shared.link.clone(), id), permit: Permit::new(shared) })
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.control.0.link.lock().end(Broken::Cut);
    }
}

impl Control {
    /// Tells the client that no more streams are taken (GOAWAY); the tunnel closes when the last one ends.
    pub fn drain(&self) {
        self.0.drain.store(true, Ordering::Release);
        self.0.link.lock().wake_driver();
    }

    /// Ends the tunnel and all its streams at once.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.link.lock().wake_driver();
    }

    /// Requests and streams that are open.
    pub fn active(&self) -> usize {
        self.0.streams.load(Ordering::Acquire)
    }
}

impl Connect {
    /// Answers 200; `baggage` says who the destination is.
    pub fn admit(self, baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = baggage.and_then(Baggage::to_header) {
            headers.insert(BAGGAGE, value);
        }
        self.answer(200, &headers, false)?;
        Ok(Stream::new(self.handle, self.permit.into()))
    }

    /// Answers with a status and the reason: a code in kebab case and one sentence. 400: bad request, or not this
    /// workload; 401: denied by policy; 503: the destination could not be reached.
    pub fn refuse(self, status: u16, code: &str, text: &str) {
        let mut headers = HeaderMap::new();
        if let Some(value) = Reason::new(code, text).to_header() {
            headers.insert(reason::HEADER, value);
        }
        // A client that is gone needs no answer.
        let _ = self.answer(status, &headers, true);
    }

    /// Ready when the client gave the request up: nothing is to be done for it any more.
    pub async fn given_up(&mut self) {
        poll_fn(|cx| self.handle.lock().poll_error(self.handle.id(), cx)).await;
    }

    fn answer(&self, status: u16, headers: &HeaderMap, end: bool) -> Result<(), StreamError> {
        let block = head::answer(status, headers);
        let mut guard = self.handle.lock();
        if let Some(error) = guard.stream_error(self.handle.id()) {
            return Err(error);
        }
        let core = &mut *guard;
        core.mux.answer(self.handle.id(), &block, end, &mut core.out);
        core.sent_some();
        Ok(())
    }
}
