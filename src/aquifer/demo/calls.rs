//! Calls from pod to pod, measured by the clients and told by the nodes' flow records.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aquifer_integration::{Conn, FlowRecord, Pod, Seen as Crossed};

use super::stage::{ECHO, HTTP, Stage};
use super::story::{Seen, Story};
use crate::table::{Table, bytes, time};

/// Requests or round trips per call, on one connection: a median of fewer jumps about.
const ROUNDS: usize = 300;

/// Connections that are opened at most until the Service leads to the replica that is wanted; each has an even chance.
const TOSSES: usize = 200;

/// What must not be readable between the nodes.
const SECRET: &str = "card=4111-1111-1111-1111";

/// The medians of the calls without the mesh, in the order of [`planned`].
pub(super) type Baseline = Vec<Duration>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Raw,
}

/// A call, and how it must go in the mesh.
struct Planned<'a> {
    from: &'a Pod,
    to: &'a Pod,
    by_service: bool,
    protocol: Protocol,
    path: &'static str,
    /// Rule of the servers' policy that must allow it; `None` where nobody is asked.
    rule: Option<usize>,
}

/// What the client saw of a call.
struct Measured {
    median: Duration,
    local: SocketAddr,
}

fn planned(stage: &Stage) -> [Planned<'_>; 5] {
    let (client, outside, [near, far]) = (&stage.client, &stage.outside, &stage.web);
    let http = |from, to, by_service, path, rule| Planned {
        from,
        to,
        by_service,
        protocol: Protocol::Http,
        path,
        rule,
    };
    [
        http(client, far, true, "tunnel", Some(0)),
        http(client, near, true, "same-node", Some(0)),
        Planned {
            from: client,
            to: far,
            by_service: false,
            protocol: Protocol::Raw,
            path: "tunnel",
            rule: Some(0),
        },
        http(outside, far, false, "plaintext", Some(1)),
        http(client, outside, false, "plaintext", None),
    ]
}

impl Planned<'_> {
    fn direct(&self) -> SocketAddr {
        (self.to.ip(), if self.protocol == Protocol::Http { HTTP } else { ECHO }).into()
    }

    /// Opens a connection that leads to the pod that is wanted, and makes the first call on it.
    fn open(&self, stage: &Stage, address: SocketAddr) -> Result<Conn> {
        for _ in 0..TOSSES {
            stage.stop.check()?;
            let mut conn = self.from.connect(address)?;
            if self.protocol == Protocol::Raw {
                conn.ping()?;
                return Ok(conn);
            }
            let reply = conn.get("/")?;
            ensure!(reply.status == 200, "status {}", reply.status);
            let seen = reply.client.map(|client| client.ip());
            ensure!(seen == Some(self.from.ip()), "the application saw the client as {seen:?}");
            if reply.pod == self.to.full_name() {
                return Ok(conn);
            }
        }
        bail!("{TOSSES} connections, and none led to {}", self.to.full_name())
    }

    /// Makes the calls, one after the other; ends the connection.
    fn measure(&self, mut conn: Conn) -> Result<Measured> {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            match self.protocol {
                Protocol::Http => conn.get("/").map(drop)?,
                Protocol::Raw => conn.ping()?,
            }
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(Measured { median: times[ROUNDS / 2], local: conn.local()? })
    }

    fn name(&self, address: SocketAddr) -> String {
        format!("{} calls {address}", self.from.full_name())
    }

    fn row(&self, stage: &Stage, record: &FlowRecord, measured: &Measured, before: Duration) -> Vec<String> {
        let port = self.direct().port();
        let called = match self.by_service {
            true => format!("svc/web:{} = {}", stage.service().port(), self.to.name()),
            false => format!("{}:{port}", self.to.name()),
        };
        let identities = match (&record.source_identity, &record.destination_identity) {
            (from, _) if from.is_empty() => "none".to_owned(),
            (from, to) if to.is_empty() || record.path == "plaintext" => {
                format!("{} > none", short_identity(from))
            }
            (from, to) => format!("{} > {}", short_identity(from), short_identity(to)),
        };
        let by = match record.policy.strip_prefix("AuthorizationPolicy ") {
            Some(rule) => rule.to_owned(),
            None => "not asked".to_owned(),
        };
        vec![
            self.from.name().to_owned(),
            called,
            if self.protocol == Protocol::Http { "HTTP" } else { "TCP" }.to_owned(),
            record.path.clone(),
            identities,
            record.verdict.clone(),
            by,
            bytes(record.bytes_sent),
            bytes(record.bytes_received),
            time(measured.median),
            time(before),
        ]
    }

    /// What of the record is not as it must be.
    fn complaints(&self, record: &FlowRecord) -> Vec<String> {
        let rule =
            self.rule.map_or_else(String::new, |rule| format!("AuthorizationPolicy shop/web rule {rule}"));
        let tunnelled = self.path != "plaintext";
        let source = if tunnelled { self.from.identity() } else { String::new() };
        let mut wrong = Vec::new();
        let mut expect = |what: &str, found: &str, wanted: &str| {
            if found != wanted {
                wrong.push(format!("{what} is {found:?} instead of {wanted:?}: {record}"));
            }
        };
        expect("path", &record.path, self.path);
        expect("verdict", &record.verdict, "allowed");
        if self.rule.is_some() {
            expect("the deciding rule", &record.policy, &rule);
            expect("the caller's identity", &record.source_identity, &source);
        }
        expect("mutual TLS", &record.tls.to_string(), &(self.path == "tunnel").to_string());
        wrong
    }
}

