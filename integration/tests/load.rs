//! Much at once: bulk, crowds, stopped readers, small writes, endpoints that come and go.

use std::{fs, net::IpAddr, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{
    CallError, Conn, Mesh, Pod, PodSpec, Scenario, Serve, ServiceSpec, Stage, manifests::PodState, node,
    wait_for,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

fn main() -> ExitCode {
    if let Some(code) = node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "a_gibibyte_each_way",
            story: "1 GiB down, 1 GiB up, and both at once arrive byte by byte, and are counted to the byte.",
            run: a_gibibyte_each_way,
        },
        Scenario {
            name: "a_thousand_at_once",
            story: "1,000 connections are opened, held and used at once, in tunnels that are far fewer.",
            run: a_thousand_at_once,
        },
        Scenario {
            name: "thousands_in_clear_from_one_address",
            story: "2,000 plaintext connections of one client are held, 2,000 more are opened, and none is slow.",
            run: thousands_in_clear_from_one_address,
        },
        Scenario {
            name: "stopped_readers_stop_nobody",
            story: "20 readers that stopped hold up neither a 21st nor each other, and lose nothing when they go on.",
            run: stopped_readers_stop_nobody,
        },
        Scenario {
            name: "stopped_readers_are_shed_at_the_cap",
            story: "Where 20 stopped readers would pass --buffer-cap, those stopped longest are reset and memory stays under it.",
            run: stopped_readers_are_shed_at_the_cap,
        },
        Scenario {
            name: "stopped_writers_stop_nobody",
            story: "20 uploads into servers that read nothing hold up no 21st, and are reset when their server is.",
            run: stopped_writers_stop_nobody,
        },
        Scenario {
            name: "short_connections_never_run_out",
            story: "Thousands of short connections of one client a path, and none meets an address that is still in use.",
            run: short_connections_never_run_out,
        },
        Scenario {
            name: "endpoints_come_and_go",
            story: "An endpoint that is taken out and one that is added under load cost no request.",
            run: endpoints_come_and_go,
        },
        Scenario {
            name: "small_writes_beside_bulk",
            story: "Tens of thousands of one-byte writes pass beside bulk in the same tunnels, without an end to any.",
            run: small_writes_beside_bulk,
        },
    ])
}

/// A client and a server on two nodes, started.
fn pair(stage: &Stage, args: &[&str]) -> Result<(Mesh, Pod, Pod)> {
    let mut mesh = stage.mesh()?;
    mesh.args(args);
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    mesh.start()?;
    Ok((mesh, client, server))
}

