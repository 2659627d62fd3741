//! May it: the one place where a connection to a pod of this node is authorized.

use aquifer_telemetry::Flow;
use tracing::info;

use crate::failure::Failure;
use crate::live::Claim;
use crate::pod::Pod;
use crate::shared::Shared;

/// Asks the policy of now, after the connection was entered among the live ones, so that a change in between is not missed.
pub(crate) fn admit(shared: &Shared, pod: &Pod, claim: &Claim, flow: &mut Flow) -> Result<(), Failure> {
    let mesh = shared.mesh();
    let newest = mesh.workload_by_uid(&pod.uid).cloned();
    let workload = newest.unwrap_or_else(|| pod.workload());
    let decision = mesh.authorize(&claim.access(&workload));
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
