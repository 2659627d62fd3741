//! Workers and nodes that die, end, are upgraded and come back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{
    CallError, Mesh, NodeProcess, Pod, PodSpec, Serve, Stage, manifests::PodState, mesh::CHANGE_LIMIT,
    node::START_LIMIT, wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A client on node-1 and a server on node-2, before the nodes start.
fn pair(stage: &mut Stage) -> Result<(Mesh, Pod, Pod)> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    Ok((mesh, client, server))
}

fn send(node: &NodeProcess, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(node.pid().cast_signed()), signal)?)
}

/// The call ends in a reset or a refusal, and soon.
fn refused(client: &Pod, to: SocketAddr, within: Duration) -> Result<()> {
    let start = Instant::now();
    match client.http_get(to) {
        Err(error) if error.is_cut() => {}
        other => bail!("{} calls {to}: expected a refusal, got {other:?}", client.full_name()),
    }
    let took = start.elapsed();
    ensure!(took <= within, "{} was refused {to} only after {took:?}", client.full_name());
    Ok(())
}

pub(crate) fn a_worker_dies(stage: &mut Stage) -> Result<()> {
    /// Much more than buffers hold, so that the kill meets the middle.
    const SIZE: u64 = 1 << 40;
    let (mut mesh, client, server) = pair(stage)?;
    let (source, http) = (server.serve(9, Serve::Source(SIZE))?, server.serve(80, Serve::Http)?);
    mesh.start()?;
    for killed in [1, 0] {
        let mut conn = client.connect(source.v4())?;
        conn.receive(8 << 20)?;
        let ended = source.ended().len();
        mesh.node(killed).kill_workers()?;
        conn.expect_reset().map_err(anyhow::Error::msg).context("the client of the download")?;
        let end = source.wait_ended(ended + 1, CHANGE_LIMIT)?;
        ensure!(end.outcome == Err("reset".into()) && end.received == 0, "the server saw {end:?}");

        // No worker runs at first: calls wait in the queues, in each direction, and none is refused.
        let (v4, v6) = (client.load(http.v4(), 0, 100), client.load(http.v6(), 0, 100));
        v4.wait_for_more(200, CHANGE_LIMIT)?;
        v6.wait_for_more(200, CHANGE_LIMIT)?;
        v4.finish().expect_no_failure(200).with_context(|| format!("worker of node {killed} killed"))?;
        v6.finish().expect_no_failure(200).with_context(|| format!("worker of node {killed} killed"))?;
        let restarts = wait_for("the new worker's page", START_LIMIT, || {
            Ok(mesh.node(killed).metrics().ok().map(|page| page.sum("aquifer_worker_restarts_total", &[])))
        })?;
        ensure!(restarts == 1.0, "{restarts} restarts were counted");
    }
    Ok(())
}

pub(crate) fn a_node_dies(stage: &mut Stage) -> Result<()> {
    let at_once = Duration::from_secs(1);
    let (mut mesh, client, server) = pair(stage)?;
    let outside = mesh.pod(PodSpec::new("shop/outside").outside_the_mesh())?;
    let near = mesh.pod(PodSpec::new("shop/near").on(1).outside_the_mesh())?;
    let (http, back) = (server.serve(80, Serve::Http)?, client.serve(80, Serve::Http)?);
    mesh.start()?;
    client.http_get(http.v4())?;
    server.http_get(back.v6())?;
    let (came, went) = (http.accepted(), back.accepted());
    let wire = mesh.bed().wire()?;
    mesh.node_mut(1).kill()?;

    for (to, out) in [(http.v4(), back.v4()), (http.v6(), back.v6())] {
        refused(&outside, to, at_once)?;
        refused(&near, to, at_once)?;
        refused(&server, out, at_once)?;
        // Whoever speaks HBONE dials again for 5 s: the pod may be about to be enrolled.
        refused(&client, to, Duration::from_secs(8))?;
    }
    ensure!(http.accepted() == came && back.accepted() == went, "an application was reached past the mesh");
    let seen = wire.take()?;
    ensure!(seen.clear.payload == 0, "payload crossed in clear:\n{seen}");
    let record = mesh.source_flow(&client, &server)?;
    ensure!(record.verdict == "failed" && !record.advice.is_empty(), "{record}");

    mesh.node_mut(1).restart()?;
    mesh.node_mut(1).wait_ready(START_LIMIT)?;
    for (to, out) in [(http.v4(), back.v4()), (http.v6(), back.v6())] {
        for (client, to) in [(&client, to), (&outside, to), (&near, to), (&server, out)] {
            client.http_get(to).with_context(|| format!("{} after the restart", client.full_name()))?;
        }
    }
    Ok(())
}

