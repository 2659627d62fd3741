//! What the plug-in does with a call: hold a pod of the mesh until it is in it, and nobody else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::node::{self, Answer, Ask, AskError, Verb};
use crate::outside;
use crate::spec::{Call, CniError, Code, Config, VERSIONS};

/// How long a pod is held where the configuration does not say. Kubelet ends a call after 4 minutes (twice its
/// runtimeRequestTimeout), and waits 10 to 15 s before the next, in which a pod cannot begin: so calls are long.
const WAIT: Duration = Duration::from_secs(180);
/// How long it is held at the first call: longer than a node proxy takes to start anew, and so short that the reason shows in the
/// pod's events before long.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// A mark of a pod that was held is forgotten after so long: the pod is gone, or its events are.
const MARKED: Duration = Duration::from_secs(3600);
/// Pause between two looks for the node. A node that comes back is found within it.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a node may not know a pod of a namespace that is outside the mesh: it may have a label of its own.
const LABELLED: Duration = Duration::from_secs(2);
/// How long a call about an end, or a look, may take.
const SHORT: Duration = Duration::from_secs(2);

/// Folder of the marks of pods that were held, beside the node's socket.
pub const HELD: &str = "held";

/// Namespaces that are never held, whatever the configuration says: what the mesh itself, and the cluster, need to begin.
pub const EXEMPT: [&str; 2] = ["kube-system", "aquifer-system"];

/// Answers a call; what is returned goes to standard output.
///
/// # Errors
/// As the runtime is to be told it.
pub fn run(call: &Call, input: io::Result<&[u8]>) -> Result<Vec<u8>, CniError> {
    let input = input.map_err(|error| CniError::new("", Code::Io, format!("standard input: {error}")))?;
    if call.command == "VERSION" {
        let asked: Value = serde_json::from_slice(input).unwrap_or_default();
        let version = asked.get("cniVersion").and_then(Value::as_str).unwrap_or(VERSIONS[3]);
        return Ok(json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string().into_bytes());
    }
    let config = Config::read(input)?;
    match call.command.as_str() {
        "ADD" => add(call, &config),
        "CHECK" => check(call, &config),
        "DEL" => {
            // A pod ends whether or not the node hears of it: its namespace goes.
            if let Some(ask) = question(call, Verb::Del, SHORT) {
                // The mark stays: runtimes also end what they could not begin, before they try again.
                node::ask(&config.socket, &ask).ok();
            }
            Ok(Vec::new())
        }
        // Pods that are no pods of the mesh can always begin, also while no node runs: the plug-in is never what makes a
        // runtime declare the machine unfit. And it keeps nothing that could be left behind.
        "STATUS" | "GC" => Ok(Vec::new()),
        other => Err(CniError::new(
            &config.cni_version,
            Code::Environment,
            format!("CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, STATUS, GC, VERSION"),
        )),
    }
}

/// What the node is asked of the pod; `None` where the call is about no pod of Kubernetes.
fn question(call: &Call, verb: Verb, patience: Duration) -> Option<Ask> {
    Some(Ask {
        verb,
        namespace: call.arg("K8S_POD_NAMESPACE")?.to_owned(),
        pod: call.arg("K8S_POD_NAME")?.to_owned(),
        uid: call.arg("K8S_POD_UID").map(str::to_owned),
        container: call.container.clone(),
        netns: call.netns.clone(),
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    })
}

fn add(call: &Call, config: &Config) -> Result<Vec<u8>, CniError> {
    let version = &config.cni_version;
    let Some(before) = &config.prev_result else {
        let text = "it makes no network of its own and is chained behind a plug-in that does";
        return Err(CniError::new(version, Code::Configuration, text));
    };
    let result = before.to_string().into_bytes();
    if call.container.is_empty() || call.netns.as_os_str().is_empty() {
        return Err(CniError::new(version, Code::Environment, "CNI_CONTAINERID or CNI_NETNS is missing"));
    }
    let Some(mut ask) = question(call, Verb::Add, WAIT) else { return Ok(result) };
    if exempt(config, &ask.namespace) {
        return Ok(result);
    }
    let mark = mark(config, &ask);
    let longest = config.wait.map_or(WAIT, Duration::from_secs);
    let wait = if mark.exists() { longest } else { longest.min(FIRST_WAIT) };
    let held = hold(config, &mut ask, wait).map_err(|(code, why)| {
        note(&mark);
        CniError::new(version, code, why)
    });
    held?;
    fs::remove_file(mark).ok();
    Ok(result)
}

