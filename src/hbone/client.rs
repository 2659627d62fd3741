//! The dialling half.
use crate::*;
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
/// A tunnel that this process dialled; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tunnel;
/// The peer's answer to a request that it took.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /** The destination, in the peer's words. */
    pub baggage: Option<Baggage>,
}
/// TLS and HTTP/2 over `io`, which is connected to `to`.
pub async fn dial<P>(
    _io: TcpStream,
    _to: SocketAddr,
    _tls: Arc<rustls::ClientConfig>,
    _verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    _config: &Config,
) -> Result<(Tunnel, P), DialError> {
    todo!()
}
impl Tunnel {
    /// x
    pub async fn open(&self, _request: &ConnectRequest) -> Result<(Stream, Reply), OpenError> {
        todo!()
    }
    /// x
    pub fn usable(&self) -> bool {
        todo!()
    }
    /// x
    pub fn active(&self) -> usize {
        todo!()
    }
    /// x
    pub fn retire(&self) {
        todo!()
    }
    /// x
    pub fn cut(&self) {
        todo!()
    }
    /// x
    pub async fn closed(&self) -> CloseReason {
        todo!()
    }
}
