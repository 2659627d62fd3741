//! What the mesh costs at 100,000 workloads: look-ups, one change, and memory.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_model::{
    Access, Action, AuthorizationPolicy, Call, Clause, Endpoint, EndpointPort, EndpointSlice, Identity,
    Match, Membership, Mesh, MeshConfig, MtlsMode, NamespacedName, Node, PeerAuthentication, PodUid,
    PolicyScope, Pool, Protocol, Resolution, Rule, Service, ServicePort, Snapshot, StringMatch,
    TrafficDistribution, TrustDomain, Update, Workload, WorkloadFacts, WorkloadName,
};
use criterion::Criterion;

const WORKLOADS: u32 = 100_000;
const PER_SERVICE: u32 = 10;
const PER_NODE: u32 = 200;
const NAMESPACES: u32 = 200;
/// Endpoints of the one large Service, in slices of 1,000.
const LARGE: u32 = 10_000;

fn main() {
    let times =
        Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = times.configure_from_args();
    at_100_000_workloads(&mut criterion);
    criterion.final_summary();
}

fn at_100_000_workloads(c: &mut Criterion) {
    let mut mesh = load();
    let snapshot = mesh.snapshot();
    look_ups(c, &snapshot);
    questions(c, &snapshot);
    drop(snapshot);
    changes(c, &mut mesh);
}

/// Builds the mesh and prints what it took. The objects are there before, so that the growth is the mesh's own. The node process
/// as a whole, from YAML on, is measured by `dataplane -- --limits`.
fn load() -> Mesh {
    let before = resident();
    let updates: Vec<Update> = objects().collect();
    let objects = resident().saturating_sub(before);
    let mut mesh = Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: None });
    let (resident, start) = (resident(), Instant::now());
    // In batches as a source sends them: one batch of all would leave its own working memory behind.
    for batch in updates.chunks(1_000) {
        mesh.apply(batch.iter().cloned());
    }
    let grown = self::resident().saturating_sub(resident);
    println!("loaded {} objects in {:.0?}", updates.len(), start.elapsed());
    println!("memory of objects: {} bytes a workload", objects / u64::from(WORKLOADS));
    println!("memory of indexes: {} bytes a workload", grown / u64::from(WORKLOADS));
    mesh
}

fn look_ups(c: &mut Criterion, snapshot: &Snapshot) {
    let mut group = c.benchmark_group("look up");
    let mut nth = scattered();
    group.bench_function("workload by address", |b| {
        b.iter(|| snapshot.workload_by_ip(pod_ip(nth())).is_some())
    });
    let mut nth = scattered();
    group.bench_function("service by address", |b| {
        b.iter(|| snapshot.service_by_vip(vip(nth() / PER_SERVICE)).is_some());
    });
    let mut nth = scattered();
    group.bench_function("inside the mesh's networks", |b| {
        b.iter(|| snapshot.in_mesh_networks(pod_ip(nth())))
    });
    group.finish();
}

fn questions(c: &mut Criterion, snapshot: &Snapshot) {
    let caller = workload(4711, "");
    let resolve = |ip: IpAddr, entropy: u32| {
        let destination = SocketAddr::new(ip, 80);
        let call = Call {
            caller: &caller,
            destination,
            protocol: Protocol::Tcp,
            entropy: u64::from(entropy),
            exclude: &[],
        };
        let resolution = snapshot.resolve(&call);
        assert!(matches!(resolution, Resolution::Route(_)), "{ip} is not routed");
        resolution
    };
    let mut group = c.benchmark_group("resolve");
    // Any of all, as far out of the caches as can be, and the same few again, as traffic mostly is.
    for (kind, among) in [("any", WORKLOADS), ("the same", 100)] {
        let mut nth = scattered();
        group.bench_function(format!("{kind} pod"), |b| b.iter(|| resolve(pod_ip(nth() % among), 0)));
        let mut nth = scattered();
        group.bench_function(format!("{kind} service of 10"), |b| {
            b.iter(|| {
                let n = nth();
                resolve(vip(n % among / PER_SERVICE), n)
            });
        });
    }
    let mut nth = scattered();
    group.bench_function("service of 10,000", |b| b.iter(|| resolve(large_vip(0), nth())));
    group.bench_function("service of 10,000 with affinity", |b| b.iter(|| resolve(large_vip(1), 0)));
    group.finish();

    let identity = Identity::new(TrustDomain::default(), "ns-1", "default");
    let mut nth = scattered();
    c.bench_function("authorize", |b| {
        b.iter(|| {
            let ip = pod_ip(nth());
            let Some(destination) = snapshot.workload_by_ip(ip) else { panic!("no workload at {ip}") };
            let access = Access {
                identity: Some(&identity),
                source: ip,
                destination,
                address: SocketAddr::new(ip, 8080),
            };
            snapshot.authorize(&access)
        });
    });
}

