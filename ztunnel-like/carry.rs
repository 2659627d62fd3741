//! The last leg of every connection: the copy, and what its end means for the record.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aquifer_hbone::Stream;
use aquifer_hbone::copy::{self, Application, Meter, Options, Outcome};
use aquifer_telemetry::{Closer, Flow, FlowEnd, Hop, Verdict};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::live::Entered;
use crate::pod::Pod;
use crate::shared::Shared;

/// The records of one connection on this node: one side, or both where both pods are on it.
pub(crate) struct Flows {
    pub(crate) flow: Flow,
    pub(crate) other: Option<Flow>,
}

impl Flows {
    pub(crate) fn one(flow: Flow) -> Arc<Self> {
        Arc::new(Self { flow, other: None })
    }

    pub(crate) fn established(&self) {
        self.flow.established();
        if let Some(other) = &self.other {
            other.established();
        }
    }

    /// Writes the records. Nothing counts any more: the copy that shared them is over.
    pub(crate) fn finish(self: Arc<Self>, end: FlowEnd) {
        let Some(Self { flow, other }) = Arc::into_inner(self) else { return };
        if let Some(other) = other {
            other.finish(end.clone());
        }
        flow.finish(end);
    }
}

impl Meter for Flows {
    fn sent(&self, bytes: u64) {
        self.flow.sent(bytes);
        if let Some(other) = &self.other {
            other.sent(bytes);
        }
    }

    fn received(&self, bytes: u64) {
        self.flow.received(bytes);
        if let Some(other) = &self.other {
            other.received(bytes);
        }
    }
}

/// Copies between an application and a tunnel until both directions are over, and says how it ended.
pub(crate) async fn tunnel(
    shared: &Shared,
    app: TcpStream,
    whose: Application,
    stream: Stream,
    flows: &Arc<Flows>,
    entered: &Entered<'_>,
) -> FlowEnd {
    flows.established();
    let cut = pin!(entered.cut());
    end(copy::tunnel(app, whose, stream, flows.clone(), options(shared, cut)).await, entered)
}

/// Copies between two sockets.
pub(crate) async fn direct(
    shared: &Shared,
    client: TcpStream,
    server: TcpStream,
    flows: &Flows,
    entered: &Entered<'_>,
) -> FlowEnd {
    flows.established();
    let cut = pin!(entered.cut());
    end(copy::direct(client, server, flows, options(shared, cut)).await, entered)
}

fn options<C>(shared: &Shared, cut: C) -> Options<C> {
    let idle = shared.config.carry.half_close_idle;
    Options { half_close_idle: (!idle.is_zero()).then_some(idle), budget: shared.budget.clone(), cut }
}

fn end(outcome: Outcome, entered: &Entered<'_>) -> FlowEnd {
    let closed_by = match outcome.closed_by {
        copy::Closer::Client => Closer::Source,
        copy::Closer::Server => Closer::Destination,
        copy::Closer::Proxy => Closer::Proxy,
    };
    let Err(error) = outcome.end else { return FlowEnd::carried(closed_by) };
    let ended = entered.ended();
    FlowEnd {
        verdict: if ended.is_some_and(|ended| ended.denied) { Verdict::Denied } else { Verdict::Failed },
        reason: Some(error.code().to_owned()),
        detail: Some(error.to_string()),
        policy: ended.and_then(|ended| ended.policy.clone()),
        closed_by: Some(closed_by),
        hop: match error.hop() {
            copy::Hop::Client => Some(Hop::Application),
            copy::Hop::Tunnel => Some(Hop::Tunnel),
            copy::Hop::Server => Some(Hop::Destination),
            copy::Hop::Proxy => None,
        },
    }
}

/// Connects to the application of a pod of this node, with the caller's address as source, so that it sees its true client.
pub(crate) async fn connect_application(
    pod: &Pod,
    to: SocketAddr,
    source: IpAddr,
    patience: Duration,
) -> Result<TcpStream, Failure> {
    let _connecting = pod.connecting().await;
    let avoid = |port: u16| pod.plaintext_clients.holds(source, port);
    let started = aquifer_sys::socket::connect_socket(&pod.netns, to, Some(source), &avoid);
    established(started, to, Hop::Destination, patience).await
}

/// Waits until a started connect is through, and names the failure.
pub(crate) async fn established(
    started: io::Result<std::net::TcpStream>,
    to: SocketAddr,
    hop: Hop,
    patience: Duration,
) -> Result<TcpStream, Failure> {
    connected(started, patience).await.map_err(|error| Failure::connect(hop, to, &error))
}

/// Waits until a started connect is through.
pub(crate) async fn connected(
    started: io::Result<std::net::TcpStream>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let connect = async {
        let socket = TcpStream::from_std(started?)?;
        socket.writable().await?;
        match socket.take_error()? {
            None => Ok(socket),
            Some(error) => Err(error),
        }
    };
    timeout(patience, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Resolves when the application has reset its connection; a half-close is no reason to give up.
pub(crate) async fn gone(app: &TcpStream) {
    loop {
        match app.ready(tokio::io::Interest::ERROR).await {
            Ok(ready) if ready.is_error() => {
                if app.take_error().map_or(true, |error| error.is_some()) {
                    return;
                }
                // Readiness stays until it is cleared; an error that is none must not spin.
                app.try_io(tokio::io::Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()))
                    .ok();
            }
            _ => std::future::pending().await,
        }
    }
}

/// The pod's own words about itself, for the other side's metrics.
pub(crate) fn baggage(shared: &Shared, workload: &aquifer_model::Workload) -> aquifer_hbone::Baggage {
    use aquifer_hbone::WorkloadKind;
    let text = |value: &str| (!value.is_empty()).then(|| Box::<str>::from(value));
    let kind = match workload.owner().0 {
        "deployment" => WorkloadKind::Deployment,
        "cronjob" => WorkloadKind::CronJob,
        "job" => WorkloadKind::Job,
        _ => WorkloadKind::Pod,
    };
    let mesh = shared.mesh();
    let node = mesh.node(workload.node());
    aquifer_hbone::Baggage {
        cluster: Some(shared.config.mesh.cluster_id.as_str().into()),
        namespace: text(workload.namespace()),
        workload: text(workload.owner().1).map(|name| (kind, name)),
        service: text(workload.canonical_name()),
        version: text(workload.canonical_revision()),
        region: node.and_then(|node| text(&node.region)),
        zone: node.and_then(|node| text(&node.zone)),
    }
}
