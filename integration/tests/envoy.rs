//! A second implementation at the other end of the wire: Envoy, as Istio's waypoints configure it, with certificates of our CA.

use std::{fs, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    CallError, Mesh, Pod, PodSpec, Scenario, Serve, ServiceSpec, Skip, Stage, node,
    peers::{
        Peer, cache_dir,
        envoy::{Destination, Envoy, Expect, HboneClient, HboneServer, Tls},
    },
    sandbox::{self, Place},
};
use pem::Pem;

#[path = "support/credentials.rs"]
mod credentials;

const BULK: u64 = 16 << 20;
const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = node::or_program(aquifer::main) {
        return code;
    }
    // Inside the sandbox there is no network to fetch it from.
    if sandbox::enter() == Place::Outside
        && let Err(error) = Envoy::fetch(&cache_dir())
    {
        eprintln!("{error}");
    }
    aquifer_integration::main(&[
        Scenario {
            name: "envoy_serves_a_pod",
            story: "A captured pod's calls reach a pod whose port 15008 is Envoy's, in v4 and v6, in a tunnel and nowhere else.",
            run: envoy_serves_a_pod,
        },
        Scenario {
            name: "envoy_calls_a_pod",
            story: "A call out of Envoy reaches a captured pod; the policy of Aquifer's side allows and denies it by its identity.",
            run: envoy_calls_a_pod,
        },
        Scenario {
            name: "envoy_names_a_service",
            story: "A request that names a Service by host name reaches its target port; baggage in it decides nothing.",
            run: envoy_names_a_service,
        },
        Scenario {
            name: "ends_pass_through_envoy",
            story: "A server that speaks first and a client that half-closes work with Envoy at either end.",
            run: ends_pass_through_envoy,
        },
        Scenario {
            name: "a_server_of_another_identity_is_refused",
            story: "Aquifer gives no byte to an Envoy that shows another workload's certificate, or one of a strange authority.",
            run: a_server_of_another_identity_is_refused,
        },
        Scenario {
            name: "envoy_refuses_what_it_does_not_expect",
            story: "An Envoy that expects other identities takes Aquifer neither as client nor as server, and the record says where.",
            run: envoy_refuses_what_it_does_not_expect,
        },
        Scenario {
            name: "a_client_of_another_authority_is_refused",
            story: "Aquifer takes no tunnel from an Envoy whose certificate a strange authority signed.",
            run: a_client_of_another_authority_is_refused,
        },
        Scenario {
            name: "one_stream_a_tunnel_is_enough",
            story: "A peer that lets one stream be open in a tunnel serves 50 connections at once, and 50 more after them.",
            run: one_stream_a_tunnel_is_enough,
        },
    ])
}

fn envoy_serves_a_pod(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1).served_by_another())?;
    let (http, source, sink) = (
        server.serve(80, Serve::Http)?,
        server.serve(1, Serve::Source(BULK))?,
        server.serve(2, Serve::Sink)?,
    );
    mesh.start()?;
    let _envoy = serve(&mesh, &server, "[::]:15008", &client.identity(), 100)?;
    let wire = mesh.bed().wire()?;

    for to in [http.v4(), http.v6()] {
        let reply = client.http_get(to)?;
        ensure!(reply.status == 200 && reply.pod == "shop/server", "{to} answered {reply:?}");
        let flow = mesh.node(0).wait_flow(SOON, |flow| flow.destination_address == Some(to))?;
        ensure!(
            flow.verdict == "allowed" && flow.path == "tunnel" && flow.tls && flow.bytes_received > 0,
            "{flow}"
        );
        ensure!(flow.destination_identity == server.identity(), "it is {}", flow.destination_identity);
    }
    client.download(source.v4(), BULK)?;
    client.upload(sink.v6(), BULK)?;
    wire.seen()?.expect_only_tunnels(2 * BULK)?;
    Ok(())
}

