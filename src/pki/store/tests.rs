use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::testing::*;
use crate::{BoxFuture, CaError, Issued, LocalCa, PeerError, Side, Validity, peer};

/// An issuer that fails or waits when told, over a CA that works.
struct Moody {
    ca: LocalCa,
    fails: AtomicBool,
    waits: AtomicBool,
    release: Notify,
    asked: AtomicU64,
    /// The keys it gave away.
    keys: Mutex<Vec<Vec<u8>>>,
}

impl Issuer for Moody {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.waits.load(Ordering::SeqCst) {
                self.release.notified().await;
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(Arc::new(CaError::Crypto("be in the mood")));
            }
            let issued = self.ca.issue(identity, validity).map_err(Arc::new)?;
            self.keys.lock().unwrap().push(issued.key.secret_der().to_vec());
            Ok(issued)
        })
    }

    fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.ca.authority()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), Arc<CaError>>> {
        self.ca.refresh()
    }
}

#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl Noted {
    fn add(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Noted {
    fn issued(&self, identity: &Identity, _not_after: SystemTime, renewal: bool) {
        self.add(format!("{} {}", if renewal { "renewed" } else { "issued" }, identity.service_account));
    }

    fn failed(&self, identity: &Identity, _error: &CaError) {
        self.add(format!("failed {}", identity.service_account));
    }

    fn forgotten(&self, identity: &Identity) {
        self.add(format!("forgotten {}", identity.service_account));
    }

    fn bundle_changed(&self, bundle: &TrustBundle) {
        self.add(format!("bundle of {}", bundle.roots().len()));
    }

    fn refresh_failed(&self, _error: &CaError) {
        self.add("refresh failed".to_owned());
    }

    fn refreshed(&self) {
        self.add("refreshed".to_owned());
    }
}

/// A store over a folder with the roots `a` (which signs) and nothing else, on a clock set by hand.
struct Bed {
    store: Store,
    issuer: Arc<Moody>,
    clock: Arc<HandClock>,
    noted: Arc<Noted>,
    a: TestCa,
    b: TestCa,
    dir: PathBuf,
    _folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        Self::with(StoreConfig { issue_deadline: Duration::from_secs(3600), ..StoreConfig::default() })
    }

    fn with(config: StoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        let (a, b) = (TestCa::root("a"), TestCa::root("b"));
        write_folder(&dir, &a, None, &[&a]);
        let issuer = Arc::new(Moody {
            ca: LocalCa::open_or_create(&dir, &config.trust_domain).unwrap(),
            fails: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            release: Notify::new(),
            asked: AtomicU64::new(0),
            keys: Mutex::default(),
        });
        let (clock, noted) = (HandClock::new(), Arc::new(Noted::default()));
        let store = Store::new(issuer.clone(), clock.clone(), noted.clone(), config);
        noted.take();
        Self { store, issuer, clock, noted, a, b, dir, _folder: folder }
    }

    /// What `run` does at each beat, in order.
    async fn beat(&self) {
        let shared = &self.store.shared;
        shared.refresh().await;
        shared.follow();
        for queued in shared.due() {
            queued.0.renew(shared).await;
        }
    }

    fn asked(&self) -> u64 {
        self.issuer.asked.load(Ordering::SeqCst)
    }

    fn serial(&self) -> String {
        self.store.report()[0].serial.clone()
    }
}

fn key_of(held: &Held) -> Vec<u8> {
    let certificate = &held.credential().certificate;
    certificate.certified.key.public_key().unwrap().to_vec()
}

#[tokio::test]
async fn those_who_ask_together_share_one_certificate() {
    let bed = Bed::new();
    bed.issuer.waits.store(true, Ordering::SeqCst);
    let (store, web) = (&bed.store, identity("web"));
    let release = async {
        while bed.asked() == 0 {
            tokio::task::yield_now().await;
        }
        bed.issuer.release.notify_one();
    };
    let (one, two, three, ()) = tokio::join!(store.hold(&web), store.hold(&web), store.hold(&web), release);
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((bed.asked(), one.generation()), (1, two.generation()));
    assert!(Arc::ptr_eq(&one.server(), &three.unwrap().server()));
    assert_eq!(bed.noted.take(), ["issued web"]);
}

