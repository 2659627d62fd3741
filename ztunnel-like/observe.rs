//! From what certificates and source tell to the metrics and log lines that count and say it.

use std::collections::HashSet;
use std::time::SystemTime;

use aquifer_model::Identity;
use aquifer_pki::{CaError, Observer, TrustBundle};
use aquifer_source::folder::Batch;
use aquifer_source::{Problem, Severity};
use aquifer_telemetry::{SourceKind, Telemetry};
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

/// Writes what the source has into metrics. Its problems it logs itself, when they come and when they go.
pub(crate) struct SourceMetrics {
    telemetry: Telemetry,
    /// What of the last batch was not taken as written.
    errors: HashSet<Problem>,
}

impl SourceMetrics {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, errors: HashSet::new() }
    }

    pub(crate) fn count(&mut self, batch: &Batch) {
        let source = self.telemetry.source();
        // Bounded as the batch is; what was mended and breaks again is another failure.
        let errors: HashSet<_> =
            batch.problems.iter().filter(|problem| problem.severity == Severity::Error).cloned().collect();
        for problem in errors.difference(&self.errors) {
            source.failed(if problem.document.is_some() { "object" } else { "file" });
        }
        source.problems(errors.len());
        self.errors = errors;
        for kind in KINDS {
            let count =
                batch.counts.0.iter().filter(|(other, _)| other.as_str() == kind.1).map(|(_, count)| count);
            source.objects(kind.0, count.sum());
        }
        source.reloaded(SystemTime::now());
    }
}
