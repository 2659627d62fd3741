//! The admin pages of a controller, and its readiness.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aquifer_discovery::server::Feed;
use aquifer_model::Snapshot;
use aquifer_source::Batch;
use aquifer_telemetry::{Page, Readiness, Ready, Report, pages, snapshot_page};
use serde_json::{Value, json};

use crate::ControllerConfig;
use crate::authority::Authority;
use crate::leader::Leading;

/// What is served to nodes.
const DISCOVERY: Page = Page {
    name: "discovery",
    about: "what nodes are told: resources by type, streams, problems of the source",
};

/// Problems that are shown.
const LINES: usize = 1_000;

pub(crate) struct ControllerReport {
    config: ControllerConfig,
    feed: Arc<Feed>,
    authority: Arc<Authority>,
    leading: Leading,
    synced: AtomicBool,
    ends: AtomicBool,
    problems: Mutex<Vec<String>>,
    /// What nodes are told; `None` before the cluster was read.
    mesh: Mutex<Option<Arc<Snapshot>>>,
}

impl ControllerReport {
    pub(crate) fn new(
        config: ControllerConfig,
        feed: Arc<Feed>,
        authority: Arc<Authority>,
        leading: Leading,
    ) -> Self {
        Self {
            config,
            feed,
            authority,
            leading,
            synced: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            problems: Mutex::default(),
            mesh: Mutex::default(),
        }
    }

    /// The source said something.
    pub(crate) fn heard(&self, batch: &Batch) {
        let problems = batch.problems.iter().take(LINES).map(ToString::to_string).collect();
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    /// The mesh is so now.
    pub(crate) fn knows(&self, mesh: Arc<Snapshot>) {
        *self.mesh.lock().unwrap_or_else(PoisonError::into_inner) = Some(mesh);
    }

    /// Whether everything was read.
    pub(crate) fn synced(&self, synced: bool) {
        self.synced.fetch_or(synced, Ordering::Release);
    }

    /// The process was told to end.
    pub(crate) fn ends(&self) {
        self.ends.store(true, Ordering::Release);
    }

    fn certificates(&self) -> Value {
        let signer = self.authority.signer();
        let roots: Vec<_> = signer
            .authority()
            .bundle
            .roots()
            .iter()
            .map(|root| {
                json!({ "id": root.id.to_string(), "subject": root.subject, "notAfter": unix(root.not_after) })
            })
            .collect();
        json!({ "roots": roots })
    }

    fn discovery(&self) -> Value {
        let own = self.feed.counts().into_iter().map(|(of, count)| (of.to_string(), count.into()));
        let istio = self.feed.istio_counts().into_iter().map(|(of, count)| (of.to_string(), count.into()));
        let counts: serde_json::Map<String, Value> = own.chain(istio).collect();
        let revision = self.feed.revision();
        let listeners: Vec<Value> = self
            .feed
            .listeners()
            .into_iter()
            .map(|l| json!({ "id": l.id, "since": unix(l.since), "told": l.told, "has": l.has, "behind": revision.saturating_sub(l.has) }))
            .collect();
        let rejected: Vec<Value> = self
            .feed
            .rejected()
            .into_iter()
            .map(|r| json!({ "id": r.id, "at": unix(r.at), "type": r.of.to_string(), "why": r.why }))
            .collect();
        json!({
            "revision": revision,
            "leads": self.leading.now(),
            "resources": counts,
            "streams": self.feed.streams(),
            "listeners": listeners,
            "rejections": self.feed.rejections(),
            "rejected": rejected,
            "problems": *self.problems.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// Unix seconds.
fn unix(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Report for ControllerReport {
    fn pages(&self) -> Vec<Page> {
        vec![pages::CONFIG, pages::SNAPSHOT, pages::CERTIFICATES, DISCOVERY]
    }

    fn page(&self, name: &str) -> Option<Value> {
        match name {
            name if name == pages::CONFIG.name => Some(json!(self.config)),
            name if name == pages::CERTIFICATES.name => Some(self.certificates()),
            name if name == DISCOVERY.name => Some(self.discovery()),
            name => {
                let rest = name.strip_prefix(pages::SNAPSHOT.name)?;
                let namespace = if rest.is_empty() { None } else { Some(rest.strip_prefix('/')?) };
                let mesh = self.mesh.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
                Some(snapshot_page(&mesh, namespace))
            }
        }
    }
}

impl Readiness for ControllerReport {
    /// Ready once the cluster was read; from then on what is known is told, also while the API server is away.
    fn ready(&self) -> Ready {
        if self.ends.load(Ordering::Acquire) {
            return Ready { ready: false, why: "it ends".to_owned(), detail: Vec::new() };
        }
        let ready = self.synced.load(Ordering::Acquire);
        let why = match ready {
            true => format!("{} nodes listen", self.feed.streams()),
            false => "the cluster has not been read yet".to_owned(),
        };
        Ready { ready, why, detail: Vec::new() }
    }
}
