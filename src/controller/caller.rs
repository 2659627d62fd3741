//! Who calls: a bearer token, judged by the API server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aquifer_k8s::names;
use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::rates::Rates;

/// Audiences that a token may be made for: ours, and Istio's, which a ztunnel's has.
const AUDIENCES: [&str; 2] = ["aquifer-ca", "istio-ca"];

/// The service account of Istio's node proxy, by its chart.
const ZTUNNEL: &str = "ztunnel";

/// A good judgement holds for so long; a token that was revoked meanwhile is taken until then.
const GOOD: Duration = Duration::from_secs(30);
/// A bad one, so that a client that asks again and again does not reach the API server each time.
const BAD: Duration = Duration::from_secs(2);

/// Judgements that are kept. There is a caller for each node.
const KEPT: usize = 20_000;

/// Judgements that the API server is asked for at once.
const AT_ONCE: usize = 16;
/// Calls that may wait for such a judgement; past it the controller says that it has too much to do.
const WAITING: usize = 512;
/// Tokens that one address may have judged: at once, and each second from then on. A node has one, asked about each 30 s.
const JUDGED: (u32, u32) = (50, 5);

/// Bytes of a token at most; Kubernetes' own have 1 to 2 KiB.
const LONGEST: usize = 16 * 1024;

/// A caller, as the API server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Namespace and name of its service account.
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The pod that its token is bound to.
    pub(crate) pod: Option<String>,
    /// The node of that pod, as the token says.
    pub(crate) node: Option<String>,
    /// It is a node proxy, the mesh's own or a ztunnel.
    pub(crate) is_node: bool,
}

/// What was found out of a token, and until when that holds.
type Judged = (Result<Caller, String>, Instant);

/// Judges callers by their tokens.
pub(crate) struct Callers {
    reviews: Api<TokenReview>,
    accounts: NodeAccounts,
    asking: Semaphore,
    waiting: Semaphore,
    judged: Rates<IpAddr>,
    kept: Mutex<HashMap<[u8; 32], Judged>>,
}

impl Callers {
    pub(crate) fn new(client: Client, accounts: NodeAccounts) -> Self {
        Self {
            reviews: Api::all(client),
            accounts,
            asking: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            judged: Rates::new(JUDGED.0, JUDGED.1),
            kept: Mutex::default(),
        }
    }

    /// Who has this token, which came from an address.
    ///
    /// # Errors
    /// `Unauthenticated` with a reason, `ResourceExhausted` where too many tokens came, or `Unavailable` where the API server cannot be asked.
    pub(crate) async fn judge(&self, token: &str, from: IpAddr) -> Result<Caller, Status> {
        if token.is_empty() || token.len() > LONGEST {
            return Err(Status::unauthenticated("the token is none"));
        }
        // The token itself is not kept.
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(judged) = self.known(&key) {
            return judged.map_err(Status::unauthenticated);
        }
        if !self.judged.allow(&from, Instant::now()) {
            return Err(Status::resource_exhausted(format!("{from} showed too many tokens; wait a second")));
        }
        let _place = self
            .waiting
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many callers wait to be judged"))?;
        let _turn = self.asking.acquire().await.map_err(|_| Status::unavailable("the controller ends"))?;
        if let Some(judged) = self.known(&key) {
            return judged.map_err(Status::unauthenticated);
        }
        let judged = self.ask(token).await?;
        let until = Instant::now() + if judged.is_ok() { GOOD } else { BAD };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            let now = Instant::now();
            kept.retain(|_, (_, until)| *until > now);
        }
        if kept.len() < KEPT {
            kept.insert(key, (judged.clone(), until));
        }
        judged.map_err(Status::unauthenticated)
    }

    fn known(&self, key: &[u8; 32]) -> Option<Result<Caller, String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(_, until)| *until > Instant::now()).map(|(judged, _)| judged.clone())
    }

    async fn ask(&self, token: &str) -> Result<Result<Caller, String>, Status> {
        let audiences = AUDIENCES.map(str::to_owned).to_vec();
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = self.reviews.create(&PostParams::default(), &review).await.map_err(|error| {
            // What kube says of a failed request does not repeat its body.
            tracing::warn!(%error, "the API server cannot judge a token");
            Status::unavailable("the API server cannot be asked whose token this is")
        })?;
        let status = review.status.unwrap_or_default();
        let for_us = status.audiences.iter().flatten().any(|audience| AUDIENCES.contains(&audience.as_str()));
        if status.authenticated != Some(true) || !for_us {
            let why = status.error.unwrap_or_else(|| "it is not valid for this audience".to_owned());
            return Ok(Err(format!("the API server does not know the token: {why}")));
        }
        Ok(caller(&status.user.unwrap_or_default(), &self.accounts))
    }
}

