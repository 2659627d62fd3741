//! How connections begin and end: who speaks first, half-close, reset, refusal; on every path.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{
    CallError, Conn, FlowRecord, Mesh, Pod, PodSpec, Serve, Server, Stage, fault::BlackHole,
};
use socket2::SockRef;

use crate::SOON;

/// One client and one server for each path.
struct Paths {
    mesh: Mesh,
    pairs: Vec<(&'static str, Pod, Server, SocketAddrs)>,
}

type SocketAddrs = [SocketAddr; 2];

/// Builds a mesh with a server of this kind at the end of each path, and starts it.
fn paths(stage: &Stage, what: &Serve) -> Result<Paths> {
    paths_with(stage, what, &[])
}

fn paths_with(stage: &Stage, what: &Serve, args: &[&str]) -> Result<Paths> {
    let mut mesh = stage.mesh()?;
    mesh.args(args);
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let mut pairs = Vec::new();
    for (path, caller, spec) in [
        ("tunnel", &client, PodSpec::new("shop/far").on(1)),
        ("same-node", &client, PodSpec::new("shop/near").on(0)),
        ("plaintext", &client, PodSpec::new("legacy/web").on(1).outside_the_mesh()),
        ("plaintext", &stranger, PodSpec::new("shop/entered").on(1)),
    ] {
        let server = mesh.pod(spec)?.serve(7, what.clone())?;
        let addresses = [server.v4(), server.v6()];
        pairs.push((path, caller.clone(), server, addresses));
    }
    mesh.start()?;
    Ok(Paths { mesh, pairs })
}

impl Paths {
    /// Lets a story happen on each path and family, and checks that the call's record names the path, and this end.
    fn each(&self, closed_by: &str, story: impl Fn(Conn, &Server, usize) -> Result<()>) -> Result<()> {
        for (path, client, server, addresses) in &self.pairs {
            for (count, &to) in addresses.iter().enumerate() {
                let context = || format!("on path {path} to {to}");
                let conn = client.connect(to).with_context(context)?;
                let local = conn.local()?;
                story(conn, server, count).with_context(context)?;
                let node = if client.in_mesh() { 0 } else { 1 };
                let flow = self
                    .mesh
                    .node(node)
                    .wait_flow(SOON, |flow| flow.source_address == Some(local))
                    .with_context(context)?;
                ensure!(flow.path == *path && flow.closed_by == closed_by, "{}: {flow:#?}", context());
            }
        }
        Ok(())
    }
}

pub(crate) fn a_server_speaks_first(stage: &mut Stage) -> Result<()> {
    let greeting = b"220 welcome";
    paths(stage, &Serve::Greet(greeting.to_vec()))?.each("source", |mut conn, _, _| {
        ensure!(conn.receive(greeting.len())? == greeting, "another greeting");
        conn.ping()?;
        conn.finish()?;
        Ok(conn.expect_end()?)
    })
}

pub(crate) fn half_close_by_the_client(stage: &mut Stage) -> Result<()> {
    let question: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    paths(stage, &Serve::AfterEnd)?.each("source", |mut conn, server, count| {
        conn.send(&question)?;
        conn.finish()?;
        ensure!(conn.receive_to_end()? == question, "the answer after the end is not whole");
        let ended = server.wait_ended(count + 1, SOON)?;
        ensure!(ended.outcome.is_ok() && ended.received == question.len() as u64, "{ended:?}");
        Ok(())
    })
}

pub(crate) fn half_close_by_the_server(stage: &mut Stage) -> Result<()> {
    const SAID: u64 = 1_000_000;
    let answer = vec![b'x'; 1_000_000];
    paths(stage, &Serve::Source(SAID))?.each("destination", |mut conn, server, count| {
        ensure!(conn.receive_to_end()?.len() as u64 == SAID, "what was said before the end is not whole");
        ensure!(server.open() == 1, "the server must still listen");
        conn.send(&answer)?;
        conn.finish()?;
        let ended = server.wait_ended(count + 1, SOON)?;
        ensure!(ended.outcome.is_ok() && ended.received == answer.len() as u64, "{ended:?}");
        Ok(())
    })
}

pub(crate) fn half_closed_and_idle(stage: &mut Stage) -> Result<()> {
    let paths = paths_with(stage, &Serve::Source(10), &["--half-close-idle", "1s"])?;
    thread::scope(|scope| {
        let all: Vec<_> = paths
            .pairs
            .iter()
            .map(|(path, client, server, _)| {
                let context = move || format!("on path {path}");
                scope.spawn(move || half_close_and_idle(client, server).with_context(context))
            })
            .collect();
        all.into_iter().try_for_each(|story| story.join().unwrap_or_else(|_| bail!("it panicked")))
    })?;
    for (path, client, server, _) in &paths.pairs {
        // Where two nodes watch it, one is first, and the other sees its reset.
        let nodes: &[usize] = match (*path, client.in_mesh()) {
            ("tunnel", _) => &[0, 1],
            (_, true) => &[0],
            (_, false) => &[1],
        };
        let mut reasons = Vec::new();
        for &index in nodes {
            let fits = |flow: &FlowRecord| flow.destination_address == Some(server.v4());
            let flow = paths.mesh.node(index).wait_flow(SOON, fits)?;
            // Who closed first is the server; that the proxy ended it is the reason.
            ensure!(
                flow.path == *path && flow.closed_by == "destination" && flow.verdict == "failed",
                "{flow:#?}"
            );
            reasons.push(flow.reason);
        }
        reasons.sort();
        ensure!(reasons[0] == "half-close-idle", "on path {path} the records say {reasons:?}");
    }
    Ok(())
}

/// Goes on for twice `--half-close-idle` after the server's end, stops, and is reset.
fn half_close_and_idle(client: &Pod, server: &Server) -> Result<()> {
    const IDLE: Duration = Duration::from_secs(1);
    let mut conn = client.connect(server.v4())?;
    ensure!(conn.receive_to_end()?.len() == 10, "another answer");
    let begun = Instant::now();
    while begun.elapsed() < 2 * IDLE {
        conn.send(b"still here")?;
        // The pause of an application that has little to say.
        thread::sleep(IDLE / 5);
    }
    ensure!(server.open() == 1, "a busy direction was reset");
    let last = Instant::now();
    let ended = server.wait_ended(1, 4 * IDLE)?;
    ensure!(ended.outcome == Err("reset".into()), "the server saw {ended:?}");
    ensure!(last.elapsed() > IDLE / 2, "it was reset after {:?} of idleness", last.elapsed());
    let after = conn.send(b"too late").and_then(|()| conn.expect_end());
    ensure!(after.as_ref().is_err_and(CallError::is_cut), "the client saw {after:?}");
    Ok(())
}

pub(crate) fn a_reset_stays_a_reset(stage: &mut Stage) -> Result<()> {
    let mut paths = paths(stage, &Serve::Echo)?;
    paths.each("source", |mut conn, server, count| {
        conn.ping()?;
        SockRef::from(conn.stream()).set_linger(Some(Duration::ZERO))?;
        drop(conn);
        let ended = server.wait_ended(count + 1, SOON)?;
        ensure!(ended.outcome == Err("reset".into()), "the server saw {:?}", ended.outcome);
        Ok(())
    })?;
    for (path, client, server, addresses) in paths.pairs.drain(..) {
        let mut conns = Vec::new();
        for to in addresses {
            let mut conn = client.connect(to)?;
            conn.ping()?;
            conns.push(conn);
        }
        drop(server);
        for mut conn in conns {
            conn.expect_reset().map_err(|other| anyhow::anyhow!("on path {path} the client saw {other}"))?;
            let (local, node) = (conn.local()?, if client.in_mesh() { 0 } else { 1 });
            let flow = paths.mesh.node(node).wait_flow(SOON, |flow| flow.source_address == Some(local))?;
            ensure!(flow.closed_by == "destination" && flow.path == path, "{flow:#?}");
        }
    }
    Ok(())
}

pub(crate) fn a_reset_amid_bulk_arrives(stage: &mut Stage) -> Result<()> {
    const MUCH: u64 = 1 << 30;
    // A proxy that waits for room to write looks for a reset every few seconds only.
    const WITHIN: Duration = Duration::from_secs(8);
    let mut paths = paths(stage, &Serve::Source(MUCH))?;
    paths.each("source", |mut conn, server, count| {
        conn.receive(100_000)?;
        drop(conn);
        let ended = server.wait_ended(count + 1, WITHIN)?;
        ensure!(ended.outcome == Err("reset".into()) && ended.sent < MUCH, "the server saw {ended:?}");
        Ok(())
    })?;
    for (path, client, server, addresses) in paths.pairs.drain(..) {
        let mut conns = addresses.map(|to| client.connect(to));
        for conn in conns.iter_mut().flatten() {
            conn.receive(100_000)?;
        }
        drop(server);
        for conn in conns {
            let outcome = conn?.expect_reset();
            ensure!(outcome.is_ok(), "on path {path} the client saw {outcome:?}");
        }
    }
    Ok(())
}

pub(crate) fn a_client_gives_up(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let lost = mesh.pod(PodSpec::new("shop/lost").on(1))?;
    mesh.start()?;
    let _hole = BlackHole::pod(mesh.bed(), 0, &lost)?;
    // The first address is nobody's, the tunnel to the second is answered by nobody: both calls wait, and their client does not.
    for to in [SocketAddr::from(([10, 2, 0, 200], 80)), (lost.v4(), 80).into()] {
        let conn = client.connect(to)?;
        let local = conn.local()?;
        SockRef::from(conn.stream()).set_linger(Some(Duration::ZERO))?;
        let begun = Instant::now();
        drop(conn);
        let flow = mesh.node(0).wait_flow(SOON, |flow| flow.source_address == Some(local))?;
        ensure!(
            flow.reason == "abandoned" && flow.verdict == "failed" && flow.hop == "application",
            "{flow:#?}"
        );
        ensure!(
            begun.elapsed() < Duration::from_secs(2),
            "{to}: it was seen after {:?} only",
            begun.elapsed()
        );
    }
    Ok(())
}

pub(crate) fn nothing_is_there(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    mesh.start()?;
    let outside = mesh.bed().nodes()[1].wire_addresses();
    for (ip, reason) in [
        (outside[0], "connection-refused"),
        (outside[1], "connection-refused"),
        ([10, 99, 0, 1].into(), "unreachable"),
        ([0xfd99, 0, 0, 0, 0, 0, 0, 1].into(), "unreachable"),
    ] {
        let (to, begun) = (SocketAddr::new(ip, 9), Instant::now());
        let outcome = client.connect(to).and_then(|mut conn| conn.receive(1));
        ensure!(outcome.as_ref().is_err_and(CallError::is_cut), "from {to} the client got {outcome:?}");
        ensure!(begun.elapsed() < Duration::from_secs(2), "{to}: it took {:?}", begun.elapsed());
        let flow = mesh.node(0).wait_flow(SOON, |flow| flow.original_destination == Some(to))?;
        ensure!(
            flow.reason == reason && flow.path == "passthrough" && flow.hop == "destination",
            "{flow:#?}"
        );
    }
    Ok(())
}

pub(crate) fn nobody_listens(stage: &mut Stage) -> Result<()> {
    let paths = paths(stage, &Serve::Echo)?;
    for (path, client, _, addresses) in &paths.pairs {
        for mut to in *addresses {
            to.set_port(9);
            let begun = Instant::now();
            let outcome = client.connect(to).and_then(|mut conn| {
                conn.send(b"anybody?")?;
                conn.receive(1)
            });
            let (Err(CallError::Refused | CallError::Reset { .. }), took) = (&outcome, begun.elapsed())
            else {
                bail!("on path {path} the client saw {outcome:?}");
            };
            ensure!(took < Duration::from_secs(1), "on path {path} it took {took:?}");
            // From outside the mesh it is no connection, as it would be without a mesh: a TCP probe must not pass.
            if !client.in_mesh() {
                ensure!(
                    matches!(outcome, Err(CallError::Refused)),
                    "on path {path} the client saw {outcome:?}"
                );
            }
            // Both nodes say it where both took part.
            for (index, node) in paths.mesh.nodes().iter().enumerate() {
                let reporter = if index == 0 { "source" } else { "destination" };
                let took_part = if index == 0 { client.in_mesh() } else { *path == "tunnel" };
                if took_part {
                    let flow = node.wait_flow(SOON, |flow| {
                        flow.reporter == reporter && flow.destination_address == Some(to)
                    })?;
                    ensure!(flow.reason == "connection-refused" && flow.verdict == "failed", "{flow:#?}");
                }
            }
        }
    }
    Ok(())
}
