//! Who reaches whom, by which path, under which address.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{Families, FlowRecord, Pod, PodSpec, Reply, Serve, ServiceSpec, Stage};

use crate::expect_counted;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1));

/// The answer came from this pod, which saw this client.
fn expect_answer(reply: &Reply, server: &Pod, client: IpAddr) -> Result<()> {
    ensure!(reply.status == 200 && reply.pod == server.full_name(), "another answered: {reply:?}");
    ensure!(
        reply.client.is_some_and(|seen| seen.ip() == client),
        "it saw another client than {client}: {reply:?}"
    );
    Ok(())
}

/// An allowed call between two pods of the mesh, whose identities were proved.
fn expect_identities(flow: &FlowRecord, source: &Pod, destination: &Pod) -> Result<()> {
    ensure!(
        flow.verdict == "allowed"
            && flow.source_identity == source.identity()
            && flow.destination_identity == destination.identity()
            && flow.source_address.is_some_and(|at| source.addresses().any(|own| own == at.ip())),
        "{flow:#?}"
    );
    Ok(())
}

pub(crate) fn across_nodes_in_a_tunnel(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    for (to, from) in [(http.v4(), client.v4()), (http.v6(), client.v6())] {
        let reply = client.http_get(to)?;
        expect_answer(&reply, &web, from)?;
        wire.take()?.expect_only_tunnels(reply.body.len() as u64)?;
    }
    expect_identities(&mesh.source_flow(&client, &web)?, &client, &web)?;
    expect_identities(&mesh.destination_flow(&client, &web)?, &client, &web)?;
    for reporter in ["source", "destination"] {
        expect_counted(&mesh, reporter, &client, &web, "tunnel", 2)?;
    }
    Ok(())
}

pub(crate) fn on_one_node_inside_the_process(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let web = mesh.pod(PodSpec::new("shop/web"))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let cables = [mesh.bed().cable(&client)?, mesh.bed().cable(&web)?, mesh.bed().wire()?];
    for (to, from) in [(http.v4(), client.v4()), (http.v6(), client.v6())] {
        expect_answer(&client.http_get(to)?, &web, from)?;
    }
    for cable in &cables {
        cable.seen()?.expect_nothing()?;
    }
    expect_identities(&mesh.source_flow(&client, &web)?, &client, &web)?;
    expect_identities(&mesh.destination_flow(&client, &web)?, &client, &web)?;
    for reporter in ["source", "destination"] {
        expect_counted(&mesh, reporter, &client, &web, "same-node", 2)?;
    }
    Ok(())
}

pub(crate) fn on_one_node_in_a_tunnel(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    mesh.args(&["--same-node", "mtls"]);
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let web = mesh.pod(PodSpec::new("shop/web"))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let cable = mesh.bed().cable(&web)?;
    for (to, from) in [(http.v4(), client.v4()), (http.v6(), client.v6())] {
        let reply = client.http_get(to)?;
        expect_answer(&reply, &web, from)?;
        cable.take()?.expect_only_tunnels(reply.body.len() as u64)?;
    }
    expect_identities(&mesh.destination_flow(&client, &web)?, &client, &web)?;
    for reporter in ["source", "destination"] {
        expect_counted(&mesh, reporter, &client, &web, "tunnel", 2)?;
    }
    Ok(())
}

pub(crate) fn out_of_the_mesh_in_clear(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let legacy = mesh.pod(PodSpec::new("legacy/web").on(1).outside_the_mesh())?;
    let http = legacy.serve(8080, Serve::Http)?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    for (to, from) in [(http.v4(), client.v4()), (http.v6(), client.v6())] {
        let reply = client.http_get(to)?;
        expect_answer(&reply, &legacy, from)?;
        let seen = wire.take()?;
        seen.expect_clear(to, reply.body.len() as u64)?;
        ensure!(seen.tunnel.packets == 0, "a tunnel to a pod outside the mesh:\n{seen}");
    }
    let flow = mesh.source_flow(&client, &legacy)?;
    ensure!(flow.verdict == "allowed" && flow.destination_identity.is_empty() && !flow.tls, "{flow:#?}");
    expect_counted(&mesh, "source", &client, &legacy, "plaintext", 2)
}

