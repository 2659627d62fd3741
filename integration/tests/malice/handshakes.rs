//! Peers that never become a tunnel: garbage, foreign certificates, silence.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use aquifer_integration::{CallError, Serve, Stage, fault::CutBy, wait_for};
use aquifer_pki::Validity;

use super::{PROXY_PORTS, SOON, credentials, raw::RawTunnel, scene};

/// Longer than the handshake's deadline of 10 s.
const HANDSHAKE_OVER: Duration = Duration::from_secs(14);

pub(crate) fn garbage_is_refused_on_each_port(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    for port in PROXY_PORTS {
        for ip in scene.server.addresses() {
            let treated = match scene.attacker.send_garbage((ip, port).into(), SOON) {
                // Not even taken.
                Err(CallError::Refused) if port != 15008 => continue,
                treated => treated?,
            };
            ensure!(treated.end.is_some(), "garbage on port {port} keeps a connection open: {treated:?}");
            ensure!(treated.after < Duration::from_secs(5), "port {port} took {:?}", treated.after);
        }
    }
    let to: SocketAddr = (scene.server.v4(), 15008).into();
    let http = scene.attacker.http_get(to);
    ensure!(http.is_err(), "plaintext HTTP was answered on 15008: {http:?}");
    let flow = scene.refusal("not-tls")?;
    ensure!(flow.hop == "tls" && flow.source_identity.is_empty() && flow.source_pod == "attacker", "{flow}");
    ensure!(flow.destination_pod == "server" && !flow.error.is_empty() && !flow.tls, "{flow}");
    ensure!(scene.echo.accepted() == 0, "garbage reached an application");
    scene.all_is_well()
}

pub(crate) fn no_certificate_of_others_is_taken(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let (ours, hour) = (scene.mesh.ca_dir(), Duration::from_secs(3600));
    let now = SystemTime::now();
    let (past, future) = (now - hour, now + hour);
    let own = scene.attacker.identity();
    let expired = Validity { not_before: past - hour, not_after: past };
    let early = Validity { not_before: future, not_after: future + hour };
    let foreign = own.replace("cluster.local", "evil.example");
    let cases = [
        ("no-certificate", None),
        ("unknown-root", Some(credentials::issue(&stage.dir().join("strange-ca"), &own)?)),
        ("foreign-trust-domain", Some(credentials::issue(&ours, &foreign)?)),
        ("certificate-expired", Some(credentials::issue_for(&ours, &own, expired)?)),
        ("certificate-not-yet-valid", Some(credentials::issue_for(&ours, &own, early)?)),
    ];
    for (reason, credentials) in &cases {
        scene.mesh.node(1).forget_flows()?;
        let dialled =
            RawTunnel::dial(&scene.attacker, (scene.server.v4(), 15008).into(), credentials.as_ref());
        ensure!(dialled.is_err(), "a tunnel was opened in spite of {reason}");
        let flow = scene.mesh.node(1).wait_flow(SOON, |flow| !flow.is_source())?;
        ensure!(flow.verdict == "failed" && flow.hop == "tls" && flow.reason == *reason, "{reason}: {flow}");
        ensure!(flow.source_identity.is_empty() && flow.source_pod == "attacker", "{reason}: {flow}");
        ensure!(
            !flow.error.is_empty() && !flow.error.contains("OtherError"),
            "not for people: {}",
            flow.error
        );
    }
    ensure!(scene.echo.accepted() == 0, "an application was reached");
    scene.all_is_well()
}

pub(crate) fn silence_blocks_nobody(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let to: SocketAddr = (scene.server.v4(), 15008).into();
    // The head of a TLS record of 512 bytes with a ClientHello, which never comes.
    let half_hello: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let silent: Vec<_> = (0..200).map(|_| scene.attacker.connect(to)).collect::<Result<_, _>>()?;
    let mut stuck: Vec<_> = (0..200).map(|_| scene.attacker.connect(to)).collect::<Result<_, _>>()?;
    stuck.iter_mut().try_for_each(|conn| conn.send(half_hello))?;

    let start = Instant::now();
    let http = scene.server.serve(80, Serve::Http)?;
    let load = scene.client.load(http.v4(), 4, 50);
    load.wait_for_more(100, SOON)?;
    let slow = scene.attacker.send_slowly(to, &half_hello.repeat(20), SOON / 100, HANDSHAKE_OVER)?;
    ensure!(slow.end.is_some(), "a hello without an end is waited for beyond {:?}", slow.after);
    let report = load.finish();
    report.expect_no_failure(100)?;
    ensure!(report.percentile(99.0) < Duration::from_secs(1), "p99 is {:?}", report.percentile(99.0));

    for (count, conn) in silent.iter().chain(&stuck).enumerate() {
        let mut conn = std::io::BufReader::new(conn.stream());
        let mut byte = [0];
        let end = std::io::Read::read(&mut conn, &mut byte);
        let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(reset || matches!(end, Ok(0)), "silent connection {count} stands: {end:?}");
    }
    ensure!(start.elapsed() < Duration::from_secs(25), "they stood for {:?}", start.elapsed());
    wait_for("a record of each of 400 silent connections", SOON, || {
        let flows = scene.mesh.node(1).flows()?;
        let timed_out = flows.iter().filter(|flow| flow.reason == "handshake-timeout").count();
        Ok((timed_out >= 400).then_some(()))
    })?;
    ensure!(!matches!(slow.end, Some(CutBy::Error(ref error)) if !error.is_cut()), "{slow:?}");
    scene.all_is_well()
}
