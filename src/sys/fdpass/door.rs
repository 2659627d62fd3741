//! A channel between two processes that do not descend from each other: one has a socket in the file system, the other comes to it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket,
    sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::geteuid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Channel;

/// How many may come at once before they are let in.
const WAITING: i32 = 8;

/// A socket in the file system at which processes of this user, and of root, get a channel.
#[derive(Debug)]
pub struct Door {
    fd: AsyncFd<OwnedFd>,
}

impl Door {
    /// Opens one at `path`, in the place of a socket that somebody left there. Only its own user may come to it. To be called in a
    /// runtime. The file stays when the door is dropped: it may be another process's by then.
    ///
    /// # Errors
    /// The path is longer than 107 bytes, or not writable.
    pub fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        // Before anybody can come: a bound socket that does not listen refuses.
        fchmodat(nix::fcntl::AT_FDCWD, path, Mode::S_IRUSR | Mode::S_IWUSR, FchmodatFlags::FollowSymlink)?;
        listen(&fd, Backlog::new(WAITING)?)?;
        // SAFETY: an OwnedFd keeps its descriptor open until it is dropped, and this one is given to nobody.
        Ok(Self { fd: unsafe { AsyncFd::register(fd) }? })
    }

    /// Waits for the next who comes and may.
    ///
    /// # Errors
    /// What the kernel says, such as EMFILE.
    pub async fn come(&self) -> io::Result<Channel> {
        loop {
            let accept = |fd: &OwnedFd| Ok(accept4(fd, SockFlag::SOCK_CLOEXEC)?);
            let fd = self.fd.async_io(Interest::READABLE, accept).await?;
            let who = getsockopt(&fd, sockopt::PeerCredentials)?.uid();
            if who == 0 || who == geteuid().as_raw() {
                return Channel::from_fd(fd);
            }
        }
    }
}

/// Gets a channel to the process whose door is at `path`.
///
/// # Errors
/// Nobody is there (`NotFound`, `ConnectionRefused`), or this process may not come to it.
pub fn enter(path: &Path) -> io::Result<Channel> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Channel::from_fd(fd)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fdpass::AsyncChannel;

    #[tokio::test]
    async fn who_comes_gets_a_channel_and_a_left_socket_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        assert_eq!(enter(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(Door::open(&path).unwrap());
        assert_eq!(enter(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let door = Door::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for _ in 0..2 {
            let visitor = AsyncChannel::new(enter(&path).unwrap()).unwrap();
            let host = AsyncChannel::new(door.come().await.unwrap()).unwrap();
            visitor.send(b"hello", &[]).await.unwrap();
            assert_eq!(host.recv().await.unwrap().unwrap().0, b"hello");
            drop(host);
            assert!(visitor.recv().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn no_file_of_another_kind_is_taken_away_unsaid() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Door::open(dir.path()).is_err());
        assert!(Door::open(&dir.path().join("x".repeat(200))).is_err());
    }
}
