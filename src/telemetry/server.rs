//! A small HTTP/1.1 server for metrics, readiness and admin pages, bounded in connections, header size and time.
#![allow(clippy::todo, unused_variables)]

use std::sync::Arc;
use std::time::SystemTime;

use crate::{LogHandle, Telemetry};

/// One admin page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its path without the slash.
    pub name: &'static str,
    /// What it shows, for the index.
    pub about: &'static str,
}

/// The admin pages that every role names alike.
pub mod pages {
    use super::Page;

    /// Effective configuration.
    pub const CONFIG: Page = Page { name: "config", about: "the effective configuration" };
    /// The mesh as this process knows it.
    pub const SNAPSHOT: Page = Page { name: "snapshot", about: "the mesh as this process knows it" };
    /// Certificates, never keys.
    pub const CERTIFICATES: Page =
        Page { name: "certificates", about: "certificates in use and the trust bundle (no keys)" };
    /// Tunnels.
    pub const POOLS: Page = Page { name: "pools", about: "tunnels to other nodes" };
    /// Enrolled pods.
    pub const ENROLMENTS: Page =
        Page { name: "enrolments", about: "pods of this node, and what was proved of each" };
    /// Live connections.
    pub const CONNECTIONS: Page = Page { name: "connections", about: "live connections" };
}

/// What a role shows on its admin pages.
pub trait Report: Send + Sync {
    /// The pages it has.
    fn pages(&self) -> Vec<Page>;
    /// One of them, as of now. May take long and block: it runs off the server's tasks. `None` if there is no such page.
    fn page(&self, name: &str) -> Option<serde_json::Value>;
}

/// Whether a process serves, and each pod's part in it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Ready {
    /// The answer: 200 or 503.
    pub ready: bool,
    /// One line why.
    pub why: String,
    /// Per pod.
    pub detail: Vec<PodReady>,
}

/// Whether one pod is served.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PodReady {
    /// `namespace/name`.
    pub pod: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Whether it is enrolled and proved.
    pub ready: bool,
    /// One line why.
    pub why: String,
    /// Since when it has been so.
    pub since: Option<SystemTime>,
}

/// Who knows whether the process is ready.
pub trait Readiness: Send + Sync {
    /// The state of now. Must not block.
    fn ready(&self) -> Ready;
}

/// What a listener serves.
#[derive(Clone)]
pub enum Surface {
    /// Admin pages, log level, metrics and readiness, for people on this machine.
    Admin {
        /// The role's pages.
        report: Arc<dyn Report>,
        /// `/readyz`.
        readiness: Arc<dyn Readiness>,
        /// `/metrics`.
        telemetry: Telemetry,
        /// `/logging`.
        log: Option<LogHandle>,
    },
    /// `/metrics` for Prometheus.
    Metrics(Telemetry),
    /// `/readyz` and `/healthz` for the kubelet.
    Ready(Arc<dyn Readiness>),
}

/// Serves until the future is dropped, which also ends its connections. The listener may live in any namespace.
pub async fn serve(surface: Surface, listener: std::net::TcpListener) -> std::io::Result<()> {
    todo!()
}