fn envoy_calls_a_pod(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let caller = mesh.pod(PodSpec::new("shop/caller").on(0).served_by_another())?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let http = server.serve(80, Serve::Http)?;
    mesh.policy("only-caller", &allow(&caller.identity()))?;
    mesh.start()?;
    let (_envoy, entry) = call(&mesh, &caller, &server.identity(), http.v4())?;
    let wire = mesh.bed().wire()?;

    let reply = caller.http_get(entry)?;
    ensure!(reply.status == 200 && reply.pod == "shop/server", "{reply:?}");
    ensure!(reply.client.is_some_and(|seen| seen.ip() == caller.v4()), "it saw {:?}", reply.client);
    let flow = mesh.destination_flow(&caller, &server)?;
    ensure!(flow.verdict == "allowed" && flow.path == "tunnel" && flow.tls, "{flow}");
    ensure!(flow.source_identity == caller.identity(), "it is {}", flow.source_identity);
    wire.seen()?.expect_only_tunnels(reply.body.len() as u64)?;

    let accepted = http.accepted();
    mesh.policy("only-caller", &allow("spiffe://cluster.local/ns/shop/sa/somebody-else"))?;
    let flow = aquifer_integration::wait_for("the policy to hold", SOON, || {
        let refused = caller.http_get(entry).is_err();
        let flows = mesh.node(1).flows()?;
        Ok(flows.into_iter().rfind(|flow| refused && flow.verdict == "denied"))
    })?;
    ensure!(flow.reason == "no-allow-match" && flow.source_identity == caller.identity(), "{flow}");
    let later = http.accepted();
    ensure!(caller.http_get(entry).is_err(), "it was refused, and now it is not");
    ensure!(http.accepted() == later && later >= accepted, "a refused call must not reach the application");
    Ok(())
}

fn envoy_names_a_service(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let caller = mesh.pod(PodSpec::new("shop/caller").on(0).served_by_another())?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1).named_port("http", 8080))?;
    mesh.service(&ServiceSpec::new("shop/web").vip([10, 96, 0, 1]).port(80, "http"))?;
    let http = web.serve(8080, Serve::Http)?;
    mesh.start()?;
    let lies =
        [("baggage", "k8s.namespace.name=bank,k8s.pod.name=vault"), ("forwarded", "for=\"192.0.2.1:1\"")];
    let client = HboneClient {
        authority: "web.shop.svc.cluster.local:80".into(),
        headers: lies.map(|(name, value)| (name.into(), value.into())).into(),
        ..client_of(&mesh, &caller, &web.identity(), http.v6())?
    };
    let _envoy = envoy()?.client(caller.ns(), mesh.dir(), "envoy-caller", &client)?;

    let reply = caller.http_get(client.listen)?;
    ensure!(
        reply.pod == "shop/web" && reply.client.is_some_and(|seen| seen.ip() == caller.v6()),
        "{reply:?}"
    );
    let flow = mesh.destination_flow(&caller, &web)?;
    ensure!(
        flow.destination_address == Some(http.v6()) && flow.source_identity == caller.identity(),
        "{flow}"
    );
    ensure!(flow.source_address.is_some_and(|source| source.ip() == caller.v6()), "{flow}");
    Ok(())
}

fn ends_pass_through_envoy(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let ours = mesh.pod(PodSpec::new("shop/ours").on(0))?;
    let theirs = mesh.pod(PodSpec::new("shop/theirs").on(1).served_by_another())?;
    let servers = [&ours, &theirs].map(|pod| -> Result<_> {
        Ok((pod.serve(25, Serve::Greet(b"220 hello".to_vec()))?, pod.serve(9, Serve::AfterEnd)?))
    });
    let [near, far] = servers;
    let ((near_greeter, near_sink), (far_greeter, far_sink)) = (near?, far?);
    mesh.start()?;
    let _server = serve(&mesh, &theirs, "0.0.0.0:15008", &ours.identity(), 100)?;

    let talk = |caller: &Pod, greeter: SocketAddr| -> Result<()> {
        let mut conn = caller.connect(greeter)?;
        ensure!(conn.receive(9)? == b"220 hello", "the server did not speak first");
        Ok(conn.ping()?)
    };
    let half_close = |caller: &Pod, sink: SocketAddr| -> Result<()> {
        let mut conn = caller.connect(sink)?;
        conn.send(b"the whole question")?;
        conn.finish()?;
        ensure!(conn.receive_to_end()? == b"the whole question", "the answer after the end was lost");
        Ok(())
    };
    talk(&ours, far_greeter.v4()).context("Aquifer calls, the server speaks first")?;
    half_close(&ours, far_sink.v4()).context("Aquifer calls and half-closes")?;
    for (name, server) in [("envoy-greeter", &near_greeter), ("envoy-sink", &near_sink)] {
        let client = client_of(&mesh, &theirs, &ours.identity(), server.v4())?;
        let _envoy = envoy()?.client(theirs.ns(), mesh.dir(), name, &client)?;
        match name {
            "envoy-greeter" => {
                talk(&theirs, client.listen).context("Envoy calls, the server speaks first")?
            }
            _ => half_close(&theirs, client.listen).context("Envoy calls and half-closes")?,
        }
    }
    for sink in [&near_sink, &far_sink] {
        let ended = sink.wait_ended(1, SOON)?;
        ensure!(ended.outcome.is_ok() && ended.received == ended.sent, "{ended:?}");
    }
    Ok(())
}

