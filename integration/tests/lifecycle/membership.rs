//! Pods that join and leave while their connections stand.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    Conn, Mesh, Pod, PodSpec, Serve, Server, Stage, manifests::PodState, mesh::CHANGE_LIMIT, wait_for,
};

/// A pod of node-1 that speaks with one of node-2 in each direction.
struct Pair {
    mesh: Mesh,
    near: Pod,
    far: Pod,
    near_echo: Server,
    far_echo: Server,
}

impl Pair {
    /// Node processes run; `near` is in the mesh or not, `far` is.
    fn start(stage: &mut Stage, in_mesh: bool) -> Result<Self> {
        let mut mesh = stage.mesh()?;
        let spec = PodSpec::new("shop/near");
        let near = mesh.pod(if in_mesh { spec } else { spec.outside_the_mesh() })?;
        let far = mesh.pod(PodSpec::new("shop/far").on(1))?;
        let (near_echo, far_echo) = (near.serve(7, Serve::Echo)?, far.serve(7, Serve::Echo)?);
        mesh.start()?;
        Ok(Self { mesh, near, far, near_echo, far_echo })
    }

    /// A connection in each direction and family, each of which has carried a byte.
    fn connect(&self) -> Result<Vec<Conn>> {
        let mut all = vec![
            self.near.connect(self.far_echo.v4())?,
            self.near.connect(self.far_echo.v6())?,
            self.far.connect(self.near_echo.v4())?,
            self.far.connect(self.near_echo.v6())?,
        ];
        ping(&mut all).context("on new connections")?;
        Ok(all)
    }
}

fn ping(all: &mut [Conn]) -> Result<()> {
    for conn in all {
        conn.ping().with_context(|| format!("the connection to {}", conn.remote()))?;
    }
    Ok(())
}

pub(crate) fn opt_in_breaks_nothing(stage: &mut Stage) -> Result<()> {
    let pair = Pair::start(stage, false)?;
    let mut before = pair.connect()?;

    pair.mesh.opt_in(&pair.near)?;
    ping(&mut before).context("after opt-in")?;
    // The peer's node learns of it by itself; from then on the calls of both go through tunnels.
    wait_for("the far node to use tunnels", CHANGE_LIMIT, || {
        let mut conn = pair.far.connect(pair.near_echo.v4())?;
        conn.ping()?;
        drop(conn);
        Ok(pair.mesh.source_flow(&pair.far, &pair.near).ok().filter(|flow| flow.path == "tunnel"))
    })?;
    let wire = pair.mesh.bed().wire()?;
    let mut after = pair.connect()?;
    ping(&mut after)?;
    wire.take()?.expect_only_tunnels(16)?;

    ping(&mut before).context("long after opt-in")?;
    let seen = wire.take()?;
    ensure!(seen.clear.payload == 8, "what stood before stays as it was:\n{seen}");
    Ok(())
}

pub(crate) fn opt_out_breaks_nothing(stage: &mut Stage) -> Result<()> {
    let pair = Pair::start(stage, true)?;
    let mut before = pair.connect()?;

    pair.mesh.opt_out(&pair.near)?;
    ping(&mut before).context("after opt-out")?;
    wait_for("the far node to call in clear", CHANGE_LIMIT, || {
        let mut conn = pair.far.connect(pair.near_echo.v4())?;
        conn.ping()?;
        drop(conn);
        Ok(pair.mesh.source_flow(&pair.far, &pair.near).ok().filter(|flow| flow.path == "plaintext"))
    })?;
    let wire = pair.mesh.bed().wire()?;
    let mut after = pair.connect()?;
    let seen = wire.take()?;
    ensure!(seen.clear.payload == 8, "a pod outside the mesh speaks in clear:\n{seen}");
    ping(&mut before).context("long after opt-out")?;
    wire.take()?.expect_only_tunnels(8)?;

    drop(before);
    pair.mesh.wait_left(&pair.near)?;
    ping(&mut after).context("after the last carried connection ended")?;
    Ok(())
}

