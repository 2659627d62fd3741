//! The root of all counting: owns the recorder, hands out instruments and flows, renders the exposition.
#![allow(clippy::todo, unused_variables)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::instruments::{Buffers, Certificates, Enrolment, Policy, Pool, Source, Workers};
use crate::{Flow, FlowStart, LogHandle};

/// Where time comes from; tests put in their own.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Instant + Send + Sync>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Self {
        Self::new(Instant::now)
    }
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now) }
    }
    /// The time.
    pub fn now(&self) -> Instant {
        (self.now)()
    }
}

/// Limits and names, with their defaults.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Label sets a flow metric may have.
    pub series_limit: usize,
    /// How long a flow series outlives its last connection.
    pub series_idle: Duration,
    /// `Kubernetes`, or what the cluster is called.
    pub cluster_id: Arc<str>,
    /// Version in `aquifer_build_info`.
    pub version: &'static str,
    /// `node`, `waypoint`, `controller`.
    pub role: &'static str,
    /// The log whose drops are counted.
    pub log: Option<LogHandle>,
    /// Time.
    pub clock: Clock,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            series_limit: 10_000,
            series_idle: Duration::from_secs(600),
            cluster_id: "Kubernetes".into(),
            version: env!("CARGO_PKG_VERSION"),
            role: "node",
            log: None,
            clock: Clock::system(),
        }
    }
}

/// All metrics of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {}

impl Telemetry {
    /// Makes the recorder and all instruments.
    pub fn new(config: TelemetryConfig) -> Self {
        todo!()
    }
    /// A connection begins.
    pub fn flow(&self, start: FlowStart) -> Flow {
        todo!()
    }
    /// The tunnel pool.
    pub fn pool(&self) -> &Pool {
        todo!()
    }
    /// Certificates.
    pub fn certificates(&self) -> &Certificates {
        todo!()
    }
    /// Enrolment.
    pub fn enrolment(&self) -> &Enrolment {
        todo!()
    }
    /// Policy.
    pub fn policy(&self) -> &Policy {
        todo!()
    }
    /// The source of objects.
    pub fn source(&self) -> &Source {
        todo!()
    }
    /// Buffered bytes.
    pub fn buffers(&self) -> &Buffers {
        todo!()
    }
    /// Worker restarts.
    pub fn workers(&self) -> &Workers {
        todo!()
    }
    /// The Prometheus text exposition (format 0.0.4).
    pub fn render(&self) -> String {
        todo!()
    }
}
