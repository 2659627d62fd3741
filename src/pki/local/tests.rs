use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CustomExtension, DnType, DnValue, IsCa};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::certificate::Facts;
use crate::testing::*;
use crate::{Side, peer};

fn open(dir: &Path) -> Result<LocalCa, CaError> {
    LocalCa::open_or_create(dir, &domain())
}

fn day() -> Validity {
    Validity::starting(SystemTime::now(), 24 * HOUR)
}

/// What it signs is taken by both sides of a handshake under its own bundle.
fn works(ca: &LocalCa) -> Issued {
    let issued = ca.issue(&identity("web"), day()).unwrap();
    for side in [Side::Client, Side::Server] {
        let proved = peer(&issued.chain, side, &ca.roots(), SystemTime::now()).unwrap();
        assert_eq!(proved.identity, identity("web"));
    }
    issued
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn every_kind_of_key_signs_as_a_root_and_as_an_intermediate() {
    for form in KEY_FORMS {
        let dir = tempfile::tempdir().unwrap();
        let root = TestCa::root_with("root", form, |_| {});
        write_folder(dir.path(), &root, Some(&[]), &[&root]);
        let issued = works(&open(dir.path()).unwrap_or_else(|e| panic!("{form:?}: {e}")));
        assert_eq!(issued.chain.len(), 1, "{form:?}: a root is not sent");

        let intermediate = root.intermediate("intermediate", form);
        write_folder(dir.path(), &intermediate, Some(&[&intermediate, &root]), &[&root]);
        let issued = works(&open(dir.path()).unwrap_or_else(|e| panic!("{form:?}: {e}")));
        assert_eq!(issued.chain[1..], [intermediate.certificate], "{form:?}");
    }
}

#[test]
fn the_chain_leads_over_several_intermediates_and_may_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    let root = TestCa::root("root");
    let upper = root.intermediate("upper", KeyForm::P384Pkcs8);
    let lower = upper.intermediate("lower", KeyForm::P256Sec1);
    write_folder(dir.path(), &lower, Some(&[&upper]), &[&root]);
    let issued = works(&open(dir.path()).unwrap());
    assert_eq!(issued.chain[1..], [lower.certificate.clone(), upper.certificate.clone()]);

    // Without the upper one there is no way to the root.
    write_folder(dir.path(), &lower, None, &[&root]);
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::NoPath { .. }), "{error}");
    assert!(error.to_string().contains("cert-chain.pem"), "{error}");

    // With the upper one as the root all is well without a chain.
    write_folder(dir.path(), &lower, None, &[&root, &upper]);
    assert_eq!(works(&open(dir.path()).unwrap()).chain.len(), 2);
}

#[test]
fn of_several_roots_each_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (TestCa::root("a"), TestCa::root("b"), TestCa::root("c"));
    write_folder(dir.path(), &b, None, &[&a, &b, &c, &a]);
    let ca = open(dir.path()).unwrap();
    works(&ca);
    let subjects: Vec<_> = ca.roots().roots().iter().map(|r| r.subject.clone()).collect();
    assert_eq!(subjects, ["O=Istio, CN=a", "O=Istio, CN=b", "O=Istio, CN=c"]);
}

#[test]
fn an_issuer_name_is_carried_over_byte_for_byte() {
    // Two domain components and a mail address: rcgen cannot write the first, so the second attribute's type
    // (…100.1.26) is made the first's (…100.1.25) in the finished certificate, which is then signed again.
    let dc = |last| DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, last]);
    let root = TestCa::root_with("root", KeyForm::P256Pkcs8, |p| {
        let ia5 = |text: &str| DnValue::Ia5String(text.try_into().unwrap());
        p.distinguished_name.push(dc(25), ia5("example"));
        p.distinguished_name.push(dc(26), ia5("corp"));
        p.distinguished_name
            .push(DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]), ia5("ca@corp.example"));
    });
    let mut der = root.certificate.to_vec();
    let oid = |last| [9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, last];
    let found: Vec<_> = (0..der.len() - 10).filter(|i| der[*i..*i + 10] == oid(26)).collect();
    assert_eq!(found.len(), 2, "as issuer and as subject");
    for at in found {
        der[at + 9] = 25;
    }
    let root = TestCa { certificate: sign_again(&der, &root.key_pem), ..root };
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), &root, None, &[&root]);
    works(&open(dir.path()).unwrap());
}

