//! From what certificates tell to the metrics and log lines that count and say it.

use std::sync::Arc;
use std::time::SystemTime;

use aquifer_model::Identity;
use aquifer_pki::{CaError, Observer, TrustBundle};
use aquifer_telemetry::Telemetry;
use tracing::{info, warn};

use crate::keeper::Keeper;

/// Writes what happens to certificates into metrics and log, and has the parent forget what nobody uses.
pub(crate) struct Certificates {
    pub(crate) telemetry: Telemetry,
    pub(crate) keeper: Option<Arc<Keeper>>,
}

impl Observer for Certificates {
    fn issued(&self, identity: &Identity, not_after: SystemTime, renewal: bool) {
        self.telemetry.certificates().issued(renewal);
        self.telemetry.certificates().holds(identity, not_after);
        info!(%identity, renewal, "certificate issued");
    }

    fn failed(&self, identity: &Identity, error: &CaError) {
        self.telemetry.certificates().failed("issue");
        warn!(%identity, %error, "no certificate this time; tried again");
    }

    fn forgotten(&self, identity: &Identity) {
        self.telemetry.certificates().forgotten(identity);
        if let Some(keeper) = &self.keeper {
            keeper.forget(identity);
        }
    }

    fn bundle_changed(&self, bundle: &TrustBundle) {
        self.telemetry.certificates().roots(bundle.roots().len());
        info!(roots = bundle.roots().len(), "trust bundle changed");
    }

    fn refresh_failed(&self, error: &CaError) {
        self.telemetry.certificates().failed("refresh");
        warn!(%error, "the certificate authority's folder cannot be used as it is now; the last good state stays");
    }
}
