use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};

use super::*;
use crate::testing::*;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn bundle(roots: &[&TestCa]) -> TrustBundle {
    TrustBundle::new(&roots.iter().map(|r| r.certificate.clone()).collect::<Vec<_>>()).unwrap()
}

fn uris(all: &[&str]) -> Vec<SanType> {
    all.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect()
}

/// What each side says of a leaf of the one trusted root.
fn judged(root: &TestCa, adjust: impl FnOnce(&mut CertificateParams)) -> [Result<Identity, PeerError>; 2] {
    let (leaf, _) = root.leaf(WEB, adjust);
    let trusted = bundle(&[root]);
    [Side::Client, Side::Server]
        .map(|side| peer(std::slice::from_ref(&leaf), side, &trusted, SystemTime::now()).map(|p| p.identity))
}

#[test]
fn a_mesh_certificate_is_taken_on_both_sides() {
    let root = TestCa::root("root");
    for verdict in judged(&root, |_| {}) {
        assert_eq!(verdict.unwrap(), WEB.parse().unwrap());
    }
}

#[test]
fn each_fault_has_its_own_refusal() {
    let root = TestCa::root("root");
    let now = SystemTime::now();
    type Adjust = Box<dyn FnOnce(&mut CertificateParams)>;
    type Expected = fn(&PeerError) -> bool;
    let cases: Vec<(&str, Adjust, Expected)> = vec![
        (
            "no URI",
            Box::new(|p| p.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())]),
            |e| *e == PeerError::UriNames(0),
        ),
        (
            "two URIs",
            Box::new(|p| p.subject_alt_names = uris(&[WEB, "spiffe://cluster.local/ns/shop/sa/admin"])),
            |e| *e == PeerError::UriNames(2),
        ),
        (
            "another scheme",
            Box::new(|p| p.subject_alt_names = uris(&["https://cluster.local/ns/shop/sa/web"])),
            |e| matches!(e, PeerError::NotAnIdentity(_)),
        ),
        (
            "another path",
            Box::new(|p| p.subject_alt_names = uris(&["spiffe://cluster.local/workload/web"])),
            |e| matches!(e, PeerError::NotAnIdentity(_)),
        ),
        ("ended", Box::new(move |p| p.not_after = (now - HOUR / 2).into()), |e| {
            matches!(e, PeerError::Expired { .. })
        }),
        ("not begun", Box::new(move |p| p.not_before = (now + HOUR).into()), |e| {
            matches!(e, PeerError::NotYetValid { .. })
        }),
        ("no usage", Box::new(|p| p.extended_key_usages.clear()), |e| matches!(e, PeerError::WrongUsage(_))),
        (
            "another usage",
            Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            |e| matches!(e, PeerError::WrongUsage(_)),
        ),
        ("a CA itself", Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), |e| {
            matches!(e, PeerError::Chain(_))
        }),
    ];
    for (name, adjust, expected) in cases {
        for verdict in judged(&root, adjust) {
            let error = verdict.unwrap_err();
            assert!(expected(&error), "{name}: {error:?}");
        }
    }
}

