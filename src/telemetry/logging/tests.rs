//! Lines of both formats, the filter, and the queue.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde_json::{Map, Value};
use tracing::{info, subscriber::with_default, warn};

use super::*;
use crate::testing::{HandClock, Taken, peer, start, stranger, telemetry};
use crate::{Closer, FIELDS, FlowEnd, FlowStart, Hop, Path, Reporter, TelemetryConfig};

const SOON: Duration = Duration::from_secs(30);

/// What `work` writes to a log of its own.
fn written(format: LogFormat, filter: &str, work: impl FnOnce()) -> String {
    let taken = Taken::default();
    let (subscriber, log) = captured(format, filter, Box::new(taken.clone()), 100);
    with_default(subscriber, work);
    assert!(log.flush(SOON), "the writer does not write");
    assert_eq!(log.dropped(), Dropped::default());
    taken.text()
}

/// The one record of a connection that moved 5 bytes there and 7 back in 1.5 seconds.
fn record(format: LogFormat, start: FlowStart, end: FlowEnd) -> String {
    let hand = HandClock::new();
    let telemetry = telemetry(TelemetryConfig { clock: hand.clock(), ..TelemetryConfig::default() });
    written(format, "", || {
        let flow = telemetry.flow(start);
        flow.sent(5);
        flow.received(7);
        hand.advance(Duration::from_millis(1_500));
        flow.finish(end);
    })
}

fn json(line: &str) -> Map<String, Value> {
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(line).unwrap()
}

fn denied() -> FlowEnd {
    FlowEnd {
        hop: Some(Hop::Peer),
        ..FlowEnd::denied(
            "deny-policy",
            "denied by a rule",
            Some("AuthorizationPolicy shop/deny-web rule 0".to_owned()),
        )
    }
}

#[test]
fn a_record_in_json_is_flat_and_has_every_declared_field() {
    let line = record(LogFormat::Json, start(), denied());
    let expected = "\"level\":\"INFO\",\"target\":\"flow\",\"connection\":1,\"reporter\":\"source\",\
        \"direction\":\"outbound\",\"path\":\"tunnel\",\"verdict\":\"denied\",\"reason\":\"deny-policy\",\
        \"policy\":\"AuthorizationPolicy shop/deny-web rule 0\",\"source_address\":\"10.0.0.1:40000\",\
        \"source_workload\":\"web\",\"source_pod\":\"web-1\",\"source_namespace\":\"front\",\
        \"source_identity\":\"spiffe://cluster.local/ns/front/sa/sa\",\
        \"destination_address\":\"10.0.1.2:8080\",\"destination_workload\":\"api\",\"destination_pod\":\"api-1\",\
        \"destination_namespace\":\"shop\",\"destination_identity\":\"spiffe://cluster.local/ns/shop/sa/sa\",\
        \"destination_service\":\"api.shop.svc.cluster.local\",\"original_destination\":\"10.96.0.10:80\",\
        \"bytes_sent\":5,\"bytes_received\":7,\"duration_ms\":1500.0,\"closed_by\":\"proxy\",\"tls\":true,\
        \"hop\":\"peer\",\"error\":\"denied by a rule\",\"advice\":\"";
    let (head, rest) = line.split_once(',').unwrap();
    assert!(rest.starts_with(expected), "{line}");
    let time = head.strip_prefix("{\"timestamp\":\"").and_then(|head| head.strip_suffix('"')).unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z') && time.len() == 27, "{time}");
    let object = json(&line);
    for field in FIELDS {
        assert!(object.contains_key(field.name), "{} is declared and not written", field.name);
    }
    assert_eq!(object.len(), FIELDS.len() + 3, "something is written and not declared: {line}");
}

#[test]
fn what_does_not_apply_is_left_out_of_a_record() {
    let line = record(LogFormat::Json, stranger(), FlowEnd::carried(Closer::Destination));
    let object = json(&line);
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "bytes_received",
        "bytes_sent",
        "closed_by",
        "connection",
        "direction",
        "duration_ms",
        "level",
        "path",
        "reporter",
        "target",
        "timestamp",
        "tls",
        "verdict",
    ];
    assert_eq!(keys, expected);
    assert_eq!(object["direction"], "inbound");
    assert_eq!(object["closed_by"], "destination");
    assert_eq!(object["tls"], false);
}

