//! One process of a node takes over from another, as the pods of a rolling update do.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    Mesh, NodeProcess, Pod, PodSpec, Serve, Server, Stage,
    mesh::CHANGE_LIMIT,
    node::{NodeConfig, START_LIMIT},
    wait_for,
};
use aquifer_sys::fdpass;
use aquifer_ztunnel_like::protocol::decode;
use aquifer_ztunnel_like::succession::ToNext;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The next process of node-1, in a network namespace of its own, as a pod has.
fn next(mesh: &Mesh, home: &aquifer_sys::NetNs, name: &str) -> Result<NodeConfig> {
    let mut config = mesh.node_config(0);
    config.ns = home.clone();
    config.log = mesh.dir().join(format!("logs/{name}.log"));
    Ok(config)
}

fn wait_said(log: &std::path::Path, what: &str) -> Result<()> {
    wait_said_times(log, what, 1)
}

/// A process that is started again goes on in the log of before.
fn wait_said_times(log: &std::path::Path, what: &str, times: usize) -> Result<()> {
    let said = || anyhow::Ok(std::fs::read_to_string(log)?.matches(what).count());
    wait_for(what, CHANGE_LIMIT, || Ok((said()? >= times).then_some(())))
}

pub(crate) fn a_second_process_takes_over(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let home = mesh.pod(PodSpec::new("infra/next").outside_the_mesh())?;
    mesh.args(&["--take-over"]);
    let (echo, http) = (server.serve(7, Serve::Echo)?, server.serve(80, Serve::Http)?);
    let inward = client.serve(80, Serve::Http)?;
    mesh.start()?;
    let mut standing = [client.connect(echo.v4())?, client.connect(echo.v6())?];
    let (out, back) = (client.load(http.v4(), 0, 100), server.load(inward.v4(), 0, 100));
    let mut all_well = || -> Result<()> {
        out.wait_for_more(50, CHANGE_LIMIT)?;
        back.wait_for_more(50, CHANGE_LIMIT)?;
        standing.iter_mut().try_for_each(|conn| conn.ping().map_err(Into::into))
    };
    all_well()?;

    // One that never gets ready changes nothing.
    let mut broken = next(&mesh, home.ns(), "broken")?;
    broken.ca_dir = PathBuf::from("/proc/none");
    let mut broken = NodeProcess::start(broken)?;
    ensure!(!broken.wait_exit(START_LIMIT)?.success(), "a process without certificate authority ended well");
    wait_said(mesh.node(0).log(), "it did not take over")?;
    all_well().context("after one that never got ready")?;

    let mut second = NodeProcess::start(next(&mesh, home.ns(), "second")?)?;
    second.wait_ready(START_LIMIT)?;
    wait_said(mesh.node(0).log(), "it serves this node now")?;
    wait_said(second.log(), "this process serves the node now")?;
    all_well().context("in the process before")?;
    out.finish().expect_no_failure(100)?;
    back.finish().expect_no_failure(100)?;
    second.forget_flows()?;
    client.http_get(http.v4())?;
    second
        .wait_flow(CHANGE_LIMIT, |flow| flow.to_string().contains("shop/client"))
        .context("who carries new calls")?;

    // The process before judges what it still carries, and then waits to be told to end.
    mesh.policy(
        "late",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: late, namespace: shop}\nspec:\n  action: DENY\n  rules:\n  - to: [{operation: {ports: ['7']}}]\n",
    )?;
    for conn in &mut standing {
        conn.expect_reset().map_err(anyhow::Error::msg).context("policy edited after the take-over")?;
    }
    wait_for("the worker before to end", CHANGE_LIMIT, || {
        Ok(mesh.node(0).workers().is_empty().then_some(()))
    })?;
    mesh.node(0).terminate()?;
    ensure!(mesh.node_mut(0).wait_exit(CHANGE_LIMIT)?.success(), "the process before did not end well");
    client.http_get(http.v6())?;

    // And back: the next of the next.
    mesh.node_mut(0).restart()?;
    mesh.node_mut(0).wait_ready(START_LIMIT)?;
    wait_said(second.log(), "it serves this node now")?;
    second.terminate()?;
    ensure!(second.wait_exit(CHANGE_LIMIT)?.success(), "the second process did not end well");
    client.http_get(http.v4())?;

    // Where the next is gone, the one before serves again.
    let mut third = NodeProcess::start(next(&mesh, home.ns(), "third")?)?;
    third.wait_ready(START_LIMIT)?;
    wait_said(third.log(), "this process serves the node now")?;
    third.kill()?;
    mesh.node_mut(0).wait_ready(START_LIMIT).context("nobody serves the node")?;
    client.http_get(http.v4())?;
    Ok(())
}

/// A client on node-1, whose processes are instances that take over from one another, and a server on node-2.
struct Scene {
    mesh: Mesh,
    /// Whose namespaces are those of two further processes of node-1.
    homes: [Pod; 2],
    client: Pod,
    http: Server,
}

