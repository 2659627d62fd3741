//! The mesh as the controller tells it, and as the API server does while the controller is silent.
//!
//! The controller comes first: it reads the API server once for all nodes, and tells differences. But pods go on to come and go
//! without it, and calls to what is gone would fail for as long as it is away. Whoever takes over tells the mesh whole, and only
//! what differs from the mesh as it stands is handed on, so nothing of a source that lost touch outlives it. A process that starts while
//! nobody tells begins with the moment that its node kept, as one that runs would go on with the moment that it has.

use std::future::pending;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use aquifer_discovery::client::Event;
use aquifer_model::{Update, difference};
use aquifer_source::{Batch, Problem, Severity};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tracing::info;

use super::Told;
use crate::cache::{Moment, utc};

/// The API server is read once the controller was silent for so long, and up to as long again, so that the nodes of a large cluster do
/// not come at once. A controller that is replaced, or moves, is back within this.
const SILENCE: Duration = Duration::from_secs(2);

/// Waits for as long as a controller may be silent.
pub(super) fn silence() -> Sleep {
    sleep(SILENCE.mul_f64(1.0 + fastrand::f64()))
}

/// Somebody who tells, for as long as this is held.
pub(super) struct Voice<T> {
    said: mpsc::Receiver<T>,
    _task: JoinSet<()>,
}

impl<T> Voice<T> {
    /// Has `tell` run on a task of its own. Needs a runtime.
    pub(super) fn of<F: Future<Output = ()> + Send + 'static>(
        tell: impl FnOnce(mpsc::Sender<T>) -> F,
    ) -> Self {
        let (says, said) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(tell(says));
        Self { said, _task: task }
    }
}

/// Follows a controller, and stands in for it.
pub(super) struct Controlled<C, S, P, F> {
    controller: C,
    server: S,
    patience: P,
    told: mpsc::Sender<Told>,
    heard: Voice<Event>,
    /// What the controller tells next is the mesh whole.
    whole: bool,
    /// Why the controller tells nothing.
    trouble: Option<String>,
    /// Ends when the controller was silent for too long; `None` while it tells, or is stood in for.
    silent: Option<Pin<Box<F>>>,
    standing_in: Option<StandIn>,
    /// Whoever has the moment that this node kept, until somebody tells the mesh.
    kept: Option<Voice<Moment>>,
    /// The mesh is that moment, and of then.
    of_cache: Option<SystemTime>,
    /// Somebody told the mesh whole.
    synced: bool,
}

/// The API server in the controller's place.
struct StandIn {
    heard: Voice<Batch>,
    /// Its problems, once it told the mesh whole.
    problems: Option<Vec<Problem>>,
}

/// Nobody listens any more.
struct Deaf;

