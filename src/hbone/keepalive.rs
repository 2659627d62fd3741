//! PING on a tunnel, and the verdict that the peer is dead.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

#[derive(Debug)]
pub(crate) struct Keepalive {
    pings: PingPong,
    every: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the PING under way was sent, or the peer was last heard after it.
    waiting: Option<Instant>,
    heard: u64,
}

impl Keepalive {
    pub(crate) fn new(pings: PingPong, every: Duration, timeout: Duration) -> Self {
        Self { pings, every, timeout, timer: Box::pin(sleep(every)), waiting: None, heard: 0 }
    }

    /// Ready once the peer is dead. `heard` is how many bytes came from it so far: any byte is an answer, since a PONG
    /// may stand in line behind a long transfer. `tick` runs at each beat.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>, heard: u64, mut tick: impl FnMut()) -> Poll<()> {
        if self.waiting.is_some() && self.pings.poll_pong(cx).is_ready() {
            self.waiting = None;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            tick();
            match self.waiting {
                Some(_) if heard != self.heard => self.waiting = Some(now),
                Some(since) if now.duration_since(since) >= self.timeout => return Poll::Ready(()),
                Some(_) => {}
                // It fails only while the connection ends, which its own poll reports.
                None => {
                    self.waiting = self.pings.send_ping(Ping::opaque()).is_ok().then_some(now);
                    // Registers for the answer.
                    if self.waiting.is_some() && self.pings.poll_pong(cx).is_ready() {
                        self.waiting = None;
                    }
                }
            }
            self.heard = heard;
            self.timer.as_mut().reset(now + self.every);
        }
        Poll::Pending
    }
}