fn sign_again(certificate: &[u8], key_pem: &str) -> CertificateDer<'static> {
    use rcgen::SigningKey;
    let (content, _) = element(certificate);
    let (_, after) = element(content);
    let to_be_signed = &content[..content.len() - after.len()];
    let (_, signature) = element(after);
    let algorithm = &after[..after.len() - signature.len()];
    let signed = rcgen::KeyPair::from_pem(key_pem).unwrap().sign(to_be_signed).unwrap();
    let bits = der::tlv(3, &[&[0], &signed]);
    CertificateDer::from(der::tlv(0x30, &[to_be_signed, algorithm, &bits]))
}

#[test]
fn an_empty_folder_gets_a_root_that_stays() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("made/on/the/way");
    let first = open(&dir).unwrap();
    works(&first);
    assert_eq!(names(&dir), ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.join("ca-key.pem")), 0o600);
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(open(&dir).unwrap().roots(), first.roots());
    assert!(first.roots().roots()[0].subject.starts_with("O=cluster.local, CN=Aquifer root "));
}

#[test]
fn nodes_that_start_together_share_one_root() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("ca");
    const NODES: usize = 8;
    let gate = Barrier::new(NODES);
    let all: Vec<_> = std::thread::scope(|scope| {
        let nodes: Vec<_> = (0..NODES)
            .map(|_| {
                scope.spawn(|| {
                    gate.wait();
                    open(&dir).unwrap()
                })
            })
            .collect();
        nodes.into_iter().map(|n| n.join().unwrap()).collect()
    });
    for ca in &all {
        let issued = works(ca);
        assert_eq!(ca.roots(), all[0].roots());
        peer(&issued.chain, Side::Client, &all[0].roots(), SystemTime::now()).unwrap();
    }
    assert_eq!(names(&dir).len(), 4, "{:?}", names(&dir));
}

#[test]
fn an_interrupted_creation_is_completed() {
    let made = tempfile::tempdir().unwrap();
    let whole = open(made.path()).unwrap().roots();
    let order = ["ca-key.pem", "cert-chain.pem", "ca-cert.pem", "root-cert.pem"];
    for done in 0..=order.len() {
        let dir = tempfile::tempdir().unwrap();
        let pending = dir.path().join(".aquifer-new");
        fs::create_dir(&pending).unwrap();
        for (index, name) in order.iter().enumerate() {
            let to = if index < done { dir.path() } else { &pending };
            fs::copy(made.path().join(name), to.join(name)).unwrap();
        }
        let ca = open(dir.path()).unwrap();
        assert_eq!(ca.roots(), whole, "after {done} files");
    }
}

#[test]
fn a_draft_of_a_killed_process_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let draft = dir.path().join(".aquifer-draft");
    fs::create_dir(&draft).unwrap();
    fs::write(draft.join("ca-key.pem"), "half a k").unwrap();
    works(&open(dir.path()).unwrap());
    assert_eq!(names(dir.path()).len(), 4);
}

#[test]
fn an_interrupted_creation_never_overwrites_what_came_since() {
    let dir = tempfile::tempdir().unwrap();
    let pending = dir.path().join(".aquifer-new");
    fs::create_dir(&pending).unwrap();
    fs::write(pending.join("ca-key.pem"), "ours").unwrap();
    fs::write(dir.path().join("ca-key.pem"), "theirs").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::Conflict { .. }), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("ca-key.pem")).unwrap(), "theirs");
}

#[test]
fn a_folder_that_lacks_a_file_is_refused_and_left_alone() {
    for gone in ["root-cert.pem", "ca-cert.pem", "ca-key.pem"] {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(gone)).unwrap();
        let before = names(dir.path());
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(gone) && error.contains("put it there"), "{error}");
        assert_eq!(names(dir.path()), before);
    }
}

