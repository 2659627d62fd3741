//! Where a node has the mesh and its certificates from: a folder, or the controller.

mod controlled;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use aquifer_discovery::client::{self, Client};
use aquifer_model::{Identity, TrustDomain, Update};
use aquifer_pki::remote::{Controller, Link, RemoteIssuer};
use aquifer_pki::{Issuer, LocalCa};
use aquifer_source::cluster::{self, Reference, follow_presence};
use aquifer_source::{Batch, TranslateConfig, folder};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Request;
use tonic::transport::Channel;
use tracing::warn;

use crate::cache::Shelf;
use crate::config::{NodeConfig, Origin};
use controlled::{Controlled, Voice, silence};

/// Batches that wait for the control loop.
const QUEUE: usize = 16;

/// Service account of the controller in the mesh's own namespace.
const CONTROLLER: &str = "aquifer-controller";

/// The node's own object.
const DAEMON_SET: &str = "aquifer-node";

/// Whether the mesh is installed, as far as is known: `false` once the object that this process's pod is of is deleted. Without a cluster
/// nothing is ever said. Must run in a runtime.
pub(crate) fn installed(config: &NodeConfig) -> watch::Receiver<bool> {
    let (told, installed) = watch::channel(true);
    if let Origin::Controller { system_namespace, .. } = &config.origin {
        let collection = format!("/apis/apps/v1/namespaces/{system_namespace}/daemonsets");
        tokio::spawn(follow_presence(Reference { collection, name: DAEMON_SET.to_owned() }, told));
    }
    installed
}

/// What a source says to the control loop.
pub(crate) enum Told {
    /// The mesh changed, or what is wrong with it.
    Batch {
        /// What changed.
        batch: Batch,
        /// The mesh is still the one that this node kept at that time: nobody told it since this process started.
        of_cache: Option<SystemTime>,
    },
    /// What do you have? Asked before a new connection to the controller.
    Have(oneshot::Sender<Vec<Update>>),
}

/// A source that is open: certificates come from it, and the mesh once it is followed.
pub(crate) enum Source {
    Folder { dir: std::path::PathBuf, translation: TranslateConfig, authority: Arc<LocalCa> },
    Controller { link: Arc<Link>, client: Client, translation: TranslateConfig },
}

impl Source {
    /// Opens the source. Waits for the controller's roots.
    pub(crate) async fn open(config: &NodeConfig) -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::new(&config.mesh.trust_domain)?;
        match &config.origin {
            Origin::Folder { manifests, ca_dir } => {
                let authority = Arc::new(LocalCa::open_or_create(ca_dir, &trust_domain)?);
                let translation = translation(config, trust_domain);
                Ok(Self::Folder { dir: manifests.clone(), translation, authority })
            }
            Origin::Controller { url, token, roots, system_namespace } => {
                let translation = translation(config, trust_domain.clone());
                let controller = Controller {
                    url: url.clone(),
                    identity: Identity::new(trust_domain, system_namespace.as_str(), CONTROLLER),
                    token: token.clone(),
                    roots: roots.clone(),
                    cluster_id: config.mesh.cluster_id.clone(),
                };
                let link = Arc::new(Link::open(controller).await.context("the way to the controller")?);
                let client = Client { id: format!("ztunnel~~{}.{system_namespace}~", config.node) };
                Ok(Self::Controller { link, client, translation })
            }
        }
    }

    /// Who signs.
    pub(crate) fn issuer(&self) -> Arc<dyn Issuer> {
        match self {
            Self::Folder { authority, .. } => authority.clone(),
            Self::Controller { link, .. } => Arc::new(RemoteIssuer::new(link.clone())),
        }
    }

    /// Follows it from now on; another worker may serve meanwhile, which this one relieves. The task ends only with an error, or when nobody listens.
    pub(crate) fn follow(
        self,
        config: &NodeConfig,
        relieves: bool,
    ) -> (mpsc::Receiver<Told>, tokio::task::JoinHandle<anyhow::Result<()>>) {
        let (told, source) = mpsc::channel(QUEUE);
        let task = match self {
            Self::Folder { dir, translation, .. } => tokio::spawn(async move {
                let (batches, mut read) = mpsc::channel(1);
                let hand_on = async {
                    while let Some(batch) = read.recv().await {
                        if told.send(Told::Batch { batch, of_cache: None }).await.is_err() {
                            break;
                        }
                    }
                    anyhow::Ok(())
                };
                let watch = async { folder::watch(dir, translation, batches).await.map_err(Into::into) };
                tokio::try_join!(watch, hand_on).map(|_| ())
            }),
            Self::Controller { link, client, translation } => {
                let way = link.clone();
                let controller = move || {
                    let (link, client) = (Way(way.clone()), client.clone());
                    Voice::of(|events| client::watch(link, client, events))
                };
                let server = move || {
                    let translation = translation.clone();
                    Voice::of(|batches| read_api_server(translation, batches))
                };
                let shelf = Shelf::of(config, &link.authority().borrow().bundle);
                let kept = Voice::of(|says| async move {
                    if let Some(moment) = shelf.after_grace(relieves).await {
                        says.send(moment).await.ok();
                    }
                });
                tokio::spawn(async move {
                    Controlled::new(controller, server, silence, kept, told).follow().await;
                    Ok(())
                })
            }
        };
        (source, task)
    }
}

/// Follows the API server by the rights of this process's own pod.
async fn read_api_server(translation: TranslateConfig, batches: mpsc::Sender<Batch>) {
    let followed = match cluster::own_client() {
        Ok(client) => cluster::watch(client, translation, batches).await,
        Err(error) => Err(error),
    };
    if let Err(error) = followed {
        warn!(%error, "this node cannot do without the controller");
    }
}

/// The way to the controller, as discovery takes it.
struct Way(Arc<Link>);

impl client::Link for Way {
    fn channel(&self) -> Channel {
        self.0.channel()
    }

    fn signed<T>(&self, message: T) -> Result<Request<T>, String> {
        self.0.signed(message).map_err(|error| error.to_string())
    }
}

fn translation(config: &NodeConfig, trust_domain: TrustDomain) -> TranslateConfig {
    TranslateConfig {
        cluster_id: config.mesh.cluster_id.as_str().into(),
        cluster_domain: config.mesh.cluster_domain.as_str().into(),
        trust_domain,
        root_namespace: config.mesh.root_namespace.as_str().into(),
    }
}
