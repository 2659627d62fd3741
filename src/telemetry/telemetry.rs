//! The root of all counting: owns the recorder, hands out instruments and flows, renders the exposition.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{BUILD, LOG_DROPPED};
use crate::clock::{Clock, Timeline};
use crate::controller::Controller;
use crate::exposition::{Exposition, labels};
use crate::flow::Flows;
use crate::instruments::{Buffers, Certificates, Enrolment, Policy, Pool, Source, Workers};
use crate::process::Process;
use crate::recorder::Recorder;
use crate::{Flow, FlowStart, LogHandle};

/// Limits and names, with their defaults.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Label sets that the flow metrics may have, 10,000. Past it connections count under workload labels `other`.
    /// One costs about 1 KiB of memory and 4 KiB of each scrape.
    pub series_limit: usize,
    /// How long a label set outlives its last connection, 10 minutes: long enough that Prometheus sees the last value.
    pub series_idle: Duration,
    /// What this cluster is called, `Kubernetes`.
    pub cluster_id: Arc<str>,
    /// Version in `aquifer_build_info`.
    pub version: &'static str,
    /// Role in `aquifer_build_info`: `node`, `waypoint`, `controller`.
    pub role: &'static str,
    /// The log whose dropped lines are counted.
    pub log: Option<LogHandle>,
    /// Time.
    pub clock: Clock,
}

/// All metrics of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recorder: Recorder,
    flows: Arc<Flows>,
    pool: Pool,
    certificates: Certificates,
    enrolment: Enrolment,
    policy: Policy,
    source: Source,
    buffers: Buffers,
    workers: Workers,
    controller: Controller,
    log: Option<LogHandle>,
    build: String,
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

impl Telemetry {
    /// Makes the recorder and all instruments.
    pub fn new(config: TelemetryConfig) -> Self {
        let recorder = Recorder::new();
        let timeline = Arc::new(Timeline::new(config.clock));
        Self(Arc::new(Inner {
            flows: Arc::new(Flows::new(config.series_limit, config.series_idle, config.cluster_id, timeline)),
            pool: Pool::new(&recorder),
            certificates: Certificates::new(&recorder),
            enrolment: Enrolment::new(&recorder),
            policy: Policy::new(&recorder),
            source: Source::new(&recorder),
            buffers: Buffers::new(&recorder),
            workers: Workers::new(&recorder),
            controller: Controller::new(&recorder),
            log: config.log,
            build: labels([("version", config.version), ("role", config.role)]),
            recorder,
        }))
    }

    /// A connection begins. The value counts it, and writes its record at the end.
    pub fn flow(&self, start: FlowStart) -> Flow {
        self.0.flows.begin(start)
    }

    /// The tunnel pool's instruments.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The certificates' instruments.
    pub fn certificates(&self) -> &Certificates {
        &self.0.certificates
    }

    /// Enrolment's instruments.
    pub fn enrolment(&self) -> &Enrolment {
        &self.0.enrolment
    }

    /// Policy's instruments.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The instruments of where objects come from.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// The instruments of buffered bytes.
    pub fn buffers(&self) -> &Buffers {
        &self.0.buffers
    }

    /// The instruments of the worker process.
    pub fn workers(&self) -> &Workers {
        &self.0.workers
    }

    /// The instruments of a controller.
    pub fn controller(&self) -> &Controller {
        &self.0.controller
    }

    /// The Prometheus text exposition (format 0.0.4) of everything. Takes milliseconds with full flow series: call it
    /// off the data path.
    pub fn render(&self) -> String {
        let inner = &self.0;
        let mut out = Exposition::default();
        inner.flows.render(&mut out);
        inner.certificates.render(&mut out);
        inner.pool.render(&mut out);
        if let Some(log) = &inner.log {
            let dropped = log.dropped();
            out.family(&LOG_DROPPED);
            out.sample(&LOG_DROPPED, &labels([("kind", "flow")]), dropped.flow);
            out.sample(&LOG_DROPPED, &labels([("kind", "log")]), dropped.log);
        }
        out.family(&BUILD);
        out.sample(&BUILD, &inner.build, 1);
        Process::read().render(&mut out);
        out.merge(&inner.recorder.render());
        out.finish()
    }
}

#[cfg(test)]
mod tests;
