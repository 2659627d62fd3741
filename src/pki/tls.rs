//! The TLS that the mesh speaks, as rustls configurations: 1.3 only, our verifiers, our suites, no global default.

use std::sync::{Arc, LazyLock};

use aquifer_model::{Identity, TrustDomain};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::clock::{Clock, SystemClock, TlsTime};
use crate::verify::{ExpectedServer, MeshClient};
use crate::{CaError, Issued, TrustBundle};

/// Peers whose sessions a client configuration remembers. There is a configuration for each set of expected identities,
/// so these are the addresses of one destination; past it the oldest makes a full handshake.
const REMEMBERED_SERVERS: usize = 64;

/// What one side presents and accepts; a configuration is made from it once and then shared.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) accepted: Arc<[TrustDomain]>,
}

/// AES-128 first: the peers' BoringSSL prefers it too, and it moves bulk with a tenth less CPU. X25519MLKEM768 first:
/// recorded traffic stays closed to a later quantum computer.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The algorithms by which certificates and handshakes may be signed.
pub(crate) fn signatures() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// For dialling the controller, before this process has a certificate of its own: a token says who calls.
pub(crate) fn control_client(
    bundle: &Arc<TrustBundle>,
    expected: &Identity,
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    let verifier = ExpectedServer { bundle: Arc::clone(bundle), expected: Box::from([expected.clone()]) };
    #[expect(clippy::expect_used, reason = "TLS 1.3 suites and groups are in PROVIDER, a constant")]
    let mut config = ClientConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(TlsTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("PROVIDER has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Arc::new(config)
}

/// For the controller's own port: it proves who it is, and its callers show a token.
///
/// # Errors
/// The key is of no supported kind.
pub fn control_server(issued: &Issued) -> Result<Arc<ServerConfig>, CaError> {
    let key = aws_lc_rs::sign::any_supported_type(&issued.key)
        .map_err(|_| CaError::Unusable("its key is of no supported kind".to_owned()))?;
    let certified = Arc::new(CertifiedKey::new(issued.chain.clone(), key));
    let time = Arc::new(TlsTime(Arc::new(SystemClock)));
    #[expect(clippy::expect_used, reason = "TLS 1.3 suites and groups are in PROVIDER, a constant")]
    let mut config = ServerConfig::builder_with_details(Arc::clone(&PROVIDER), time)
        .with_protocol_versions(&[&TLS13])
        .expect("PROVIDER has TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

impl Terms {
    /// For dialling one of `expected`.
    pub(crate) fn client(
        &self,
        certified: &Arc<CertifiedKey>,
        bundle: &Arc<TrustBundle>,
        expected: Box<[Identity]>,
    ) -> Arc<ClientConfig> {
        let verifier = ExpectedServer { bundle: Arc::clone(bundle), expected };
        #[expect(clippy::expect_used, reason = "TLS 1.3 suites and groups are in PROVIDER, a constant")]
        let mut config = ClientConfig::builder_with_details(Arc::clone(&PROVIDER), self.time())
            .with_protocol_versions(&[&TLS13])
            .expect("PROVIDER has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.enable_early_data = false;
        // The tunnel seals and opens records itself, with the keys of this handshake.
        config.enable_secret_extraction = true;
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(REMEMBERED_SERVERS)));
        Arc::new(config)
    }

    /// For accepting clients of the accepted trust domains.
    pub(crate) fn server(
        &self,
        certified: &Arc<CertifiedKey>,
        bundle: &Arc<TrustBundle>,
    ) -> Arc<ServerConfig> {
        let verifier = MeshClient { bundle: Arc::clone(bundle), accepted: Arc::clone(&self.accepted) };
        #[expect(clippy::expect_used, reason = "TLS 1.3 suites and groups are in PROVIDER, a constant")]
        let mut config = ServerConfig::builder_with_details(Arc::clone(&PROVIDER), self.time())
            .with_protocol_versions(&[&TLS13])
            .expect("PROVIDER has TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        // Sessions live in the clients' tickets, under keys that end with this configuration: no memory here, and no
        // session survives a change of certificate or bundle. Without randomness for such keys there are no tickets.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }

    fn time(&self) -> Arc<TlsTime> {
        Arc::new(TlsTime(Arc::clone(&self.clock)))
    }
}
