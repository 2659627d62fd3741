//! What all data-plane threads of a worker share: the snapshot of now, the enrolled pods, and the limits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_hbone::Budget;
use aquifer_model::{Identity, PodUid, Snapshot, Workload};
use aquifer_pki::Store;
use aquifer_telemetry::{Flow, FlowStart, Path, Peer, Reporter, Telemetry};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::NodeConfig;
use crate::kubelet::Kubelet;
use crate::pod::Pod;

/// Shared by all cores and by control. Readers take whole snapshots; nothing here is locked on the data path.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) hbone: aquifer_hbone::Config,
    pub(crate) store: Store,
    pub(crate) telemetry: Telemetry,
    pub(crate) budget: Arc<Budget>,
    pub(crate) slots: Slots,
    /// Whose probes pass; none where there is no cluster.
    pub(crate) kubelet: Option<Arc<Kubelet>>,
    mesh: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
    pods: ArcSwap<HashMap<PodUid, Arc<Pod>>>,
}

impl Shared {
    pub(crate) fn new(
        config: NodeConfig,
        hbone: aquifer_hbone::Config,
        store: Store,
        telemetry: Telemetry,
        budget: Arc<Budget>,
        mesh: Arc<Snapshot>,
    ) -> Self {
        Self {
            slots: Slots::new(config.carry.max_connections),
            kubelet: Kubelet::of(&config.origin).map(Arc::new),
            config,
            hbone,
            store,
            telemetry,
            budget,
            mesh: ArcSwap::new(mesh),
            version: watch::Sender::new(0),
            pods: ArcSwap::default(),
        }
    }

    /// The mesh as it is now, whole.
    pub(crate) fn mesh(&self) -> Arc<Snapshot> {
        self.mesh.load_full()
    }

    /// Swaps the mesh; who waits for news wakes up.
    pub(crate) fn publish(&self, mesh: Arc<Snapshot>) {
        let version = mesh.version();
        self.mesh.store(mesh);
        self.version.send_replace(version);
    }

    /// Changes whenever a new snapshot is published.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The pod, if it is enrolled on this node and takes new connections.
    pub(crate) fn pod(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.pods.load().get(uid).filter(|pod| !pod.leaving()).cloned()
    }

    /// All pods that are served.
    pub(crate) fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.load().values().cloned().collect()
    }

    /// Adds a pod to those that are served, or takes one away. Called by control alone.
    pub(crate) fn change_pods(&self, change: impl Fn(&mut HashMap<PodUid, Arc<Pod>>)) {
        let mut pods = HashMap::clone(&self.pods.load());
        change(&mut pods);
        self.pods.store(Arc::new(pods));
    }

    /// The record of what arrives at a pod of this node from a caller that proved no identity.
    pub(crate) fn arrival(&self, pod: &Pod, client: SocketAddr, called: SocketAddr, path: Path) -> Flow {
        let workload = pod.workload();
        self.telemetry.flow(FlowStart {
            reporter: Reporter::Destination,
            source: self.peer(&self.mesh(), client, None),
            destination: Peer {
                address: Some(called),
                identity: Some(workload.identity()),
                workload: Some(workload),
            },
            service: None,
            original_destination: Some(called),
            path,
            tls: false,
        })
    }

    /// One end of a connection: the workload at that address counts only if it agrees with the proved identity.
    pub(crate) fn peer(&self, mesh: &Snapshot, address: SocketAddr, identity: Option<&Identity>) -> Peer {
        let workload: Option<Arc<Workload>> = mesh
            .workload_by_ip(address.ip())
            .filter(|workload| identity.is_none_or(|identity| workload.identity() == *identity))
            .cloned();
        Peer { address: Some(address), workload, identity: identity.cloned() }
    }
}

/// How many connections are carried, and may be.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicUsize,
    limit: usize,
}

impl Slots {
    fn new(limit: usize) -> Self {
        Self { taken: AtomicUsize::new(0), limit }
    }

    /// How many are taken, by accepted tunnels too.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// A place for one more connection, unless all are taken.
    pub(crate) fn take(&self) -> Option<Slot<'_>> {
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.limit {
            return Some(Slot(self));
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
