//! A plaintext connection to a pod: policy without an identity (or a probe of the kubelet), then the application, which sees the true
//! client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::{PROXY_PORTS, Refusal};
use aquifer_sys::socket::Accepted;
use aquifer_telemetry::{Flow, Path};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use crate::accept;
use crate::admit;
use crate::carry::{self, Flows};
use crate::core::Core;
use crate::failure::Failure;
use crate::kubelet::{self, Caller};
use crate::live::{Claim, Facts};
use crate::pod::Pod;

/// How long the end of a connection may be under way, from a process of this node.
const UNDER_WAY: Duration = Duration::from_secs(1);

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
    let caller = caller(&core, &pod, &claim, client).await;
    if caller == Caller::Gone && sent_nothing(&app).await {
        return flow.finish(Failure::gone_at_once().end());
    }
    carry(&core, &pod, app, claim, client, flow, caller == Caller::Kubelet).await;
}

/// Who of the node calls. Asked only of who would be denied otherwise.
async fn caller(core: &Core, pod: &Pod, claim: &Claim, client: SocketAddr) -> Caller {
    let Some(kubelet) = core.shared.kubelet.clone() else { return Caller::Other };
    // The address of a workload is never the node's own.
    if core.shared.mesh().workload_by_ip(client.ip()).is_some() || !admit::is_denied(&core.shared, pod, claim)
    {
        return Caller::Other;
    }
    let called = claim.address;
    match spawn_blocking(move || kubelet.caller(client, called)).await {
        Ok(Ok(caller)) => caller,
        Ok(Err(error)) => {
            warn!(%error, %client, "whether kubelet calls cannot be found out");
            Caller::Other
        }
        Err(_) => Caller::Other,
    }
}

/// Whether a client that has closed its end did so without a byte.
async fn sent_nothing(app: &TcpStream) -> bool {
    // What it sent last may be under way.
    timeout(UNDER_WAY, app.peek(&mut [0])).await.is_ok_and(|peeked| !matches!(peeked, Ok(1..)))
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
            let end = carry::direct(shared, app, socket, &flows, &entered).await;
            flows.finish(end);
        }
        Err(failure) => flow.finish(failure.end()),
    }
}