#[tokio::test]
async fn those_who_ask_together_share_one_failure() {
    let bed = Bed::new();
    bed.issuer.waits.store(true, Ordering::SeqCst);
    bed.issuer.fails.store(true, Ordering::SeqCst);
    let (store, web) = (&bed.store, identity("web"));
    let release = async {
        while bed.asked() == 0 {
            tokio::task::yield_now().await;
        }
        bed.issuer.release.notify_one();
    };
    let (one, two, ()) = tokio::join!(store.hold(&web), store.hold(&web), release);
    assert_eq!(one.unwrap_err().to_string(), two.unwrap_err().to_string());
    assert_eq!(bed.asked(), 1, "the second did not wait for a failure of its own");
    // Who asks later gets a new attempt.
    bed.issuer.waits.store(false, Ordering::SeqCst);
    bed.issuer.fails.store(false, Ordering::SeqCst);
    store.hold(&web).await.unwrap();
}

#[tokio::test]
async fn one_who_gives_up_leaves_the_attempt_to_the_next() {
    let bed = Bed::new();
    bed.issuer.waits.store(true, Ordering::SeqCst);
    let (store, web) = (bed.store.clone(), identity("web"));
    let first = tokio::spawn(async move { store.hold(&identity("web")).await.map(drop) });
    while bed.asked() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bed.issuer.waits.store(false, Ordering::SeqCst);
    bed.store.hold(&web).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_hangs_is_given_up() {
    let deadline = Duration::from_millis(20);
    let bed = Bed::with(StoreConfig { issue_deadline: deadline, ..StoreConfig::default() });
    bed.issuer.waits.store(true, Ordering::SeqCst);
    let error = bed.store.hold(&identity("web")).await.unwrap_err();
    assert!(matches!(*error.source, CaError::Deadline(d) if d == deadline), "{error}");
    assert!(bed.store.report().is_empty());
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_life_with_a_fresh_key() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    let (serial, key, generation, server) = (bed.serial(), key_of(&held), held.generation(), held.server());
    let changes = bed.store.changes();
    let before = *changes.borrow();

    bed.clock.advance(9 * HOUR);
    bed.beat().await;
    assert_eq!(bed.serial(), serial, "before 40 % of its life nothing happens");

    bed.clock.advance(6 * HOUR);
    bed.beat().await;
    assert_ne!(bed.serial(), serial);
    assert_ne!(key_of(&held), key);
    assert!(held.generation() > generation && *changes.borrow() > before);
    assert!(!Arc::ptr_eq(&held.server(), &server));
    assert_eq!(bed.noted.take(), ["issued web", "renewed web"]);
    bed.beat().await;
    assert_eq!(bed.asked(), 2);
}

#[tokio::test]
async fn the_old_certificate_serves_while_renewal_fails() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    let serial = bed.serial();
    bed.issuer.fails.store(true, Ordering::SeqCst);
    bed.clock.advance(15 * HOUR);
    // An hour of failures at one look a second: pauses of up to a minute, each a quarter shorter at most.
    for _ in 0..3600 {
        bed.clock.advance(Duration::from_secs(1));
        for queued in bed.store.shared.due() {
            queued.0.renew(&bed.store.shared).await;
        }
    }
    let attempts = bed.asked() - 1;
    assert!((60..=90).contains(&attempts), "{attempts}");
    assert_eq!(bed.serial(), serial);
    assert!(bed.store.report()[0].last_error.as_ref().unwrap().contains("mood"));
    assert!(Arc::ptr_eq(&held.server(), &bed.store.hold(&identity("web")).await.unwrap().server()));

    bed.issuer.fails.store(false, Ordering::SeqCst);
    bed.clock.advance(Duration::from_secs(60));
    bed.beat().await;
    assert_ne!(bed.serial(), serial);
    assert_eq!(bed.store.report()[0].last_error, None);
}

#[tokio::test]
async fn an_ended_certificate_is_not_handed_out() {
    let bed = Bed::new();
    let _held = bed.store.hold(&identity("web")).await.unwrap();
    bed.clock.advance(25 * HOUR);
    bed.issuer.fails.store(true, Ordering::SeqCst);
    bed.store.hold(&identity("web")).await.unwrap_err();
    bed.issuer.fails.store(false, Ordering::SeqCst);
    let held = bed.store.hold(&identity("web")).await.unwrap();
    assert!(held.not_after() > bed.store.now());
}

#[tokio::test]
async fn a_clock_that_jumps_either_way_is_met_at_the_next_beat() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    for _ in 0..2 {
        bed.clock.advance(100 * HOUR);
        bed.beat().await;
        assert!(held.not_after() > bed.store.now());
    }
    bed.clock.set_back(200 * HOUR);
    bed.beat().await;
    assert!(held.not_after() <= bed.store.now() + 24 * HOUR, "one of the future is of no use to peers");
}

