//! A connection that a pod opened: where it goes, by which path, and the copy. The whole flow in [`carry`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_hbone::copy::Application;
use aquifer_hbone::{ConnectRequest, Stream};
use aquifer_model::{Call, Carrier, Protocol, Resolution, Route, Workload};
use aquifer_sys::socket::Accepted;
use aquifer_telemetry::{Counted, Flow, FlowEnd, FlowStart, Hop, Path, Peer, Reporter};
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::accept;
use crate::carry::{self, Flows};
use crate::config::SameNode;
use crate::core::Core;
use crate::failure::{Failure, Next};
use crate::handover::{self, HandedOver};
use crate::live::{Entered, Facts};
use crate::pod::Pod;
use crate::tunnel;

/// Endpoints of a service that are tried before the connection is given up.
const ENDPOINTS: usize = 4;
/// How long a peer that refuses its tunnel port is dialled again: it may be enrolling the pod at this moment.
const ENROLLING: Duration = Duration::from_secs(5);
/// First pause between such dials; it doubles up to half a second.
const REDIAL: Duration = Duration::from_millis(25);

/// What carries the connection on.
enum Upstream<'a> {
    /// A stream in a tunnel to the destination's node, which counts as standing meanwhile.
    Tunnel(Stream, Arc<Counted>, Entered<'a>),
    /// The destination pod's application, on this node.
    SameNode(HandedOver<'a>),
    /// A socket to what is not in the mesh.
    Socket(TcpStream, Entered<'a>),
}

/// A connection on its way.
struct Outbound<'a> {
    core: &'a Arc<Core>,
    pod: &'a Arc<Pod>,
    caller: Arc<Workload>,
    client: SocketAddr,
    original: SocketAddr,
}

/// Serves a captured connection from its accept to its record.
pub(crate) async fn serve(core: Arc<Core>, pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer: client, local: original } = accepted;
    let Ok(app) = TcpStream::from_std(stream) else { return };
    let caller = pod.workload();
    let mut flow = core.shared.telemetry.flow(FlowStart {
        reporter: Reporter::Source,
        source: Peer {
            address: Some(client),
            identity: Some(caller.identity()),
            workload: Some(caller.clone()),
        },
        destination: Peer { address: Some(original), ..Peer::default() },
        service: None,
        original_destination: Some(original),
        path: Path::Passthrough,
        tls: false,
    });
    let Some(_slot) = core.shared.slots.take() else {
        return flow.finish(accept::full(core.shared.config.carry.max_connections).end());
    };
    let outbound = Outbound { core: &core, pod: &pod, caller, client, original };
    let opened = {
        // In a place of its own, which is free again for the connection's life: it is larger than the copy.
        let open = Box::pin(outbound.open(&mut flow));
        tokio::select! {
            opened = open => opened,
            () = carry::gone(&app) => Err(Failure::abandoned()),
        }
    };
    match opened {
        Ok(upstream) => outbound.carry(app, upstream, flow).await,
        Err(failure) => flow.finish(failure.end()),
    }
}