pub(crate) fn a_pod_left_while_nobody_ran(stage: &mut Stage) -> Result<()> {
    let (mut mesh, client, server) = pair(stage)?;
    let http = server.serve(80, Serve::Http)?;
    mesh.start()?;
    client.http_get(http.v4())?;

    // Only the worker is away: the next one is told what stands.
    let workers = mesh.node(1).workers();
    mesh.manifests().pod(&server, &PodState::member(false))?;
    workers.iter().try_for_each(|&pid| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL))?;
    mesh.wait_left(&server)?;
    mesh.opt_in(&server)?;

    // The whole node is away: the record of the last one tells.
    mesh.node_mut(1).kill()?;
    mesh.manifests().pod(&server, &PodState::member(false))?;
    mesh.node_mut(1).restart()?;
    mesh.node_mut(1).wait_ready(START_LIMIT)?;
    mesh.wait_left(&server)?;
    wait_for("calls in clear", CHANGE_LIMIT, || Ok(client.http_get(http.v4()).ok()))?;
    Ok(())
}

pub(crate) fn sigterm_drains(stage: &mut Stage) -> Result<()> {
    let (mut mesh, client, server) = pair(stage)?;
    mesh.args(&["--drain", "60s"]);
    let (echo, http) = (server.serve(7, Serve::Echo)?, server.serve(80, Serve::Http)?);
    mesh.start()?;
    let mut conn = client.connect(echo.v4())?;
    conn.ping()?;
    mesh.node(1).terminate()?;

    wait_for("new calls to be refused", CHANGE_LIMIT, || {
        conn.ping().context("while the node drains")?;
        match client.http_get(http.v4()) {
            Err(error) if error.is_cut() => Ok(Some(())),
            Ok(_) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })?;
    let page = mesh.node(1).readiness()?;
    ensure!(page.status == 503 && String::from_utf8_lossy(&page.body).contains("stops"), "readyz: {page:?}");
    conn.ping().context("while the node drains")?;
    conn.finish()?;
    conn.expect_end()?;
    let status = mesh.node_mut(1).wait_exit(CHANGE_LIMIT)?;
    ensure!(status.success(), "the node ended with {status}");
    let end = echo.wait_ended(1, CHANGE_LIMIT)?;
    ensure!(end.outcome.is_ok(), "the server saw {end:?}");
    // The rules stand, and refuse.
    refused(&server, (client.v4(), 80).into(), Duration::from_secs(1))?;
    mesh.node_mut(1).restart()?;
    mesh.node_mut(1).wait_ready(START_LIMIT)?;
    client.http_get(http.v4())?;

    let mut conn = client.connect(echo.v4())?;
    conn.ping()?;
    mesh.node(1).terminate()?;
    wait_for("the drain to begin", CHANGE_LIMIT, || {
        let log = std::fs::read_to_string(mesh.node(1).log())?;
        Ok((log.matches("stopping: no new connections").count() == 2).then_some(()))
    })?;
    mesh.node(1).terminate()?;
    mesh.node_mut(1).wait_exit(Duration::from_secs(3)).context("a second SIGTERM ends it at once")?;
    conn.expect_reset().map_err(anyhow::Error::msg).context("a second SIGTERM resets")?;
    Ok(())
}

pub(crate) fn sighup_upgrades(stage: &mut Stage) -> Result<()> {
    let (mut mesh, client, server) = pair(stage)?;
    mesh.args(&["--drain", "60s"]);
    let (echo, http) = (server.serve(7, Serve::Echo)?, server.serve(80, Serve::Http)?);
    mesh.start()?;
    let mut standing = [client.connect(echo.v4())?, client.connect(echo.v6())?];
    standing.iter_mut().try_for_each(|conn| conn.ping())?;
    let load = client.load(http.v4(), 0, 100);
    load.wait_for_more(50, CHANGE_LIMIT)?;
    for index in 0..2 {
        let before = mesh.node(index).workers();
        send(mesh.node(index), Signal::SIGHUP)?;
        wait_for("a second worker", CHANGE_LIMIT, || {
            Ok((mesh.node(index).workers().len() == 2).then_some(()))
        })?;
        load.wait_for_more(100, CHANGE_LIMIT)?;
        standing.iter_mut().try_for_each(|conn| conn.ping()).context("in the worker before the upgrade")?;
        ensure!(mesh.node(index).workers().contains(&before[0]), "the first worker left its connections");
    }
    load.finish().expect_no_failure(250)?;

    // Policy holds in the worker before the upgrade, too.
    mesh.policy(
        "late",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: late, namespace: shop}\nspec:\n  action: DENY\n  rules:\n  - to: [{operation: {ports: ['7']}}]\n",
    )?;
    for conn in &mut standing {
        conn.expect_reset().map_err(anyhow::Error::msg).context("policy edited after the upgrade")?;
    }
    for index in 0..2 {
        wait_for("the first worker to end", CHANGE_LIMIT, || {
            Ok((mesh.node(index).workers().len() == 1).then_some(()))
        })?;
    }
    client.http_get(http.v6())?;
    Ok(())
}