pub(crate) fn into_the_mesh_under_permissive(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    for (to, from) in [(http.v4(), stranger.v4()), (http.v6(), stranger.v6())] {
        let reply = stranger.http_get(to)?;
        expect_answer(&reply, &web, from)?;
        wire.take()?.expect_clear(to, reply.body.len() as u64)?;
    }
    let flow = mesh.destination_flow(&stranger, &web)?;
    ensure!(flow.verdict == "allowed" && flow.source_identity.is_empty() && !flow.tls, "{flow:#?}");
    expect_counted(&mesh, "destination", &stranger, &web, "plaintext", 2)
}

pub(crate) fn into_the_mesh_under_strict(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let stranger = mesh.pod(PodSpec::new("legacy/client").on(0).outside_the_mesh())?;
    let member = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.policy(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: strict\n  namespace: shop\n\
         spec:\n  mtls:\n    mode: STRICT\n",
    )?;
    mesh.start()?;
    for to in [http.v4(), http.v6()] {
        let begun = Instant::now();
        let refused = stranger.http_get(to);
        ensure!(refused.as_ref().is_err_and(|error| error.is_cut()), "STRICT let a stranger in: {refused:?}");
        ensure!(begun.elapsed() < Duration::from_secs(1), "it took {:?} to refuse", begun.elapsed());
        member.http_get(to)?;
    }
    ensure!(http.accepted() == 2, "the application accepted {} connections", http.accepted());
    let flow = mesh.destination_flow(&stranger, &web)?;
    ensure!(
        flow.verdict == "denied"
            && flow.reason == "strict-mtls"
            && flow.policy.starts_with("PeerAuthentication shop/strict")
            && flow.closed_by == "proxy",
        "{flow:#?}"
    );
    let denied = mesh.node(1).metrics()?.sum("aquifer_policy_denials_total", &[("reason", "strict-mtls")]);
    ensure!(denied == 2.0, "{denied} denials are counted");
    Ok(())
}

pub(crate) fn services_by_address(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1).named_port("http", 8080))?;
    mesh.service(&ServiceSpec::new("shop/web").vip(VIP).vip(VIP6).port(80, "http").port(81, 8081))?;
    mesh.service(&ServiceSpec::new("shop/headless").select("app", "web").port(80, 8080))?;
    let (_http, _other) = (web.serve(8080, Serve::Http)?, web.serve(8081, Serve::Http)?);
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    let through_vip = [(VIP, 80), (VIP6, 80), (VIP, 81), (VIP6, 81)];
    for (ip, port) in through_vip {
        let reply = client.http_get((ip, port).into())?;
        expect_answer(&reply, &web, if ip.is_ipv4() { client.v4() } else { client.v6() })?;
        wire.take()?.expect_only_tunnels(reply.body.len() as u64)?;
        let flow = mesh
            .node(0)
            .wait_flow(crate::SOON, |flow| flow.original_destination == Some((ip, port).into()))?;
        ensure!(flow.destination_service == "web.shop.svc.cluster.local", "{flow:#?}");
        ensure!(flow.destination_address.is_some_and(|at| at.port() == 8000 + port), "{flow:#?}");
    }
    // What a resolver answers for a headless Service are the pods' own addresses, with the pods' own ports.
    for to in web.addresses() {
        client.http_get((to, 8080).into())?;
    }
    wire.take()?.expect_only_tunnels(1)?;
    let closed = client.connect((VIP, 82).into()).map(|mut conn| conn.expect_reset());
    ensure!(!matches!(closed, Ok(Err(_))), "a port that the Service does not have: {closed:?}");
    let flow = mesh.node(0).wait_flow(crate::SOON, |flow| flow.reason == "no-such-port")?;
    ensure!(flow.verdict == "failed" && flow.original_destination == Some((VIP, 82).into()), "{flow:#?}");
    Ok(())
}

