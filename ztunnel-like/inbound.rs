//! A tunnel to a pod: handshake, then for each CONNECT the whole way to the application, in [`connect`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aquifer_hbone::copy::Application;
use aquifer_hbone::{AcceptError, Authority, Connect, Control, Incoming, Stream};
use aquifer_model::{PROXY_PORTS, Protocol, Workload};
use aquifer_pki::{PeerCertificate, Side, Trust};
use aquifer_sys::socket::Accepted;
use aquifer_telemetry::{Flow, FlowStart, Hop, Path, Peer, Reporter};
use tokio::net::TcpStream;
use tracing::debug;

use crate::accept;
use crate::admit;
use crate::carry::{self, Flows};
use crate::core::Core;
use crate::failure::Failure;
use crate::live::{Claim, Entered, Facts};
use crate::pod::{Doors, Pod};
use crate::shared::Slot;

/// Longest time between two looks at the clock of a tunnel's certificate.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// Serves an accepted connection to the tunnel port, until the tunnel ends.
pub(crate) async fn serve(core: Arc<Core>, pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer: client, local: called } = accepted;
    aquifer_sys::socket::unpaced_when_near(&stream);
    let Ok(socket) = TcpStream::from_std(stream) else { return };
    let shared = &core.shared;
    let Some(_slot) = shared.slots.take() else {
        return shared
            .arrival(&pod, client, called, Path::Tunnel)
            .finish(accept::full(shared.config.carry.max_connections).end());
    };
    let verify = |chain: &[rustls::pki_types::CertificateDer<'static>]| {
        let bundle = shared.store.bundle();
        aquifer_pki::peer(chain, Side::Client, &bundle, shared.store.now()).map_err(Into::into)
    };
    let certificate = pod.certificate();
    let generation = certificate.generation();
    match aquifer_hbone::accept(socket, certificate.server(), verify, &shared.hbone).await {
        Ok((incoming, peer)) => {
            let caller = Caller { client, peer, generation };
            requests(core.clone(), pod, incoming, caller, called.ip()).await;
        }
        Err(error) => shared.arrival(&pod, client, called, Path::Tunnel).finish(not_a_tunnel(&error).end()),
    }
}

/// Who is at the other end of a tunnel.
#[derive(Clone, Debug)]
struct Caller {
    client: SocketAddr,
    peer: PeerCertificate,
    /// Of the pod's own certificate, at the handshake.
    generation: u64,
}

/// Takes the tunnel's requests until it ends; each is served by a task of its own on this core.
async fn requests(core: Arc<Core>, pod: Arc<Pod>, mut incoming: Incoming, caller: Caller, local: IpAddr) {
    let watcher = tokio::spawn(follow(
        core.clone(),
        pod.clone(),
        incoming.control(),
        caller.peer.clone(),
        caller.generation,
    ));
    while let Some(request) = incoming.next().await {
        match request {
            Ok(request) => {
                let (core, pod, caller) = (core.clone(), pod.clone(), caller.clone());
                tokio::spawn(async move { connect(&core, &pod, request, &caller, local).await });
            }
            Err(error) => {
                debug!(client = %caller.client, identity = %caller.peer.identity, %error, "tunnel ended");
                break;
            }
        }
    }
    watcher.abort();
}

/// Tells the peer to go away once the pod terminates or leaves, the worker drains, or one of the two certificates is
/// renewed, expires or loses its root: new streams then open on a new tunnel, and those that stand live on.
async fn follow(core: Arc<Core>, pod: Arc<Pod>, control: Control, peer: PeerCertificate, generation: u64) {
    let store = &core.shared.store;
    let (mut doors, mut trust) = (pod.doors(), store.changes());
    // Judged before each wait: a change during the handshake was before this watched.
    while store.still_trusted(&peer, store.now()) == Trust::Yes
        && pod.certificate().generation() == generation
    {
        let valid = peer.not_after.duration_since(store.now()).unwrap_or_default();
        tokio::select! {
            _ = doors.wait_for(|doors| *doors != Doors::Open) => break,
            _ = trust.changed() => {}
            // Not longer, since the wall clock may jump.
            () = tokio::time::sleep(valid.min(LOOK_AGAIN)) => {}
        }
    }
    control.drain();
}

/// One connection in a tunnel: what it asks for, the copy, the record.
async fn connect(core: &Core, pod: &Pod, request: Connect, caller: &Caller, local: IpAddr) {
    // In a place of its own, which is free again for the connection's life: it is larger than the copy.
    let opened = Box::pin(open(core, pod, request, caller, local)).await;
    let Some(Opened { app, stream, flow, entered, _slot }) = opened else { return };
    let flows = Flows::one(flow);
    let end = carry::tunnel(&core.shared, app, Application::Server, stream, &flows, &entered).await;
    flows.finish(end);
}

