//! The life of one pod in the mesh, from its label to its last connection, as one task of the control runtime.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::{Access, Workload};
use aquifer_pki::{Held, PkiError};
use aquifer_sys::rules::{self, FourTuple, Mode, Rules, RulesError, Standing};
use aquifer_sys::{NetNs, diag};
use aquifer_telemetry::{FlowEnd, FlowStart, Path as FlowPath, Peer, Reporter};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::admit;
use crate::control::Control;
use crate::enrolment::Enrolment;
use crate::leave::{close, left};
use crate::pod::Pod;
use crate::standing;

/// How often it is looked whether an enrolled pod's namespace is still there, and which connections of before have ended.
const LOOK: Duration = Duration::from_secs(5);
/// Longest time between two proofs that the rules of an enrolled pod stand as they were laid, where nobody changed anything.
const PROOF: Duration = Duration::from_secs(60);
/// Changes in the namespace that come together are one.
const TOGETHER: Duration = Duration::from_millis(50);
/// Shortest time between two proofs: somebody who changes rules all the time costs the node no more than this.
const PAUSE: Duration = Duration::from_secs(1);
/// First and longest pause between attempts to enrol a pod.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long the parent may take to say that it keeps an enrolment.
const KEEP: Duration = Duration::from_secs(5);

/// How long tunnels are still taken for a pod after the mesh was removed: nodes learn of it within a second or two of one another, and a
/// caller that was captured before its own pod left knows no other way.
const DOORS: Duration = Duration::from_secs(3);

/// What the mesh wants of a pod of this node.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// In the mesh, described so.
    Stay(Arc<Workload>),
    /// Opted out, or its object is gone while its namespace may live on: what is carried is carried to its end.
    Leave,
    /// The mesh is removed: nothing new is captured from now on, and what is carried has an end.
    Release {
        /// Until then tunnels are still taken.
        doors: Instant,
        /// Then what is still carried is cut.
        end: Instant,
    },
}

impl Order {
    /// To leave since the mesh is removed, from now on; what is carried has so long.
    pub(crate) fn release(patience: Duration) -> Self {
        let now = Instant::now();
        Self::Release { doors: now + patience.min(DOORS), end: now + patience }
    }
}

/// Why a pod is not enrolled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error(
        "the pod's network namespace is not known: none of its processes runs on this node (yet), and it has no annotation aquifer.dev/netns"
    )]
    NoNamespace,
    #[error("the processes of this node cannot be listed: {0}; in a cluster the node's pod needs hostPID")]
    Processes(io::Error),
    #[error("network namespace {path}: {error}")]
    Namespace { path: String, error: io::Error },
    #[error("certificate for {identity}: {error}")]
    Certificate { identity: String, error: PkiError },
    #[error("listeners in the pod: {0}; does something else in the pod use the port?")]
    Listeners(io::Error),
    #[error("the parent process did not take the enrolment: {0}")]
    Parent(io::Error),
    #[error("{0}")]
    Rules(#[from] RulesError),
    #[error("sockets of the pod cannot be listed: {0}")]
    Sockets(io::Error),
}

impl EnrolError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoNamespace | Self::Processes(_) | Self::Namespace { .. } => "namespace",
            Self::Certificate { .. } => "certificate",
            Self::Listeners(_) => "listeners",
            Self::Parent(_) => "parent",
            Self::Rules(_) => "rules",
            Self::Sockets(_) => "sockets",
        }
    }
}

/// Why the pod stopped being served.
enum Leaving {
    /// Told so; connections that are carried go on.
    Told,
    /// Its namespace is gone or is another one now: nothing is left to carry.
    NamespaceGone,
    /// The worker ends: rules stay.
    Process,
}

/// [`life`], in a task of its own. Should it panic, the pod is taken off the data path so that it can be enrolled anew, and
/// its rules refuse its traffic meanwhile.
pub(crate) async fn guarded(
    control: Arc<Control>,
    workload: Arc<Workload>,
    adopted: Option<Enrolment>,
    orders: watch::Receiver<Order>,
) {
    let uid = workload.uid().clone();
    // A set and not a handle: the life ends with this future.
    let mut task = JoinSet::new();
    task.spawn(life(control.clone(), workload, adopted, orders));
    let Some(Err(fault)) = task.join_next().await else { return };
    error!(%uid, %fault, "a pod's control task failed, which is a fault of this program; the pod is enrolled anew");
    if let Some(pod) = control.shared.pod(&uid) {
        close(&control, &pod).await;
    }
    control.forget(&uid).await;
    sleep(RETRY.1).await;
}

