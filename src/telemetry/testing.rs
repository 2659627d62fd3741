//! For tests: a strict reader of the exposition format, workloads to count, a clock to turn, a log to look into.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use aquifer_model::{
    Identity, Membership, NamespacedName, PodUid, Service, TrafficDistribution, TrustDomain, Workload,
    WorkloadFacts, WorkloadName,
};

use crate::{Clock, FlowStart, Path, Peer, Reporter, Telemetry, TelemetryConfig};

/// A family of the exposition: its head and its samples by label set.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) help: String,
    pub(crate) kind: String,
    pub(crate) samples: Vec<(Vec<(String, String)>, f64)>,
}

impl Family {
    /// The sum of the samples that have all these labels.
    pub(crate) fn sum(&self, labels: &[(&str, &str)]) -> f64 {
        let wanted = |sample: &[(String, String)]| {
            labels.iter().all(|(k, v)| sample.iter().any(|(name, value)| name == k && value == v))
        };
        self.samples.iter().filter(|(sample, _)| wanted(sample)).map(|(_, value)| value).sum()
    }
}

/// Reads an exposition, and panics at what format 0.0.4 does not allow: a family in two pieces, a label set twice, a
/// sample without head, a wrong escape.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(!families.contains_key(name), "{name} comes twice");
            current = name.to_owned();
            families.insert(current.clone(), Family { help: help.to_owned(), ..Family::default() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, current, "TYPE without HELP");
            let family = families.get_mut(name).unwrap();
            assert!(family.kind.is_empty() && family.samples.is_empty(), "{line}");
            family.kind = kind.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "a sample outside its family: {line}");
            let family = families.get_mut(name).unwrap();
            assert!(matches!(family.kind.as_str(), "counter" | "gauge"), "{line}");
            assert!(family.samples.iter().all(|(other, _)| *other != labels), "twice: {line}");
            family.samples.push((labels, value));
        }
    }
    families
}

/// One sample line: name, labels, value.
pub(crate) fn sample(line: &str) -> (&str, Vec<(String, String)>, f64) {
    let name_end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).expect(line);
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect(line) {
                    (at, '"') => break at + 1,
                    (_, '\\') => value.push(match chars.next().expect(line).1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        other => panic!("escape {other:?} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    (name, labels, rest.strip_prefix(' ').expect(line).parse().expect(line))
}

/// Makes sure that some subscriber listens to all of this process, to no effect. `tracing` remembers of each event
/// whether anybody wants it; if the first test to write a record has no subscriber, and another test installs its own
/// in that moment, "nobody" may be what is remembered (tracing-core computes it before it registers the event).
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
}

/// All metrics of a process, for a test.
pub(crate) fn telemetry(config: TelemetryConfig) -> Telemetry {
    listen();
    Telemetry::new(config)
}

/// A pod of a Deployment.
pub(crate) fn workload(namespace: &str, owner: &str, pod: &str) -> Arc<Workload> {
    let facts = WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", namespace, pod),
        uid: PodUid::new(format!("uid-of-{pod}")),
        namespace: namespace.into(),
        trust_domain: TrustDomain::default(),
        service_account: "sa".into(),
        addresses: Default::default(),
        node: "node-1".into(),
        labels: [("app", "the-app"), ("version", "v7")].map(|(k, v)| (k.into(), v.into())).into(),
        named_ports: Vec::new(),
        owner: Some(("deployment".into(), owner.into())),
        canonical_name: Some("canonical".into()),
        canonical_revision: "latest".into(),
        membership: Membership::Desired,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    };
    Arc::new(facts.into())
}

/// One end with everything known.
pub(crate) fn peer(namespace: &str, owner: &str, pod: &str, address: &str) -> Peer {
    let workload = workload(namespace, owner, pod);
    Peer {
        address: Some(address.parse().unwrap()),
        identity: Some(Identity::new(TrustDomain::default(), namespace, "sa")),
        workload: Some(workload),
    }
}

/// A Service without addresses and ports.
pub(crate) fn service(namespace: &str, name: &str) -> Arc<Service> {
    Arc::new(Service {
        name: NamespacedName::new(namespace, name),
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        vips: Default::default(),
        external_ips: Default::default(),
        selector: Default::default(),
        ports: Box::default(),
        headless: false,
        session_affinity: None,
        internal_local: false,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
        unresolved: false,
    })
}

/// A tunnelled call with both ends and the Service known.
pub(crate) fn start() -> FlowStart {
    FlowStart {
        reporter: Reporter::Source,
        source: peer("front", "web", "web-1", "10.0.0.1:40000"),
        destination: peer("shop", "api", "api-1", "10.0.1.2:8080"),
        service: Some(service("shop", "api")),
        original_destination: Some("10.96.0.10:80".parse().unwrap()),
        path: Path::Tunnel,
        tls: true,
    }
}

/// A call between ends of which nothing is known.
pub(crate) fn stranger() -> FlowStart {
    FlowStart {
        reporter: Reporter::Destination,
        source: Peer::default(),
        destination: Peer::default(),
        service: None,
        original_destination: None,
        path: Path::Plaintext,
        tls: false,
    }
}

/// A call from a workload of its own label set.
pub(crate) fn numbered(number: usize) -> FlowStart {
    FlowStart { source: peer("front", &format!("web-{number}"), "pod", "10.0.0.1:40000"), ..start() }
}

/// A clock that goes when it is told to.
#[derive(Clone)]
pub(crate) struct HandClock {
    origin: Instant,
    millis: Arc<AtomicU64>,
}

impl HandClock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), millis: Arc::default() }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.millis.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn clock(&self) -> Clock {
        let this = self.clone();
        Clock::new(move || this.origin + Duration::from_millis(this.millis.load(Ordering::Relaxed)))
    }
}

/// Takes what a log writes.
#[derive(Clone, Default)]
pub(crate) struct Taken(Arc<Mutex<Vec<u8>>>);

impl Taken {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
