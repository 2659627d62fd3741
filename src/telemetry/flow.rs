//! One connection as one reporter sees it: what it starts with, what it counts, how it ends.

mod advice;
mod labels;
mod record;
mod series;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aquifer_model::{Identity, Service, Workload};

pub(crate) use self::record::TARGET;

use self::labels::{Flags, FlowLabels};
use self::record::FlowRecord;
use self::series::{FlowSeries, Held};
use crate::catalog::LIVE;
use crate::clock::Timeline;
use crate::exposition::{Exposition, labels};

/// Which side of the connection writes: the client's node or the server's. A connection between two captured pods
/// is reported by both, as in Istio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node (direction outbound).
    Source,
    /// The server's node (direction inbound).
    Destination,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// In an HBONE tunnel: mutual TLS between the nodes.
    Tunnel,
    /// Handed over inside one node's process, both identities known and checked.
    SameNode,
    /// In clear between a workload of the mesh and one outside.
    Plaintext,
    /// Untouched, to what the mesh does not resolve.
    Passthrough,
}

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Carried to its end.
    Allowed,
    /// Policy refused or cut it.
    Denied,
    /// Not carried, or broken on the way, and policy had no part in it.
    Failed,
}

/// Who closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closer {
    /// The client.
    Source,
    /// The server.
    Destination,
    /// One of the proxies: policy, drain, limits, timeouts.
    Proxy,
}

/// Where on the way an error happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The socket of the application that is captured here.
    Application,
    /// The TCP connect to the next hop.
    Dial,
    /// The TLS handshake with the peer node.
    Tls,
    /// The HTTP/2 connection or stream.
    Tunnel,
    /// The peer's proxy answered, and refused.
    Peer,
    /// The destination application behind the last proxy.
    Destination,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address as the connection sees it.
    pub address: Option<SocketAddr>,
    /// The workload at that address.
    pub workload: Option<Arc<Workload>>,
    /// Its identity where proved: by TLS, or by the network namespace the socket lives in.
    pub identity: Option<Identity>,
}

/// What is known when a connection begins.
#[derive(Clone, Debug)]
pub struct FlowStart {
    /// Which side writes.
    pub reporter: Reporter,
    /// The client.
    pub source: Peer,
    /// The server.
    pub destination: Peer,
    /// The Service that the client called, if it called one.
    pub service: Option<Arc<Service>>,
    /// The address that the client called, before resolution.
    pub original_destination: Option<SocketAddr>,
    /// How it travels.
    pub path: Path,
    /// Whether mutual TLS carries it.
    pub tls: bool,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct FlowEnd {
    /// What became of it.
    pub verdict: Verdict,
    /// Why, as a kebab-case code.
    pub reason: Option<String>,
    /// One sentence for people.
    pub detail: Option<String>,
    /// The policy and rule that decided.
    pub policy: Option<String>,
    /// Who closed first.
    pub closed_by: Option<Closer>,
    /// Where it failed.
    pub hop: Option<Hop>,
}

impl FlowEnd {
    /// It was carried, and one end closed it.
    pub fn carried(closed_by: Closer) -> Self {
        Self { closed_by: Some(closed_by), ..Self::of(Verdict::Allowed) }
    }

    /// Policy refused or cut it. `policy` is the deciding rule, where there is one.
    pub fn denied(reason: impl Into<String>, detail: impl Into<String>, policy: Option<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            detail: Some(detail.into()),
            policy,
            closed_by: Some(Closer::Proxy),
            ..Self::of(Verdict::Denied)
        }
    }

    /// It failed at `hop`.
    pub fn failed(hop: Hop, reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            detail: Some(detail.into()),
            hop: Some(hop),
            ..Self::of(Verdict::Failed)
        }
    }

    fn of(verdict: Verdict) -> Self {
        Self { verdict, reason: None, detail: None, policy: None, closed_by: None, hop: None }
    }
}

/// A live connection. Counting is lock-free; dropping it without [`Flow::finish`] records it as failed, `aborted`.
///
/// Its metric labels are settled when it is established ([`Flow::established`], or its first byte, or its end), and
/// then it counts as opened. What is corrected before is as if it had been so from the start; what is corrected later
/// changes the record only. A connection that ends before is counted, as opened and closed, under the flags of its end.
#[derive(Debug)]
pub struct Flow {
    id: u64,
    flows: Arc<Flows>,
    start: Box<FlowStart>,
    policy: Option<String>,
    began: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    series: OnceLock<Held>,
    recorded: bool,
}

/// All flows of a process.
#[derive(Debug)]
pub(crate) struct Flows {
    series: FlowSeries,
    timeline: Arc<Timeline>,
    cluster: Arc<str>,
    last: AtomicU64,
    /// By reporter.
    live: [AtomicI64; 2],
}

