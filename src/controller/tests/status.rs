//! Controllers with the rights that they are installed with, against a real API server: who leads, and what stands in policies' statuses.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![allow(unreachable_pub, reason = "support is a module of this test alone")]

mod support;

use std::time::Duration;

use aquifer_k8s::StatusCondition;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{ApiServer, PATIENCE, Running, SYSTEM, port};
use tokio::time::{Instant, timeout};

const LOOK: Duration = Duration::from_millis(50);

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(timeout(PATIENCE, reached).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// Policies of the shop, and of nobody else.
struct Policies<'a>(&'a ApiServer);

impl Policies<'_> {
    async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "aquifer.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
        });
        self.0.apply(&serde_json::from_value(object).unwrap()).await;
    }

    async fn read(&self, kind: &str, name: &str) -> DynamicObject {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("aquifer.dev", "v1alpha1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.0.client.clone(), "shop", &resource);
        api.get(name).await.unwrap()
    }

    /// Waits until a condition is about what stands in the object now, and is so for that reason.
    async fn says(
        &self,
        (kind, name): (&str, &str),
        condition: &str,
        so: &str,
        reason: &str,
    ) -> StatusCondition {
        let mut last = Vec::new();
        let said = async {
            loop {
                let object = self.read(kind, name).await;
                let conditions = object.data["status"]["conditions"].clone();
                last = serde_json::from_value::<Vec<StatusCondition>>(conditions).unwrap_or_default();
                let found = last.iter().find(|found| found.type_ == condition);
                let found = found.filter(|found| found.observed_generation == object.metadata.generation);
                if let Some(found) = found.filter(|found| found.status == so && found.reason == reason) {
                    return found.clone();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let said = timeout(PATIENCE, said).await;
        said.unwrap_or_else(|_| panic!("{name}: {condition} is not {so} for {reason}: {last:#?}"))
    }
}

async fn events(client: &Client, namespace: &str, about: &str) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let all = api.list(&ListParams::default()).await.unwrap().items;
    let is = |event: &Event| event.regarding.as_ref().is_some_and(|of| of.name.as_deref() == Some(about));
    all.into_iter().filter(is).collect()
}

async fn shop() -> Option<ApiServer> {
    let server = ApiServer::start().await?;
    server.namespace(SYSTEM, json!({})).await;
    server.install().await;
    server.namespace("shop", json!({ "aquifer.dev/mesh": "ambient" })).await;
    server.node("n1").await;
    for account in ["web", "pay"] {
        server.account("shop", account).await;
        server.pod("shop", account, account, "n1").await;
    }
    Some(server)
}

const AUTHORIZATION: &str = "AuthorizationPolicy";
const PEER: &str = "PeerAuthentication";

#[tokio::test]
async fn the_status_of_a_policy_says_what_became_of_it() {
    let Some(server) = shop().await else { return };
    let policies = Policies(&server);
    let web = json!({ "matchLabels": { "app": "web" } });
    policies.apply(AUTHORIZATION, "good", json!({ "selector": web, "rules": [{}] })).await;
    let controller = Running::start_as(server.controller(), port());
    let good = (AUTHORIZATION, "good");
    policies.says(good, "Accepted", "True", "Accepted").await;
    let enforced = policies.says(good, "Enforced", "True", "Enforced").await;
    assert!(enforced.message.contains("at 1 pod"), "{enforced:?}");

    policies
        .apply(AUTHORIZATION, "nobody", json!({ "selector": { "matchLabels": { "app": "webb" } } }))
        .await;
    let nobody = policies.says((AUTHORIZATION, "nobody"), "Enforced", "False", "SelectsNothing").await;
    assert!(
        nobody.message.contains("no pod has app=webb; pods here have app=pay, app=web. Mend: "),
        "{nobody:?}"
    );

    let http = json!({ "selector": web, "action": "DENY", "rules": [{ "to": [{ "operation": { "methods": ["PUT"] } }] }] });
    policies.apply(AUTHORIZATION, "http", http).await;
    let http = policies.says((AUTHORIZATION, "http"), "Enforced", "False", "NeedsWaypoint").await;
    assert!(
        http.message.contains("(methods)") && http.message.contains("denies without looking"),
        "{http:?}"
    );

    // What stands in the API server and cannot be read: of one nothing is known, of the other what stood there before.
    policies.apply(AUTHORIZATION, "broken", json!({ "selector": web, "action": "NO" })).await;
    let broken = policies.says((AUTHORIZATION, "broken"), "Accepted", "False", "Invalid").await;
    assert!(broken.message.contains("it denies all calls"), "{broken:?}");
    policies.says((AUTHORIZATION, "broken"), "Enforced", "False", "Invalid").await;
    policies.apply(AUTHORIZATION, "good", json!({ "selector": web, "action": "NO", "rules": [{}] })).await;
    let kept = policies.says(good, "Accepted", "False", "Invalid").await;
    assert!(kept.message.contains("its last good version stays in use"), "{kept:?}");

    policies.apply(PEER, "a", json!({ "mtls": { "mode": "STRICT" } })).await;
    policies.apply(PEER, "b", json!({ "mtls": { "mode": "PERMISSIVE" } })).await;
    let conflict = policies.says((PEER, "b"), "Conflicted", "True", "SameScope").await;
    assert!(conflict.message.contains("shop/a decides"), "{conflict:?}");
    policies.says((PEER, "a"), "Conflicted", "True", "SameScope").await;
    policies.says((PEER, "b"), "Enforced", "False", "Overridden").await;
    policies.says((PEER, "a"), "Enforced", "True", "Enforced").await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("aquifer.dev", "v1alpha1", PEER));
    let peers: Api<DynamicObject> = Api::namespaced_with(server.client.clone(), "shop", &resource);
    peers.delete("b", &kube::api::DeleteParams::default()).await.unwrap();
    until("a conflict that is over is taken away", async || {
        let stands = policies.read(PEER, "a").await.data["status"]["conditions"].to_string();
        stands.contains("Enforced") && !stands.contains("Conflicted")
    })
    .await;

    // An event for each refusal, and one only, however often it is looked at.
    for name in ["broken", "good"] {
        until("an event for a refusal", async || !events(&server.client, "shop", name).await.is_empty())
            .await;
        let events = events(&server.client, "shop", name).await;
        assert_eq!(events.len(), 1, "{name}: {events:#?}");
        assert_eq!(events[0].reason.as_deref(), Some("PolicyNotAccepted"));
        assert!(events[0].note.as_deref().unwrap().contains("is no action"), "{events:#?}");
    }
    assert!(events(&server.client, "shop", "nobody").await.is_empty());
    let refused = "aquifer_controller_policy_refusals_total{kind=\"AuthorizationPolicy\",reason=";
    assert_eq!(controller.metric(&format!("{refused}\"denies\"}}")).await, Some(1.0));
    assert_eq!(controller.metric(&format!("{refused}\"last-good\"}}")).await, Some(1.0));
    controller.stop().await;
}

#[tokio::test]
async fn a_status_is_written_when_it_changes_and_not_otherwise() {
    let Some(server) = shop().await else { return };
    let policies = Policies(&server);
    let select = |app: &str| json!({ "selector": { "matchLabels": { "app": app } }, "rules": [{}] });
    policies.apply(AUTHORIZATION, "web", select("web")).await;
    let one = Running::start_as(server.controller(), port());
    let first = policies.says((AUTHORIZATION, "web"), "Enforced", "True", "Enforced").await;
    let version = async || policies.read(AUTHORIZATION, "web").await.metadata.resource_version.unwrap();
    let stands = version().await;

    // Things change that are nothing to it, and are looked at: the other policy shows that.
    policies.apply(AUTHORIZATION, "late", select("late")).await;
    policies.says((AUTHORIZATION, "late"), "Enforced", "False", "SelectsNothing").await;
    server.account("shop", "late").await;
    server.pod("shop", "late", "late", "n1").await;
    policies.says((AUTHORIZATION, "late"), "Enforced", "True", "Enforced").await;
    assert_eq!(version().await, stands, "it was written again");
    assert_eq!(one.metric("aquifer_controller_status_writes_total{outcome=\"written\"}").await, Some(3.0));

    // Nor does another replica that comes to lead write what stands there.
    let two = Running::start_as(server.controller(), port());
    one.stop().await;
    until("the other replica to lead", async || two.leads().await).await;
    policies.apply(AUTHORIZATION, "last", select("pay")).await;
    policies.says((AUTHORIZATION, "last"), "Enforced", "True", "Enforced").await;
    assert_eq!(version().await, stands, "another replica wrote it again");

    // An edit of the spec is a new generation, which it is said of; the condition is as long so as before.
    policies.apply(AUTHORIZATION, "web", json!({ "rules": [{}] })).await;
    let edited = policies.says((AUTHORIZATION, "web"), "Enforced", "True", "Enforced").await;
    assert!(edited.observed_generation > first.observed_generation);
    assert_eq!(edited.last_transition_time, first.last_transition_time);
    assert_eq!(two.metric("aquifer_controller_status_writes_total{outcome=\"failed\"}").await, None);
    two.stop().await;
}

#[tokio::test]
async fn one_replica_leads_and_another_takes_over_from_it() {
    let Some(server) = shop().await else { return };
    let leases: Api<Lease> = Api::namespaced(server.client.clone(), SYSTEM);
    let holder = async || leases.get("aquifer-controller").await.unwrap().spec.unwrap().holder_identity;
    let one = Running::start_as(server.controller(), port());
    until("a replica alone leads", async || one.leads().await).await;
    let first = holder().await;
    let two = Running::start_as(server.controller(), port());
    until("the second has asked", async || two.metric("aquifer_controller_leads").await.is_some()).await;
    assert!(!two.leads().await && one.leads().await);

    // One that ends gives the Lease back, and the other need not wait for its term.
    one.stop().await;
    let began = Instant::now();
    until("the second to lead", async || two.leads().await).await;
    assert!(began.elapsed() < Duration::from_secs(12), "it was not given back: {:?}", began.elapsed());
    let second = holder().await;
    assert_ne!(first, second);

    // One that dies is waited for, for the term.
    let three = Running::start_as(server.controller(), port());
    until("the third has asked", async || three.metric("aquifer_controller_leads").await.is_some()).await;
    two.kill().await;
    let began = Instant::now();
    until("the third to lead", async || three.leads().await).await;
    assert!(began.elapsed() > Duration::from_secs(5), "it took a Lease that was held");
    let policies = Policies(&server);
    policies.apply(AUTHORIZATION, "p", json!({ "rules": [{}] })).await;
    policies.says((AUTHORIZATION, "p"), "Enforced", "True", "Enforced").await;

    // One whose Lease another has taken writes no more, until that one has been still for the term.
    let taken = json!({ "spec": { "holderIdentity": "another", "leaseDurationSeconds": 6 } });
    leases.patch("aquifer-controller", &PatchParams::default(), &Patch::Merge(&taken)).await.unwrap();
    until("the third to lead no more", async || !three.leads().await).await;
    policies.apply(AUTHORIZATION, "late", json!({ "rules": [{}] })).await;
    assert_eq!(holder().await.as_deref(), Some("another"));
    assert!(
        policies.read(AUTHORIZATION, "late").await.data.get("status").is_none(),
        "it writes and does not lead"
    );
    until("the third to lead again", async || three.leads().await).await;
    policies.says((AUTHORIZATION, "late"), "Enforced", "True", "Enforced").await;
    three.stop().await;
    assert_eq!(holder().await.unwrap_or_default(), "", "the Lease was not given back");
}
