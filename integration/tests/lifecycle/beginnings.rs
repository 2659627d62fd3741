//! Pods that begin as under a container runtime: the CNI plug-in holds each until the node has it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aquifer_cni::{conflist, plugin, spec::Call};
use aquifer_integration::{
    Mesh, Pod, PodSpec, Serve, Server, Stage, manifests::PodState, mesh::CHANGE_LIMIT, node::START_LIMIT,
    wait_for,
};
use serde_json::{Value, json};

/// A server of the mesh on node-2, and node-1 with the folders of a container runtime.
struct Host {
    mesh: Mesh,
    server: Pod,
    http: Server,
}

impl Host {
    fn start(stage: &mut Stage) -> Result<Self> {
        let mut mesh = stage.mesh()?;
        let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
        let http = server.serve(80, Serve::Http)?;
        mesh.manifests().namespace("plain", false)?;
        mesh.manifests()
            .put("pod-plain", &pending("plain", "known", "5d0e1b9c-0000-4000-8000-000000000001"))?;
        mesh.start()?;
        let mut host = Self { mesh, server, http };
        for folder in ["net.d", "bin"] {
            fs::create_dir(host.dir().join(folder))?;
        }
        fs::write(host.dir().join("program"), "the plug-in")?;
        let flags = [("--cni-conf-dir", "net.d"), ("--cni-bin-dir", "bin"), ("--cni-program", "program")];
        let flags: Vec<_> = flags
            .iter()
            .flat_map(|(flag, name)| [(*flag).to_owned(), host.dir().join(name).display().to_string()])
            .collect();
        let node = host.mesh.node_mut(0);
        node.kill()?;
        node.config_mut().args.extend(flags);
        node.restart()?;
        // Who waits until a new node is ready has pods begin there that are held by the plug-in.
        wait_for("a node that is not ready without the plug-in", START_LIMIT, || {
            // Nobody listens yet.
            let Ok(reply) = host.mesh.node(0).readiness() else { return Ok(None) };
            let said = String::from_utf8_lossy(&reply.body);
            Ok((reply.status == 503 && said.contains("plug-in is not in its place yet: ")).then_some(()))
        })?;
        host.configure()?;
        host.mesh.node_mut(0).wait_ready(START_LIMIT)?;
        ensure!(conflist::contains(&fs::read(host.conf())?), "ready before the plug-in is in its place");
        Ok(host)
    }

    fn dir(&self) -> PathBuf {
        self.mesh.dir().to_owned()
    }

    fn conf(&self) -> PathBuf {
        self.dir().join("net.d/10-pods.conflist")
    }

    /// Writes the configuration as the cluster's network does.
    fn configure(&self) -> Result<()> {
        let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]});
        Ok(fs::write(self.conf(), network.to_string())?)
    }

    fn wait_installed(&self) -> Result<()> {
        wait_for("the plug-in in its place", CHANGE_LIMIT, || {
            Ok(conflist::contains(&fs::read(self.conf())?).then_some(()))
        })
    }

    /// What the runtime gives the plug-in: its entry, with the list's name and version, and what was done before.
    fn input(&self) -> Result<Vec<u8>> {
        let network: Value = serde_json::from_slice(&fs::read(self.conf())?)?;
        let plugins = network["plugins"].as_array().context("no list of plug-ins")?;
        let mut entry = plugins.last().context("no plug-in")?.clone();
        entry["name"] = network["name"].clone();
        entry["cniVersion"] = network["cniVersion"].clone();
        entry["prevResult"] = json!({"cniVersion": "1.0.0", "ips": []});
        Ok(entry.to_string().into_bytes())
    }

    /// The runtime calls the plug-in for a pod; what it says, and when it said it.
    fn call(&self, command: &str, pod: &Pod) -> Result<Called> {
        self.call_as(command, pod, pod.namespace(), pod.uid())
    }

    /// The same for a sandbox that is said to be another pod's.
    fn call_as(&self, command: &str, pod: &Pod, namespace: &str, uid: &str) -> Result<Called> {
        let args = [("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", pod.name()), ("K8S_POD_UID", uid)];
        let call = Call {
            command: command.into(),
            container: format!("sandbox-{}", pod.uid()),
            netns: pod.netns_path(),
            args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        let input = self.input()?;
        Ok(thread::spawn(move || {
            let said = plugin::run(&call, Ok(&input)).map(|_| ()).map_err(|error| error.msg);
            (said, Instant::now())
        }))
    }
}

type Called = JoinHandle<(Result<(), String>, Instant)>;

/// A pod as the API server has it before its runtime began it: without an address.
fn pending(namespace: &str, name: &str, uid: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: {uid}}}\nspec:\n  nodeName: node-1\n  \
         serviceAccountName: {name}\n  containers: [{{name: app, image: none}}]\nstatus: {{phase: Pending}}\n"
    )
}

fn said(call: Called) -> Result<Instant> {
    let (said, at) = call.join().map_err(|_| anyhow!("the plug-in panicked"))?;
    said.map_err(anyhow::Error::msg)?;
    Ok(at)
}

