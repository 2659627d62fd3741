//! The end of a pod's time in the mesh: nothing that it carried breaks, and nothing new is lost.

use std::sync::Arc;
use std::time::Duration;

use aquifer_model::Workload;
use aquifer_sys::rules;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::control::Control;
use crate::enrolment::Enrolment;
use crate::life::{EnrolError, Order, RETRY};
use crate::pod::Pod;

/// How often connections of a leaving pod are looked at.
const LEAVING: Duration = Duration::from_millis(200);

/// Un-enrols a pod, which is served unless an earlier worker left it, and tries again as long as that fails and the pod is there: rules that stand would refuse its traffic.
pub(crate) async fn left(
    control: &Arc<Control>,
    workload: &Workload,
    enrolment: &Enrolment,
    pod: Option<&Arc<Pod>>,
    orders: &mut watch::Receiver<Order>,
) {
    while let Err(error) = leave(control, workload, enrolment, pod, orders).await {
        if !enrolment.netns.stands_at(&enrolment.path) {
            return;
        }
        control.shared.telemetry.enrolment().failed(error.code());
        if control.states.waiting(workload, format!("un-enrolment: {error}")) {
            warn!(pod = %workload.pod(), %error, "un-enrolment is incomplete: packet rules stand in the pod, and may refuse its traffic; tried again");
        }
        tokio::select! {
            () = sleep(RETRY.1) => {}
            _ = orders.wait_for(|order| matches!(order, Order::Stay(_))) => return,
        }
    }
}

/// First nothing new is captured, then the ports close, then what is carried is carried to its end, then the rules go.
async fn leave(
    control: &Arc<Control>,
    workload: &Workload,
    enrolment: &Enrolment,
    pod: Option<&Arc<Pod>>,
    orders: &mut watch::Receiver<Order>,
) -> Result<(), EnrolError> {
    // Counted by the kernel, so that what an earlier worker still serves after an upgrade counts too.
    let settled = match pod {
        Some(pod) => pod.settled().await,
        None => None,
    };
    let mut carried = rules::leave(&enrolment.netns, enrolment.generation)?.unwrap_or_default().len();
    drop(settled);
    control.states.leaving(workload, carried);
    let end = match *orders.borrow() {
        Order::Release { doors, end } => Some((doors, end)),
        Order::Stay(_) | Order::Leave => None,
    };
    if let Some((doors, _)) = end {
        sleep_until(doors).await;
    }
    if let Some(pod) = pod {
        close(control, pod).await;
    }
    enrolment.stop_listening();
    while carried > 0 || control.carries(workload.uid()) {
        if !enrolment.netns.stands_at(&enrolment.path) {
            control.cut_pod(workload.uid(), "pod-gone", "the pod's network namespace is gone");
            break;
        }
        if end.is_some_and(|(_, end)| Instant::now() >= end) {
            let why = "the mesh was removed from the cluster, and the time to end was over";
            control.cut_pod(workload.uid(), "mesh-removed", why);
            // The cores write the records and reset the sockets.
            sleep(LEAVING).await;
            break;
        }
        tokio::select! {
            () = sleep(LEAVING) => {}
            // Back in the mesh: enrolled anew at once, with what is carried still carried.
            _ = orders.wait_for(|order| matches!(order, Order::Stay(_))) => return Ok(()),
        }
        let now = rules::refresh(&enrolment.netns, enrolment.generation)?.unwrap_or_default().len();
        if now != carried {
            control.states.leaving(workload, now);
        }
        carried = now;
    }
    rules::remove(&enrolment.netns, Some(enrolment.generation))?;
    Ok(())
}

/// Takes the pod off the data path: no new connection, listeners closed.
pub(crate) async fn close(control: &Control, pod: &Arc<Pod>) {
    pod.leave();
    control.shared.change_pods(|pods| {
        if pods.get(&pod.uid).is_some_and(|other| Arc::ptr_eq(other, pod)) {
            pods.remove(&pod.uid);
        }
    });
    pod.closed().await;
}
