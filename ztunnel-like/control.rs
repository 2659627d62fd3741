//! The control half of a worker: turns what the source says into lives of pods, and into news for the data path.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aquifer_model::{Change, Mesh, PodUid, Workload};
use aquifer_sys::NetNs;
use aquifer_sys::fdpass::AsyncChannel;
use aquifer_sys::rules::{self, RulesError};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::accept;
use crate::core::{Core, TunnelKey};
use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::life::{Order, guarded};
use crate::place::Places;
use crate::pod::Pod;
use crate::protocol::{ToParent, encode};
use crate::shared::Shared;
use crate::states::States;
use crate::tunnel;

/// What the lives of pods need: the data path, the parent, and what is known of each pod.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cores: Arc<[Arc<Core>]>,
    pub(crate) states: States,
    pub(crate) places: Places,
    /// Changes when a policy did.
    pub(crate) policies: watch::Sender<u64>,
    /// Why the CNI plug-in is not in its place on the node.
    unplugged: Mutex<Option<String>>,
    /// The plug-in was in its place once since this process began, or the node has none.
    was_plugged: AtomicBool,
    /// When the mesh was as it is served, where that is what this node kept.
    of_cache: Mutex<Option<SystemTime>>,
    parent: Arc<AsyncChannel>,
    kept: Mutex<HashMap<PodUid, oneshot::Sender<()>>>,
    generation: AtomicU64,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>, cores: Arc<[Arc<Core>]>, parent: Arc<AsyncChannel>) -> Self {
        // Generations only need to differ from those that earlier processes took on this machine.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let was_plugged = AtomicBool::new(shared.config.cni.is_none());
        Self {
            shared,
            cores,
            states: States::default(),
            places: Places::default(),
            policies: watch::Sender::new(0),
            unplugged: Mutex::default(),
            was_plugged,
            of_cache: Mutex::default(),
            parent,
            kept: Mutex::default(),
            generation: AtomicU64::new(first),
        }
    }

    /// The container runtime has begun a pod's sandbox, whose namespace is at `path`.
    pub(crate) fn announce(&self, uid: &PodUid, sandbox: &str, path: PathBuf) {
        let mesh = self.shared.mesh();
        self.places.announce(uid.clone(), sandbox, path, |uid| mesh.workload_by_uid(uid).is_some());
    }

    /// Notes whether the CNI plug-in is in its place, or why not. Returns whether that is news.
    pub(crate) fn plugged(&self, outcome: Result<(), String>) -> bool {
        self.was_plugged.fetch_or(outcome.is_ok(), Ordering::AcqRel);
        let mut unplugged = self.unplugged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *unplugged, outcome.err());
        *unplugged != before
    }

    /// Why the CNI plug-in is not in its place; `None` where it is, or has none.
    pub(crate) fn unplugged(&self) -> Option<String> {
        self.unplugged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether pods that begin are held by the CNI plug-in, or would be but for somebody who took it away since.
    pub(crate) fn was_plugged(&self) -> bool {
        self.was_plugged.load(Ordering::Acquire)
    }

    /// The mesh that is served is what this node kept at that time, or what it is told.
    pub(crate) fn serves(&self, of_cache: Option<SystemTime>) {
        *self.of_cache.lock().unwrap_or_else(PoisonError::into_inner) = of_cache;
        self.shared.telemetry.source().of_cache(of_cache);
    }

    /// When the mesh was as it is served; `None` where it is what this node is told.
    pub(crate) fn of_cache(&self) -> Option<SystemTime> {
        *self.of_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A generation that no rules carry yet.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives the parent copies of an enrolment's descriptors, and waits until it has them.
    pub(crate) async fn keep(&self, enrolment: &Enrolment) -> io::Result<()> {
        let (told, kept) = oneshot::channel();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(enrolment.uid.clone(), told);
        self.parent.send(&encode(&ToParent::Keep(enrolment.record())), &enrolment.descriptors()).await?;
        kept.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The parent has what [`Control::keep`] sent.
    pub(crate) fn kept(&self, uid: &PodUid) {
        if let Some(told) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(uid) {
            told.send(()).ok();
        }
    }

    /// The parent closes its copies.
    pub(crate) async fn forget(&self, uid: &PodUid) {
        let message = ToParent::Forget { uid: uid.to_string() };
        if let Err(error) = self.parent.send(&encode(&message), &[]).await {
            warn!(%error, %uid, "the parent still keeps the pod's listeners");
        }
    }

    /// Puts an enrolled pod on the data path.
    pub(crate) fn open(&self, enrolment: &Enrolment, pod: &Arc<Pod>) -> io::Result<()> {
        accept::open(&self.cores, enrolment, pod)?;
        self.shared.change_pods(|pods| {
            pods.insert(pod.uid.clone(), pod.clone());
        });
        Ok(())
    }

    /// Ends all connections that are carried for a pod.
    pub(crate) fn cut_pod(&self, uid: &PodUid, code: &'static str, detail: &str) {
        for core in self.cores.iter() {
            core.live.cut_pod(uid, code, detail);
        }
    }

    /// Whether connections of the pod are still carried.
    pub(crate) fn carries(&self, uid: &PodUid) -> bool {
        self.cores.iter().any(|core| core.live.carries(uid))
    }

    /// Gives the tunnels that `which` names no new stream; those that stand live on.
    pub(crate) fn retire(
        &self,
        reason: &'static str,
        mut which: impl FnMut(&TunnelKey, Option<&tunnel::Peer>) -> bool,
    ) {
        for core in self.cores.iter() {
            for _ in 0..core.pool.evict(&mut which) {
                self.shared.telemetry.pool().retired(reason);
            }
        }
    }

    /// The same for all tunnels from and to a pod.
    pub(crate) fn retire_tunnels(&self, uid: &PodUid) {
        self.retire("endpoint-gone", |key, _| key.destination == *uid || key.source == *uid);
    }

    /// Checks live connections against the mesh and the trust of now, and ends what may not go on.
    pub(crate) fn recheck(&self) {
        let mesh = self.shared.mesh();
        for core in self.cores.iter() {
            core.live.recheck(&mesh, &self.shared.store, self.shared.telemetry.policy());
        }
    }

    /// Live connections are judged by today's roots; tunnels of yesterday's certificates take no new stream.
    pub(crate) fn certificates_changed(&self) {
        let store = &self.shared.store;
        let now = store.now();
        self.retire("certificate", |key, peer| {
            let pod = self.shared.pod(&key.source);
            let renewed = pod.is_none_or(|pod| pod.certificate().generation() != key.generation);
            renewed
                || peer.is_some_and(|peer| {
                    store.still_trusted(&peer.certificate, now) != aquifer_pki::Trust::Yes
                })
        });
        self.recheck();
    }
}

/// The pods of this node that live now.
pub(crate) struct Lives {
    control: Arc<Control>,
    orders: HashMap<PodUid, watch::Sender<Order>>,
    tasks: JoinSet<PodUid>,
    /// Pods of the first moment of the mesh that are neither served yet nor known to wait.
    beginning: Vec<PodUid>,
}

impl Lives {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, orders: HashMap::new(), tasks: JoinSet::new(), beginning: Vec::new() }
    }

    /// The first moment of the mesh was applied, or the first that is sure.
    pub(crate) fn begin(&mut self) {
        self.beginning = self.orders.keys().cloned().collect();
    }

    /// Whether each pod of that moment is served, or was found impossible to serve for now; to be asked again where not.
    pub(crate) fn begun(&mut self) -> bool {
        let (control, orders) = (&self.control, &self.orders);
        self.beginning.retain(|uid| orders.contains_key(uid) && !control.states.knows(uid));
        self.beginning.is_empty()
    }

    /// Applies a change of the mesh: snapshot first, then pools, live connections and pods.
    pub(crate) fn apply(&mut self, mesh: &Mesh, change: &Change) {
        self.control.shared.publish(mesh.snapshot());
        for change in &change.workloads {
            match (&change.before, &change.after) {
                (Some(before), after) => {
                    let same = after.as_ref().is_some_and(|after| after.uid() == before.uid());
                    if !same {
                        self.order(before, Order::Leave);
                        self.control.retire_tunnels(before.uid());
                    }
                    if let Some(after) = after {
                        self.want(after);
                    }
                }
                (None, Some(after)) => self.want(after),
                (None, None) => {}
            }
        }
        let desired = self.orders.values().filter(|order| matches!(*order.borrow(), Order::Stay(_))).count();
        self.control.shared.telemetry.enrolment().desired(desired);
        if change.policies || !change.workloads.is_empty() {
            self.control.policies.send_modify(|version| *version += 1);
            self.control.recheck();
        }
    }

    /// A pod's namespace is known from now on: it is enrolled at once, if it is to be.
    pub(crate) fn announced(&mut self, uid: &PodUid) {
        if let Some(workload) = self.control.shared.mesh().workload_by_uid(uid) {
            self.want(workload);
        }
    }

    /// Takes over what an earlier worker enrolled, as far as the mesh still wants it; the rest is un-enrolled, or given back where it is not
    /// sure that this is the mesh of now.
    pub(crate) fn adopt(&mut self, enrolments: Vec<Enrolment>, sure: bool) -> Vec<Enrolment> {
        let mesh = self.control.shared.mesh();
        let mut held_back = Vec::new();
        for enrolment in enrolments {
            match mesh.workload_by_uid(&enrolment.uid).cloned() {
                Some(workload) if self.wanted(&workload) => {
                    self.start(workload.clone(), Some(enrolment), Order::Stay(workload));
                }
                _ if !sure => held_back.push(enrolment),
                Some(workload) => self.start(workload, Some(enrolment), Order::Leave),
                None => {
                    info!(uid = %enrolment.uid, "a pod left while no worker ran; its rules are removed");
                    rules::remove(&enrolment.netns, Some(enrolment.generation)).ok();
                    let (control, uid) = (self.control.clone(), enrolment.uid.clone());
                    self.tasks.spawn(async move {
                        control.forget(&uid).await;
                        uid
                    });
                }
            }
        }
        held_back
    }

    /// Removes the rules that an earlier node process left in pods which the mesh does not want any more. Of those that it
    /// wants, the rules stand and refuse until the pod is enrolled anew.
    pub(crate) fn clear(&self, records: Vec<EnrolmentRecord>) {
        let mesh = self.control.shared.mesh();
        for record in records {
            let pod = mesh.workload_by_uid(&PodUid::new(record.uid.as_str()));
            if pod.is_some_and(|workload| self.wanted(workload)) || !record.path.exists() {
                continue;
            }
            let removed = NetNs::open(&record.path)
                .map_err(RulesError::from)
                .and_then(|netns| rules::remove(&netns, Some(record.generation)));
            match removed {
                Ok(true) => {
                    info!(uid = %record.uid, "a pod left while no node process ran; its rules are removed")
                }
                Ok(false) => {}
                Err(error) => {
                    warn!(uid = %record.uid, path = %record.path.display(), %error, "rules of an earlier run may stand in a pod that is not in the mesh any more, and refuse its traffic")
                }
            }
        }
    }

    /// Un-enrols all pods by one order, and returns when all are out of the mesh.
    pub(crate) async fn leave(&mut self, order: &Order) {
        for told in self.orders.values() {
            told.send_replace(order.clone());
        }
        while self.ended().await.is_some() {}
    }

    /// Waits until one pod's life is over; `None` where none lives.
    pub(crate) async fn ended(&mut self) -> Option<()> {
        // These tasks do not panic (see `guarded`); one that was aborted has nothing to say.
        let Ok(uid) = self.tasks.join_next().await? else { return Some(()) };
        // A life can end and be wanted again in between: then it starts over.
        let again = self.orders.get(&uid).and_then(|order| match &*order.borrow() {
            Order::Stay(workload) => Some(workload.clone()),
            Order::Leave | Order::Release { .. } => None,
        });
        self.orders.remove(&uid);
        if let Some(workload) = again {
            self.want(&workload);
        }
        Some(())
    }

    /// Leaves all pods as they are: no life is told anything any more, rules and registrations stay.
    pub(crate) fn abandon(&mut self) {
        self.tasks.abort_all();
        self.orders.clear();
    }

    fn want(&mut self, workload: &Arc<Workload>) {
        let order = if self.wanted(workload) { Order::Stay(workload.clone()) } else { Order::Leave };
        if self.orders.contains_key(workload.uid()) {
            self.order(workload, order);
        } else if matches!(order, Order::Stay(_)) {
            self.start(workload.clone(), None, order);
        }
    }

    fn wanted(&self, workload: &Workload) -> bool {
        *workload.node() == self.control.shared.config.node
            && workload.in_mesh()
            // Before it has an address a pod has no namespace either, unless its runtime has told of it.
            && (!workload.addresses().is_empty() || self.control.places.has_begun(workload.uid()))
    }

    fn order(&mut self, workload: &Workload, order: Order) {
        if let Some(sender) = self.orders.get(workload.uid()) {
            sender.send_replace(order);
        }
    }

    fn start(&mut self, workload: Arc<Workload>, adopted: Option<Enrolment>, order: Order) {
        let (sender, orders) = watch::channel(order);
        self.orders.insert(workload.uid().clone(), sender);
        let control = self.control.clone();
        self.tasks.spawn(async move {
            let uid = workload.uid().clone();
            guarded(control, workload, adopted, orders).await;
            uid
        });
    }
}
