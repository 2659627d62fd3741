//! Faults of the machine: no descriptor, no room on the disk, no namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{Mesh, NodeProcess, PodSpec, Serve, Stage, manifests::PodState, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{SOON, lines, wait_line};

pub(crate) fn out_of_descriptors(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let near = mesh.pod(PodSpec::new("shop/near").on(0))?;
    let (echo, near_echo) = (server.serve(7, Serve::Echo)?, near.serve(7, Serve::Echo)?);
    mesh.open_files(128).start()?;
    let open = || client.connect_within(echo.v4(), Duration::from_millis(500));
    // One descriptor of the client's node each.
    let mut held = vec![open()?, open()?];
    held.iter_mut().try_for_each(|conn| conn.ping())?;
    // Two each. Past the end a call finds none for its second socket, or the listener none for the next call.
    let near: Vec<_> = (0..150)
        .filter_map(|_| client.connect_within(near_echo.v4(), Duration::from_millis(500)).ok())
        .collect();
    // With one free descriptor it is the call, whichever it was before.
    held.pop();
    let nodes = mesh.nodes();
    let flow = nodes[0].wait_flow(SOON, |flow| flow.reason == "out-of-descriptors")?;
    ensure!(flow.error.contains("RLIMIT_NOFILE") && !flow.advice.contains("NetworkPolicy"), "{flow}");
    // And when the last ones are taken, the listener.
    held.extend((0..10).filter_map(|_| open().ok()));
    wait_line(mesh.node(0), &["WARN", "RLIMIT_NOFILE"])?;

    let spent = |node: &NodeProcess| node.workers().iter().map(|&pid| cpu(pid)).sum::<Result<Duration>>();
    let before: Vec<_> = nodes.iter().map(spent).collect::<Result<_>>()?;
    // What is measured is a span of time in which nothing happens.
    let span = Duration::from_secs(2);
    thread::sleep(span);
    for (node, before) in nodes.iter().zip(before) {
        let took = spent(node)?.saturating_sub(before);
        ensure!(took < span / 5, "{} spent {took:?} of {span:?} on nothing", node.name());
        let said = lines(node, &["WARN"])?;
        ensure!(said.len() < 30, "{} wrote {} warnings: {:#?}", node.name(), said.len(), &said[..3]);
    }
    held[0].ping().context("a connection that stood must go on")?;
    drop((held, near));
    wait_for("recovery", SOON, || Ok(open().and_then(|mut conn| conn.ping()).is_ok().then_some(())))?;
    client.round_trips(echo.v6(), 20)?;
    ensure!(nodes.iter().all(|node| node.workers().len() == 1), "a worker is gone");
    for node in nodes {
        let restarts = node.metrics()?.sum("aquifer_worker_restarts_total", &[]);
        ensure!(restarts == 0.0, "{} started its worker {restarts} times again", node.name());
    }
    Ok(())
}

/// User and system time of a process, of all its threads.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): utime and stime are fields 14 and 15, in clock ticks, of which Linux shows 100 a second.
    let fields: Vec<_> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

pub(crate) fn a_full_disk_is_named(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(0))?;
    let echo = server.serve(7, Serve::Echo)?;
    let disk = SmallDisk::mount(&mesh.ca_dir())?;
    let filler = disk.fill()?;
    let mut node = NodeProcess::start(mesh.node_config(0))?;
    let line = wait_line(&node, &["disk is full"])?;
    ensure!(line.contains(&mesh.ca_dir().display().to_string()), "it does not name the folder: {line}");
    ensure!(client.connect(echo.v4())?.ping().is_ok(), "what is not enrolled is not touched");

    fs::remove_file(filler)?;
    node.wait_ready(Duration::from_secs(20)).context("there is room again")?;
    mesh.wait_enrolled(&client)?;
    mesh.wait_enrolled(&server)?;
    client.connect(echo.v4())?.ping()?;
    let flow = node.wait_flow(SOON, |flow| !flow.is_source())?;
    ensure!(flow.verdict == "allowed" && flow.path == "same-node", "{flow}");
    Ok(())
}

