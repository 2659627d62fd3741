//! Who is to be woken.

use std::task::{Context, Waker};

/// Keeps the waker of `cx`, without a clone where the same is there already.
pub(crate) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
