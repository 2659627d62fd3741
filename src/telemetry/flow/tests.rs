//! Flow series: labels, bounds, expiry, exact counts.

use std::thread;

use aquifer_model::TrustDomain;
use proptest::prelude::*;

use super::*;
use crate::testing::{HandClock, numbered, parse, peer, start, stranger};
use crate::{Clock, FLOW_LABELS, METRICS};

const TEN_MINUTES: Duration = Duration::from_secs(600);

fn flows(limit: usize, clock: Clock) -> Arc<Flows> {
    crate::testing::listen();
    Arc::new(Flows::new(limit, TEN_MINUTES, "Kubernetes".into(), Arc::new(Timeline::new(clock))))
}

fn exposition(flows: &Flows) -> String {
    let mut out = Exposition::default();
    flows.render(&mut out);
    out.finish()
}

fn total(flows: &Flows, metric: &str, labels: &[(&str, &str)]) -> u64 {
    parse(&exposition(flows))[metric].sum(labels) as u64
}

fn carried() -> FlowEnd {
    FlowEnd::carried(Closer::Source)
}

#[test]
fn a_known_call_has_istios_labels() {
    let flows = flows(10, Clock::system());
    let flow = flows.begin(start());
    flow.sent(5);
    flow.received(7);
    flow.finish(carried());
    let expected = "reporter=\"source\",source_workload=\"web\",source_canonical_service=\"canonical\",\
        source_canonical_revision=\"latest\",source_workload_namespace=\"front\",\
        source_principal=\"spiffe://cluster.local/ns/front/sa/sa\",source_app=\"the-app\",source_version=\"v7\",\
        source_cluster=\"Kubernetes\",destination_service=\"api.shop.svc.cluster.local\",\
        destination_service_namespace=\"shop\",destination_service_name=\"api\",destination_workload=\"api\",\
        destination_canonical_service=\"canonical\",destination_canonical_revision=\"latest\",\
        destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/sa\",\
        destination_app=\"the-app\",destination_version=\"v7\",destination_cluster=\"Kubernetes\",\
        request_protocol=\"tcp\",response_flags=\"-\",connection_security_policy=\"mutual_tls\",\
        aquifer_path=\"tunnel\"";
    let text = exposition(&flows);
    for (name, value) in [
        ("istio_tcp_connections_opened_total", 1),
        ("istio_tcp_connections_closed_total", 1),
        // Istio counts from the server's side: sent is what the client gets.
        ("istio_tcp_sent_bytes_total", 7),
        ("istio_tcp_received_bytes_total", 5),
    ] {
        let line = format!("{name}{{{expected}}} {value}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[test]
fn nothing_known_is_unknown_in_every_label() {
    let flows = flows(10, Clock::system());
    flows.begin(stranger()).finish(carried());
    let families = parse(&exposition(&flows));
    let (labels, value) = &families["istio_tcp_connections_opened_total"].samples[0];
    assert_eq!(*value, 1.0);
    assert_eq!(labels.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), FLOW_LABELS);
    for (name, value) in labels {
        let expected = match name.as_str() {
            "reporter" => "destination",
            "request_protocol" => "tcp",
            "response_flags" => "-",
            "connection_security_policy" => "none",
            "aquifer_path" => "plaintext",
            _ => "unknown",
        };
        assert_eq!(value, expected, "{name}");
    }
}

#[test]
fn mutual_tls_is_said_only_where_it_ran() {
    let flows = flows(10, Clock::system());
    for (reporter, tls, path) in [
        (Reporter::Source, true, Path::Tunnel),
        (Reporter::Destination, true, Path::Tunnel),
        (Reporter::Source, false, Path::SameNode),
        (Reporter::Destination, false, Path::SameNode),
    ] {
        flows.begin(FlowStart { reporter, tls, path, ..start() }).finish(carried());
    }
    let said = |reporter, path, policy| {
        let labels = [("reporter", reporter), ("aquifer_path", path), ("connection_security_policy", policy)];
        total(&flows, "istio_tcp_connections_opened_total", &labels)
    };
    assert_eq!(said("source", "tunnel", "mutual_tls"), 1);
    assert_eq!(said("destination", "tunnel", "mutual_tls"), 1);
    assert_eq!(said("source", "same-node", "unknown"), 1);
    assert_eq!(said("destination", "same-node", "none"), 1);
}

#[test]
fn response_flags_tell_how_it_ended() {
    let failed = |hop, reason: &str| FlowEnd::failed(hop, reason, "detail");
    let cases = [
        (carried(), 0, "-"),
        (FlowEnd::denied("deny-policy", "", None), 0, "DENY"),
        (FlowEnd::denied("deny-policy", "", None), 9, "DENY"),
        (failed(Hop::Dial, "refused"), 0, "UF"),
        (failed(Hop::Tls, "handshake"), 0, "UF"),
        (failed(Hop::Tunnel, "reset"), 9, "UC"),
        (failed(Hop::Peer, "503"), 0, "UF"),
        (failed(Hop::Destination, "reset"), 9, "UC"),
        (failed(Hop::Application, "reset"), 9, "DC"),
        (failed(Hop::Dial, "no-endpoint"), 0, "UH"),
        (failed(Hop::Application, "no-such-port"), 0, "NR"),
        (failed(Hop::Application, "unknown-destination"), 0, "NR"),
    ];
    for (end, answered, flags) in cases {
        let flows = flows(10, Clock::system());
        let flow = flows.begin(start());
        if answered > 0 {
            flow.received(answered);
        }
        flow.finish(end.clone());
        assert_eq!(
            total(&flows, "istio_tcp_connections_closed_total", &[("response_flags", flags)]),
            1,
            "{end:?}"
        );
        assert_eq!(total(&flows, "istio_tcp_connections_closed_total", &[]), 1, "{end:?}");
        assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 1, "{end:?}");
    }
}

#[test]
fn labels_settle_at_the_first_byte_and_corrections_before_it_count() {
    let flows = flows(10, Clock::system());
    let mut flow = flows.begin(stranger());
    flow.set_path(Path::Tunnel, true);
    flow.set_source(peer("front", "web", "web-1", "10.0.0.1:1"));
    flow.set_destination(peer("shop", "api", "api-1", "10.0.1.2:8080"), None);
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 0);
    flow.sent(1);
    let settled = [("aquifer_path", "tunnel"), ("source_workload", "web"), ("destination_workload", "api")];
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &settled), 1);
    flow.set_path(Path::Passthrough, false);
    flow.sent(1);
    assert_eq!(total(&flows, "istio_tcp_received_bytes_total", &settled), 2);
    assert_eq!(flow.start().path, Path::Passthrough);
    flow.finish(carried());
    assert_eq!(total(&flows, "istio_tcp_connections_closed_total", &settled), 1);
}