/// A disk of 64 KiB, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Self> {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
        Ok(Self(at.into()))
    }

    /// Leaves no room; removing the file makes some.
    fn fill(&self) -> Result<PathBuf> {
        let (part, filler) = (self.0.join("filler"), [0; 4096]);
        let mut file = fs::File::create(&part)?;
        while std::io::Write::write_all(&mut file, &filler).is_ok() {}
        Ok(part)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The sandbox takes it along otherwise.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

pub(crate) fn a_namespace_that_is_not_there_holds_up_nobody(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    let ghost = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ghost\n  namespace: shop\n  uid: ghost-1\n  annotations:\n    \
                 aquifer.dev/netns: /run/netns/nowhere\nspec:\n  nodeName: node-2\n  serviceAccountName: ghost\n  containers:\n  - name: app\n    \
                 image: none\nstatus:\n  phase: Running\n  podIP: 10.2.0.99\n";
    mesh.policy("ghost", ghost)?;
    mesh.start()?;
    client.connect(echo.v4())?.ping()?;
    let state = told(&mesh, "shop/ghost", "/run/netns/nowhere")?;
    ensure!(state["ready"] == false, "{state}");
    wait_line(mesh.node(1), &["shop/ghost", "/run/netns/nowhere"])?;
    let said = lines(mesh.node(1), &["shop/ghost", "WARN"])?;
    ensure!(said.len() < 4, "it is said again and again: {said:#?}");

    // A pod that dies: its namespace goes before its object does.
    let begun = Instant::now();
    let mut dying = mesh.pod(PodSpec::new("shop/dying").on(1)).map(Some)?;
    if let Some(pod) = dying.take() {
        mesh.bed_mut().remove(&pod);
        mesh.manifests().pod(&pod, &PodState::terminating())?;
        mesh.manifests().remove_pod(&pod)?;
    }
    wait_for("the dying pod to be forgotten", SOON, || {
        let pods = mesh.node(1).admin("/enrolments")?;
        Ok((!pods.to_string().contains("shop/dying")).then_some(()))
    })?;
    ensure!(begun.elapsed() < 2 * SOON, "it took {:?}", begun.elapsed());
    client.connect(echo.v6())?.ping()?;
    Ok(())
}

pub(crate) fn a_port_that_is_taken_is_told(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let late = mesh.pod(PodSpec::new("shop/late").on(1).outside_the_mesh())?;
    let (echo, other) = (server.serve(7, Serve::Echo)?, late.serve(7, Serve::Echo)?);
    mesh.start()?;
    let taken = late.serve(15006, Serve::Echo)?;
    mesh.manifests().pod(&late, &PodState::member(true))?;
    let state = told(&mesh, "shop/late", "does something else in the pod use the port")?;
    ensure!(state["ready"] == false && state["why"].to_string().contains("15006"), "{state}");
    client.connect(echo.v4())?.ping()?;

    drop(taken);
    mesh.wait_enrolled(&late)?;
    told(&mesh, "shop/late", "enrolled")?;
    client.connect(other.v4())?.ping()?;
    let flow = mesh.destination_flow(&client, &late)?;
    ensure!(flow.path == "tunnel" && flow.verdict == "allowed", "{flow}");
    Ok(())
}

/// Waits until the second node says this of a pod.
fn told(mesh: &Mesh, pod: &str, what: &str) -> Result<serde_json::Value> {
    wait_for(&format!("{pod} to be told as {what}"), SOON, || {
        let pods = mesh.node(1).admin("/enrolments")?;
        let pods = pods.as_array().cloned().unwrap_or_default();
        let found = pods.into_iter().find(|state| state["pod"] == pod);
        Ok(found.filter(|state| state["why"].as_str().is_some_and(|why| why.contains(what))))
    })
}
