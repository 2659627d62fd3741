//! The accepting half.
use crate::*;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::net::TcpStream;
/// An accepted tunnel: its requests come out of `next`, which also drives it and so must be awaited again and again.
#[derive(Debug)]
pub struct Incoming;
/// Ends an accepted tunnel from elsewhere; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control;
/// One request of the client.
#[derive(Debug)]
pub struct Connect {
    /** What it asks. */
    pub request: Result<ConnectRequest, RequestError>,
}
/// TLS and HTTP/2 over `io`.
pub async fn accept<P>(
    _io: TcpStream,
    _tls: Arc<rustls::ServerConfig>,
    _verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<P, Cause> + Send,
    _config: &Config,
) -> Result<(Incoming, P), AcceptError> {
    todo!()
}
impl Incoming {
    /// x
    pub async fn next(&mut self) -> Option<Result<Connect, TunnelError>> {
        todo!()
    }
    /// x
    pub fn control(&self) -> Control {
        todo!()
    }
    /// x
    pub fn drain(&self) {
        todo!()
    }
    /// x
    pub fn cut(&self) {
        todo!()
    }
}
impl Control {
    /// x
    pub fn drain(&self) {
        todo!()
    }
    /// x
    pub fn cut(&self) {
        todo!()
    }
}
impl Connect {
    /// x
    pub fn admit(self, _baggage: Option<&Baggage>) -> Result<Stream, StreamError> {
        todo!()
    }
    /// x
    pub fn refuse(self, _status: u16, _code: &str, _text: &str) {
        todo!()
    }
}