#[test]
fn a_lock_that_is_never_released_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(30);
    let held = folder::lock(dir.path(), patience).unwrap();
    let error = folder::lock(dir.path(), patience).map(drop).unwrap_err();
    assert!(matches!(&error, CaError::Locked { path, .. } if path == dir.path()), "{error}");
    drop(held);
    folder::lock(dir.path(), patience).unwrap();
}

#[test]
fn what_does_not_fit_is_named_by_file_and_reason() {
    let root = TestCa::root("root");
    let other = TestCa::root("other");
    let (leaf, _) = root.leaf("spiffe://cluster.local/ns/a/sa/b", |_| {});
    let secret = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("ca-key.pem", other.key_pem.clone().into(), "is not the key of the certificate in"),
        ("ca-key.pem", b"".to_vec(), "holds no private key"),
        ("ca-key.pem", secret.into(), "not encrypted"),
        ("ca-key.pem", (root.key_pem.clone() + &other.key_pem).into(), "more than one private key"),
        ("ca-key.pem", pem("PRIVATE KEY", b"junk").into(), "no supported kind"),
        (
            "ca-key.pem",
            b"-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----\n".to_vec(),
            "no valid PEM",
        ),
        ("ca-cert.pem", b"hello".to_vec(), "holds no certificate"),
        ("ca-cert.pem", pem("CERTIFICATE", &leaf).into(), "no CA certificate"),
        ("ca-cert.pem", pem("CERTIFICATE", b"junk").into(), "no X.509 certificate"),
        ("root-cert.pem", other.pem().into(), "not trusted by"),
        ("root-cert.pem", b"".to_vec(), "at least one root"),
        ("root-cert.pem", pem("CERTIFICATE", &leaf).into(), "no CA certificate"),
        ("root-cert.pem", vec![b'x'; (1 << 20) + 1], "larger than"),
        ("root-cert.pem", other.pem().repeat(129).into(), "more than 128"),
        ("cert-chain.pem", pem("CERTIFICATE", b"junk").into(), "certificate 1: no X.509"),
        ("cert-chain.pem", other.pem().repeat(9).into(), "more than 8"),
    ];
    for (file, content, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), &root, Some(&[]), &[&root]);
        fs::write(dir.path().join(file), content).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(file), "{file}, {expected}: {error}");
    }
}

#[test]
fn what_is_no_file_is_refused_without_hanging() {
    let root = TestCa::root("root");
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), &root, Some(&[]), &[&root]);
    let chain = dir.path().join("cert-chain.pem");
    fs::remove_file(&chain).unwrap();
    fs::create_dir(&chain).unwrap();
    assert!(matches!(open(dir.path()).unwrap_err(), CaError::Read { .. }));
    fs::remove_dir(&chain).unwrap();
    nix::unistd::mkfifo(&chain, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(open(dir.path()).unwrap_err(), CaError::Read { .. }));

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

/// On a file system of its own, which needs the right to mount: the CI runs as root.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    // The mount is seen by this one thread and goes with it.
    let ran = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            return false;
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, CaError::Write { .. }), "{error}");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(names(&path), Vec::<String>::new());
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::MS_REMOUNT, Some("size=1m")).unwrap();
        works(&open(&path).unwrap());
        true
    })
    .join()
    .unwrap();
    if !ran {
        assert!(std::env::var_os("AQUIFER_NO_SKIP").is_none(), "not allowed to mount");
        eprintln!("skipped: not allowed to mount (run as root)");
    }
}

