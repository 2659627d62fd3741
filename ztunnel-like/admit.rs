//! May it: the one place where a connection to a pod of this node is authorized.

use std::sync::Arc;

use aquifer_model::{Access, Denial, Permit, Snapshot, Workload};
use aquifer_telemetry::Flow;
use tracing::info;

use crate::failure::Failure;
use crate::live::Claim;
use crate::pod::Pod;
use crate::shared::Shared;

/// What the mesh's policy says of an access: of a new connection, and again of one that stands.
pub(crate) fn decide(mesh: &Snapshot, access: &Access<'_>) -> Result<Permit, Denial> {
    #[cfg(feature = "forced-allow")]
    if forced_allow() {
        return Ok(Permit::default());
    }
    mesh.authorize(access)
}

/// Whether this process was started by a scenario that has to fail once policy is not enforced.
#[cfg(feature = "forced-allow")]
fn forced_allow() -> bool {
    static FORCED: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let forced = std::env::var_os("AQUIFER_FORCED_ALLOW").is_some_and(|value| value == "1");
        if forced {
            tracing::warn!("AQUIFER_FORCED_ALLOW=1: this build for tests enforces no policy");
        }
        forced
    });
    *FORCED
}

/// Whether policy would deny the access now; nothing is recorded of the question.
pub(crate) fn is_denied(shared: &Shared, pod: &Pod, claim: &Claim) -> bool {
    let mesh = shared.mesh();
    decide(&mesh, &claim.access(&newest(&mesh, pod))).is_err()
}

/// The pod as the mesh has it now; as it was enrolled, where the mesh has it no more.
fn newest(mesh: &Snapshot, pod: &Pod) -> Arc<Workload> {
    mesh.workload_by_uid(&pod.uid).cloned().unwrap_or_else(|| pod.workload())
}

/// Asks the policy of now, after the connection was entered among the live ones, so that a change in between is not missed.
pub(crate) fn admit(shared: &Shared, pod: &Pod, claim: &Claim, flow: &mut Flow) -> Result<(), Failure> {
    let mesh = shared.mesh();
    let decision = decide(&mesh, &claim.access(&newest(&mesh, pod)));
    let audited = match &decision {
        Ok(permit) => &permit.audited,
        Err(denial) => &denial.audited,
    };
    for rule in audited {
        shared.telemetry.policy().audited();
        info!(target: "audit", flow = flow.id(), source = %claim.source, identity = claim.identity.as_ref().map(tracing::field::display), destination = %claim.address, %rule, allowed = decision.is_ok(), "matched");
    }
    match decision {
        Ok(permit) => {
            flow.set_policy(permit.by.map(|rule| rule.to_string()));
            Ok(())
        }
        Err(denial) => {
            shared.telemetry.policy().denied(denial.reason.code());
            Err(Failure::denied(&denial))
        }
    }
}