pub(crate) fn out_and_in_again(stage: &mut Stage) -> Result<()> {
    let pair = Pair::start(stage, true)?;
    let mut standing = pair.connect()?;
    for round in 0..3 {
        pair.mesh.opt_out(&pair.near)?;
        ping(&mut standing).with_context(|| format!("out, round {round}"))?;
        pair.mesh.opt_in(&pair.near)?;
        ping(&mut standing).with_context(|| format!("in, round {round}"))?;
    }
    // Faster than anybody can follow: only the last word counts.
    for in_mesh in [false, true, false, true, false, true] {
        pair.mesh.manifests().pod(&pair.near, &PodState::member(in_mesh))?;
    }
    pair.mesh.wait_enrolled(&pair.near)?;
    ping(&mut standing).context("after a flutter")?;
    let wire = pair.mesh.bed().wire()?;
    wait_for("new calls in tunnels only", CHANGE_LIMIT, || {
        wire.take()?;
        drop(pair.connect()?);
        Ok(wire.take()?.expect_only_tunnels(8).ok())
    })
}

pub(crate) fn a_half_closed_connection_leaks_nothing(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let plain = mesh.pod(PodSpec::new("shop/plain").on(1).outside_the_mesh())?;
    let listener = server.listen(9)?;
    listener.set_nonblocking(false)?;
    let echo = client.serve(7, Serve::AfterEnd)?;
    mesh.start()?;
    for pod in [&client, &server] {
        // Only where conntrack is loaded in the kernel is there anything to fear.
        pod.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "2").ok();
    }
    let wire = mesh.bed().wire()?;
    let mut conn = client.connect((server.v4(), 9).into())?;
    let mut clear = plain.connect(echo.v4())?;
    clear.send(b"asked in clear")?;
    let (mut accepted, _) = listener.accept()?;
    accepted.shutdown(std::net::Shutdown::Write)?;
    conn.expect_end()?;
    wire.take()?;

    // Idle for longer than conntrack remembers: here time itself is what is tested.
    std::thread::sleep(Duration::from_secs(5));
    conn.send(b"still in the tunnel")?;
    let mut heard = [0; 19];
    std::io::Read::read_exact(&mut accepted, &mut heard)?;
    ensure!(&heard == b"still in the tunnel", "the server heard {heard:?}");
    conn.finish()?;
    ensure!(std::io::Read::read(&mut accepted, &mut heard)? == 0, "the end was lost");
    let seen = wire.take()?;
    seen.expect_only_tunnels(19)?;

    clear.finish()?;
    ensure!(clear.receive_to_end()? == b"asked in clear", "the captured plaintext call lost its answer");
    let record = mesh.destination_flow(&plain, &client)?;
    ensure!(record.verdict == "allowed" && record.path == "plaintext", "{record}");
    Ok(())
}

pub(crate) fn an_address_is_used_again(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let old = mesh.pod(PodSpec::new("shop/old").on(1))?;
    let http = old.serve(80, Serve::Http)?;
    let to = http.v4();
    mesh.policy(
        "no-secret",
        "apiVersion: aquifer.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: no-81, namespace: shop}\nspec:\n  selector: {matchLabels: {app: new}}\n  action: DENY\n  rules:\n  - to: [{operation: {ports: ['81']}}]\n",
    )?;
    mesh.start()?;
    for _ in 0..3 {
        ensure!(client.http_get(to)?.pod == "shop/old", "another pod answered");
    }
    let (v4, v6) = (old.v4(), old.v6());
    drop(http);
    mesh.remove_pod(&old)?;
    let new = mesh.pod(PodSpec::new("shop/new").on(1).address(v4).address(v6))?;
    let (_http, _shut) = (new.serve(80, Serve::Http)?, new.serve(81, Serve::Http)?);

    // Pods are enrolled and described by two nodes, each in its own time; what counts is that no call reaches for the old pod.
    for _ in 0..20 {
        let reply = client.http_get(to).context("a call to the new pod")?;
        ensure!(reply.status == 200 && reply.pod == "shop/new", "{reply:?}");
    }
    let record = mesh.destination_flow(&client, &new)?;
    ensure!(record.destination_identity == new.identity() && record.path == "tunnel", "{record}");
    let refused = client.http_get((v4, 81).into());
    ensure!(refused.is_err_and(|error| error.is_cut()), "the new pod's policy does not hold");
    Ok(())
}

