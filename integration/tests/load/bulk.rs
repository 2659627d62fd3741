//! Bulk: every byte arrives, is counted, and passes beside small writes and over a bad network.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{PodSpec, Serve, Stage, fault::Loss};

use crate::{MIB, pair};

const GIB: u64 = 1 << 30;

pub(crate) fn a_gibibyte_each_way(stage: &mut Stage) -> Result<()> {
    stage.allow(Duration::from_secs(240));
    let (mesh, client, server) = pair(stage, &[])?;
    let source = server.serve(1, Serve::Source(GIB))?;
    let sink = server.serve(2, Serve::Sink)?;
    let both = server.serve(3, Serve::Exchange(GIB))?;
    let wire = mesh.bed().wire()?;
    client.download(source.v4(), GIB).context("down")?;
    client.upload(sink.v6(), GIB).context("up")?;
    client.exchange(both.v4(), GIB).context("both ways")?;
    let seen = wire.seen()?;
    // A capture that missed packets still proves that none it saw was in clear; what it missed is proved by the checks.
    ensure!(seen.clear.payload == 0 && seen.tunnel.payload > GIB, "{seen}");
    for ended in [&source, &sink, &both].map(|server| server.wait_ended(1, Duration::from_secs(5))) {
        let ended = ended?;
        ensure!(ended.outcome.is_ok(), "{ended:?}");
    }
    for (index, reporter) in ["source", "destination"].into_iter().enumerate() {
        for (port, up, down) in [(1, 0, GIB), (2, GIB, 8), (3, GIB, GIB)] {
            let flow = mesh.node(index).wait_flow(Duration::from_secs(5), |flow| {
                flow.reporter == reporter && flow.destination_address.is_some_and(|at| at.port() == port)
            })?;
            ensure!((flow.bytes_sent, flow.bytes_received) == (up, down), "{flow}");
        }
    }
    Ok(())
}

pub(crate) fn bulk_on_every_path_at_once(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 128 * MIB;
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let mut ways = Vec::new();
    for (path, caller, spec) in [
        ("tunnel", &client, PodSpec::new("shop/far").on(1)),
        ("same-node", &client, PodSpec::new("shop/near").on(0)),
        ("plaintext", &client, PodSpec::new("legacy/far").on(1).outside_the_mesh()),
        ("plaintext", &stranger, PodSpec::new("shop/entered").on(1)),
    ] {
        ways.push((path, caller, mesh.pod(spec)?.serve(7, Serve::Exchange(SIZE))?));
    }
    mesh.start()?;
    thread::scope(|scope| {
        let all: Vec<_> = ways
            .iter()
            .map(|(path, caller, server)| {
                let context = move || format!("on path {path}");
                scope.spawn(move || caller.exchange(server.v4(), SIZE).with_context(context))
            })
            .collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("it panicked")).map(drop))
    })?;
    for (path, caller, server) in &ways {
        let ended = server.wait_ended(1, Duration::from_secs(5))?;
        ensure!(ended.outcome.is_ok() && (ended.sent, ended.received) == (SIZE, SIZE), "{ended:?}");
        let node = mesh.node(if caller.in_mesh() { 0 } else { 1 });
        let flow =
            node.wait_flow(Duration::from_secs(5), |flow| flow.destination_address == Some(server.v4()))?;
        ensure!(flow.path == *path && (flow.bytes_sent, flow.bytes_received) == (SIZE, SIZE), "{flow:#?}");
    }
    Ok(())
}

pub(crate) fn bulk_crosses_a_bad_network(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 16 * MIB;
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let far = mesh.pod(PodSpec::new("shop/far").on(1))?.serve(7, Serve::Exchange(SIZE))?;
    let outside =
        mesh.pod(PodSpec::new("legacy/far").on(1).outside_the_mesh())?.serve(7, Serve::Exchange(SIZE))?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    // Only what the other node sends is seen before it is lost: some 450 packets, so that none is lost in one of a million runs.
    let _loss = Loss::one_in(mesh.bed(), 0, 30)?;
    for to in [far.v4(), outside.v6()] {
        client.exchange(to, SIZE).with_context(|| format!("to {to}"))?;
        let seen = wire.take()?;
        ensure!(seen.tunnel.payload + seen.clear.payload > 2 * SIZE, "nothing was sent again:\n{seen}");
    }
    for server in [&far, &outside] {
        let ended = server.wait_ended(1, Duration::from_secs(5))?;
        ensure!(ended.outcome.is_ok() && ended.received == SIZE, "{ended:?}");
    }
    Ok(())
}

pub(crate) fn small_writes_beside_bulk(stage: &mut Stage) -> Result<()> {
    const WRITES: usize = 20_000;
    const WRITERS: usize = 4;
    let (mesh, client, server) = pair(stage, &["--cores", "1"])?;
    let echo = server.serve(7, Serve::Echo)?;
    let source = server.serve(1, Serve::Source(256 * MIB))?;
    let sink = server.serve(2, Serve::Sink)?;
    thread::scope(|scope| -> Result<()> {
        let mut bulk = vec![scope.spawn(|| client.download(source.v4(), 256 * MIB).map(drop))];
        bulk.push(scope.spawn(|| client.upload(sink.v4(), 256 * MIB).map(drop)));
        for _ in 0..WRITERS {
            bulk.push(scope.spawn(|| {
                let mut conn = client.connect(echo.v4())?;
                for _ in 0..WRITES / 100 {
                    // 100 packets on their way at a time, each of one byte.
                    (0..100).try_for_each(|_| conn.send(b"x"))?;
                    conn.receive(100)?;
                }
                conn.finish()?;
                conn.expect_end()
            }));
        }
        for each in bulk {
            each.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    let retired = mesh.node(0).metrics()?.sum("aquifer_tunnels_retired_total", &[]);
    ensure!(retired == 0.0, "{retired} tunnels were put out of use");
    ensure!(
        mesh.node(0).flows()?.iter().all(|flow| flow.verdict == "allowed"),
        "{:#?}",
        mesh.node(0).flows()?
    );
    Ok(())
}
