//! A controller against a real API server, as a ztunnel uses it: its account, its token, Istio's types and certificates.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![allow(unreachable_pub, reason = "support is a module of this test alone")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aquifer_discovery::proto::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use aquifer_discovery::proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use aquifer_discovery::proto::{security, workload};
use aquifer_discovery::{IstioType, proto};
use aquifer_model::{Identity, TrustDomain};
use aquifer_pki::remote::{Controller, Link, RemoteIssuer};
use aquifer_pki::{Issuer, Validity};
use kube::api::{DeleteParams, Patch, PatchParams};
use prost::Message;
use serde_json::{Value, json};
use support::{ApiServer, PATIENCE, Running, SYSTEM, port};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use workload::address::Type as Told;

const CART: &str = "Kubernetes//Pod/shop/cart-0";
const WEB: &str = "shop/web.shop.svc.cluster.local";

/// Two pods in the mesh, a Service with an endpoint, a policy of the whole namespace, and mutual TLS demanded of all.
async fn shop(server: &ApiServer) {
    for namespace in [SYSTEM, "istio-system", "other"] {
        server.namespace(namespace, json!({})).await;
    }
    server.namespace("shop", json!({ "aquifer.dev/mesh": "ambient" })).await;
    server.install().await;
    server.node("n1").await;
    for (namespace, account) in
        [("istio-system", "ztunnel"), ("other", "ztunnel"), ("shop", "cart"), ("shop", "pay")]
    {
        server.account(namespace, account).await;
    }
    for (namespace, name, account, ip) in [
        ("istio-system", "ztunnel-x", "ztunnel", "10.1.0.9"),
        ("other", "ztunnel-y", "ztunnel", "10.1.0.8"),
        ("shop", "cart-0", "cart", "10.1.0.1"),
        ("shop", "pay-0", "pay", "10.1.0.2"),
    ] {
        server.pod(namespace, name, account, "n1").await;
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready } });
        let pods = server.pods(namespace);
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
    for object in [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "clusterIP": "10.96.0.77", "selector": { "app": "cart-0" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{
                "addresses": ["10.1.0.1"], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "name": "cart-0", "namespace": "shop" },
            }],
        }),
        json!({
            "apiVersion": "aquifer.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": { "matchLabels": { "app": "cart-0" } },
                "rules": [{ "from": [{ "source": { "principals": ["spiffe://cluster.local/ns/shop/sa/pay"] } }] }] },
        }),
        json!({
            "apiVersion": "aquifer.dev/v1alpha1", "kind": "PeerAuthentication", "metadata": { "name": "all", "namespace": "shop" },
            "spec": { "mtls": { "mode": "STRICT" } },
        }),
    ] {
        apply(server, object).await;
    }
}

async fn apply(server: &ApiServer, object: Value) {
    server.apply(&serde_json::from_value(object).unwrap()).await;
}

async fn link(at: u16, token: &Path, roots: &Path) -> Link {
    let controller = Controller {
        url: format!("https://127.0.0.1:{at}"),
        identity: Identity::new(TrustDomain::default(), SYSTEM, "aquifer-controller"),
        token: token.to_owned(),
        roots: roots.to_owned(),
        cluster_id: "Kubernetes".into(),
    };
    timeout(PATIENCE, Link::open(controller)).await.unwrap().unwrap()
}

/// What a ztunnel has.
struct Ztunnel {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    policies: BTreeMap<String, security::Authorization>,
    addresses: BTreeMap<String, workload::Address>,
}

impl Ztunnel {
    async fn connect(link: &Link) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        for of in [IstioType::Address, IstioType::Authorization] {
            let first = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: "ztunnel~10.1.0.9~ztunnel-x.istio-system~istio-system.svc.cluster.local".to_owned(),
                    ..Node::default()
                }),
                type_url: of.url().to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(link.channel());
        let asked = link.signed(ReceiverStream::new(outgoing)).unwrap();
        let answers = client.delta_aggregated_resources(asked).await?.into_inner();
        Ok(Self { requests, answers, policies: BTreeMap::new(), addresses: BTreeMap::new() })
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let reached = async {
            while !holds(self) {
                let answer = self.answers.message().await.unwrap().unwrap();
                self.take(answer).await;
            }
        };
        let reached = timeout(PATIENCE, reached).await.is_ok();
        assert!(reached, "{what}: {:#?} {:#?}", self.policies, self.addresses);
    }

    async fn take(&mut self, answer: DeltaDiscoveryResponse) {
        let of = IstioType::of_url(&answer.type_url).unwrap();
        for proto::xds::Resource { name, resource, .. } in answer.resources {
            let value = resource.unwrap().value;
            match of {
                IstioType::Authorization => {
                    self.policies.insert(name, security::Authorization::decode(value).unwrap());
                }
                IstioType::Address => {
                    self.addresses.insert(name, workload::Address::decode(value).unwrap());
                }
            }
        }
        for name in answer.removed_resources {
            self.policies.remove(&name);
            self.addresses.remove(&name);
        }
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(acknowledgement).await.unwrap();
    }

    fn workload(&self, name: &str) -> Option<&workload::Workload> {
        match self.addresses.get(name)?.r#type.as_ref()? {
            Told::Workload(workload) => Some(workload),
            Told::Service(_) => None,
        }
    }
}

#[tokio::test]
async fn a_ztunnel_gets_the_mesh_and_the_certificates_of_its_node() {
    let Some(server) = ApiServer::start().await else { return };
    shop(&server).await;
    let controller = Running::start(&server, port());
    let roots = server.roots().await;
    let token = server.token("istio-system", "ztunnel", Some("ztunnel-x"), "istio-ca").await;
    let way = link(controller.port, &token, &roots).await;
    let mut ztunnel = Ztunnel::connect(&way).await.unwrap();
    ztunnel.until("the mesh", |z| z.addresses.contains_key(CART) && z.addresses.contains_key(WEB)).await;

    let cart = ztunnel.workload(CART).unwrap();
    assert_eq!(
        (cart.tunnel_protocol(), cart.addresses.as_slice()),
        (workload::TunnelProtocol::Hbone, &[vec![10, 1, 0, 1]][..])
    );
    assert_eq!(cart.authorization_policies, ["aquifer-system/strict_mtls", "shop/web_selected"]);
    let port = workload::Port { service_port: 80, target_port: 8080, ..workload::Port::default() };
    assert_eq!(cart.services[WEB].ports, [port]);
    assert!(cart.authorization_policies.iter().all(|name| ztunnel.policies.contains_key(name)));
    let outside = ztunnel.workload("Kubernetes//Pod/other/ztunnel-y").unwrap();
    assert_eq!(outside.tunnel_protocol(), workload::TunnelProtocol::None);

    server.pods("shop").delete("cart-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    ztunnel.until("a pod is gone", |z| !z.addresses.contains_key(CART)).await;

    let validity = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
    let pay = Identity::new(TrustDomain::default(), "shop", "pay");
    let issuer = RemoteIssuer::new(link(controller.port, &token, &roots).await.into());
    timeout(PATIENCE, issuer.issue(&pay, validity)).await.unwrap().unwrap();

    // Its name alone makes nobody a ztunnel.
    let token = server.token("other", "ztunnel", Some("ztunnel-y"), "istio-ca").await;
    let way = link(controller.port, &token, &roots).await;
    let refused = Ztunnel::connect(&way).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::PermissionDenied));
    controller.stop().await;
}
