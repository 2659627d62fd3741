use std::fs;
use std::future::Future;

use aquifer_model::{Mesh, MeshConfig};

use super::*;

/// Longer than anything here takes on a busy machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(30);

fn pod(name: &str, ip: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nstatus: {{podIP: {ip}}}\n")
}

/// A watched folder, and what was heard of it.
struct Bed {
    dir: tempfile::TempDir,
    batches: mpsc::Receiver<Batch>,
    names: std::collections::BTreeMap<String, String>,
    last: Batch,
}

impl Bed {
    async fn run<F: Future<Output = ()>>(files: &[(&str, &str)], story: impl FnOnce(Bed) -> F) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let (sender, batches) = mpsc::channel(1);
        let watching = tokio::spawn(watch(dir.path().to_owned(), TranslateConfig::default(), sender));
        let mut bed = Self { dir, batches, names: Default::default(), last: Batch::default() };
        bed.receive().await;
        assert!(bed.last.synced);
        story(bed).await;
        // The receiver is gone with the bed, and so the watching ends.
        time::timeout(DEADLINE, watching).await.unwrap().unwrap().unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.dir.path().join(path), text).unwrap();
    }

    async fn receive(&mut self) {
        self.last = time::timeout(DEADLINE, self.batches.recv()).await.expect("no batch in time").unwrap();
        for update in &self.last.updates {
            match update {
                Update::Workload(it) => {
                    self.names.insert(it.name().to_string(), it.addresses().first().unwrap().to_string());
                }
                Update::WorkloadGone(name) => _ = self.names.remove(&name.to_string()),
                _ => {}
            }
        }
    }

    /// Receives until it is so.
    async fn until(&mut self, what: impl Fn(&Bed) -> bool) {
        while !what(self) {
            self.receive().await;
        }
    }

    fn ip(&self, pod: &str) -> Option<&str> {
        self.names.get(&format!("Kubernetes//Pod/default/{pod}")).map(String::as_str)
    }
}

#[tokio::test]
async fn edits_files_and_folders_are_heard() {
    Bed::run(&[("a.yaml", &pod("a", "10.0.0.1"))], async |mut bed| {
        assert_eq!(bed.ip("a"), Some("10.0.0.1"));
        bed.write("a.yaml", &pod("a", "10.0.0.2"));
        bed.until(|bed| bed.ip("a") == Some("10.0.0.2")).await;
        // As editors and ConfigMaps do it: written beside, then renamed over.
        bed.write(".a.tmp", &pod("a", "10.0.0.3"));
        fs::rename(bed.dir.path().join(".a.tmp"), bed.dir.path().join("a.yaml")).unwrap();
        bed.until(|bed| bed.ip("a") == Some("10.0.0.3")).await;
        // A folder that comes later is heard as well.
        fs::create_dir_all(bed.dir.path().join("deep/er")).unwrap();
        bed.write("deep/er/b.yaml", &pod("b", "10.0.1.1"));
        bed.until(|bed| bed.ip("b") == Some("10.0.1.1")).await;
        bed.write("deep/er/b.yaml", &pod("b", "10.0.1.2"));
        bed.until(|bed| bed.ip("b") == Some("10.0.1.2")).await;
        fs::remove_dir_all(bed.dir.path().join("deep")).unwrap();
        bed.until(|bed| bed.ip("b").is_none()).await;
        assert_eq!(bed.ip("a"), Some("10.0.0.3"));
    })
    .await;
}

#[tokio::test]
async fn a_broken_edit_is_told_and_changes_nothing() {
    Bed::run(&[("a.yaml", &pod("a", "10.0.0.1"))], async |mut bed| {
        bed.write("a.yaml", &pod("a", "10.0.0"));
        bed.until(|bed| !bed.last.problems.is_empty()).await;
        let problem = &bed.last.problems[0];
        assert_eq!((problem.document, problem.line, problem.column), (Some(1), Some(5), Some(17)));
        assert_eq!(problem.field.as_deref(), Some("status.podIP"));
        assert_eq!(bed.ip("a"), Some("10.0.0.1"));
        bed.write("a.yaml", &pod("a", "10.0.0.2"));
        bed.until(|bed| bed.last.problems.is_empty() && bed.ip("a") == Some("10.0.0.2")).await;
    })
    .await;
}

#[tokio::test]
async fn a_truncated_file_costs_nothing_and_an_emptied_one_two_seconds() {
    let two = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    Bed::run(&[("a.yaml", &two)], async |mut bed| {
        let began = Instant::now();
        bed.write("a.yaml", "");
        bed.until(|bed| bed.ip("a").is_none()).await;
        assert!(began.elapsed() >= Duration::from_secs(2));
        assert_eq!(bed.last.counts.0.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_goes_away_keeps_its_state_and_is_taken_up_again() {
    Bed::run(&[("a.yaml", &pod("a", "10.0.0.1"))], async |mut bed| {
        let (here, away) = (bed.dir.path().to_owned(), bed.dir.path().with_extension("away"));
        fs::rename(&here, &away).unwrap();
        bed.until(|bed| !bed.last.problems.is_empty()).await;
        assert!(
            bed.last.problems[0].message.contains("the last state stays in use"),
            "{:?}",
            bed.last.problems
        );
        assert_eq!(bed.ip("a"), Some("10.0.0.1"));
        fs::rename(&away, &here).unwrap();
        bed.write("a.yaml", &pod("a", "10.0.0.2"));
        bed.until(|bed| bed.last.problems.is_empty() && bed.ip("a") == Some("10.0.0.2")).await;
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_at_start_is_an_error_that_says_what_to_do() {
    let (sender, _batches) = mpsc::channel(1);
    let error =
        watch("/nowhere/at/all".into(), TranslateConfig::default(), sender.clone()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /nowhere/at/all: No such file or directory (os error 2); make the folder, or give another one with --manifests"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let error =
        watch(file.path().to_owned(), TranslateConfig::default(), sender).await.unwrap_err().to_string();
    assert!(error.ends_with("give the folder that holds the YAML files, not a file"), "{error}");
}

/// Without inotify, the regular look finds the same.
#[test]
fn what_is_not_heard_is_found_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let folder = Folder::new(dir.path().to_owned(), TranslateConfig::default());
    let mut watcher = Watcher { folder, ears: None, deaf: false, said: Vec::new() };
    let began = Instant::now();
    let round = watcher.start().unwrap();
    assert!(watcher.deaf && round.next <= began.max(Instant::now()) + LOOK_DEAF);
    fs::write(dir.path().join("a.yaml"), pod("a", "10.0.0.2")).unwrap();
    let batch = watcher.look(false).batch.unwrap();
    let mut mesh = Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: None });
    mesh.apply(batch.updates);
    assert!(mesh.snapshot().workload_by_ip("10.0.0.2".parse().unwrap()).is_some());
}