#[test]
fn a_leaf_says_what_it_must_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let now = SystemTime::now();
    let issued = ca.issue(&identity("web"), Validity::starting(now, 24 * HOUR)).unwrap();
    let facts = Facts::of(&issued.chain[0]).unwrap();
    assert_eq!(facts.uris, [Some("spiffe://cluster.local/ns/shop/sa/web".to_owned())]);
    assert!(facts.server_auth && facts.client_auth && !facts.is_ca);
    assert_eq!(facts.subject, "");
    let off = |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_else(|e| e.duration()).as_secs();
    assert!(off(facts.not_before, now - Duration::from_secs(120)) <= 1);
    assert!(off(facts.not_after, now + 24 * HOUR) <= 1);

    let parsed = crate::certificate::parse(&issued.chain[0]).unwrap();
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "it stands for the empty subject");
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());

    let again = ca.issue(&identity("web"), day()).unwrap();
    let other = Facts::of(&again.chain[0]).unwrap();
    assert_ne!(facts.serial, other.serial);
    let public = |c: &CertificateDer<'_>| crate::certificate::parse(c).unwrap().public_key().raw.to_vec();
    assert_ne!(public(&issued.chain[0]), public(&again.chain[0]), "each has a key of its own");
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let end = SystemTime::now() + 2 * HOUR;
    let root = TestCa::root_with("root", KeyForm::P256Pkcs8, |p| p.not_after = end.into());
    write_folder(dir.path(), &root, None, &[&root]);
    let ca = open(dir.path()).unwrap();
    let facts = Facts::of(&ca.issue(&identity("web"), day()).unwrap().chain[0]).unwrap();
    assert!(facts.not_after <= end);
    let later = Validity::starting(SystemTime::now() + 3 * HOUR, HOUR);
    let error = ca.issue(&identity("web"), later).unwrap_err();
    assert!(matches!(error, CaError::Ended { .. }), "{error}");
}

#[test]
fn a_ca_that_ended_opens_and_says_so_when_it_is_to_sign() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let root = TestCa::root_with("root", KeyForm::P256Pkcs8, |p| {
        p.not_before = (now - 10 * HOUR).into();
        p.not_after = (now - HOUR).into();
    });
    write_folder(dir.path(), &root, None, &[&root]);
    let error = open(dir.path()).unwrap().issue(&identity("web"), day()).unwrap_err();
    assert!(error.to_string().contains("the CA ended on"), "{error}");
}

#[test]
fn only_identities_of_the_own_trust_domain_are_signed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let foreign = Identity::new(TrustDomain::new("other.example").unwrap(), "shop", "web");
    let error = ca.issue(&foreign, day()).unwrap_err();
    assert!(matches!(error, CaError::ForeignIdentity { .. }), "{error}");
    for account in ["wéb", "a b", "a\nb", &"x".repeat(2100)] {
        let error = ca.issue(&identity(account), day()).unwrap_err();
        assert!(matches!(error, CaError::Unwritable(_)), "{error}");
    }
}

#[test]
fn constraints_of_a_ca_are_found_out_on_trial() {
    let dir = tempfile::tempdir().unwrap();
    // A path length of 0 at the root allows no intermediate.
    let root = TestCa::root_with("root", KeyForm::P256Pkcs8, |_| {});
    let narrow = root.intermediate("narrow", KeyForm::P256Pkcs8);
    let params = |p: &mut rcgen::CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let zero = TestCa::root_with("zero", KeyForm::P256Pkcs8, params);
    let below = zero.intermediate("below", KeyForm::P256Pkcs8);
    write_folder(dir.path(), &below, None, &[&zero]);
    // A constraint in the root itself does not bind (RFC 5280 §6.1 takes name and key of an anchor only) …
    works(&open(dir.path()).unwrap());
    // … but an unknown critical extension in an intermediate does.
    let mut odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    odd.set_criticality(true);
    let strange = narrow.leaf("spiffe://x/ns/a/sa/b", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.custom_extensions = vec![odd];
    });
    let key = pem("PRIVATE KEY", strange.1.secret_der());
    fs::write(dir.path().join("ca-key.pem"), key).unwrap();
    fs::write(dir.path().join("ca-cert.pem"), pem("CERTIFICATE", &strange.0)).unwrap();
    fs::write(dir.path().join("cert-chain.pem"), narrow.pem()).unwrap();
    fs::write(dir.path().join("root-cert.pem"), root.pem()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::NoPath { .. }), "{error}");
}