/// A pod's whole life: enrolled as soon as it can be, proved again and again, un-enrolled when told.
///
/// `adopted` is what an earlier worker left. Returns when the pod is out of the mesh, or when control is dropped.
async fn life(
    control: Arc<Control>,
    workload: Arc<Workload>,
    adopted: Option<Enrolment>,
    mut orders: watch::Receiver<Order>,
) {
    let mut adopted = adopted;
    loop {
        let Some((enrolment, pod, mut exempt)) =
            enrolled(&control, &workload, adopted.take(), &mut orders).await
        else {
            control.states.forget(workload.uid());
            return;
        };
        let _counted = control.shared.telemetry.enrolment().enrolled();
        let leaving = served(&control, &enrolment, &pod, &mut exempt, &mut orders).await;
        match leaving {
            Leaving::Process => return,
            Leaving::NamespaceGone => {
                close(&control, &pod).await;
                control.cut_pod(&pod.uid, "pod-gone", "the pod's network namespace is gone");
            }
            Leaving::Told => {
                left(&control, &workload, &enrolment, Some(&pod), &mut orders).await;
            }
        }
        control.forget(&enrolment.uid).await;
        // They live in the namespace that the pod had; its next sandbox has another.
        control.retire_tunnels(&enrolment.uid);
        info!(pod = %workload.pod(), "un-enrolled");
        if !matches!(*orders.borrow(), Order::Stay(_)) {
            control.states.forget(workload.uid());
            return;
        }
    }
}

/// Tries until the pod is enrolled; `None` when it was told to leave before that.
async fn enrolled(
    control: &Arc<Control>,
    workload: &Arc<Workload>,
    mut adopted: Option<Enrolment>,
    orders: &mut watch::Receiver<Order>,
) -> Option<(Enrolment, Arc<Pod>, Vec<FourTuple>)> {
    let mut pause = RETRY.0;
    loop {
        let Order::Stay(workload) = orders.borrow_and_update().clone() else {
            let enrolment = adopted.take()?;
            left(control, workload, &enrolment, None, orders).await;
            control.forget(workload.uid()).await;
            continue;
        };
        match enrol(control, &workload, &mut adopted).await {
            Ok(done) => {
                control.states.enrolled(&workload);
                info!(pod = %workload.pod(), identity = %workload.identity(), standing = done.2.len(), "enrolled");
                return Some(done);
            }
            Err(error) => {
                control.shared.telemetry.enrolment().failed(error.code());
                if control.states.waiting(&workload, error.to_string()) {
                    warn!(pod = %workload.pod(), %error, "not enrolled yet; tried again");
                }
            }
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(RETRY.1),
            _ = orders.changed() => pause = RETRY.0,
        }
    }
}

/// Enrols a pod: certificate, listeners, the parent's copy, and only then the rules, in three steps.
async fn enrol(
    control: &Arc<Control>,
    workload: &Arc<Workload>,
    adopted: &mut Option<Enrolment>,
) -> Result<(Enrolment, Arc<Pod>, Vec<FourTuple>), EnrolError> {
    let path = control.places.of(workload).map_err(EnrolError::Processes)?.ok_or(EnrolError::NoNamespace)?;
    let netns = NetNs::open(&path)
        .map_err(|error| EnrolError::Namespace { path: path.display().to_string(), error })?;
    let certificate = certificate(control, workload).await?;

    let (enrolment, stands) = match adopted.take() {
        Some(enrolment) if enrolment.netns.id() == netns.id() && enrolment.listens() => (enrolment, true),
        _ => {
            let enrolment = Enrolment::prepare(workload.uid().clone(), netns, path, control.generation())
                .map_err(EnrolError::Listeners)?;
            timeout(KEEP, control.keep(&enrolment))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(EnrolError::Parent)?;
            (enrolment, false)
        }
    };
    let pod = Arc::new(Pod::new(enrolment.netns.clone(), workload.clone(), certificate));
    let mut proved = None;
    if stands {
        control.open(&enrolment, &pod).map_err(EnrolError::Listeners)?;
        // Connections wait in the queues of each pod of an earlier worker: all are served before the rules of the first are looked at.
        yield_now().await;
        // Where they cannot be looked at, laying them anew says why.
        proved = as_laid(&enrolment).unwrap_or_default();
    }
    let captured = match proved {
        Some(exempt) => refuse_forbidden(control, &enrolment, &pod, exempt),
        None => {
            let settled = pod.settled().await;
            if !stands {
                control.open(&enrolment, &pod).map_err(EnrolError::Listeners)?;
            }
            let captured = capture(control, &enrolment, &pod);
            drop(settled);
            captured
        }
    };
    match captured {
        Ok(exempt) => Ok((enrolment, pod, exempt)),
        Err(error) => {
            // Half-way: the listeners close with the pod, and what stands of the rules refuses instead of passing.
            close(control, &pod).await;
            *adopted = Some(enrolment);
            Err(error)
        }
    }
}

