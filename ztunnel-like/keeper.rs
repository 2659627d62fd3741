//! Certificates outlive a worker: the parent keeps a copy of each in its memory, and the next worker begins with them, also while the
//! controller is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aquifer_model::Identity;
use aquifer_pki::{Authority, BoxFuture, CaError, Issued, Issuer, Validity};
use tokio::sync::{mpsc, watch};

use crate::protocol::{Secret, ToParent};

/// Words to the parent that wait to be said. What finds no room is not kept, and asked for anew by the next worker.
const WORDS: usize = 1024;

/// An issuer that gives what an earlier worker was given, once for each identity, and tells the parent of all that it gives.
pub(crate) struct Keeper {
    issuer: Arc<dyn Issuer>,
    /// Not asked for yet.
    inherited: Mutex<HashMap<Identity, Issued>>,
    words: mpsc::Sender<ToParent>,
}

impl Keeper {
    /// Over an issuer, with what the parent kept, by identity and as PEM. What cannot be read is left out: it is had anew.
    pub(crate) fn new(
        issuer: Arc<dyn Issuer>,
        kept: Vec<(String, Secret)>,
    ) -> (Arc<Self>, mpsc::Receiver<ToParent>) {
        let read = |(identity, pem): (String, Secret)| {
            Some((identity.parse::<Identity>().ok()?, Issued::from_pem(&pem.0)?))
        };
        let inherited = Mutex::new(kept.into_iter().filter_map(read).collect());
        let (words, said) = mpsc::channel(WORDS);
        (Arc::new(Self { issuer, inherited, words }), said)
    }

    /// Nobody uses an identity any more.
    pub(crate) fn forget(&self, identity: &Identity) {
        self.inherited().remove(identity);
        self.words.try_send(ToParent::ForgetCertificate { identity: identity.to_string() }).ok();
    }

    /// Forgets what no pod has asked for: those that had it are gone.
    pub(crate) fn forget_unused(&self) {
        let unused: Vec<_> = self.inherited().keys().cloned().collect();
        unused.iter().for_each(|identity| self.forget(identity));
    }

    fn inherited(&self) -> MutexGuard<'_, HashMap<Identity, Issued>> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer for Keeper {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
        Box::pin(async move {
            // One that has ended meanwhile is refused by the store, which then asks again.
            let inherited = self.inherited().remove(identity);
            if let Some(issued) = inherited {
                return Ok(issued);
            }
            let issued = self.issuer.issue(identity, validity).await?;
            if let Some(pem) = issued.to_pem() {
                let identity = identity.to_string();
                self.words.try_send(ToParent::KeepCertificate { identity, pem: Secret(pem) }).ok();
            }
            Ok(issued)
        })
    }

    fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.issuer.authority()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), Arc<CaError>>> {
        self.issuer.refresh()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use aquifer_model::TrustDomain;
    use aquifer_pki::LocalCa;

    use super::*;

    #[tokio::test]
    async fn the_next_worker_has_what_the_last_one_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let authority: Arc<dyn Issuer> = Arc::new(LocalCa::open_or_create(dir.path(), &domain).unwrap());
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
        let [one, other] = ["one", "other"].map(|name| Identity::new(domain.clone(), "shop", name));

        let (first, mut said) = Keeper::new(authority.clone(), Vec::new());
        let issued = first.issue(&one, validity).await.unwrap();
        let Some(ToParent::KeepCertificate { identity, pem }) = said.recv().await else { panic!("not kept") };
        assert!(!format!("{pem:?}").contains("PRIVATE"));

        let kept =
            vec![(identity, pem.clone()), (other.to_string(), pem), ("none".into(), Secret("".into()))];
        let (next, mut said) = Keeper::new(authority, kept);
        assert_eq!(next.issue(&one, validity).await.unwrap().chain, issued.chain);
        assert!(said.try_recv().is_err(), "what the parent has is told again");
        next.forget_unused();
        assert!(
            matches!(said.try_recv(), Ok(ToParent::ForgetCertificate { identity }) if identity == other.to_string())
        );
        // A renewal is another.
        assert_ne!(next.issue(&one, validity).await.unwrap().chain, issued.chain);
        assert!(matches!(said.try_recv(), Ok(ToParent::KeepCertificate { .. })));
    }
}
