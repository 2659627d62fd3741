//! The scene of the demo: two nodes, four pods with their applications, one folder of manifests.

use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use aquifer_integration::{Bed, Families, FlowRecord, Mesh, Plan, Pod, PodSpec, ServiceSpec, node, wait_for};

use super::{PREFIX, Stop, clean};

/// Port of the HTTP application in each server pod.
pub(super) const HTTP: u16 = 8080;
/// Port of the raw TCP application.
pub(super) const ECHO: u16 = 9000;
/// ClusterIP of the Service.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Port of the Service.
pub(super) const SERVICE_PORT: u16 = 80;

/// How long what is expected may take to show.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Lines of each node's log that a failure shows.
const COMPLAINTS: usize = 5;

/// So short that a renewal happens within the demo.
const CERTIFICATE_LIFETIME: &str = "14s";

/// Everything that stands.
pub(super) struct Stage {
    // Applications end before their namespaces.
    applications: Vec<Application>,
    pub(super) mesh: Mesh,
    pub(super) client: Pod,
    /// One replica on each node.
    pub(super) web: [Pod; 2],
    pub(super) outside: Pod,
    pub(super) stop: Stop,
    folder: Folder,
}

/// A pod's application.
struct Application {
    process: Child,
    kept: bool,
}

/// The folder, gone when dropped.
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Stage {
    /// Makes nodes, pods and manifests, and starts the applications; no node process runs yet.
    pub(super) fn build(stop: &Stop) -> Result<Self> {
        node::from_this_program();
        let path = clean::folder(std::process::id());
        let mut dir = DirBuilder::new();
        // The key of the CA will lie in it.
        dir.mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let folder = Folder { path: path.clone(), kept: false };
        let plan = Plan { prefix: PREFIX.into(), families: Families::V4, ..Plan::default() };
        let mut mesh = Mesh::new(Bed::new(plan)?, &path)?;
        stop.check()?;
        mesh.args(&["--certificate-lifetime", CERTIFICATE_LIFETIME]);
        mesh.manifests().namespace("legacy", false)?;
        let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
        let server = |name: &str| PodSpec::new(name).label("app", "web").service_account("web");
        let near = mesh.pod(server("shop/web-1").on(0))?;
        let far = mesh.pod(server("shop/web-2").on(1))?;
        let outside = mesh.pod(PodSpec::new("legacy/outside").on(1).outside_the_mesh())?;
        mesh.service(&ServiceSpec::new("shop/web").vip(VIP).port(SERVICE_PORT, HTTP))?;
        stop.check()?;
        let applications = [&near, &far, &outside]
            .into_iter()
            .map(|pod| Application::start(pod, &path))
            .collect::<Result<_>>()?;
        let web = [near, far];
        let stage = Self { applications, mesh, client, web, outside, stop: stop.clone(), folder };
        stage.set_policy(Policy::Open)?;
        for pod in stage.web.iter().chain([&stage.outside]) {
            wait_for(&format!("the application of {}", pod.full_name()), PATIENCE, || {
                stage.stop.check()?;
                Ok([HTTP, ECHO]
                    .iter()
                    .all(|port| pod.connect((pod.ip(), *port).into()).is_ok())
                    .then_some(()))
            })?;
        }
        Ok(stage)
    }

    /// Writes the policy of the servers, as a user would edit the file.
    pub(super) fn set_policy(&self, policy: Policy) -> Result<()> {
        self.mesh.policy(POLICY_FILE, &policy.yaml(self.outside.ip()))
    }

    /// Where the Service is called.
    pub(super) fn service(&self) -> SocketAddr {
        (VIP, SERVICE_PORT).into()
    }

    /// The pods with their node's record of a call: that of the called pod's node where it is in the mesh, since there
    /// it is judged, otherwise of the caller's.
    pub(super) fn record(
        &self,
        from: &Pod,
        to: &Pod,
        fits: impl Fn(&FlowRecord) -> bool,
    ) -> Result<FlowRecord> {
        let (witness, source) = if to.in_mesh() { (to, false) } else { (from, true) };
        let between = |flow: &FlowRecord| flow.is_between(&from.full_name(), &to.full_name());
        let node = self.mesh.node(witness.node());
        node.wait_flow(PATIENCE, |flow| flow.is_source() == source && between(flow) && fits(flow))
    }

    /// Serial number of the certificate that a node holds for a pod's identity, from its admin page.
    pub(super) fn serial(&self, pod: &Pod) -> Result<String> {
        let page = self.mesh.node(pod.node()).admin("/certificates")?;
        let certificates = page["certificates"].as_array().into_iter().flatten();
        let found = certificates.filter(|entry| entry["identity"] == pod.identity().as_str());
        let serial = found.filter_map(|entry| entry["serial"].as_str()).next();
        serial.map(str::to_owned).with_context(|| {
            format!("{} shows no certificate for {}", self.mesh.node(pod.node()).name(), pod.identity())
        })
    }

    /// The last warnings and errors of the nodes' logs, for whoever looks for the cause of a failure.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in self.mesh.nodes() {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let bad =
                |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
            let last: Vec<_> = log.lines().filter(bad).rev().take(COMPLAINTS).collect();
            lines.extend(last.into_iter().rev().map(|line| format!("{}: {line}", node.name())));
        }
        lines
    }

    /// Leaves everything standing.
    pub(super) fn keep(mut self) {
        self.applications.iter_mut().for_each(|application| application.kept = true);
        self.folder.kept = true;
        self.mesh.keep();
    }
}

impl Application {
    fn start(pod: &Pod, folder: &std::path::Path) -> Result<Self> {
        let log = std::fs::File::create(folder.join("logs").join(format!("application-{}.log", pod.name())))?;
        let mut command = Command::new(std::env::current_exe().context("path of this program")?);
        command.args(["demo-app", "--name", &pod.full_name()]);
        command.args(["--http", &HTTP.to_string(), "--echo", &ECHO.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = pod.spawn(&mut command).context("cannot start an application")?;
        Ok(Self { process, kept: false })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if !self.kept {
            // It may have ended by the signal that ends the demo.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Name of the policy's file, without its ending.
pub(super) const POLICY_FILE: &str = "policy-shop-web";

/// Who may call the servers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Policy {
    /// The client all ports; the pod outside, by its address, HTTP.
    Open,
    /// The client HTTP only.
    HttpOnly,
}

impl Policy {
    fn yaml(self, outside: IpAddr) -> String {
        let ports = match self {
            Self::Open => String::new(),
            Self::HttpOnly => format!("    to:\n    - operation:\n        ports: [\"{HTTP}\"]\n"),
        };
        format!(
            "# Who may call the web servers. Edits take effect at once, also on connections that stand.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web
  namespace: shop
spec:
  selector:
    matchLabels:
      app: web
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [\"cluster.local/ns/shop/sa/client\"]
{ports}  - from:
    - source:
        ipBlocks: [\"{outside}/32\"]
    to:
    - operation:
        ports: [\"{HTTP}\"]
"
        )
    }
}
