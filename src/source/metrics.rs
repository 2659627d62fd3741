//! What a source has, as metrics.

use std::collections::HashSet;
use std::time::SystemTime;

use aquifer_telemetry::{SourceKind, Telemetry};

use crate::{Batch, Problem, Severity};

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
#[derive(Debug)]
pub struct SourceMetrics {
    telemetry: Telemetry,
    /// What of the last batch was not taken as written.
    errors: HashSet<Problem>,
}

impl SourceMetrics {
    /// Counts into the metrics of this process.
    pub fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, errors: HashSet::new() }
    }

    /// Counts what is so after a batch.
    pub fn count(&mut self, batch: &Batch) {
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
