//! A client that speaks as a ztunnel does (istio/ztunnel 62d8265, `xds/client.rs`), beside nodes of our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use aquifer_model::{
    Action, AuthorizationPolicy, Endpoint, EndpointPort, EndpointSlice, Mesh, MeshConfig, NamespacedName,
    PolicyScope, Protocol, Rule, Service, Snapshot, Update, Workload, WorkloadFacts, WorkloadName,
};
use prost_types::value::Kind;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status, Streaming};

use super::*;
use crate::proto::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::proto::xds::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::{IstioType, Served, Type, testing};

const PATIENCE: Duration = Duration::from_secs(20);
const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

const CART: &str = "Kubernetes//Pod/shop/cart-0";
const PAY: &str = "Kubernetes//Pod/shop/pay-0";
const WEB: &str = "shop/web.shop.svc.cluster.local";

/// A controller's half, with a mesh that a test changes.
struct Bed {
    feed: Arc<Feed>,
    mesh: Mesh,
    channel: Channel,
}

impl Bed {
    async fn start() -> Self {
        let feed = Arc::new(Feed::new());
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        tokio::spawn(Server::builder().add_service(service(feed.clone())).serve_with_incoming(incoming));
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect_lazy();
        let mesh = Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: Some(vec![]) });
        Self { feed, mesh, channel }
    }

    /// With two pods, of which one serves a Service.
    async fn shop() -> Self {
        let mut bed = Self::start().await;
        bed.tell(vec![
            pod("cart-0", [10, 1, 0, 1]),
            pod("pay-0", [10, 1, 0, 2]),
            web(),
            slice(&["cart-0"]),
            deny("shop", "all", PolicyScope::Namespace),
        ]);
        bed
    }

    fn tell(&mut self, updates: Vec<Update>) {
        self.mesh.apply(updates.clone());
        self.feed.apply(&updates, true);
        self.feed.show(&updates, self.mesh.snapshot(), true);
    }

    fn mesh(&self) -> Arc<Snapshot> {
        self.mesh.snapshot()
    }
}

/// What a ztunnel has, and how it speaks.
struct Ztunnel {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    /// Names with versions, by type: what it would come back with.
    known: BTreeMap<String, HashMap<String, String>>,
}

impl Ztunnel {
    async fn connect(bed: &Bed, on_demand: bool, known: BTreeMap<String, HashMap<String, String>>) -> Self {
        let (requests, outgoing) = mpsc::channel(100);
        for (url, on_demand) in [(ADDRESS, on_demand), (AUTHORIZATION, false)] {
            let star: Vec<String> = if on_demand { vec!["*".to_owned()] } else { vec![] };
            let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) };
            let fields = [
                ("NAME", "ztunnel-x"),
                ("NAMESPACE", "istio-system"),
                ("INSTANCE_IPS", "10.1.0.9"),
                ("NODE_NAME", "n1"),
            ];
            let first = DeltaDiscoveryRequest {
                node: Some(xds::Node {
                    id: "ztunnel~10.1.0.9~ztunnel-x.istio-system~istio-system.svc.cluster.local".to_owned(),
                    metadata: Some(prost_types::Struct {
                        fields: fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect(),
                    }),
                    ..xds::Node::default()
                }),
                type_url: url.to_owned(),
                // It wants nothing by wanting all and then no more.
                resource_names_subscribe: star.clone(),
                resource_names_unsubscribe: star,
                initial_resource_versions: known.get(url).cloned().unwrap_or_default(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(bed.channel.clone());
        let answers = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
        Self { requests, answers: answers.into_inner(), known }
    }

    async fn wildcard(bed: &Bed) -> Self {
        Self::connect(bed, false, BTreeMap::new()).await
    }

    async fn on_demand(bed: &Bed) -> Self {
        let mut ztunnel = Self::connect(bed, true, BTreeMap::new()).await;
        assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &["shop/all"], &[]));
        assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &[]));
        ztunnel
    }

    async fn ask(&self, name: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: ADDRESS.to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next answer, acknowledged.
    async fn next(&mut self) -> Said {
        let answer = self.read().await.unwrap();
        self.answer(&answer, None).await;
        let known = self.known.entry(answer.type_url.clone()).or_default();
        let here: BTreeSet<String> = answer.resources.iter().map(|resource| resource.name.clone()).collect();
        for resource in answer.resources {
            assert_eq!(resource.resource.unwrap().type_url, answer.type_url);
            known.insert(resource.name, resource.version);
        }
        for name in &answer.removed_resources {
            known.remove(name);
        }
        let gone = answer.removed_resources.into_iter().collect();
        Said { url: answer.type_url, here, gone }
    }

    async fn read(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("an answer");
        answer.map(|answer| answer.expect("no end"))
    }

    async fn answer(&self, to: &DeltaDiscoveryResponse, error: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: to.type_url.clone(),
            response_nonce: to.nonce.clone(),
            error_detail: error.map(|message| xds::Status { message: message.to_owned(), code: 0 }),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

#[derive(Debug, PartialEq)]
struct Said {
    url: String,
    here: BTreeSet<String>,
    gone: BTreeSet<String>,
}

fn said(url: &str, here: &[&str], gone: &[&str]) -> Said {
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
    Said { url: url.to_owned(), here: names(here), gone: names(gone) }
}

fn facts(name: &str, address: impl Into<IpAddr>) -> WorkloadFacts {
    let addresses = [address.into()].into_iter().collect();
    WorkloadFacts { addresses, ..testing::pod("shop", name) }
}

fn pod(name: &str, address: impl Into<IpAddr>) -> Update {
    Update::Workload(Arc::new(Workload::from(facts(name, address))))
}

fn gone(name: &str) -> Update {
    Update::WorkloadGone(WorkloadName::pod("Kubernetes", "shop", name))
}

fn web() -> Update {
    let vips = std::iter::once(IpAddr::from([10, 96, 0, 1])).collect();
    Update::Service(Service { vips, ..testing::service("shop", "web") }.into())
}

fn slice(pods: &[&str]) -> Update {
    let endpoint = |(at, name): (usize, &&str)| Endpoint {
        address: [10, 1, 0, u8::try_from(at).unwrap() + 1].into(),
        workload: Some(WorkloadName::pod("Kubernetes", "shop", name)),
        node: "".into(),
        zone: "".into(),
        ready: true,
        serving: true,
        terminating: false,
    };
    let slice = EndpointSlice {
        name: NamespacedName::new("shop", "web-1"),
        service: NamespacedName::new("shop", "web"),
        ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: pods.iter().enumerate().map(endpoint).collect(),
    };
    Update::EndpointSlice(slice.into())
}

fn deny(namespace: &str, name: &str, scope: PolicyScope) -> Update {
    let policy = AuthorizationPolicy {
        name: NamespacedName::new(namespace, name),
        scope,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![], l7: false }],
    };
    Update::Authorization(policy.into())
}