#[tokio::test]
async fn the_last_use_that_ends_forgets_the_certificate() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    let second = held.clone();
    let other = bed.store.hold(&identity("db")).await.unwrap();
    drop(held);
    assert_eq!(bed.store.report().len(), 2);
    drop(second);
    let left: Vec<_> = bed.store.report().into_iter().map(|r| r.identity).collect();
    assert_eq!(left, [identity("db")]);
    drop(other);
    assert!(bed.store.shared.entries().is_empty());
    assert_eq!(bed.noted.take(), ["issued web", "issued db", "forgotten web", "forgotten db"]);
    // A failure leaves nothing behind either.
    bed.issuer.fails.store(true, Ordering::SeqCst);
    bed.store.hold(&identity("web")).await.unwrap_err();
    assert!(bed.store.shared.entries().is_empty());
}

#[tokio::test]
async fn roots_rotate_under_live_certificates() {
    let bed = Bed::new();
    let (client, server) =
        (bed.store.hold(&identity("web")).await.unwrap(), bed.store.hold(&identity("db")).await.unwrap());
    let expected = [identity("db")];
    let (_, conn) = handshake(&client.client(&expected), &server.server()).unwrap();
    let chain = conn.peer_certificates().unwrap().to_vec();
    let proved = peer(&chain, Side::Client, &bed.store.bundle(), bed.store.now()).unwrap();
    assert_eq!(proved.identity, identity("web"));

    // A → A and B: the certificates stay, the configurations change.
    let (serial, generation) = (bed.serial(), client.generation());
    write_folder(&bed.dir, &bed.a, None, &[&bed.a, &bed.b]);
    bed.beat().await;
    assert_eq!(bed.serial(), serial);
    assert!(client.generation() > generation);
    handshake(&client.client(&expected), &server.server()).unwrap();

    // B signs: all are re-issued at the next beat, also against those who are not yet.
    let old = client.client(&expected);
    write_folder(&bed.dir, &bed.b, None, &[&bed.a, &bed.b]);
    bed.beat().await;
    assert_ne!(bed.serial(), serial);
    assert!(bed.store.report().iter().all(|r| r.issuer == "O=Istio, CN=b"));
    handshake(&client.client(&expected), &server.server()).unwrap();
    handshake(&old, &server.server()).unwrap();
    assert_eq!(bed.store.still_trusted(&proved, bed.store.now()), Trust::Yes);

    // A goes: who has only A is refused, and what A proved no longer counts.
    write_folder(&bed.dir, &bed.b, None, &[&bed.b]);
    bed.beat().await;
    handshake(&client.client(&expected), &server.server()).unwrap();
    match handshake(&old, &server.server()).unwrap_err() {
        // The old client still trusts B, so it is the server who refuses.
        Refused::Server(error) => {
            assert!(matches!(PeerError::from_tls(&error), Some(PeerError::UnknownRoot { .. })), "{error}");
            assert!(
                error.to_string().contains("leads to none of the roots that this node trusts"),
                "{error}"
            );
        }
        Refused::Client(error) => panic!("{error}"),
    }
    assert_eq!(bed.store.still_trusted(&proved, bed.store.now()), Trust::RootRemoved);
    let again = peer(&chain, Side::Client, &bed.store.bundle(), bed.store.now());
    assert!(matches!(again, Err(PeerError::UnknownRoot { .. })));
}

#[tokio::test]
async fn a_broken_edit_is_told_once_and_changes_nothing() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    let generation = held.generation();
    bed.noted.take();
    std::fs::write(bed.dir.join("ca-key.pem"), "").unwrap();
    for _ in 0..3 {
        bed.beat().await;
    }
    assert_eq!(bed.noted.take(), ["refresh failed"]);
    assert!(bed.store.refresh_error().unwrap().contains("ca-key.pem"));
    assert_eq!(held.generation(), generation);
    let _new = bed.store.hold(&identity("new")).await.unwrap();
    std::fs::write(bed.dir.join("ca-key.pem"), &bed.a.key_pem).unwrap();
    bed.beat().await;
    bed.beat().await;
    assert_eq!(bed.noted.take(), ["issued new", "refreshed"]);
    assert_eq!(bed.store.refresh_error(), None);
}

#[tokio::test]
async fn an_answer_for_somebody_else_is_of_no_use() {
    struct Swapped(LocalCa);
    impl Issuer for Swapped {
        fn issue<'a>(
            &'a self,
            _identity: &'a Identity,
            validity: Validity,
        ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
            Box::pin(async move { self.0.issue(&identity("admin"), validity).map_err(Arc::new) })
        }
        fn authority(&self) -> watch::Receiver<Arc<Authority>> {
            self.0.authority()
        }
    }
    let bed = Bed::new();
    let issuer = Arc::new(Swapped(bed.issuer.ca.clone()));
    let store = Store::new(issuer, bed.clock.clone(), bed.noted.clone(), StoreConfig::default());
    let error = store.hold(&identity("web")).await.unwrap_err().to_string();
    assert!(error.contains("asked for spiffe://cluster.local/ns/shop/sa/web"), "{error}");
}

