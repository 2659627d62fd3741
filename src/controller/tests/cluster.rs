//! A controller against a real API server, with our own client over TLS: who gets what, and who does not.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![allow(unreachable_pub, reason = "support is a module of this test alone")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_discovery::client::{self, Event};
use aquifer_model::{Identity, Mesh, MeshConfig, TrustDomain, Update};
use aquifer_pki::remote::{Controller, Link, RemoteIssuer};
use aquifer_pki::{CaError, Issued, Issuer, Side, Validity, peer};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event as Told;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use support::{ApiServer, PATIENCE, Running, SYSTEM, port};
use tokio::sync::mpsc;
use tokio::time::timeout;

impl Running {
    async fn link(&self, token: &Path, roots: &Path) -> Arc<Link> {
        let controller = Controller {
            url: format!("https://127.0.0.1:{}", self.port),
            identity: Identity::new(TrustDomain::default(), SYSTEM, "aquifer-controller"),
            token: token.to_owned(),
            roots: roots.to_owned(),
            cluster_id: "Kubernetes".into(),
        };
        Arc::new(timeout(PATIENCE, Link::open(controller)).await.unwrap().unwrap())
    }

    async fn issue(&self, token: &Path, roots: &Path, who: &Identity) -> Result<Issued, Arc<CaError>> {
        let issuer = RemoteIssuer::new(self.link(token, roots).await);
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
        timeout(PATIENCE, issuer.issue(who, validity)).await.unwrap()
    }
}

fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new(TrustDomain::default(), namespace, account)
}

async fn shop(server: &ApiServer) {
    server.namespace(SYSTEM, json!({})).await;
    server.namespace("shop", json!({ "aquifer.dev/mesh": "ambient" })).await;
    for node in ["n1", "n2"] {
        server.node(node).await;
    }
    server.account(SYSTEM, "aquifer-node").await;
    server.account("shop", "aquifer-node").await;
    for account in ["cart", "pay", "idle"] {
        server.account("shop", account).await;
    }
    server.pod(SYSTEM, "aquifer-node-1", "aquifer-node", "n1").await;
    server.pod("shop", "cart-0", "cart", "n1").await;
    server.pod("shop", "pay-0", "pay", "n2").await;
}

struct Way(Arc<Link>);

impl client::Link for Way {
    fn channel(&self) -> tonic::transport::Channel {
        self.0.channel()
    }

    fn signed<T>(&self, message: T) -> Result<tonic::Request<T>, String> {
        self.0.signed(message).map_err(|error| error.to_string())
    }
}

/// A node that listens, and the mesh that it was told of.
struct Listening {
    mesh: Mesh,
    events: mpsc::Receiver<Event>,
    troubles: Vec<String>,
    last: Vec<Update>,
}

impl Listening {
    fn start(link: Arc<Link>) -> Self {
        let (sender, events) = mpsc::channel(4);
        tokio::spawn(client::watch(Way(link), client::Client { id: "test~n1".into() }, sender));
        let mesh = Mesh::new(MeshConfig { root_namespace: SYSTEM.into(), networks: None });
        Self { mesh, events, troubles: Vec::new(), last: Vec::new() }
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let reached = async {
            while !holds(self) {
                match self.events.recv().await.unwrap() {
                    Event::Batch(updates) => {
                        self.troubles.clear();
                        self.last.clone_from(&updates);
                        self.mesh.apply(updates);
                    }
                    Event::Have(answer) => _ = answer.send(self.mesh.snapshot().updates()),
                    Event::Trouble(why) => self.troubles.push(why),
                }
            }
        };
        assert!(timeout(PATIENCE, reached).await.is_ok(), "{what}: {:?}", self.troubles);
    }

    fn pods(&self) -> Vec<String> {
        let mut pods: Vec<_> = self
            .mesh
            .snapshot()
            .updates()
            .iter()
            .filter_map(|update| match update {
                Update::Workload(workload) => Some(workload.name().to_string()),
                _ => None,
            })
            .collect();
        pods.sort();
        pods
    }
}