pub(crate) fn a_service_half_in_the_mesh(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let replica = |name: &str, node| PodSpec::new(name).on(node).label("app", "web");
    let pods = [
        (mesh.pod(replica("shop/far", 1))?, "tunnel"),
        (mesh.pod(replica("shop/near", 0))?, "same-node"),
        (mesh.pod(replica("shop/outside", 1).outside_the_mesh())?, "plaintext"),
    ];
    let _servers = pods.iter().map(|(pod, _)| pod.serve(8080, Serve::Http)).collect::<Result<Vec<_>>>()?;
    mesh.service(&ServiceSpec::new("shop/web").vip(VIP).port(80, 8080))?;
    mesh.start()?;
    let mut answers = HashMap::<String, usize>::new();
    // Of 90 random choices among 3, one in 10^15 times one is never made.
    for _ in 0..90 {
        *answers.entry(client.http_get((VIP, 80).into())?.pod).or_default() += 1;
    }
    for (pod, path) in &pods {
        let Some(&count) = answers.get(&pod.full_name()) else {
            bail!("{} was never chosen", pod.full_name())
        };
        expect_counted(&mesh, "source", &client, pod, path, count)?;
    }
    Ok(())
}

pub(crate) fn services_without_an_endpoint(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1).families(Families::V4))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.service(&ServiceSpec::new("shop/web").vip(VIP).vip(VIP6).port(80, 8080))?;
    let empty: IpAddr = [10, 96, 0, 2].into();
    mesh.service(&ServiceSpec::new("shop/empty").vip(empty).port(80, 8080))?;
    mesh.start()?;
    client.http_get((VIP, 80).into())?;
    for to in [SocketAddr::from((empty, 80)), (VIP6, 80).into()] {
        let begun = Instant::now();
        let refused = client.http_get(to);
        ensure!(refused.as_ref().is_err_and(|error| error.is_cut()), "{to} answered {refused:?}");
        ensure!(begun.elapsed() < Duration::from_secs(1), "it took {:?} to refuse {to}", begun.elapsed());
        let flow = mesh.node(0).wait_flow(crate::SOON, |flow| flow.original_destination == Some(to))?;
        ensure!(flow.verdict == "failed" && flow.reason == "no-endpoint", "{flow:#?}");
    }
    ensure!(http.accepted() == 1, "the application accepted {} connections", http.accepted());
    let labels = [("reporter", "source"), ("response_flags", "UH")];
    let closed = mesh.node(0).metrics()?.sum("istio_tcp_connections_closed_total", &labels);
    ensure!(closed == 2.0, "{closed} calls are counted without an upstream");
    Ok(())
}

pub(crate) fn pods_of_one_family(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let both = mesh.pod(PodSpec::new("shop/both").on(0))?;
    let mut expected = 0;
    for (name, families) in [("four", Families::V4), ("six", Families::V6)] {
        let client = mesh.pod(PodSpec::new(&format!("shop/{name}-client")).on(0).families(families))?;
        let server = mesh.pod(PodSpec::new(&format!("shop/{name}-server")).on(1).families(families))?;
        let _http = server.serve(8080, Serve::Http)?;
        if expected == 0 {
            mesh.start()?;
        }
        let wire = mesh.bed().wire()?;
        for caller in [&client, &both] {
            let reply = caller.http_get((server.ip(), 8080).into())?;
            let from = if server.ip().is_ipv4() { caller.v4() } else { caller.v6() };
            expect_answer(&reply, &server, from)?;
            expected += reply.body.len() as u64;
        }
        wire.seen()?.expect_only_tunnels(expected / 2)?;
    }
    Ok(())
}