impl<C, S, P, F> Controlled<C, S, P, F>
where
    C: Fn() -> Voice<Event>,
    S: Fn() -> Voice<Batch>,
    P: Fn() -> F,
    F: Future<Output = ()>,
{
    /// `controller` and `server` begin to listen to each; `patience` ends when a silent controller is taken to be away; `kept` speaks when
    /// it is time to do without both; the mesh goes to `told`.
    pub(super) fn new(
        controller: C,
        server: S,
        patience: P,
        kept: Voice<Moment>,
        told: mpsc::Sender<Told>,
    ) -> Self {
        Self {
            heard: controller(),
            controller,
            server,
            told,
            whole: false,
            trouble: None,
            silent: Some(Box::pin(patience())),
            patience,
            standing_in: None,
            kept: Some(kept),
            of_cache: None,
            synced: false,
        }
    }

    /// Follows until nobody listens.
    pub(super) async fn follow(mut self) {
        while self.step().await.is_ok() {}
    }

    async fn step(&mut self) -> Result<(), Deaf> {
        let stand_in = async {
            match &mut self.standing_in {
                Some(stand_in) => stand_in.heard.said.recv().await,
                None => pending().await,
            }
        };
        let silent = async {
            match &mut self.silent {
                Some(silent) => silent.await,
                None => pending().await,
            }
        };
        let kept = async {
            match &mut self.kept {
                Some(kept) => kept.said.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            moment = kept => self.begin_with(moment).await,
            event = self.heard.said.recv() => self.controller_says(event.ok_or(Deaf)?).await,
            batch = stand_in => match batch {
                Some(batch) => self.server_says(batch).await,
                // It said why.
                None => {
                    self.standing_in = None;
                    Ok(())
                }
            },
            () = silent => {
                self.stand_in();
                Ok(())
            }
            () = self.told.closed() => Err(Deaf),
        }
    }

    async fn controller_says(&mut self, event: Event) -> Result<(), Deaf> {
        match event {
            Event::Have(answer) => {
                // The mesh changes until the answer comes, if somebody stands in: so it has to be told whole.
                self.whole = self.standing_in.is_some();
                match self.whole {
                    true => _ = answer.send(Vec::new()),
                    false => self.tell(Told::Have(answer)).await?,
                }
                Ok(())
            }
            Event::Batch(updates) => {
                self.trouble = None;
                self.silent = None;
                self.standing_in = None;
                self.told_truly();
                let updates = match std::mem::take(&mut self.whole) {
                    true => self.instead(updates).await?,
                    false => updates,
                };
                self.synced = true;
                self.hand_on(updates).await
            }
            Event::Trouble(why) => {
                if self.standing_in.is_none() {
                    self.silent.get_or_insert_with(|| Box::pin((self.patience)()));
                }
                self.trouble = Some(why);
                self.hand_on(Vec::new()).await
            }
        }
    }

    async fn server_says(&mut self, batch: Batch) -> Result<(), Deaf> {
        let Batch { updates, problems, .. } = batch;
        let first = match &mut self.standing_in {
            Some(stand_in) => stand_in.problems.replace(problems).is_none(),
            None => return Ok(()),
        };
        let updates = if first { self.instead(updates).await? } else { updates };
        if first {
            info!(changes = updates.len(), "the controller is silent; this node reads the API server itself");
        }
        self.told_truly();
        self.synced = true;
        self.hand_on(updates).await
    }

    /// Nobody told the mesh yet: it is what this node kept, if it kept any.
    async fn begin_with(&mut self, moment: Option<Moment>) -> Result<(), Deaf> {
        self.kept = None;
        let Some(Moment { at, updates }) = moment else { return Ok(()) };
        info!(
            of = utc(at),
            things = updates.len(),
            "nobody tells the mesh; until somebody does, it is as this node kept it"
        );
        // What the controller was asked before, it was asked as of an empty mesh.
        self.whole = true;
        (self.of_cache, self.synced) = (Some(at), true);
        self.hand_on(updates).await
    }

    /// What this node kept is of no more use.
    fn told_truly(&mut self) {
        self.kept = None;
        if let Some(at) = self.of_cache.take() {
            info!(of = utc(at), "the mesh is told again; it is no more as this node kept it");
        }
    }

    /// Begins to read the API server. What the controller was asked before, it was asked as of a mesh that will be another; so it is
    /// asked anew.
    fn stand_in(&mut self) {
        self.silent = None;
        self.standing_in = Some(StandIn { heard: (self.server)(), problems: None });
        self.heard = (self.controller)();
    }

    /// What changes if the mesh is `whole` from now on.
    async fn instead(&self, whole: Vec<Update>) -> Result<Vec<Update>, Deaf> {
        let (answer, answered) = oneshot::channel();
        self.tell(Told::Have(answer)).await?;
        Ok(difference(answered.await.map_err(|_| Deaf)?, whole))
    }

    async fn hand_on(&self, updates: Vec<Update>) -> Result<(), Deaf> {
        let batch = Batch { updates, synced: self.synced, problems: self.problems(), ..Batch::default() };
        self.tell(Told::Batch { batch, of_cache: self.of_cache }).await
    }

    async fn tell(&self, told: Told) -> Result<(), Deaf> {
        self.told.send(told).await.map_err(|_| Deaf)
    }

    /// That the controller is away is a problem of the source.
    fn problems(&self) -> Vec<Problem> {
        let why = match (self.trouble.as_deref(), self.of_cache) {
            (Some(why), _) => why,
            (None, Some(_)) => "it says nothing",
            (None, None) => return Vec::new(),
        };
        let read = self.standing_in.as_ref().and_then(|stand_in| stand_in.problems.as_ref());
        let meanwhile = match (read, self.of_cache) {
            (Some(_), _) => "this node reads the API server itself; it has no new certificates".to_owned(),
            (None, Some(at)) => format!("the mesh is as this node kept it at {}", utc(at)),
            (None, None) => "the last state stays in use".to_owned(),
        };
        let away = Problem {
            file: "controller".into(),
            document: None,
            line: None,
            column: None,
            field: None,
            severity: Severity::Error,
            message: format!("{why}; {meanwhile}"),
        };
        std::iter::once(away).chain(read.into_iter().flatten().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
