//! From a pod's listeners to the core that will carry a connection: the core is chosen before the socket is
//! registered anywhere.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use aquifer_sys::AsyncListener;
use aquifer_sys::socket::{Accepted, Listen};
use aquifer_telemetry::Hop;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::core::{Core, Load};
use crate::enrolment::Enrolment;
use crate::pod::{Doors, Listening, Pod};
use crate::{inbound, outbound, plaintext};

/// Pause after an error that will not go away by itself (no descriptor left): the queue keeps what waits.
const EXHAUSTED: Duration = Duration::from_millis(20);
/// An error that stays is told again after this.
const TOLD: Duration = Duration::from_secs(10);
/// Connections taken from one listener before others get a turn.
const BATCH: usize = 64;
/// A core serves this many connections more than the least loaded one before it gives new ones away: on one core they share
/// a tunnel and its writes, but two cores at work beat one with a queue.
const IMBALANCE: usize = 4;

/// Starts accepting for a pod, on its home core.
pub(crate) fn open(cores: &Arc<[Arc<Core>]>, enrolment: &Enrolment, pod: &Arc<Pod>) -> io::Result<()> {
    let home = home(cores, pod);
    let listeners = [
        (Listen::Outbound, &enrolment.outbound),
        (Listen::Inbound, &enrolment.inbound),
        (Listen::Hbone, &enrolment.hbone),
    ];
    let mut clones = Vec::with_capacity(listeners.len());
    for (which, listener) in listeners {
        clones.push((which, listener.try_clone()?));
    }
    for (which, listener) in clones {
        let task = accept(cores.clone(), home, which, listener, pod.clone(), pod.listening());
        cores[home].runtime.spawn(task);
    }
    Ok(())
}

/// Pods are spread over cores by a hash of their uid, so that a restarted worker spreads them alike.
fn home(cores: &[Arc<Core>], pod: &Pod) -> usize {
    let hash = pod.uid.with_str(|uid| {
        uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    });
    usize::try_from(hash % cores.len() as u64).unwrap_or(0)
}

async fn accept(
    cores: Arc<[Arc<Core>]>,
    home: usize,
    which: Listen,
    listener: TcpListener,
    pod: Arc<Pod>,
    _listening: Listening,
) {
    let listener = match AsyncListener::new(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, pod = %pod.workload().pod(), port = which.port(), "the listener cannot be watched; connections wait in its queue");
            return;
        }
    };
    let mut doors = pod.doors();
    let mut tell = Instant::now();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(BATCH, |socket| serve(&cores, home, which, socket, &pod)) => accepted,
            () = shut(&mut doors) => {
                // New ones are not sent here any more; those that the kernel has answered for us are served.
                listener.drain(|socket| serve(&cores, home, which, socket, &pod));
                return;
            }
        };
        match accepted {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if transient(&error) => {}
            Err(error) => {
                if Instant::now() >= tell {
                    tell = Instant::now() + TOLD;
                    warn!(%error, pod = %pod.workload().pod(), port = which.port(), "connections wait in the queue: raise RLIMIT_NOFILE or lower --max-connections");
                }
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn shut(doors: &mut watch::Receiver<Doors>) {
    doors.wait_for(|doors| *doors == Doors::Closed).await.ok();
}

/// The connection ended before it was taken; the next one may be fine.
fn transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn serve(cores: &Arc<[Arc<Core>]>, home: usize, which: Listen, socket: Accepted, pod: &Arc<Pod>) {
    // A tunnel stands for many connections, so tunnels are spread evenly, by their own count.
    let core = match which {
        Listen::Hbone => &cores[choose(cores, home, 0, |core| &core.tunnels)],
        Listen::Outbound | Listen::Inbound => {
            &cores[choose(cores, home, IMBALANCE, |core| &core.connections)]
        }
    };
    let (task_core, pod) = (core.clone(), pod.clone());
    match which {
        Listen::Outbound => core.serve(&core.connections, || outbound::serve(task_core, pod, socket)),
        Listen::Inbound => core.serve(&core.connections, || plaintext::serve(task_core, pod, socket)),
        Listen::Hbone => core.serve(&core.tunnels, || inbound::serve(task_core, pod, socket)),
    }
}

/// The home core, unless it serves over `imbalance` more than another.
fn choose(cores: &[Arc<Core>], home: usize, imbalance: usize, load: impl Fn(&Core) -> &Load) -> usize {
    let load = |core: usize| load(&cores[core]).count();
    let least = (0..cores.len()).min_by_key(|core| load(*core)).unwrap_or(home);
    if load(home) > load(least) + imbalance { least } else { home }
}

/// All places are taken.
pub(crate) fn full(limit: usize) -> crate::failure::Failure {
    crate::failure::Failure::failed(
        Hop::Application,
        "too-many-connections",
        format!("this node carries {limit} connections, as many as --max-connections allows"),
    )
}