/// A request that was admitted: what is left is the copy.
struct Opened<'a> {
    app: TcpStream,
    stream: Stream,
    flow: Flow,
    entered: Entered<'a>,
    _slot: Slot<'a>,
}

/// Authority, policy, application, answer. What was refused has its answer and its record.
async fn open<'a>(
    core: &'a Core,
    pod: &Pod,
    mut request: Connect,
    caller: &Caller,
    local: IpAddr,
) -> Option<Opened<'a>> {
    let shared = &core.shared;
    let identity = &caller.peer.identity;
    let mesh = shared.mesh();
    let workload = pod.workload();
    let asked = request.request.as_ref().ok().map(|request| request.authority.clone());
    let target = match &asked {
        Some(authority) => target(&mesh, &workload, authority, local),
        None => Err(Failure::failed(Hop::Tunnel, "bad-request", "the request is no CONNECT of HBONE")),
    };
    let mut flow = shared.telemetry.flow(FlowStart {
        reporter: Reporter::Destination,
        source: shared.peer(&mesh, caller.client, Some(identity)),
        destination: Peer {
            address: Some(
                *target
                    .as_ref()
                    .unwrap_or(&SocketAddr::new(local, asked.as_ref().map_or(0, Authority::port))),
            ),
            identity: Some(workload.identity()),
            workload: Some(workload.clone()),
        },
        service: None,
        original_destination: None,
        path: Path::Tunnel,
        tls: true,
    });
    // A connection may live for days, and the mesh of its first moment with it.
    drop(mesh);
    let address = match target {
        Ok(address) => address,
        Err(failure) => return refuse(request, flow, 400, failure),
    };
    let claim = Claim {
        identity: Some(identity.clone()),
        source: caller.client.ip(),
        destination: pod.uid.clone(),
        address,
    };
    let entered = core.live.enter(Facts {
        pods: [None, Some(pod.uid.clone())],
        access: Some(claim.clone()),
        peer: Some(caller.peer.clone()),
        source: caller.client,
        destination: address,
        path: "tunnel",
    });
    let Some(_slot) = shared.slots.take() else {
        return refuse(request, flow, 503, accept::full(shared.config.carry.max_connections));
    };
    if let Err(failure) = admit::admit(shared, pod, &claim, &mut flow) {
        return refuse(request, flow, 401, failure);
    }
    let patience = shared.config.carry.dial;
    let opened = tokio::select! {
        opened = carry::connect_application(pod, address, caller.client.ip(), patience) => opened,
        () = request.given_up() => Err(Failure::abandoned()),
    };
    let app = match opened {
        Ok(app) => app,
        Err(failure) => return refuse(request, flow, 503, failure),
    };
    match request.admit(Some(&carry::baggage(shared, &workload))) {
        Ok(stream) => Some(Opened { app, stream, flow, entered, _slot }),
        Err(error) => {
            aquifer_sys::socket::reset_on_close(&app, true).ok();
            flow.finish(Failure::failed(Hop::Tunnel, "tunnel-closed", error.to_string()).end());
            None
        }
    }
}

/// What of the pod a request asks for: its own address, or a Service that it serves; never a port of the proxy.
fn target(
    mesh: &aquifer_model::Snapshot,
    workload: &Workload,
    authority: &Authority,
    local: IpAddr,
) -> Result<SocketAddr, Failure> {
    let foreign = |detail: String| Failure::failed(Hop::Tunnel, "wrong-authority", detail);
    let address = match authority {
        Authority::Ip(address) if address.ip().to_canonical() == local => {
            SocketAddr::new(local, address.port())
        }
        Authority::Ip(address) => {
            return Err(foreign(format!(
                "{address} is not an address of {}, which has {local}",
                workload.pod()
            )));
        }
        Authority::Host(host, port) => {
            let service = mesh
                .service_by_hostname(host)
                .filter(|service| mesh.serves(workload, service))
                .ok_or_else(|| foreign(format!("{} serves no Service {host}", workload.pod())))?;
            let port = mesh
                .target_port(service, workload, *port, Protocol::Tcp)
                .ok_or_else(|| foreign(format!("Service {} has no port {port}", service.name)))?;
            SocketAddr::new(local, port)
        }
    };
    if PROXY_PORTS.contains(&address.port()) {
        let detail = format!("{address} is a port of the proxy");
        return Err(Failure::failed(Hop::Tunnel, "proxy-port", detail));
    }
    Ok(address)
}

/// Answers and writes the record; there is nothing to carry.
fn refuse<'a>(request: Connect, flow: Flow, status: u16, failure: Failure) -> Option<Opened<'a>> {
    request.refuse(status, failure.code(), failure.detail());
    flow.finish(failure.end());
    None
}

fn not_a_tunnel(error: &AcceptError) -> Failure {
    match error {
        AcceptError::Tls(tls) => Failure::tls(tls, error.code(), error.to_string()),
        _ => Failure::failed(Hop::Tls, error.code(), error.to_string()),
    }
}