pub(crate) fn a_namespace_that_is_not_there(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let http = web.serve(80, Serve::Http)?;
    mesh.start()?;
    let manifest = |netns: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: lost\n  namespace: shop\n  uid: lost-1\n  labels: {{aquifer.dev/mesh: ambient}}\n  annotations: {{aquifer.dev/netns: {netns}}}\nspec:\n  nodeName: node-1\n  containers: [{{name: app, image: none}}]\nstatus:\n  podIP: 10.1.0.200\n"
        )
    };
    mesh.policy("pod-lost", &manifest("/run/netns/nowhere"))?;
    wait_for("readyz to name it", CHANGE_LIMIT, || {
        let page = String::from_utf8(mesh.node(0).readiness()?.body)?;
        Ok((page.contains("shop/lost") && page.contains("/run/netns/nowhere")).then_some(()))
    })?;
    client.http_get(http.v4()).context("beside a pod without a namespace")?;
    let failures =
        mesh.node(0).metrics()?.sum("aquifer_enrolment_failures_total", &[("reason", "namespace")]);
    ensure!(failures >= 1.0, "{failures} failures were counted");

    // The annotation is mended: enrolled without a restart.
    let late = mesh.bed_mut().pod(PodSpec::new("shop/late"))?;
    mesh.policy("pod-lost", &manifest(&late.netns_path().display().to_string()))?;
    mesh.wait_enrolled(&late)
}

pub(crate) fn a_namespace_that_goes(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let doomed = mesh.pod(PodSpec::new("shop/doomed").on(1))?;
    let (http, echo) = (web.serve(80, Serve::Http)?, doomed.serve(7, Serve::Echo)?);
    mesh.start()?;
    // Its cable goes with it, so that the client's node hears nothing and gives the tunnel up after 20 s without an answer.
    let mut conn = client.connect_within(echo.v4(), Duration::from_secs(40))?;
    conn.ping()?;

    // The namespace goes, its manifest stays.
    mesh.bed_mut().remove(&doomed);
    conn.expect_reset().map_err(anyhow::Error::msg).context("the connection into it")?;
    client.http_get(http.v4()).context("beside a pod whose namespace went")?;
    wait_for("readyz to name it", CHANGE_LIMIT, || {
        let page = String::from_utf8(mesh.node(1).readiness()?.body)?;
        Ok(page.contains("shop/doomed").then_some(())).map(|named| named.filter(|()| page.contains("netns")))
    })?;
    mesh.manifests().remove_pod(&doomed)?;
    wait_for("it to be forgotten", CHANGE_LIMIT, || {
        let page = String::from_utf8(mesh.node(1).readiness()?.body)?;
        Ok((!page.contains("shop/doomed")).then_some(()))
    })
}

pub(crate) fn nothing_is_lost_under_load(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let near = mesh.pod(PodSpec::new("shop/near"))?;
    let far = mesh.pod(PodSpec::new("shop/far").on(1))?;
    let (near_http, far_http) = (near.serve(80, Serve::Http)?, far.serve(80, Serve::Http)?);
    mesh.start()?;
    let (out, back) = (near.load(far_http.v4(), 4, 100), far.load(near_http.v6(), 4, 100));
    for _ in 0..3 {
        for in_mesh in [false, true] {
            out.wait_for_more(100, CHANGE_LIMIT)?;
            back.wait_for_more(100, CHANGE_LIMIT)?;
            if in_mesh { mesh.opt_in(&near)? } else { mesh.opt_out(&near)? }
        }
    }
    out.wait_for_more(100, CHANGE_LIMIT)?;
    back.wait_for_more(100, CHANGE_LIMIT)?;
    out.finish().expect_no_failure(500).context("calls of the pod that leaves and joins")?;
    back.finish().expect_no_failure(500).context("calls to the pod that leaves and joins")?;
    Ok(())
}
