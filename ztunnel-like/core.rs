//! One data-plane thread: its runtime, its tunnels, its connections.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use aquifer_hbone::pool::{Pool, PoolConfig};
use aquifer_model::{Identity, PodUid};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::live::Live;
use crate::shared::Shared;
use crate::tunnel;

/// A data-plane thread. Whatever it carries, with tunnel and TLS state, stays on it.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool<TunnelKey, tunnel::Peer>,
    pub(crate) live: Live,
    /// Accepted application connections, from accept to record.
    pub(crate) connections: Load,
    /// Accepted tunnels.
    pub(crate) tunnels: Load,
    pub(crate) runtime: Handle,
}

/// How much of something a core serves: each one served holds a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load(Arc<()>);

impl Load {
    pub(crate) fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Which connections may share a tunnel: same source and destination incarnations, identities and address, and the
/// certificate of today. Anything else is another tunnel, so a reused pod address or a renewed certificate can never
/// find an old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    pub(crate) source: PodUid,
    pub(crate) source_identity: Identity,
    pub(crate) destination: PodUid,
    pub(crate) destination_identity: Identity,
    pub(crate) address: std::net::IpAddr,
    pub(crate) generation: u64,
}

/// The thread of a core, ended by dropping.
#[derive(Debug)]
pub(crate) struct CoreThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Core {
    /// Starts a thread with a runtime of its own.
    pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<(Arc<Self>, CoreThread)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let core = Arc::new(Self {
            shared,
            pool: Pool::new(PoolConfig::default()),
            live: Live::default(),
            connections: Load::default(),
            tunnels: Load::default(),
            runtime: runtime.handle().clone(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            runtime.block_on(stopped).ok();
            // Dropping the runtime drops its tasks, and so resets what is still carried.
        })?;
        Ok((core, CoreThread { stop: Some(stop), thread: Some(thread) }))
    }

    /// Runs a task on this core, counted in `load` from now until it is over.
    ///
    /// The task is made in its own place: one that is moved there would have room twice, for as long as it lives.
    pub(crate) fn serve<F: Future<Output = ()> + Send>(
        &self,
        load: &Load,
        task: impl FnOnce() -> F + Send + 'static,
    ) {
        let load = load.clone();
        self.runtime.spawn(async move {
            task().await;
            drop(load);
        });
    }
}

impl Drop for CoreThread {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
