//! The admin pages of a node, and its readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use aquifer_telemetry::{Page, Readiness, Ready, Report, pages};
use serde_json::{Value, json};

use crate::control::Control;

/// Lines of the connection page, and of each list of the snapshot page.
const LINES: usize = 10_000;

/// What a node shows of itself.
pub(crate) struct NodeReport {
    control: Arc<Control>,
    synced: AtomicBool,
    ends: AtomicBool,
}

impl NodeReport {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, synced: AtomicBool::new(false), ends: AtomicBool::new(false) }
    }

    /// The source was read once.
    pub(crate) fn synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// The node takes no new connection any more.
    pub(crate) fn ends(&self) {
        self.ends.store(true, Ordering::Release);
    }

    fn snapshot(&self) -> Value {
        let mesh = self.control.shared.mesh();
        json!({
            "version": mesh.version(),
            "workloads": mesh.workloads().take(LINES).collect::<Vec<_>>(),
            "services": mesh.services().take(LINES).collect::<Vec<_>>(),
            "endpointSlices": mesh.endpoint_slices().take(LINES).collect::<Vec<_>>(),
            "policies": mesh.policies().take(LINES).collect::<Vec<_>>(),
            "peerAuthentications": mesh.peer_authentications().take(LINES).collect::<Vec<_>>(),
            "nodes": mesh.nodes().take(LINES).collect::<Vec<_>>(),
            "duplicateAddresses": mesh.duplicate_addresses().take(LINES).collect::<Vec<_>>(),
        })
    }

    fn certificates(&self) -> Value {
        let store = &self.control.shared.store;
        let roots: Vec<_> = store
            .bundle()
            .roots()
            .iter()
            .map(|root| {
                let ends = root.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                json!({ "id": root.id.to_string(), "subject": root.subject, "notAfter": ends })
            })
            .collect();
        json!({ "roots": roots, "certificates": store.report() })
    }

    fn tunnels(&self) -> Value {
        let cores = self.control.cores.iter().enumerate();
        let tunnels = cores.flat_map(|(index, core)| {
            core.pool.report().into_iter().map(move |entry| {
                json!({
                    "core": index,
                    "source": entry.key.source,
                    "sourceIdentity": entry.key.source_identity,
                    "destination": entry.key.destination,
                    "destinationIdentity": entry.key.destination_identity,
                    "address": entry.key.address,
                    "streamsPerTunnel": entry.tunnels,
                    "dialling": entry.dialing,
                })
            })
        });
        tunnels.collect()
    }

    fn connections(&self) -> Value {
        json!(self.control.cores.iter().map(|core| core.live.list(LINES)).collect::<Vec<_>>())
    }
}

impl Report for NodeReport {
    fn pages(&self) -> Vec<Page> {
        vec![
            pages::CONFIG,
            pages::SNAPSHOT,
            pages::CERTIFICATES,
            pages::POOLS,
            pages::ENROLMENTS,
            pages::CONNECTIONS,
        ]
    }

    fn page(&self, name: &str) -> Option<Value> {
        match name {
            name if name == pages::CONFIG.name => Some(json!(self.control.shared.config)),
            name if name == pages::SNAPSHOT.name => Some(self.snapshot()),
            name if name == pages::CERTIFICATES.name => Some(self.certificates()),
            name if name == pages::POOLS.name => Some(self.tunnels()),
            name if name == pages::ENROLMENTS.name => Some(json!(self.control.states.all())),
            name if name == pages::CONNECTIONS.name => Some(self.connections()),
            _ => None,
        }
    }
}

impl Readiness for NodeReport {
    /// Ready once the source was read: one pod that cannot be enrolled does not make the node unready, it is told per pod.
    fn ready(&self) -> Ready {
        let detail = self.control.states.all();
        let waiting = detail.iter().filter(|pod| !pod.ready).count();
        let (synced, ends) = (self.synced.load(Ordering::Acquire), self.ends.load(Ordering::Acquire));
        let why = match (synced, waiting) {
            _ if ends => "the node stops: it serves its last connections".to_owned(),
            (false, _) => "the source has not been read yet".to_owned(),
            (true, 0) => format!("{} pods enrolled", detail.len()),
            (true, _) => {
                format!("{} of {} pods wait for enrolment, see /readyz?verbose", waiting, detail.len())
            }
        };
        Ready { ready: synced && !ends, why, detail }
    }
}
