//! What can go wrong with a tunnel or a stream: whose fault it is, whether another attempt may help, and what to do.

use std::io;

use crate::code::ResetReason;
use crate::reason::Reason;

/// A cause given by a function of the caller, such as the verification of the peer's identity.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This process, or its configuration.
    Local,
    /// The path between both nodes.
    Network,
    /// The proxy at the other end of the tunnel.
    Peer,
    /// The application behind the peer.
    Destination,
}

/// A tunnel that could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP itself failed; the caller's connector reports this.
    #[error(
        "no TCP connection to the peer's tunnel port: {0}; check that the peer's node runs and that port 15008 is open"
    )]
    Connect(#[source] io::Error),
    /// TLS and HTTP/2 were not ready in time.
    #[error("the peer did not finish the TLS and HTTP/2 handshake within {0:?}")]
    Deadline(std::time::Duration),
    /// TLS refused, by either side.
    #[error("TLS with the peer failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The transport broke during the handshake.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[source] io::Error),
    /// The peer closed the tunnel in good order before it took a stream: its certificate was renewed during the handshake,
    /// or it stops. Another dial may find it ready.
    #[error("the peer closed the new tunnel in good order; it renews its certificate, or stops")]
    Left,
    /// The peer speaks TLS, but not HTTP/2 in it.
    #[error("the peer did not agree on HTTP/2 (ALPN h2); is it an HBONE port?")]
    NotHttp2,
    /// TLS holds, but the caller's verification of the peer's certificates said no.
    #[error("the peer's identity is not accepted: {0}")]
    Identity(#[source] Cause),
    /// HTTP/2 failed before the first stream.
    #[error("HTTP/2 with the peer failed: {0}")]
    Http2(CloseReason),
    /// The task that dialled ended before it had a result: its runtime is shutting down.
    #[error("the dial was given up, because this process is shutting down")]
    GivenUp,
}

impl DialError {
    /// A short code in kebab case, for metrics and flow records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Connect(_) => "tunnel-connect",
            Self::Deadline(_) => "tunnel-handshake-timeout",
            Self::Tls(_) => "tunnel-tls",
            Self::Io(_) => "tunnel-handshake-broken",
            Self::Left => "tunnel-left",
            Self::NotHttp2 => "tunnel-not-http2",
            Self::Identity(_) => "tunnel-peer-identity",
            Self::Http2(_) => "tunnel-http2",
            Self::GivenUp => "tunnel-dial-given-up",
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) | Self::Deadline(_) | Self::Io(_) => Fault::Network,
            Self::Left | Self::Tls(_) | Self::NotHttp2 | Self::Identity(_) | Self::Http2(_) => Fault::Peer,
            Self::GivenUp => Fault::Local,
        }
    }
}

/// An accepted connection that did not become a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// TLS and the HTTP/2 preface were not there in time.
    #[error("the client did not finish the TLS and HTTP/2 handshake within {0:?}")]
    Deadline(std::time::Duration),
    /// The first bytes are no TLS record.
    #[error("the client does not speak TLS; port 15008 takes only HBONE")]
    NotTls,
    /// The client showed no certificate.
    #[error("the client showed no certificate; only mesh workloads may open tunnels")]
    NoCertificate,
    /// TLS refused, by either side.
    #[error("TLS with the client failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The client went away, without or in the middle of a handshake.
    #[error("the client went away during the handshake: {0}")]
    Io(#[source] io::Error),
    /// The client speaks TLS, but not HTTP/2 in it.
    #[error("the client did not offer HTTP/2 (ALPN h2)")]
    NotHttp2,
    /// TLS holds, but the caller's verification of the client's certificates said no.
    #[error("the client's identity is not accepted: {0}")]
    Identity(#[source] Cause),
    /// HTTP/2 failed before the first stream.
    #[error("HTTP/2 with the client failed: {0}")]
    Http2(CloseReason),
}

impl AcceptError {
    /// A short code in kebab case, for metrics and flow records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "handshake-timeout",
            Self::NotTls => "not-tls",
            Self::NoCertificate => "no-certificate",
            Self::Tls(_) => "tls",
            Self::Io(_) => "handshake-broken",
            Self::NotHttp2 => "not-http2",
            Self::Identity(_) => "peer-identity",
            Self::Http2(_) => "http2",
        }
    }
}

