//! `aquifer demo`: the mesh at work on one machine in under a minute, told by its own records; nothing is left behind.

mod app;
mod calls;
mod clean;
mod faults;
mod policy;
mod stage;
mod story;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use app::run as run_application;

use crate::cli::DemoFlags;

/// First part of the names of all namespaces and folders of a demo; the process id follows.
const PREFIX: &str = "aquifer-demo-";

/// How long the story may take to end in order after a signal, before everything is taken away under its feet.
const PATIENCE: Duration = Duration::from_secs(3);

/// Set by a signal; the story looks at it wherever it waits.
#[derive(Clone, Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// An error once the demo was interrupted.
    fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Acquire) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Plays the demo, or takes away what a kept one left.
pub(crate) fn run(flags: &DemoFlags) -> anyhow::Result<ExitCode> {
    if flags.clean {
        return clean::everything().map(|()| ExitCode::SUCCESS);
    }
    let missing = aquifer_sys::process::missing();
    if !missing.is_empty() {
        bail!("the demo cannot run here:\n  - {}", missing.join("\n  - "));
    }
    clean::leftovers()?;
    let keep = flags.keep;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(attend(keep))
}

/// Plays the story in a thread of its own until its end, or until a signal, which ends it.
async fn attend(keep: bool) -> anyhow::Result<ExitCode> {
    // Before anything is made, so that no signal ends this process in the middle.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = Stop::default();
    let (done, mut story) = oneshot::channel();
    let playing = stop.clone();
    std::thread::Builder::new().name("story".into()).spawn(move || {
        // Nobody listens any more where the demo was interrupted.
        let _ = done.send(story::play(&playing, keep));
    })?;
    let name = tokio::select! {
        played = &mut story => {
            return match played.context("the demo broke off")?? {
                true => Ok(ExitCode::SUCCESS),
                false => Ok(ExitCode::FAILURE),
            };
        }
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    stop.0.store(true, Ordering::Release);
    eprintln!("\n{name}: taking everything away");
    tokio::select! {
        _ = timeout(PATIENCE, story) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    clean::own()?;
    // As shells report a process that a signal ended.
    Ok(ExitCode::from(if name == "SIGINT" { 130 } else { 143 }))
}