fn of_app(app: &str) -> PolicyScope {
    PolicyScope::Selector([("app".into(), app.into())].into())
}

#[tokio::test]
async fn a_ztunnel_is_told_everything_and_then_what_changes() {
    let mut bed = Bed::shop().await;
    let mut ztunnel = Ztunnel::wildcard(&bed).await;
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &["shop/all"], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[CART, PAY, WEB], &[]));

    bed.tell(vec![pod("cart-1", [10, 1, 0, 3])]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &["Kubernetes//Pod/shop/cart-1"], &[]));
    bed.tell(vec![slice(&["cart-0", "pay-0"])]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[PAY], &[]));
    bed.tell(vec![gone("cart-1")]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &["Kubernetes//Pod/shop/cart-1"]));

    // A policy is there before a workload names it, and goes after none does.
    bed.tell(vec![deny("shop", "some", of_app("pay-0"))]);
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &["shop/some_selected"], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[PAY], &[]));
    bed.tell(vec![deny("shop", "some", PolicyScope::Namespace)]);
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &["shop/some"], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[PAY], &[]));
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &[], &["shop/some_selected"]));
}

#[tokio::test]
async fn a_ztunnel_that_comes_back_is_told_the_difference() {
    let mut bed = Bed::shop().await;
    let mut ztunnel = Ztunnel::wildcard(&bed).await;
    ztunnel.next().await;
    ztunnel.next().await;
    let known = std::mem::take(&mut ztunnel.known);
    drop(ztunnel);

    bed.tell(vec![
        gone("pay-0"),
        pod("cart-1", [10, 1, 0, 3]),
        Update::AuthorizationGone(NamespacedName::new("shop", "all")),
    ]);
    let mut ztunnel = Ztunnel::connect(&bed, false, known).await;
    // Of policies nothing is to be said but what is gone, which comes last.
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &[], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &["Kubernetes//Pod/shop/cart-1"], &[PAY]));
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &[], &["shop/all"]));
}

