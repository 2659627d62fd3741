//! The mesh of a live cluster, read from its API server as the controller reads it.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use aquifer_k8s::names;
use aquifer_model::{Mesh, MeshConfig, Snapshot, TrustDomain};
use aquifer_source::{Objects, Problem, Standings, TranslateConfig, World, cluster, translate};
use kube::Client;
use serde_json::Value;

use super::{get, name_of, pods};

/// Where a mesh was read from, as sentences name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Folder,
    Cluster,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "folder",
            Self::Cluster => "cluster",
        })
    }
}

/// A mesh of one moment, with the objects that it was made of.
pub(crate) struct Live {
    pub(crate) objects: Objects,
    pub(crate) problems: Vec<Problem>,
    /// What the API server tells of the policies themselves; nothing, of a folder.
    pub(crate) policies: Arc<Standings>,
    pub(crate) mesh: Snapshot,
    pub(crate) config: TranslateConfig,
}

impl Live {
    /// Reads a cluster with the names that its controller has; where no controller answers, with their defaults.
    ///
    /// # Errors
    /// The API server does not answer, or the user may not list what the mesh is made of.
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Self> {
        let config = settings(client).await?;
        let cluster::Reading { objects, problems, policies } = cluster::load(client.clone(), &config).await?;
        Ok(Self { policies, ..Self::of(objects, problems, config, None) })
    }

    /// The mesh that objects make.
    pub(crate) fn of(
        objects: Objects,
        problems: Vec<Problem>,
        config: TranslateConfig,
        networks: Option<Vec<ipnet::IpNet>>,
    ) -> Self {
        let mut mesh = Mesh::new(MeshConfig { root_namespace: config.root_namespace.clone(), networks });
        mesh.apply(World::default().diff(&translate(&objects)));
        let mesh = Snapshot::clone(&mesh.snapshot());
        Self { objects, problems, policies: Arc::default(), mesh, config }
    }
}

/// What the mesh's own controller was told, as far as one answers.
async fn settings(client: &Client) -> anyhow::Result<TranslateConfig> {
    let mut config =
        TranslateConfig { root_namespace: names::SYSTEM_NAMESPACE.into(), ..TranslateConfig::default() };
    for controller in pods(client, names::CONTROLLER).await.unwrap_or_default() {
        let Ok(page) = get(client, name_of(&controller), "/config").await else { continue };
        let text = |key: &str| page.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        config = TranslateConfig {
            cluster_id: text("cluster_id").into(),
            cluster_domain: text("cluster_domain").into(),
            trust_domain: TrustDomain::new(&text("trust_domain")).context("the controller's trust domain")?,
            root_namespace: text("root_namespace").into(),
        };
        break;
    }
    Ok(config)
}
