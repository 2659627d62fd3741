use std::fs;

use super::*;
use crate::folder::load;
use crate::folder::walk::walk;
use crate::translate;

/// A folder on disk with what is known of it, and a clock of its own.
struct Bed {
    dir: tempfile::TempDir,
    folder: Folder,
    now: Instant,
}

impl Bed {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(dir.path(), path, text);
        }
        let mut folder = Folder::new(dir.path().to_owned(), TranslateConfig::default());
        let now = Instant::now();
        folder.start(&walk(dir.path()).unwrap(), now).unwrap();
        Self { dir, folder, now }
    }

    fn write(&self, path: &str, text: &str) {
        write(self.dir.path(), path, text);
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.dir.path().join(path)).unwrap();
    }

    /// Looks at the folder after some time has passed.
    fn look(&mut self, later: Duration) -> Refreshed {
        self.now += later;
        self.folder.refresh(&walk(self.dir.path()).unwrap(), self.now)
    }

    fn updates(&mut self) -> Vec<String> {
        let updates = self.look(Duration::from_millis(100)).updates;
        updates.iter().map(short).collect()
    }

    fn problems(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        let problems = self.folder.problems().into_iter().filter(|problem| problem.severity > Severity::Note);
        problems.map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

fn write(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn short(update: &Update) -> String {
    match update {
        Update::Workload(it) => format!("+{}@{}", it.pod(), it.addresses().first().unwrap()),
        Update::WorkloadGone(it) => format!("-{it}"),
        Update::Authorization(it) => format!("+{} {:?}", it.name, it.action),
        Update::AuthorizationGone(it) => format!("-{it}"),
        other => format!("{other:?}"),
    }
}

fn pod(name: &str, ip: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nstatus: {{podIP: {ip}}}\n")
}

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: aquifer.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
    )
}

#[test]
fn edits_are_taken_up_one_by_one() {
    let mut bed = Bed::new(&[("a.yaml", &pod("a", "10.0.0.1")), ("sub/b.yml", &pod("b", "10.0.0.2"))]);
    assert_eq!(bed.updates(), [""; 0]);
    bed.write("a.yaml", &pod("a", "10.0.0.9"));
    assert_eq!(bed.updates(), ["+default/a@10.0.0.9"]);
    bed.write(
        "c.json",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"},"status":{"podIP":"10.0.0.3"}}"#,
    );
    bed.write("notes.txt", "not: for: us");
    bed.write(".hidden.yaml", &pod("hidden", "10.0.0.4"));
    assert_eq!(bed.updates(), ["+default/c@10.0.0.3"]);
    bed.remove("sub/b.yml");
    assert_eq!(bed.updates(), ["-Kubernetes//Pod/default/b"]);
    assert_eq!(bed.problems(), [""; 0]);
}

#[test]
fn only_what_changed_is_read_again() {
    let mut bed = Bed::new(&[("a.yaml", &pod("a", "10.0.0.1")), ("b.yaml", &pod("b", "10.0.0.2"))]);
    bed.look(Duration::ZERO);
    // Past the time in which a stamp is not trusted, nothing is read any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !bed.folder.look(&walk(bed.dir.path()).unwrap(), bed.now).0.is_empty() {
        assert!(Instant::now() < deadline, "stamps are never trusted");
        bed.look(Duration::ZERO);
    }
    bed.write("b.yaml", &pod("b", "10.0.0.3"));
    let (next, _) = bed.folder.look(&walk(bed.dir.path()).unwrap(), bed.now);
    assert_eq!(next.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(), ["b.yaml"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let mut bed = Bed::new(&[("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")))]);
    bed.write("a.yaml", &(pod("a", "10.0.0.300") + &pod("b", "10.0.0.3")));
    assert_eq!(bed.updates(), ["+default/b@10.0.0.3"]);
    assert_eq!(
        bed.problems(),
        [
            "a.yaml:5:17 (document 1): status.podIP: error: \"10.0.0.300\" is no IP address; its last good version stays in use"
        ]
    );
    // A file of which nothing can be told keeps all it had.
    bed.write("a.yaml", "---\nkind: [\n");
    assert_eq!(bed.updates(), [""; 0]);
    assert!(
        bed.problems()[0].ends_with("the last good objects of this file stay in use"),
        "{:?}",
        bed.problems()
    );
    bed.write("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.4")));
    assert_eq!(bed.updates(), ["+default/b@10.0.0.4"]);
    assert_eq!(bed.problems(), [""; 0]);
}

