//! The node's half of the CNI plug-in: it answers the plug-in, and keeps it where the container runtime finds it.
//!
//! All of it runs in the worker, so that it comes back with the worker: the socket is bound anew by rename, and a plug-in whose
//! answer was lost asks again.

mod answer;
mod files;
mod outside;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_model::PodUid;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::config::NodeConfig;
use crate::control::Control;
use aquifer_sys::Ears;
use files::Files;
pub use files::Trouble;
pub use outside::MESH_LABEL;

/// How often files are looked at although nothing was heard of them.
const LOOK: Duration = Duration::from_secs(10);
/// Pause between hearing of a change and the look, in which its author gets done. It grows to [`LONGEST_SETTLE`] where somebody changes the
/// files again and again.
const SETTLE: Duration = Duration::from_millis(20);
const LONGEST_SETTLE: Duration = Duration::from_secs(1);
/// Shortest time between two looks at which namespaces are outside, and the part of the time that they may take.
const LIST: Duration = Duration::from_secs(1);
const LIST_SHARE: u32 = 50;
/// Pause before a socket that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Announcements of pods that wait for the control loop.
const QUEUE: usize = 64;

/// Takes the plug-in out of the runtime's configuration and removes its program, list and socket, in that order: at each moment what is
/// configured is there. Returns what was changed or removed. To be called when the mesh leaves the node; does nothing where the node
/// has no plug-in.
///
/// # Errors
/// A file cannot be changed; what comes after it in the order was left as it is.
pub fn remove(config: &NodeConfig) -> Result<Vec<PathBuf>, Trouble> {
    match Files::of(config) {
        Some(files) => files.remove(),
        None => Ok(Vec::new()),
    }
}

/// The node's half of the plug-in, as long as this value lives; nothing where the node has no plug-in.
pub(crate) struct Cni {
    announced: mpsc::Receiver<PodUid>,
    /// Kept, so that nothing announced is not the end of announcements.
    _sender: mpsc::Sender<PodUid>,
    task: Option<JoinHandle<()>>,
}

impl Cni {
    /// Begins to answer, and once the mesh is known to keep the plug-in in its place.
    pub(crate) fn start(control: &Arc<Control>) -> Self {
        let (sender, announced) = mpsc::channel(QUEUE);
        let task = Files::of(&control.shared.config).map(|files| {
            let (control, sender) = (control.clone(), sender.clone());
            tokio::spawn(async move {
                let socket = files.socket.clone();
                tokio::join!(serve(&socket, &control, &sender), keep(files, &control));
            })
        });
        Self { announced, _sender: sender, task }
    }

    /// Waits for a pod that begins: its network namespace is known from now on.
    pub(crate) async fn announced(&mut self) -> Option<PodUid> {
        self.announced.recv().await
    }

    /// Ends it. The plug-in stays in its place, and pods of the mesh wait for the next node process.
    pub(crate) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Ends it, and takes the plug-in away.
    pub(crate) fn leave(&mut self, config: &NodeConfig) {
        self.stop();
        match remove(config) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(?removed, "the CNI plug-in is taken out of this node"),
            Err(error) => {
                error!(%error, "the CNI plug-in stays in this node's configuration, and pods that begin will wait for a node proxy")
            }
        }
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers at the socket, for ever.
async fn serve(socket: &Path, control: &Arc<Control>, announced: &mpsc::Sender<PodUid>) {
    loop {
        match bind(socket) {
            Ok(listener) => answer::serve(listener, control, announced).await,
            Err(error) => {
                error!(%error, socket = %socket.display(), "the CNI plug-in cannot ask this node, and pods of the mesh cannot begin; tried again")
            }
        }
        sleep(AGAIN).await;
    }
}

/// A listener at a path, in place of one of before, for root alone.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    let draft = socket.with_extension(format!("{}.draft", std::process::id()));
    fs::remove_file(&draft).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, socket)?;
    Ok(listener)
}

/// Keeps list, program and configuration in place, for ever. The configuration comes last: what it names is there.
async fn keep(files: Files, control: &Control) {
    let files = Arc::new(files);
    let (listed, mut list) = watch::channel(false);
    let configuration = async {
        // The sender lives as long as this future.
        list.wait_for(|listed| *listed).await.ok();
        keep_configured(&files, control).await;
    };
    tokio::join!(keep_listed(&files, control, &listed), configuration);
}

/// Writes the list of namespaces outside the mesh whenever it changes.
async fn keep_listed(files: &Arc<Files>, control: &Control, listed: &watch::Sender<bool>) {
    let mut news = control.shared.news();
    // A mesh of version 0 is one that was not read yet: by it everybody would be unknown, and wait.
    news.wait_for(|version| *version > 0).await.ok();
    let mut written = None;
    loop {
        let (began, mesh) = (Instant::now(), control.shared.mesh());
        news.borrow_and_update();
        let list = aquifer_cni::outside::render(outside::namespaces(mesh.workloads()));
        let pause = LIST.max(began.elapsed() * LIST_SHARE);
        if written.as_ref() != Some(&list) {
            let (files, text) = (files.clone(), list.clone());
            match blocking(move || files.put_list(&text)).await {
                Ok(()) => {
                    written = Some(list);
                    listed.send_replace(true);
                }
                Err(error) => {
                    warn!(%error, "the list of namespaces outside the mesh cannot be written; tried again")
                }
            }
        }
        sleep(pause).await;
        if written.is_some() {
            // The sender lives as long as the node.
            news.changed().await.ok();
        }
    }
}

/// Puts the plug-in into its place, again and again.
async fn keep_configured(files: &Arc<Files>, control: &Control) {
    let ears = Ears::new(&[&files.conf_dir, &files.bin_dir]);
    if let Err(error) = &ears {
        warn!(%error, "changes of the CNI folders cannot be heard; they are looked at every {LOOK:?}");
    }
    let (mut settle, mut mended, mut was_in_place) = (SETTLE, None::<Instant>, false);
    loop {
        let looked = files.clone();
        match blocking(move || looked.put()).await {
            Ok(changed) => {
                control.plugged(Ok(()));
                if let Some(file) = changed {
                    settle = match mended {
                        Some(before) if before.elapsed() < LOOK => (settle * 2).min(LONGEST_SETTLE),
                        _ => SETTLE,
                    };
                    mended = Some(Instant::now());
                    if was_in_place {
                        control.shared.telemetry.enrolment().repaired("cni-plugin");
                    }
                    info!(file = %file.display(), "the CNI plug-in is in its place");
                }
                was_in_place = true;
            }
            Err(trouble) => {
                if control.plugged(Err(trouble.to_string())) {
                    control.shared.telemetry.enrolment().failed("cni-plugin");
                    warn!(error = %trouble, "the CNI plug-in is not in its place: pods that begin are captured a moment late; tried again");
                }
            }
        }
        let heard = async {
            match &ears {
                Ok(ears) => ears.stirred().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = heard => sleep(settle).await,
            () = sleep(LOOK) => {}
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and will not poll this again.
            Err(_) => std::future::pending().await,
        },
    }
}
