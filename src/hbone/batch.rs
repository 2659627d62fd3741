//! When the end of a turn waits for a look at the sockets, so that what other applications have sent meanwhile leaves in the same write.
//!
//! A thread with much to do is woken by the first of many applications that send, and would seal and write for it alone. What
//! follows within microseconds costs a record, a write and a wake-up of the peer each time; together they cost one.

use std::pin::pin;
use std::task::Context;

use tokio::task::yield_now;

/// Writes of one message in a row after which no more company is expected. A tunnel that carries one conversation at a time does
/// not wait.
const PATIENCE: u8 = 8;

#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Messages since the last write.
    messages: u32,
    /// Falls with each write of one message, and is full again after one of several.
    patience: u8,
    /// The write was put off already.
    waited: bool,
}

impl Batch {
    /// A message was added to what waits for the socket.
    pub(crate) fn add(&mut self) {
        self.messages += 1;
    }

    /// Whether to write after a look at the sockets, which wakes `cx`. Where not, this is the write.
    pub(crate) fn waits(&mut self, cx: &mut Context<'_>) -> bool {
        if self.messages == 0 {
            return false;
        }
        if self.patience > 0 && !self.waited {
            self.waited = true;
            // The runtime wakes who yields once it has asked the kernel for events.
            return pin!(yield_now()).poll(cx).is_pending();
        }
        self.patience = if self.messages > 1 { PATIENCE } else { self.patience.saturating_sub(1) };
        self.messages = 0;
        self.waited = false;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    /// Adds `messages` and counts the looks at the sockets until they are written.
    async fn looks(batch: &mut Batch, messages: u32) -> u32 {
        (0..messages).for_each(|_| batch.add());
        let mut looks = 0;
        poll_fn(|cx| {
            if batch.waits(cx) {
                looks += 1;
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        looks
    }

    #[tokio::test]
    async fn only_who_had_company_waits_and_not_for_ever() {
        let mut batch = Batch::default();
        assert_eq!(looks(&mut batch, 0).await, 0);
        assert_eq!(looks(&mut batch, 1).await, 0, "alone");
        assert_eq!(looks(&mut batch, 2).await, 0, "the first of many");
        for _ in 0..PATIENCE {
            assert_eq!(looks(&mut batch, 1).await, 1, "after company");
        }
        assert_eq!(looks(&mut batch, 1).await, 0, "alone again");
        assert_eq!(looks(&mut batch, 2).await, 0);
        assert_eq!(looks(&mut batch, 3).await, 1);
    }
}
