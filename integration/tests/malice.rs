//! Malicious peers and pods: whatever they send, they reach nothing, are nobody else, and disturb nobody.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    CallError, FlowRecord, Mesh, Pod, PodSpec, Scenario, Serve, Server, Stage, wait_for,
};

#[path = "support/credentials.rs"]
mod credentials;
#[path = "support/raw.rs"]
mod raw;

#[path = "malice/handshakes.rs"]
mod handshakes;

use raw::RawTunnel;

const SOON: Duration = Duration::from_secs(10);
const PROXY_PORTS: [u16; 3] = [15001, 15006, 15008];

fn main() -> ExitCode {
    if let Some(code) = aquifer_integration::node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "the_proxys_ports_lead_nowhere",
            story: "Calls to 15001, 15006 and 15008 from inside and outside the mesh are refused, and none runs in a circle.",
            run: the_proxys_ports_lead_nowhere,
        },
        Scenario {
            name: "a_tunnel_leads_only_to_its_pod",
            story: "Loopback, another pod, a strange Service or a port of the proxy as authority is answered with 400 and reaches nobody.",
            run: a_tunnel_leads_only_to_its_pod,
        },
        Scenario {
            name: "words_are_no_identity",
            story: "Baggage, forwarded and other headers change neither the identity nor the source address that policy and application see.",
            run: words_are_no_identity,
        },
        Scenario {
            name: "odd_requests_are_answered",
            story: "Authorities and headers that mean nothing are refused one by one, and the tunnel lives on.",
            run: odd_requests_are_answered,
        },
        Scenario {
            name: "floods_hurt_only_the_flooder",
            story: "Header floods and thousands of abandoned requests end at most their own tunnel; others are served meanwhile.",
            run: floods_hurt_only_the_flooder,
        },
        Scenario {
            name: "garbage_is_refused_on_each_port",
            story: "Garbage and plaintext HTTP on the proxy's ports end soon and are recorded, and all goes on as before.",
            run: handshakes::garbage_is_refused_on_each_port,
        },
        Scenario {
            name: "no_certificate_of_others_is_taken",
            story: "No certificate, another authority's, another trust domain's, an expired or a future one opens no tunnel.",
            run: handshakes::no_certificate_of_others_is_taken,
        },
        Scenario {
            name: "silence_blocks_nobody",
            story: "400 connections that say nothing or half a hello end after the deadline, and an honest caller does not notice.",
            run: handshakes::silence_blocks_nobody,
        },
    ])
}

/// A captured server with an echo on 7, a captured client, and an attacker that nobody captures.
struct Scene {
    mesh: Mesh,
    client: Pod,
    server: Pod,
    attacker: Pod,
    echo: Server,
}

fn scene(stage: &Stage) -> Result<Scene> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let attacker = mesh.pod(PodSpec::new("shop/attacker").on(0).outside_the_mesh())?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    Ok(Scene { mesh, client, server, attacker, echo })
}

impl Scene {
    /// A tunnel from the attacker to the server, as the workload that the attacker's own certificate names.
    fn tunnel(&self) -> Result<RawTunnel> {
        let own = credentials::issue(&self.mesh.ca_dir(), &self.attacker.identity())?;
        RawTunnel::dial(&self.attacker, (self.server.v4(), 15008).into(), Some(&own))
    }

    /// The honest client still gets through, soon, and no worker was started anew.
    fn all_is_well(&self) -> Result<()> {
        for to in [self.echo.v4(), self.echo.v6()] {
            self.client.connect_within(to, SOON)?.ping().context("the honest client suffers")?;
        }
        for node in self.mesh.nodes() {
            ensure!(node.metrics()?.sum("aquifer_worker_restarts_total", &[]) == 0.0, "a worker died");
        }
        Ok(())
    }

    fn refusal(&self, reason: &str) -> Result<FlowRecord> {
        self.mesh
            .node(1)
            .wait_flow(SOON, |flow| !flow.is_source() && flow.reason == reason)
            .with_context(|| format!("no record says {reason}"))
    }
}

