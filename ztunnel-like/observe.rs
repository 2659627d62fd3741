//! From what certificates and source tell to the metrics and log lines that count and say it.

use std::collections::HashSet;
use std::time::SystemTime;

use aquifer_model::Identity;
use aquifer_pki::{CaError, Observer, TrustBundle};
use aquifer_source::folder::Batch;
use aquifer_source::{Problem, Severity};
use aquifer_telemetry::{SourceKind, Telemetry};
use tracing::{error, info, warn};

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

/// Kinds that are counted, with the names that the source gives them; the two API groups of a policy count together.
const KINDS: [(SourceKind, &str); 8] = [
    (SourceKind::Namespace, "Namespace"),
    (SourceKind::Pod, "Pod"),
    (SourceKind::Service, "Service"),
    (SourceKind::EndpointSlice, "EndpointSlice"),
    (SourceKind::Node, "Node"),
    (SourceKind::ServiceAccount, "ServiceAccount"),
    (SourceKind::AuthorizationPolicy, "AuthorizationPolicy"),
    (SourceKind::PeerAuthentication, "PeerAuthentication"),
];

/// Says the problems of a batch that are new, and counts what there is.
pub(crate) struct SourceNews {
    telemetry: Telemetry,
    told: HashSet<Problem>,
}

impl SourceNews {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, told: HashSet::new() }
    }

    pub(crate) fn tell(&mut self, batch: &Batch) {
        for problem in batch.problems.iter().filter(|problem| !self.told.contains(problem)) {
            match problem.severity {
                Severity::Note => info!("{problem}"),
                Severity::Warning => warn!("{problem}"),
                Severity::Error => error!("{problem}"),
            }
        }
        // Bounded as the batch is; what was mended and breaks again is news again.
        self.told = batch.problems.iter().cloned().collect();
        let source = self.telemetry.source();
        source.problems(self.told.iter().filter(|problem| problem.severity == Severity::Error).count());
        for kind in KINDS {
            let count =
                batch.counts.0.iter().filter(|(other, _)| other.as_str() == kind.1).map(|(_, count)| count);
            source.objects(kind.0, count.sum());
        }
        source.reloaded(SystemTime::now());
    }
}
