//! The authority's key, in a Secret that all replicas share: made at the first start, or put there by whoever runs the cluster, in the
//! layout of Istio's plugged-in CA; and followed, so that roots and issuers rotate without a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use aquifer_k8s::names;
use aquifer_model::{Identity, TrustDomain};
use aquifer_pki::remote::SIGNER;
use aquifer_pki::{CaFiles, Signer, Validity, control_server};
use arc_swap::ArcSwap;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use rustls::ServerConfig;
use tracing::{info, warn};

use crate::place;

/// The Secret with the key.
pub(crate) const SECRET: &str = "aquifer-ca";
/// The ConfigMap with the trusted roots, which node pods mount.
const ROOTS: &str = "aquifer-ca-root";

/// Files of Istio's plugged-in CA.
const ROOT_CERT: &str = "root-cert.pem";
const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
/// The same as cert-manager writes them: the chain begins with the certificate that signs.
const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOT: &str = "ca.crt";

/// Pause before the API server is asked again at the start.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the Secret is looked at: a rotation takes effect within this and the time that kubelet needs.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// The server's own certificate, renewed at half of it.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The authority as it is now.
pub(crate) struct Authority {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    namespace: String,
    trust_domain: TrustDomain,
    own: Identity,
    current: ArcSwap<Current>,
}

struct Current {
    signer: Arc<Signer>,
    server: Arc<ServerConfig>,
    renew: SystemTime,
    data: BTreeMap<String, ByteString>,
}

impl Authority {
    /// Reads the Secret, or makes it with a new root where there is none; whoever of several replicas is first has made it. Publishes
    /// the roots.
    pub(crate) async fn open(
        client: Client,
        namespace: &str,
        trust_domain: &TrustDomain,
        own: Identity,
    ) -> anyhow::Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let data = match patiently(|| secrets.get_opt(SECRET)).await.context("the Secret cannot be read")? {
            Some(secret) => secret.data.unwrap_or_default(),
            None => create(&secrets, trust_domain).await?,
        };
        let current = understand(data, namespace, trust_domain, &own)?;
        let authority = Self {
            secrets,
            config_maps: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.clone(),
            own,
            current: ArcSwap::from_pointee(current),
        };
        authority.publish().await?;
        Ok(authority)
    }

    /// Who signs now.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.current.load().signer.clone()
    }

    /// How this server proves itself now.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// The trusted roots in PEM.
    pub(crate) fn roots(&self) -> String {
        String::from_utf8_lossy(&files(&self.current.load().data).roots).into_owned()
    }

    /// Takes up a change of the Secret, and renews what has to be. What cannot be used changes nothing.
    pub(crate) async fn refresh(&self) -> anyhow::Result<()> {
        let secret = self.secrets.get_opt(SECRET).await.context("the Secret cannot be read")?;
        let Some(secret) = secret else {
            bail!(
                "the Secret {SECRET} is gone: put it back, or restart the controller to have a new root made"
            );
        };
        let data = secret.data.unwrap_or_default();
        let before = self.current.load();
        let changed = data != before.data;
        if !changed && SystemTime::now() < before.renew {
            return Ok(());
        }
        let next = understand(data, &self.namespace, &self.trust_domain, &self.own)?;
        self.current.store(Arc::new(next));
        if changed {
            info!(roots = self.signer().authority().bundle.roots().len(), "the authority changed");
        }
        self.publish().await
    }

    /// Writes the roots where nodes find them, and who signs.
    async fn publish(&self) -> anyhow::Result<()> {
        let signer = String::from_utf8_lossy(&files(&self.current.load().data).certificate).into_owned();
        let wanted = BTreeMap::from([(ROOT_CERT.to_owned(), self.roots()), (SIGNER.to_owned(), signer)]);
        let metadata = ObjectMeta { name: Some(ROOTS.to_owned()), ..ObjectMeta::default() };
        let map = ConfigMap { metadata, data: Some(wanted.clone()), ..ConfigMap::default() };
        let context = || format!("the ConfigMap {ROOTS}");
        match self.config_maps.get_opt(ROOTS).await.with_context(context)? {
            Some(stands) if stands.data.as_ref() == Some(&wanted) => return Ok(()),
            Some(stands) => {
                let map = ConfigMap { metadata: stands.metadata, ..map };
                self.config_maps.replace(ROOTS, &PostParams::default(), &map).await.with_context(context)?;
            }
            None => match self.config_maps.create(&PostParams::default(), &map).await {
                Ok(_) => {}
                // Another replica was first, with the same roots.
                Err(Error::Api(status)) if status.is_already_exists() => return Ok(()),
                Err(error) => return Err(error).with_context(context),
            },
        }
        info!("the trusted roots are published");
        Ok(())
    }
}

/// Makes the Secret, or reads the one that another replica made meanwhile.
async fn create(
    secrets: &Api<Secret>,
    trust_domain: &TrustDomain,
) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let files = CaFiles::generate(trust_domain)?;
    let data = BTreeMap::from([
        (ROOT_CERT.to_owned(), ByteString(files.roots)),
        (CA_CERT.to_owned(), ByteString(files.certificate)),
        (CA_KEY.to_owned(), ByteString(files.key)),
        (CERT_CHAIN.to_owned(), ByteString(files.chain)),
    ]);
    let metadata = ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data.clone()), ..Secret::default() };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            info!("a new root was made");
            Ok(data)
        }
        Err(Error::Api(status)) if status.is_already_exists() => {
            Ok(secrets.get(SECRET).await.context("the Secret cannot be read")?.data.unwrap_or_default())
        }
        Err(error) => Err(error).context("the Secret cannot be made"),
    }
}

/// The authority's files, in either layout.
fn files(data: &BTreeMap<String, ByteString>) -> CaFiles {
    let file = |name: &str, or: &str| {
        data.get(name).or_else(|| data.get(or)).map(|bytes| bytes.0.clone()).unwrap_or_default()
    };
    CaFiles {
        roots: file(ROOT_CERT, TLS_ROOT),
        certificate: file(CA_CERT, TLS_CERT),
        key: file(CA_KEY, TLS_KEY),
        chain: file(CERT_CHAIN, ""),
    }
}

/// Asks until the API server answers; an answer that is an error is one.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(mut ask: impl FnMut() -> F) -> Result<T, Error> {
    let mut said = false;
    loop {
        match ask().await {
            Err(error) if !matches!(error, Error::Api(_)) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(%error, "the API server cannot be reached; trying again");
                }
                tokio::time::sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

fn understand(
    data: BTreeMap<String, ByteString>,
    namespace: &str,
    trust_domain: &TrustDomain,
    own: &Identity,
) -> anyhow::Result<Current> {
    let signer = Signer::new(&files(&data), &place(namespace), trust_domain)?;
    let now = SystemTime::now();
    let hosts: Vec<String> = ["", ".svc", ".svc.cluster.local"]
        .iter()
        .map(|suffix| format!("{}.{namespace}{suffix}", names::CONTROLLER))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let issued = signer.issue(own, &hosts, Validity::starting(now, LIFETIME))?;
    let server = control_server(&issued)?;
    Ok(Current { signer: Arc::new(signer), server, renew: now + LIFETIME / 2, data })
}
