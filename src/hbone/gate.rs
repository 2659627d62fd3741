//! Whether a tunnel's socket takes more. While it does not, its streams read nothing from their applications: what
//! waits stays in the applications' sockets, and many small writes become few large ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
    /// At most one a stream.
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    /// Ready while the tunnel takes more.
    pub(crate) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.shut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that it cannot open between the look and the entry.
        if !self.shut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Opens or shuts it; opening wakes all that wait.
    pub(crate) fn set_open(&self, open: bool) {
        if self.shut.load(Ordering::Acquire) != open {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shut.store(!open, Ordering::Release);
        if open {
            let woken = std::mem::take(&mut *waiting);
            drop(waiting);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}
