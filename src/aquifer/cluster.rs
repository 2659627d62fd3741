//! The cluster as the command line sees it: a client by kubectl's rules, and the admin pages of the mesh's pods.

mod forward;
mod mesh;

use anyhow::{Context, bail};
use aquifer_k8s::{Pod, names};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::ClusterFlags;

pub(crate) use forward::{Answer, Failure, ahead, connect, get, open, page};
pub(crate) use mesh::{Live, Origin};

/// Runs what talks to a cluster, on this thread.
pub(crate) fn blocking<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

/// A client for the cluster that the flags mean: the file they name, else `$KUBECONFIG` or `~/.kube/config`, else the
/// service account of the pod that this runs in.
pub(crate) async fn client(flags: &ClusterFlags) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    let config = match &flags.kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await.context("the kubeconfig")?
        }
        None if flags.context.is_some() => {
            Config::from_kubeconfig(&options).await.context("the kubeconfig")?
        }
        None => Config::infer().await.context("no cluster is configured: set $KUBECONFIG or --kubeconfig")?,
    };
    let server = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("a client for {server}"))
}

/// Pods of one of the mesh's own programs, by its name label, in the order of their nodes.
pub(crate) async fn pods(client: &Client, application: &str) -> anyhow::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let labelled = ListParams::default().labels(&format!("{}={application}", names::APPLICATION_LABEL));
    let mut pods = api.list(&labelled).await.context("the pods of the mesh cannot be listed")?.items;
    // One that ends answers no questions; a node proxy that was succeeded may end for an hour.
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.sort_by(|a, b| node_of(a).cmp(node_of(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    Ok(pods)
}

/// `namespace/name` of a pod as kubectl would understand it: the namespace that it is written with, that of the flag, or that of the
/// kubeconfig's context.
pub(crate) fn pod_name(
    client: &Client,
    namespace: Option<&str>,
    pod: &str,
) -> anyhow::Result<(String, String)> {
    let pod = pod.strip_prefix("pod/").unwrap_or(pod);
    let (written, name) = match pod.split_once('/') {
        Some((written, name)) => (Some(written), name),
        None => (None, pod),
    };
    if name.is_empty() || name.contains('/') || written.is_some_and(str::is_empty) {
        bail!("{pod:?}: write NAME, with -n NAMESPACE, or NAMESPACE/NAME");
    }
    if let (Some(written), Some(flag)) = (written, namespace)
        && written != flag
    {
        bail!("{pod} is of namespace {written}, and -n says {flag}");
    }
    let namespace = written.or(namespace).unwrap_or(client.default_namespace());
    Ok((namespace.to_owned(), name.to_owned()))
}

/// The pod of the mesh that serves a node.
pub(crate) async fn proxy_of(client: &Client, node: &str) -> anyhow::Result<Pod> {
    let proxies = pods(client, names::NODE).await?;
    let found = proxies.into_iter().find(|pod| node_of(pod) == node);
    found.with_context(|| format!("no proxy of the mesh runs on node {node:?}; see `aquifer check`"))
}

/// `spec.nodeName`, empty while there is none.
pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
