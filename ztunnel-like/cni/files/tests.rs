use serde_json::json;

use super::*;

/// A host's two folders and an image's program.
struct Host {
    _dir: tempfile::TempDir,
    files: Files,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["net.d", "bin", "run"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("aquifer-cni"), "program 1").unwrap();
        let files = Files {
            conf_dir: at("net.d"),
            bin_dir: at("bin"),
            socket: at("run/cni.sock"),
            program: at("aquifer-cni"),
        };
        Self { _dir: dir, files }
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.files.conf_dir.join(name)
    }

    fn write(&self, name: &str, network: &Value) {
        fs::write(self.conf(name), network.to_string()).unwrap();
    }

    fn value(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.conf(name)).unwrap()).unwrap()
    }

    fn left(&self) -> Vec<String> {
        let mut names = self.files.names().unwrap();
        names.sort();
        names
    }
}

fn network() -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]})
}

#[test]
fn it_goes_in_once_and_out_without_a_trace() {
    let host = Host::new();
    host.write("10-pods.conflist", &network());
    fs::set_permissions(host.conf("10-pods.conflist"), Permissions::from_mode(0o600)).unwrap();
    host.files.put_list("web\n").unwrap();
    assert_eq!(host.files.put().unwrap(), Some(host.conf("10-pods.conflist")));
    assert_eq!(host.files.put().unwrap(), None, "what is in its place was changed");
    let entry = &host.value("10-pods.conflist")["plugins"][1];
    assert_eq!(entry["type"], "aquifer-cni");
    assert_eq!(entry["socket"], host.files.socket.to_str().unwrap());
    assert!(outside::contains(Path::new(entry["outside"].as_str().unwrap()), "web").unwrap());
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.conf("10-pods.conflist")), 0o600);
    assert_eq!(mode(&host.files.bin_dir.join("aquifer-cni")), 0o755);

    fs::write(&host.files.socket, "").unwrap();
    host.files.remove().unwrap();
    assert_eq!(host.value("10-pods.conflist"), network());
    assert_eq!(host.left(), ["10-pods.conflist"]);
    assert_eq!(fs::read_dir(&host.files.bin_dir).unwrap().count(), 0);
    assert!(!host.files.socket.exists());
    assert_eq!(host.files.remove().unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn it_comes_back_when_others_write() {
    let host = Host::new();
    assert!(matches!(host.files.put(), Err(Trouble::NoNetwork(_))));
    host.write("20-late.conflist", &network());
    assert!(host.files.put().unwrap().is_some());
    host.write("20-late.conflist", &network());
    assert!(host.files.put().unwrap().is_some());
    // Another file that the runtime takes instead.
    host.write("05-first.conflist", &network());
    assert_eq!(host.files.put().unwrap(), Some(host.conf("05-first.conflist")));
    fs::write(host.files.bin_dir.join("aquifer-cni"), "something").unwrap();
    assert!(host.files.put().unwrap().is_some());
    fs::write(&host.files.program, "program 2").unwrap();
    assert!(host.files.put().unwrap().is_some());
    assert_eq!(fs::read(host.files.bin_dir.join("aquifer-cni")).unwrap(), b"program 2");
    // Half of a file is waited for.
    fs::write(host.conf("05-first.conflist"), "{\"name\": \"po").unwrap();
    assert!(matches!(host.files.put(), Err(Trouble::Unfit { .. })));
    host.write("05-first.conflist", &network());
    assert!(host.files.put().unwrap().is_some());
    host.files.remove().unwrap();
    assert_eq!(host.value("20-late.conflist"), network());
    assert_eq!(host.value("05-first.conflist"), network());
}

#[test]
fn one_plugin_is_made_a_list_and_put_back() {
    let host = Host::new();
    let single = json!({"cniVersion": "0.4.0", "name": "pods", "type": "bridge"});
    host.write("10-pods.conf", &single);
    assert_eq!(host.files.put().unwrap(), Some(host.conf("10-pods.conflist")));
    assert_eq!(host.left(), ["10-pods.conf.before-aquifer", "10-pods.conflist", "aquifer.d"]);
    assert_eq!(host.files.put().unwrap(), None);
    // Its author writes it anew.
    let newer = json!({"cniVersion": "0.4.0", "name": "pods", "type": "bridge", "mtu": 1400});
    host.write("10-pods.conf", &newer);
    assert_eq!(host.files.put().unwrap(), Some(host.conf("10-pods.conflist")));
    assert_eq!(host.value("10-pods.conflist")["plugins"][0]["mtu"], 1400);
    host.files.remove().unwrap();
    assert_eq!(host.left(), ["10-pods.conf"]);
    assert_eq!(host.value("10-pods.conf"), newer);
}

#[test]
fn without_its_program_it_is_not_configured() {
    let host = Host::new();
    host.write("10-pods.conflist", &network());
    fs::remove_file(&host.files.program).unwrap();
    assert!(matches!(host.files.put(), Err(Trouble::File { .. })));
    assert_eq!(host.value("10-pods.conflist"), network(), "pods of this node could not begin");
}

/// containerd (seen with 1.6) ignores files that appear, so that a rename from another folder would go unheard.
#[test]
fn runtimes_hear_that_it_went_in_and_out() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let host = Host::new();
    host.write("10-pods.conflist", &network());
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(&host.files.conf_dir, AddWatchFlags::IN_MOVED_FROM).unwrap();
    host.files.put().unwrap();
    assert!(inotify.read_events().is_ok(), "the entry");
    host.files.remove().unwrap();
    assert!(inotify.read_events().is_ok(), "its removal");
    assert_eq!(host.left(), ["10-pods.conflist"]);
}
