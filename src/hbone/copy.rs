//! The copy between two ends of a connection.
use crate::*;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
/// Counts bytes as they pass: `sent` from client to server, `received` from server to client.
pub trait Meter {
    /// x
    fn sent(&self, bytes: u64);
    /// x
    fn received(&self, bytes: u64);
}
impl Meter for () {
    fn sent(&self, _: u64) {}
    fn received(&self, _: u64) {}
}
/// Which application the socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /** The caller. */
    Client,
    /** The called. */
    Server,
}
/// x
pub struct Options<C> {
    /** Half-closed and idle for so long: reset. None: never. */
    pub half_close_idle: Option<Duration>,
    /** x */
    pub budget: Arc<Budget>,
    /** Ends the copy at once. */
    pub cut: C,
}
/// Why the caller ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /** kebab case */
    pub code: &'static str,
    /** One sentence. */
    pub text: String,
}
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /** x */
    Client,
    /** x */
    Server,
    /** x */
    Proxy,
}
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /** The client application's socket. */
    Client,
    /** The tunnel. */
    Tunnel,
    /** The server application's socket. */
    Server,
    /** This process. */
    Proxy,
}
/// x
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /** x */
    #[error("reset")]
    Reset {
        /** x */
        hop: Hop,
    },
}
impl CopyError {
    /// x
    pub fn hop(&self) -> Hop {
        todo!()
    }
    /// x
    pub fn code(&self) -> &'static str {
        todo!()
    }
}
/// x
#[derive(Debug)]
pub struct Outcome {
    /** x */
    pub sent: u64,
    /** x */
    pub received: u64,
    /** x */
    pub closed_by: Closer,
    /** x */
    pub end: Result<(), CopyError>,
}
/// Between an application's socket and a stream.
pub async fn tunnel<C: Future<Output = Cut> + Send>(
    _app: TcpStream,
    _whose: Application,
    _stream: Stream,
    _meter: &(impl Meter + Sync),
    _options: Options<C>,
) -> Outcome {
    todo!()
}
/// Between two sockets, `client` the one that was accepted.
pub async fn direct<C: Future<Output = Cut> + Send>(
    _client: TcpStream,
    _server: TcpStream,
    _meter: &(impl Meter + Sync),
    _options: Options<C>,
) -> Outcome {
    todo!()
}
