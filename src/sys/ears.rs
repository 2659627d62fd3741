//! Hears that something in a folder changed, from the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Ears on folders. What changed is not told, only that something did.
pub struct Ears(AsyncFd<Watch>);

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Ears {
    /// Listens to what happens in folders, but not below: files written, renamed, removed, with other modes. Must be called in a tokio
    /// runtime with IO.
    ///
    /// # Errors
    /// A folder is missing, or the user has no watch left (fs.inotify.max_user_watches, max_user_instances).
    pub fn new(folders: &[&Path]) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        for folder in folders {
            inotify.add_watch(*folder, events)?;
        }
        // SAFETY: the descriptor is the inotify instance's own, which is neither given away nor replaced and is closed only together
        // with its registration, and `AsyncFd` deregisters first.
        unsafe { AsyncFd::register(Watch(inotify)) }.map(Self).map_err(Into::into)
    }

    /// Waits until something changed since the last time.
    pub async fn stirred(&self) {
        heard(&self.0, |watch| watch.0.read_events().map(drop)).await;
    }
}

/// So many messages are taken at once: who is told that something was said comes back for the others.
const MESSAGES: usize = 256;

/// Waits until the kernel says something, and takes what waits; `take` takes one message.
pub(crate) async fn heard<T: AsRawFd>(source: &AsyncFd<T>, take: impl Fn(&T) -> nix::Result<()>) {
    loop {
        // It fails only when the runtime ends.
        let Ok(mut ready) = source.readable().await else { return std::future::pending().await };
        let mut heard = false;
        for _ in 0..MESSAGES {
            match take(source.get_ref()) {
                Ok(()) => heard = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                // What was heard before is told.
                Err(_) if heard => break,
                // Out of the kernel's memory: whoever waits looks by itself from time to time.
                Err(_) => return std::future::pending().await,
            }
        }
        if heard {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn every_change_of_the_folders_is_heard() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ears = Ears::new(&[one.path(), two.path()]).unwrap();
        let heard = || async { timeout(Duration::from_secs(5), ears.stirred()).await.is_ok() };
        let (file, other) = (one.path().join("a"), two.path().join("b"));
        fs::write(&file, "x").unwrap();
        assert!(heard().await, "a new file");
        fs::rename(&file, &other).unwrap();
        assert!(heard().await, "a file that was moved");
        fs::remove_file(&other).unwrap();
        assert!(heard().await, "a file that was removed");
        assert!(timeout(Duration::from_millis(50), ears.stirred()).await.is_err(), "nothing happened");
        assert!(Ears::new(&[&file]).is_err(), "what is not there was listened to");
    }
}
