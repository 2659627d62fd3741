//! The whole exposition against the table of metrics.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};

use super::*;
use crate::testing::{HandClock, parse, start, telemetry};
use crate::{Closer, Counted, FlowEnd, Kind, LogFormat, METRICS, SourceKind};

fn identity() -> Identity {
    Identity::new(TrustDomain::default(), "shop", "api")
}

/// Uses every instrument once.
fn use_everything(telemetry: &Telemetry) -> [Counted; 3] {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    telemetry.pool().dialled(Duration::from_millis(1_500));
    telemetry.pool().dial_failed("refused");
    telemetry.pool().stream_failed("reset");
    telemetry.pool().retired("idle");
    telemetry.certificates().holds(&identity(), end);
    telemetry.certificates().issued(false);
    telemetry.certificates().issued(true);
    telemetry.certificates().failed("authority-away");
    telemetry.certificates().roots(2);
    telemetry.enrolment().desired(3);
    telemetry.enrolment().failed("no-netns");
    telemetry.enrolment().repaired("rules");
    telemetry.policy().denied("deny-policy");
    telemetry.policy().audited();
    telemetry.policy().rechecked(17);
    telemetry.policy().cut("strict-mtls");
    telemetry.source().objects(SourceKind::Pod, 8);
    telemetry.source().problems(1);
    telemetry.source().reloaded(end);
    telemetry.source().failed("parse");
    telemetry.buffers().held(100, 1_000);
    telemetry.buffers().shed(1);
    telemetry.workers().restarts(4);
    telemetry.controller().refused("not-allowed");
    telemetry.controller().leads(true);
    telemetry.controller().policy_refused("AuthorizationPolicy", "denies");
    telemetry.controller().status_written("written");
    telemetry.controller().untainted("written");
    telemetry.controller().event("written");
    [telemetry.pool().tunnel(), telemetry.pool().stream(), telemetry.enrolment().enrolled()]
}

#[test]
fn what_is_exported_is_what_the_table_declares() {
    let (_, log) = crate::logging::captured(LogFormat::Json, "", Box::new(std::io::sink()), 1);
    let telemetry = telemetry(TelemetryConfig { log: Some(log), ..TelemetryConfig::default() });
    let _guards = use_everything(&telemetry);
    telemetry.flow(start()).finish(FlowEnd::carried(Closer::Source));
    let families = parse(&telemetry.render());
    let exported: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    let declared: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(exported, declared);
    for metric in METRICS {
        let family = &families[metric.name];
        assert_eq!(family.help, metric.help, "{}", metric.name);
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        assert_eq!(family.kind, kind, "{}", metric.name);
        assert!(!family.samples.is_empty(), "{} has no sample", metric.name);
        for (labels, _) in &family.samples {
            let names: Vec<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, metric.labels, "{}", metric.name);
        }
    }
}

#[test]
fn instruments_export_what_they_were_given() {
    let telemetry = telemetry(TelemetryConfig::default());
    let guards = use_everything(&telemetry);
    let families = parse(&telemetry.render());
    let value = |metric: &str, labels: &[(&str, &str)]| families[metric].sum(labels);
    assert_eq!(value("aquifer_tunnels", &[]), 1.0);
    assert_eq!(value("aquifer_tunnel_streams", &[]), 1.0);
    assert_eq!(value("aquifer_tunnel_dial_seconds_total", &[]), 1.5);
    assert_eq!(value("aquifer_tunnel_dial_failures_total", &[("reason", "refused")]), 1.0);
    let expiry = [("identity", "spiffe://cluster.local/ns/shop/sa/api")];
    assert_eq!(value("aquifer_certificate_expiry_timestamp_seconds", &expiry), 4e9);
    assert_eq!(value("aquifer_certificates_issued_total", &[("kind", "renewal")]), 1.0);
    assert_eq!(value("aquifer_policy_rechecks_total", &[]), 17.0);
    assert_eq!(value("aquifer_source_objects", &[("kind", "Pod")]), 8.0);
    assert_eq!(value("aquifer_source_last_reload_timestamp_seconds", &[]), 4e9);
    assert_eq!(value("aquifer_buffered_bytes", &[]), 100.0);
    assert_eq!(value("aquifer_buffered_bytes_limit", &[]), 1_000.0);
    assert_eq!(value("aquifer_worker_restarts_total", &[]), 4.0);
    let build = [("version", env!("CARGO_PKG_VERSION")), ("role", "node")];
    assert_eq!(value("aquifer_build_info", &build), 1.0);
    drop(guards);
    telemetry.certificates().forgotten(&identity());
    let families = parse(&telemetry.render());
    assert_eq!(families["aquifer_tunnels"].sum(&[]), 0.0);
    assert_eq!(families["aquifer_pods_enrolled"].sum(&[]), 0.0);
    assert!(families["aquifer_certificate_expiry_timestamp_seconds"].samples.is_empty());
}

#[test]
fn standing_metrics_outlive_the_flow_series() {
    let hand = HandClock::new();
    let telemetry = telemetry(TelemetryConfig { clock: hand.clock(), ..TelemetryConfig::default() });
    telemetry.enrolment().desired(3);
    telemetry.flow(start()).finish(FlowEnd::carried(Closer::Source));
    hand.advance(Duration::from_secs(24 * 3_600));
    let families = parse(&telemetry.render());
    assert!(families["istio_tcp_connections_opened_total"].samples.is_empty());
    assert_eq!(families["aquifer_pods_desired"].sum(&[]), 3.0);
    assert_eq!(families["aquifer_build_info"].samples.len(), 1);
}

#[test]
fn two_in_one_process_share_nothing() {
    let (one, two) = (telemetry(TelemetryConfig::default()), telemetry(TelemetryConfig::default()));
    one.policy().rechecked(5);
    assert_eq!(parse(&one.render())["aquifer_policy_rechecks_total"].sum(&[]), 5.0);
    assert_eq!(parse(&two.render())["aquifer_policy_rechecks_total"].sum(&[]), 0.0);
}

#[test]
fn certificates_past_the_limit_are_one_sample_with_the_earliest_end() {
    let telemetry = telemetry(TelemetryConfig::default());
    for number in 0..1_500_u64 {
        let identity = Identity::new(TrustDomain::default(), "shop", format!("sa-{number:04}"));
        telemetry
            .certificates()
            .holds(&identity, SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 - number));
    }
    let families = parse(&telemetry.render());
    let family = &families["aquifer_certificate_expiry_timestamp_seconds"];
    assert_eq!(family.samples.len(), 1_001);
    assert_eq!(family.sum(&[("identity", "other")]), 8_501.0);
}
