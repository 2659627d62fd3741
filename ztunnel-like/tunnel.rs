//! Tunnels from pods of this node to pods of others: which one may be shared, and how one is dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aquifer_hbone::{ConnectRequest, DialError, OpenError, Stream, Tunnel};
use aquifer_model::Workload;
use aquifer_pki::{PeerCertificate, Side};
use aquifer_sys::socket::Listen;
use aquifer_telemetry::{Counted, Hop};

use crate::carry;
use crate::core::{Core, TunnelKey};
use crate::failure::{Failure, Next, out_of_descriptors};
use crate::pod::Pod;

/// The other end of a dialled tunnel.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) certificate: PeerCertificate,
    /// The tunnel counts as standing while it is held.
    pub(crate) standing: Arc<Counted>,
}

/// Opens a stream from a pod of this node to a workload, in a tunnel that stands or a new one.
pub(crate) async fn open(
    core: &Arc<Core>,
    pod: &Arc<Pod>,
    workload: &Workload,
    address: IpAddr,
    request: &ConnectRequest,
) -> Result<(Stream, Peer), Failure> {
    let certificate = pod.certificate();
    let key = TunnelKey {
        source: pod.uid.clone(),
        source_identity: certificate.identity().clone(),
        destination: workload.uid().clone(),
        destination_identity: workload.identity(),
        address,
        generation: certificate.generation(),
    };
    let to = SocketAddr::new(address, Listen::Hbone.port());
    let dialer = {
        let (core, pod, key) = (core.clone(), pod.clone(), key.clone());
        move || dial(core.clone(), pod.clone(), key.clone(), to)
    };
    match core.pool.open(&key, &dialer, request).await {
        Ok((stream, _reply, opened)) => Ok((stream, opened.peer)),
        Err(error) => {
            core.shared.telemetry.pool().stream_failed(kind(&error));
            Err(failure(&error, to))
        }
    }
}

/// Dials from inside the pod's namespace, so that the source is the pod.
async fn dial(
    core: Arc<Core>,
    pod: Arc<Pod>,
    key: TunnelKey,
    to: SocketAddr,
) -> Result<(Tunnel, Peer), DialError> {
    let shared = &core.shared;
    let started = std::time::Instant::now();
    let socket = aquifer_sys::socket::connect_socket(&pod.netns, to, None, &|_| false);
    let result = match carry::connected(socket, shared.config.carry.dial).await {
        Ok(socket) => {
            aquifer_sys::socket::unpaced_when_near(&socket);
            let tls = pod.certificate().client(std::slice::from_ref(&key.destination_identity));
            let verify = |chain: &[rustls::pki_types::CertificateDer<'static>]| {
                let bundle = shared.store.bundle();
                aquifer_pki::peer(chain, Side::Server, &bundle, shared.store.now()).map_err(Into::into)
            };
            let dialled = aquifer_hbone::dial(socket, to, tls, verify, &shared.hbone).await;
            dialled.map(|(tunnel, certificate)| {
                let standing = Arc::new(shared.telemetry.pool().tunnel());
                (tunnel, Peer { certificate, standing })
            })
        }
        Err(error) => Err(DialError::Connect(error)),
    };
    match &result {
        Ok(_) => shared.telemetry.pool().dialled(started.elapsed()),
        Err(error) => shared.telemetry.pool().dial_failed(error.code()),
    }
    result
}

/// The metric's label: of a bounded set, so a peer's own words do not count.
fn kind(error: &OpenError) -> &'static str {
    match error {
        OpenError::Refused { .. } => "refused",
        OpenError::Reset(_) => "reset",
        OpenError::Deadline(_) => "reply-timeout",
        OpenError::Unavailable => "unavailable",
        OpenError::Closed(_) => "closed",
        OpenError::Request(_) => "bad-request",
        OpenError::Dial(_) => "dial",
        OpenError::Exhausted(_) => "exhausted",
    }
}

fn failure(error: &OpenError, to: SocketAddr) -> Failure {
    match error {
        OpenError::Refused { status, .. } => {
            Failure::refused_by_peer(*status, error.code(), format!("{to}: {error}"))
        }
        OpenError::Dial(dial) => {
            if let DialError::Tls(tls) = &**dial {
                let otherwise = format!("{to}: {dial}");
                return Failure::tls(tls, error.code(), otherwise).then(Next::AnotherEndpoint);
            }
            if matches!(&**dial, DialError::Connect(error) if out_of_descriptors(error)) {
                return Failure::exhausted();
            }
            let hop = match **dial {
                DialError::Connect(_) | DialError::GivenUp => Hop::Dial,
                DialError::Http2(_) | DialError::Left => Hop::Tunnel,
                _ => Hop::Tls,
            };
            let (next, hint) = match &**dial {
                DialError::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    (Next::AgainSoon, "; the pod is labelled for the mesh, and no node serves it there")
                }
                DialError::Left => (Next::AgainSoon, ""),
                DialError::Connect(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    (Next::AnotherEndpoint, "; a NetworkPolicy that blocks port 15008 looks like this")
                }
                _ => (Next::AnotherEndpoint, ""),
            };
            Failure::failed(hop, error.code(), format!("{to}: {dial}{hint}")).then(next)
        }
        _ => Failure::failed(Hop::Tunnel, error.code(), format!("{to}: {error}")).then(Next::AnotherEndpoint),
    }
}
