//! The end of a worker: nothing new is taken, and what is carried is judged until its last byte.

use std::sync::Arc;
use std::time::Duration;

use aquifer_model::Mesh;
use aquifer_source::SourceMetrics;
use aquifer_sys::fdpass::AsyncChannel;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};

use crate::control::{Control, Lives};
use crate::life::Order;
use crate::protocol::{ToWorker, decode};
use crate::source::Told;
use crate::worker::LOOK_AGAIN;

/// How often it is counted what is still carried.
const COUNT: Duration = Duration::from_millis(50);

/// Follows source and trust for the connections that are still carried: a policy or a root that goes ends them now too.
/// Enrols nobody, and never returns.
pub(crate) async fn judge(
    control: &Control,
    mesh: &mut Mesh,
    news: &mut SourceMetrics,
    source: &mut mpsc::Receiver<Told>,
    trust: &mut watch::Receiver<u64>,
) {
    let mut look = interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            Some(told) = source.recv() => match told {
                Told::Batch { batch, of_cache } => {
                    news.count(&batch);
                    control.serves(of_cache);
                    mesh.apply(batch.updates);
                    control.shared.publish(mesh.snapshot());
                    control.recheck();
                }
                Told::Have(answer) => _ = answer.send(mesh.snapshot().updates()),
            },
            Ok(()) = trust.changed() => control.certificates_changed(),
            _ = look.tick() => control.certificates_changed(),
        }
    }
}

/// Returns when the mesh is removed from the cluster and the time that connections have then is over.
pub(crate) async fn removed(installed: &mut watch::Receiver<bool>, patience: Duration) {
    if installed.wait_for(|there| !there).await.is_err() {
        // Nobody will say so.
        std::future::pending::<()>().await;
    }
    info!(?patience, "the mesh is removed from the cluster: what is still carried has to end");
    sleep(patience).await;
}

/// Takes nothing new, serves the last connections for the time that is given to them, then cuts.
pub(crate) async fn drain(
    control: &Control,
    channel: &AsyncChannel,
    patience: Duration,
    lives: &mut Lives,
    judge: impl Future<Output = ()>,
    removed: impl Future<Output = ()>,
) {
    lives.abandon();
    let pods = control.shared.all_pods();
    for pod in &pods {
        pod.leave();
    }
    for pod in &pods {
        pod.closed().await;
    }
    let carried = || control.cores.iter().map(|core| core.live.count()).sum::<usize>();
    info!(connections = carried(), ?patience, "draining");
    let end = async {
        // What was just accepted takes its place first; it is no connection that is carried yet.
        sleep(COUNT).await;
        while control.shared.slots.taken() > 0 {
            sleep(COUNT).await;
        }
    };
    tokio::select! {
        () = end => {}
        () = sleep(patience) => {}
        () = removed => {}
        () = judge => {}
        // A parent that dies in between wants nothing served any more.
        () = parent_gone(control, channel) => {}
    }
    let cut = carried();
    if cut > 0 {
        warn!(connections = cut, "cut at the end of the drain");
        for core in control.cores.iter() {
            core.live.cut_all("drain", "the node stopped, and the time to drain was over");
        }
        // One turn of each core writes the records and resets the sockets.
        let patience = Instant::now() + Duration::from_secs(1);
        while carried() > 0 && Instant::now() < patience {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Un-enrols all pods; the last connections of each are carried for as long as the order allows.
pub(crate) async fn leave(
    control: &Arc<Control>,
    channel: &AsyncChannel,
    lives: &mut Lives,
    order: &Order,
    judge: impl Future<Output = ()>,
) {
    tokio::select! {
        () = lives.leave(order) => info!("all pods are un-enrolled"),
        () = judge => {}
        () = parent_gone(control, channel) => warn!("the parent is gone before all pods were un-enrolled"),
    }
}

/// Hears the parent's answers until it is gone.
async fn parent_gone(control: &Control, channel: &AsyncChannel) {
    while let Ok(Some((bytes, _))) = channel.recv().await {
        if let Ok(ToWorker::Kept { uid }) = decode(&bytes) {
            control.kept(&aquifer_model::PodUid::new(uid));
        }
    }
}
