use std::fs;

use aquifer_model::{Mesh, MeshConfig, Node, TrustDomain};
use aquifer_pki::{Issuer, LocalCa};

use super::*;

/// The roots of a new authority.
fn roots() -> Arc<TrustBundle> {
    let dir = tempfile::tempdir().unwrap();
    let authority = LocalCa::open_or_create(dir.path(), &TrustDomain::default()).unwrap();
    authority.authority().borrow().bundle.clone()
}

fn node(name: &str) -> Update {
    let (region, zone) = ("".into(), "".into());
    Update::Node(Arc::new(Node { name: name.into(), region, zone, pod_cidrs: Vec::new() }))
}

fn mesh(nodes: &[&str]) -> Mesh {
    let mut mesh = Mesh::new(MeshConfig { root_namespace: "root".into(), networks: None });
    mesh.apply(nodes.iter().map(|name| node(name)));
    mesh
}

#[test]
fn what_is_kept_is_of_this_node_and_mesh_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (config, trusted) = (NodeConfig::of_test(dir.path(), "a"), roots());
    let shelf = Shelf::of(&config, &trusted);
    assert!(shelf.read().is_none(), "nothing was kept");
    let before = SystemTime::now() - Duration::from_secs(1);
    shelf.clone().write([node("x")]).unwrap();
    let moment = shelf.read().unwrap();
    assert_eq!(moment.updates, [node("x")]);
    assert!(moment.at >= before && moment.at <= SystemTime::now());

    let path = kept::moment(dir.path(), "a");
    let changed = |change: fn(&mut NodeConfig)| {
        let mut config = config.clone();
        change(&mut config);
        Shelf { path: path.clone(), ..Shelf::of(&config, &trusted) }.load()
    };
    let why = |moment: Result<Moment, KeptError>| moment.err().unwrap().to_string();
    assert!(why(changed(|config| config.node = "b".into())).contains("of node \"a\""));
    assert!(why(changed(|config| config.mesh.cluster_id = "b".into())).contains("of cluster \"Kubernetes\""));
    assert!(why(changed(|config| config.mesh.trust_domain = "b".into())).contains("trust domain"));
    assert!(why(Shelf::of(&config, &roots()).load()).contains("roots are not trusted"));

    // Too large, torn, or something else.
    let length = fs::metadata(&path).unwrap().len();
    assert!(why(Shelf { most: length - 1, ..shelf.clone() }.load()).contains("more than"));
    assert!(Shelf { most: length - 1, ..shelf.clone() }.write([node("y")]).is_err());
    assert_eq!(shelf.read().unwrap().updates, [node("x")], "what cannot be written leaves what was there");
    let bytes = fs::read(&path).unwrap();
    for broken in [&bytes[..bytes.len() - 1], b"", b"{}"] {
        fs::write(&path, broken).unwrap();
        assert!(shelf.read().is_none());
    }
}

#[tokio::test]
async fn changes_are_written_together_and_seldom() {
    let dir = tempfile::tempdir().unwrap();
    let (config, trusted) = (NodeConfig::of_test(dir.path(), "a"), roots());
    let mut cache = Cache::new(&config);
    let mut mesh = mesh(&["x"]);
    let shelf = Shelf::of(&config, &trusted);

    let began = Instant::now();
    cache.changed();
    cache.changed();
    cache.due().await;
    assert!(began.elapsed() >= SETTLE);
    cache.write(mesh.snapshot(), &trusted);
    // What changes while it is written is written after a pause, and the pause is longer where writing takes long.
    mesh.apply([node("y")]);
    cache.changed();
    let done = cache.writing.join_next().await.unwrap().unwrap();
    assert_eq!(shelf.read().unwrap().updates.len(), 1);
    let now = Instant::now();
    cache.written(done);
    assert!(cache.changed && cache.next >= now + PAUSE);
    cache.written((Ok(1), Duration::from_secs(1)));
    assert!(cache.next >= now + Duration::from_secs(100));
    cache.next = now;
    cache.due().await;
    cache.write(mesh.snapshot(), &trusted);
    let done = cache.writing.join_next().await.unwrap().unwrap();
    cache.written(done);
    assert_eq!(shelf.read().unwrap().updates.len(), 2);
    assert!(!cache.changed, "nothing is left to write");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = Cache::new(&NodeConfig::of_test(&dir.path().join("none"), "a"));
    let trusted = roots();
    cache.write(mesh(&["x"]).snapshot(), &trusted);
    let done = cache.writing.join_next().await.unwrap().unwrap();
    cache.written(done);
    let said = cache.said.clone().unwrap();
    assert!(said.contains("No such file"), "{said}");
}