#[test]
fn a_dropped_flow_is_closed_and_the_gauge_of_live_ones_follows() {
    let flows = flows(10, Clock::system());
    let (first, second) = (flows.begin(start()), flows.begin(start()));
    assert!(first.id() != second.id() && first.id() != 0);
    first.established();
    assert_eq!(total(&flows, "aquifer_connections", &[("reporter", "source")]), 2);
    drop(first);
    drop(second);
    assert_eq!(total(&flows, "aquifer_connections", &[]), 0);
    assert_eq!(total(&flows, "istio_tcp_connections_closed_total", &[("response_flags", "DC")]), 2);
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 2);
}

#[test]
fn a_series_expires_ten_minutes_after_its_last_connection_and_not_before() {
    let hand = HandClock::new();
    let flows = flows(10, hand.clock());
    let (first, last) = (flows.begin(start()), flows.begin(start()));
    first.established();
    last.established();
    first.finish(carried());
    hand.advance(100 * TEN_MINUTES);
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 2, "a live connection holds it");
    last.sent(3);
    last.finish(carried());
    hand.advance(TEN_MINUTES - Duration::from_millis(1));
    assert_eq!(total(&flows, "istio_tcp_received_bytes_total", &[]), 3);
    hand.advance(Duration::from_millis(1));
    assert_eq!(total(&flows, "aquifer_flow_series", &[]), 0);
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 0);
}

