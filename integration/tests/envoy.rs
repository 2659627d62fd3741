//! A second implementation at the other end of the wire: Envoy, as Istio's waypoints configure it, with certificates of our CA.

use std::{fs, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    CallError, Mesh, Pod, PodSpec, Scenario, Serve, Skip, Stage, node,
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
    let _envoy = serve(&mesh, &server, "[::]:15008", &server.identity(), &client.identity(), 100)?;
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
    let (_envoy, entry) = call(&mesh, &caller, &caller.identity(), &server.identity(), http.v4())?;
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

    let _server = serve(&mesh, &theirs, "0.0.0.0:15008", &theirs.identity(), nobody, 100)?;
    let called = ours.http_get(far.v4());
    ensure!(
        matches!(called, Err(CallError::Reset { .. })),
        "Envoy took a client it must not take: {called:?}"
    );
    let flow = mesh.source_flow(&ours, &theirs)?;
    ensure!(flow.verdict == "failed" && flow.hop == "tls" && !flow.error.is_empty(), "{flow}");

    let (_client, entry) = call(&mesh, &theirs, &theirs.identity(), nobody, near.v4())?;
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
    let dir = stage.dir();
    let entry: SocketAddr = "127.0.0.1:9000".parse()?;
    let _envoy = envoy()?.client(
        caller.ns(),
        dir,
        "envoy-stranger",
        &HboneClient {
            listen: entry,
            gateway: (server.v4(), 15008).into(),
            authority: http.v4().to_string(),
            tls: signed_by(&dir.join("strange-ca"), &mesh, &caller, &caller.identity())?,
            servers: Expect::Identities(vec![server.identity()]),
            headers: Vec::new(),
            threads: 1,
        },
    )?;
    ensure!(caller.http_get(entry).is_err(), "a strange authority's certificate was taken");
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
    let _envoy = serve(&mesh, &server, "0.0.0.0:15008", &server.identity(), &client.identity(), 1)?;
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

/// Envoy as the HBONE server of a pod, in its namespace.
fn serve(mesh: &Mesh, pod: &Pod, listen: &str, shows: &str, takes: &str, max_streams: u32) -> Result<Peer> {
    let server = HboneServer {
        listen: listen.parse()?,
        tls: tls(mesh, pod, shows)?,
        clients: Expect::Identities(vec![takes.into()]),
        to: Destination::Authority,
        max_streams,
        threads: 1,
    };
    let name = format!("envoy-{}", pod.name());
    envoy()?.server(pod.ns(), mesh.dir(), &name, &server).context("Envoy as HBONE server")
}

/// Envoy as HBONE client in a pod's namespace: what is sent to the address comes out at `to`.
fn call(mesh: &Mesh, pod: &Pod, shows: &str, takes: &str, to: SocketAddr) -> Result<(Peer, SocketAddr)> {
    let listen: SocketAddr = "127.0.0.1:9000".parse()?;
    let client = HboneClient {
        listen,
        gateway: (to.ip(), 15008).into(),
        authority: to.to_string(),
        tls: tls(mesh, pod, shows)?,
        servers: Expect::Identities(vec![takes.into()]),
        headers: Vec::new(),
        threads: 1,
    };
    let name = format!("envoy-client-{}", pod.name());
    Ok((envoy()?.client(pod.ns(), mesh.dir(), &name, &client).context("Envoy as HBONE client")?, listen))
}

fn tls(mesh: &Mesh, pod: &Pod, identity: &str) -> Result<Tls> {
    signed_by(&mesh.ca_dir(), mesh, pod, identity)
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