impl Flow {
    /// Number of the connection, unique in this process and never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection is established end to end: its labels are settled, and it counts as opened. The first byte does
    /// the same; call this where a connection may stay silent for long.
    pub fn established(&self) {
        self.series();
    }

    /// Counts bytes from client to server.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.series().to_server(bytes);
    }

    /// Counts bytes from server to client.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.series().to_client(bytes);
    }

    /// Bytes so far: from client to server, and from server to client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// How long it has lived.
    pub fn age(&self) -> Duration {
        self.flows.timeline.now().saturating_duration_since(self.began)
    }

    /// What it started with, as corrected since.
    pub fn start(&self) -> &FlowStart {
        &self.start
    }

    /// Corrects the path, and whether mutual TLS carries it.
    pub fn set_path(&mut self, path: Path, tls: bool) {
        self.start.path = path;
        self.start.tls = tls;
    }

    /// Corrects the client's end.
    pub fn set_source(&mut self, source: Peer) {
        self.start.source = source;
    }

    /// Corrects the server's end, and the Service that led to it.
    pub fn set_destination(&mut self, destination: Peer, service: Option<Arc<Service>>) {
        self.start.destination = destination;
        self.start.service = service;
    }

    /// Names the rule that let it through, for the record of a connection that ends well.
    pub fn set_policy(&mut self, policy: Option<String>) {
        self.policy = policy;
    }

    /// Ends the connection and writes its record.
    pub fn finish(mut self, end: FlowEnd) {
        self.record(end);
    }

    fn series(&self) -> &Held {
        self.series.get_or_init(|| {
            let held = self.flows.series.hold(self.labels());
            held.opened();
            held
        })
    }

    fn labels(&self) -> FlowLabels {
        FlowLabels::new(&self.start, &self.flows.cluster)
    }

    fn record(&mut self, mut end: FlowEnd) {
        self.recorded = true;
        let (sent, received) = self.bytes();
        let flags = Flags::of(&end, received > 0);
        match self.series.take() {
            // Under `other` it stays under `other`, so that what was opened there is closed there.
            Some(opened) if flags == opened.labels().flags() => opened.closed(),
            Some(opened) => self.flows.series.hold(opened.labels().with_flags(flags)).closed(),
            None => {
                let held = self.flows.series.hold(self.labels().with_flags(flags));
                held.opened();
                held.closed();
            }
        }
        self.flows.live(self.start.reporter).fetch_sub(1, Ordering::Relaxed);
        end.policy = end.policy.or_else(|| self.policy.take());
        FlowRecord { id: self.id, start: &self.start, end: &end, sent, received, duration: self.age() }
            .emit();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(FlowEnd {
                reason: Some("aborted".to_owned()),
                detail: Some("the proxy gave the connection up before its end".to_owned()),
                closed_by: Some(Closer::Proxy),
                ..FlowEnd::of(Verdict::Failed)
            });
        }
    }
}

impl Flows {
    pub(crate) fn new(limit: usize, idle: Duration, cluster: Arc<str>, timeline: Arc<Timeline>) -> Self {
        Self {
            series: FlowSeries::new(limit, idle, timeline.clone()),
            timeline,
            cluster,
            last: AtomicU64::new(0),
            live: Default::default(),
        }
    }

    pub(crate) fn begin(self: &Arc<Self>, start: FlowStart) -> Flow {
        self.live(start.reporter).fetch_add(1, Ordering::Relaxed);
        Flow {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            flows: self.clone(),
            start: Box::new(start),
            policy: None,
            began: self.timeline.now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            series: OnceLock::new(),
            recorded: false,
        }
    }

    pub(crate) fn render(&self, out: &mut Exposition) {
        self.series.render(out);
        out.family(&LIVE);
        for reporter in [Reporter::Destination, Reporter::Source] {
            let live = self.live(reporter).load(Ordering::Relaxed);
            out.sample(&LIVE, &labels([("reporter", reporter.as_str())]), live);
        }
    }

    fn live(&self, reporter: Reporter) -> &AtomicI64 {
        &self.live[match reporter {
            Reporter::Source => 0,
            Reporter::Destination => 1,
        }]
    }
}

impl Reporter {
    /// The word for it in labels and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Path {
    /// The word for it in labels and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::SameNode => "same-node",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
        }
    }
}

impl Verdict {
    /// The word for it in labels and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl Closer {
    /// The word for it in labels and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Proxy => "proxy",
        }
    }
}

impl Hop {
    /// The word for it in labels and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Dial => "dial",
            Self::Tls => "tls",
            Self::Tunnel => "tunnel",
            Self::Peer => "peer",
            Self::Destination => "destination",
        }
    }
}