#[tokio::test]
async fn the_running_store_follows_the_folder_and_renews() {
    let bed = Bed::new();
    let held = bed.store.hold(&identity("web")).await.unwrap();
    let mut changes = bed.store.changes();
    let story = async {
        write_folder(&bed.dir, &bed.b, None, &[&bed.a, &bed.b]);
        while bed.store.report()[0].issuer != "O=Istio, CN=b" {
            changes.changed().await.unwrap();
        }
        bed.clock.advance(15 * HOUR);
        while held.not_after() < bed.store.now() + 20 * HOUR {
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = bed.store.run() => unreachable!("it runs until dropped"),
        done = tokio::time::timeout(Duration::from_secs(30), story) => done.unwrap(),
    }
}

#[tokio::test]
async fn peers_speak_tls_1_3_with_h2_and_no_name() {
    let bed = Bed::new();
    let (web, db) =
        (bed.store.hold(&identity("web")).await.unwrap(), bed.store.hold(&identity("db")).await.unwrap());
    let (client, server) = handshake(&web.client(&[identity("db")]), &db.server()).unwrap();
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server.server_name(), None);
    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert!(!web.client(&[identity("db")]).enable_early_data);
    assert_eq!(db.server().max_early_data_size, 0);
    let proved =
        peer(client.peer_certificates().unwrap(), Side::Server, &bed.store.bundle(), bed.store.now());
    assert_eq!(proved.unwrap().identity, identity("db"));
}

#[tokio::test]
async fn configurations_are_shared_until_something_changes() {
    let bed = Bed::new();
    let web = bed.store.hold(&identity("web")).await.unwrap();
    let (a, b) = (identity("a"), identity("b"));
    let first = web.client(&[a.clone(), b.clone()]);
    assert!(Arc::ptr_eq(&first, &web.client(&[b.clone(), a.clone(), b.clone()])), "order does not count");
    assert!(!Arc::ptr_eq(&first, &web.client(std::slice::from_ref(&a))));
    for n in 0..1100 {
        web.client(&[identity(&format!("n{n}"))]);
    }
    assert!(!Arc::ptr_eq(&first, &web.client(&[a, b])), "the bound was met");
}

#[tokio::test]
async fn sessions_are_resumed_and_checked_again() {
    let bed = Bed::new();
    let (web, db) =
        (bed.store.hold(&identity("web")).await.unwrap(), bed.store.hold(&identity("db")).await.unwrap());
    let expected = [identity("db")];
    let (old_client, old_server) = (web.client(&expected), db.server());
    let kind = |client: &Arc<_>, server: &Arc<_>| {
        let (client, server) = handshake(client, server).unwrap();
        (client.handshake_kind().unwrap(), server.peer_certificates().unwrap().to_vec())
    };
    assert_eq!(kind(&old_client, &old_server).0, HandshakeKind::Full);
    let (resumed, chain) = kind(&old_client, &old_server);
    assert_eq!(resumed, HandshakeKind::Resumed);
    let proved = peer(&chain, Side::Client, &bed.store.bundle(), bed.store.now()).unwrap();
    assert_eq!(proved.identity, identity("web"));
    // Another destination's sessions are apart.
    let other = bed.store.hold(&identity("other")).await.unwrap();
    assert_eq!(kind(&web.client(&[identity("other")]), &other.server()).0, HandshakeKind::Full);

    // A new bundle: new configurations know no old session …
    write_folder(&bed.dir, &bed.b, None, &[&bed.b]);
    bed.beat().await;
    assert_eq!(kind(&web.client(&expected), &db.server()).0, HandshakeKind::Full);
    // … and on the old ones, where a session is still resumed without a look at the chain, the second look refuses.
    let (resumed, chain) = kind(&old_client, &old_server);
    assert_eq!(resumed, HandshakeKind::Resumed);
    let again = peer(&chain, Side::Client, &bed.store.bundle(), bed.store.now());
    assert!(matches!(again, Err(PeerError::UnknownRoot { .. })), "{again:?}");

    // So does a certificate that ended meanwhile.
    let late = bed.store.now() + 30 * HOUR;
    assert_eq!(bed.store.still_trusted(&proved, late), Trust::RootRemoved);
    let (_, chain) = kind(&web.client(&expected), &db.server());
    let proved = peer(&chain, Side::Client, &bed.store.bundle(), bed.store.now()).unwrap();
    assert_eq!(bed.store.still_trusted(&proved, late), Trust::Expired);
    let ended = peer(&chain, Side::Client, &bed.store.bundle(), late);
    assert!(matches!(ended, Err(PeerError::Expired { .. })), "{ended:?}");
}