fn a_server_of_another_identity_is_refused(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let servers = [
        mesh.pod(PodSpec::new("shop/impostor").on(1).served_by_another())?,
        mesh.pod(PodSpec::new("shop/stranger").on(1).served_by_another())?,
    ];
    mesh.start()?;
    let dir = stage.dir();
    let ours = mesh.ca_dir();
    let leaves = [
        (&ours, "spiffe://cluster.local/ns/shop/sa/another".to_owned(), "unexpected-identity"),
        (&dir.join("strange-ca"), servers[1].identity(), "unknown-root"),
    ];
    for (server, (ca, identity, reason)) in servers.iter().zip(leaves) {
        let http = server.serve(80, Serve::Http)?;
        let _envoy = envoy()?.server(
            server.ns(),
            dir,
            &format!("envoy-{}", server.name()),
            &HboneServer {
                listen: "0.0.0.0:15008".parse()?,
                tls: signed_by(ca, &mesh, server, &identity)?,
                clients: Expect::TrustDomain("cluster.local".into()),
                to: Destination::Authority,
                max_streams: 100,
                threads: 1,
            },
        )?;
        let called = client.http_get(http.v4());
        ensure!(matches!(called, Err(CallError::Reset { .. })), "{} was called: {called:?}", server.name());
        let flow = mesh.source_flow(&client, server)?;
        ensure!(flow.verdict == "failed" && flow.hop == "tls" && flow.bytes_received == 0, "{flow}");
        ensure!(flow.reason == reason && !flow.error.is_empty(), "{flow}");
        ensure!(http.accepted() == 0, "{} was reached", server.name());
    }
    Ok(())
}

fn envoy_refuses_what_it_does_not_expect(stage: &mut Stage) -> Result<()> {
    let nobody = "spiffe://cluster.local/ns/shop/sa/nobody";
    let mut mesh = stage.mesh()?;
    let ours = mesh.pod(PodSpec::new("shop/ours").on(0))?;
    let theirs = mesh.pod(PodSpec::new("shop/theirs").on(1).served_by_another())?;
    let (near, far) = (ours.serve(80, Serve::Http)?, theirs.serve(80, Serve::Http)?);
    mesh.start()?;

    let _server = serve(&mesh, &theirs, "0.0.0.0:15008", nobody, 100)?;
    let called = ours.http_get(far.v4());
    ensure!(
        matches!(called, Err(CallError::Reset { .. })),
        "Envoy took a client it must not take: {called:?}"
    );
    let flow = mesh.source_flow(&ours, &theirs)?;
    ensure!(flow.verdict == "failed" && flow.hop == "tls" && !flow.error.is_empty(), "{flow}");

    let (_client, entry) = call(&mesh, &theirs, nobody, near.v4())?;
    let called = theirs.http_get(entry);
    ensure!(called.is_err(), "Envoy took a server it must not take: {called:?}");
    let flow = mesh.node(0).wait_flow(SOON, |flow| !flow.is_source())?;
    ensure!(flow.verdict == "failed" && flow.hop == "tls" && !flow.error.is_empty(), "{flow}");
    ensure!((near.accepted(), far.accepted()) == (0, 0), "an application was reached");
    Ok(())
}

fn a_client_of_another_authority_is_refused(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let caller = mesh.pod(PodSpec::new("shop/caller").on(0).served_by_another())?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let http = server.serve(80, Serve::Http)?;
    mesh.start()?;
    let mut client = client_of(&mesh, &caller, &server.identity(), http.v4())?;
    client.tls = signed_by(&stage.dir().join("strange-ca"), &mesh, &caller, &caller.identity())?;
    let _envoy = envoy()?.client(caller.ns(), mesh.dir(), "envoy-stranger", &client)?;
    ensure!(caller.http_get(client.listen).is_err(), "a strange authority's certificate was taken");
    let flow = mesh.node(1).wait_flow(SOON, |flow| !flow.is_source() && flow.verdict == "failed")?;
    ensure!(flow.hop == "tls" && flow.reason == "unknown-root" && flow.source_identity.is_empty(), "{flow}");
    ensure!(http.accepted() == 0, "the application was reached");
    Ok(())
}

