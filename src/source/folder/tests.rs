use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{Key, Kind};

#[test]
fn a_folder_is_read_once_with_what_is_wrong_in_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
    write("a/b/ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    write("a/pods.YML", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 1}\n");
    write("chart.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n");
    let (objects, problems) = load(dir.path(), &TranslateConfig::default()).unwrap();
    assert_eq!(objects.len(), 1);
    assert!(objects.object(&Key::new(Kind::Namespace, &"".into(), &"shop".into())).is_some());
    let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let dir = dir.path().display();
    assert_eq!(
        said,
        [
            format!(
                "{dir}/a/pods.YML:4:17 (document 1): status.podIP: error: expected a text, found 1; put it in quotes; the object is left out"
            ),
            format!(
                "{dir}/chart.yaml:1:1 (document 1): note: Deployment (apps/v1) is not for the mesh and left aside"
            ),
        ]
    );
}

/// Folders too deep are unreadable for anybody; a file without rights is for all but root, who runs the tests as a rule.
#[test]
fn a_part_that_cannot_be_read_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..40).fold(dir.path().to_owned(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let error = load(dir.path(), &TranslateConfig::default()).unwrap_err().to_string();
    assert!(error.contains("more than 32 folders stand in each other"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_err() {
        let error = load(dir.path(), &TranslateConfig::default()).unwrap_err().to_string();
        assert!(error.contains("p.yaml") && error.contains("the right to read it"), "{error}");
    }
}
