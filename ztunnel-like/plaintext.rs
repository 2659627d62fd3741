//! A plaintext connection to a pod: policy without an identity (or a probe of the kubelet), then the application, which sees the true
//! client.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_model::{PROXY_PORTS, Refusal};
use aquifer_sys::socket::Accepted;
use aquifer_telemetry::{Flow, Path};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::accept;
use crate::admit;
use crate::carry::{self, Flows};
use crate::core::Core;
use crate::failure::Failure;
use crate::kubelet;
use crate::live::{Claim, Facts};
use crate::pod::Pod;

/// Serves a captured plaintext connection from its accept to its record.
pub(crate) async fn serve(core: Arc<Core>, pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer: client, local: called } = accepted;
    let Ok(app) = TcpStream::from_std(stream) else { return };
    let shared = &core.shared;
    let flow = shared.arrival(&pod, client, called, Path::Plaintext);
    if PROXY_PORTS.contains(&called.port()) {
        // Called by its own port, as the pod's processes can over their loopback: carried on, it would come back to this
        // listener, and again, until no descriptor is left.
        return flow.finish(Failure::refused(&Refusal::ProxyPort(called)).end());
    }
    let Some(_slot) = shared.slots.take() else {
        return flow.finish(accept::full(shared.config.carry.max_connections).end());
    };
    let claim = Claim { identity: None, source: client.ip(), destination: pod.uid.clone(), address: called };
    let probe = is_probe(&core, &pod, &claim, client).await;
    carry(&core, &pod, app, claim, client, flow, probe).await;
}

/// Whether the node's kubelet calls. Asked only of who would be denied otherwise.
async fn is_probe(core: &Core, pod: &Pod, claim: &Claim, client: SocketAddr) -> bool {
    let Some(kubelet) = core.shared.kubelet.clone() else { return false };
    // The address of a workload is never the node's own.
    if core.shared.mesh().workload_by_ip(client.ip()).is_some() || !admit::is_denied(&core.shared, pod, claim)
    {
        return false;
    }
    let called = claim.address;
    match spawn_blocking(move || kubelet.opened(client, called)).await {
        Ok(Ok(probe)) => probe,
        Ok(Err(error)) => {
            warn!(%error, %client, "whether kubelet calls cannot be found out");
            false
        }
        Err(_) => false,
    }
}

async fn carry(
    core: &Core,
    pod: &Pod,
    app: TcpStream,
    claim: Claim,
    client: SocketAddr,
    mut flow: Flow,
    probe: bool,
) {
    let shared = &core.shared;
    let called = claim.address;
    let _port = pod.plaintext_clients.hold(client);
    let entered = core.live.enter(Facts {
        pods: [None, Some(pod.uid.clone())],
        // Nor is a probe judged again.
        access: (!probe).then(|| claim.clone()),
        peer: None,
        source: client,
        destination: called,
        path: "plaintext",
    });
    let admitted = match probe {
        true => {
            flow.set_policy(Some(kubelet::REASON.to_owned()));
            Ok(())
        }
        false => admit::admit(shared, pod, &claim, &mut flow),
    };
    let opened = match admitted {
        Ok(()) => {
            tokio::select! {
                opened = carry::connect_application(pod, called, client.ip(), shared.config.carry.dial) => opened,
                () = carry::gone(&app) => Err(Failure::abandoned()),
            }
        }
        Err(failure) => Err(failure),
    };
    match opened {
        Ok(socket) => {
            let flows = Flows::one(flow);
            let end = carry::direct(shared, app, socket, &flows, entered).await;
            flows.finish(end);
        }
        Err(failure) => flow.finish(failure.end()),
    }
}
