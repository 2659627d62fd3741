//! A real API server with its etcd on loopback, alone: no kubelet, no controllers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Folder with etcd and kube-apiserver; without it they are looked for where `python3 integration/cluster build` puts them.
const BINARIES: &str = "AQUIFER_CLUSTER_BIN";

/// Both are up in a few seconds on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct ApiServer {
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
    /// Starts both; `None` where they are not on this machine.
    pub async fn start() -> Option<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cluster/bin");
        let binaries = std::env::var_os(BINARIES).map_or(built, PathBuf::from);
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
        let mut config = Config::new(format!("https://127.0.0.1:{secure}").parse().unwrap());
        // Its certificate is one that it made for itself just now.
        config.accept_invalid_certs = true;
        config.auth_info.token = Some("admin-token".to_owned().into());
        let client = Client::try_from(config).unwrap();
        let mut server = Self { client, dir, children: [Dying(first), Dying(second)] };
        let since = Instant::now();
        while Api::<Namespace>::all(server.client.clone()).get("default").await.is_err() {
            let log = server.dir.path().join("apiserver.log");
            let ended = server.children[1].0.try_wait().unwrap().is_some();
            assert!(since.elapsed() < PATIENCE && !ended, "{}", fs::read_to_string(log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(server)
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
