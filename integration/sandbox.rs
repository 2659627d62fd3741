//! A sandbox of user, mount, network and process namespaces that a program puts itself into, without root, and that dies with it.
//!
//! Three processes of the same program stand in a row. *Outer* unshares the namespaces and waits; *init* is process 1 of the
//! new process namespace, mounts `/proc` and an empty `/run`, and reaps orphans; *inside* does the work, as root of a machine
//! that has only a loopback. When init ends, for whatever reason, the kernel kills all that is left inside.

use std::{
    env, fs, io,
    process::{self, Child, Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};
use aquifer_sys::{NetNs, link::Links};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, getegid, geteuid},
};

/// Tells a process of the row which one it is.
const PLACE: &str = "AQUIFER_SANDBOX";

/// Exit code of a program that could not get a sandbox; the reason is the last line on its standard error.
pub const NO_SANDBOX: i32 = 97;

/// Where this process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Started by a user: nothing was done.
    Outside,
    /// In a sandbox made for it.
    Inside,
}

/// This program again, in a sandbox. The caller adds arguments, environment and streams; `main` must begin with [`enter`].
pub fn command() -> io::Result<Command> {
    place_command("outer")
}

/// To be called first in `main`, before any thread: plays the part of outer and init, and returns only outside or inside.
pub fn enter() -> Place {
    let Ok(place) = env::var(PLACE) else { return Place::Outside };
    let played = match place.as_str() {
        "outer" => outer(),
        "init" => init(),
        "inside" => inside().map(|()| None),
        other => Err(anyhow::anyhow!("{PLACE}={other} is no place in a sandbox")),
    };
    match played {
        Ok(None) => Place::Inside,
        Ok(Some(code)) => process::exit(code),
        Err(error) => {
            eprintln!("{error:#}");
            process::exit(NO_SANDBOX)
        }
    }
}

/// Makes a program that is started from inside a sandbox begin as one outside: it may make a sandbox within this one.
pub fn outside(command: &mut Command) -> &mut Command {
    command.env_remove(PLACE)
}

fn place_command(place: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(PLACE, place);
    Ok(command)
}

fn next(place: &str) -> Result<Child> {
    let mut command = place_command(place)?;
    command.args(env::args_os().skip(1));
    command.spawn().with_context(|| format!("cannot start the sandbox's {place} process"))
}

fn outer() -> Result<Option<i32>> {
    let (user, group) = (geteuid(), getegid());
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match unshare(CloneFlags::CLONE_NEWUSER | spaces) {
        Ok(()) => {
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
        }
        // Root needs no user namespace, where the kernel or a container forbids them.
        Err(_) if user.is_root() && unshare(spaces).is_ok() => {}
        Err(error) => bail!(
            "no sandbox: this machine lets {} make no user and network namespaces ({error}); run as root, or allow them \
             (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0)",
            if user.is_root() { "root" } else { "ordinary users" },
        ),
    }
    // Only now: a change of credentials takes the wish back.
    die_with_parent()?;
    let status = next("init")?.wait()?;
    Ok(Some(code(status)))
}

fn init() -> Result<Option<i32>> {
    die_with_parent()?;
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>)
        .context("no sandbox: cannot make mounts private")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), quiet | MsFlags::MS_NOEXEC, None::<&str>).context(
        "no sandbox: cannot mount /proc; a container with a masked /proc forbids it (docker: --privileged)",
    )?;
    mount(Some("run"), "/run", Some("tmpfs"), quiet, Some("mode=755,size=50%"))
        .context("no sandbox: cannot mount an empty /run")?;
    Links::open(&NetNs::current()?)?.up("lo").context("no sandbox: cannot take the loopback up")?;
    let child = Pid::from_raw(next("inside")?.id().cast_signed());
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok(Some(128 + signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("cannot wait for the sandbox's process: {error}"),
        }
    }
}

fn inside() -> Result<()> {
    die_with_parent()?;
    // Children of this process are ordinary ones.
    Ok(())
}

fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the sandbox to its starter")
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