#[test]
fn a_connection_in_time_keeps_the_series_and_its_count() {
    let hand = HandClock::new();
    let flows = flows(10, hand.clock());
    for _ in 0..5 {
        flows.begin(start()).finish(carried());
        hand.advance(TEN_MINUTES - Duration::from_secs(1));
    }
    assert_eq!(total(&flows, "istio_tcp_connections_opened_total", &[]), 5);
}

#[test]
fn series_expire_without_a_scrape_and_make_room() {
    let hand = HandClock::new();
    let flows = flows(100, hand.clock());
    for wave in 0..50 {
        for number in 0..100 {
            flows.begin(numbered(100 * wave + number)).finish(carried());
        }
        hand.advance(TEN_MINUTES);
    }
    // Nobody looked until now, and each wave found the room of the one before.
    assert_eq!(total(&flows, "aquifer_flow_series_overflow_total", &[]), 0);
    assert_eq!(total(&flows, "aquifer_flow_series", &[]), 0);
}

#[test]
fn past_the_limit_calls_count_under_other() {
    let hand = HandClock::new();
    let flows = flows(10, hand.clock());
    let live: Vec<Flow> = (0..1_000).map(|number| flows.begin(numbered(number))).collect();
    for flow in &live {
        flow.sent(2);
        flow.received(3);
    }
    let other =
        [("source_workload", "other"), ("destination_workload", "other"), ("source_principal", "other")];
    let families = parse(&exposition(&flows));
    assert_eq!(families["istio_tcp_connections_opened_total"].samples.len(), 11);
    assert_eq!(families["istio_tcp_connections_opened_total"].sum(&other), 990.0);
    assert_eq!(families["aquifer_flow_series"].sum(&[]), 10.0);
    assert_eq!(families["aquifer_flow_series_overflow_total"].sum(&[]), 990.0);
    for (number, flow) in live.into_iter().enumerate() {
        flow.finish(if number % 2 == 0 { carried() } else { FlowEnd::failed(Hop::Tunnel, "reset", "") });
    }
    let families = parse(&exposition(&flows));
    let sum = |metric: &str, labels: &[(&str, &str)]| families[metric].sum(labels);
    // Nothing is lost, whatever it counts under; what was opened under `other` is closed under `other`.
    assert_eq!(sum("istio_tcp_received_bytes_total", &[]), 2_000.0);
    assert_eq!(sum("istio_tcp_sent_bytes_total", &[]), 3_000.0);
    assert_eq!(sum("istio_tcp_connections_closed_total", &[]), 1_000.0);
    assert_eq!(sum("istio_tcp_connections_closed_total", &[("response_flags", "UC")]), 500.0);
    assert!(sum("istio_tcp_connections_closed_total", &other) >= 990.0);
    assert!(families["istio_tcp_connections_closed_total"].samples.len() <= 12);
}

#[test]
fn after_an_overflow_expired_all_places_are_free_again() {
    let hand = HandClock::new();
    let flows = flows(10, hand.clock());
    for wave in 1..=3 {
        for number in 0..30 {
            flows.begin(numbered(number)).finish(FlowEnd::failed(Hop::Dial, "refused", ""));
        }
        assert_eq!(total(&flows, "aquifer_flow_series", &[]), 10);
        assert_eq!(total(&flows, "aquifer_flow_series_overflow_total", &[]), 20 * wave);
        hand.advance(TEN_MINUTES);
        assert_eq!(total(&flows, "aquifer_flow_series", &[]), 0);
    }
}

