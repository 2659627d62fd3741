//! Hears that something in the folder changed, from the kernel.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::Notify;

use super::walk::DirId;

/// Ears on folders. What changed is not told, only that something did.
pub(crate) struct Ears {
    shared: Arc<Shared>,
    watched: Mutex<BTreeMap<PathBuf, (DirId, WatchDescriptor)>>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    inotify: Inotify,
    /// Written to when the listener shall end.
    end: EventFd,
    /// Holds at most one waiting word, however much happened: the folder is looked at as a whole anyway.
    stirred: Notify,
}

/// What [`Ears::follow`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Some folder is heard from now on that was not before: what happened in it until now was missed.
    pub(crate) added: bool,
    /// Some folder cannot be heard: look by yourself from time to time.
    pub(crate) deaf: bool,
}

impl Ears {
    /// Starts a thread that listens, until the ears are dropped.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let end = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { inotify, end, stirred: Notify::new() });
        let listening = Arc::clone(&shared);
        let listener =
            std::thread::Builder::new().name("folder-ears".to_owned()).spawn(move || listening.listen())?;
        Ok(Self { shared, watched: Mutex::default(), listener: Some(listener) })
    }

    /// Listens to these folders and no others.
    pub(crate) fn follow(&self, dirs: &BTreeMap<PathBuf, DirId>) -> Followed {
        let inotify = &self.shared.inotify;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = |path: &PathBuf, id: &DirId| dirs.get(path) != Some(id);
        let gone: Vec<(PathBuf, WatchDescriptor)> = watched
            .iter()
            .filter(|(path, (id, _))| stale(path, id))
            .map(|(path, (_, descriptor))| (path.clone(), *descriptor))
            .collect();
        for (path, descriptor) in gone {
            watched.remove(&path);
            // The kernel has one descriptor a folder, whatever the ways to it.
            if !watched.values().any(|(_, other)| *other == descriptor) {
                // Fails where the folder is gone; then the kernel has forgotten it already.
                _ = inotify.rm_watch(descriptor);
            }
        }
        let mut followed = Followed::default();
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for (path, id) in dirs {
            if watched.contains_key(path) {
                continue;
            }
            match inotify.add_watch(path, events) {
                Ok(descriptor) => {
                    watched.insert(path.clone(), (*id, descriptor));
                    followed.added = true;
                }
                // It went away since the walk; the folder above it tells.
                Err(Errno::ENOENT) => {}
                Err(_) => followed.deaf = true,
            }
        }
        followed
    }

    /// Waits until something changed. A change that nobody waited for is told to the next who waits.
    pub(crate) async fn stirred(&self) {
        self.shared.stirred.notified().await;
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        // Both fail only where the listener has ended already.
        _ = self.shared.end.write(1);
        _ = self.listener.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn listen(&self) {
        loop {
            let mut fds = [
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                // Cannot happen to two open descriptors; if it does, the regular look remains.
                Err(_) => return,
            }
            if fds[1].any().unwrap_or(true) {
                return;
            }
            while let Ok(events) = self.inotify.read_events() {
                // A watch that ended tells of itself; nothing changed by that.
                if events.iter().any(|event| event.mask != AddWatchFlags::IN_IGNORED) {
                    self.stirred.notify_one();
                }
            }
        }
    }
}