impl<'a> Outbound<'a> {
    /// Finds where the connection goes and opens the way there. Nothing of the application was sent until this
    /// succeeds, so another endpoint may be tried, and a peer that is just enrolling the pod dialled again.
    async fn open(&self, flow: &mut Flow) -> Result<Upstream<'a>, Failure> {
        let started = Instant::now();
        let mut failed: SmallVec<[SocketAddr; ENDPOINTS]> = SmallVec::new();
        let mut pause = REDIAL;
        let mut last: Option<Failure> = None;
        loop {
            let failure = match self.resolve(&failed, started).await? {
                Resolution::Route(route) if failed.contains(&route.target) => {
                    // All endpoints that there are have been tried.
                    return Err(last.take().unwrap_or_else(Failure::abandoned));
                }
                Resolution::Route(route) => match self.open_route(&route, flow).await {
                    Ok(upstream) => return Ok(upstream),
                    Err(failure) if failure.next == Next::AnotherEndpoint && route.service.is_some() => {
                        failed.push(route.target);
                        if failed.len() < ENDPOINTS {
                            last = Some(failure);
                            continue;
                        }
                        failure
                    }
                    Err(failure) => failure,
                },
                Resolution::Passthrough(_) => return self.pass_through(flow).await,
                Resolution::Refuse(refusal) => Failure::refused(&refusal),
                Resolution::Unknown => {
                    Failure::unknown_destination(self.original, self.core.shared.config.carry.unknown_wait)
                }
            };
            if failure.next != Next::AgainSoon || started.elapsed() > ENROLLING {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Asks the mesh of now; what it does not know inside its networks is waited for.
    async fn resolve(&self, failed: &[SocketAddr], started: Instant) -> Result<Resolution, Failure> {
        let deadline = started + self.core.shared.config.carry.unknown_wait;
        let mut news = self.core.shared.news();
        loop {
            let call = Call {
                caller: &self.caller,
                destination: self.original,
                protocol: Protocol::Tcp,
                entropy: fastrand::u64(..),
                exclude: failed,
            };
            let resolution = self.core.shared.mesh().resolve(&call);
            if resolution != Resolution::Unknown {
                return Ok(resolution);
            }
            match timeout_at(deadline, news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(resolution),
            }
        }
    }

    async fn open_route(&self, route: &Route, flow: &mut Flow) -> Result<Upstream<'a>, Failure> {
        let shared = &self.core.shared;
        let local = route.workload.as_ref().and_then(|workload| shared.pod(workload.uid()));
        match (&route.carrier, &route.workload, local) {
            (Carrier::Tunnel, Some(_), Some(pod)) if shared.config.carry.same_node == SameNode::Direct => {
                self.describe(flow, route, Path::SameNode);
                let handed =
                    handover::open(self.core, self.pod, &self.caller, &pod, self.client, route).await?;
                Ok(Upstream::SameNode(handed))
            }
            (Carrier::Tunnel, Some(workload), _) => {
                self.describe(flow, route, Path::Tunnel);
                self.open_tunnel(route, workload).await
            }
            (Carrier::Tunnel | Carrier::Plaintext, _, _) => {
                self.describe(flow, route, Path::Plaintext);
                self.open_socket(route.target, "plaintext").await
            }
        }
    }

    async fn open_tunnel(&self, route: &Route, workload: &Arc<Workload>) -> Result<Upstream<'a>, Failure> {
        let request = ConnectRequest {
            baggage: Some(carry::baggage(&self.core.shared, &self.caller)),
            ..ConnectRequest::to(route.target)
        };
        let (stream, peer) = tunnel::open(self.core, self.pod, workload, route.target.ip(), &request).await?;
        let tunnel::Peer { certificate, standing } = peer;
        let facts = Facts { peer: Some(certificate), ..self.facts(route.target, "tunnel") };
        Ok(Upstream::Tunnel(stream, standing, self.core.live.enter(facts)))
    }

    async fn pass_through(&self, flow: &mut Flow) -> Result<Upstream<'a>, Failure> {
        flow.set_path(Path::Passthrough, false);
        self.open_socket(self.original, "passthrough").await
    }

    /// A plain connect from the pod's namespace, with the pod's own address.
    async fn open_socket(&self, to: SocketAddr, path: &'static str) -> Result<Upstream<'a>, Failure> {
        let started = aquifer_sys::socket::connect_socket(&self.pod.netns, to, None, &|_| false);
        let patience = self.core.shared.config.carry.dial;
        let socket = carry::established(started, to, Hop::Destination, patience).await?;
        Ok(Upstream::Socket(socket, self.core.live.enter(self.facts(to, path))))
    }

    fn describe(&self, flow: &mut Flow, route: &Route, path: Path) {
        let tunnelled = matches!(path, Path::Tunnel | Path::SameNode);
        let identity = route.workload.as_ref().filter(|_| tunnelled).map(|workload| workload.identity());
        let destination = Peer { address: Some(route.target), workload: route.workload.clone(), identity };
        flow.set_destination(destination, route.service.clone());
        flow.set_path(path, path == Path::Tunnel);
    }

    fn facts(&self, destination: SocketAddr, path: &'static str) -> Facts {
        Facts {
            pods: [Some(self.pod.uid.clone()), None],
            access: None,
            peer: None,
            source: self.client,
            destination,
            path,
        }
    }

    /// Copies until both directions are over, and writes the record.
    async fn carry(&self, app: TcpStream, upstream: Upstream<'a>, flow: Flow) {
        let shared = &self.core.shared;
        let (flows, end): (Arc<Flows>, FlowEnd) = match upstream {
            Upstream::Tunnel(stream, _standing, entered) => {
                let _stream = shared.telemetry.pool().stream();
                let flows = Flows::one(flow);
                let end = carry::tunnel(shared, app, Application::Client, stream, &flows, &entered).await;
                (flows, end)
            }
            Upstream::Socket(socket, entered) => {
                let flows = Flows::one(flow);
                let end = carry::direct(shared, app, socket, &flows, &entered).await;
                (flows, end)
            }
            Upstream::SameNode(HandedOver { socket, flow: other, entered }) => {
                let flows = Arc::new(Flows { flow, other: Some(other) });
                let end = carry::direct(shared, app, socket, &flows, &entered).await;
                (flows, end)
            }
        };
        flows.finish(end);
    }
}