#[test]
fn counts_are_exact_under_threads_also_at_the_limit() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 2_000;
    let flows = flows(20, Clock::system());
    let shared = flows.begin(start());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (flows, shared) = (&flows, &shared);
            scope.spawn(move || {
                for call in 0..CALLS {
                    let flow = flows.begin(numbered(((thread + call) % 40) as usize));
                    flow.sent(3);
                    flow.received(5);
                    shared.sent(1);
                    flow.finish(carried());
                    if call % 500 == 0 {
                        parse(&exposition(flows));
                    }
                }
            });
        }
    });
    assert_eq!(shared.bytes(), (THREADS * CALLS, 0));
    shared.finish(carried());
    let families = parse(&exposition(&flows));
    let sum = |metric: &str| families[metric].sum(&[]) as u64;
    assert_eq!(sum("istio_tcp_connections_opened_total"), THREADS * CALLS + 1);
    assert_eq!(sum("istio_tcp_connections_closed_total"), THREADS * CALLS + 1);
    assert_eq!(sum("istio_tcp_received_bytes_total"), THREADS * CALLS * 4);
    assert_eq!(sum("istio_tcp_sent_bytes_total"), THREADS * CALLS * 5);
    assert_eq!(sum("aquifer_flow_series"), 20);
}

#[test]
fn a_sweep_beside_connections_never_takes_a_held_series_nor_loses_count_of_them() {
    let hand = HandClock::new();
    let flows = flows(50, hand.clock());
    let held = flows.begin(start());
    held.established();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (flows, held, hand) = (&flows, &held, &hand);
            scope.spawn(move || {
                for call in 0..3_000 {
                    flows.begin(numbered((thread * 7 + call) % 90)).finish(carried());
                    held.sent(1);
                    // Time runs so fast that series expire all the while.
                    hand.advance(Duration::from_secs(30));
                    if call % 50 == 0 {
                        flows.series.sweep();
                    }
                }
            });
        }
    });
    let known = [("source_workload", "web")];
    assert_eq!(total(&flows, "istio_tcp_received_bytes_total", &known), 12_000);
    held.finish(carried());
    hand.advance(TEN_MINUTES);
    assert_eq!(total(&flows, "aquifer_flow_series", &[]), 0);
}

#[test]
fn flow_metrics_declare_the_labels_that_they_have() {
    for metric in METRICS.iter().filter(|metric| metric.name.starts_with("istio_")) {
        assert_eq!(metric.labels, FLOW_LABELS, "{}", metric.name);
    }
}

proptest! {
    #[test]
    fn any_label_value_comes_back_from_the_exposition(owner in "\\PC*|.*", hostname in ".*", cluster in "[^/]*") {
        let flows = flows(10, Clock::system());
        let mut start = start();
        let mut facts = start.source.workload.as_ref().unwrap().facts();
        facts.owner = Some(("deployment".into(), owner.as_str().into()));
        facts.name = aquifer_model::WorkloadName::pod(&cluster, "ns", "pod");
        start.source.workload = Some(Arc::new(facts.into()));
        start.source.identity = Some(Identity::new(TrustDomain::default(), "a\"\\\nb", "sa"));
        let mut service = Service::clone(start.service.as_ref().unwrap());
        service.hostname = hostname.as_str().into();
        start.service = Some(Arc::new(service));
        flows.begin(start).finish(carried());
        // The reader works by lines and only `\n` ends one, so nothing else may.
        let text = exposition(&flows);
        let line = text.split('\n').find(|line| line.starts_with("istio_tcp_connections_opened_total")).unwrap();
        let (_, labels, value) = crate::testing::sample(line);
        let label = |name: &str| labels.iter().find(|(key, _)| key == name).unwrap().1.clone();
        let known = |value: String| if value.is_empty() { "unknown".to_owned() } else { value };
        prop_assert_eq!(value, 1.0);
        prop_assert_eq!(label("source_workload"), known(owner));
        prop_assert_eq!(label("source_cluster"), known(cluster));
        prop_assert_eq!(label("destination_service"), known(hostname));
        prop_assert_eq!(label("source_principal"), "spiffe://cluster.local/ns/a\"\\\nb/sa/sa");
    }
}
