//! A network namespace as a value: held open by a descriptor, compared by identity, entered for the length of a closure.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

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
    fd: Arc<OwnedFd>,
    id: NetNsId,
}

impl NetNs {
    /// Opens the namespace behind a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(_path: &Path) -> io::Result<Self> {
        todo!()
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        todo!()
    }

    /// Takes over a descriptor, for example one received over a socket, after a check that it is a network namespace.
    pub fn from_fd(_fd: OwnedFd) -> io::Result<Self> {
        todo!()
    }

    /// Its identity.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Runs `f` with this thread inside the namespace and comes back.
    pub fn run<T>(&self, _f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        todo!()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