async fn certificate(control: &Control, workload: &Workload) -> Result<Held, EnrolError> {
    let identity = workload.identity();
    control
        .shared
        .store
        .hold(&identity)
        .await
        .map_err(|error| EnrolError::Certificate { identity: identity.to_string(), error })
}

/// Lays the rules without a gap and without breaking what stands; of that, what policy forbids is ended.
fn capture(control: &Control, enrolment: &Enrolment, pod: &Pod) -> Result<Vec<FourTuple>, EnrolError> {
    let exempt = rules::enrol(&enrolment.netns, enrolment.generation)?;
    refuse_forbidden(control, enrolment, pod, exempt)
}

/// Ends those standing connections into the pod that policy forbids today (a caller without identity under STRICT, a DENY by
/// address), each with a flow record; the others stay exempt.
fn refuse_forbidden(
    control: &Control,
    enrolment: &Enrolment,
    pod: &Pod,
    mut exempt: Vec<FourTuple>,
) -> Result<Vec<FourTuple>, EnrolError> {
    if exempt.is_empty() {
        return Ok(exempt);
    }
    let dump = diag::tcp_sockets(&enrolment.netns).map_err(EnrolError::Sockets)?;
    let mesh = control.shared.mesh();
    let workload = pod.workload();
    let forbidden: Vec<_> = standing::inbound(&exempt, &dump)
        .filter_map(|connection| {
            let access = Access {
                identity: None,
                source: connection.remote.ip(),
                destination: &workload,
                address: connection.local,
            };
            admit::decide(&mesh, &access).err().map(|denial| (connection, denial))
        })
        .collect();
    for (connection, denial) in forbidden {
        diag::destroy(&enrolment.netns, &connection).map_err(EnrolError::Sockets)?;
        exempt.retain(|other| *other != connection);
        let flow = control.shared.telemetry.flow(FlowStart {
            reporter: Reporter::Destination,
            source: control.shared.peer(&mesh, connection.remote, None),
            destination: Peer {
                address: Some(connection.local),
                workload: Some(workload.clone()),
                identity: Some(workload.identity()),
            },
            service: None,
            original_destination: Some(connection.local),
            path: FlowPath::Plaintext,
            tls: false,
        });
        let detail = format!("{denial}; the connection stood before the pod was enrolled and was ended");
        flow.finish(FlowEnd::denied(
            denial.reason.code(),
            detail,
            denial.by.as_ref().map(ToString::to_string),
        ));
        control.shared.telemetry.policy().cut(denial.reason.code());
    }
    Ok(exempt)
}