#[test]
fn an_unreadable_policy_is_never_an_open_door() {
    let pods = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    let bad = policy("{action: ALLOW, rules: [{from: [{source: {ipBlocks: [10.0.0.0/64]}}]}]}");
    let mut bed = Bed::new(&[("pods.yaml", &pods), ("p.yaml", &bad)]);
    let policies = |bed: &Bed| {
        let seen = crate::testing::Seen::new(&bed.folder.world);
        seen.policies.iter().map(|policy| format!("{} {:?}", policy.name, policy.action)).collect::<Vec<_>>()
    };
    assert_eq!(policies(&bed), ["default/p Unknown"]);
    assert_eq!(
        bed.problems(),
        [
            "p.yaml:5:60 (document 1): spec.rules[0].from[0].source.ipBlocks[0]: error: \"10.0.0.0/64\" is no IP address and no CIDR such as 10.0.0.0/8; no good version of it is known, so until it is mended it denies all calls to the workloads it is about"
        ]
    );
    // Broken in yet another way, and then unrecognisably: it stays.
    for text in [policy("{rulez: []}"), "kind: [\n".to_owned(), bad.replace("name: p", "name: [")] {
        bed.write("p.yaml", &text);
        bed.updates();
        assert_eq!(policies(&bed), ["default/p Unknown"], "{text}");
    }
    // Mended, it counts; broken again, the good version stays.
    bed.write("p.yaml", &policy("{action: DENY, rules: [{}]}"));
    assert_eq!(bed.updates(), ["+default/p Deny"]);
    bed.write("p.yaml", &bad);
    assert_eq!(bed.updates(), [""; 0]);
    assert_eq!(policies(&bed), ["default/p Deny"]);
    assert!(bed.problems()[0].ends_with("its last good version stays in use"));
    bed.remove("p.yaml");
    assert_eq!(bed.updates(), ["-default/p"]);
}

#[test]
fn an_empty_file_and_a_folder_that_lost_half_wait_two_seconds() {
    let two = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    let mut bed = Bed::new(&[("ab.yaml", &two), ("c.yaml", &pod("c", "10.0.0.3"))]);
    let c = pod("c", "10.0.0.3");
    bed.write("c.yaml", "");
    let held = bed.look(Duration::from_millis(100));
    assert!(held.updates.is_empty());
    assert!(held.again.is_some_and(|again| again <= bed.now + HOLD));
    bed.write("c.yaml", &c);
    assert_eq!(bed.updates(), [""; 0]);
    bed.write("c.yaml", "\n");
    assert_eq!(bed.look(Duration::from_millis(100)).updates, []);
    assert_eq!(bed.look(Duration::from_millis(1_900)).updates, []);
    assert_eq!(bed.updates(), ["-Kubernetes//Pod/default/c"]);
    bed.write("c.yaml", &c);
    assert_eq!(bed.updates(), ["+default/c@10.0.0.3"]);

    bed.remove("ab.yaml");
    assert_eq!(bed.look(Duration::from_millis(100)).updates, []);
    bed.write("ab.yaml", &two);
    assert_eq!(bed.updates(), [""; 0]);
    bed.remove("ab.yaml");
    assert_eq!(bed.look(Duration::from_millis(100)).updates, []);
    assert_eq!(bed.look(Duration::from_millis(1_999)).updates, []);
    assert_eq!(bed.updates(), ["-Kubernetes//Pod/default/a", "-Kubernetes//Pod/default/b"]);
}

#[test]
fn an_object_in_two_files_is_told_and_the_first_file_counts() {
    let mut bed = Bed::new(&[
        ("b.yaml", &pod("x", "10.0.0.2")),
        ("c.yaml", &(pod("x", "10.0.0.3") + &pod("x", "10.0.0.4"))),
    ]);
    assert_eq!(
        bed.problems(),
        [
            "c.yaml:2:1 (document 1): error: Pod default/x is also in b.yaml, which counts; remove one of them",
            "c.yaml:7:1 (document 2): error: Pod default/x is already at line 2 of this file, which counts; remove one of them",
        ]
    );
    bed.write("a.yaml", &pod("x", "10.0.0.1"));
    assert_eq!(bed.updates(), ["+default/x@10.0.0.1"]);
    bed.remove("a.yaml");
    assert_eq!(bed.updates(), ["+default/x@10.0.0.2"]);
    bed.remove("b.yaml");
    assert_eq!(bed.updates(), ["+default/x@10.0.0.3"]);
    assert_eq!(bed.problems().len(), 1);
}

#[test]
fn a_config_map_mount_is_followed_through_its_links() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "..one/pods.yaml", &pod("a", "10.0.0.1"));
    symlink("..one", dir.path().join("..data")).unwrap();
    symlink("..data/pods.yaml", dir.path().join("pods.yaml")).unwrap();
    symlink(".", dir.path().join("loop")).unwrap();
    symlink("nowhere.yaml", dir.path().join("dangling.yaml")).unwrap();
    let mut folder = Folder::new(dir.path().to_owned(), TranslateConfig::default());
    let now = Instant::now();
    assert_eq!(folder.start(&walk(dir.path()).unwrap(), now).unwrap().updates.len(), 1);
    // The swap that the kubelet does.
    write(dir.path(), "..two/pods.yaml", &pod("a", "10.0.0.2"));
    symlink("..two", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    let updates = folder.refresh(&walk(dir.path()).unwrap(), now).updates;
    assert_eq!(updates.iter().map(short).collect::<Vec<_>>(), ["+default/a@10.0.0.2"]);
}