fn the_proxys_ports_lead_nowhere(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    for port in PROXY_PORTS {
        for ip in scene.server.addresses() {
            let to = SocketAddr::new(ip, port);
            let called = scene.client.connect(to).and_then(|mut conn| conn.ping());
            ensure!(called.is_err(), "a captured pod got through to {to}");
            let flow = scene.mesh.node(0).wait_flow(SOON, |flow| flow.original_destination == Some(to))?;
            ensure!(flow.reason == "proxy-port" && flow.verdict == "failed", "{flow}");
            let called = scene.attacker.connect(to).and_then(|mut conn| conn.ping());
            // On 15008 the answer is a TLS alert.
            let refused = called.as_ref().is_err_and(|error| !matches!(error, CallError::TimedOut { .. }));
            ensure!(refused, "an outsider got through to {to}: {called:?}");
        }
    }
    // The pod's own processes reach the listeners on its loopback, which is not captured.
    let loopback = ["127.0.0.1".parse()?, "::1".parse()?];
    for ip in scene.server.addresses().chain(loopback) {
        for port in PROXY_PORTS {
            let called = scene.server.connect((ip, port).into()).and_then(|mut conn| conn.ping());
            let refused = called.as_ref().is_err_and(|error| !matches!(error, CallError::TimedOut { .. }));
            ensure!(refused, "the pod itself got through to {ip}:{port}: {called:?}");
        }
    }
    scene.all_is_well()?;
    // A call that ran in a circle would leave a record for each turn.
    let flows = scene.mesh.node(1).flows()?;
    let odd =
        |flow: &&FlowRecord| flow.destination_address.is_some_and(|at| PROXY_PORTS.contains(&at.port()));
    let recorded: Vec<_> = flows.iter().filter(odd).map(ToString::to_string).collect();
    ensure!(recorded.len() <= 6 * PROXY_PORTS.len(), "18 calls left more records:\n{}", recorded.join("\n"));
    Ok(())
}

fn a_tunnel_leads_only_to_its_pod(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let elsewhere = scene.client.serve(7, Serve::Echo)?;
    let mut tunnel = scene.tunnel()?;
    let foreign = [
        "127.0.0.1:7".to_owned(),
        "[::1]:7".into(),
        "[::ffff:127.0.0.1]:7".into(),
        "0.0.0.0:7".into(),
        "[::]:7".into(),
        elsewhere.v4().to_string(),
        elsewhere.v6().to_string(),
        "169.254.169.254:80".into(),
        "localhost:7".into(),
        "server.shop.svc.cluster.local:7".into(),
    ];
    for authority in &foreign {
        let answer = tunnel.connect(authority, &[])?;
        ensure!(answer.status == 400, "{authority} was answered with {}", answer.status);
        ensure!(answer.reason.starts_with("wrong-authority"), "{authority}: reason {}", answer.reason);
    }
    for port in PROXY_PORTS {
        let answer = tunnel.connect(&SocketAddr::new(scene.server.v4(), port).to_string(), &[])?;
        ensure!(
            answer.status == 400 && answer.reason.starts_with("proxy-port"),
            "{} {}",
            answer.status,
            answer.reason
        );
    }
    ensure!(scene.echo.accepted() == 0 && elsewhere.accepted() == 0, "an application was reached");
    let mut answer = tunnel.connect(&scene.echo.v4().to_string(), &[])?;
    ensure!(answer.echo(&scene.attacker, "still here")? == "still here", "the tunnel is spoilt");
    let all = foreign.len() + PROXY_PORTS.len();
    let refused = wait_for("a record of each refusal", SOON, || {
        let count = scene.mesh.node(1).flows()?.iter().filter(|flow| flow.verdict == "failed").count();
        Ok((count >= all).then_some(count))
    })?;
    ensure!(refused == all, "{refused} records of {all} refusals");
    scene.all_is_well()
}