#[test]
fn a_peer_known_by_identity_alone_still_has_its_namespace() {
    let source = crate::Peer { workload: None, ..peer("front", "web", "web-1", "10.0.0.1:1") };
    let end = FlowEnd::carried(Closer::Source);
    let object = json(&record(LogFormat::Json, FlowStart { source, ..start() }, end));
    assert_eq!(object["source_namespace"], "front");
    assert!(!object.contains_key("source_workload"));
}

#[test]
fn a_record_in_text_is_one_sentence_with_all_of_it() {
    let line = record(LogFormat::Text, start(), denied());
    let expected = " INFO  flow: denied outbound front/web-1 of deployment web 10.0.0.1:40000 \
        spiffe://cluster.local/ns/front/sa/sa -> shop/api-1 of deployment api 10.0.1.2:8080 \
        spiffe://cluster.local/ns/shop/sa/sa (called api.shop.svc.cluster.local at 10.96.0.10:80) by tunnel with \
        mutual TLS, 5 B sent, 7 B received, 1500 ms, closed by proxy, reason deny-policy, decided by \
        AuthorizationPolicy shop/deny-web rule 0, at hop peer: denied by a rule; a DENY rule matches this caller; \
        change the rule named here if the call is legitimate [source 1]\n";
    assert_eq!(line.split_once('Z').unwrap().1, expected);
}

#[test]
fn text_from_outside_never_begins_a_line_of_its_own() {
    let hostile = "reset\n2026-01-01 INFO flow: allowed \u{1b}[31m\r\u{85}";
    let end = || FlowEnd::failed(Hop::Destination, "reset", hostile);
    let text = record(LogFormat::Text, start(), end());
    assert_eq!(text.chars().filter(|c| c.is_control()).count(), 1, "{text:?}");
    assert!(text.contains("reset\\n2026"), "{text:?}");
    let object = json(&record(LogFormat::Json, start(), end()));
    assert_eq!(object["error"], hostile);
}

#[test]
fn long_values_are_cut() {
    let end = || FlowEnd::failed(Hop::Destination, "reset", "ä".repeat(100_000));
    for format in [LogFormat::Text, LogFormat::Json] {
        let line = record(format, start(), end());
        assert!(line.len() < 8_192 && line.contains('…'), "{} bytes", line.len());
    }
}

#[test]
fn a_dropped_flow_is_recorded_as_aborted() {
    let telemetry = telemetry(TelemetryConfig::default());
    let line = written(LogFormat::Json, "", || drop(telemetry.flow(start())));
    let object = json(&line);
    assert_eq!((&object["verdict"], &object["reason"]), (&Value::from("failed"), &Value::from("aborted")));
    assert!(object.contains_key("advice"));
}

#[test]
fn failures_say_what_to_do_at_each_hop() {
    for path in [Path::Tunnel, Path::SameNode, Path::Plaintext, Path::Passthrough] {
        for hop in [Hop::Application, Hop::Dial, Hop::Tls, Hop::Tunnel, Hop::Peer, Hop::Destination] {
            let end = FlowEnd::failed(hop, "some-code", "detail");
            let object = json(&record(LogFormat::Json, FlowStart { path, ..start() }, end));
            assert!(object["advice"].as_str().unwrap().len() > 20, "{path:?} {hop:?}");
        }
    }
}

#[test]
fn the_rule_that_allowed_is_in_the_record() {
    let telemetry = telemetry(TelemetryConfig::default());
    let line = written(LogFormat::Json, "", || {
        let mut flow = telemetry.flow(FlowStart { reporter: Reporter::Destination, ..start() });
        flow.set_policy(Some("AuthorizationPolicy shop/allow-web rule 1".to_owned()));
        flow.finish(FlowEnd::carried(Closer::Source));
    });
    assert_eq!(json(&line)["policy"], "AuthorizationPolicy shop/allow-web rule 1");
}