#[test]
fn a_file_past_the_bound_is_an_error_at_start_and_keeps_what_it_had_later() {
    let mut bed = Bed::new(&[("a.yaml", &pod("a", "10.0.0.1")), ("b.yaml", &pod("b", "10.0.0.2"))]);
    let large = fs::File::create(bed.dir.path().join("a.yaml")).unwrap();
    large.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert_eq!(bed.updates(), [""; 0]);
    assert!(bed.problems()[0].contains("larger than the bound of 16777216 bytes; what it had stays in use"));
    let error = load(bed.dir.path(), &TranslateConfig::default()).unwrap_err().to_string();
    assert!(error.contains("a.yaml is too large") && error.contains("bound of 16777216"), "{error}");
}

#[test]
fn problems_are_bounded() {
    let bad = pod("x", "nowhere").repeat(2_000);
    let bed = Bed::new(&[("a.yaml", &bad)]);
    let problems = bed.folder.problems();
    assert_eq!(problems.len(), MAX_PROBLEMS);
    assert!(problems[MAX_PROBLEMS - 1].message.contains("1001 more problems are left out"));
}

mod sequences {
    use proptest::prelude::*;

    use super::*;

    /// One of a few objects, so that edits meet.
    fn object() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let namespace = prop::sample::select(vec!["x", "y"]);
        (0..7_usize, name, namespace, 0..4_u8).prop_map(|(kind, name, namespace, n)| {
            let meta = format!("metadata: {{name: {name}, namespace: {namespace}, labels: {{app: l{n}}}}}");
            let core = |kind: &str| format!("---\napiVersion: v1\nkind: {kind}\n{meta}\n");
            match kind {
                0 => core("Pod") + &format!("spec: {{nodeName: {name}, containers: []}}\nstatus: {{podIP: 10.0.0.{n}}}\n"),
                1 => core("Service") + &format!("spec: {{selector: {{app: l{n}}}, ports: [{{port: 80}}]}}\n"),
                2 => format!(
                    "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{aquifer.dev/mesh: {}}}}}\n",
                    if n % 2 == 0 { "ambient" } else { "none" }
                ),
                3 => format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: z{n}}}}}\n"),
                4 => format!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{n}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.1.{n}]}}]\n"
                ),
                5 => format!("---\napiVersion: aquifer.dev/v1alpha1\nkind: AuthorizationPolicy\n{meta}\nspec: {{rules: [{{}}]}}\n"),
                _ => format!("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{meta}\nspec: {{action: DENY}}\n"),
            }
        })
    }

    fn edit() -> impl Strategy<Value = (usize, Option<String>)> {
        let text = prop::collection::vec(object(), 1..5).prop_map(|objects| objects.concat());
        (0..4_usize, prop::option::weighted(0.8, text))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is edited in whatever order: the world is the one that a fresh start would see, and the updates
        /// that were sent lead to it.
        #[test]
        fn edits_lead_to_the_world_of_a_fresh_start(edits in prop::collection::vec(edit(), 1..20)) {
            let mut bed = Bed::new(&[]);
            let mut sent = Applied::default();
            for (file, text) in edits {
                let path = bed.dir.path().join(format!("{file}.yaml"));
                match text {
                    Some(text) => fs::write(path, text).unwrap(),
                    None => _ = fs::remove_file(path),
                }
                sent.take(bed.look(HOLD).updates);
                sent.take(bed.look(HOLD).updates);
                let (objects, _) = load(bed.dir.path(), &TranslateConfig::default()).unwrap();
                let fresh = translate(&objects);
                prop_assert_eq!(&bed.folder.world, &fresh);
                prop_assert_eq!(bed.folder.world.diff(&fresh), vec![]);
                let mut expected = Applied::default();
                expected.take(World::default().diff(&fresh));
                prop_assert_eq!(&sent, &expected);
            }
        }
    }

    /// What a receiver of updates has.
    #[derive(Debug, Default, PartialEq)]
    struct Applied(BTreeMap<String, Update>);

    impl Applied {
        fn take(&mut self, updates: Vec<Update>) {
            for update in updates {
                let (key, here) = match &update {
                    Update::Workload(it) => (format!("w {}", it.name()), true),
                    Update::WorkloadGone(it) => (format!("w {it}"), false),
                    Update::Service(it) => (format!("s {}", it.name), true),
                    Update::ServiceGone(it) => (format!("s {it}"), false),
                    Update::EndpointSlice(it) => (format!("e {}", it.name), true),
                    Update::EndpointSliceGone(it) => (format!("e {it}"), false),
                    Update::Authorization(it) => (format!("a {}", it.name), true),
                    Update::AuthorizationGone(it) => (format!("a {it}"), false),
                    Update::PeerAuthentication(it) => (format!("p {}", it.name), true),
                    Update::PeerAuthenticationGone(it) => (format!("p {it}"), false),
                    Update::Node(it) => (format!("n {}", it.name), true),
                    Update::NodeGone(it) => (format!("n {it}"), false),
                };
                let known = self.0.get(&key);
                assert_ne!(known, Some(&update), "an update that changes nothing was sent");
                assert!(here || known.is_some(), "{key} went away, but was never there");
                if here {
                    self.0.insert(key, update);
                } else {
                    self.0.remove(&key);
                }
            }
        }
    }
}
