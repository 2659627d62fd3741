//! The labels of a flow series: values shared with the model, never formatted before a scrape.

use std::sync::Arc;

use aquifer_model::{Identity, Text, Workload};

use crate::catalog::FLOW_LABELS;
use crate::{FlowEnd, FlowStart, Hop, Path, Reporter, Verdict};

/// The value of each label that has none, as in Istio.
const UNKNOWN: &str = "unknown";
/// The value of workload, service and identity labels past the limit of label sets.
const OTHER: &str = "other";

/// One label set. Equal label sets are one series, whatever pods stand behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowLabels {
    reporter: Reporter,
    path: Path,
    tls: bool,
    flags: Flags,
    ends: Ends,
}

/// Envoy's response flags, as far as they apply to TCP, and ztunnel's `DENY` (Envoy has no flag for a connection that
/// an L4 policy refused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flags {
    /// `-`: live, or ended well.
    None,
    /// `DENY`: refused or cut by policy.
    Denied,
    /// `UH`: no healthy upstream, the service has no endpoint.
    NoHealthyUpstream,
    /// `NR`: no route, the call leads nowhere (unknown destination or port, or a port of the proxy).
    NoRoute,
    /// `UF`: upstream failure, the next hop could not be reached or refused.
    UpstreamFailure,
    /// `UC`: upstream connection termination, the connection broke after bytes came back.
    UpstreamClosed,
    /// `DC`: downstream connection termination, the side that called broke it.
    DownstreamClosed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ends {
    Known(Box<(End, End, Option<ServiceLabels>)>),
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct End {
    workload: Option<WorkloadLabels>,
    principal: Option<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WorkloadLabels {
    name: Text,
    canonical_service: Text,
    canonical_revision: Text,
    namespace: Arc<str>,
    app: Text,
    version: Text,
    cluster: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ServiceLabels {
    hostname: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl FlowLabels {
    /// The labels of a connection that lives.
    pub(crate) fn new(start: &FlowStart, local_cluster: &Arc<str>) -> Self {
        let end = |peer: &crate::Peer| End {
            workload: peer.workload.as_deref().map(|w| WorkloadLabels::new(w, local_cluster)),
            principal: peer.identity.clone(),
        };
        let service = start.service.as_deref().map(|service| ServiceLabels {
            hostname: service.hostname.clone(),
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
        });
        Self {
            reporter: start.reporter,
            path: start.path,
            tls: start.tls,
            flags: Flags::None,
            ends: Ends::Known(Box::new((end(&start.source), end(&start.destination), service))),
        }
    }

    /// The same with other flags.
    pub(crate) fn with_flags(&self, flags: Flags) -> Self {
        Self { flags, ..self.clone() }
    }

    /// What counts it past the limit: reporter, flags, security and path stay, which have few values.
    pub(crate) fn into_other(self) -> Self {
        Self { ends: Ends::Other, ..self }
    }

    pub(crate) fn is_other(&self) -> bool {
        self.ends == Ends::Other
    }

    pub(crate) fn flags(&self) -> Flags {
        self.flags
    }

    /// The labels as the exposition has them, in the order of [`FLOW_LABELS`].
    pub(crate) fn render(&self) -> String {
        let (source, destination, service) = match &self.ends {
            Ends::Known(ends) => {
                let (source, destination, service) = ends.as_ref();
                let service = match service {
                    Some(s) => [s.hostname.as_ref(), s.namespace.as_ref(), s.name.as_ref()].map(or_unknown),
                    None => [UNKNOWN; 3],
                };
                (source.values(), destination.values(), service)
            }
            Ends::Other => {
                let end = || (std::array::from_fn(|_| OTHER), OTHER.to_owned());
                (end(), end(), [OTHER; 3])
            }
        };
        let ((s, s_principal), (d, d_principal)) = (&source, &destination);
        let values = [
            self.reporter.as_str(),
            s[0],
            s[1],
            s[2],
            s[3],
            s_principal,
            s[4],
            s[5],
            s[6],
            service[0],
            service[1],
            service[2],
            d[0],
            d[1],
            d[2],
            d[3],
            d_principal,
            d[4],
            d[5],
            d[6],
            "tcp",
            self.flags.as_str(),
            self.security(),
            self.path.as_str(),
        ];
        debug_assert_eq!(values.len(), FLOW_LABELS.len());
        crate::exposition::labels(FLOW_LABELS.iter().copied().zip(values))
    }

    /// Istio's `connection_security_policy`. Where TLS did not run, the server's side knows that (`none`) and the
    /// client's side says `unknown`, as Istio's does.
    fn security(&self) -> &'static str {
        match (self.tls, self.reporter) {
            (true, _) => "mutual_tls",
            (false, Reporter::Destination) => "none",
            (false, Reporter::Source) => UNKNOWN,
        }
    }
}

impl Flags {
    /// The flag of an end. `answered`: bytes came back from the server before.
    pub(crate) fn of(end: &FlowEnd, answered: bool) -> Self {
        match (end.verdict, end.reason.as_deref(), end.hop) {
            (Verdict::Allowed, ..) => Self::None,
            (Verdict::Denied, ..) => Self::Denied,
            (Verdict::Failed, Some("no-endpoint"), _) => Self::NoHealthyUpstream,
            (Verdict::Failed, Some("proxy-port" | "no-such-port" | "unknown-destination"), _) => {
                Self::NoRoute
            }
            (Verdict::Failed, _, Some(Hop::Application) | None) => Self::DownstreamClosed,
            (Verdict::Failed, _, Some(_)) if answered => Self::UpstreamClosed,
            (Verdict::Failed, _, Some(_)) => Self::UpstreamFailure,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::NoHealthyUpstream => "UH",
            Self::NoRoute => "NR",
            Self::UpstreamFailure => "UF",
            Self::UpstreamClosed => "UC",
            Self::DownstreamClosed => "DC",
        }
    }
}

impl End {
    fn values(&self) -> ([&str; 7], String) {
        let workload = match &self.workload {
            Some(w) => [
                &*w.name,
                &w.canonical_service,
                &w.canonical_revision,
                &w.namespace,
                &w.app,
                &w.version,
                &w.cluster,
            ]
            .map(or_unknown),
            None => [UNKNOWN; 7],
        };
        let principal = self.principal.as_ref().map_or_else(|| UNKNOWN.to_owned(), Identity::to_string);
        (workload, principal)
    }
}

impl WorkloadLabels {
    fn new(workload: &Workload, local_cluster: &Arc<str>) -> Self {
        let label = |key, other: &Text| workload.label(key).unwrap_or(other).clone();
        let (name, revision) = (workload.canonical_name(), workload.canonical_revision());
        let cluster = workload.name().cluster();
        Self {
            name: workload.owner().1.clone(),
            canonical_service: name.clone(),
            canonical_revision: revision.clone(),
            namespace: workload.namespace().clone(),
            app: label("app", name),
            version: label("version", revision),
            cluster: if cluster == local_cluster.as_ref() { local_cluster.clone() } else { cluster.into() },
        }
    }
}

fn or_unknown(value: &str) -> &str {
    if value.is_empty() { UNKNOWN } else { value }
}
