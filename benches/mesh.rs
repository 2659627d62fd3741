//! A mesh as data, of any size: what a large cluster's source would say of it.
//!
//! Names have 40 characters, each workload has two labels, ten of them stand behind a Service, and 200 run on a node.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::{
    Action, AuthorizationPolicy, Clause, Endpoint, EndpointPort, EndpointSlice, Match, Membership, MtlsMode,
    NamespacedName, Node, PeerAuthentication, PodUid, PolicyScope, Pool, Protocol, Rule, Service,
    ServicePort, StringMatch, TrafficDistribution, TrustDomain, Update, Workload, WorkloadFacts,
    WorkloadName,
};

/// Workloads behind a Service.
pub const PER_SERVICE: u32 = 10;
const PER_NODE: u32 = 200;
const NAMESPACES: u32 = 200;
/// Endpoints of a large Service, in slices of 1,000.
pub const LARGE: u32 = 10_000;

/// So many workloads, with all that belongs to them.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    /// At most 100,000: the names of more are longer.
    pub workloads: u32,
}

impl Objects {
    /// Workloads with all that a cluster has of ordinary size, as one batch.
    pub fn updates(self) -> Vec<Update> {
        let mut pool = Pool::default();
        let workloads = self.workloads;
        let nodes = (0..workloads.div_ceil(PER_NODE)).map(node_object);
        let mut updates: Vec<Update> = nodes.collect();
        // Workloads and endpoints share what they can, as those that come from a source or a controller do.
        updates.extend((0..workloads).map(|n| Update::Workload(pool.workload(workload(n, "")).into())));
        let services = (0..self.services()).flat_map(|n| {
            let endpoints = n * PER_SERVICE..(n + 1) * PER_SERVICE;
            [Update::Service(service(n, vip(n)).into()), slice(n, 0, endpoints, true)]
        });
        updates.extend(services.map(|update| shared(update, &mut pool)));
        updates.extend((0..NAMESPACES).map(policy));
        updates.push(strict());
        updates
    }

    /// Services of ordinary size.
    pub fn services(self) -> u32 {
        self.workloads / PER_SERVICE
    }

    /// Two large Services, with endpoints among the workloads.
    pub fn large_services(self) -> Vec<Update> {
        let mut pool = Pool::default();
        (0..2).flat_map(|n| self.large_service(n)).map(|update| shared(update, &mut pool)).collect()
    }

    /// Number of the `n`th large Service, of two; the second has session affinity.
    pub fn large(self, n: u32) -> u32 {
        self.services() + n
    }

    /// Address of the `n`th large Service.
    pub fn large_vip(self, n: u32) -> IpAddr {
        vip(self.large(n))
    }

    fn large_service(self, n: u32) -> Vec<Update> {
        let affinity = (n == 1).then_some(Duration::from_secs(10_800));
        let large = self.large(n);
        let object = Service { session_affinity: affinity, ..service(large, vip(large)) };
        let endpoints = LARGE.min(self.workloads);
        let slices = (0..endpoints.div_ceil(1_000)).map(|nth| {
            let pods = nth * 1_000..((nth + 1) * 1_000).min(endpoints);
            slice(large, nth, pods, true)
        });
        std::iter::once(Update::Service(object.into())).chain(slices).collect()
    }
}

fn shared(update: Update, pool: &mut Pool) -> Update {
    match update {
        Update::Service(service) => {
            let mut service = Arc::unwrap_or_clone(service);
            pool.service(&mut service);
            Update::Service(service.into())
        }
        Update::EndpointSlice(slice) => {
            let mut slice = Arc::unwrap_or_clone(slice);
            pool.slice(&mut slice);
            Update::EndpointSlice(slice.into())
        }
        other => other,
    }
}

