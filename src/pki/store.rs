//! Certificates by identity, held while somebody needs them and renewed in time, and the trust bundle of now.

mod credential;
mod entry;
mod held;
mod plan;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};
use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::seconds;
use crate::tls::Terms;
use crate::{Authority, Clock, Issuer, Observer, PeerCertificate, PkiError, TrustBundle};
use entry::{Entry, Queued};
pub use held::Held;

/// How often the store looks at the authority and at what is due. A second makes an edit of the folder take effect
/// at once to people, and costs a few small file reads.
const BEAT: Duration = Duration::from_secs(1);

/// Renewals under way at once: enough to renew all pods of a node within seconds of a new issuer, few enough not to
/// storm an authority on the network.
const RENEWALS_AT_ONCE: usize = 16;

/// Settings of a [`Store`].
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The trust domain of this node.
    pub trust_domain: TrustDomain,
    /// Other trust domains whose clients are taken.
    pub aliases: Vec<TrustDomain>,
    /// How long certificates hold; default 24 h. Renewal is at half of it.
    pub lifetime: Duration,
    /// How long one attempt at a certificate may take; default 10 s.
    pub issue_deadline: Duration,
}

/// Certificates by identity. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Whether what was proved at a handshake still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Yes,
    /// The certificate has ended: no new streams; streams on it live on.
    Expired,
    /// The root has left the bundle: everything on it ends.
    RootRemoved,
}

/// What is told of one certificate; no key material.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CertificateReport {
    /// For whom.
    pub identity: Identity,
    /// In hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Seconds since 1970: when it will be renewed.
    pub renew_at: i64,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Grows with each change of the certificate or the bundle.
    pub generation: u64,
    /// Why the last attempt to renew it failed, if it did.
    pub last_error: Option<String>,
}

struct Shared {
    issuer: Arc<dyn Issuer>,
    observer: Arc<dyn Observer>,
    config: StoreConfig,
    terms: Terms,
    source: watch::Receiver<Arc<Authority>>,
    /// What `source` said when it was last followed.
    authority: ArcSwap<Authority>,
    /// Held while bundle and credentials change together.
    following: Mutex<()>,
    /// Bounded by the identities that somebody holds.
    entries: Mutex<HashMap<Identity, Weak<Entry>>>,
    generation: AtomicU64,
    changes: watch::Sender<u64>,
    /// The last failure to refresh the authority, so that each is told once.
    refresh_error: Mutex<Option<String>>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            aliases: Vec::new(),
            lifetime: Duration::from_secs(24 * 3600),
            issue_deadline: Duration::from_secs(10),
        }
    }
}

impl Store {
    /// A store over an issuer. Renewal and reload happen only while [`Store::run`] is polled.
    pub fn new(
        issuer: Arc<dyn Issuer>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        config: StoreConfig,
    ) -> Self {
        let accepted = std::iter::once(&config.trust_domain).chain(&config.aliases).cloned().collect();
        let source = issuer.authority();
        let authority = Arc::clone(&source.borrow());
        observer.bundle_changed(&authority.bundle);
        Self {
            shared: Arc::new(Shared {
                issuer,
                observer,
                config,
                terms: Terms { clock, accepted },
                source,
                authority: ArcSwap::new(authority),
                following: Mutex::new(()),
                entries: Mutex::default(),
                generation: AtomicU64::new(1),
                changes: watch::Sender::new(1),
                refresh_error: Mutex::new(None),
            }),
        }
    }

