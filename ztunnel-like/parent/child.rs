//! A worker process as its parent sees it.

use std::os::fd::BorrowedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use aquifer_sys::fdpass::{self, AsyncChannel};
use tokio::process::{Child, Command};
use tracing::warn;

use super::WorkerCommand;
use crate::protocol::{ToWorker, encode};

/// How long a worker that closed its channel may take to write its last lines.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A worker, which is killed when this is dropped.
pub(super) struct Worker {
    pub(super) child: Child,
    pub(super) channel: AsyncChannel,
    pub(super) started: Instant,
}

impl Worker {
    /// Starts the process. Nothing is said to it yet.
    pub(super) fn spawn(command: &WorkerCommand) -> anyhow::Result<Self> {
        let (ours, theirs) = fdpass::pair().context("socket pair to the worker")?;
        let child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(std::process::Stdio::from(theirs.into_fd()))
            .kill_on_drop(true)
            // A Ctrl-C in the terminal is the parent's to hear: it drains the worker.
            .process_group(0)
            .spawn()
            .with_context(|| format!("worker {}", command.program.display()))?;
        Ok(Self { child, channel: AsyncChannel::new(ours)?, started: Instant::now() })
    }

    /// Waits for a worker that closed its channel; one that does not end by itself is killed, since its pods wait.
    pub(super) async fn end(&mut self) -> std::io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(LAST_WORDS, self.child.wait()).await {
            return status;
        }
        warn!("the worker gave its channel up and goes on: killed");
        self.child.kill().await?;
        self.child.wait().await
    }

    /// Says something; a worker that is gone is noticed by the reading side.
    pub(super) async fn say(&self, message: &ToWorker, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send(&encode(message), descriptors).await {
            warn!(%error, "the worker does not hear");
        }
    }
}
