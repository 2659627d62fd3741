//! When the end of a turn waits for a look at the sockets, so that what other applications have sent meanwhile leaves in the same write.
//!
//! A thread with much to do is woken by the first of many applications that send, and would seal and write for it alone. What
//! follows within microseconds costs a record, a write and a wake-up of the peer each time; together they cost one. What is no
//! message (the end of a stream, room for more, the answer to a PING) is in no hurry, and often another connection's beginning
//! follows it.

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

    /// Whether to write after a look at the sockets, which wakes `cx`. Where not, this is the write, of what is `pending`.
    pub(crate) fn waits(&mut self, pending: bool, cx: &mut Context<'_>) -> bool {
        if !pending {
            return false;
        }
        if !self.waited && (self.messages == 0 || self.patience > 0) {
            self.waited = true;
            // The runtime wakes who yields once it has asked the kernel for events.
            return pin!(yield_now()).poll(cx).is_pending();
        }
        match self.messages {
            0 => {}
            1 => self.patience = self.patience.saturating_sub(1),
            _ => self.patience = PATIENCE,
        }
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

    /// Adds `messages` and counts the looks at the sockets until all is written.
    async fn looks(batch: &mut Batch, messages: u32) -> u32 {
        (0..messages).for_each(|_| batch.add());
        let mut looks = 0;
        poll_fn(|cx| {
            if batch.waits(true, cx) {
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
        assert!(!poll_fn(|cx| Poll::Ready(batch.waits(false, cx))).await, "for nothing");
        assert_eq!(looks(&mut batch, 1).await, 0, "alone");
        assert_eq!(looks(&mut batch, 2).await, 0, "the first of many");
        for _ in 0..PATIENCE {
            assert_eq!(looks(&mut batch, 1).await, 1, "after company");
            assert_eq!(looks(&mut batch, 0).await, 1, "what is no message, which says nothing of company");
        }
        assert_eq!(looks(&mut batch, 1).await, 0, "alone again");
        assert_eq!(looks(&mut batch, 2).await, 0);
        assert_eq!(looks(&mut batch, 3).await, 1);
    }
}
