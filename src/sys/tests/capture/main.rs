//! Capture rules against real packets: a pod and a host as network namespaces joined by a cable, for anyone who may unshare.
//!
//! The process starts itself again inside a user, mount and network namespace of its own, so that nothing outside is touched
//! and nobody needs to be root.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod bed;
mod early;
mod inbound;
mod outbound;
mod passage;
mod sockets;
mod table;

use std::{
    os::unix::process::CommandExt,
    panic::{self, AssertUnwindSafe},
    process::{Command, ExitCode},
    time::Instant,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};

/// A test's name and what it does.
type Test = (&'static str, fn());

/// Set in the second life of the process, the one that is alone.
const ALONE: &str = "AQUIFER_TEST_ALONE";

fn main() -> ExitCode {
    if std::env::var_os(ALONE).is_none() {
        return again_alone();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|text| !text.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    let all = [outbound::TESTS, inbound::TESTS, early::TESTS, passage::TESTS, table::TESTS, sockets::TESTS]
        .concat();
    let list = arguments.iter().any(|argument| argument == "--list");

    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, test) in all.into_iter().filter(|(name, _)| wanted(name)) {
        if list {
            println!("{name}: test");
            continue;
        }
        let start = Instant::now();
        let result = panic::catch_unwind(AssertUnwindSafe(test));
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", start.elapsed().as_millis());
        if result.is_ok() {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    if list {
        return ExitCode::SUCCESS;
    }
    println!("\ntest result: {passed} passed; {} failed {failed:?}\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Moves into namespaces of its own and becomes this program once more there.
fn again_alone() -> ExitCode {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let (uid, gid) = (format!("0 {} 1", geteuid()), format!("0 {} 1", getegid()));
    let moved = match unshare(CloneFlags::CLONE_NEWUSER | own) {
        Ok(()) => std::fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| std::fs::write("/proc/self/gid_map", &gid))
            .and_then(|()| std::fs::write("/proc/self/uid_map", &uid)),
        // Where user namespaces are off, root does as well.
        Err(_) => unshare(own).map_err(Into::into),
    };
    let error = match moved {
        Ok(()) => Command::new("/proc/self/exe").args(std::env::args().skip(1)).env(ALONE, "1").exec(),
        Err(error) => error,
    };
    eprintln!(
        "these tests need a network namespace of their own, and none can be made ({error}): run them as root, or allow user \
         namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0)"
    );
    ExitCode::FAILURE
}
