//! A real API server with its etcd on loopback, alone: no kubelet, no controllers. And our controllers on it.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aquifer_controller::ControllerConfig;
use aquifer_telemetry::{LogFormat, LogHandle, init_logging};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Folder with etcd and kube-apiserver; without it they are looked for where `python3 integration/cluster build` puts them.
const BINARIES: &str = "AQUIFER_CLUSTER_BIN";

pub const SYSTEM: &str = "aquifer-system";

/// Nothing here takes longer than a second or two on a quiet machine, but for a Lease that expires.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// As users install it.
const MANIFESTS: [&str; 3] = [
    include_str!("../../../../deploy/crds/authorizationpolicies.yaml"),
    include_str!("../../../../deploy/crds/peerauthentications.yaml"),
    include_str!("../../../../deploy/controller.yaml"),
];

pub struct ApiServer {
    url: String,
    pub client: Client,
    pub dir: tempfile::TempDir,
    children: [Dying; 2],
}

struct Dying(Child);

impl Drop for Dying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody has now.
pub fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ApiServer {
    /// Writes a ConfigMap as files, as kubelet mounts it.
    pub fn mount(&self, map: &BTreeMap<String, String>) {
        for (name, text) in map {
            fs::write(self.dir.path().join(name), text).unwrap();
        }
    }

    /// The file of the roots that a controller has published, once it has.
    pub async fn roots(&self) -> PathBuf {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), SYSTEM);
        let read = async {
            loop {
                if let Some(map) = maps.get_opt("aquifer-ca-root").await.unwrap() {
                    break map.data.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        self.mount(&timeout(PATIENCE, read).await.unwrap());
        self.dir.path().join("root-cert.pem")
    }

    /// Starts both; `None` where they are not on this machine.
    pub async fn start() -> Option<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cluster/bin");
        // A variable that is set and empty names none.
        let named = std::env::var_os(BINARIES).filter(|named| !named.is_empty());
        let binaries = named.map_or(built, PathBuf::from);
        if !binaries.join("etcd").exists() || !binaries.join("kube-apiserver").exists() {
            assert!(std::env::var_os("AQUIFER_NO_SKIP").is_none(), "no API server in {}", binaries.display());
            eprintln!("skipped, there is no API server: python3 integration/cluster build makes one");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (etcd, secure) = (port(), port());
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{}", port());
        let key = dir.path().join("accounts.key");
        let pair = rcgen::KeyPair::generate().unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        let public = dir.path().join("accounts.pub");
        fs::write(&public, pair.public_key_pem()).unwrap();
        fs::write(dir.path().join("tokens"), "admin-token,admin,1,system:masters\n").unwrap();
        let first = spawn(
            &binaries.join("etcd"),
            dir.path(),
            "etcd.log",
            &[
                &format!("--data-dir={}", dir.path().join("etcd").display()),
                &format!("--listen-client-urls={etcd_url}"),
                &format!("--advertise-client-urls={etcd_url}"),
                &format!("--listen-peer-urls={peer_url}"),
                &format!("--initial-advertise-peer-urls={peer_url}"),
                &format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync",
            ],
        );
        let second = spawn(
            &binaries.join("kube-apiserver"),
            dir.path(),
            "apiserver.log",
            &[
                &format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                &format!("--secure-port={secure}"),
                &format!("--cert-dir={}", dir.path().display()),
                &format!("--service-account-key-file={}", public.display()),
                &format!("--service-account-signing-key-file={}", key.display()),
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                &format!("--token-auth-file={}", dir.path().join("tokens").display()),
                "--authorization-mode=RBAC",
            ],
        );
        let client = Client::try_from(admin(&format!("https://127.0.0.1:{secure}"))).unwrap();
        let url = format!("https://127.0.0.1:{secure}");
        let mut server = Self { url, client, dir, children: [Dying(first), Dying(second)] };
        let since = Instant::now();
        while Api::<Namespace>::all(server.client.clone()).get("default").await.is_err() {
            let log = server.dir.path().join("apiserver.log");
            let ended = server.children[1].0.try_wait().unwrap().is_some();
            assert!(since.elapsed() < PATIENCE && !ended, "{}", fs::read_to_string(log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(server)
    }

    /// A client with the rights of the controller alone.
    pub fn controller(&self) -> Client {
        let mut config = admin(&self.url);
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{SYSTEM}:aquifer-controller"));
        Client::try_from(config).unwrap()
    }

    /// Installs what the controller needs: its kinds, its rights.
    pub async fn install(&self) {
        for document in MANIFESTS.iter().flat_map(|manifest| manifest.split("\n---\n")) {
            let object: DynamicObject = serde_saphyr::from_str(document).unwrap();
            let types = object.types.clone().unwrap();
            // What runs it is started here.
            if types.kind != "CustomResourceDefinition" && !types.api_version.starts_with("rbac.") {
                continue;
            }
            self.apply(&object).await;
        }
        for plural in ["authorizationpolicies", "peerauthentications"] {
            let url = format!("/apis/aquifer.dev/v1alpha1/{plural}");
            let served = async {
                let request = || http::Request::get(&url).body(Vec::new()).unwrap();
                while self.client.request::<Value>(request()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, served).await.unwrap();
        }
    }

    /// Lets the controller patch nodes, as `aquifer install --untaint-nodes` does.
    pub async fn let_patch_nodes(&self) {
        let documents = MANIFESTS.iter().flat_map(|manifest| manifest.split("\n---\n"));
        let role = documents.into_iter().find(|text| text.contains("\nrules: []")).unwrap();
        let rules = "\nrules: [{apiGroups: [\"\"], resources: [nodes], verbs: [patch]}]";
        self.apply(&serde_saphyr::from_str(&role.replace("\nrules: []", rules)).unwrap()).await;
    }

    /// Puts an object where it belongs, as `kubectl apply --server-side` does.
    pub async fn apply(&self, object: &DynamicObject) -> DynamicObject {
        let types = object.types.clone().unwrap();
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let name = object.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap()
    }

    async fn create<K>(&self, api: Api<K>, object: Value)
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub async fn namespace(&self, name: &str, labels: Value) {
        let object = json!({ "metadata": { "name": name, "labels": labels } });
        self.create(Api::<Namespace>::all(self.client.clone()), object).await;
    }

    pub async fn node(&self, name: &str) {
        self.create(Api::<Node>::all(self.client.clone()), json!({ "metadata": { "name": name } })).await;
    }

    pub async fn account(&self, namespace: &str, name: &str) {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        self.create(api, json!({ "metadata": { "name": name } })).await;
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A pod that a scheduler has put on a node, of the service account of its own name or of another.
    pub async fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) {
        let object = json!({
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "nodeName": node,
                "serviceAccountName": account,
                "automountServiceAccountToken": false,
                "containers": [{ "name": "c", "image": "none" }],
            },
        });
        self.create(self.pods(namespace), object).await;
    }

    /// A token as kubelet asks for it, in a file.
    pub async fn token(&self, namespace: &str, account: &str, pod: Option<&str>, audience: &str) -> PathBuf {
        let bound = pod.map(|pod| BoundObjectReference {
            kind: Some("Pod".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(pod.to_owned()),
            uid: None,
        });
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: bound,
            expiration_seconds: Some(3600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        let name = format!("{namespace}-{account}-{}-{audience}.token", pod.unwrap_or("unbound"));
        let path = self.dir.path().join(name);
        fs::write(&path, answer.status.unwrap().token).unwrap();
        path
    }
}

fn admin(url: &str) -> Config {
    let mut config = Config::new(url.parse().unwrap());
    // Its certificate is one that it made for itself just now.
    config.accept_invalid_certs = true;
    config.auth_info.token = Some("admin-token".to_owned().into());
    config
}

pub fn log() -> LogHandle {
    static LOG: OnceLock<LogHandle> = OnceLock::new();
    LOG.get_or_init(|| init_logging(LogFormat::Text, Some("warn")).unwrap()).clone()
}

/// A controller that ends with this.
pub struct Running {
    pub port: u16,
    metrics: u16,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn start(server: &ApiServer, port: u16) -> Self {
        Self::start_as(server.client.clone(), port)
    }

    /// With the rights of a client.
    pub fn start_as(client: Client, port: u16) -> Self {
        Self::start_with(client, port, false)
    }

    /// With the option to take the taint off nodes, or without.
    pub fn start_with(client: Client, port: u16, untaint_nodes: bool) -> Self {
        let metrics = self::port();
        let config = ControllerConfig {
            trust_domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: SYSTEM.into(),
            system_namespace: SYSTEM.into(),
            node_accounts: vec!["istio-system/ztunnel".into()],
            untaint_nodes,
            listen: ([127, 0, 0, 1], port).into(),
            admin: None,
            metrics: Some(([127, 0, 0, 1], metrics).into()),
            ready: None,
            series_limit: 100,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = async move { _ = stopped.await };
        let ended = tokio::spawn(async move {
            aquifer_controller::run(config, client, log(), "test", ended).await.unwrap();
        });
        Self { port, metrics, stop: Some(stop), ended }
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, self.ended).await.unwrap().unwrap();
    }

    /// It ends without a word, as by a node that dies.
    pub async fn kill(self) {
        self.ended.abort();
        assert!(self.ended.await.is_err());
    }

    /// A metric's value; `None` where it has none yet.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.metrics));
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Whether it says that it leads.
    pub async fn leads(&self) -> bool {
        self.metric("aquifer_controller_leads").await == Some(1.0)
    }
}

fn spawn(program: &Path, dir: &Path, log: &str, arguments: &[&str]) -> Child {
    let log = fs::File::create(dir.join(log)).unwrap();
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()))
}