fn a_gibibyte_each_way(stage: &mut Stage) -> Result<()> {
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

fn a_thousand_at_once(stage: &mut Stage) -> Result<()> {
    let (mesh, client, server) = pair(stage, &[])?;
    let echo = server.serve(7, Serve::Echo)?;
    let wire = mesh.bed().wire()?;
    let mut crowd = client.crowd(echo.v4(), 1000)?;
    ensure!(echo.open() == 1000, "{} connections are open at the server", echo.open());
    crowd.ping_all()?;
    wire.seen()?.expect_only_tunnels(4000)?;
    let metrics = mesh.node(0).metrics()?;
    let (tunnels, streams) =
        (metrics.sum("aquifer_tunnels", &[]), metrics.sum("aquifer_tunnel_streams", &[]));
    ensure!(streams == 1000.0 && (10.0..100.0).contains(&tunnels), "{streams} streams in {tunnels} tunnels");
    ensure!(
        mesh.node(1).metrics()?.sum("aquifer_connections", &[("reporter", "destination")]) == 1000.0,
        "lost count"
    );
    drop(crowd);
    wait_for("all connections to be over", Duration::from_secs(10), || {
        let live = |index: usize| {
            Ok::<_, anyhow::Error>(mesh.node(index).metrics()?.sum("aquifer_connections", &[]))
        };
        Ok((echo.open() == 0 && live(0)? == 0.0 && live(1)? == 0.0).then_some(()))
    })
}

fn thousands_in_clear_from_one_address(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    // A connect that meets a 4-tuple in use answers after a retransmission at the earliest, 1 s later.
    const SLOW: Duration = Duration::from_millis(900);
    let mut held = stranger.crowd(echo.v4(), 2000)?;
    ensure!(held.slowest() < SLOW, "of the first 2,000 one took {:?}", held.slowest());
    let mut more = stranger.crowd(echo.v4(), 2000)?;
    ensure!(more.slowest() < SLOW, "of the second 2,000 one took {:?}", more.slowest());
    ensure!(echo.open() == 4000, "{} connections are open at the server", echo.open());
    held.ping_all()?;
    more.ping_all()?;
    let live = mesh.node(1).metrics()?.sum("aquifer_connections", &[("reporter", "destination")]);
    ensure!(live == 4000.0, "{live} connections are counted");
    Ok(())
}

/// Resident memory of a node's workers, in bytes, as the kernel counts it.
fn resident(mesh: &Mesh, index: usize) -> Result<u64> {
    let mut bytes = 0;
    for pid in mesh.node(index).workers() {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        bytes += 1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(bytes)
}

/// Opens so many downloads that nobody reads, and waits until nothing of them moves any more.
fn stop_readers(mesh: &Mesh, client: &Pod, from: std::net::SocketAddr, count: usize) -> Result<Vec<Conn>> {
    let readers = (0..count).map(|_| client.connect(from)).collect::<Result<Vec<_>, _>>()?;
    let wire = mesh.bed().wire()?;
    let mut quiet = 0;
    wait_for("the stopped readers to fill what there is", Duration::from_secs(30), || {
        // An idle tunnel still carries its PINGs.
        quiet = if wire.take()?.tunnel.payload < 64 * 1024 { quiet + 1 } else { 0 };
        Ok((quiet >= 25).then_some(()))
    })?;
    Ok(readers)
}

fn stopped_readers_stop_nobody(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    // Enough for 20 windows of 4 MiB at either node.
    let (mesh, client, server) = pair(stage, &["--buffer-cap", "268435456"])?;
    let source = server.serve(1, Serve::Source(SIZE))?;
    let echo = server.serve(7, Serve::Echo)?;
    let before = [resident(&mesh, 0)?, resident(&mesh, 1)?];
    let readers = stop_readers(&mesh, &client, source.v4(), 20)?;
    let trip = client.round_trips(echo.v4(), 100)?;
    ensure!(trip[99] < Duration::from_millis(500), "a round trip took {:?}", trip[99]);
    client.download(source.v4(), SIZE)?;
    for (index, before) in before.into_iter().enumerate() {
        let grown = resident(&mesh, index)?.saturating_sub(before) / MIB;
        ensure!(grown < 160, "node {index} holds {grown} MiB more for 20 stopped readers");
    }
    for mut reader in readers {
        let all = reader.receive_to_end()?;
        ensure!(all.len() as u64 == SIZE, "a reader that went on got {} bytes", all.len());
    }
    Ok(())
}

fn stopped_readers_are_shed_at_the_cap(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    const CAP: u64 = 32 * MIB;
    let (mesh, client, server) = pair(stage, &["--buffer-cap", &CAP.to_string()])?;
    let source = server.serve(1, Serve::Source(SIZE))?;
    let before = resident(&mesh, 0)?;
    let readers = stop_readers(&mesh, &client, source.v4(), 20)?;
    client.download(source.v4(), SIZE)?;
    let grown = resident(&mesh, 0)?.saturating_sub(before);
    ensure!(grown < CAP + 48 * MIB, "the client's node holds {} MiB more", grown / MIB);
    let reset =
        readers.into_iter().map(|mut reader| reader.receive_to_end()).filter(|end| end.is_err()).count();
    ensure!((1..20).contains(&reset), "{reset} readers of 20 were reset");
    let mut said = (0.0, 0.0, 0.0);
    wait_for("the metrics to tell it", Duration::from_secs(5), || {
        let metrics = mesh.node(0).metrics()?;
        said = (
            metrics.sum("aquifer_streams_shed_total", &[]),
            metrics.sum("aquifer_buffered_bytes", &[]),
            metrics.sum("aquifer_buffered_bytes_limit", &[]),
        );
        Ok((said == (reset as f64, 0.0, CAP as f64)).then_some(()))
    })
    .with_context(|| format!("{reset} readers were reset; shed, buffered and limit are {said:?}"))?;
    let flow = mesh.node(0).wait_flow(Duration::from_secs(5), |flow| flow.verdict == "failed")?;
    ensure!(flow.reason == "reader-stopped" && flow.closed_by == "proxy", "{flow:#?}");
    Ok(())
}

fn stopped_writers_stop_nobody(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    let (mesh, client, server) = pair(stage, &["--buffer-cap", "268435456"])?;
    let deaf = server.serve(1, Serve::Deaf)?;
    let sink = server.serve(2, Serve::Sink)?;
    let before = [resident(&mesh, 0)?, resident(&mesh, 1)?];
    let flood = vec![b'x'; 64 << 20];
    let stopped = thread::scope(|scope| {
        let writers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| -> Result<Conn> {
                    let mut conn = client.connect_within(deaf.v4(), Duration::from_secs(2))?;
                    let stuck = conn.send(&flood);
                    ensure!(matches!(stuck, Err(CallError::TimedOut { .. })), "nobody reads, but {stuck:?}");
                    Ok(conn)
                })
            })
            .collect();
        let joined = writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| bail!("it panicked")));
        joined.collect::<Result<Vec<_>>>()
    })?;
    client.upload(sink.v4(), SIZE)?;
    for (index, before) in before.into_iter().enumerate() {
        let grown = resident(&mesh, index)?.saturating_sub(before) / MIB;
        ensure!(grown < 160, "node {index} holds {grown} MiB more for 20 stopped writers");
    }
    drop(deaf);
    for mut writer in stopped {
        writer.expect_reset().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

fn short_connections_never_run_out(stage: &mut Stage) -> Result<()> {
    const CALLS: u64 = 4000;
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let far = mesh.pod(PodSpec::new("shop/far").on(1))?.serve(80, Serve::Http)?;
    let near = mesh.pod(PodSpec::new("shop/near").on(0))?.serve(80, Serve::Http)?;
    mesh.start()?;
    for (path, caller, to) in
        [("tunnel", &client, far.v4()), ("same-node", &client, near.v4()), ("plaintext", &stranger, far.v4())]
    {
        let load = caller.load(to, 0, 600);
        load.wait_for_more(CALLS, Duration::from_secs(60))?;
        let report = load.finish();
        report.expect_no_failure(CALLS).with_context(|| format!("on path {path}"))?;
        // One that meets a 4-tuple in use would answer after a retransmission at the earliest, 1 s later.
        let slowest = report.percentile(100.0);
        ensure!(slowest < Duration::from_millis(900), "on path {path} one took {slowest:?}");
    }
    Ok(())
}

fn endpoints_come_and_go(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let replica = |name: &str, node| PodSpec::new(name).on(node).label("app", "web");
    let first = mesh.pod(replica("shop/first", 1))?;
    let second = mesh.pod(replica("shop/second", 0))?;
    mesh.service(&ServiceSpec::new("shop/web").vip(VIP).port(80, 8080))?;
    let first_http = first.serve(8080, Serve::Http)?;
    let second_http = second.serve(8080, Serve::Http)?;
    mesh.start()?;
    let load = client.load((VIP, 80).into(), 4, 150);
    let soon = Duration::from_secs(15);
    wait_for("both replicas to be called", soon, || {
        Ok((first_http.accepted() > 20 && second_http.accepted() > 20).then_some(()))
    })?;
    for _ in 0..2 {
        // As a rollout does it: the new pod gets ready, the old one terminates, is empty, and goes.
        let third = mesh.bed_mut().pod(replica("shop/third", 1))?;
        let third_http = third.serve(8080, Serve::Http)?;
        mesh.manifests().pod(&third, &PodState::default())?;
        wait_for("the new replica to be called", soon, || Ok((third_http.accepted() > 20).then_some(())))?;
        mesh.manifests().pod(&third, &PodState::terminating())?;
        let mut last = (0, 0);
        wait_for("the old replica to be empty", soon, || {
            let now = (third_http.accepted(), load.succeeded());
            let called = now.0 != last.0 || third_http.open() > 0;
            if called {
                last = now;
            }
            // 100 requests passed it by.
            Ok((now.1 > last.1 + 100).then_some(()))
        })?;
        mesh.remove_pod(&third)?;
        load.wait_for_more(100, soon)?;
    }
    load.finish().expect_no_failure(500)
}

fn small_writes_beside_bulk(stage: &mut Stage) -> Result<()> {
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
