//! A raw HBONE client that keeps to no rule: any certificate or none, any authority, any header.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use aquifer_integration::Pod;
use aquifer_pki::Issued;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Longer than any deadline of the other side.
const PATIENCE: Duration = Duration::from_secs(15);

/// A tunnel into a pod's port 15008.
#[derive(Debug)]
pub(crate) struct RawTunnel {
    pod: Pod,
    requests: SendRequest<Bytes>,
}

/// What the other side said to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header `aquifer-reason`.
    pub(crate) reason: String,
    body: h2::RecvStream,
    send: h2::SendStream<Bytes>,
}

impl RawTunnel {
    /// TLS and HTTP/2 to `to` from inside the pod, whoever the server is. The error says how far it came.
    pub(crate) fn dial(pod: &Pod, to: SocketAddr, credentials: Option<&Issued>) -> Result<Self> {
        let tls = Arc::new(tls(credentials)?);
        let socket = pod.connect(to)?.stream().try_clone()?;
        socket.set_nonblocking(true)?;
        let _inside = pod.runtime().enter();
        let dialled = pod.runtime().block_on(timeout(PATIENCE, async {
            let io = TcpStream::from_std(socket)?;
            let name = ServerName::IpAddress(to.ip().into());
            let io = TlsConnector::from(tls).connect(name, io).await.context("TLS")?;
            let (requests, mut connection) =
                h2::client::Builder::new().handshake::<_, Bytes>(io).await.context("HTTP/2")?;
            // In TLS 1.3 a client hears only later that its certificate was refused: a PING comes back from who took it.
            let mut pings = connection.ping_pong().context("no ping")?;
            let driver = tokio::spawn(connection);
            if let Err(error) = pings.ping(h2::Ping::opaque()).await {
                return Err(driver.await?.err().unwrap_or(error)).context("the server ended the tunnel");
            }
            Ok(requests)
        }));
        let requests = dialled.context("the server took the certificate and says nothing")??;
        Ok(Self { pod: pod.clone(), requests })
    }

    /// Sends a CONNECT and waits for its answer.
    pub(crate) fn connect(&mut self, authority: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority);
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(())?;
        self.pod.runtime().block_on(async {
            let requests =
                timeout(PATIENCE, self.requests.clone().ready()).await.context("no stream is free")?;
            let (answer, send) = requests?.send_request(request, false)?;
            let answer = timeout(PATIENCE, answer).await.context("no answer came")??;
            let reason = text(answer.headers(), "aquifer-reason");
            Ok(Answer { status: answer.status().as_u16(), reason, body: answer.into_body(), send })
        })
    }

    /// Begins so many requests and resets each at once.
    pub(crate) fn abandon(&mut self, authority: &str, count: usize) -> Result<()> {
        self.pod.runtime().block_on(async {
            for _ in 0..count {
                let mut requests =
                    timeout(PATIENCE, self.requests.clone().ready()).await.context("no stream is free")??;
                let request = Request::builder().method(Method::CONNECT).uri(authority).body(())?;
                let (_, mut send) = requests.send_request(request, false)?;
                send.send_reset(h2::Reason::CANCEL);
            }
            Ok(())
        })
    }
}

impl Answer {
    /// Sends a line in the tunnel and returns as many bytes as it has.
    pub(crate) fn echo(&mut self, pod: &Pod, line: &str) -> Result<String> {
        self.exchange(pod, line, line)
    }

    /// Sends a text in the tunnel and reads until `end` has come.
    pub(crate) fn exchange(&mut self, pod: &Pod, text: &str, end: &str) -> Result<String> {
        self.send.send_data(Bytes::copy_from_slice(text.as_bytes()), false)?;
        let reading = async {
            let mut read = String::new();
            while !read.contains(end) {
                let Some(data) = self.body.data().await else { bail!("it ended after {read:?}") };
                read.push_str(std::str::from_utf8(&data?)?);
            }
            Ok(read)
        };
        let _inside = pod.runtime().enter();
        pod.runtime().block_on(timeout(PATIENCE, reading)).context("nothing came back")?
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn tls(credentials: Option<&Issued>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match credentials {
        Some(issued) => builder.with_client_auth_cert(issued.chain.clone(), issued.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes every server: an attacker does not care.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
