use std::fs;

use super::*;

fn one(identity: &str) -> Certificates {
    Certificates::from([(identity.to_owned(), Secret("-----PRIVATE-----".into()))])
}

/// Writes as a parent does once it is time.
fn write(vault: &mut Vault, certificates: &Certificates) {
    vault.changed();
    assert!(vault.due().is_some());
    vault.write(certificates);
    assert!(vault.due().is_none());
}

fn keys_here() -> bool {
    let here = keyring::find("aquifer test");
    if let Err(error) = &here {
        println!("skipped: the kernel keeps no keys here: {error}");
        assert!(std::env::var_os("AQUIFER_NO_SKIP").is_none());
    }
    here.is_ok()
}

#[test]
fn the_next_process_of_the_node_has_the_certificates_and_nobody_else() {
    if !keys_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig::of_test(dir.path(), "a");
    let mut vault = Vault::of(&config);
    assert!(vault.read().is_empty());
    write(&mut vault, &one("spiffe://one"));
    write(&mut vault, &one("spiffe://two"));
    let path = kept::certificates(dir.path(), "a");
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(7).any(|part| part == b"PRIVATE" || part == b"spiffe:"), "it is not sealed");
    assert_eq!(Vault::of(&config).read()["spiffe://two"].0, "-----PRIVATE-----");

    // In another mesh, or under another name, it is of no use; nor torn, nor without the key.
    let mut other = config.clone();
    other.mesh.trust_domain = "another.local".into();
    assert!(Vault::of(&other).read().is_empty());
    for broken in [&bytes[..bytes.len() - 1], &bytes[1..], b"", MAGIC, b"{}"] {
        fs::write(&path, broken).unwrap();
        assert!(Vault::of(&config).read().is_empty());
    }
    fs::write(&path, &bytes).unwrap();
    keyring::find(&vault.name).unwrap().unwrap().remove().unwrap();
    assert!(Vault::of(&config).read().is_empty());

    // A key that is gone is replaced, and all goes with the mesh.
    write(&mut vault, &one("spiffe://three"));
    assert_eq!(Vault::of(&config).read().len(), 1);
    forget(dir.path(), "a");
    assert_eq!((path.exists(), keyring::find(&vault.name).unwrap()), (false, None));
}

#[test]
fn without_certificates_neither_file_nor_key_is_left() {
    if !keys_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vault = Vault::of(&NodeConfig::of_test(dir.path(), "b"));
    write(&mut vault, &one("spiffe://one"));
    write(&mut vault, &Certificates::new());
    assert!(!kept::certificates(dir.path(), "b").exists());
    assert_eq!(keyring::find(&vault.name).unwrap(), None);
}
