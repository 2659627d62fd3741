//! What this process is, may and uses: parent, limits, privileges, memory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
        signal::Signal,
        time::TimeValLike,
    },
};

use crate::{
    NetNs,
    link::Links,
    rules::{self, Mode, Rules},
    socket::{Listen, listen},
};

/// Makes the kernel kill this process (SIGKILL) when the thread that started it ends.
///
/// To be called early, with the parent's process id handed down by the parent: it fails if that one is not the parent any
/// more, since then nobody would be left to send the signal.
///
/// # Errors
/// `NotFound` if the parent has gone already.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Asked only after the signal is arranged, so that a parent which dies in between is not missed.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("process {parent}, which started this one, is gone"),
        ))
    }
}

/// Raises the limit of open descriptors to the hard limit and says what it is now.
///
/// # Errors
/// None but where a sandbox forbids these calls.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// What this process lacks to capture traffic, one sentence each with its remedy; empty if nothing.
///
/// Privileges are looked up; the kernel's abilities are tried out: a network namespace is made, capture rules and listeners
/// are put into it, and it goes away with the thread. Takes some milliseconds.
pub fn missing() -> Vec<String> {
    let mut missing = missing_capabilities();
    if missing.is_empty()
        && let Err(sentence) = try_capture()
    {
        missing.push(sentence);
    }
    missing
}

/// Number, name and use of the capabilities that capture needs.
const CAPABILITIES: [(u32, &str, &str); 2] = [
    (12, "CAP_NET_ADMIN", "to lay packet rules and open transparent sockets"),
    (21, "CAP_SYS_ADMIN", "to enter the pods' network namespaces"),
];

fn missing_capabilities() -> Vec<String> {
    let effective =
        fs::read_to_string("/proc/self/status").ok().and_then(|status| effective_capabilities(&status));
    let Some(effective) = effective else {
        return vec!["/proc/self/status cannot be read: mount /proc".to_owned()];
    };
    let lacking = CAPABILITIES.iter().filter(|(number, ..)| effective >> number & 1 == 0);
    lacking
        .map(|(_, name, reason)| {
            format!("no {name}, which is needed {reason}: run as root (sudo), or in a container add this capability")
        })
        .collect()
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn try_capture() -> Result<(), String> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            format!("no network namespace can be made ({errno}): the kernel needs CONFIG_NET_NS, or a sandbox forbids it")
        })?;
        let ns = NetNs::current().map_err(|e| e.to_string())?;
        Links::open(&ns)
            .and_then(|links| links.up("lo"))
            .map_err(|e| format!("the loopback device cannot be set up: {e}"))?;
        for which in Listen::ALL {
            listen(&ns, which).map_err(|e| e.to_string())?;
        }
        rules::lay(&ns, &Rules { generation: 0, mode: Mode::Capture { standing: Vec::new() } })
            .map_err(|e| e.to_string())
    };
    let thread = thread::Builder::new().name("preflight".to_owned()).spawn(attempt);
    match thread.map(thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Err(format!("no thread can be started: {error}")),
    }
}

/// The memory limit of the control group in bytes, the smallest on the way to the root (version 2, else version 1); `None`
/// without one.
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_limit_under(Path::new("/sys/fs/cgroup"), &groups)
}

/// A limit of version 1 that means none; what is written there is the largest count of pages in bytes.
const NO_LIMIT: u64 = 1 << 60;

fn memory_limit_under(root: &Path, groups: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // An empty list of controllers is the unified hierarchy, mounted one deeper where both versions are in use.
        let (mounts, file): (&[&str], _) = if controllers.is_empty() {
            (&["", "unified"], "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            let mount: PathBuf = root.join(mount);
            let mut group = Some(Path::new(path.trim_start_matches('/')));
            // Where the path was seen from another cgroup namespace it does not exist here, and its parents lead to the root.
            while let Some(path) = group {
                let text = fs::read_to_string(mount.join(path).join(file)).unwrap_or_default();
                limits.extend(text.trim().parse().ok().filter(|limit: &u64| *limit < NO_LIMIT));
                group = path.parent();
            }
        }
    }
    limits.into_iter().min()
}

/// What the process uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss: u64,
    /// CPU time used since the start, user and system.
    pub cpu: Duration,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// Reads [`Usage`].
///
/// # Errors
/// What reading /proc says.
pub fn usage() -> io::Result<Usage> {
    let cpu = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = cpu.user_time().num_microseconds() + cpu.system_time().num_microseconds();
    Ok(Usage {
        rss: rss()?,
        cpu: Duration::from_micros(micros.unsigned_abs()),
        // One is the descriptor that lists them.
        descriptors: (fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1),
        threads: fs::read_dir("/proc/self/task")?.count() as u64,
    })
}

/// Resident memory in bytes.
///
/// # Errors
/// What reading /proc says.
pub fn rss() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    // SAFETY: sysconf takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    match (pages, u64::try_from(page)) {
        (Some(pages), Ok(page)) => Ok(pages * page),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/self/statm is not as documented in proc(5)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |groups: &str| memory_limit_under(dir.path(), groups);
        assert_eq!(limit("0::/pods/one\n"), None);
        write("pods/one/memory.max", "max\n");
        assert_eq!(limit("0::/pods/one\n"), None);
        write("pods/memory.max", "1000\n");
        assert_eq!(limit("0::/pods/one\n"), Some(1000));
        write("pods/one/memory.max", "2000\n");
        assert_eq!(limit("0::/pods/one\n"), Some(1000));
        assert_eq!(limit("0::/../elsewhere\n"), None);
        write("memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("5:memory:/a\n"), None);
        write("memory/memory.limit_in_bytes", "500\n");
        assert_eq!(limit("12:cpu,cpuacct:/a\n5:hugetlb,memory:/a\n0::/pods\n"), Some(500));
        assert_eq!(limit("nonsense\n"), None);
    }

    #[test]
    fn usage_follows_what_the_process_does() {
        let before = usage().unwrap();
        assert!(before.rss > 1 << 20, "{before:?}");
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || stopped.recv().unwrap_err());
        let after = usage().unwrap();
        // Other tests run beside this one: at least what was opened here has come on top of what they may have closed.
        assert!(after.descriptors >= files.len() as u64 && after.threads >= 2, "{before:?} {after:?}");
        assert!(after.cpu >= before.cpu);
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn the_limit_of_descriptors_becomes_the_hard_one() {
        let limit = raise_nofile().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000001000\n"), Some(1 << 12));
        assert_eq!(effective_capabilities("CapEff:\tx\n"), None);
        assert_eq!(effective_capabilities(""), None);
    }

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        let error = die_with_parent(0).unwrap_err();
        nix::sys::prctl::set_pdeathsig(None).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
