//! The namespace and the pods of a probe.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aquifer_k8s::{Namespace, Pod, names};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::controllers::trouble;
use super::super::facts::Enrolled;
use super::app;
use crate::cluster::{self, name_of, node_of};

/// Label of its namespaces.
const LABEL: &str = "aquifer.dev/check";
const VALUE: &str = "probe";

/// A pod without its creator ends by itself.
const LONGEST_SECONDS: i64 = 180;

/// Pods start and join the mesh within this; an image that is on the node already starts in one or two seconds.
const PATIENCE: Duration = Duration::from_secs(45);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A namespace for pods of one probe.
pub(super) struct Stage {
    client: Client,
    pub(super) namespace: String,
}

/// A pod that calls and is called.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) pod: String,
    pub(super) node: String,
    /// Where it is called.
    pub(super) address: SocketAddr,
}

impl Stage {
    /// Makes the namespace, and takes away those of probes that were killed.
    pub(super) async fn open(client: &Client) -> kube::Result<Self> {
        let api: Api<Namespace> = Api::all(client.clone());
        for old in api.list(&ListParams::default().labels(&format!("{LABEL}={VALUE}"))).await?.items {
            let since =
                old.metadata.creation_timestamp.as_ref().map(|time| Timestamp::now().duration_since(time.0));
            if since.is_some_and(|age| age > SignedDuration::from_secs(2 * LONGEST_SECONDS))
                && let Some(name) = &old.metadata.name
            {
                api.delete(name, &DeleteParams::default()).await?;
            }
        }
        let namespace = serde_json::from_value(json!({
            "metadata": {
                "generateName": "aquifer-check-",
                "labels": {
                    LABEL: VALUE,
                    names::MESH_LABEL: names::MESH_AMBIENT,
                    "pod-security.kubernetes.io/enforce": "restricted",
                },
            },
        }));
        let namespace = api.create(&PostParams::default(), &namespace.map_err(Error::SerdeError)?).await?;
        Ok(Self { client: client.clone(), namespace: namespace.metadata.name.unwrap_or_default() })
    }

    /// Ends the pods at once, and takes the namespace away; the cluster finishes that by itself.
    pub(super) async fn close(&self) -> kube::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        // Without it the namespace waits for their grace.
        let _ =
            pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await;
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(&self.namespace, &DeleteParams::default()).await.map(drop)
    }

    /// A pod on each of the places, running and in the mesh.
    ///
    /// # Errors
    /// Which pod is not, and why.
    pub(super) async fn enter(&self, image: &str, places: &[&str]) -> Result<Vec<Actor>, String> {
        let until = Instant::now() + PATIENCE;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for (index, node) in places.iter().enumerate() {
            let pod = manifest(&format!("probe-{index}"), node, image).map_err(|error| error.to_string())?;
            // A new namespace refuses pods until its service account was made.
            while let Err(error) = pods.create(&PostParams::default(), &pod).await {
                let early = matches!(&error, Error::Api(status) if status.message.contains("serviceaccount"));
                if !early || Instant::now() > until {
                    return Err(format!("a pod on {node}: {error}"));
                }
                sleep(PAUSE).await;
            }
        }
        loop {
            let there = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let waits = match self.actors(&there).await {
                Ok(actors) if actors.len() == places.len() => return Ok(actors),
                Ok(actors) => format!("{} of {} pods are there", actors.len(), places.len()),
                Err(why) => why,
            };
            if Instant::now() > until {
                return Err(format!("{waits}, after {} s", PATIENCE.as_secs()));
            }
            sleep(PAUSE).await;
        }
    }

    /// Those pods as actors; why not where one is not ready to be one.
    async fn actors(&self, pods: &[Pod]) -> Result<Vec<Actor>, String> {
        let mut actors = Vec::new();
        for pod in pods {
            let (name, node) = (name_of(pod), node_of(pod));
            let status = pod.status.clone().unwrap_or_default();
            let address = status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            let (Some("Running"), Some(address)) = (status.phase.as_deref(), address) else {
                return Err(format!("pod {name} on {node} does not run: {}", trouble(pod)));
            };
            let asked = async {
                let proxy = cluster::proxy_of(&self.client, node).await?;
                let page = cluster::get(&self.client, name_of(&proxy), "/enrolments").await?;
                Ok::<Vec<Enrolled>, anyhow::Error>(serde_json::from_value(page)?)
            };
            let enrolled = asked.await.map_err(|error| format!("{error:#}"))?;
            match enrolled.iter().find(|enrolled| Some(&enrolled.uid) == pod.metadata.uid.as_ref()) {
                Some(enrolled) if enrolled.ready => {}
                Some(enrolled) => {
                    return Err(format!("pod {name} on {node} is not in the mesh: {}", enrolled.why));
                }
                None => {
                    return Err(format!(
                        "pod {name} on {node} is not in the mesh: its node does not know it"
                    ));
                }
            }
            actors.push(Actor {
                pod: name.to_owned(),
                node: node.to_owned(),
                address: SocketAddr::new(address, app::PORT),
            });
        }
        Ok(actors)
    }
}

/// A pod that passes the strictest Pod Security Standard, and that no scheduler need find a place for.
fn manifest(name: &str, node: &str, image: &str) -> serde_json::Result<Pod> {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { names::APPLICATION_LABEL: "aquifer-check" } },
        "spec": {
            "nodeName": node,
            "activeDeadlineSeconds": LONGEST_SECONDS,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{ "operator": "Exists" }],
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "probe", "image": image, "imagePullPolicy": "IfNotPresent", "args": ["probe-app"],
                "ports": [{ "name": "probe", "containerPort": app::PORT }],
                "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_probe_is_where_it_should_be_and_ends_by_itself() {
        let pod = manifest("probe-0", "n1", "image:1").unwrap();
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((node_of(&pod), super::super::image(&pod)), ("n1", "image:1"));
        assert_eq!(spec.active_deadline_seconds, Some(LONGEST_SECONDS));
    }
}
