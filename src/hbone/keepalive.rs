//! PING on a tunnel, and the verdict that the peer is dead.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::config::Config;
use crate::link::Core;

#[derive(Debug)]
pub(crate) struct Keepalive {
    every: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the PING under way was sent, or the peer was last heard after it.
    waiting: Option<Instant>,
    heard: u64,
}

impl Keepalive {
    pub(crate) fn new(config: &Config) -> Self {
        let Config { ping: every, ping_timeout: timeout, .. } = *config;
        Self { every, timeout, timer: Box::pin(sleep(every)), waiting: None, heard: 0 }
    }

    /// Ready once the peer is dead. Any byte that it sent is an answer, since a PONG may stand in line behind a long transfer.
    /// `tick` runs at each beat.
    pub(crate) fn poll_dead(
        &mut self,
        cx: &mut Context<'_>,
        core: &mut Core,
        mut tick: impl FnMut(),
    ) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, heard) = (Instant::now(), core.read_total());
            tick();
            core.mux.rest();
            if !core.mux.ping_unanswered() {
                self.waiting = None;
            }
            match self.waiting {
                Some(_) if heard != self.heard => self.waiting = Some(now),
                Some(since) if now.duration_since(since) >= self.timeout => return Poll::Ready(()),
                Some(_) => {}
                None => {
                    let core = &mut *core;
                    core.mux.send_ping(&mut core.out);
                    core.wake_driver();
                    self.waiting = Some(now);
                }
            }
            self.heard = heard;
            self.timer.as_mut().reset(now + self.every);
        }
        Poll::Pending
    }
}
