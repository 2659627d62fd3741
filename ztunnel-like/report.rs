//! The admin pages of a node, and its readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use aquifer_model::PodUid;
use aquifer_sys::rules::{self, Standing};
use aquifer_telemetry::{Fault, Page, Readiness, Ready, Report, pages, snapshot_page};
use serde_json::{Value, json};

use crate::cache::utc;
use crate::control::Control;
use crate::pod::Pod;

/// Lines of the connection page, and of the list of faults.
const LINES: usize = 10_000;

/// What a node shows of itself.
pub(crate) struct NodeReport {
    control: Arc<Control>,
    begun: AtomicBool,
    ends: AtomicBool,
}

impl NodeReport {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, begun: AtomicBool::new(false), ends: AtomicBool::new(false) }
    }

    /// The source was read, and each of the node's pods is served or known to wait.
    pub(crate) fn begun(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// The node takes no new connection any more.
    pub(crate) fn ends(&self) {
        self.ends.store(true, Ordering::Release);
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

impl NodeReport {
    /// What is wrong just now. The packet rules of each enrolled pod are looked at here and now, so that the answer is no older than
    /// the question.
    fn faults(&self) -> Vec<Fault> {
        let proved = self.control.states.all().into_iter().filter(|pod| pod.ready).take(LINES);
        let pods = proved.filter_map(|pod| self.control.shared.pod(&PodUid::new(pod.uid)));
        let rules = pods.filter_map(|pod| {
            let found = capture_fault(&pod)?;
            // A pod that left meanwhile has no rules, and needs none.
            self.control.shared.pod(&pod.uid)?;
            Some(Fault {
                code: "rules",
                about: pod.workload().pod().to_string(),
                found,
                mend: "the node lays them again within 5 s; find out who changes nftables or policy routing in pods: another \
                       mesh, a CNI plug-in or a firewall agent on the node"
                    .to_owned(),
            })
        });
        rules.chain(self.unplugged()).chain(self.cached()).collect()
    }

    fn cached(&self) -> Option<Fault> {
        let at = self.control.of_cache()?;
        Some(Fault {
            code: "cache",
            about: "the mesh".to_owned(),
            found: format!(
                "served from the cache of {}: since its proxy started it heard neither controller nor API server, and what changed \
                 after that is not known there",
                utc(at)
            ),
            mend: "let the proxy's pod reach the Service aquifer-controller (TCP 15012), or the API server: its log says why it does not"
                .to_owned(),
        })
    }

    fn unplugged(&self) -> Option<Fault> {
        let why = self.control.unplugged()?;
        Some(Fault {
            code: "cni",
            about: self.control.shared.config.node.clone(),
            found: format!("the CNI plug-in is not in its place ({why}): pods that begin are captured a moment late"),
            mend: "let the node proxy write the runtime's CNI folders: see `--cni-conf-dir` and `--cni-bin-dir` of `aquifer install`, and \
                   what else writes there"
                .to_owned(),
        })
    }
}

/// What is wrong with the packet rules in an enrolled pod; `None` where they stand as they were laid.
fn capture_fault(pod: &Pod) -> Option<String> {
    match rules::inspect(&pod.netns) {
        Ok(Standing::Present(found)) if found.intact() => None,
        Ok(Standing::Present(found)) => {
            Some(format!("packet rules differ from what was laid: {}", found.faults.join("; ")))
        }
        Ok(Standing::Absent) => Some("the packet rules are gone: its traffic passes by the mesh".to_owned()),
        Err(error) => Some(format!("the packet rules cannot be looked at: {error}")),
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
            pages::PROBLEMS,
        ]
    }

    fn page(&self, name: &str) -> Option<Value> {
        match name {
            name if name == pages::CONFIG.name => Some(json!(self.control.shared.config)),
            name if name == pages::SNAPSHOT.name => Some(snapshot_page(&self.control.shared.mesh(), None)),
            name if name == pages::CERTIFICATES.name => Some(self.certificates()),
            name if name == pages::POOLS.name => Some(self.tunnels()),
            name if name == pages::ENROLMENTS.name => Some(json!(self.control.states.all())),
            name if name == pages::CONNECTIONS.name => Some(self.connections()),
            name if name == pages::PROBLEMS.name => Some(json!(self.faults())),
            // Alone, since the others take a look into each pod.
            "problems/cache" => Some(json!(self.cached().into_iter().collect::<Vec<_>>())),
            name => {
                let namespace = name.strip_prefix(pages::SNAPSHOT.name)?.strip_prefix('/')?;
                Some(snapshot_page(&self.control.shared.mesh(), Some(namespace)))
            }
        }
    }
}

impl Readiness for NodeReport {
    /// Ready once the source was read, what could be served is, and the CNI plug-in is in its place, so that a node that waits for this lets no
    /// pod begin too early. One pod that cannot be enrolled does not make the node unready, it is told per pod.
    fn ready(&self) -> Ready {
        let detail = self.control.states.all();
        let waiting = detail.iter().filter(|pod| !pod.ready).count();
        let (begun, ends) = (self.begun.load(Ordering::Acquire), self.ends.load(Ordering::Acquire));
        let plugged = self.control.was_plugged();
        let why = match (begun, waiting) {
            _ if ends => "the node stops: it serves its last connections".to_owned(),
            (false, _) => "the source has not been read yet, or pods are being enrolled".to_owned(),
            (true, _) if !plugged => {
                let why = self.control.unplugged().map(|why| format!(": {why}")).unwrap_or_default();
                format!("the CNI plug-in is not in its place yet{why}")
            }
            (true, 0) => format!("{} pods enrolled", detail.len()),
            (true, _) => {
                format!("{} of {} pods wait for enrolment, see /readyz?verbose", waiting, detail.len())
            }
        };
        let why = match self.control.of_cache() {
            Some(at) => format!("{why}; from the cache of {}", utc(at)),
            None => why,
        };
        Ready { ready: begun && plugged && !ends, why, detail }
    }
}
