//! Flow series stay within their bound of memory. A test program of its own, since it measures the whole process.

use std::fs;
use std::sync::Arc;

use aquifer_model::{Identity, Membership, PodUid, TrustDomain, Workload, WorkloadFacts, WorkloadName};
use aquifer_telemetry::{Closer, FlowEnd, FlowStart, Path, Peer, Reporter, Telemetry, TelemetryConfig};

/// 10,000 label sets with all strings of their own are about 10 MiB; 100,000 of them would be ten times that.
const ALLOWED: u64 = 32 << 20;

#[test]
fn a_hundred_thousand_label_sets_without_a_scrape_stay_in_bounded_memory() {
    let telemetry = Telemetry::new(TelemetryConfig::default());
    telemetry.render();
    let before = resident().unwrap();
    for number in 0..100_000 {
        let flow = telemetry.flow(start(number));
        flow.sent(1);
        flow.finish(FlowEnd::carried(Closer::Source));
    }
    let grown = resident().unwrap().saturating_sub(before);
    println!("100,000 label sets: {} KiB more resident", grown / 1024);
    assert!(grown < ALLOWED, "{grown} bytes more resident");
    let text = telemetry.render();
    let opened: Vec<&str> =
        text.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{")).collect();
    assert_eq!(opened.len(), 10_001);
    let counted: u64 = opened.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
    assert_eq!(counted, 100_000, "nothing is lost in `other`");
}

fn start(number: usize) -> FlowStart {
    let peer = |side: &str| Peer {
        address: None,
        identity: Some(Identity::new(TrustDomain::default(), "shop", format!("sa-{side}-{number}"))),
        workload: Some(workload(&format!("{side}-{number}"))),
    };
    FlowStart {
        reporter: Reporter::Source,
        source: peer("client"),
        destination: peer("server"),
        service: None,
        original_destination: None,
        path: Path::Tunnel,
        tls: true,
    }
}

fn workload(name: &str) -> Arc<Workload> {
    let facts = WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", "shop", name),
        uid: PodUid::new(name),
        namespace: "shop".into(),
        trust_domain: TrustDomain::default(),
        service_account: "sa".into(),
        addresses: Default::default(),
        node: "node-1".into(),
        labels: Vec::new(),
        named_ports: Vec::new(),
        owner: None,
        canonical_name: Some(format!("canonical-{name}").into()),
        canonical_revision: format!("revision-{name}").into(),
        membership: Membership::Desired,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    };
    Arc::new(facts.into())
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
