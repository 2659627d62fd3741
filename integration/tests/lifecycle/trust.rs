//! Certificates and roots that change under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    Mesh, Plan, PodSpec, Serve, Stage, client::Conn, mesh::CHANGE_LIMIT, node::START_LIMIT, wait_for,
};
use aquifer_model::TrustDomain;
use aquifer_pki::LocalCa;

/// Puts a file in place whole.
fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    let draft = dir.join(format!(".{name}.draft"));
    fs::write(&draft, text)?;
    fs::rename(&draft, dir.join(name)).with_context(|| format!("cannot write {name}"))
}

/// Waits until a node trusts so many roots.
fn wait_roots(mesh: &Mesh, node: usize, count: f64) -> Result<()> {
    wait_for(&format!("{count} roots"), CHANGE_LIMIT, || {
        Ok((mesh.node(node).metrics()?.sum("aquifer_trust_roots", &[]) == count).then_some(()))
    })
}

/// Serial numbers of the certificates that a node holds.
fn serials(mesh: &Mesh, node: usize) -> Result<BTreeSet<String>> {
    let page = mesh.node(node).admin("/certificates")?;
    let list = page["certificates"].as_array().context("a list of certificates")?;
    Ok(list.iter().map(|certificate| certificate["serial"].to_string()).collect())
}

/// Waits until a node holds none of these certificates any more.
fn wait_renewed(mesh: &Mesh, node: usize, before: &BTreeSet<String>) -> Result<()> {
    wait_for("new certificates", CHANGE_LIMIT, || {
        let now = serials(mesh, node)?;
        Ok((!now.is_empty() && now.is_disjoint(before)).then_some(()))
    })
}

pub(crate) fn certificates_are_renewed_under_load(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    // The shortest that is taken: renewed about every 5 s.
    mesh.args(&["--certificate-lifetime", "10s"]);
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let (http, echo) = (server.serve(80, Serve::Http)?, server.serve(7, Serve::Echo)?);
    mesh.start()?;
    let mut early = client.connect(echo.v6())?;
    early.ping()?;
    let wire = mesh.bed().wire()?;
    let load = client.load(http.v4(), 8, 100);
    for _ in 0..3 {
        let before = [serials(&mesh, 0)?, serials(&mesh, 1)?];
        for (node, before) in before.iter().enumerate() {
            wait_renewed(&mesh, node, before)?;
        }
    }
    load.finish().expect_no_failure(500).with_context(|| failures(&mesh))?;
    // It outlived the certificates that it began with.
    early.ping().context("a connection from before the renewals")?;
    wire.seen()?.expect_only_tunnels(1)?;
    for node in 0..2 {
        let page = mesh.node(node).metrics()?;
        let renewed = page.sum("aquifer_certificates_issued_total", &[("kind", "renewal")]);
        ensure!(renewed >= 3.0, "{renewed} renewals were counted:\n{}", page.text());
    }
    Ok(())
}

pub(crate) fn the_root_changes_under_load(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh_of(Plan { nodes: 3, ..Plan::default() })?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let late = mesh.pod(PodSpec::new("shop/late").on(2))?;
    let (http, echo) = (server.serve(80, Serve::Http)?, server.serve(7, Serve::Echo)?);
    let to = http.v4();
    mesh.start()?;
    let ca = mesh.ca_dir();
    let (old, new) = (mesh.dir().join("old-ca"), mesh.dir().join("new-ca"));
    fs::create_dir_all(&old)?;
    for name in ["root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem"] {
        fs::copy(ca.join(name), old.join(name)).with_context(|| format!("cannot keep {name}"))?;
    }
    LocalCa::open_or_create(&new, &TrustDomain::new("cluster.local")?)?;
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).context("a file of an authority");
    // The third node stays behind: it knows the old authority alone.
    mesh.node_mut(2).kill()?;
    mesh.node_mut(2).config_mut().ca_dir = old.clone();
    mesh.node_mut(2).restart()?;
    mesh.node_mut(2).wait_ready(START_LIMIT)?;
    late.http_get(to).context("while all trust A")?;

    // A, then A and B, then issued by B: 200 open, 500 new ones a second, none of them notices.
    let mut early = client.connect(echo.v4())?;
    early.ping()?;
    let mut crowd = client.crowd(echo.v6(), 200)?;
    let load = client.load(to, 0, 500);
    load.wait_for_more(200, CHANGE_LIMIT)?;
    let (a, b) = (read(&old, "root-cert.pem")?, read(&new, "root-cert.pem")?);
    put(&ca, "root-cert.pem", &format!("{a}{b}"))?;
    (0..2).try_for_each(|node| wait_roots(&mesh, node, 2.0))?;
    let before = [serials(&mesh, 0)?, serials(&mesh, 1)?];
    for name in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem"] {
        put(&ca, name, &read(&new, name)?)?;
    }
    (0..2).try_for_each(|node| wait_renewed(&mesh, node, &before[node]))?;
    load.wait_for_more(200, CHANGE_LIMIT)?;
    crowd.ping_all().context("connections from before B")?;
    early.ping().context("a connection from before B")?;
    drop(crowd);

    // A goes: 200 connections that B vouches for, and the new ones, live on; what only A vouched for ends.
    let mut crowd = client.crowd(echo.v6(), 200)?;
    put(&ca, "root-cert.pem", &b)?;
    (0..2).try_for_each(|node| wait_roots(&mesh, node, 1.0))?;
    load.wait_for_more(200, CHANGE_LIMIT)?;
    crowd.ping_all().context("connections that B vouches for")?;
    load.finish().expect_no_failure(600).with_context(|| failures(&mesh))?;
    ended_by_the_root(&mesh, &mut early)?;
    let error = late.http_get(to).err().context("a client that trusts A alone got through")?;
    ensure!(error.is_cut(), "a client that trusts A alone must be refused, but: {error}");
    let record = mesh.node(2).wait_flow(CHANGE_LIMIT, |flow| flow.verdict == "failed")?;
    ensure!(record.hop == "tls" && record.destination_address == Some(to), "{record}, hop {}", record.hop);
    Ok(())
}

/// What the nodes say of calls to port 80, and of tunnels for them, that failed: how often, and why.
fn failures(mesh: &Mesh) -> String {
    let mut kinds = BTreeMap::<String, u32>::new();
    for flow in mesh.nodes().iter().flat_map(|node| node.flows().unwrap_or_default()) {
        if flow.verdict != "allowed"
            && flow.destination_address.is_some_and(|at| [80, 15008].contains(&at.port()))
        {
            *kinds.entry(format!("{}, {}: {}", flow.reporter, flow.reason, flow.error)).or_default() += 1;
        }
    }
    format!("the nodes say of failed calls: {kinds:#?}")
}

/// The connection is reset, and a record of it says that its root is gone.
fn ended_by_the_root(mesh: &Mesh, early: &mut Conn) -> Result<()> {
    let source = early.local()?;
    let ended = early.expect_reset();
    let mut records = Vec::new();
    for node in [mesh.node(0), mesh.node(1)] {
        let record = node.wait_flow(CHANGE_LIMIT, |flow| {
            flow.source_address.is_some_and(|at| {
                at.port() == source.port()
                    || flow.destination_address.is_some_and(|at| at.port() == 7 && at.is_ipv4())
            })
        })?;
        records.push(record);
    }
    let told = || records.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    ended.map_err(anyhow::Error::msg).with_context(told)?;
    // Whoever notices first writes it; the other side sees a reset.
    ensure!(
        records.iter().any(|flow| flow.reason == "root-removed" && flow.verdict == "denied"),
        "{}",
        told()
    );
    Ok(())
}
