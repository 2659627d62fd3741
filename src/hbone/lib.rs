//! One HBONE tunnel: CONNECT streams in HTTP/2 over mutual TLS 1.3 over TCP, both halves, and what makes many of them
//! useful: a pool, a cap on buffered bytes, and the copy between an application's socket and a stream.
//!
//! The crate knows no Kubernetes and opens no socket: sockets and TLS configurations come in from the caller, and so does
//! the verification of the peer's identity. All futures are `Send` and need a tokio runtime; the shape is made for
//! current-thread ones, where a tunnel and the sockets of its streams share a core.

mod baggage;
mod batch;
mod budget;
mod client;
mod code;
mod config;
pub mod copy;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod hpack;
mod keepalive;
mod link;
mod mux;
mod outbox;
pub mod pool;
mod reason;
mod request;
mod scratch;
mod server;
mod sink;
mod stream;
mod tls;
mod transfer;
mod waker;

pub use baggage::{Baggage, WorkloadKind};
pub use budget::Budget;
pub use client::{Reply, Tunnel, dial};
pub use code::ResetReason;
pub use config::Config;
pub use error::{AcceptError, Cause, CloseReason, DialError, Fault, OpenError, StreamError, TunnelError};
pub use reason::{HEADER as REASON_HEADER, Reason};
pub use request::{Authority, ConnectRequest, Forwarded, RequestError, Traceparent};
pub use server::{Connect, Control, Incoming, accept};
pub use stream::Stream;

#[cfg(test)]
mod tests;