#[test]
fn edits_are_followed_and_broken_ones_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (TestCa::root("a"), TestCa::root("b"));
    write_folder(dir.path(), &a, None, &[&a]);
    let ca = open(dir.path()).unwrap();
    let authority = ca.authority();
    let state = || authority.borrow().clone();
    let first = state();
    assert!(!ca.reload().unwrap(), "nothing changed");

    write_folder(dir.path(), &a, None, &[&a, &b]);
    assert!(ca.reload().unwrap());
    let both = state();
    assert_eq!((both.bundle.roots().len(), both.issuer), (2, first.issuer));

    // Half an edit: the certificate is b's, the key still a's.
    fs::write(dir.path().join("ca-cert.pem"), b.pem()).unwrap();
    for _ in 0..2 {
        assert!(matches!(ca.reload().unwrap_err(), CaError::KeyMismatch { .. }), "told as long as it lasts");
    }
    assert!(Arc::ptr_eq(&both, &state()));
    works(&ca);

    fs::write(dir.path().join("ca-key.pem"), &b.key_pem).unwrap();
    assert!(ca.reload().unwrap());
    assert_ne!(state().issuer, both.issuer);

    write_folder(dir.path(), &b, None, &[&b]);
    assert!(ca.reload().unwrap());
    assert_eq!(state().bundle.roots()[0].subject, "O=Istio, CN=b");
    works(&ca);

    for file in ["root-cert.pem", "ca-cert.pem", "ca-key.pem"] {
        fs::remove_file(dir.path().join(file)).unwrap();
        assert!(matches!(ca.reload().unwrap_err(), CaError::Incomplete { .. }));
    }
    works(&ca);
    assert_eq!(names(dir.path()), Vec::<String>::new(), "a folder that was emptied is not filled again");
}

#[test]
fn nothing_printed_holds_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let root = TestCa::root("root");
    write_folder(dir.path(), &root, None, &[&root]);
    let ca = open(dir.path()).unwrap();
    let issued = works(&ca);
    let printed = format!("{ca:?} {issued:?} {:#?}", ca.authority());
    let secrets = [issued.key.secret_der().to_vec(), {
        let text: String = root.key_pem.lines().filter(|l| !l.starts_with('-')).collect();
        text.into_bytes()
    }];
    for secret in secrets {
        assert_clean(&printed, &secret);
    }

    // An error about a key's file quotes nothing of it.
    let broken = root.key_pem.replace("-----END", "%----END");
    fs::write(dir.path().join("ca-key.pem"), &broken).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_clean(&format!("{error} {error:?}"), broken.lines().nth(1).unwrap().as_bytes());
}

fn load(files: folder::Files) -> Result<Material, CaError> {
    Material::load(&files, Path::new("/ca"), &domain())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_is_refused_without_a_panic(
        roots in proptest::collection::vec(any::<u8>(), 0..400),
        certificate in "(-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n)?[A-Za-z0-9+/=\n -]{0,200}(-----END CERTIFICATE-----\n)?",
        key in "(-----BEGIN (EC |RSA |)PRIVATE KEY-----\n)?[A-Za-z0-9+/=\n]{0,200}(-----END (EC |RSA |)PRIVATE KEY-----\n)?",
    ) {
        let key = key.into_bytes();
        let files = folder::Files { roots, certificate: certificate.into(), key, chain: vec![] };
        prop_assert!(load(files).is_err());
    }

    #[test]
    fn a_damaged_certificate_is_judged_without_a_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        thread_local!(static ROOT: TestCa = TestCa::root("root"));
        ROOT.with(|root| {
            let mut der = root.certificate.to_vec();
            let at = at.index(der.len());
            if cut { der.truncate(at) } else { der[at] = byte }
            let _ = Facts::of(&der);
            let pem = pem("CERTIFICATE", &der).into_bytes();
            let _ = load(folder::Files { roots: pem.clone(), certificate: pem.clone(), key: root.key_pem.clone().into(), chain: pem });
        });
    }
}
