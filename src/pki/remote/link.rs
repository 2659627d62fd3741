//! The way to the controller: TLS to the identity that it must have, and the token that says who we are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::Identity;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::clock::SystemClock;
use crate::tls::control_client;
use crate::{Authority, CaError, IssuerId, TrustBundle};

/// A dial takes milliseconds; past this the controller is away.
const DIAL: Duration = Duration::from_secs(5);

/// A dead controller is noticed by a ping that is not answered.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Bytes of the files that are read: a token has 1 to 2 KiB, a bundle at most 128 roots.
const MAX_FILE: u64 = 1 << 20;

/// The file beside the roots with the certificate that signs, in PEM: by it a node renews at once what another issuer signed. A controller
/// of an earlier version writes none.
pub const SIGNER: &str = "ca-cert.pem";

/// Where the controller is, and how both sides prove who they are.
#[derive(Clone, Debug)]
pub struct Controller {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Who must answer there.
    pub identity: Identity,
    /// File with our token, read anew for each call: kubelet replaces it while it holds.
    pub token: PathBuf,
    /// File with the trusted roots in PEM; followed, as is [`SIGNER`] beside it.
    pub roots: PathBuf,
    /// Istio's cluster id.
    pub cluster_id: String,
}

/// A connection to the controller that is made when it is needed, and again when it broke.
pub struct Link {
    controller: Controller,
    authority: watch::Sender<Arc<Authority>>,
    channel: Channel,
}

impl Link {
    /// Waits for the roots, which the controller writes at its first start, and prepares the connection. Needs a tokio runtime.
    ///
    /// # Errors
    /// The URL is none, or the file of roots holds something else.
    pub async fn open(controller: Controller) -> Result<Self, CaError> {
        let mut told = false;
        let authority = loop {
            match read(&controller).await {
                Ok(authority) => break authority,
                Err(CaError::Read { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(path = %path.display(), "waiting for the trusted roots, which the controller writes");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        };
        let authority = watch::Sender::new(Arc::new(authority));
        let wrong = |error: String| CaError::Unreachable { url: controller.url.clone(), error };
        let endpoint = Endpoint::from_shared(controller.url.clone())
            .map_err(|error| wrong(error.to_string()))?
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true);
        let connector = Connector { roots: authority.subscribe(), identity: controller.identity.clone() };
        let dial = tower::service_fn(move |uri: Uri| {
            let connector = connector.clone();
            async move {
                match tokio::time::timeout(DIAL, connector.connect(&uri)).await {
                    Ok(dialled) => dialled.map(TokioIo::new),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
                }
            }
        });
        let channel = endpoint.connect_with_connector_lazy(dial);
        Ok(Self { controller, authority, channel })
    }

    /// The connection; it is dialled at its first use.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with our token.
    ///
    /// # Errors
    /// The token cannot be read, or is none.
    pub fn signed<T>(&self, message: T) -> Result<Request<T>, CaError> {
        let path = &self.controller.token;
        let token =
            std::fs::read_to_string(path).map_err(|source| CaError::Read { path: path.clone(), source })?;
        let bad = |detail: &str| CaError::Content { path: path.clone(), detail: detail.to_owned() };
        let mut bearer: MetadataValue<_> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| bad("holds no token"))?;
        bearer.set_sensitive(true);
        let cluster = self.controller.cluster_id.parse().map_err(|_| bad("the cluster id is no header"))?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        request.metadata_mut().insert("clusterid", cluster);
        Ok(request)
    }

    /// Who is trusted, with each change.
    pub fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    /// Reads the roots again, and who signs.
    ///
    /// # Errors
    /// A file cannot be used; all stays as it is.
    pub async fn refresh(&self) -> Result<(), CaError> {
        let next = read(&self.controller).await?;
        self.authority.send_if_modified(|authority| {
            let changed = authority.bundle != next.bundle || authority.issuer != next.issuer;
            if changed {
                *authority = Arc::new(next);
            }
            changed
        });
        Ok(())
    }

    /// An answer of the controller that is a refusal, or a failure on the way to it.
    pub fn refused(&self, status: &Status) -> CaError {
        let url = self.controller.url.clone();
        match status.code() {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::DeadlineExceeded => {
                CaError::Unreachable { url, error: causes(status) }
            }
            code => CaError::Refused {
                url,
                code: format!("{code:?}"),
                reason: crate::certificate::plain(status.message()),
            },
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("controller", &self.controller).finish_non_exhaustive()
    }
}

/// A status with its causes: the outermost text of a failed dial is only "transport error".
fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// Dials the controller.
#[derive(Clone)]
struct Connector {
    roots: watch::Receiver<Arc<Authority>>,
    identity: Identity,
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, what.to_owned());
        let host = uri.host().ok_or_else(|| invalid("the controller's URL has no host"))?;
        let host = host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(15012))).await?;
        stream.set_nodelay(true)?;
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| invalid("the controller's host is no name"))?;
        let bundle = self.roots.borrow().bundle.clone();
        let config = control_client(&bundle, &self.identity, Arc::new(SystemClock));
        TlsConnector::from(config).connect(name, stream).await
    }
}

async fn read(controller: &Controller) -> Result<Authority, CaError> {
    let roots = certificates(&controller.roots).await?;
    let bad = |detail| CaError::Content { path: controller.roots.clone(), detail };
    let bundle = Arc::new(TrustBundle::new(&roots).map_err(bad)?);
    let signer = controller.roots.with_file_name(SIGNER);
    let issuer = match certificates(&signer).await {
        Ok(signers) => signers.first().and_then(|signer| IssuerId::of_signer(signer)),
        Err(CaError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Authority { bundle, issuer })
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let read = |source| CaError::Read { path: path.to_owned(), source };
    let size = tokio::fs::metadata(path).await.map_err(read)?.len();
    if size > MAX_FILE {
        return Err(CaError::TooLarge { path: path.to_owned(), limit: MAX_FILE });
    }
    let pem = tokio::fs::read(path).await.map_err(read)?;
    let bad = |_| CaError::Content { path: path.to_owned(), detail: "is no valid PEM".to_owned() };
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(bad)
}