/// Serves an enrolled pod until it has to leave.
async fn served(
    control: &Arc<Control>,
    enrolment: &Enrolment,
    pod: &Arc<Pod>,
    exempt: &mut Vec<FourTuple>,
    orders: &mut watch::Receiver<Order>,
) -> Leaving {
    let mut policies = control.policies.subscribe();
    let watch = rules::Watch::new(&enrolment.netns);
    if let Err(error) = &watch {
        warn!(pod = %pod.workload().pod(), %error, "changes of packet rules in the pod cannot be heard; they are looked for every {} s", LOOK.as_secs());
    }
    // What was changed before the watch was there is seen soon.
    let mut proved = Instant::now();
    let (mut look, mut proof) = (proved + LOOK, proved + PAUSE);
    loop {
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return Leaving::Process;
                }
                let order = orders.borrow_and_update().clone();
                match order {
                    Order::Leave | Order::Release { .. } => return Leaving::Told,
                    Order::Stay(workload) => {
                        describe(control, pod, workload).await;
                        // A sandbox made anew is told by an order, too.
                        if !enrolment.netns.stands_at(&enrolment.path) {
                            return Leaving::NamespaceGone;
                        }
                    }
                }
            }
            _ = policies.changed() => match refuse_forbidden(control, enrolment, pod, exempt.clone()) {
                Ok(still) if still.len() != exempt.len() => {
                    *exempt = still;
                    rules::set_standing(&enrolment.netns, enrolment.generation, exempt).ok();
                }
                Ok(_) => {}
                Err(error) => warn!(pod = %pod.workload().pod(), %error, "connections that stood before the mesh could not be checked again"),
            },
            () = changed(watch.as_ref().ok()) => proof = proof.min((Instant::now() + TOGETHER).max(proved + PAUSE)),
            () = tokio::time::sleep_until(look) => {
                look = Instant::now() + LOOK;
                if !enrolment.netns.stands_at(&enrolment.path) {
                    return Leaving::NamespaceGone;
                }
                if !exempt.is_empty() {
                    match rules::refresh(&enrolment.netns, enrolment.generation) {
                        Ok(still) => *exempt = still.unwrap_or_default(),
                        Err(error) => {
                            unproved(control, pod, &error.into());
                            proof = proof.min(look);
                        }
                    }
                }
            }
            () = tokio::time::sleep_until(proof) => {
                proved = Instant::now();
                proof = proved + if watch.is_ok() { PROOF } else { LOOK };
                match prove(control, enrolment, pod, exempt) {
                    Ok(()) => control.states.ready(&pod.workload()),
                    Err(error) => {
                        proof = proved + LOOK;
                        unproved(control, pod, &error);
                    }
                }
            }
        }
    }
}

/// Waits until somebody changed packet rules or routing in the pod; for ever where that cannot be heard.
async fn changed(watch: Option<&rules::Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn unproved(control: &Control, pod: &Pod, error: &EnrolError) {
    control.shared.telemetry.enrolment().failed(error.code());
    control.states.waiting(&pod.workload(), error.to_string());
    warn!(pod = %pod.workload().pod(), %error, "the pod's capture could not be proved; tried again");
}

/// Takes a new description; a new identity gets its own certificate before it counts.
async fn describe(control: &Arc<Control>, pod: &Pod, workload: Arc<Workload>) {
    if workload.identity() != pod.workload().identity() {
        match certificate(control, &workload).await {
            Ok(certificate) => {
                control.cut_pod(&pod.uid, "identity-changed", "the pod's service account changed");
                pod.certify(certificate);
            }
            Err(error) => {
                control.states.waiting(&workload, error.to_string());
                warn!(pod = %workload.pod(), %error, "the pod keeps its former identity");
                return;
            }
        }
    }
    if workload.terminating() && !pod.workload().terminating() {
        pod.retire();
    }
    pod.describe(workload);
}

/// The connections that stood before, where all rules of the enrolment stand as they were laid.
fn as_laid(enrolment: &Enrolment) -> Result<Option<Vec<FourTuple>>, RulesError> {
    Ok(match rules::inspect(&enrolment.netns)? {
        Standing::Present(found) if found.intact() && found.generation == Some(enrolment.generation) => {
            match found.mode {
                Some(Mode::Capture { standing }) => Some(standing),
                _ => None,
            }
        }
        Standing::Present(_) | Standing::Absent => None,
    })
}

/// Proves that what was laid still stands, and lays it again where not.
fn prove(
    control: &Control,
    enrolment: &Enrolment,
    pod: &Pod,
    exempt: &[FourTuple],
) -> Result<(), EnrolError> {
    if as_laid(enrolment)?.is_none() {
        // What began while nothing captured it is not exempt: it is cut off from its next packet on.
        let mode = Mode::Capture { standing: exempt.to_vec() };
        rules::lay(&enrolment.netns, &Rules { generation: enrolment.generation, mode })?;
        control.shared.telemetry.enrolment().repaired("rules");
        warn!(pod = %pod.workload().pod(), "packet rules in the pod had been changed by somebody; laid again");
    }
    Ok(())
}
