//! What the mesh costs at 100,000 workloads: look-ups, one change, and memory.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aquifer_benches::mesh::{Objects, PER_SERVICE, pod_ip, resident, slice, vip, workload};
use aquifer_model::{
    Access, Call, Identity, Mesh, MeshConfig, Protocol, Resolution, Snapshot, TrustDomain, Update,
};
use criterion::Criterion;

const WORKLOADS: u32 = 100_000;
const OBJECTS: Objects = Objects { workloads: WORKLOADS };

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

/// Builds the mesh and prints what it took. The objects are there before, so that the growth is the mesh's own. What a node that
/// is told of them needs in all is measured by `dataplane -- --limits`.
fn load() -> Mesh {
    let before = resident();
    let updates = OBJECTS.updates();
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
    mesh.apply(OBJECTS.large_services());
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
    group.bench_function("service of 10,000", |b| b.iter(|| resolve(OBJECTS.large_vip(0), nth())));
    group.bench_function("service of 10,000 with affinity", |b| b.iter(|| resolve(OBJECTS.large_vip(1), 0)));
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
    alternate("one slice of 1,000 among 10", OBJECTS.large(0), 1_000);
    group.finish();
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