fn one_stream_a_tunnel_is_enough(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1).served_by_another())?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let _envoy = serve(&mesh, &server, "0.0.0.0:15008", &client.identity(), 1)?;
    for round in 1..=2 {
        let mut crowd = client.crowd(echo.v4(), 50)?;
        crowd.ping_all()?;
        ensure!(echo.open() == 50, "{} of 50 connections stand", echo.open());
        drop(crowd);
        echo.wait_ended(50 * round, SOON)?;
    }
    let flows = mesh.node(0).flows()?;
    let failed = flows.iter().find(|flow| flow.verdict != "allowed");
    ensure!(failed.is_none(), "{}", failed.map(ToString::to_string).unwrap_or_default());
    Ok(())
}

/// The binary that `main` fetched.
fn envoy() -> Result<Envoy> {
    Envoy::fetched(&cache_dir()).map_err(|error| match error.is_unavailable() {
        true => Skip(error.to_string()).into(),
        false => error.into(),
    })
}

/// Envoy as the HBONE server of a pod, in its namespace and with its identity.
fn serve(mesh: &Mesh, pod: &Pod, listen: &str, takes: &str, max_streams: u32) -> Result<Peer> {
    let server = HboneServer {
        listen: listen.parse()?,
        tls: signed_by(&mesh.ca_dir(), mesh, pod, &pod.identity())?,
        clients: Expect::Identities(vec![takes.into()]),
        to: Destination::Authority,
        max_streams,
        threads: 1,
    };
    let name = format!("envoy-{}", pod.name());
    envoy()?.server(pod.ns(), mesh.dir(), &name, &server).context("Envoy as HBONE server")
}

/// Envoy as HBONE client in a pod's namespace, with its identity: what is sent to the address comes out at `to`.
fn call(mesh: &Mesh, pod: &Pod, takes: &str, to: SocketAddr) -> Result<(Peer, SocketAddr)> {
    let client = client_of(mesh, pod, takes, to)?;
    let name = format!("envoy-client-{}", pod.name());
    let envoy = envoy()?.client(pod.ns(), mesh.dir(), &name, &client).context("Envoy as HBONE client")?;
    Ok((envoy, client.listen))
}

fn client_of(mesh: &Mesh, pod: &Pod, takes: &str, to: SocketAddr) -> Result<HboneClient> {
    Ok(HboneClient {
        listen: "127.0.0.1:9000".parse()?,
        gateway: (to.ip(), 15008).into(),
        authority: to.to_string(),
        tls: signed_by(&mesh.ca_dir(), mesh, pod, &pod.identity())?,
        servers: Expect::Identities(vec![takes.into()]),
        headers: Vec::new(),
        threads: 1,
    })
}

/// A certificate of the authority in `ca`, as PEM files, with the mesh's roots to expect of others.
fn signed_by(ca: &Path, mesh: &Mesh, pod: &Pod, identity: &str) -> Result<Tls> {
    let issued = credentials::issue(ca, identity)?;
    let file = |part: &str| mesh.dir().join(format!("{}-{part}.pem", pod.name()));
    let tls = Tls { chain: file("chain"), key: file("key"), roots: mesh.ca_dir().join("root-cert.pem") };
    let chain: Vec<_> = issued.chain.iter().map(|der| Pem::new("CERTIFICATE", der.as_ref())).collect();
    fs::write(&tls.chain, pem::encode_many(&chain))?;
    fs::write(&tls.key, pem::encode(&Pem::new("PRIVATE KEY", issued.key.secret_der())))?;
    Ok(tls)
}

/// A policy of namespace `shop` that allows one identity and nobody else.
fn allow(identity: &str) -> String {
    let principal = identity.trim_start_matches("spiffe://");
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: only-caller\n  namespace: shop\nspec:\n  \
         action: ALLOW\n  rules:\n  - from:\n    - source:\n        principals: [\"{principal}\"]\n"
    )
}
