//! The one record that each connection and side ends in: a sentence in text, one flat object in JSON.

use std::fmt;
use std::time::Duration;

use tracing::Level;

use super::advice::advice;
use crate::catalog as field;
use crate::{FlowEnd, FlowStart, Peer, Reporter};

/// The `tracing` target of flow records, all at level info.
pub(crate) const TARGET: &str = "flow";

/// What a record says. `Display` is its text form.
#[derive(Debug)]
pub(crate) struct FlowRecord<'a> {
    pub(crate) id: u64,
    pub(crate) start: &'a FlowStart,
    pub(crate) end: &'a FlowEnd,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) duration: Duration,
}

impl FlowRecord<'_> {
    /// Hands it to the log, where somebody listens. Never blocks: the log's queue is bounded and drops.
    pub(crate) fn emit(&self) {
        if !tracing::event_enabled!(target: TARGET, Level::INFO) {
            return;
        }
        let Self { start, end, .. } = self;
        let (source, destination) = (&start.source, &start.destination);
        // The text form of the record is the event's message; JSON leaves it out, since it says the same again.
        tracing::event!(
            target: TARGET,
            Level::INFO,
            { field::CONNECTION.name } = self.id,
            { field::REPORTER.name } = start.reporter.as_str(),
            { field::DIRECTION.name } = self.direction(),
            { field::PATH.name } = start.path.as_str(),
            { field::VERDICT.name } = end.verdict.as_str(),
            { field::REASON_CODE.name } = end.reason.as_deref(),
            { field::POLICY.name } = end.policy.as_deref(),
            { field::SOURCE_ADDRESS.name } = source.address.map(display),
            { field::SOURCE_WORKLOAD.name } = source.workload.as_deref().map(|w| w.owner().1.as_str()),
            { field::SOURCE_POD.name } = source.workload.as_deref().map(|w| display(w.pod().name)),
            { field::SOURCE_NAMESPACE.name } = namespace(source),
            { field::SOURCE_IDENTITY.name } = source.identity.as_ref().map(display),
            { field::DESTINATION_ADDRESS.name } = destination.address.map(display),
            { field::DESTINATION_WORKLOAD.name } = destination.workload.as_deref().map(|w| w.owner().1.as_str()),
            { field::DESTINATION_POD.name } = destination.workload.as_deref().map(|w| display(w.pod().name)),
            { field::DESTINATION_NAMESPACE.name } = namespace(destination),
            { field::DESTINATION_IDENTITY.name } = destination.identity.as_ref().map(display),
            { field::DESTINATION_SERVICE.name } = start.service.as_deref().map(|s| s.hostname.as_ref()),
            { field::ORIGINAL_DESTINATION.name } = start.original_destination.map(display),
            { field::BYTES_SENT.name } = self.sent,
            { field::BYTES_RECEIVED.name } = self.received,
            { field::DURATION_MS.name } = self.milliseconds(),
            { field::CLOSED_BY.name } = end.closed_by.map(crate::Closer::as_str),
            { field::TLS.name } = start.tls,
            { field::HOP.name } = end.hop.map(crate::Hop::as_str),
            { field::ERROR.name } = end.detail.as_deref(),
            { field::ADVICE.name } = advice(end, start.path),
            message = %self,
        );
    }

    fn direction(&self) -> &'static str {
        match self.start.reporter {
            Reporter::Source => "outbound",
            Reporter::Destination => "inbound",
        }
    }

    /// With microseconds behind the point.
    fn milliseconds(&self) -> f64 {
        self.duration.as_micros() as f64 / 1000.0
    }
}

impl fmt::Display for FlowRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end, .. } = self;
        write!(f, "{} {} ", end.verdict.as_str(), self.direction())?;
        write_peer(f, &start.source)?;
        f.write_str(" -> ")?;
        write_peer(f, &start.destination)?;
        match (&start.service, start.original_destination) {
            (Some(service), Some(called)) => write!(f, " (called {} at {called})", service.hostname)?,
            (Some(service), None) => write!(f, " (called {})", service.hostname)?,
            (None, Some(called)) if Some(called) != start.destination.address => {
                write!(f, " (called {called})")?
            }
            (None, _) => {}
        }
        write!(f, " by {}{}", start.path.as_str(), if start.tls { " with mutual TLS" } else { "" })?;
        write!(f, ", {} B sent, {} B received, {} ms", self.sent, self.received, self.milliseconds())?;
        if let Some(closer) = end.closed_by {
            write!(f, ", closed by {}", closer.as_str())?;
        }
        if let Some(reason) = &end.reason {
            write!(f, ", reason {reason}")?;
        }
        if let Some(policy) = &end.policy {
            write!(f, ", decided by {policy}")?;
        }
        if let Some(hop) = end.hop {
            write!(f, ", at hop {}", hop.as_str())?;
        }
        if let Some(detail) = &end.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(advice) = advice(end, start.path) {
            write!(f, "; {advice}")?;
        }
        write!(f, " [{} {}]", start.reporter.as_str(), self.id)
    }
}

/// The pod's namespace, or of a peer that only proved its identity, that one's.
fn namespace(peer: &Peer) -> Option<&str> {
    let of_workload = peer.workload.as_deref().map(|w| w.pod().namespace);
    of_workload.or_else(|| peer.identity.as_ref().map(|identity| identity.namespace.as_ref()))
}

fn write_peer(f: &mut fmt::Formatter<'_>, peer: &Peer) -> fmt::Result {
    match &peer.workload {
        Some(workload) if workload.pod().name == *workload.owner().1.as_str() => {
            write!(f, "{}", workload.pod())?
        }
        Some(workload) => {
            let (kind, name) = workload.owner();
            write!(f, "{} of {kind} {name}", workload.pod())?;
        }
        None => f.write_str("unknown")?,
    }
    if let Some(address) = peer.address {
        write!(f, " {address}")?;
    }
    if let Some(identity) = &peer.identity {
        write!(f, " {identity}")?;
    }
    Ok(())
}
