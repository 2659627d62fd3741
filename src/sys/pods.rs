//! Where the pods of this machine are: a container's cgroup carries the uid of its pod, and its processes live in the pod's network
//! namespace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Characters of a uid (RFC 9562 §4).
const UID: usize = 36;

/// Bytes of a process' list of cgroups that are looked at; it has a line of some hundred for each hierarchy.
const LONGEST: usize = 64 * 1024;

/// The network namespaces of all pods that have a process, by the pods' uids.
///
/// Needs to see the machine's processes: in a container the host's process namespace (`hostPID`). A pod in the machine's own network
/// namespace is left out. Costs a file of each process; of several in a pod the one with the lowest number counts, which is the one
/// that lives as long as the pod: its sandbox.
///
/// # Errors
/// The list of processes cannot be read.
pub fn namespaces() -> io::Result<HashMap<String, PathBuf>> {
    namespaces_in(Path::new("/proc"))
}

fn namespaces_in(proc: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let own = fs::metadata(proc.join("1/ns/net")).map(|file| (file.dev(), file.ino())).ok();
    let mut first: HashMap<String, u32> = HashMap::new();
    for entry in fs::read_dir(proc)? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(uid) = uid_of(&proc.join(pid.to_string())) {
            first.entry(uid).and_modify(|known| *known = pid.min(*known)).or_insert(pid);
        }
    }
    let path = |pid: u32| proc.join(pid.to_string()).join("ns/net");
    let is_own = |path: &Path| {
        let there = fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        there.is_none() || there == own
    };
    Ok(first.into_iter().map(|(uid, pid)| (uid, path(pid))).filter(|(_, path)| !is_own(path)).collect())
}

/// The uid of the pod that a process belongs to, by the process' folder of `/proc`. One that has just ended belongs to none.
pub(crate) fn uid_of(process: &Path) -> Option<String> {
    let cgroups = fs::read(process.join("cgroup")).ok()?;
    let cgroups = String::from_utf8_lossy(&cgroups[..cgroups.len().min(LONGEST)]);
    cgroups.lines().find_map(pod_uid)
}

/// The pod's uid in a cgroup's path: `…/pod<uid>/…`, or as systemd writes it `…-pod<uid with _>.slice/…`.
fn pod_uid(line: &str) -> Option<String> {
    line.match_indices("pod").find_map(|(at, word)| {
        let text = line.get(at + word.len()..at + word.len() + UID)?;
        let uid: String = text.chars().map(|c| if c == '_' { '-' } else { c }).collect();
        let shape = |(index, c): (usize, char)| match index {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        };
        uid.char_indices().all(shape).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    #[test]
    fn every_layout_of_cgroups_is_read() {
        let systemd = POD.replace('-', "_");
        let lines = [
            format!("0::/kubepods/burstable/pod{POD}/0123abcd"),
            format!("11:memory:/kubepods/pod{POD}/x"),
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/cri-containerd-1.scope"
            ),
            format!("0::/../../pod{POD}"),
            format!("0::/podman/pod{POD}"),
        ];
        for line in lines {
            assert_eq!(pod_uid(&line).as_deref(), Some(POD), "{line}");
        }
        for line in [
            "",
            "0::/",
            "0::/system.slice/podman.service",
            "0::/pod0a1b2c3d-1111",
            "0::/podé0a1b2c3d-1111-2222-3333-444455556666",
        ] {
            assert_eq!(pod_uid(line), None, "{line}");
        }
    }

    #[test]
    fn the_oldest_process_of_a_pod_says_where_it_is() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, cgroup: &str, namespace: &str| {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir_all(dir.join("ns")).unwrap();
            fs::write(dir.join("cgroup"), cgroup).unwrap();
            let namespace = proc.path().join(namespace);
            fs::write(&namespace, "").unwrap();
            std::os::unix::fs::symlink(namespace, dir.join("ns/net")).unwrap();
        };
        let other = "ffffffff-1111-2222-3333-444455556666";
        process(1, "0::/init.scope\n", "net-host");
        process(90, &format!("0::/kubepods/pod{POD}/a\n"), "net-pod");
        process(30, &format!("0::/kubepods/pod{POD}/b\n"), "net-pod");
        // A pod of the host's network.
        process(40, &format!("0::/kubepods/pod{other}/c\n"), "net-host");
        fs::create_dir(proc.path().join("sys")).unwrap();
        let found = namespaces_in(proc.path()).unwrap();
        assert_eq!(found, HashMap::from([(POD.to_owned(), proc.path().join("30/ns/net"))]));
    }
}