/// The calls by pod address before any node process runs.
pub(super) fn before(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let calls = planned(stage);
    let median = |call: &Planned<'_>| {
        let address = call.direct();
        let measured = call.open(stage, address).and_then(|conn| call.measure(conn));
        Ok(measured.with_context(|| call.name(address))?.median)
    };
    story.baseline = calls.iter().map(median).collect::<Result<_>>()?;
    let wire = stage.mesh.bed().wire_with_marker(SECRET.as_bytes())?;
    tell_secret(stage)?;
    let seen = wire.seen()?;
    ensure!(seen.missed == 0 && seen.marked > 0, "the secret should have been readable on the wire:\n{seen}");
    let [tunnel, near, ..] = &story.baseline[..] else { bail!("calls are missing") };
    let text = format!(
        "{} kinds of calls answered; median {} between nodes, {} on one node; \"{SECRET}\" was readable in {} packets between \
         the nodes",
        calls.len(),
        time(*tunnel),
        time(*near),
        seen.marked,
    );
    Ok(text.into())
}

/// The same calls once the pods are in the mesh.
pub(super) fn within(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let (mut rows, mut unexpected) = (Vec::new(), Vec::new());
    for (call, before) in planned(stage).iter().zip(&story.baseline) {
        let address = if call.by_service { stage.service() } else { call.direct() };
        let conn = call.open(stage, address).with_context(|| call.name(address))?;
        let wire = stage.mesh.bed().wire()?;
        let measured = call.measure(conn).with_context(|| call.name(address))?;
        // The client's own record carries its port; the bytes then tell the record of the other side.
        let own = if call.from.in_mesh() {
            let node = stage.mesh.node(call.from.node());
            let is_own = |flow: &FlowRecord| flow.is_source() && flow.source_address == Some(measured.local);
            Some(node.wait_flow(super::stage::PATIENCE, is_own)?)
        } else {
            None
        };
        let same = |flow: &FlowRecord| match &own {
            Some(own) => (flow.bytes_sent, flow.bytes_received) == (own.bytes_sent, own.bytes_received),
            None => flow.source_address == Some(measured.local),
        };
        let record = stage.record(call.from, call.to, same)?;
        unexpected.extend(call.complaints(&record));
        rows.push(call.row(stage, &record, &measured, *before));
        let seen = wire.seen()?;
        let carried = record.bytes_sent + record.bytes_received;
        let proof = match call.path {
            "tunnel" => seen.expect_only_tunnels(carried),
            "same-node" => stays_inside(&seen, carried),
            _ => Ok(()),
        };
        unexpected.extend(proof.err().map(|error| format!("{error:#}")));
    }
    let wire = stage.mesh.bed().wire_with_marker(SECRET.as_bytes())?;
    tell_secret(stage)?;
    let seen = wire.seen()?;
    unexpected.extend(seen.expect_only_tunnels(SECRET.len() as u64).err().map(|error| format!("{error:#}")));
    let text = format!(
        "{ROUNDS} round trips a line on one connection; identities are short for spiffe://cluster.local/ns/shop/sa/…; the \
         secret again: readable in {} packets, {} bytes crossed on port 15008 and {} elsewhere",
        seen.marked, seen.tunnel.payload, seen.clear.payload,
    );
    let heading = vec![
        "CALLER",
        "CALLED",
        "WITH",
        "PATH",
        "IDENTITIES",
        "VERDICT",
        "BY RULE",
        "SENT",
        "BACK",
        "MEDIAN",
        "NO MESH",
    ];
    Ok(Seen { text, table: Some(Table { heading, numbers: 4, rows }), unexpected })
}

/// Proves that a call did not cross. Tunnels that stand between the nodes say a few bytes of their own now and then.
fn stays_inside(seen: &Crossed, carried: u64) -> Result<()> {
    ensure!(seen.missed == 0, "the capture missed {} packets, so it proves nothing", seen.missed);
    let crossed = seen.clear.payload + seen.tunnel.payload;
    ensure!(crossed < carried / 10, "of a call within one node {crossed} bytes crossed:\n{seen}");
    Ok(())
}

/// One request from node to node that carries the secret.
fn tell_secret(stage: &Stage) -> Result<()> {
    let to = (stage.web[1].ip(), HTTP).into();
    let reply = stage.client.connect(to)?.get(&format!("/pay?{SECRET}"))?;
    ensure!(reply.status == 200, "the request with the secret was answered {}", reply.status);
    Ok(())
}

/// The service account of an identity of namespace `shop`, or all of another.
fn short_identity(identity: &str) -> &str {
    identity.strip_prefix("spiffe://cluster.local/ns/shop/sa/").unwrap_or(identity)
}

/// Enough of a serial number to tell it from others.
pub(super) fn short_serial(serial: &str) -> &str {
    serial.get(..8).unwrap_or(serial)
}