pub(crate) fn a_pod_calls_itself(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web"))?;
    mesh.service(&ServiceSpec::new("shop/web").vip(VIP).vip(VIP6).port(80, 8080))?;
    let _http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let cable = mesh.bed().cable(&web)?;
    for (vip, own) in [(VIP, web.v4()), (VIP6, web.v6())] {
        expect_answer(&web.http_get((vip, 80).into())?, &web, own)?;
    }
    cable.seen()?.expect_nothing()?;
    for reporter in ["source", "destination"] {
        expect_counted(&mesh, reporter, &web, &web, "same-node", 2)?;
    }
    // Its own addresses are no business of the mesh: such calls never leave the pod.
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    for own in web.addresses().chain(loopback) {
        expect_answer(&web.http_get((own, 8080).into())?, &web, own)?;
    }
    expect_counted(&mesh, "source", &web, &web, "same-node", 2)?;

    mesh.node_mut(0).terminate()?;
    mesh.node_mut(0).wait_exit(Duration::from_secs(10))?;
    mesh.node_mut(0).config_mut().args.extend(["--same-node".into(), "mtls".into()]);
    mesh.node_mut(0).restart()?;
    mesh.node_mut(0).wait_ready(aquifer_integration::node::START_LIMIT)?;
    for (vip, own) in [(VIP, web.v4()), (VIP6, web.v6())] {
        expect_answer(&web.http_get((vip, 80).into())?, &web, own)?;
    }
    let flow = mesh.node(0).wait_flow(crate::SOON, |flow| flow.path == "tunnel" && !flow.is_source())?;
    expect_identities(&flow, &web, &web)
}

pub(crate) fn out_of_the_mesh_networks(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    let node = &mesh.bed().nodes()[1];
    let listener = node.ns().run(|| TcpListener::bind("[::]:7777"))?;
    let server = thread::spawn(move || -> Result<Vec<SocketAddr>> {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (mut stream, client) = listener.accept()?;
            let mut heard = [0; 5];
            stream.read_exact(&mut heard)?;
            stream.write_all(&heard)?;
            seen.push(SocketAddr::new(client.ip().to_canonical(), client.port()));
        }
        Ok(seen)
    });
    for ip in node.wire_addresses() {
        let mut conn = client.connect((ip, 7777).into())?;
        conn.send(b"hello")?;
        ensure!(conn.receive_to_end()? == b"hello", "the answer differs");
        drop(conn);
        let flow = mesh
            .node(0)
            .wait_flow(crate::SOON, |flow| flow.original_destination == Some((ip, 7777).into()))?;
        ensure!(flow.path == "passthrough" && flow.verdict == "allowed" && !flow.tls, "{flow:#?}");
        wire.take()?.expect_clear((ip, 7777).into(), 10)?;
    }
    let seen =
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?.context("the server failed")?;
    let seen: Vec<_> = seen.iter().map(SocketAddr::ip).collect();
    ensure!(seen == [client.v4(), client.v6()], "the server saw {seen:?}");
    let labels =
        [("reporter", "source"), ("aquifer_path", "passthrough"), ("connection_security_policy", "unknown")];
    let opened = mesh.node(0).metrics()?.sum("istio_tcp_connections_opened_total", &labels);
    ensure!(opened == 2.0, "{opened} connections are counted");
    Ok(())
}

pub(crate) fn an_unknown_pod_is_refused(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;
    for to in [SocketAddr::from(([10, 2, 0, 200], 80)), ([0xfd00, 2, 0, 0, 0, 0, 0, 200], 80).into()] {
        let begun = Instant::now();
        let mut conn = client.connect(to)?;
        conn.send(b"secret")?;
        conn.expect_reset().map_err(anyhow::Error::msg)?;
        let took = begun.elapsed();
        ensure!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "it took {took:?}");
        let flow = mesh.node(0).wait_flow(crate::SOON, |flow| flow.original_destination == Some(to))?;
        ensure!(flow.verdict == "failed" && flow.reason == "unknown-destination", "{flow:#?}");
    }
    wire.seen()?.expect_nothing()
}