#[test]
fn a_certificate_made_for_one_side_is_refused_on_the_other() {
    let root = TestCa::root("root");
    let [client, server] =
        judged(&root, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(client.unwrap_err(), PeerError::WrongUsage("clientAuth"));
    server.unwrap();
}

#[test]
fn a_chain_that_leads_nowhere_is_refused() {
    let (ours, theirs) = (TestCa::root("ours"), TestCa::root("theirs"));
    let namesake = TestCa::root("ours");
    let now = SystemTime::now();
    let trusted = bundle(&[&ours]);
    let judge = |chain: &[CertificateDer<'_>]| peer(chain, Side::Client, &trusted, now);

    for other in [&theirs, &namesake] {
        let (leaf, _) = other.leaf(WEB, |_| {});
        let error = judge(&[leaf.clone(), other.certificate.clone()]).unwrap_err();
        assert!(matches!(error, PeerError::UnknownRoot { .. }), "{error:?}");
        assert!(error.to_string().contains("O=Istio, CN=ours"), "{error}");
    }
    let intermediate = ours.intermediate("between", KeyForm::P256Pkcs8);
    let (leaf, _) = intermediate.leaf(WEB, |_| {});
    judge(&[leaf.clone(), theirs.certificate.clone(), intermediate.certificate.clone()]).unwrap();
    assert!(matches!(judge(&[leaf]).unwrap_err(), PeerError::UnknownRoot { .. }));
    assert_eq!(judge(&[]).unwrap_err(), PeerError::NoCertificate);
    assert!(matches!(judge(&[b"junk".to_vec().into()]).unwrap_err(), PeerError::Malformed(_)));
}

#[test]
fn the_root_it_led_to_is_told_also_among_namesakes() {
    let (first, second) = (TestCa::root("root"), TestCa::root("root"));
    let trusted = bundle(&[&first, &second]);
    let (leaf, _) = second.leaf(WEB, |_| {});
    let proved = peer(&[leaf], Side::Server, &trusted, SystemTime::now()).unwrap();
    assert_eq!(proved.root, trusted.roots()[1].id);
}

#[test]
fn what_ends_first_on_the_path_ends_the_proof() {
    let end = SystemTime::now() + HOUR;
    let root = TestCa::root_with("root", KeyForm::P256Pkcs8, |p| p.not_after = end.into());
    let (leaf, _) = root.leaf(WEB, |_| {});
    let trusted = bundle(&[&root]);
    let proved = peer(std::slice::from_ref(&leaf), Side::Server, &trusted, SystemTime::now()).unwrap();
    assert_eq!(proved.not_after, trusted.roots()[0].not_after);
    let later = peer(&[leaf], Side::Server, &trusted, end + HOUR).unwrap_err();
    assert_eq!(later, PeerError::RootEnded("O=Istio, CN=root".to_owned()));
}

#[test]
fn a_renewed_root_is_the_same_root() {
    let short = TestCa::root_with("root", KeyForm::P256Pkcs8, |_| {});
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(rcgen::DnType::CommonName);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Istio");
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = (SystemTime::now() + 5000 * 24 * HOUR).into();
    let key = rcgen::KeyPair::from_pem(&short.key_pem).unwrap();
    let renewed = params.self_signed(&key).unwrap().der().clone();
    let both = TrustBundle::new(&[short.certificate.clone(), renewed.clone()]).unwrap();
    assert_eq!(both.roots().len(), 1);
    assert_eq!(both, TrustBundle::new(&[renewed]).unwrap(), "the one that ends later counts");
    assert!(both.contains(bundle(&[&short]).roots()[0].id));
}

#[test]
fn who_is_expected_decides_on_the_client_and_the_domain_on_the_server() {
    let bundle = Arc::new(bundle(&[&TestCa::root("root")]));
    let web: Identity = WEB.parse().unwrap();
    let server =
        |expected: &[Identity]| ExpectedServer { bundle: Arc::clone(&bundle), expected: expected.into() };
    server(&[identity("db"), web.clone()]).take(web.clone()).unwrap();
    assert_eq!(server(&[]).take(web.clone()).unwrap_err(), PeerError::NothingExpected);
    let error = server(&[identity("db")]).take(web.clone()).unwrap_err().to_string();
    assert!(error.contains("sa/web") && error.contains("sa/db"), "{error}");

    let domain = |text: &str| TrustDomain::new(text).unwrap();
    let accepted = [domain("cluster.local"), domain("old.example")];
    let client = MeshClient { bundle: Arc::clone(&bundle), accepted: accepted.into() };
    client.take(web).unwrap();
    client.take("spiffe://old.example/ns/a/sa/b".parse().unwrap()).unwrap();
    let error = client.take("spiffe://new.example/ns/a/sa/b".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("new.example") && error.contains("cluster.local, old.example"), "{error}");
}

#[test]
fn lists_in_messages_are_cut() {
    assert_eq!(some_of([1, 2, 3, 4].iter()), "1, 2, 3, 4");
    assert_eq!(some_of([1, 2, 3, 4, 5, 6].iter()), "1, 2, 3, 4 and 2 more");
    assert_eq!(plain(&format!("a\n\u{1b}[31m{}", "x".repeat(999))).len(), 200);
}
