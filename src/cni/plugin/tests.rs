use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use serde_json::json;

use super::*;

/// A pod's call with all that a runtime tells.
fn call(command: &str) -> Call {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";
    Call::from_environment(|name| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => "/run/netns/cni-1",
            "CNI_ARGS" => args,
            _ => return None,
        };
        Some(value.to_owned())
    })
}

/// A node's run directory and list, and a configuration that names them.
struct Place {
    dir: tempfile::TempDir,
    wait: u64,
}

impl Place {
    fn new(wait: u64) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), wait };
        fs::create_dir(place.dir.path().join(outside::FOLDER)).unwrap();
        place
    }

    fn list(&self) -> PathBuf {
        self.dir.path().join(outside::FOLDER).join(outside::FILE)
    }

    fn config(&self) -> Vec<u8> {
        let config = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "aquifer-cni", "wait": self.wait,
            "socket": self.dir.path().join(node::SOCKET), "outside": self.list(),
            "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]},
        });
        config.to_string().into_bytes()
    }

    fn run(&self, call: &Call) -> Result<Vec<u8>, CniError> {
        run(call, Ok(&self.config()))
    }

    /// Answers at the node's socket, one question with each of these lines, and tells what was asked.
    fn node(&self, answers: &[&'static str]) -> JoinHandle<Vec<Ask>> {
        let listener = UnixListener::bind(self.dir.path().join(node::SOCKET)).unwrap();
        let answers = answers.to_vec();
        std::thread::spawn(move || {
            let serve = |answer: &str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = Vec::new();
                BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                node::from_line(&line).unwrap()
            };
            answers.into_iter().map(serve).collect()
        })
    }
}

fn parsed(answer: &[u8]) -> Value {
    serde_json::from_slice(answer).unwrap()
}

#[test]
fn a_pod_begins_once_the_node_has_it_and_hands_on_what_was_done_before() {
    let place = Place::new(10);
    let node =
        place.node(&["{\"answer\":\"waiting\",\"why\":\"no certificate\"}\n", "{\"answer\":\"done\"}\n"]);
    let answer = parsed(&place.run(&call("ADD")).unwrap());
    assert_eq!(answer["ips"][0]["address"], "10.0.0.7/24");
    let asked = node.join().unwrap();
    assert_eq!(asked.len(), 2, "it did not ask again");
    let first = &asked[0];
    assert_eq!(
        (first.namespace.as_str(), first.pod.as_str(), first.uid.as_deref()),
        ("shop", "web", Some("u-1"))
    );
    assert_eq!((first.verb, first.container.as_str()), (Verb::Add, "c1"));
    assert_eq!(first.netns, Path::new("/run/netns/cni-1"));
    assert!(first.patience_ms <= 10_000, "the configured wait does not count: {}", first.patience_ms);
}

#[test]
fn a_pod_that_is_not_enrolled_does_not_begin_and_is_told_why() {
    let place = Place::new(0);
    place.node(&["{\"answer\":\"waiting\",\"why\":\"certificate: refused\"}\n"]);
    let error = place.run(&call("ADD")).unwrap_err();
    let text = parsed(&error.to_json());
    assert_eq!((text["code"].as_u64(), text["cniVersion"].as_str()), (Some(101), Some("1.0.0")));
    assert!(text["msg"].as_str().unwrap().contains("certificate: refused"), "{text}");
}

#[test]
fn without_a_node_only_listed_namespaces_begin() {
    let place = Place::new(0);
    let error = place.run(&call("ADD")).unwrap_err();
    assert_eq!(error.code(), 11);
    assert!(error.msg.contains("no Aquifer node proxy runs"), "{}", error.msg);
    fs::write(place.list(), "web\n").unwrap();
    assert!(place.run(&call("ADD")).is_err(), "another namespace's line let it pass");
    fs::write(place.list(), "web\nshop\n").unwrap();
    assert!(place.run(&call("ADD")).is_ok());
}

#[test]
fn without_a_node_what_the_cluster_needs_begins() {
    for namespace in ["kube-system", "aquifer-system"] {
        let mut call = call("ADD");
        call.args.insert("K8S_POD_NAMESPACE".into(), namespace.into());
        assert!(Place::new(0).run(&call).is_ok(), "{namespace} waits");
    }
    let mut call = call("ADD");
    call.args.clear();
    assert!(Place::new(0).run(&call).is_ok(), "what is no pod waits");
}

#[test]
fn a_pod_of_a_listed_namespace_waits_for_a_node_that_says_it_is_in_the_mesh() {
    let place = Place::new(0);
    fs::write(place.list(), "shop\n").unwrap();
    place.node(&["{\"answer\":\"waiting\",\"why\":\"rules\"}\n", "{\"answer\":\"unknown\",\"why\":\"?\"}\n"]);
    assert_eq!(place.run(&call("ADD")).unwrap_err().code(), 101);
    assert!(place.run(&call("ADD")).is_ok(), "a pod that nobody knows in a namespace outside was held");
}

#[test]
fn a_pod_held_while_the_mesh_is_taken_away_begins() {
    let place = Place::new(0);
    fs::remove_dir(place.dir.path().join(outside::FOLDER)).unwrap();
    assert!(place.run(&call("ADD")).is_ok());
}

#[test]
fn who_was_held_is_remembered_until_it_begins() {
    let place = Place::new(0);
    assert!(place.run(&call("ADD")).is_err());
    let marks = || fs::read_dir(place.dir.path().join("held")).unwrap().count();
    assert_eq!(marks(), 1);
    // What the runtime does after an ADD that failed.
    assert_eq!(place.run(&call("DEL")).unwrap(), b"");
    assert_eq!(marks(), 1, "the next call would be short again");
    fs::write(place.list(), "shop\n").unwrap();
    assert!(place.run(&call("ADD")).is_ok());
    assert_eq!(marks(), 0);
}

#[test]
fn nothing_but_a_beginning_fails_without_a_node() {
    let place = Place::new(0);
    for command in ["DEL", "CHECK", "STATUS", "GC"] {
        assert_eq!(place.run(&call(command)).unwrap(), b"", "{command}");
    }
    place.node(&["{\"answer\":\"waiting\",\"why\":\"its rules were changed\"}\n"]);
    assert_eq!(place.run(&call("CHECK")).unwrap_err().code(), 101);
}

#[test]
fn versions_are_negotiated() {
    let answer = parsed(&run(&call("VERSION"), Ok(br#"{"cniVersion":"0.4.0"}"#)).unwrap());
    assert_eq!(answer["cniVersion"], "0.4.0");
    assert_eq!(answer["supportedVersions"], json!(VERSIONS));
    let error = run(&call("ADD"), Ok(br#"{"cniVersion":"2.0.0","name":"x"}"#)).unwrap_err();
    assert_eq!(error.code(), 1);
}

#[test]
fn what_a_runtime_does_wrong_is_named() {
    let place = Place::new(0);
    assert_eq!(place.run(&call("DANCE")).unwrap_err().code(), 4);
    assert_eq!(run(&call("ADD"), Ok(b"{")).unwrap_err().code(), 6);
    assert_eq!(run(&call("ADD"), Ok(br#"{"cniVersion":"1.0.0"}"#)).unwrap_err().code(), 7);
    assert_eq!(run(&call("ADD"), Err(io::ErrorKind::BrokenPipe.into())).unwrap_err().code(), 5);
    let mut call = call("ADD");
    call.netns = PathBuf::new();
    assert_eq!(place.run(&call).unwrap_err().code(), 4);
}