#[tokio::test]
async fn a_ztunnel_asks_for_what_it_needs() {
    let mut bed = Bed::shop().await;
    let mut ztunnel = Ztunnel::on_demand(&bed).await;

    // It waits for a word about the very name that it asked for.
    ztunnel.ask("/10.1.0.2").await;
    let answer = ztunnel.read().await.unwrap();
    assert_eq!(answer.resources[0].aliases, ["/10.1.0.2"]);
    assert_eq!(answer.resources[0].name, PAY);
    assert_eq!(answer.removed_resources, ["/10.1.0.2"]);
    ztunnel.answer(&answer, None).await;
    ztunnel.ask("/192.0.2.1").await;
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &["/192.0.2.1"]));
    ztunnel.ask("/10.96.0.1").await;
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[WEB, CART], &["/10.96.0.1"]));
    ztunnel.ask(WEB).await;
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[WEB, CART], &[]));

    // What it was told it is told of, and what comes to a Service or an address that it asked for; nothing else.
    bed.tell(vec![pod("cart-1", [10, 1, 0, 3])]);
    bed.tell(vec![gone("pay-0")]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &[PAY]));
    bed.tell(vec![pod("pay-1", [10, 1, 0, 2])]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &["Kubernetes//Pod/shop/pay-1"], &[]));
    bed.tell(vec![slice(&["cart-0", "pay-1", "cart-1"])]);
    assert_eq!(
        ztunnel.next().await,
        said(ADDRESS, &["Kubernetes//Pod/shop/cart-1", "Kubernetes//Pod/shop/pay-1"], &[])
    );

    // It comes back with what it has, and is told what changed of that.
    let mut known = std::mem::take(&mut ztunnel.known);
    known.get_mut(ADDRESS).unwrap().insert("/10.1.0.77".to_owned(), String::new());
    drop(ztunnel);
    bed.tell(vec![gone("cart-1"), pod("other", [10, 1, 0, 9])]);
    let mut ztunnel = Ztunnel::connect(&bed, true, known).await;
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &[], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &["/10.1.0.77", "Kubernetes//Pod/shop/cart-1"]));
    bed.tell(vec![pod("pay-1", [10, 1, 0, 22])]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &["Kubernetes//Pod/shop/pay-1"], &[]));
}

#[tokio::test]
async fn what_a_ztunnel_cannot_take_is_shown_and_it_is_told_on() {
    let mut bed = Bed::shop().await;
    let mut ztunnel = Ztunnel::wildcard(&bed).await;
    let answer = ztunnel.read().await.unwrap();
    ztunnel.answer(&answer, Some("shop/all: no such action")).await;
    ztunnel.next().await;
    bed.tell(vec![gone("pay-0")]);
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[], &[PAY]));
    let rejected = bed.feed.rejected();
    assert_eq!(rejected[0].of, Served::Istio(IstioType::Authorization));
    assert!(rejected[0].id.starts_with("ztunnel~10.1.0.9~") && rejected[0].why.contains("no such action"));
}

#[tokio::test]
async fn nothing_is_made_while_no_ztunnel_listens() {
    let mut bed = Bed::shop().await;
    assert!(bed.feed.istio_counts().is_empty());
    let mut ztunnel = Ztunnel::wildcard(&bed).await;
    ztunnel.next().await;
    ztunnel.next().await;
    let counts = bed.feed.istio_counts();
    assert_eq!(
        counts,
        [(Served::Istio(IstioType::Authorization), 1), (Served::Istio(IstioType::Address), 3)]
    );
    drop(ztunnel);
    let left = async {
        while !bed.feed.istio_counts().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, left).await.expect("what nobody listens to is forgotten");
    bed.tell(vec![gone("pay-0")]);
    assert!(bed.mesh().workloads().count() == 1 && bed.feed.istio_counts().is_empty());
}

#[tokio::test]
async fn one_stream_may_ask_for_both_and_nodes_get_their_moments_alone() {
    let mut bed = Bed::shop().await;
    let mut ztunnel = Ztunnel::wildcard(&bed).await;
    ztunnel.next().await;
    ztunnel.next().await;
    let of_node =
        DeltaDiscoveryRequest { type_url: Type::Node.url().to_owned(), ..DeltaDiscoveryRequest::default() };
    ztunnel.requests.send(of_node).await.unwrap();
    let answer = ztunnel.read().await.unwrap();
    assert_eq!(
        (answer.type_url.as_str(), answer.system_version_info),
        (Type::Node.url(), bed.feed.revision().to_string())
    );
    bed.tell(vec![gone("pay-0")]);
    let answer = ztunnel.read().await.unwrap();
    assert_eq!((answer.type_url.as_str(), answer.system_version_info.as_str()), (ADDRESS, ""));
}

#[tokio::test]
async fn nothing_is_told_before_the_whole_mesh_is_known() {
    let mut bed = Bed::start().await;
    let updates = vec![pod("cart-0", [10, 1, 0, 1])];
    bed.mesh.apply(updates.clone());
    bed.feed.apply(&updates, false);
    bed.feed.show(&updates, bed.mesh.snapshot(), false);
    let connecting = Ztunnel::wildcard(&bed);
    let mut ztunnel = timeout(PATIENCE, connecting).await.unwrap();
    let nothing = timeout(Duration::from_millis(50), ztunnel.answers.message()).await;
    assert!(nothing.is_err(), "a policy might be missing");
    bed.tell(vec![deny("shop", "all", PolicyScope::Namespace)]);
    assert_eq!(ztunnel.next().await, said(AUTHORIZATION, &["shop/all"], &[]));
    assert_eq!(ztunnel.next().await, said(ADDRESS, &[CART], &[]));
    bed.feed.end();
    assert_eq!(ztunnel.read().await.unwrap_err().code(), Code::Unavailable);
}
