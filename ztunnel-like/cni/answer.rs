//! Answers the plug-in: a pod begins once it is in the mesh, or known not to be of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer_cni::node::{Answer, Ask, MAX_LINE, Verb, from_line, to_line};
use aquifer_model::{PodUid, Workload};
use aquifer_sys::NetNs;
use aquifer_sys::rules::{self, Mode, Standing};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use crate::control::Control;

/// Plug-ins that are answered at once: each is a pod that begins on this node, and a node has some hundred pods. More wait in the
/// socket's queue.
const ASKERS: usize = 512;
/// How long a plug-in may take to say its question, and to take its answer.
const WORDS: Duration = Duration::from_secs(5);
/// Longest patience that is granted: runtimes have none beyond it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause before a plug-in is told what another try would not change at once.
const PAUSE: Duration = Duration::from_millis(500);
/// Characters of a uid of the API server; a pod of a node's own manifest folder has another one on the node.
const UID: usize = 36;

/// Serves until the socket fails.
pub(super) async fn serve(listener: UnixListener, control: &Arc<Control>, announced: &mpsc::Sender<PodUid>) {
    let mut askers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if askers.len() < ASKERS => match accepted {
                Ok((stream, _)) => {
                    askers.spawn(converse(stream, control.clone(), announced.clone()));
                }
                Err(error) => {
                    warn!(%error, "a call of the CNI plug-in cannot be taken; it asks again");
                    return;
                }
            },
            // Tasks do not panic but by a fault of ours, and then the plug-in asks again.
            Some(_) = askers.join_next() => {}
        }
    }
}

/// One question and its answer; given up where the plug-in is gone.
async fn converse(stream: UnixStream, control: Arc<Control>, announced: mpsc::Sender<PodUid>) {
    let (mut reader, mut writer) = stream.into_split();
    let ask = match timeout(WORDS, question(&mut reader)).await {
        Ok(Ok(ask)) => ask,
        Ok(Err(error)) => {
            return warn!(%error, "the CNI plug-in says something else than a question; is it of another version?");
        }
        Err(_) => return debug!("the CNI plug-in connected and asks nothing"),
    };
    let answer = tokio::select! {
        answer = decide(&control, &announced, &ask) => answer,
        _ = gone(&mut reader) => return debug!(pod = %ask.pod, "the CNI plug-in was ended by its runtime before it was answered"),
    };
    debug!(pod = %ask.pod, namespace = %ask.namespace, verb = ?ask.verb, ?answer, "the CNI plug-in is answered");
    // One that is gone asks again.
    timeout(WORDS, writer.write_all(&to_line(&answer))).await.ok();
}