#[test]
fn ordinary_events_have_a_message_and_their_fields() {
    let event =
        || warn!(target: "aquifer", pod = "shop/api-1", tries = 3, error = %"no \"route\"", "not enrolled");
    let object = json(&written(LogFormat::Json, "", event));
    assert_eq!(object["message"], "not enrolled");
    assert_eq!((&object["level"], &object["target"]), (&Value::from("WARN"), &Value::from("aquifer")));
    assert_eq!((&object["tries"], &object["error"]), (&Value::from(3), &Value::from("no \"route\"")));
    let line = written(LogFormat::Text, "", event);
    let expected = " WARN  aquifer: not enrolled pod=\"shop/api-1\" tries=3 error=no \"route\"\n";
    assert_eq!(line.split_once('Z').unwrap().1, expected);
}

#[test]
fn the_filter_is_honoured_and_changes_at_run_time() {
    let taken = Taken::default();
    let (subscriber, log) = captured(LogFormat::Json, "warn,flow=info", Box::new(taken.clone()), 100);
    let telemetry = telemetry(TelemetryConfig::default());
    let call = || telemetry.flow(start()).finish(FlowEnd::carried(Closer::Source));
    with_default(subscriber, || {
        info!("first");
        call();
        log.set_filter("info,flow=off").unwrap();
        info!("second");
        call();
        let error = log.set_filter("info,flow=nonsense").unwrap_err().to_string();
        assert!(error.contains("flow=nonsense"), "{error}");
        assert!(log.set_filter(&"a,".repeat(1_000)).is_err());
        assert!(log.filter().contains("flow=off"), "a wrong filter changes nothing: {}", log.filter());
    });
    assert!(log.flush(SOON));
    let text = taken.text();
    assert!(!text.contains("first") && text.contains("second"), "{text}");
    assert_eq!(text.matches("\"target\":\"flow\"").count(), 1, "{text}");
}

/// A standard output that nobody reads until the gate opens.
struct Stalled {
    gate: Receiver<()>,
    taken: Taken,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the gate's other half is gone it stays open.
        let _ = self.gate.recv();
        self.taken.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stalled(capacity: usize) -> (Queue, SyncSender<()>, Taken) {
    let (open, gate) = sync_channel(1);
    let taken = Taken::default();
    let out = Stalled { gate, taken: taken.clone() };
    (Queue::start(Box::new(out), capacity).unwrap(), open, taken)
}

#[test]
fn a_stopped_reader_holds_up_nobody_and_each_lost_line_is_counted() {
    let (queue, open, taken) = stalled(100);
    for number in 0..10_000 {
        let kind = if number % 2 == 0 { LineKind::Flow } else { LineKind::Log };
        queue.push(kind, format!("{number}\n").into_bytes());
    }
    // All pushes came back while nothing could be written.
    assert!(!queue.flush(Duration::from_millis(1)), "nobody reads, and it is all written?");
    drop(open);
    assert!(queue.flush(SOON));
    let (dropped, written) = (queue.dropped(), taken.text().lines().count() as u64);
    assert_eq!(dropped.flow + dropped.log + written, 10_000);
    assert!(dropped.flow > 4_000 && dropped.log > 4_000 && written >= 100, "{dropped:?} {written}");
}

#[test]
fn no_line_is_lost_below_the_bound() {
    let (queue, open, taken) = stalled(4_000);
    thread::scope(|scope| {
        for thread in 0..4 {
            let queue = queue.clone();
            scope.spawn(move || {
                for number in 0..1_000 {
                    queue.push(LineKind::Flow, format!("{thread} {number}\n").into_bytes());
                }
            });
        }
    });
    drop(open);
    assert!(queue.flush(SOON));
    assert_eq!(queue.dropped(), Dropped::default());
    let text = taken.text();
    for thread in 0..4 {
        let prefix = format!("{thread} ");
        let numbers: Vec<usize> =
            text.lines().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(numbers, (0..1_000).collect::<Vec<_>>(), "order and completeness of thread {thread}");
    }
}

/// A disk that is full for a while.
struct Full {
    failures: usize,
    taken: Taken,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.taken.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_lines_counted_and_whole_then_writing_goes_on() {
    let taken = Taken::default();
    let queue = Queue::start(Box::new(Full { failures: 1, taken: taken.clone() }), 10).unwrap();
    queue.push(LineKind::Flow, b"lost\n".to_vec());
    assert!(queue.flush(SOON));
    queue.push(LineKind::Flow, b"kept\n".to_vec());
    assert!(queue.flush(SOON));
    assert_eq!(queue.dropped(), Dropped { flow: 1, log: 0 });
    assert_eq!(taken.text(), "kept\n");
}