const NODE_POD: &str = "Kubernetes//Pod/aquifer-system/aquifer-node-1";
const CART: &str = "Kubernetes//Pod/shop/cart-0";
const PAY: &str = "Kubernetes//Pod/shop/pay-0";

#[tokio::test]
async fn a_node_gets_the_identities_of_its_pods_and_of_nobody_else() {
    let Some(server) = ApiServer::start().await else { return };
    shop(&server).await;
    // Two replicas start at once and must come to one root.
    let (one, two) = (Running::start(&server, port()), Running::start(&server, port()));
    let roots = server.roots().await;
    let node = server.token(SYSTEM, "aquifer-node", Some("aquifer-node-1"), "aquifer-ca").await;
    for replica in [&one, &two] {
        let issued = replica.issue(&node, &roots, &identity("shop", "cart")).await.unwrap();
        let link = replica.link(&node, &roots).await;
        let bundle = link.authority().borrow().bundle.clone();
        let proved = peer(&issued.chain, Side::Client, &bundle, SystemTime::now()).unwrap();
        assert_eq!(proved.identity, identity("shop", "cart"));
    }

    let istio = server.token(SYSTEM, "aquifer-node", Some("aquifer-node-1"), "istio-ca").await;
    one.issue(&istio, &roots, &identity("shop", "cart")).await.unwrap();
    let cart = server.token("shop", "cart", Some("cart-0"), "aquifer-ca").await;
    one.issue(&cart, &roots, &identity("shop", "cart")).await.unwrap();

    let unbound = server.token(SYSTEM, "aquifer-node", None, "aquifer-ca").await;
    let foreign = server.token("shop", "aquifer-node", None, "aquifer-ca").await;
    let wrong = server.token(SYSTEM, "aquifer-node", Some("aquifer-node-1"), "elsewhere").await;
    let garbage = server.dir.path().join("garbage");
    std::fs::write(&garbage, "x.y.z").unwrap();
    let elsewhere = Identity::new(TrustDomain::new("elsewhere").unwrap(), "shop", "cart");
    for (what, token, who, code, why) in [
        ("a pod of another node", &node, identity("shop", "pay"), "PermissionDenied", "no pod on node n1"),
        (
            "an account without a pod",
            &node,
            identity("shop", "idle"),
            "PermissionDenied",
            "no pod on node n1",
        ),
        ("another trust domain", &node, elsewhere, "", "trust domain"),
        ("a pod's token", &cart, identity("shop", "pay"), "PermissionDenied", "its own identity only"),
        ("a token of no pod", &unbound, identity("shop", "cart"), "PermissionDenied", "not bound"),
        ("the account of another namespace", &foreign, identity("shop", "cart"), "PermissionDenied", "own"),
        ("a token for others", &wrong, identity("shop", "cart"), "Unauthenticated", "audience"),
        ("garbage", &garbage, identity("shop", "cart"), "Unauthenticated", "does not know the token"),
    ] {
        let refused = one.issue(token, &roots, &who).await.expect_err(what).to_string();
        assert!(refused.contains(code) && refused.contains(why), "{what}: {refused}");
    }

    // Whoever of the replicas refused, and however often: one event tells it at the Node.
    for replica in [&one, &two] {
        replica.issue(&node, &roots, &identity("shop", "pay")).await.expect_err("a pod of another node");
    }
    let events = Api::<Told>::namespaced(server.client.clone(), "default");
    let told = async {
        loop {
            let all = events.list(&ListParams::default()).await.unwrap().items;
            let ours: Vec<Told> =
                all.into_iter().filter(|event| event.reason.as_deref() == Some("IdentityRefused")).collect();
            if !ours.is_empty() {
                break ours;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = timeout(PATIENCE, told).await.unwrap();
    assert!(told.len() <= 2, "one for ten minutes, of which a new ten may have begun: {told:#?}");
    assert_eq!(told[0].regarding.as_ref().unwrap().name.as_deref(), Some("n1"));
    assert!(told[0].note.as_deref().unwrap().contains("aquifer-system/aquifer-node-1 asked"), "{told:#?}");

    server.pods("shop").delete("cart-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    let gone = async { while one.issue(&node, &roots, &identity("shop", "cart")).await.is_ok() {} };
    timeout(PATIENCE, gone).await.expect("a pod that is gone gives no identity");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_node_is_told_what_changes_and_what_it_missed() {
    let Some(server) = ApiServer::start().await else { return };
    shop(&server).await;
    let controller = Running::start(&server, port());
    let roots = server.roots().await;
    let token = server.token(SYSTEM, "aquifer-node", Some("aquifer-node-1"), "aquifer-ca").await;
    let mut node = Listening::start(controller.link(&token, &roots).await);
    node.until("the first batch is the whole mesh", |node| !node.last.is_empty()).await;
    assert_eq!(node.pods(), [NODE_POD, CART, PAY]);

    server.pod("shop", "cart-1", "cart", "n1").await;
    node.until("a new pod", |node| node.pods().len() == 4).await;
    assert_eq!(node.last.len(), 1, "a change costs the change: {:?}", node.last);

    let at = controller.port;
    controller.stop().await;
    node.until("the controller is away", |node| !node.troubles.is_empty()).await;
    assert_eq!(node.pods().len(), 4, "the last state stays");
    for pod in ["cart-0", "cart-1"] {
        server.pods("shop").delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    let controller = Running::start(&server, at);
    node.until("what went meanwhile", |node| node.pods() == [NODE_POD, PAY]).await;
    assert_eq!(node.last.len(), 2, "what it has is not told again: {:?}", node.last);

    let pod = server.token("shop", "pay", Some("pay-0"), "aquifer-ca").await;
    let mut curious = Listening::start(controller.link(&pod, &roots).await);
    curious.until("a pod is told nothing", |node| !node.troubles.is_empty()).await;
    assert!(curious.troubles[0].contains("is no node proxy"), "{:?}", curious.troubles);
    controller.stop().await;
}

#[tokio::test]
async fn a_root_is_replaced_while_both_are_trusted() {
    let Some(server) = ApiServer::start().await else { return };
    shop(&server).await;
    let controller = Running::start(&server, port());
    let old = server.roots().await;
    let node = server.token(SYSTEM, "aquifer-node", Some("aquifer-node-1"), "aquifer-ca").await;
    let link = controller.link(&node, &old).await;
    let before = controller.issue(&node, &old, &identity("shop", "cart")).await.unwrap();

    let secrets = Api::<Secret>::namespaced(server.client.clone(), SYSTEM);
    let next = aquifer_pki::CaFiles::generate(&TrustDomain::default()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let both = format!("{}{}", std::fs::read_to_string(&old).unwrap(), text(&next.roots));
    let change = json!({ "stringData": {
        "root-cert.pem": both, "ca-cert.pem": text(&next.certificate), "ca-key.pem": text(&next.key),
    }});
    secrets.patch("aquifer-ca", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(server.client.clone(), SYSTEM);
    let published = async {
        while maps.get("aquifer-ca-root").await.unwrap().data.unwrap()["root-cert.pem"] != both {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, published).await.expect("both roots are published");

    // A node that has not got the new root yet cannot be served by what the new root signed; with both it is.
    let map = maps.get("aquifer-ca-root").await.unwrap().data.unwrap();
    std::fs::write(&old, &map["root-cert.pem"]).unwrap();
    link.refresh().await.unwrap();
    let after = controller.issue(&node, &old, &identity("shop", "cart")).await.unwrap();
    let bundle = link.authority().borrow().bundle.clone();
    let root = |issued: &Issued| peer(&issued.chain, Side::Client, &bundle, SystemTime::now()).unwrap().root;
    assert_ne!(root(&before), root(&after), "another root signs, and both are trusted");

    // By who signs, once it hears of that, it knows what is to be renewed.
    assert!(before.issuer.is_some() && before.issuer != after.issuer);
    assert_eq!(link.authority().borrow().issuer, before.issuer);
    server.mount(&map);
    link.refresh().await.unwrap();
    assert_eq!(link.authority().borrow().issuer, after.issuer);
    controller.stop().await;
}