async fn question(reader: &mut OwnedReadHalf) -> io::Result<Ask> {
    let mut line = Vec::new();
    BufReader::new(reader.take(MAX_LINE)).read_until(b'\n', &mut line).await?;
    from_line(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Returns when the other end is closed: it says nothing after its question.
async fn gone(reader: &mut OwnedReadHalf) -> io::Result<usize> {
    reader.read(&mut [0]).await
}

async fn decide(control: &Control, announced: &mpsc::Sender<PodUid>, ask: &Ask) -> Answer {
    match ask.verb {
        Verb::Add => begin(control, announced, ask).await,
        Verb::Check => check(control, ask),
        Verb::Del => {
            control.places.withdraw(&ask.container);
            Answer::Done
        }
    }
}

/// What is known of a pod that is asked for.
enum Known {
    /// Nothing yet.
    Unknown,
    /// It is no pod of the mesh.
    Outside,
    /// It is to be in the mesh.
    Wanted(Arc<Workload>),
}

/// Waits until the pod is enrolled in this very namespace, or known to be outside, for as long as the plug-in has patience.
async fn begin(control: &Control, announced: &mpsc::Sender<PodUid>, ask: &Ask) -> Answer {
    let deadline = Instant::now() + Duration::from_millis(ask.patience_ms).min(PATIENCE);
    let mut place = None;
    let (mut mesh, mut states) = (control.shared.news(), control.states.news());
    loop {
        mesh.borrow_and_update();
        states.borrow_and_update();
        let answer = match known(control, ask) {
            Known::Outside => return Answer::Outside,
            Known::Unknown => Answer::Unknown { why: unheard(ask) },
            Known::Wanted(workload) => {
                let netns = match &place {
                    Some(netns) => netns,
                    None => match open(&ask.netns) {
                        Ok((path, netns)) => {
                            control.announce(workload.uid(), &ask.container, path);
                            // The control loop ends only with this task.
                            announced.send(workload.uid().clone()).await.ok();
                            place.insert(netns)
                        }
                        Err(error) => {
                            sleep(PAUSE.min(deadline - Instant::now())).await;
                            return Answer::Waiting { why: error.to_string() };
                        }
                    },
                };
                match enrolled(control, &workload, netns) {
                    Ok(()) => return Answer::Done,
                    Err(why) => Answer::Waiting { why },
                }
            }
        };
        tokio::select! {
            _ = mesh.changed() => {}
            _ = states.changed() => {}
            () = sleep_until(deadline) => return answer,
        }
    }
}

/// Whether the pod is still captured. What is not known is not said to be wrong.
fn check(control: &Control, ask: &Ask) -> Answer {
    match known(control, ask) {
        Known::Unknown => Answer::Unknown { why: unheard(ask) },
        Known::Outside => Answer::Outside,
        Known::Wanted(workload) => match open(&ask.netns) {
            Ok((_, netns)) => match enrolled(control, &workload, &netns) {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Waiting { why },
            },
            Err(error) => Answer::Waiting { why: error.to_string() },
        },
    }
}

fn unheard(ask: &Ask) -> String {
    format!(
        "the node proxy has not heard of pod {}/{} from the controller yet, so that it has no identity; see `aquifer check`",
        ask.namespace, ask.pod
    )
}

/// The pod by its uid; by its name where the runtime does not tell a uid of the API server.
fn known(control: &Control, ask: &Ask) -> Known {
    let mesh = control.shared.mesh();
    let node = control.shared.config.node.as_str();
    let workload = match ask.uid.as_ref().filter(|uid| uid.len() == UID) {
        Some(uid) => mesh.workload_by_uid(&PodUid::new(uid.as_str())),
        None => {
            let is_it = |workload: &&Arc<Workload>| {
                workload.pod().name == *ask.pod && *workload.pod().namespace == *ask.namespace
            };
            mesh.workloads().find(is_it)
        }
    };
    match workload {
        // It may not be told yet that it was scheduled to this node.
        Some(workload) if *workload.node() == *node => {
            if workload.in_mesh() {
                Known::Wanted(workload.clone())
            } else {
                Known::Outside
            }
        }
        _ => Known::Unknown,
    }
}

/// Whether the pod is on the data path with this namespace, and its traffic captured there; else why not.
fn enrolled(control: &Control, workload: &Workload, netns: &NetNs) -> Result<(), String> {
    let waits = || {
        let why = control.states.why(workload.uid());
        format!(
            "pod {} is not in the mesh yet: {}",
            workload.pod(),
            why.as_deref().unwrap_or("its enrolment has begun")
        )
    };
    let pod = control.shared.pod(workload.uid()).ok_or_else(waits)?;
    if pod.netns != *netns {
        return Err(format!("pod {} still has the network namespace of its sandbox before", workload.pod()));
    }
    match rules::inspect(netns) {
        Ok(Standing::Present(found))
            if found.intact() && matches!(found.mode, Some(Mode::Capture { .. })) =>
        {
            Ok(())
        }
        Ok(_) => Err(format!("packet rules do not stand in pod {}", workload.pod())),
        Err(error) => Err(format!("packet rules in pod {}: {error}", workload.pod())),
    }
}

/// Opens the namespace at a path of the host. A node in a pod sees the host's files by its first process: that needs hostPID, and no mount
/// that hands on what is mounted later.
fn open(path: &Path) -> io::Result<(PathBuf, NetNs)> {
    // `/var/run` is a link to `/run`, which would lead to this process' own.
    let real =
        path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest));
    let host = |path: &Path| Path::new("/proc/1/root").join(path.strip_prefix("/").unwrap_or(path));
    let mut first = None;
    for candidate in [host(&real), host(path), path.to_owned()] {
        match NetNs::open(&candidate) {
            Ok(netns) => return Ok((candidate, netns)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let error = first.unwrap_or_else(|| io::ErrorKind::NotFound.into());
    Err(io::Error::new(
        error.kind(),
        format!("the pod's network namespace cannot be opened: {error}; the node's pod needs hostPID"),
    ))
}
