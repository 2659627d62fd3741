//! Every metric and every field of a flow record, with its meaning: the table that code, tests and documents share.

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it counts, unit included.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

/// A field of a flow record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Key in JSON.
    pub name: &'static str,
    /// What it says. Fields that do not apply are left out of a record.
    pub help: &'static str,
}

/// Labels of the flow metrics: Istio's standard set for TCP, and `aquifer_path` (tunnel, same-node, plaintext,
/// passthrough).
pub const FLOW_LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "aquifer_path",
];

/// Declares constants and the table of all of them, so that none can be missing from the table.
macro_rules! table {
    ($(#[$about:meta])* $table:ident: $type:ty; $($name:ident = $value:expr;)+) => {
        $(pub(crate) const $name: $type = $value;)+
        $(#[$about])*
        pub const $table: &[$type] = &[$($name),+];
    };
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Gauge, help, labels }
}

const REASON: &[&str] = &["reason"];

table! {
    /// All metrics, in the order of the documents.
    METRICS: Metric;
    OPENED = counter("istio_tcp_connections_opened_total", "TCP connections opened.", FLOW_LABELS);
    CLOSED = counter("istio_tcp_connections_closed_total", "TCP connections closed.", FLOW_LABELS);
    SENT = counter("istio_tcp_sent_bytes_total", "Bytes sent during response, from server to client.", FLOW_LABELS);
    RECEIVED = counter(
        "istio_tcp_received_bytes_total",
        "Bytes received during request, from client to server.",
        FLOW_LABELS
    );
    LIVE = gauge("aquifer_connections", "Connections carried now.", &["reporter"]);
    SERIES = gauge("aquifer_flow_series", "Label sets that the flow metrics have now.", &[]);
    OVERFLOWED = counter(
        "aquifer_flow_series_overflow_total",
        "Times a connection was counted under workload labels `other`, since the limit of label sets was reached.",
        &[]
    );
    LOG_DROPPED = counter(
        "aquifer_log_lines_dropped_total",
        "Log lines dropped since standard output was too slow: flow records (`flow`) and others (`log`).",
        &["kind"]
    );
    TUNNELS = gauge("aquifer_tunnels", "Tunnels to other nodes that stand now.", &[]);
    STREAMS = gauge("aquifer_tunnel_streams", "Streams open in tunnels to other nodes.", &[]);
    DIALLED = counter("aquifer_tunnels_dialled_total", "Tunnels dialled with success.", &[]);
    DIAL_SECONDS = counter("aquifer_tunnel_dial_seconds_total", "Seconds spent in dials that succeeded.", &[]);
    DIAL_FAILURES = counter("aquifer_tunnel_dial_failures_total", "Tunnels not dialled, by error.", REASON);
    STREAM_FAILURES =
        counter("aquifer_tunnel_stream_failures_total", "Streams refused or reset, by error.", REASON);
    RETIRED = counter("aquifer_tunnels_retired_total", "Tunnels put out of use, by reason.", REASON);
    CERTIFICATE_EXPIRY = gauge(
        "aquifer_certificate_expiry_timestamp_seconds",
        "Unix time at which the certificate held for an identity ends; `other` is the earliest of those past the limit.",
        &["identity"]
    );
    ISSUED = counter("aquifer_certificates_issued_total", "Certificates issued: `first` or `renewal`.", &["kind"]);
    CERTIFICATE_FAILURES =
        counter("aquifer_certificate_failures_total", "Certificates not issued, by error.", REASON);
    ROOTS = gauge("aquifer_trust_roots", "Roots in the trust bundle.", &[]);
    ENROLLED = gauge("aquifer_pods_enrolled", "Pods of this node that are enrolled.", &[]);
    DESIRED = gauge("aquifer_pods_desired", "Pods of this node that should be enrolled.", &[]);
    ENROLMENT_FAILURES =
        counter("aquifer_enrolment_failures_total", "Enrolments and un-enrolments that failed, by error.", REASON);
    REPAIRS = counter(
        "aquifer_enrolment_repairs_total",
        "Enrolled pods found broken and repaired, by what was broken.",
        &["what"]
    );
    DENIALS = counter("aquifer_policy_denials_total", "Connections denied at their start, by reason.", REASON);
    AUDITS = counter("aquifer_policy_audits_total", "Matches of AUDIT rules.", &[]);
    RECHECKS = counter("aquifer_policy_rechecks_total", "Live connections checked against changed policy.", &[]);
    CUTS = counter("aquifer_policy_cuts_total", "Live connections cut, by reason.", REASON);
    OBJECTS = gauge("aquifer_source_objects", "Objects read from the source, by kind.", &["kind"]);
    PROBLEMS = gauge("aquifer_source_problems", "Problems that stand in the source now.", &[]);
    RELOADS = counter("aquifer_source_reloads_total", "Changes of the source that were applied.", &[]);
    RELOADED_AT = gauge(
        "aquifer_source_last_reload_timestamp_seconds",
        "Unix time of the last change that was applied, 0 before the first.",
        &[]
    );
    OF_CACHE = gauge(
        "aquifer_source_cache_timestamp_seconds",
        "Unix time of the mesh that is served, where it is what this node kept; 0 where it is what the node is told.",
        &[]
    );
    SOURCE_FAILURES = counter("aquifer_source_failures_total", "Reads of the source that failed, by error.", REASON);
    BUFFERED = gauge("aquifer_buffered_bytes", "Bytes buffered for connections.", &[]);
    BUFFERED_LIMIT = gauge("aquifer_buffered_bytes_limit", "Bytes that may be buffered for connections.", &[]);
    SHED = counter("aquifer_streams_shed_total", "Streams reset since the limit of buffered bytes was reached.", &[]);
    WORKER_RESTARTS = counter("aquifer_worker_restarts_total", "Times the parent started the worker again.", &[]);
    LISTENERS = gauge("aquifer_discovery_streams", "Nodes and waypoints that are told of the mesh now.", &[]);
    REJECTIONS = counter(
        "aquifer_discovery_rejections_total",
        "Answers that a node or waypoint could not take.",
        &[]
    );
    REFUSALS = counter(
        "aquifer_controller_refusals_total",
        "Calls of the controller that were refused before they were read, by reason.",
        REASON
    );
    LEADS = gauge(
        "aquifer_controller_leads",
        "1 on the replica that writes statuses of policies, 0 on the others.",
        &[]
    );
    POLICY_REFUSALS = counter(
        "aquifer_controller_policy_refusals_total",
        "Policies that were not accepted, by kind and by what is in use instead: `last-good` or `denies`.",
        &["kind", "reason"]
    );
    STATUS_WRITES = counter(
        "aquifer_controller_status_writes_total",
        "Statuses of policies that were written, by outcome: `written` or `failed`.",
        &["outcome"]
    );
    UNTAINTS = counter(
        "aquifer_controller_untaints_total",
        "Nodes whose taint `aquifer.dev/not-ready` was taken off, by outcome: `written` or `failed`.",
        &["outcome"]
    );
    EVENTS = counter(
        "aquifer_controller_events_total",
        "Kubernetes events on refusals, by outcome: `written`, `known` (it was there) or `failed`.",
        &["outcome"]
    );
    BUILD = gauge("aquifer_build_info", "1, with the version and role of this process.", &["version", "role"]);
    RSS = gauge("process_resident_memory_bytes", "Resident memory in bytes.", &[]);
    CPU = counter("process_cpu_seconds_total", "CPU time in seconds, user and system.", &[]);
    FDS = gauge("process_open_fds", "Open file descriptors.", &[]);
    MAX_FDS = gauge("process_max_fds", "File descriptors that may be open.", &[]);
    THREADS = gauge("process_threads", "Threads.", &[]);
    STARTED = gauge("process_start_time_seconds", "Unix time at which the process started.", &[]);
}

const fn field(name: &'static str, help: &'static str) -> Field {
    Field { name, help }
}

table! {
    /// All fields of a flow record, in their order. JSON lines have `timestamp` (RFC 3339, UTC), `level` and `target`
    /// (`flow`) in front of them.
    FIELDS: Field;
    CONNECTION = field("connection", "Number of the connection in this process.");
    REPORTER = field("reporter", "Which side writes: `source` (the client's node) or `destination`.");
    DIRECTION = field("direction", "`outbound` from, or `inbound` to, a pod of this node.");
    PATH = field("path", "How the bytes travelled: `tunnel`, `same-node`, `plaintext` or `passthrough`.");
    VERDICT = field("verdict", "`allowed`, `denied` (by policy) or `failed`.");
    REASON_CODE = field("reason", "Why it was denied or failed, as a code.");
    POLICY = field("policy", "The policy and rule that decided.");
    SOURCE_ADDRESS = field("source_address", "The client's address and port.");
    SOURCE_WORKLOAD = field("source_workload", "The client's workload: what owns its pod, or the pod.");
    SOURCE_POD = field("source_pod", "The client's pod.");
    SOURCE_NAMESPACE = field("source_namespace", "The client's namespace.");
    SOURCE_IDENTITY = field("source_identity", "The client's proved identity.");
    DESTINATION_ADDRESS = field("destination_address", "The server's address and port.");
    DESTINATION_WORKLOAD = field("destination_workload", "The server's workload: what owns its pod, or the pod.");
    DESTINATION_POD = field("destination_pod", "The server's pod.");
    DESTINATION_NAMESPACE = field("destination_namespace", "The server's namespace.");
    DESTINATION_IDENTITY = field("destination_identity", "The server's proved identity.");
    DESTINATION_SERVICE = field("destination_service", "Host name of the Service that the client called.");
    ORIGINAL_DESTINATION = field("original_destination", "The address that the client called.");
    BYTES_SENT = field("bytes_sent", "Bytes from client to server.");
    BYTES_RECEIVED = field("bytes_received", "Bytes from server to client.");
    DURATION_MS = field("duration_ms", "Milliseconds from first to last.");
    CLOSED_BY = field("closed_by", "Who closed first: `source`, `destination` or `proxy`.");
    TLS = field("tls", "Whether mutual TLS carried it.");
    HOP = field("hop", "Where it failed: `application`, `dial`, `tls`, `tunnel`, `peer` or `destination`.");
    ERROR = field("error", "What was wrong, in a sentence.");
    ADVICE = field("advice", "What to do about it.");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_prometheus_conventions_and_are_unique() {
        let mut seen = HashSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(
                metric.help.len() > 1 && metric.help.ends_with('.'),
                "{}: help {:?}",
                metric.name,
                metric.help
            );
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            let prefixed = ["istio_tcp_", "aquifer_", "process_"].iter().any(|p| metric.name.starts_with(p));
            assert!(prefixed, "{}", metric.name);
            for name in metric.labels.iter().chain([&metric.name]) {
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            }
        }
        for field in FIELDS {
            assert!(field.help.ends_with('.'), "{}: help {:?}", field.name, field.help);
            assert!(
                !["timestamp", "level", "target", "message"].contains(&field.name),
                "{} is taken",
                field.name
            );
        }
        assert_eq!(FIELDS.iter().map(|f| f.name).collect::<HashSet<_>>().len(), FIELDS.len());
    }
}