/// One change while a reader holds the snapshot before, so that what changes is copied and the rest shared.
fn changes(c: &mut Criterion, mesh: &mut Mesh) {
    let mut group = c.benchmark_group("change");
    let mut nth = scattered();
    let mut turn = 0u32;
    let mut reader = mesh.snapshot();
    let mut change = |update: Update| {
        black_box(mesh.apply([update]));
        reader = mesh.snapshot();
        black_box(reader.version())
    };
    group.bench_function("one workload", |b| {
        b.iter(|| {
            turn += 1;
            change(Update::Workload(workload(nth(), &turn.to_string()).into()))
        });
    });
    let mut alternate = |name: &str, of: u32, pods: u32| {
        let mut states = [true, false].map(|ready| slice(of, 0, 0..pods, ready));
        group.bench_function(name, |b| {
            b.iter(|| {
                states.swap(0, 1);
                change(states[0].clone())
            });
        });
    };
    alternate("one slice of 10", 0, PER_SERVICE);
    alternate("one slice of 1,000 among 10", large(0), 1_000);
    group.finish();
}

fn objects() -> impl Iterator<Item = Update> {
    let nodes = (0..WORKLOADS / PER_NODE).map(|n| {
        let pod_cidrs =
            (0..1).map(|_| format!("10.{}.{}.0/24", n / 256, n % 256)).filter_map(|net| net.parse().ok());
        let node = Node {
            name: node(n).into(),
            region: "".into(),
            zone: format!("zone-{}", n % 3).into(),
            pod_cidrs: pod_cidrs.collect(),
        };
        Update::Node(node.into())
    });
    // Workloads and endpoints share what they can, as those that come from a source or a controller do.
    let pool = Rc::new(RefCell::new(Pool::default()));
    let of_endpoints = pool.clone();
    let shared = move |slice: Update| {
        let Update::EndpointSlice(slice) = slice else { return slice };
        let mut slice = Arc::unwrap_or_clone(slice);
        slice.endpoints.iter_mut().for_each(|endpoint| of_endpoints.borrow_mut().endpoint(endpoint));
        Update::EndpointSlice(slice.into())
    };
    let workloads =
        (0..WORKLOADS).map(move |n| Update::Workload(pool.borrow_mut().workload(workload(n, "")).into()));
    let services = (0..WORKLOADS / PER_SERVICE).flat_map(|n| {
        let endpoints = n * PER_SERVICE..(n + 1) * PER_SERVICE;
        [Update::Service(service(n, vip(n)).into()), slice(n, 0, endpoints, true)]
    });
    let large = (0..2).flat_map(|n| {
        let affinity = (n == 1).then_some(Duration::from_secs(10_800));
        let service = Service { session_affinity: affinity, ..service(large(n), large_vip(n)) };
        let slices = (0..LARGE / 1_000).map(move |s| slice(large(n), s, s * 1_000..(s + 1) * 1_000, true));
        std::iter::once(Update::Service(service.into())).chain(slices)
    });
    let policies = (0..NAMESPACES).map(|n| {
        let from = Match { namespaces: vec![StringMatch::parse("ns-1")], ..Match::default() };
        let name = NamespacedName::new(format!("ns-{n}"), "allow");
        let rules = vec![Rule { clauses: vec![Clause(vec![from])], l7: false }];
        let policy =
            AuthorizationPolicy { name, scope: PolicyScope::Namespace, action: Action::Allow, rules };
        Update::Authorization(policy.into())
    });
    let strict = PeerAuthentication {
        name: NamespacedName::new("aquifer-system", "default"),
        scope: PolicyScope::Mesh,
        mode: Some(MtlsMode::Strict),
        ports: vec![],
    };
    let strict = std::iter::once(Update::PeerAuthentication(strict.into()));
    nodes.chain(workloads).chain(services.chain(large).map(shared)).chain(policies).chain(strict)
}

fn workload(n: u32, revision: &str) -> Workload {
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
        ports: vec![port],
        headless: false,
        session_affinity: None,
        internal_local: false,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
        unresolved: false,
    }
}

fn slice(of: u32, nth: u32, pods: std::ops::Range<u32>, ready: bool) -> Update {
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
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
        service,
    };
    Update::EndpointSlice(slice.into())
}

fn service_name(n: u32) -> NamespacedName {
    NamespacedName::new(format!("ns-{}", n % NAMESPACES), format!("app-{n}"))
}

/// Number of the `n`th large Service.
fn large(n: u32) -> u32 {
    WORKLOADS / PER_SERVICE + n
}

fn pod_ip(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + (n / PER_NODE) * 256 + n % PER_NODE).into()
}

fn vip(service: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xac10_0000 + service).into()
}

fn large_vip(n: u32) -> IpAddr {
    vip(large(n))
}

fn node(n: u32) -> String {
    format!("node-{n}")
}

/// Numbers of workloads in an order that no cache follows.
fn scattered() -> impl FnMut() -> u32 {
    let mut n = 0u32;
    move || {
        // 61,803 and 100,000 have no common divisor: each workload comes once a round.
        n = (n + 61_803) % WORKLOADS;
        n
    }
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
