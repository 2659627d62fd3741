//! Counters and gauges by topic, as small typed structs. A `reason` is a word of the code, never text from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aquifer_model::Identity;
use metrics::{Counter, Gauge};

use crate::catalog;
use crate::exposition::{Exposition, labels};
use crate::recorder::Recorder;

/// Identities whose certificates have a gauge each. A node has as many as it has service accounts on it, mostly well
/// below its limit of pods (110 by default); past this many the earliest end of the others is told as `other`.
const IDENTITIES: usize = 1_000;

/// One unit of a gauge, given back when dropped.
#[must_use = "the gauge goes down when this is dropped"]
pub struct Counted(Gauge);

/// The tunnel pool.
#[derive(Clone, Debug)]
pub struct Pool {
    recorder: Recorder,
    tunnels: Gauge,
    streams: Gauge,
    dialled: Counter,
    /// Microseconds: the recorder's counters are whole numbers.
    dialling: Arc<AtomicU64>,
}

/// Certificates and the trust bundle.
#[derive(Clone, Debug)]
pub struct Certificates {
    recorder: Recorder,
    first: Counter,
    renewals: Counter,
    roots: Gauge,
    /// Unix seconds of each identity's end. A map of our own, since the recorder forgets nothing.
    ends: Arc<Mutex<BTreeMap<Identity, u64>>>,
}

/// Enrolment of pods.
#[derive(Clone, Debug)]
pub struct Enrolment {
    recorder: Recorder,
    enrolled: Gauge,
    desired: Gauge,
}

/// Policy decisions.
#[derive(Clone, Debug)]
pub struct Policy {
    recorder: Recorder,
    audits: Counter,
    rechecks: Counter,
}

/// Where the mesh's objects come from.
#[derive(Clone, Debug)]
pub struct Source {
    recorder: Recorder,
    problems: Gauge,
    reloads: Counter,
    reloaded_at: Gauge,
    of_cache: Gauge,
}

/// Kinds of objects that a source reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Kubernetes' own names.
pub enum SourceKind {
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    Node,
    ServiceAccount,
    AuthorizationPolicy,
    PeerAuthentication,
}

/// Bytes that the process holds for connections.
#[derive(Clone, Debug)]
pub struct Buffers {
    held: Gauge,
    limit: Gauge,
    shed: Counter,
}

/// The worker process, as its parent sees it.
#[derive(Clone, Debug)]
pub struct Workers {
    restarts: Counter,
}

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl Pool {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            tunnels: recorder.gauge(&catalog::TUNNELS),
            streams: recorder.gauge(&catalog::STREAMS),
            dialled: recorder.counter(&catalog::DIALLED),
            dialling: Arc::default(),
        }
    }

    /// A tunnel stands, until the value is dropped.
    pub fn tunnel(&self) -> Counted {
        Counted::new(&self.tunnels)
    }

    /// A stream is open in a tunnel, until the value is dropped.
    pub fn stream(&self) -> Counted {
        Counted::new(&self.streams)
    }

    /// A tunnel was dialled.
    pub fn dialled(&self, took: Duration) {
        self.dialled.increment(1);
        self.dialling.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A dial failed; `reason` is the error's code.
    pub fn dial_failed(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::DIAL_FAILURES, reason).increment(1);
    }

    /// A stream was refused or reset; `reason` is the error's code.
    pub fn stream_failed(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::STREAM_FAILURES, reason).increment(1);
    }

    /// A tunnel was put out of use; `reason` such as `idle`, `endpoint-gone`, `goaway`, `certificate`.
    pub fn retired(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::RETIRED, reason).increment(1);
    }

    pub(crate) fn render(&self, out: &mut Exposition) {
        let dialling = Duration::from_micros(self.dialling.load(Ordering::Relaxed));
        out.single(&catalog::DIAL_SECONDS, dialling.as_secs_f64());
    }
}