fn words_are_no_identity(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let http = scene.server.serve(80, Serve::Http)?;
    let lies = [
        (
            "baggage",
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=client,service.name=client",
        ),
        ("forwarded", &format!("for=\"{}:4711\"", scene.client.v4())),
        ("x-forwarded-for", &scene.client.v4().to_string()),
        ("x-forwarded-client-cert", &format!("URI={}", scene.client.identity())),
        ("x-istio-source", "waypoint"),
    ];
    let truth = |flow: &FlowRecord| -> Result<()> {
        ensure!(flow.source_identity == scene.attacker.identity(), "identity {}", flow.source_identity);
        ensure!(flow.source_pod == "attacker", "pod {}: {flow}", flow.source_pod);
        let source = flow.source_address.map(|at| at.ip());
        ensure!(source == Some(scene.attacker.v4()), "source {source:?}: {flow}");
        Ok(())
    };
    let mut answer = scene.tunnel()?.connect(&http.v4().to_string(), &lies)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.reason);
    let head = answer.exchange(&scene.attacker, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\n")?;
    let seen = format!("x-client: {}", scene.attacker.v4());
    ensure!(head.to_lowercase().contains(&seen), "the application saw somebody else:\n{head}");
    drop(answer);
    truth(&scene.mesh.node(1).wait_flow(SOON, |flow| flow.bytes_received > 0)?)?;

    let client = scene.client.identity();
    let principal = client.trim_start_matches("spiffe://");
    scene.mesh.policy(
        "only-client",
        &format!(
            "apiVersion: aquifer.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: only-client\n  namespace: shop\nspec:\n  \
             rules:\n  - from:\n    - source:\n        principals: [\"{principal}\"]\n        ipBlocks: [\"{}\"]\n",
            scene.client.v4()
        ),
    )?;
    let answer = wait_for("the policy to hold", SOON, || {
        let answer = scene.tunnel()?.connect(&http.v4().to_string(), &lies)?;
        Ok((answer.status != 200).then_some(answer))
    })?;
    ensure!(
        answer.status == 401 && answer.reason.starts_with("no-allow-match"),
        "{} {}",
        answer.status,
        answer.reason
    );
    truth(&scene.refusal("no-allow-match")?)?;
    scene.client.http_get(http.v4())?;
    Ok(())
}

fn odd_requests_are_answered(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let mut tunnel = scene.tunnel()?;
    let own = scene.echo.v4().to_string();
    let ip = scene.server.v4();
    for authority in [format!("{ip}"), format!("{ip}:0"), format!("{ip}:99999"), format!("user@{ip}:7")] {
        let answer = tunnel.connect(&authority, &[]);
        // A request that HTTP/2 itself forbids is reset instead.
        ensure!(!answer.as_ref().is_ok_and(|answer| answer.status != 400), "{authority}: {answer:?}");
    }
    let long = "x".repeat(8000);
    for headers in [("forwarded", "for=nonsense"), ("forwarded", long.as_str())] {
        let answer = tunnel.connect(&own, &[headers])?;
        ensure!(answer.status == 400, "{} was answered with {}", headers.0, answer.status);
    }
    for headers in
        [("baggage", long.as_str()), ("baggage", ",,=;=%zz,k8s.pod.name="), ("traceparent", "00-0-0-zz")]
    {
        let answer = tunnel.connect(&own, &[headers])?;
        ensure!(answer.status == 200, "words for metrics refuse nobody: {headers:?} {}", answer.status);
    }
    scene.all_is_well()
}

fn floods_hurt_only_the_flooder(stage: &mut Stage) -> Result<()> {
    let scene = scene(stage)?;
    let own = scene.echo.v4().to_string();
    let value = "x".repeat(1000);
    let names: Vec<_> = (0..200).map(|n| format!("x-flood-{n}")).collect();
    let flood: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    let mut standing = scene.client.connect(scene.echo.v4())?;
    standing.ping()?;
    for _ in 0..5 {
        let answer = scene.tunnel()?.connect(&own, &flood);
        ensure!(!answer.as_ref().is_ok_and(|answer| answer.status == 200), "200 kB of headers were taken");
    }
    let mut rapid = scene.tunnel()?;
    // It may be cut off before it is through.
    let _ = rapid.abandon(&own, 20_000);
    standing.ping()?;
    let mut tunnel = scene.tunnel()?;
    ensure!(tunnel.connect(&own, &[])?.status == 200, "after a flood no tunnel is served");
    scene.all_is_well()
}