#[tokio::test]
async fn wrong_peers_are_refused_by_the_side_that_sees_it() {
    let bed = Bed::new();
    let (web, db) =
        (bed.store.hold(&identity("web")).await.unwrap(), bed.store.hold(&identity("db")).await.unwrap());
    let reason = |refused: Refused| match refused {
        Refused::Client(e) => ("client", PeerError::from_tls(&e).unwrap_or_else(|| panic!("{e}"))),
        Refused::Server(e) => ("server", PeerError::from_tls(&e).unwrap_or_else(|| panic!("{e}"))),
    };
    let refused = |client, server| reason(handshake(&client, &server).unwrap_err());

    let (side, error) = refused(web.client(&[identity("web")]), db.server());
    assert!(side == "client" && matches!(error, PeerError::Unexpected { .. }), "{error}");
    assert_eq!(refused(web.client(&[]), db.server()), ("client", PeerError::NothingExpected));

    // A client of another trust domain, of the same CA.
    let foreign = TrustDomain::new("other.example").unwrap();
    let ca = LocalCa::open_or_create(&bed.dir, &foreign).unwrap();
    let make = |aliases: Vec<TrustDomain>, domain: &TrustDomain, issuer: LocalCa| {
        let config = StoreConfig { trust_domain: domain.clone(), aliases, ..StoreConfig::default() };
        Store::new(Arc::new(issuer), bed.clock.clone(), bed.noted.clone(), config)
    };
    let stranger =
        make(vec![], &foreign, ca).hold(&Identity::new(foreign.clone(), "shop", "web")).await.unwrap();
    let (side, error) = refused(stranger.client(&[identity("db")]), db.server());
    assert!(side == "server" && matches!(error, PeerError::ForeignTrustDomain { .. }), "{error}");
    let open = make(vec![foreign], &domain(), bed.issuer.ca.clone()).hold(&identity("db")).await.unwrap();
    handshake(&stranger.client(&[identity("db")]), &open.server()).unwrap();

    // Without a certificate.
    let mut bare = (*web.client(&[identity("db")])).clone();
    bare.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::new(vec![], web.credential().certificate.certified.key.clone()),
    ));
    assert_eq!(refused(Arc::new(bare), db.server()), ("server", PeerError::NoCertificate));

    // With a certificate that ended, as the clock has it.
    let old = web.client(&[identity("db")]);
    bed.clock.advance(30 * HOUR);
    bed.store.hold(&identity("db")).await.unwrap();
    bed.store.shared.due();
    let (side, error) = refused(old, db.server());
    assert!(side == "server" && matches!(error, PeerError::Expired { .. }), "{error}");
}

#[tokio::test]
async fn a_stolen_certificate_is_of_no_use_without_its_key() {
    let bed = Bed::new();
    let (web, db) =
        (bed.store.hold(&identity("web")).await.unwrap(), bed.store.hold(&identity("db")).await.unwrap());
    let thief = rustls::sign::CertifiedKey::new(
        web.credential().certificate.certified.cert.clone(),
        db.credential().certificate.certified.key.clone(),
    );
    let mut config = (*web.client(&[identity("db")])).clone();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(thief));
    match handshake(&Arc::new(config), &db.server()).unwrap_err() {
        Refused::Server(error) => assert!(error.to_string().contains("BadSignature"), "{error}"),
        Refused::Client(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn nothing_printed_holds_a_key() {
    let bed = Bed::new();
    let web = bed.store.hold(&identity("web")).await.unwrap();
    let report = format!("{:?}", bed.store.report());
    let (client, server) = (web.client(&[identity("db")]), web.server());
    let printed = format!("{:?} {web:?} {report} {client:?} {server:?}", bed.store);
    let keys = bed.issuer.keys.lock().unwrap();
    assert_eq!(keys.len(), 1);
    // The first 36 bytes say which kind of key it is, the last 65 are its public half.
    let secret = &keys[0][36..keys[0].len() - 65];
    assert!(secret.len() >= 32);
    assert_clean(&printed, secret);
    assert!(printed.contains("cluster.local") && report.contains(&bed.serial()));
}
