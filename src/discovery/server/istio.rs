//! Istio's types of resources, which are there while somebody listens to them.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aquifer_model::{Snapshot, Update};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::feed::{Feed, Moment};
use super::store::{Look, Stores};
use crate::IstioType;
use crate::istio::{Resource, View};

/// The mesh as it is, and while anybody listens, what it is in Istio's types.
#[derive(Debug, Default)]
pub(super) struct Istio {
    state: RwLock<State>,
    moment: watch::Sender<Moment>,
}

#[derive(Debug, Default)]
struct State {
    mesh: Option<Arc<Snapshot>>,
    /// How many listen.
    listeners: usize,
    book: Option<Book>,
}

/// The resources of now, encoded once for all who listen.
#[derive(Debug)]
pub(super) struct Book {
    view: View,
    stores: Stores,
}

impl Istio {
    pub(super) fn show(&self, updates: &[Update], mesh: Arc<Snapshot>, synced: bool) {
        let mut state = self.write();
        if let Some(book) = &mut state.book {
            let changed = book.view.apply(updates, mesh.clone());
            book.put(changed);
        }
        state.mesh = Some(mesh);
        let revision = state.book.as_ref().map_or(0, |book| book.stores.revision());
        drop(state);
        Moment::reach(&self.moment, revision, synced);
    }

    pub(super) fn count(&self, of: IstioType) -> Option<usize> {
        self.read().book.as_ref().map(|book| book.stores.count(of.index()))
    }

    /// Listens, once the whole mesh is known. Who is the first waits until it is encoded.
    pub(super) async fn listen(feed: Arc<Feed>) -> Option<Listening> {
        let mut moments = feed.istio().moment.subscribe();
        moments.wait_for(|moment| moment.synced).await.ok()?;
        // Of a large mesh it takes a while, in which the node's own streams go on.
        spawn_blocking(move || feed.istio().join().then(|| Listening { feed, moments })).await.ok()?
    }

    fn join(&self) -> bool {
        let mut state = self.write();
        let Some(mesh) = state.mesh.clone() else { return false };
        state.book.get_or_insert_with(|| Book::new(mesh));
        state.listeners += 1;
        true
    }

    fn leave(&self) {
        let mut state = self.write();
        state.listeners -= 1;
        if state.listeners == 0 {
            state.book = None;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    pub(super) fn new(mesh: Arc<Snapshot>) -> Self {
        let (view, resources) = View::new(mesh);
        let mut book = Self { view, stores: Stores::new(IstioType::ALL.len()) };
        book.put(resources);
        book
    }

    fn put(&mut self, resources: Vec<Resource>) {
        for Resource { of, name, value } in resources {
            self.stores.put(of.index(), name, value);
        }
    }

    pub(super) fn look(&self) -> Look<'_> {
        Look::of(&self.stores)
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// The resources that are meant by a name, as far as they are there.
    pub(super) fn find(&self, of: IstioType, name: &str) -> Vec<Arc<str>> {
        let mut found = self.view.find(of, name);
        found.retain(|name| self.look().named(of.index(), name).here.is_some());
        found
    }
}

/// Somebody who listens, until it is dropped.
pub(super) struct Listening {
    feed: Arc<Feed>,
    moments: watch::Receiver<Moment>,
}

impl Listening {
    /// Waits for something new. `None`, to whoever does not listen, is never followed by anything.
    pub(super) async fn news(listening: &mut Option<Self>) {
        match listening {
            // The sender is held by this itself.
            Some(listening) => _ = listening.moments.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Looks at both types in one moment.
    pub(super) fn look<T>(&mut self, look: impl FnOnce(&Book) -> T) -> Option<T> {
        self.moments.mark_unchanged();
        self.feed.istio().read().book.as_ref().map(look)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.feed.istio().leave();
    }
}