/// Waits until the pod is in the mesh, or is known to be outside.
fn hold(config: &Config, ask: &mut Ask, wait: Duration) -> Result<(), (Code, String)> {
    let begun = Instant::now();
    // A list that cannot be read has nobody in it.
    let is_outside = outside::contains(&config.outside, &ask.namespace).unwrap_or(false);
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        let patience = if is_outside { left.min(LABELLED) } else { left };
        ask.patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let (code, why) = match node::ask(&config.socket, ask) {
            Ok(Answer::Done | Answer::Outside) => return Ok(()),
            Ok(Answer::Unknown { .. }) | Err(AskError::Absent(_)) if is_outside => return Ok(()),
            Err(AskError::Absent(_)) if uninstalled(config) => return Ok(()),
            Ok(Answer::Unknown { why }) => (Code::Later, why),
            Ok(Answer::Waiting { why }) => (Code::NotEnrolled, why),
            Err(AskError::Absent(error)) => (Code::Later, absent(config, ask, &error)),
            Err(AskError::Silent(error)) => {
                (Code::Later, format!("the node proxy ended while it was asked: {error}"))
            }
            Err(AskError::Nonsense(text)) => (
                Code::Later,
                format!("the node proxy answered something else: {text}; is it of another version?"),
            ),
        };
        if begun.elapsed() + PAUSE >= wait {
            return Err((code, why));
        }
        sleep(PAUSE);
    }
}

/// Whether the mesh was taken away while the pod was held: the folder of the list is there before the plug-in is configured, and goes
/// after it, and nobody else has a reason to remove it.
fn uninstalled(config: &Config) -> bool {
    let folder = config.outside.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.is_some_and(|folder| {
        fs::metadata(folder).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

fn absent(config: &Config, ask: &Ask, error: &io::Error) -> String {
    format!(
        "no Aquifer node proxy runs on this node, or it is not ready yet ({}: {error}). Namespace {} may be in the mesh, so its pods wait for it; \
         see `kubectl -n aquifer-system get pods -o wide`",
        config.socket.display(),
        ask.namespace
    )
}

fn check(call: &Call, config: &Config) -> Result<Vec<u8>, CniError> {
    let Some(ask) = question(call, Verb::Check, SHORT) else { return Ok(Vec::new()) };
    if exempt(config, &ask.namespace) {
        return Ok(Vec::new());
    }
    // A node that cannot be asked now says nothing about the pod.
    match node::ask(&config.socket, &ask) {
        Ok(Answer::Waiting { why }) => Err(CniError::new(&config.cni_version, Code::NotEnrolled, why)),
        _ => Ok(Vec::new()),
    }
}

fn exempt(config: &Config, namespace: &str) -> bool {
    EXEMPT.contains(&namespace) || config.exempt.iter().any(|exempt| exempt == namespace)
}

/// A file that says that the pod was held before and its events have told why.
fn mark(config: &Config, ask: &Ask) -> PathBuf {
    let folder = config.socket.parent().unwrap_or(Path::new("/run/aquifer")).join(HELD);
    // Names of Kubernetes have no slash; of anything else only what is harmless in a file's name is taken.
    let name = ask.uid.clone().unwrap_or_else(|| format!("{}_{}", ask.namespace, ask.pod));
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(200).collect();
    folder.join(format!("pod-{name}"))
}

/// Makes the mark, and takes away those that are old. One that cannot be made costs a shorter wait next time.
fn note(mark: &Path) {
    let Some(folder) = mark.parent() else { return };
    fs::create_dir_all(folder).ok();
    for other in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = other.metadata().and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > MARKED) {
            fs::remove_file(other.path()).ok();
        }
    }
    fs::write(mark, "").ok();
}

#[cfg(test)]
mod tests;
