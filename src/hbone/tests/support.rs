//! Certificates, tunnels and raw peers for the tests of this crate.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::*;

/// One certificate authority and the configurations below it.
pub(crate) struct Mesh {
    pub(crate) client: Arc<ClientConfig>,
    /// Trusts the server, and shows no certificate.
    pub(crate) nobody: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

pub(crate) fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(new_mesh)
}

pub(crate) fn new_mesh() -> Mesh {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |san| {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = || {
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(Arc::clone(&roots))
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let (chain, key) = leaf(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.enable_secret_extraction = true;
    let (chain, key) = leaf(SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap()));
    let mut with = client().with_client_auth_cert(chain, key).unwrap();
    with.alpn_protocols = vec![b"h2".to_vec()];
    with.enable_secret_extraction = true;
    let mut nobody = client().with_no_client_auth();
    nobody.alpn_protocols = vec![b"h2".to_vec()];
    nobody.enable_secret_extraction = true;
    Mesh { client: with.into(), nobody: nobody.into(), server: server.into() }
}

/// No test waits longer for anything; what does has failed.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within 30 s"))
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn chain_length(chain: &[CertificateDer<'static>]) -> Result<usize, Cause> {
    Ok(chain.len())
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Two ends of one TCP connection.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let (listener, address) = listen().await;
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

pub(crate) async fn dial_to(to: SocketAddr, config: &Config) -> Result<(Tunnel, usize), DialError> {
    let io = TcpStream::connect(to).await.map_err(DialError::Connect)?;
    dial(io, to, Arc::clone(&mesh().client), chain_length, config).await
}

/// A tunnel and its other half.
pub(crate) async fn pair(client: &Config, server: &Config) -> (Tunnel, Incoming) {
    let (listener, address) = listen().await;
    let (dialled, accepted) = tokio::join!(dial_to(address, client), async {
        let (io, _) = listener.accept().await.unwrap();
        // As the caller does: once accepted, the tunnel is driven. Here up to the client's being ready.
        accept(io, Arc::clone(&mesh().server), chain_length, server).await.map(|(mut incoming, _)| {
            let (to, from) = tokio::sync::oneshot::channel::<()>();
            let driver = tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = from => {}
                    next = incoming.next() => panic!("nothing was asked: {next:?}"),
                }
                incoming
            });
            (to, driver)
        })
    });
    let (tunnel, _) = dialled.unwrap();
    let (stop, driver) = accepted.unwrap();
    stop.send(()).unwrap();
    (tunnel, driver.await.unwrap())
}

/// Gives each request of `incoming` to a task that runs `work`.
pub(crate) fn serve<F>(mut incoming: Incoming, mut work: impl FnMut(Connect) -> F + Send + 'static) -> Control
where
    F: Future<Output = ()> + Send + 'static,
{
    let control = incoming.control();
    tokio::spawn(async move {
        while let Some(Ok(connect)) = incoming.next().await {
            tokio::spawn(work(connect));
        }
    });
    control
}

/// Sends back what comes, and finishes when the peer does.
pub(crate) async fn echo(connect: Connect) {
    // The request may have been reset before it was answered.
    let Ok(mut stream) = connect.admit(None) else { return };
    while let Some(Ok(data)) = stream.data().await {
        if stream.send(data).await.is_err() {
            return;
        }
    }
    let _ = stream.finish();
}

pub(crate) fn request() -> ConnectRequest {
    ConnectRequest::to(SocketAddr::from(([10, 1, 2, 3], 80)))
}

pub(crate) type RawConnection = h2::client::Connection<tokio_rustls::client::TlsStream<TcpStream>, Bytes>;

/// A client of `h2` alone, over TLS with the mesh's certificate. Nothing drives it.
pub(crate) async fn raw_connection(
    to: SocketAddr,
    builder: &h2::client::Builder,
) -> (h2::client::SendRequest<Bytes>, RawConnection) {
    let io = TcpStream::connect(to).await.unwrap();
    io.set_nodelay(true).unwrap();
    let name = rustls_pki_types::ServerName::IpAddress(to.ip().into());
    let tls = TlsConnector::from(Arc::clone(&mesh().client)).connect(name, io).await.unwrap();
    builder.handshake(tls).await.unwrap()
}

/// The same, driven by a task.
pub(crate) async fn raw_client(
    to: SocketAddr,
    builder: &h2::client::Builder,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let (requests, connection) = raw_connection(to, builder).await;
    (requests, tokio::spawn(connection))
}

pub(crate) type RawServer = h2::server::Connection<tokio_rustls::server::TlsStream<TcpStream>, Bytes>;

/// A server of `h2` alone on the next connection of `listener`.
pub(crate) async fn raw_server(listener: &TcpListener, builder: &h2::server::Builder) -> RawServer {
    let (io, _) = listener.accept().await.unwrap();
    io.set_nodelay(true).unwrap();
    let tls = TlsAcceptor::from(Arc::clone(&mesh().server)).accept(io).await.unwrap();
    builder.handshake(tls).await.unwrap()
}
