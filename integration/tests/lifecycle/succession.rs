//! One process of a node takes over from another, as the pods of a rolling update do.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    Mesh, NodeProcess, PodSpec, Serve, Stage,
    mesh::CHANGE_LIMIT,
    node::{NodeConfig, START_LIMIT},
    wait_for,
};

/// The next process of node-1, in a network namespace of its own, as a pod has.
fn next(mesh: &Mesh, home: &aquifer_sys::NetNs, name: &str) -> Result<NodeConfig> {
    let mut config = mesh.node_config(0);
    config.ns = home.clone();
    config.log = mesh.dir().join(format!("logs/{name}.log"));
    Ok(config)
}

fn wait_said(log: &std::path::Path, what: &str) -> Result<()> {
    wait_for(what, CHANGE_LIMIT, || Ok(std::fs::read_to_string(log)?.contains(what).then_some(())))
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

    // Where the next is gone, the one before ends, to be started anew by who watches it.
    let mut third = NodeProcess::start(next(&mesh, home.ns(), "third")?)?;
    third.wait_ready(START_LIMIT)?;
    wait_said(third.log(), "this process serves the node now")?;
    third.kill()?;
    mesh.node_mut(0).wait_exit(CHANGE_LIMIT).context("nobody serves the node")?;
    mesh.node_mut(0).restart()?;
    mesh.node_mut(0).wait_ready(START_LIMIT)?;
    client.http_get(http.v4())?;
    Ok(())
}