pub(crate) fn a_pod_begins_in_the_mesh(stage: &mut Stage) -> Result<()> {
    let mut host = Host::start(stage)?;
    let new = host.mesh.bed_mut().pod(PodSpec::new("shop/new"))?;
    // The runtime is faster than the news of the pod.
    let begin = host.call("ADD", &new)?;
    host.mesh.manifests().put("pod-shop-new", &pending("shop", "new", new.uid()))?;
    said(begin).context("the pod does not begin")?;

    // Its first instruction calls; nobody has told its address yet.
    let wire = host.mesh.bed().wire()?;
    let reply = new.http_get(host.http.v4())?;
    ensure!(reply.status == 200 && reply.client.is_some_and(|client| client.ip() == new.v4()), "{reply:?}");
    let seen = wire.take()?;
    ensure!(seen.clear.payload == 0, "the first call crossed in clear:\n{seen}");
    for (node, which) in [(0, "client's"), (1, "server's")] {
        let flow = host
            .mesh
            .node(node)
            .wait_flow(CHANGE_LIMIT, |flow| flow.source_identity == new.identity() && flow.path == "tunnel");
        let flow = flow.with_context(|| format!("the record of the {which} node"))?;
        ensure!(flow.verdict == "allowed" && flow.destination_identity == host.server.identity(), "{flow}");
    }

    // Who says nonsense at the socket, nothing, or too much, is let go, and others are answered.
    let socket = host.dir().join("run/node-1/cni.sock");
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600, "others than root may ask");
    let silent = UnixStream::connect(&socket)?;
    for nonsense in [b"{}\n".to_vec(), b"\xff\n".to_vec(), vec![b'x'; 1 << 20]] {
        let mut stream = UnixStream::connect(&socket)?;
        // The node may hang up before it has heard all of it.
        stream.write_all(&nonsense).ok();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).ok();
        ensure!(heard.is_empty(), "nonsense was answered with {}", String::from_utf8_lossy(&heard));
    }

    said(host.call("CHECK", &new)?).context("a pod of the mesh is said to be none")?;
    drop(silent);
    host.mesh.manifests().pod(&new, &PodState::default())?;
    said(host.call("DEL", &new)?)?;

    // A sandbox made anew for the same pod.
    let (spec, uid) = (PodSpec::new("shop/new").address(new.v4()).address(new.v6()), new.uid().to_owned());
    host.mesh.manifests().put("pod-shop-new", &pending("shop", "new", &uid))?;
    host.mesh.bed_mut().remove(&new);
    let again = host.mesh.bed_mut().pod(spec)?;
    said(host.call_as("ADD", &again, "shop", &uid)?).context("the pod's second sandbox does not begin")?;
    ensure!(again.http_get(host.http.v4())?.status == 200, "the second sandbox' first call");
    Ok(())
}

pub(crate) fn a_pod_waits_for_the_node(stage: &mut Stage) -> Result<()> {
    let mut host = Host::start(stage)?;
    let new = host.mesh.bed_mut().pod(PodSpec::new("shop/new"))?;
    host.mesh.manifests().put("pod-shop-new", &pending("shop", "new", new.uid()))?;
    let list = host.dir().join("net.d/aquifer.d/namespaces-outside");
    wait_for("the list of namespaces", CHANGE_LIMIT, || {
        Ok((fs::read_to_string(&list)? == "plain\n").then_some(()))
    })?;
    host.mesh.node_mut(0).kill()?;

    let held = host.call("ADD", &new)?;
    said(host.call_as("ADD", &new, "plain", "another")?)
        .context("a pod outside the mesh waits for the node")?;
    said(host.call_as("ADD", &new, "kube-system", "another")?)
        .context("a pod of the cluster's own waits for the node")?;
    ensure!(!held.is_finished(), "a pod of the mesh began without the node");
    host.mesh.node_mut(0).restart()?;
    host.mesh.node_mut(0).wait_ready(START_LIMIT)?;
    let back = Instant::now();
    let began = said(held).context("the pod that waited does not begin")?;
    let late = began.saturating_duration_since(back);
    ensure!(late < Duration::from_secs(5), "it began only {late:?} after the node was back");
    ensure!(new.http_get(host.http.v4())?.status == 200, "its first call");

    // A worker that dies takes the answers along; the plug-in asks the next.
    let other = host.mesh.bed_mut().pod(PodSpec::new("shop/other"))?;
    let held = host.call("ADD", &other)?;
    host.mesh.node(0).kill_workers()?;
    host.mesh.manifests().put("pod-shop-other", &pending("shop", "other", other.uid()))?;
    said(held).context("a pod that began while the worker died")?;
    ensure!(other.http_get(host.http.v4())?.status == 200, "its first call");

    // Somebody writes the configuration anew, without the plug-in.
    host.configure()?;
    host.wait_installed()?;
    fs::remove_file(host.dir().join("bin/aquifer-cni"))?;
    wait_for("the program to be back", CHANGE_LIMIT, || {
        Ok(host.dir().join("bin/aquifer-cni").exists().then_some(()))
    })?;

    // The node leaves, and with it the plug-in.
    aquifer_leave(&host)?;
    let left: Value = serde_json::from_slice(&fs::read(host.conf())?)?;
    ensure!(left["plugins"] == json!([{"type": "bridge"}]), "left behind: {left}");
    for (folder, names) in [("net.d", 1), ("bin", 0)] {
        let found: Vec<_> =
            fs::read_dir(host.dir().join(folder))?.flatten().map(|entry| entry.path()).collect();
        ensure!(found.len() == names, "left behind: {found:?}");
    }
    Ok(())
}

/// SIGUSR2: all pods are un-enrolled, and the process ends.
fn aquifer_leave(host: &Host) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(host.mesh.node(0).pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR2)?;
    wait_for("the plug-in to be gone", CHANGE_LIMIT, || {
        Ok((!conflist::contains(&fs::read(host.conf())?) && !host.dir().join("bin/aquifer-cni").exists())
            .then_some(()))
    })?;
    wait_for("the list to be gone", CHANGE_LIMIT, || {
        Ok((!host.dir().join("net.d/aquifer.d").exists()).then_some(()))
    })
}