pub(crate) fn a_second_parent_is_refused(stage: &mut Stage) -> Result<()> {
    let (mut mesh, client, server) = pair(stage)?;
    let http = server.serve(80, Serve::Http)?;
    mesh.start()?;
    let mut config = mesh.node_config(0);
    config.log = mesh.dir().join("logs/second.log");
    let log = config.log.clone();
    let mut second = NodeProcess::start(config)?;
    ensure!(!second.wait_exit(START_LIMIT)?.success(), "a second parent ended well");
    let text = std::fs::read_to_string(log)?;
    let first = format!("already served by process {}", mesh.node(0).pid());
    ensure!(text.contains(&first), "it does not name the first ({first}): {text}");
    client.http_get(http.v4())?;
    Ok(())
}

pub(crate) fn leave_removes_the_rules(stage: &mut Stage) -> Result<()> {
    let (mut mesh, client, server) = pair(stage)?;
    let http = server.serve(80, Serve::Http)?;
    mesh.start()?;
    client.http_get(http.v4())?;
    let leave = |mesh: &Mesh, index: usize| -> Result<()> {
        let mut config = mesh.node_config(index);
        config.args.push("--leave".into());
        config.log = mesh.dir().join(format!("logs/leave-{index}.log"));
        let log = config.log.clone();
        let status = NodeProcess::start(config)?.wait_exit(START_LIMIT)?;
        let text = std::fs::read_to_string(log)?;
        ensure!(status.success(), "--leave ended with {status}: {text}");
        Ok(())
    };
    // One node runs, the other was killed: its record tells what to do.
    leave(&mesh, 0)?;
    mesh.node_mut(0).wait_exit(CHANGE_LIMIT)?;
    mesh.node_mut(1).kill()?;
    refused(&server, (client.v4(), 80).into(), Duration::from_secs(1))?;
    leave(&mesh, 1)?;
    mesh.wait_left(&client)?;
    mesh.wait_left(&server)?;
    let wire = mesh.bed().wire()?;
    match client.http_get(http.v4()) {
        Ok(_) => wire.take()?.expect_clear(http.v4(), 1),
        Err(CallError::Refused) => bail!("something still refuses"),
        Err(error) => Err(error.into()),
    }
}
