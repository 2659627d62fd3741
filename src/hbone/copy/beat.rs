//! A slow beat for what no readiness event tells: a reset of a socket that nobody reads, a half-closed connection at rest.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// How often a socket that is not being read is asked whether its application reset it.
const LOOK: Duration = Duration::from_secs(5);

thread_local! {
    /// One timer a thread serves all its connections. Nearly each connection is half-closed for a moment, and the runtime is
    /// woken, by a system call, for each new timer that comes before all others.
    static TICKER: RefCell<Weak<Notify>> = const { RefCell::new(Weak::new()) };
}

/// Made when first needed: most connections end without it.
#[derive(Default)]
pub(super) struct Beat(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Beat {
    /// Ready about once each [`LOOK`], or sooner where `sooner` is shorter.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, sooner: Option<Duration>) -> Poll<()> {
        let beat = self.0.get_or_insert_with(|| next(sooner)).as_mut().poll(cx);
        if beat.is_ready() {
            // Polled at once, which registers it.
            let _ = self.0.insert(next(sooner)).as_mut().poll(cx);
        }
        beat
    }
}

fn next(sooner: Option<Duration>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match sooner {
        Some(every) if every < LOOK => Box::pin(sleep(every)),
        _ => Box::pin(ticker().notified_owned()),
    }
}

/// The ticker of this thread. Its task ends when nobody waits any more.
fn ticker() -> Arc<Notify> {
    TICKER.with_borrow_mut(|ticker| {
        ticker.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Notify::new());
            *ticker = Arc::downgrade(&new);
            tokio::spawn(tick(Arc::clone(&new)));
            new
        })
    })
}

async fn tick(ticker: Arc<Notify>) {
    while Arc::strong_count(&ticker) > 1 {
        sleep(LOOK).await;
        ticker.notify_waiters();
    }
}