/// A stream that could not be opened. No byte of the application was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer answered, and the answer is no.
    #[error("the peer refused with status {status}{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Refused {
        /// HTTP status: 400 bad request or wrong workload, 401 denied by policy, 503 destination not reached.
        status: u16,
        /// The peer's reason, where it is one of ours.
        reason: Option<Reason>,
    },
    /// The peer reset the stream instead of answering.
    #[error("the peer reset the request ({0:?}) without an answer")]
    Reset(ResetReason),
    /// The peer did not answer in time.
    #[error("the peer did not answer the request within {0:?}")]
    Deadline(std::time::Duration),
    /// The tunnel is retired, draining or full; nothing was sent.
    #[error("the tunnel takes no new streams")]
    Unavailable,
    /// The tunnel ended while the request was on its way.
    #[error("the tunnel ended before the peer answered: {0}")]
    Closed(CloseReason),
    /// The request cannot be written as headers.
    #[error("the request cannot be sent: {0}")]
    Request(#[from] crate::request::RequestError),
    /// The pool could not dial.
    #[error("{0}")]
    Dial(std::sync::Arc<DialError>),
    /// Each tunnel to this peer is full, and the pool may not dial another.
    #[error(
        "all {0} tunnels to this peer are full; open fewer connections, or raise the number of tunnels a peer"
    )]
    Exhausted(usize),
}

impl OpenError {
    /// A short code in kebab case, for metrics and flow records: the peer's own where it sent one.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { reason: Some(reason), .. } => reason.code(),
            Self::Refused { status: 400, .. } => "peer-bad-request",
            Self::Refused { status: 401 | 403, .. } => "peer-denied",
            Self::Refused { status: 503, .. } => "peer-no-destination",
            Self::Refused { .. } => "peer-refused",
            Self::Reset(_) => "peer-reset",
            Self::Deadline(_) => "reply-timeout",
            Self::Unavailable => "tunnel-unavailable",
            Self::Closed(_) => "tunnel-closed",
            Self::Request(_) => "bad-request",
            Self::Dial(error) => error.code(),
            Self::Exhausted(_) => "tunnels-exhausted",
        }
    }

    /// The peer's status, where it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { status: 503 | 504, .. } => Fault::Destination,
            Self::Refused { .. } | Self::Reset(_) | Self::Deadline(_) => Fault::Peer,
            Self::Unavailable | Self::Request(_) | Self::Exhausted(_) => Fault::Local,
            Self::Closed(_) => Fault::Network,
            Self::Dial(error) => error.fault(),
        }
    }

    /// Whether the same request may be sent again on another tunnel: the peer did not act on it, or the tunnel died
    /// before it answered. A CONNECT carries no bytes of the application, so nothing is done twice.
    pub fn retry(&self) -> bool {
        match self {
            Self::Reset(reason) => *reason == ResetReason::REFUSED_STREAM,
            Self::Unavailable | Self::Closed(_) => true,
            _ => false,
        }
    }
}

/// Why a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It was retired, or idle too long, and its last stream had ended.
    #[error("it was no longer needed")]
    Finished,
    /// The peer closed it in good order.
    #[error("the peer closed it")]
    PeerClosed,
    /// This side ended it at once.
    #[error("it was cut")]
    Cut,
    /// A PING had no answer.
    #[error("the peer did not answer a PING")]
    Dead,
    /// HTTP/2, TLS or TCP failed.
    #[error("{0}")]
    Failed(String),
}

/// An error on an accepted tunnel; the tunnel is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tunnel ended: {0}")]
pub struct TunnelError(pub CloseReason);

/// An error on a stream; the stream is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset the stream.
    #[error("the peer reset the stream ({0:?})")]
    Reset(ResetReason),
    /// This side reset the stream, or finished it already.
    #[error("the stream is already closed on this side")]
    Closed,
    /// The tunnel below failed.
    #[error("the tunnel failed: {0}")]
    Tunnel(String),
    /// The process holds more unread bytes than its [`crate::Budget`] allows, and this stream's reader stopped longest.
    #[error("too many unread bytes in this process, and this connection's reader stopped longest")]
    Budget,
}
