//! Many connections: at once, one after another, and while endpoints come and go.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{Mesh, Pod, PodSpec, Serve, ServiceSpec, Stage, manifests::PodState, wait_for};

use crate::{pair, stopped::resident};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// Descriptors that each node's worker has open.
fn descriptors(mesh: &Mesh) -> Result<[f64; 2]> {
    Ok([
        mesh.node(0).metrics()?.sum("process_open_fds", &[]),
        mesh.node(1).metrics()?.sum("process_open_fds", &[]),
    ])
}

/// Waits until no connection is carried any more and the workers have their descriptors back.
fn expect_nothing_left(mesh: &Mesh, before: [f64; 2], room: u32) -> Result<()> {
    let mut last = (0.0, [0.0; 2]);
    wait_for("all connections to be over", Duration::from_secs(10), || {
        let live = |index: usize| {
            Ok::<_, anyhow::Error>(mesh.node(index).metrics()?.sum("aquifer_connections", &[]))
        };
        last = (live(0)? + live(1)?, descriptors(mesh)?);
        let (connections, [first, second]) = last;
        let room = f64::from(room);
        Ok((connections == 0.0 && first <= before[0] + room && second <= before[1] + room).then_some(()))
    })
    .with_context(|| format!("connections and descriptors are {last:?}, the descriptors were {before:?}"))
}

/// Proves that no connect in these pods, of an application or of the proxy, had to send its SYN again: what a connect does
/// that meets a 4-tuple in use, or a full queue. It is a second late then, which on a busy machine says nothing by itself.
fn expect_no_repeated_connect(pods: &[&Pod]) -> Result<()> {
    for pod in pods {
        let text = pod.ns().run(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
        let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, counts) = rows.next().zip(rows.next()).context("the kernel tells no TcpExt counters")?;
        let mut counters = names.split(' ').zip(counts.split(' '));
        let (_, repeated) =
            counters.find(|(name, _)| *name == "TCPSynRetrans").context("no TCPSynRetrans")?;
        ensure!(repeated == "0", "{} sent {repeated} SYNs again", pod.full_name());
    }
    Ok(())
}

pub(crate) fn a_thousand_at_once(stage: &mut Stage) -> Result<()> {
    let (mesh, client, server) = pair(stage, &[])?;
    let echo = server.serve(7, Serve::Echo)?;
    let wire = mesh.bed().wire()?;
    let before = descriptors(&mesh)?;
    let memory = [resident(&mesh, 0)?, resident(&mesh, 1)?];
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
    for (index, memory) in memory.into_iter().enumerate() {
        let each = resident(&mesh, index)?.saturating_sub(memory) / 1000;
        ensure!(each < 32 * 1024, "node {index} holds {each} bytes for each idle connection");
    }
    drop(crowd);
    // The tunnels stay for the next calls; 64 is room for them at both ends.
    expect_nothing_left(&mesh, before, 64)
}

pub(crate) fn thousands_in_clear_from_one_address(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let mut held = stranger.crowd(echo.v4(), 2000)?;
    let mut more = stranger.crowd(echo.v4(), 2000)?;
    expect_no_repeated_connect(&[&stranger, &server])?;
    ensure!(echo.open() == 4000, "{} connections are open at the server", echo.open());
    held.ping_all()?;
    more.ping_all()?;
    let live = mesh.node(1).metrics()?.sum("aquifer_connections", &[("reporter", "destination")]);
    ensure!(live == 4000.0, "{live} connections are counted");
    Ok(())
}

pub(crate) fn short_connections_never_run_out(stage: &mut Stage) -> Result<()> {
    const CALLERS: usize = 4;
    const CALLS: usize = 1000;
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let (far_pod, near_pod) =
        (mesh.pod(PodSpec::new("shop/far").on(1))?, mesh.pod(PodSpec::new("shop/near").on(0))?);
    let (far, near) = (far_pod.serve(80, Serve::Http)?, near_pod.serve(80, Serve::Http)?);
    mesh.start()?;
    let before = descriptors(&mesh)?;
    for (path, caller, to) in
        [("tunnel", &client, far.v4()), ("same-node", &client, near.v4()), ("plaintext", &stranger, far.v4())]
    {
        thread::scope(|scope| -> Result<()> {
            let call = || (0..CALLS).try_for_each(|_| caller.http_get(to).map(drop));
            let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
            for caller in callers {
                let called = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
                called.with_context(|| format!("on path {path}"))?;
            }
            Ok(())
        })?;
        expect_no_repeated_connect(&[caller, &far_pod, &near_pod])
            .with_context(|| format!("on path {path}"))?;
    }
    expect_nothing_left(&mesh, before, 64)
}

pub(crate) fn endpoints_come_and_go(stage: &mut Stage) -> Result<()> {
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
    let soon = Duration::from_secs(40);
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