fn node_object(n: u32) -> Update {
    let network = format!("10.{}.{}.0/24", n / 256, n % 256).parse();
    let node = Node {
        name: node(n).into(),
        region: "".into(),
        zone: format!("zone-{}", n % 3).into(),
        pod_cidrs: network.into_iter().collect(),
    };
    Update::Node(node.into())
}

/// Lets `ns-1` call the `n`th namespace.
fn policy(n: u32) -> Update {
    let from = Match { namespaces: vec![StringMatch::parse("ns-1")], ..Match::default() };
    let name = NamespacedName::new(format!("ns-{n}"), "allow");
    let rules = vec![Rule { clauses: vec![Clause(vec![from])], l7: false }];
    let policy = AuthorizationPolicy { name, scope: PolicyScope::Namespace, action: Action::Allow, rules };
    Update::Authorization(policy.into())
}

fn strict() -> Update {
    let strict = PeerAuthentication {
        name: NamespacedName::new("aquifer-system", "default"),
        scope: PolicyScope::Mesh,
        mode: Some(MtlsMode::Strict),
        ports: vec![],
    };
    Update::PeerAuthentication(strict.into())
}

/// The `n`th workload; another revision makes it another.
pub fn workload(n: u32, revision: &str) -> Workload {
    let namespace = format!("ns-{}", n / PER_SERVICE % NAMESPACES);
    let app = format!("checkout-application-{:05}", n / PER_SERVICE);
    // 40 characters, as a Deployment's pods easily have.
    let pod = NamespacedName::new(namespace, format!("{app}-5d8f9c7-{n:05}"));
    let facts = WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", &pod.namespace, &pod.name),
        uid: PodUid::new(format!("9c5f7f0e-6a53-4a4c-9d5a-0000000{n:05}")),
        namespace: pod.namespace,
        trust_domain: TrustDomain::default(),
        service_account: "default".into(),
        addresses: [pod_ip(n)].into_iter().collect(),
        node: node(n / PER_NODE).into(),
        labels: vec![("app".into(), app.into()), ("version".into(), "v1".into())],
        named_ports: vec![],
        owner: Some(("deployment".into(), "app".into())),
        canonical_name: Some("app".into()),
        canonical_revision: revision.into(),
        membership: Membership::Proven,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    };
    facts.into()
}

fn service(n: u32, vip: IpAddr) -> Service {
    let name = service_name(n);
    let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, app_protocol: "".into() };
    Service {
        hostname: format!("{}.{}.svc.cluster.local", name.name, name.namespace).into(),
        name,
        vips: [vip].into_iter().collect(),
        external_ips: Default::default(),
        selector: Arc::new([]),
        ports: [port].into(),
        headless: false,
        session_affinity: None,
        internal_local: false,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
        unresolved: false,
    }
}

/// The `nth` slice of a Service; not `ready`, its first pod is not.
pub fn slice(of: u32, nth: u32, pods: Range<u32>, ready: bool) -> Update {
    let service = service_name(of);
    let endpoints = pods.map(|n| {
        let pod = workload(n, "");
        Endpoint {
            address: pod_ip(n),
            workload: Some(pod.name().clone()),
            node: pod.node().clone(),
            zone: "".into(),
            // Only the first pod ever changes.
            ready: ready || n % 1_000 != 0,
            serving: true,
            terminating: false,
        }
    });
    let slice = EndpointSlice {
        name: NamespacedName::new(service.namespace.clone(), format!("{}-{nth}", service.name)),
        ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.collect(),
        service,
    };
    Update::EndpointSlice(slice.into())
}

fn service_name(n: u32) -> NamespacedName {
    NamespacedName::new(format!("ns-{}", n % NAMESPACES), format!("app-{n}"))
}

/// Address of the `n`th workload.
pub fn pod_ip(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + (n / PER_NODE) * 256 + n % PER_NODE).into()
}

/// Address of a Service.
pub fn vip(service: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xac10_0000 + service).into()
}

fn node(n: u32) -> String {
    format!("node-{n}")
}

/// Resident memory of this process in bytes.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