    /// Renews certificates and follows the authority, until dropped. To be spawned once, on the control runtime.
    pub async fn run(&self) {
        let mut source = self.shared.source.clone();
        let mut authority_lives = true;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Owned here: when this future is dropped, so are they.
        let mut renewals = JoinSet::new();
        let mut refresh = JoinSet::new();
        let slots = Arc::new(Semaphore::new(RENEWALS_AT_ONCE));
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                changed = source.changed(), if authority_lives => authority_lives = changed.is_ok(),
            }
            self.shared.follow();
            while refresh.try_join_next().is_some() {}
            if refresh.is_empty() {
                let shared = Arc::clone(&self.shared);
                refresh.spawn(async move { shared.refresh().await });
            }
            while renewals.try_join_next().is_some() {}
            for queued in self.shared.due() {
                let (shared, slots) = (Arc::clone(&self.shared), Arc::clone(&slots));
                renewals.spawn(async move {
                    // The semaphore is never closed.
                    let _slot = slots.acquire().await;
                    queued.0.renew(&shared).await;
                });
            }
        }
    }

    /// The certificate of `identity`, issued now where there is none yet. All who ask at the same time share one
    /// attempt and its outcome; after an error the caller decides when to ask again.
    pub async fn hold(&self, identity: &Identity) -> Result<Held, PkiError> {
        self.shared.follow();
        let entry = self.shared.entry(identity);
        let credential = entry.ready(&self.shared).await?;
        Ok(Held::new(entry, credential))
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.shared.authority.load().bundle)
    }

    /// Grows when the bundle or a certificate changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The time by this store's clock.
    pub fn now(&self) -> SystemTime {
        self.shared.terms.clock.now()
    }

    /// Whether what a handshake proved still holds at `now`.
    pub fn still_trusted(&self, peer: &PeerCertificate, now: SystemTime) -> Trust {
        if !self.shared.authority.load().bundle.contains(peer.root) {
            Trust::RootRemoved
        } else if now > peer.not_after {
            Trust::Expired
        } else {
            Trust::Yes
        }
    }

    /// All certificates held, by identity.
    pub fn report(&self) -> Vec<CertificateReport> {
        let mut all: Vec<_> = self.shared.live().iter().filter_map(|e| report(e)).collect();
        all.sort_unstable_by(|a, b| a.identity.cmp(&b.identity));
        all
    }

    /// Why the authority's material of now is not in use, if it is not; the last good state is.
    pub fn refresh_error(&self) -> Option<String> {
        self.shared.refresh_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// Takes over what the authority says now: one bundle for all credentials at once.
    fn follow(&self) {
        let _one = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::clone(&self.source.borrow());
        let last = self.authority.load_full();
        if Arc::ptr_eq(&next, &last) {
            return;
        }
        self.authority.store(Arc::clone(&next));
        if next.bundle == last.bundle {
            return;
        }
        for entry in self.live() {
            if let Some(slot) = entry.credential.get() {
                let credential = slot.load().with_bundle(self.next_generation(), Arc::clone(&next.bundle));
                slot.store(Arc::new(credential));
            }
        }
        self.observer.bundle_changed(&next.bundle);
        self.next_generation();
        self.announce();
    }

    async fn refresh(&self) {
        let outcome = self.issuer.refresh().await;
        let mut told = self.refresh_error.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                if told.take().is_some() {
                    self.observer.refreshed();
                }
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    self.observer.refresh_failed(&error);
                    *told = Some(text);
                }
            }
        }
    }

    /// Marks and lists what is to be renewed now.
    fn due(&self) -> Vec<Queued> {
        let due = self.live().into_iter().filter(|e| e.due(self).is_some());
        due.filter(|e| !e.queued.swap(true, Ordering::AcqRel)).map(Queued).collect()
    }

    fn entry(self: &Arc<Self>, identity: &Identity) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(identity).and_then(Weak::upgrade) {
            return entry;
        }
        let entry = Arc::new(Entry::new(identity.clone(), Arc::downgrade(self)));
        entries.insert(identity.clone(), Arc::downgrade(&entry));
        entry
    }

    /// Called when the last use of an entry ended; another one may have taken its place by now.
    fn forget(&self, identity: &Identity, served: bool) {
        {
            let mut entries = self.entries();
            if entries.get(identity).is_some_and(|e| e.strong_count() > 0) {
                return;
            }
            entries.remove(identity);
        }
        if served {
            self.observer.forgotten(identity);
        }
    }

    fn live(&self) -> Vec<Arc<Entry>> {
        self.entries().values().filter_map(Weak::upgrade).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Identity, Weak<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn announce(&self) {
        let generation = self.generation.load(Ordering::Relaxed);
        self.changes.send_modify(|seen| *seen = generation.max(*seen));
    }

    /// For jitter. Without randomness there is none, which is no reason to fail.
    fn entropy(&self) -> u16 {
        let mut bytes = [0; 2];
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u16::from_be_bytes(bytes)
    }
}

fn report(entry: &Entry) -> Option<CertificateReport> {
    let credential = entry.credential.get()?.load();
    let certificate = &credential.certificate;
    Some(CertificateReport {
        identity: entry.identity.clone(),
        serial: certificate.serial.clone(),
        not_before: seconds(certificate.not_before),
        not_after: seconds(certificate.not_after),
        renew_at: seconds(certificate.renew_at),
        issuer: certificate.issuer_name.clone(),
        generation: credential.generation,
        last_error: entry.last_error(),
    })
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("authority", &self.shared.authority.load()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