/// Service accounts of node proxies, as (namespace, name).
pub(crate) struct NodeAccounts(Vec<(String, String)>);

impl NodeAccounts {
    /// The mesh's own, that of a ztunnel beside it in the same namespace, and others, written `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// One is written otherwise.
    pub(crate) fn new(system_namespace: &str, others: &[String]) -> anyhow::Result<Self> {
        let own = [names::NODE, ZTUNNEL].map(|name| (system_namespace.to_owned(), name.to_owned()));
        let others = others.iter().map(|account| match account.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok((namespace.to_owned(), name.to_owned()))
            }
            _ => anyhow::bail!("{account:?} is no service account: write NAMESPACE/NAME"),
        });
        Ok(Self(own.into_iter().map(Ok).chain(others).collect::<Result<_, _>>()?))
    }

    fn contain(&self, namespace: &str, name: &str) -> bool {
        self.0.iter().any(|(own_namespace, own)| own_namespace == namespace && own == name)
    }
}

/// A service account with what its token is bound to; nobody else may call.
fn caller(user: &UserInfo, accounts: &NodeAccounts) -> Result<Caller, String> {
    let name = user.username.as_deref().unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return Err(format!("{name:?} is no service account"));
    };
    let extra = |key: &str| {
        user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{key}"))?.first().cloned()
    };
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: extra("pod-name"),
        node: extra("node-name"),
        is_node: accounts.contain(namespace, service_account),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(name: &str, extra: &[(&str, &str)]) -> UserInfo {
        let extra: BTreeMap<String, Vec<String>> = extra
            .iter()
            .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![(*value).to_owned()]))
            .collect();
        UserInfo { username: Some(name.to_owned()), extra: Some(extra), ..UserInfo::default() }
    }

    #[test]
    fn a_node_proxy_is_known_by_namespace_and_account() {
        let bound = [("pod-name", "aquifer-node-x"), ("node-name", "n1")];
        let accounts = NodeAccounts::new("aquifer-system", &["istio-system/ztunnel".to_owned()]).unwrap();
        let called = |account: &str| {
            caller(&user(&format!("system:serviceaccount:{account}"), &bound), &accounts).unwrap()
        };
        let node = called("aquifer-system:aquifer-node");
        assert_eq!((node.node.as_deref(), node.pod.as_deref()), (Some("n1"), Some("aquifer-node-x")));
        for account in ["aquifer-system:aquifer-node", "aquifer-system:ztunnel", "istio-system:ztunnel"] {
            assert!(called(account).is_node, "{account}");
        }
        for account in
            ["shop:aquifer-node", "shop:ztunnel", "istio-system:aquifer-node", "ztunnel:istio-system"]
        {
            assert!(!called(account).is_node, "{account}");
        }
    }

    #[test]
    fn accounts_that_name_none_are_refused() {
        for account in ["ztunnel", "/ztunnel", "istio-system/", "a/b/c"] {
            assert!(NodeAccounts::new("aquifer-system", &[account.to_owned()]).is_err(), "{account}");
        }
    }

    #[test]
    fn people_and_kubelets_are_nobody_here() {
        let accounts = NodeAccounts::new("aquifer-system", &[]).unwrap();
        for name in ["", "admin", "system:node:n1", "system:serviceaccount:shop"] {
            assert!(caller(&user(name, &[]), &accounts).is_err(), "{name}");
        }
    }
}
