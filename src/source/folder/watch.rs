//! Follows a folder: waits until it is quiet after a change, takes up what changed, and sends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_model::Update;
use tokio::sync::mpsc;
use tokio::time;

use super::inotify::Ears;
use super::state::Folder;
use super::walk::{self, Listing};
use crate::problem::say;
use crate::{Batch, Problem, SourceError, TranslateConfig};

/// A folder is read after so long without a change: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// A folder that is never quiet is read all the same.
const LONGEST_UNREST: Duration = Duration::from_secs(2);

/// How often the folder is looked at although nothing was heard: file systems of other machines tell nothing.
const LOOK: Duration = Duration::from_secs(10);

/// The same where the kernel cannot tell of changes at all, or the folder is away.
const LOOK_DEAF: Duration = Duration::from_secs(1);

/// Looking takes at most this part of the time, however large the folder is.
const LOOK_SHARE: u32 = 20;

/// Rounds of walking and listening until no new folder turns up. More turn up only while somebody is making them, and
/// then there will be a change to hear of.
const ROUNDS: usize = 4;

/// Follows a folder and sends what changes, until the receiver is gone. The first batch comes once everything was
/// read; an error where that is not possible. After that nothing is an error: what cannot be read any more is a
/// [`Problem`], and the last state stays.
///
/// Must run in a tokio runtime with IO and time; reading happens on its blocking threads.
pub async fn watch(
    dir: PathBuf,
    config: TranslateConfig,
    batches: mpsc::Sender<Batch>,
) -> Result<(), SourceError> {
    let ears = match Ears::new() {
        Ok(ears) => Some(Arc::new(ears)),
        Err(error) => {
            tracing::warn!(%error, "inotify is not to be had; the folder is looked at once a second instead");
            None
        }
    };
    let mut watcher = Watcher { folder: Folder::new(dir, config), ears, deaf: false, said: Vec::new() };
    let (back, started) = blocking(watcher, Watcher::start).await;
    watcher = back;
    let mut round = started?;
    loop {
        if let Some(batch) = round.batch.take()
            && batches.send(batch).await.is_err()
        {
            return Ok(());
        }
        let look = tokio::select! {
            biased;
            () = batches.closed() => return Ok(()),
            () = settled(watcher.ears.as_deref()) => true,
            () = time::sleep_until(round.next.into()) => false,
        };
        (watcher, round) = blocking(watcher, move |watcher| watcher.look(look)).await;
    }
}

/// Runs something on a blocking thread and gives back what it worked on.
async fn blocking<T: Send + 'static>(
    mut watcher: Watcher,
    work: impl FnOnce(&mut Watcher) -> T + Send + 'static,
) -> (Watcher, T) {
    let task = tokio::task::spawn_blocking(move || {
        let done = work(&mut watcher);
        (watcher, done)
    });
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and will not poll this again.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Waits for a change, and then for quiet.
async fn settled(ears: Option<&Ears>) {
    let Some(ears) = ears else { return std::future::pending().await };
    ears.stirred().await;
    let unrest = async { while time::timeout(QUIET, ears.stirred()).await.is_ok() {} };
    _ = time::timeout(LONGEST_UNREST, unrest).await;
}

struct Watcher {
    folder: Folder,
    ears: Option<Arc<Ears>>,
    /// Not everything can be heard.
    deaf: bool,
    /// The problems of the batch before.
    said: Vec<Problem>,
}

/// One look at the folder.
struct Round {
    batch: Option<Batch>,
    next: Instant,
}

impl Watcher {
    fn start(&mut self) -> Result<Round, SourceError> {
        let began = Instant::now();
        let listing = self.survey()?;
        let refreshed = self.folder.start(&listing, Instant::now())?;
        self.said = self.folder.problems();
        say(&[], &self.said);
        let batch = self.batch(refreshed.updates);
        tracing::info!(dir = %self.folder.dir().display(), files = listing.files.len(), objects = batch.counts.0.values().sum::<usize>(), "folder read");
        Ok(Round { batch: Some(batch), next: self.next(began, refreshed.again) })
    }

    /// `settled`: the folder has been quiet since the last change that was heard. Otherwise a change that is found is
    /// given the time to end.
    fn look(&mut self, settled: bool) -> Round {
        let began = Instant::now();
        let listing = match self.survey() {
            Ok(listing) => listing,
            Err(error) => {
                self.folder.unreachable(&error);
                self.deaf = true;
                return self.round(Vec::new(), began, None);
            }
        };
        let listing =
            if settled || !self.folder.differs(&listing) { listing } else { self.quiet(listing, began) };
        let refreshed = self.folder.refresh(&listing, Instant::now());
        self.round(refreshed.updates, began, refreshed.again)
    }

    /// Looks until two looks are the same.
    fn quiet(&mut self, mut listing: Listing, began: Instant) -> Listing {
        while began.elapsed() < LONGEST_UNREST {
            std::thread::sleep(QUIET);
            match self.survey() {
                Ok(other) if other != listing => listing = other,
                _ => break,
            }
        }
        listing
    }

    /// Walks the folder, and listens to each folder in it before what is in there counts as seen.
    fn survey(&mut self) -> Result<Listing, SourceError> {
        let mut listing = walk::walk(self.folder.dir())?;
        self.deaf = self.ears.is_none();
        let Some(ears) = &self.ears else { return Ok(listing) };
        for _ in 0..ROUNDS {
            let followed = ears.follow(&listing.dirs);
            self.deaf = followed.deaf;
            if !followed.added {
                break;
            }
            listing = walk::walk(self.folder.dir())?;
        }
        Ok(listing)
    }

    fn round(&mut self, updates: Vec<Update>, began: Instant, again: Option<Instant>) -> Round {
        let problems = self.folder.problems();
        let changed = !updates.is_empty() || problems != self.said;
        say(&self.said, &problems);
        self.said = problems;
        Round { batch: changed.then(|| self.batch(updates)), next: self.next(began, again) }
    }

    fn batch(&self, updates: Vec<Update>) -> Batch {
        Batch {
            updates,
            synced: true,
            problems: self.said.clone(),
            counts: self.folder.counts(),
            ..Batch::default()
        }
    }

    fn next(&self, began: Instant, again: Option<Instant>) -> Instant {
        let now = Instant::now();
        let pause = if self.deaf { LOOK_DEAF } else { LOOK }.max(now.duration_since(began) * LOOK_SHARE);
        again.map_or(now + pause, |again| again.min(now + pause))
    }
}

#[cfg(test)]
mod tests;