impl Scene {
    fn start(stage: &mut Stage) -> Result<Self> {
        let mut mesh = stage.mesh()?;
        let client = mesh.pod(PodSpec::new("shop/client"))?;
        let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
        let home = |name: &str| PodSpec::new(name).outside_the_mesh();
        let homes = [mesh.pod(home("infra/next"))?, mesh.pod(home("infra/another"))?];
        let http = server.serve(80, Serve::Http)?;
        mesh.args(&["--take-over", "--instance", "first"]);
        mesh.start()?;
        Ok(Self { mesh, homes, client, http })
    }

    fn next(&self, home: usize, name: &str) -> Result<NodeConfig> {
        let mut config = next(&self.mesh, self.homes[home].ns(), name)?;
        let instance = config.args.iter_mut().find(|arg| *arg == "first").context("no instance")?;
        *instance = name.into();
        Ok(config)
    }
}

pub(crate) fn an_instance_of_before_waits(stage: &mut Stage) -> Result<()> {
    let mut scene = Scene::start(stage)?;
    let calls = scene.client.load(scene.http.v4(), 0, 100);
    let mut second = NodeProcess::start(scene.next(1, "second")?)?;
    second.wait_ready(START_LIMIT)?;
    wait_said(second.log(), "this process serves the node now")?;

    // The container of before is started again: its pod is about to be deleted. A connection that it still carries would be reset.
    wait_said(scene.mesh.node(0).log(), "the last connection of before the hand-over was served")?;
    scene.mesh.node_mut(0).kill()?;
    scene.mesh.node_mut(0).restart()?;
    wait_said(scene.mesh.node(0).log(), "this one waits")?;
    calls.wait_for_more(100, CHANGE_LIMIT)?;
    ensure!(!second.workers().is_empty(), "the second gave the node up");
    scene.mesh.node(0).terminate()?;
    ensure!(scene.mesh.node_mut(0).wait_exit(CHANGE_LIMIT)?.success(), "one that waits did not end well");
    calls.finish().expect_no_failure(100)?;

    // It is better than nobody, and gives the node to its successor again.
    scene.mesh.node_mut(0).restart()?;
    second.kill()?;
    scene.mesh.node_mut(0).wait_ready(START_LIMIT)?;
    let calls = scene.client.load(scene.http.v4(), 0, 100);
    calls.wait_for_more(20, CHANGE_LIMIT)?;
    second.restart()?;
    wait_said_times(scene.mesh.node(0).log(), "it serves this node now", 2)?;
    calls.wait_for_more(20, CHANGE_LIMIT)?;
    calls.finish().expect_no_failure(40)?;
    Ok(())
}

pub(crate) fn who_hangs_is_not_waited_for(stage: &mut Stage) -> Result<()> {
    let scene = Scene::start(stage)?;
    // One whose worker gets no further: somebody else makes a CA in its folder, and takes his time.
    let mut hung = scene.next(0, "hung")?;
    hung.ca_dir = scene.mesh.dir().join("being-made");
    std::fs::create_dir(&hung.ca_dir)?;
    let being_made = File::open(&hung.ca_dir)?;
    let _being_made = Flock::lock(being_made, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut hung = NodeProcess::start(hung)?;
    wait_said(hung.log(), "taking over")?;
    let calls = scene.client.load(scene.http.v4(), 0, 100);

    // Meanwhile another is told to wait, and is let in once the first does not even say any more that it tries.
    let mut second = NodeProcess::start(scene.next(1, "second")?)?;
    wait_said(second.log(), "another process takes the node over")?;
    signal(hung.pid(), Signal::SIGSTOP)?;
    let status = hung.wait_exit(START_LIMIT)?;
    ensure!(!status.success(), "one that hangs in taking over ended with {status}");
    second.wait_ready(START_LIMIT)?;
    wait_said(second.log(), "this process serves the node now")?;
    calls.finish().expect_no_failure(100)?;

    // And one that hangs while it serves.
    signal(second.pid(), Signal::SIGSTOP)?;
    let began = Instant::now();
    let mut third = NodeProcess::start(scene.next(0, "third")?)?;
    third.wait_ready(START_LIMIT)?;
    wait_said(third.log(), "hangs: it is ended")?;
    println!("served again {:?} after the start of the third", began.elapsed());
    scene.client.http_get(scene.http.v4())?;
    second.wait_exit(CHANGE_LIMIT)?;
    Ok(())
}

pub(crate) fn another_version_is_refused(stage: &mut Stage) -> Result<()> {
    let scene = Scene::start(stage)?;
    let config = scene.mesh.node_config(0);
    let door = config.run_dir.join(format!("{}.next", config.name));
    // A process of a version to come is refused; what it does then is in `parent/place.rs`.
    let channel = fdpass::enter(&door)?;
    channel.send(br#"{"say":"claim","version":99,"more":true}"#, &[])?;
    let (bytes, _) = channel.recv()?.context("no answer")?;
    ensure!(matches!(decode(&bytes)?, ToNext::Refused { .. }), "another version is not refused");
    scene.client.http_get(scene.http.v4())?;
    Ok(())
}

fn signal(process: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(process.cast_signed()), signal)?)
}