impl Certificates {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            first: recorder.counter_with(&catalog::ISSUED, "first"),
            renewals: recorder.counter_with(&catalog::ISSUED, "renewal"),
            roots: recorder.gauge(&catalog::ROOTS),
            ends: Arc::default(),
        }
    }

    /// `identity` holds a certificate that ends at `not_after`.
    pub fn holds(&self, identity: &Identity, not_after: SystemTime) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.insert(identity.clone(), unix_seconds(not_after));
    }

    /// `identity` is held no more.
    pub fn forgotten(&self, identity: &Identity) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(identity);
    }

    /// A certificate was issued: the first for its identity, or a renewal.
    pub fn issued(&self, renewal: bool) {
        if renewal { &self.renewals } else { &self.first }.increment(1);
    }

    /// Issuing failed; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::CERTIFICATE_FAILURES, reason).increment(1);
    }

    /// The trust bundle has so many roots now.
    pub fn roots(&self, roots: usize) {
        self.roots.set(roots as f64);
    }

    pub(crate) fn render(&self, out: &mut Exposition) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let metric = &catalog::CERTIFICATE_EXPIRY;
        out.family(metric);
        for (identity, end) in ends.iter().take(IDENTITIES) {
            out.sample(metric, &labels([("identity", identity.to_string().as_str())]), end);
        }
        if let Some(earliest) = ends.values().skip(IDENTITIES).min() {
            out.sample(metric, &labels([("identity", "other")]), earliest);
        }
    }
}

impl Enrolment {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            enrolled: recorder.gauge(&catalog::ENROLLED),
            desired: recorder.gauge(&catalog::DESIRED),
        }
    }

    /// A pod is enrolled, until the value is dropped.
    pub fn enrolled(&self) -> Counted {
        Counted::new(&self.enrolled)
    }

    /// So many pods should be enrolled on this node.
    pub fn desired(&self, pods: usize) {
        self.desired.set(pods as f64);
    }

    /// Enrolling or un-enrolling failed; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::ENROLMENT_FAILURES, reason).increment(1);
    }

    /// Rules or listeners of an enrolled pod were found broken, and laid again; `what` such as `rules`, `listener`.
    pub fn repaired(&self, what: &'static str) {
        self.recorder.counter_with(&catalog::REPAIRS, what).increment(1);
    }
}

impl Policy {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            audits: recorder.counter(&catalog::AUDITS),
            rechecks: recorder.counter(&catalog::RECHECKS),
        }
    }

    /// A connection was denied at its start; `reason` is the code of the denial.
    pub fn denied(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::DENIALS, reason).increment(1);
    }

    /// A rule of an AUDIT policy matched.
    pub fn audited(&self) {
        self.audits.increment(1);
    }

    /// So many live connections were checked again.
    pub fn rechecked(&self, connections: u64) {
        self.rechecks.increment(connections);
    }

    /// A live connection was cut; `reason` is the code of the denial, or `certificate-expired`, `root-removed`.
    pub fn cut(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::CUTS, reason).increment(1);
    }
}

impl Source {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            problems: recorder.gauge(&catalog::PROBLEMS),
            reloads: recorder.counter(&catalog::RELOADS),
            reloaded_at: recorder.gauge(&catalog::RELOADED_AT),
            of_cache: recorder.gauge(&catalog::OF_CACHE),
        }
    }

    /// So many objects of a kind are known.
    pub fn objects(&self, kind: SourceKind, count: usize) {
        self.recorder.gauge_with(&catalog::OBJECTS, kind.as_str()).set(count as f64);
    }

    /// So many problems stand in the source now (files or objects that are not used).
    pub fn problems(&self, count: usize) {
        self.problems.set(count as f64);
    }

    /// A change was read and applied.
    pub fn reloaded(&self, at: SystemTime) {
        self.reloads.increment(1);
        self.reloaded_at.set(unix_seconds(at) as f64);
    }

    /// What is served was the mesh at that time, and was kept since; `None`: it is what the source says.
    pub fn of_cache(&self, at: Option<SystemTime>) {
        self.of_cache.set(at.map_or(0, unix_seconds) as f64);
    }

    /// Reading failed, and the last good state stays; `reason` is the error's code.
    pub fn failed(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::SOURCE_FAILURES, reason).increment(1);
    }
}

impl SourceKind {
    /// The kind as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }
}

impl Buffers {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            held: recorder.gauge(&catalog::BUFFERED),
            limit: recorder.gauge(&catalog::BUFFERED_LIMIT),
            shed: recorder.counter(&catalog::SHED),
        }
    }

    /// So many bytes are buffered now, of so many that may be.
    pub fn held(&self, bytes: u64, limit: u64) {
        self.held.set(bytes as f64);
        self.limit.set(limit as f64);
    }

    /// So many streams in all were reset since the limit was reached. (The budget counts.)
    pub fn shed(&self, total: u64) {
        self.shed.absolute(total);
    }
}

impl Workers {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self { restarts: recorder.counter(&catalog::WORKER_RESTARTS) }
    }

    /// The worker was started again so many times in all. (The parent counts, a worker that it starts is told.)
    pub fn restarts(&self, total: u64) {
        self.restarts.absolute(total);
    }
}

/// Whole seconds since 1970; 0 for what was before.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
