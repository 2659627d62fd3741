//! A certificate together with the bundle of its time, and the TLS configurations made of the two.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aquifer_model::Identity;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::certificate::Facts;
use crate::tls::Terms;
use crate::verify::{Side, named, peer};
use crate::{CaError, Issued, IssuerId, TrustBundle};

/// Most client configurations kept for one certificate: one for each set of identities dialled since the last change.
/// Past it all are made anew, which costs each destination a full handshake.
const MAX_CLIENTS: usize = 1024;

/// A certificate that another issuer signed than is told is not replaced so soon after it was given.
const SETTLE: Duration = Duration::from_secs(10);

/// A certificate as it serves, with its key inside rustls.
pub(super) struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) serial: String,
    pub(super) issuer_name: String,
    pub(super) issuer: Option<IssuerId>,
    /// When it was given, and who signed then by the authority's own word.
    pub(super) given: (SystemTime, Option<IssuerId>),
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) renew_at: SystemTime,
}

/// One generation of an identity's TLS: nothing in it changes, all of it is replaced together.
pub(super) struct Credential {
    pub(super) generation: u64,
    pub(super) certificate: Arc<Certificate>,
    /// Why peers with the same bundle would refuse it, if they would.
    pub(super) distrust: Option<String>,
    pub(super) server: Arc<ServerConfig>,
    bundle: Arc<TrustBundle>,
    clients: Mutex<HashMap<Box<[Identity]>, Arc<ClientConfig>>>,
    terms: Terms,
}

impl Certificate {
    /// Whether it is signed by who signs now, as far as is told. What was just given stands, whoever signed it: of a controller's replicas
    /// and their word of who signs, each may be ahead of the other for a while, and it would be replaced again and again.
    pub(super) fn is_of(&self, signs: Option<IssuerId>, now: SystemTime) -> bool {
        let (at, word) = self.given;
        let settles = word == signs && now >= at && now < at + SETTLE;
        settles || self.issuer.zip(signs).is_none_or(|(own, signs)| own == signs)
    }

    /// Takes an authority's answer only if it is what was asked for. `signs`: who does, by its word.
    pub(super) fn accept(
        issued: Issued,
        wanted: &Identity,
        signs: Option<IssuerId>,
        now: SystemTime,
        entropy: u16,
    ) -> Result<Self, CaError> {
        let unusable = |detail: String| CaError::Unusable(detail);
        let leaf = issued.chain.first().ok_or_else(|| unusable("it is empty".to_owned()))?;
        let facts = Facts::of(leaf).map_err(unusable)?;
        let given = named(&facts).map_err(|e| unusable(e.to_string()))?;
        if given != *wanted {
            return Err(unusable(format!("asked for {wanted}, got {given}")));
        }
        if facts.not_after <= now {
            return Err(unusable(format!("it ended on {}", crate::clock::utc(facts.not_after))));
        }
        let key =
            any_supported_type(&issued.key).map_err(|_| CaError::Crypto("use the certificate's key"))?;
        let certified = CertifiedKey::new(issued.chain, key);
        certified.keys_match().map_err(|_| unusable("its key is another one".to_owned()))?;
        Ok(Self {
            certified: Arc::new(certified),
            serial: facts.serial,
            issuer_name: facts.issuer,
            issuer: issued.issuer,
            given: (now, signs),
            not_before: facts.not_before,
            not_after: facts.not_after,
            renew_at: super::plan::renew_at(now, facts.not_after, entropy),
        })
    }
}

impl Credential {
    pub(super) fn new(
        generation: u64,
        certificate: Arc<Certificate>,
        bundle: Arc<TrustBundle>,
        terms: Terms,
    ) -> Self {
        // Whether it ended or has not begun is judged apart; here only whether it leads to a root counts.
        let moment = terms.clock.now().clamp(certificate.not_before, certificate.not_after);
        let distrust = peer(&certificate.certified.cert, Side::Server, &bundle, moment).err();
        Self {
            generation,
            distrust: distrust.map(|e| e.to_string()),
            server: terms.server(&certificate.certified, &bundle),
            clients: Mutex::default(),
            certificate,
            bundle,
            terms,
        }
    }

    /// The same certificate under another bundle.
    pub(super) fn with_bundle(&self, generation: u64, bundle: Arc<TrustBundle>) -> Self {
        Self::new(generation, Arc::clone(&self.certificate), bundle, self.terms.clone())
    }

    pub(super) fn client(&self, expected: &[Identity]) -> Arc<ClientConfig> {
        let mut key = expected.to_vec();
        key.sort_unstable();
        key.dedup();
        let key = key.into_boxed_slice();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(&key) {
            return Arc::clone(config);
        }
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let config = self.terms.client(&self.certificate.certified, &self.bundle, key.clone());
        clients.insert(key, Arc::clone(&config));
        config
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
