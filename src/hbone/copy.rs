//! The copy between the two ends of a connection: exact counts, half-close both ways, and an end that is never made to
//! look cleaner than it was.
//!
//! An application's socket carries SO_LINGER{1,0} until both directions ended cleanly. Whatever ends the copy before (an
//! error, a cut, this process's death), the application sees a reset, never an end of file in the middle of a download.

mod beat;
mod direct;
mod tunnel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::error::StreamError;

use beat::Beat;
pub use direct::direct;
pub use tunnel::tunnel;

/// First read from a socket, in bytes; reads that fill it double the next. In a tunnel it fills one record.
const READ_MIN: usize = crate::outbox::MAX_PIECE;

/// Counts bytes as they pass: `sent` from client to server, `received` from server to client.
pub trait Meter: Send + Sync {
    /// `bytes` more went from client to server.
    fn sent(&self, bytes: u64);
    /// `bytes` more went from server to client.
    fn received(&self, bytes: u64);
}

impl Meter for () {
    fn sent(&self, _: u64) {}
    fn received(&self, _: u64) {}
}

/// Which application a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// The one that called.
    Client,
    /// The one that was called.
    Server,
}

impl Application {
    fn hop(self) -> Hop {
        match self {
            Self::Client => Hop::Client,
            Self::Server => Hop::Server,
        }
    }

    fn closer(self) -> Closer {
        match self {
            Self::Client => Closer::Client,
            Self::Server => Closer::Server,
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Counts bytes that this application sent.
    pub(crate) fn count(self, meter: &(impl Meter + ?Sized), bytes: usize) {
        match self {
            Self::Client => meter.sent(bytes as u64),
            Self::Server => meter.received(bytes as u64),
        }
    }
}

/// How a copy behaves.
#[derive(Debug)]
pub struct Options<C> {
    /// A connection of which one direction ended, and on the other nothing moved for this long, is reset. `None`: never.
    pub half_close_idle: Option<Duration>,
    /// The process's cap on bytes for readers that do not read.
    pub budget: Arc<Budget>,
    /// Ends the copy at once when it is ready. `std::future::pending()` never does.
    pub cut: C,
}

/// Why the caller ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In kebab case.
    pub code: &'static str,
    /// One sentence.
    pub text: String,
}

/// Who ended a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The application that called.
    Client,
    /// The application that was called.
    Server,
    /// This process, or the tunnel to the other one.
    Proxy,
}

/// Where a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The socket of the application that called.
    Client,
    /// The stream or the tunnel to the other node.
    Tunnel,
    /// The socket of the application that was called.
    Server,
    /// This process decided.
    Proxy,
}

/// A connection that did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// An application reset its connection, or its socket failed.
    #[error("the {} application's connection broke: {error}", name(*.hop))]
    Socket {
        /// Whose socket.
        hop: Hop,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The stream was reset by the other side, or its tunnel failed.
    #[error("{0}")]
    Stream(#[source] StreamError),
    /// One direction had ended, and on the other nothing moved for too long.
    #[error("half-closed, and idle for {0:?}")]
    HalfCloseIdle(Duration),
    /// The process's cap on unread bytes.
    #[error("too many unread bytes in this process, and the {} application's reader stopped longest", name(*.hop))]
    Budget {
        /// Who does not read.
        hop: Hop,
    },
    /// The caller ended it.
    #[error("{}", .0.text)]
    Cut(Cut),
}

fn name(hop: Hop) -> &'static str {
    if hop == Hop::Server { "server" } else { "client" }
}

impl CopyError {
    /// Where it broke.
    pub fn hop(&self) -> Hop {
        match self {
            Self::Socket { hop, .. } | Self::Budget { hop } => *hop,
            Self::Stream(_) => Hop::Tunnel,
            Self::HalfCloseIdle(_) | Self::Cut(_) => Hop::Proxy,
        }
    }

    /// A short code in kebab case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Socket { error, .. } if reset(error) => "connection-reset",
            Self::Socket { .. } => "connection-broken",
            Self::Stream(StreamError::Reset(_)) => "peer-reset",
            Self::Stream(_) => "tunnel-failed",
            Self::HalfCloseIdle(_) => "half-close-idle",
            Self::Budget { .. } => "reader-stopped",
            Self::Cut(cut) => cut.code,
        }
    }
}

fn reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// How a connection ended.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes from client to server that were handed on.
    pub sent: u64,
    /// Bytes from server to client that were handed on.
    pub received: u64,
    /// Who ended it first: the first end of file or reset that was seen.
    pub closed_by: Closer,
    /// Clean: both directions ended with an end of file.
    pub end: Result<(), CopyError>,
}

/// Has the kernel reset the connection when the socket is closed, or not any more.
fn reset_on_close(socket: &TcpStream, on: bool) {
    // It fails only on a socket that is no longer connected, which needs neither.
    let _ = SockRef::from(socket).set_linger(on.then_some(Duration::ZERO));
}

/// Size of the next read, after one of `want` bytes brought `got`: no larger than `most`.
fn next_read(got: usize, want: usize, most: usize) -> usize {
    if got >= want { most.min(want * 2) } else { got.next_power_of_two().clamp(READ_MIN, most) }
}

/// An error the kernel holds for a socket that nobody reads just now.
fn pending_error(socket: &TcpStream) -> Option<io::Error> {
    SockRef::from(socket).take_error().ok().flatten()
}

/// When something last moved on a half-closed connection.
#[derive(Default)]
struct HalfClosed(Option<Instant>);

impl HalfClosed {
    fn moved(&mut self) {
        if let Some(since) = &mut self.0 {
            *since = Instant::now();
        }
    }

    /// Whether it has been idle for too long; `half` says whether the connection is half-closed now.
    fn check(&mut self, half: bool, idle: Option<Duration>) -> Result<(), CopyError> {
        if !half {
            return Ok(());
        }
        let since = *self.0.get_or_insert_with(Instant::now);
        match idle {
            Some(idle) if since.elapsed() >= idle => Err(CopyError::HalfCloseIdle(idle)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
