//! One identity's place in the store: its credential, and one attempt at a certificate at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use aquifer_model::Identity;
use arc_swap::ArcSwap;

use super::Shared;
use super::credential::{Certificate, Credential};
use super::plan::{self, Reason, Standing};
use crate::{CaError, PkiError, Validity};

pub(super) struct Entry {
    pub(super) identity: Identity,
    shared: Weak<Shared>,
    /// Set by the first success, then replaced in place.
    pub(super) credential: OnceLock<Arc<ArcSwap<Credential>>>,
    /// Held during an attempt.
    turn: tokio::sync::Mutex<()>,
    attempts: Mutex<Attempts>,
    /// A renewal is on its way to its turn.
    pub(super) queued: AtomicBool,
}

#[derive(Default)]
struct Attempts {
    /// All that ended.
    ended: u64,
    failures: u32,
    retry_at: Option<SystemTime>,
    last_error: Option<PkiError>,
}

/// Clears [`Entry::queued`] also when the renewal is dropped half-way.
pub(super) struct Queued(pub(super) Arc<Entry>);

impl Entry {
    pub(super) fn new(identity: Identity, shared: Weak<Shared>) -> Self {
        Self {
            identity,
            shared,
            credential: OnceLock::new(),
            turn: tokio::sync::Mutex::new(()),
            attempts: Mutex::default(),
            queued: AtomicBool::new(false),
        }
    }

    /// A credential that has not ended, from an attempt of its own or of whoever was first.
    pub(super) async fn ready(&self, shared: &Shared) -> Result<Arc<ArcSwap<Credential>>, PkiError> {
        if let Some(credential) = self.serving(shared) {
            return Ok(credential);
        }
        let before = self.attempts().ended;
        let _turn = self.turn.lock().await;
        if let Some(credential) = self.serving(shared) {
            return Ok(credential);
        }
        // Somebody tried while we waited: all who waited fail with them, not each after the other's deadline.
        let failed = {
            let attempts = self.attempts();
            attempts.last_error.clone().filter(|_| attempts.ended != before)
        };
        match failed {
            Some(error) => Err(error),
            None => self.attempt(shared).await,
        }
    }

    /// Replaces the credential if it still is to be when the turn comes.
    pub(super) async fn renew(&self, shared: &Shared) {
        let _turn = self.turn.lock().await;
        if self.due(shared).is_some() {
            // A failure is noted by the attempt; the next look tries again.
            let _ = self.attempt(shared).await;
        }
    }

    /// Why the credential is to be replaced now, if it is. Before the first success: never, since who asked for it
    /// is told of the failure and asks again.
    pub(super) fn due(&self, shared: &Shared) -> Option<Reason> {
        let credential = self.credential.get()?.load();
        let (signs, now) = (shared.authority.load().issuer, shared.terms.clock.now());
        Standing {
            not_before: credential.certificate.not_before,
            not_after: credential.certificate.not_after,
            renew_at: credential.certificate.renew_at,
            issuer_is_current: credential.certificate.is_of(signs, now),
            trusted: credential.distrust.is_none(),
            retry_at: self.attempts().retry_at,
        }
        .due(now)
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.attempts().last_error.as_ref().map(|e| e.source.to_string())
    }

    fn serving(&self, shared: &Shared) -> Option<Arc<ArcSwap<Credential>>> {
        let credential = self.credential.get()?;
        let ends = credential.load().certificate.not_after;
        (ends > shared.terms.clock.now()).then(|| Arc::clone(credential))
    }

    /// One try, to be made in one's turn.
    async fn attempt(&self, shared: &Shared) -> Result<Arc<ArcSwap<Credential>>, PkiError> {
        let validity = Validity::starting(shared.terms.clock.now(), shared.config.lifetime);
        let deadline = shared.config.issue_deadline;
        let signs = shared.authority.load().issuer;
        let issued = match tokio::time::timeout(deadline, shared.issuer.issue(&self.identity, validity)).await
        {
            Ok(answer) => answer,
            Err(_) => Err(Arc::new(CaError::Deadline(deadline))),
        };
        let now = shared.terms.clock.now();
        let certificate = issued.and_then(|i| {
            Certificate::accept(i, &self.identity, signs, now, shared.entropy()).map_err(Arc::new)
        });
        match certificate {
            Ok(certificate) => Ok(self.install(shared, Arc::new(certificate))),
            Err(error) => Err(self.failed(shared, error)),
        }
    }

    fn install(&self, shared: &Shared, certificate: Arc<Certificate>) -> Arc<ArcSwap<Credential>> {
        // Under the lock that a change of bundle takes, so that no credential keeps a bundle of yesterday.
        let _one = shared.following.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = Arc::clone(&shared.authority.load().bundle);
        let not_after = certificate.not_after;
        let next = Credential::new(shared.next_generation(), certificate, bundle, shared.terms.clone());
        let distrust = next.distrust.clone();
        let next = Arc::new(next);
        let renewal = self.credential.get().is_some();
        let slot = self.credential.get_or_init(|| Arc::new(ArcSwap::new(Arc::clone(&next))));
        slot.store(next);
        {
            let mut attempts = self.attempts();
            attempts.ended += 1;
            match distrust {
                None => {
                    *attempts = Attempts { ended: attempts.ended, ..Attempts::default() };
                }
                // It serves, for peers may know the root already; but it is tried again for a better one.
                Some(detail) => {
                    let error = Arc::new(CaError::Unusable(detail));
                    self.note(&mut attempts, shared, &error);
                    shared.observer.failed(&self.identity, &error);
                }
            }
        }
        shared.observer.issued(&self.identity, not_after, renewal);
        shared.announce();
        Arc::clone(slot)
    }

    fn failed(&self, shared: &Shared, error: Arc<CaError>) -> PkiError {
        let failure = {
            let mut attempts = self.attempts();
            attempts.ended += 1;
            self.note(&mut attempts, shared, &error)
        };
        shared.observer.failed(&self.identity, &error);
        failure
    }

    fn note(&self, attempts: &mut Attempts, shared: &Shared, error: &Arc<CaError>) -> PkiError {
        let failure = PkiError { identity: self.identity.clone(), source: Arc::clone(error) };
        attempts.failures = attempts.failures.saturating_add(1);
        let pause = plan::pause(attempts.failures, shared.entropy());
        attempts.retry_at = Some(shared.terms.clock.now() + pause);
        attempts.last_error = Some(failure.clone());
        failure
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.forget(&self.identity, self.credential.get().is_some());
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.store(false, Ordering::Release);
    }
}
