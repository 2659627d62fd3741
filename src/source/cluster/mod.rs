//! An API server as a source: read once with [`load`], or followed with [`watch`].
//!
//! Each resource is followed by a task of its own, which tells all that there is and then each change. One store takes it all up, so
//! that a batch is of one moment: nothing is said before every resource was told whole, and a list that begins anew counts
//! when it is complete.

mod follow;
mod json;
mod presence;
mod resource;
mod state;

use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

pub use presence::{Reference, follow_presence};

use crate::{Batch, Objects, Problem, SourceError, Standings, TranslateConfig};
use follow::Follower;
use resource::RESOURCES;
use state::State;

/// What changes in one step of Kubernetes (a rollout touches pods and slices) comes within this; an object is whole in itself, so it is no
/// use to wait longer.
const QUIET: Duration = Duration::from_millis(5);

/// A cluster that is never quiet is told of all the same.
const LONGEST_UNREST: Duration = Duration::from_millis(50);

/// News that wait. A list comes as one.
const QUEUE: usize = 256;

/// Reading once ends after so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follows an API server and sends what changes, until the receiver is gone. The first batch comes once everything was read. After that
/// nothing is an error: while the server is away, the last state stays and a [`Problem`] says so.
///
/// Must run in a tokio runtime with IO and time.
pub async fn watch(
    client: Client,
    config: TranslateConfig,
    batches: mpsc::Sender<Batch>,
) -> Result<(), SourceError> {
    let mut source = Source::start(&client, &config);
    let mut first = true;
    let mut until: Option<(Instant, Instant)> = None;
    loop {
        let commit = until.map(|(quiet, longest)| quiet.min(longest));
        tokio::select! {
            biased;
            () = batches.closed() => return Ok(()),
            () = sleep_until(commit.unwrap_or_else(Instant::now)), if commit.is_some() => {
                until = None;
                let batch = source.state.commit();
                if std::mem::take(&mut first) {
                    tracing::info!(objects = batch.counts.0.values().sum::<usize>(), "cluster read");
                }
                say(&batch.problems, &mut source.said);
                if batches.send(batch).await.is_err() {
                    return Ok(());
                }
            }
            news = source.news.recv() => {
                // The followers hold the other end for as long as this runs.
                let Some((kind, news)) = news else { return Ok(()) };
                source.state.take(kind, news);
                if source.state.has_news() {
                    let now = Instant::now();
                    let longest = until.map_or(now + LONGEST_UNREST, |(_, longest)| longest);
                    until = Some((now + QUIET, longest));
                }
            }
        }
    }
}

/// A client with the rights of this process's own pod.
///
/// # Errors
/// This is no pod, or one without a service account's token.
pub fn own_client() -> Result<Client, SourceError> {
    let config = Config::incluster().map_err(|error| SourceError::Cluster(error.to_string()))?;
    Client::try_from(config).map_err(|error| SourceError::Cluster(error.to_string()))
}

/// Reads an API server once.
///
/// # Errors
/// Not everything could be read within 30 s: a part may hold a policy, and must not be missed.
pub async fn load(client: Client, config: &TranslateConfig) -> Result<Reading, SourceError> {
    let mut source = Source::start(&client, config);
    let mut last = None;
    let all = async {
        while !source.state.is_synced() {
            let Some((kind, news)) = source.news.recv().await else { break };
            if let state::News::Trouble(why) = &news {
                last = Some(format!("{kind} objects: {why}"));
            }
            source.state.take(kind, news);
        }
    };
    if timeout(PATIENCE, all).await.is_err() {
        return Err(SourceError::Cluster(last.unwrap_or_else(|| "it does not answer".to_owned())));
    }
    let problems = source.state.commit().problems;
    let policies = source.state.standings();
    Ok(Reading { objects: source.state.into_objects(), problems, policies })
}

/// A cluster as it was read once.
pub struct Reading {
    /// All that the mesh is made of.
    pub objects: Objects,
    /// What is wrong with it, the worst first.
    pub problems: Vec<Problem>,
    /// What is known of the policies themselves.
    pub policies: Arc<Standings>,
}

/// The followers of all resources, and what they told.
struct Source {
    state: State,
    news: mpsc::Receiver<(crate::object::Kind, state::News)>,
    said: Vec<Problem>,
    /// They end with this.
    _followers: JoinSet<()>,
}

impl Source {
    fn start(client: &Client, config: &TranslateConfig) -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        let mut followers = JoinSet::new();
        for resource in RESOURCES {
            followers.spawn(Follower::new(client.clone(), resource, config.clone(), sender.clone()).run());
        }
        Self { state: State::new(), news, said: Vec::new(), _followers: followers }
    }
}

/// Logs what is new, and what was mended.
fn say(now: &[Problem], said: &mut Vec<Problem>) {
    if now != said.as_slice() {
        crate::problem::say(said, now);
        *said = now.to_vec();
    }
}
