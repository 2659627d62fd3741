//! A network namespace as a value: held open by a descriptor, compared by identity, entered for the length of a closure.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use nix::sched::{CloneFlags, setns};

/// What tells one network namespace from another as long as somebody holds it open: the device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    /// Device number of the nsfs mount.
    pub device: u64,
    /// Inode number, which the kernel gives to another namespace only after this one is gone.
    pub inode: u64,
}

/// An open network namespace. Clones share the descriptor; the namespace lives at least as long as the last of them.
#[derive(Clone, Debug)]
pub struct NetNs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    id: NetNsId,
    /// `ip_local_port_range` as first read; [`crate::socket`] prefers ports by it and is right with a stale one too.
    ephemeral: OnceLock<(u16, u16)>,
}

impl NetNs {
    /// Opens the namespace behind a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// What `open` says, and `InvalidInput` if the file is not a network namespace (a file under `/run/netns` is a plain one
    /// once the namespace that was mounted on it is gone).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)
            .map_err(|e| annotate(e, format_args!("network namespace {}", path.display())))?;
        Self::from_fd(file.into()).map_err(|e| annotate(e, format_args!("{}", path.display())))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// What `open` says, for example where /proc is not mounted or descriptors have run out.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Takes over a descriptor, for example one received over a socket, after a check that it is a network namespace.
    ///
    /// # Errors
    /// `InvalidInput` if it is anything else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: NS_GET_NSTYPE takes no argument and only reads; the descriptor is open for as long as `fd` lives. Other kinds
        // of file answer ENOTTY.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a network namespace"));
        }
        let stat = nix::sys::stat::fstat(&fd)?;
        let id = NetNsId { device: stat.st_dev, inode: stat.st_ino };
        Ok(Self { inner: Arc::new(Inner { fd, id, ephemeral: OnceLock::new() }) })
    }

    /// Its identity.
    pub fn id(&self) -> NetNsId {
        self.inner.id
    }

    /// Whether `path` still leads to this namespace. Asked without a descriptor: a process that has none left must not take a
    /// pod for gone. What cannot be found out, for another reason than that nothing is there, has not changed.
    pub fn stands_at(&self, path: &Path) -> bool {
        match std::fs::metadata(path) {
            Ok(file) => NetNsId { device: file.dev(), inode: file.ino() } == self.id(),
            // ESRCH: the process of a path in /proc is gone.
            Err(error) => !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)),
        }
    }

    /// Runs `f` with this thread inside the namespace and comes back, also when `f` panics. Costs some ten microseconds.
    ///
    /// Sockets opened inside stay in the namespace. Never await inside: the thread would run other tasks in there. If coming
    /// back fails, the process is aborted, since a thread that stays in a pod's namespace would bypass that pod's policy.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN over the namespace; else what `f` returns.
    pub fn run<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let here = Home::here()?;
        if here == *self {
            return f();
        }
        self.enter()?;
        let _home = Home(here);
        f()
    }

    /// Moves the calling thread into the namespace for good. Only for threads of our own that end there.
    pub(crate) fn enter(&self) -> io::Result<()> {
        setns(&self.inner.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|e| annotate(e.into(), format_args!("cannot enter the network namespace")))?;
        HERE.set(Some(self.clone()));
        Ok(())
    }

    /// First and last port that the kernel gives out by itself in this namespace. Reads it once, from inside the namespace.
    pub(crate) fn ephemeral_ports(&self) -> (u16, u16) {
        /// The kernel's default, used where /proc/sys cannot be read.
        const DEFAULT: (u16, u16) = (32768, 60999);
        let read = || {
            let text = self.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")).ok()?;
            let mut words = text.split_whitespace().map(str::parse::<u16>);
            match (words.next()?, words.next()?) {
                (Ok(low), Ok(high)) if low <= high => Some((low, high)),
                _ => None,
            }
        };
        *self.inner.ephemeral.get_or_init(|| read().unwrap_or(DEFAULT))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for NetNs {}

thread_local! {
    /// Where the thread is, once it was asked. Opening the namespace costs as much as going to another and back, and nothing
    /// but this module moves a thread.
    static HERE: RefCell<Option<NetNs>> = const { RefCell::new(None) };
}

/// Where a thread came from; dropping it goes back there.
struct Home(NetNs);

impl Home {
    fn here() -> io::Result<NetNs> {
        if let Some(here) = HERE.with_borrow(Clone::clone) {
            return Ok(here);
        }
        let here = NetNs::current()?;
        HERE.set(Some(here.clone()));
        Ok(here)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.0.enter() {
            tracing::error!(%error, "a thread cannot leave a pod's network namespace; ending the process");
            std::process::abort();
        }
    }
}

/// The same error with a sentence in front of it.
pub(crate) fn annotate(error: io::Error, what: std::fmt::Arguments<'_>) -> io::Error {
    io::Error::new(error.kind(), Annotated { what: what.to_string(), source: error })
}

/// A kind does not tell all errors apart (it has none for EMFILE), so the first one stays reachable.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
struct Annotated {
    what: String,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_is_itself() {
        let (a, b) = (NetNs::current().unwrap(), NetNs::current().unwrap());
        assert_eq!(a, b);
        assert_eq!(a.run(|| Ok(NetNs::current()?.id())).unwrap(), b.id());
    }

    #[test]
    fn a_namespace_is_where_it_was_also_without_a_descriptor() {
        let own = Path::new("/proc/thread-self/ns/net");
        let here = NetNs::current().unwrap();
        assert!(here.stands_at(own));
        assert!(!here.stands_at(Path::new("/run/netns/no such")));
        assert!(!here.stands_at(Path::new("/proc/self/ns/mnt")));
    }

    #[test]
    fn other_files_are_refused() {
        for path in ["/dev/null", "/proc/self/ns/mnt"] {
            let error = NetNs::open(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
            assert!(error.to_string().contains("not a network namespace"), "{error}");
        }
        let error = NetNs::open(Path::new("/run/netns/no such")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/run/netns/no such"), "{error}");
    }
}
