//! Between two pods of one node: inside the process, once both identities are known and the policy was asked.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_model::{Route, Workload};
use aquifer_telemetry::{Flow, FlowStart, Path, Peer, Reporter};
use tokio::net::TcpStream;

use crate::admit;
use crate::carry;
use crate::core::Core;
use crate::failure::Failure;
use crate::live::{Claim, Entered, Facts};
use crate::pod::Pod;

/// A connection to the application of another pod of this node, with the destination's half of the bookkeeping.
pub(crate) struct HandedOver<'a> {
    pub(crate) socket: TcpStream,
    pub(crate) flow: Flow,
    pub(crate) entered: Entered<'a>,
}

/// Authorizes the caller at the destination and connects to its application. Both identities come from the namespaces that
/// the sockets live in, and count only while both certificates hold.
pub(crate) async fn open<'a>(
    core: &'a Arc<Core>,
    source: &Pod,
    caller: &Arc<Workload>,
    destination: &Arc<Pod>,
    client: SocketAddr,
    route: &Route,
) -> Result<HandedOver<'a>, Failure> {
    let shared = &core.shared;
    let now = shared.store.now();
    for pod in [source, destination] {
        let certificate = pod.certificate();
        if certificate.not_after() < now {
            return Err(Failure::failed(
                aquifer_telemetry::Hop::Application,
                "certificate-expired",
                format!(
                    "the certificate of {} has expired and could not be renewed; see /certificates",
                    certificate.identity()
                ),
            ));
        }
    }
    let identity = caller.identity();
    let called = destination.workload();
    let mut flow = shared.telemetry.flow(FlowStart {
        reporter: Reporter::Destination,
        source: Peer {
            address: Some(client),
            workload: Some(caller.clone()),
            identity: Some(identity.clone()),
        },
        destination: Peer {
            address: Some(route.target),
            identity: Some(called.identity()),
            workload: Some(called),
        },
        service: route.service.clone(),
        original_destination: Some(route.target),
        path: Path::SameNode,
        tls: false,
    });
    let claim = Claim {
        identity: Some(identity),
        source: client.ip(),
        destination: destination.uid.clone(),
        address: route.target,
    };
    let entered = core.live.enter(Facts {
        pods: [Some(source.uid.clone()), Some(destination.uid.clone())],
        access: Some(claim.clone()),
        peer: None,
        source: client,
        destination: route.target,
        path: "same-node",
    });
    let opened = match admit::admit(shared, destination, &claim, &mut flow) {
        Ok(()) => {
            carry::connect_application(destination, route.target, client.ip(), shared.config.carry.dial).await
        }
        Err(failure) => Err(failure),
    };
    match opened {
        Ok(socket) => Ok(HandedOver { socket, flow, entered }),
        Err(failure) => {
            // Both sides say why; the source's record is written by who called this.
            flow.finish(failure.clone().end());
            Err(failure)
        }
    }
}
