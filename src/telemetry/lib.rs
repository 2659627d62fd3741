//! Everything the mesh says about itself, declared once: metrics ([`METRICS`]), flow records ([`FIELDS`]), the log,
//! and the small HTTP server for metrics, readiness and admin pages.
//!
//! No global state: a [`Telemetry`] owns its recorder and is cloned to whoever counts. Only [`init_logging`] touches
//! the process, since `tracing` has one subscriber.

mod catalog;
mod clock;
mod controller;
mod exposition;
mod flow;
mod instruments;
mod logging;
mod process;
mod recorder;
mod server;
mod telemetry;
#[cfg(test)]
mod testing;

pub use catalog::{FIELDS, FLOW_LABELS, Field, Kind, METRICS, Metric};
pub use clock::Clock;
pub use controller::Controller;
pub use flow::{Closer, Flow, FlowEnd, FlowStart, Hop, Path, Peer, Reporter, Verdict};
pub use instruments::{Buffers, Certificates, Counted, Enrolment, Policy, Pool, Source, SourceKind, Workers};
pub use logging::{Dropped, LogError, LogFormat, LogHandle, init_logging};
pub use server::{Fault, Page, PodReady, Readiness, Ready, Report, Surface, pages, serve, snapshot_page};
pub use telemetry::{Telemetry, TelemetryConfig};
