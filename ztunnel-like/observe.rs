//! From what certificates tell to the metrics and log lines that count and say it.

use std::time::SystemTime;

use aquifer_model::Identity;
use aquifer_pki::{CaError, Observer, TrustBundle};
use aquifer_telemetry::Telemetry;
use tracing::{info, warn};

/// Writes what happens to certificates into metrics and log.
pub(crate) struct CertificateMetrics(pub(crate) Telemetry);

impl Observer for CertificateMetrics {
    fn issued(&self, identity: &Identity, not_after: SystemTime, renewal: bool) {
        self.0.certificates().issued(renewal);
        self.0.certificates().holds(identity, not_after);
        info!(%identity, renewal, "certificate issued");
    }

    fn failed(&self, identity: &Identity, error: &CaError) {
        self.0.certificates().failed("issue");
        warn!(%identity, %error, "no certificate this time; tried again");
    }

    fn forgotten(&self, identity: &Identity) {
        self.0.certificates().forgotten(identity);
    }

    fn bundle_changed(&self, bundle: &TrustBundle) {
        self.0.certificates().roots(bundle.roots().len());
        info!(roots = bundle.roots().len(), "trust bundle changed");
    }

    fn refresh_failed(&self, error: &CaError) {
        self.0.certificates().failed("refresh");
        warn!(%error, "the certificate authority's folder cannot be used as it is now; the last good state stays");
    }
}
