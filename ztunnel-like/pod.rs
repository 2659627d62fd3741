//! An enrolled pod as the data plane sees it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aquifer_model::{PodUid, Workload};
use aquifer_pki::Held;
use aquifer_sys::NetNs;
use arc_swap::ArcSwap;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tokio::time::timeout;

/// An enrolled pod: shared by the tasks that carry its connections, on whichever core they run.
pub(crate) struct Pod {
    pub(crate) uid: PodUid,
    pub(crate) netns: NetNs,
    workload: ArcSwap<Workload>,
    certificate: ArcSwap<Held>,
    pub(crate) plaintext_clients: ClientPorts,
    leaving: AtomicBool,
    doors: watch::Sender<Doors>,
    listening: watch::Sender<usize>,
    /// Shared by connects to the application that are under way; alone while the rules change.
    connects: RwLock<()>,
}

/// How long a change of the rules waits for connects under way: within a pod they take microseconds, unless the
/// application's queue is full.
const SETTLE: Duration = Duration::from_secs(1);

/// What a pod's listeners and tunnels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doors {
    /// Take what comes.
    Open,
    /// The pod terminates: tunnels are told to go away, so that peers stop reusing them; new ones are still served.
    Retiring,
    /// Listeners are closed, tunnels take no stream; streams that are carried go on.
    Closed,
}

impl Pod {
    pub(crate) fn new(netns: NetNs, workload: Arc<Workload>, certificate: Held) -> Self {
        Self {
            uid: workload.uid().clone(),
            netns,
            workload: ArcSwap::new(workload),
            certificate: ArcSwap::from_pointee(certificate),
            plaintext_clients: ClientPorts::default(),
            leaving: AtomicBool::new(false),
            doors: watch::Sender::new(Doors::Open),
            listening: watch::Sender::new(0),
            connects: RwLock::new(()),
        }
    }

    /// The pod as the newest snapshot describes it.
    pub(crate) fn workload(&self) -> Arc<Workload> {
        self.workload.load_full()
    }

    pub(crate) fn describe(&self, workload: Arc<Workload>) {
        self.workload.store(workload);
    }

    /// The certificate of its identity.
    pub(crate) fn certificate(&self) -> Arc<Held> {
        self.certificate.load_full()
    }

    pub(crate) fn certify(&self, certificate: Held) {
        self.certificate.store(Arc::new(certificate));
    }

    /// No new connection is taken for it any more; those that are carried go on.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.doors.send_replace(Doors::Closed);
    }

    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The pod terminates.
    pub(crate) fn retire(&self) {
        self.doors.send_if_modified(|doors| {
            let open = *doors == Doors::Open;
            if open {
                *doors = Doors::Retiring;
            }
            open
        });
    }

    /// Follows what its listeners and tunnels have to do.
    pub(crate) fn doors(&self) -> watch::Receiver<Doors> {
        self.doors.subscribe()
    }

    /// To be held while a connect to the application is under way. Waits while the rules change.
    pub(crate) async fn connecting(&self) -> RwLockReadGuard<'_, ()> {
        self.connects.read().await
    }

    /// To be held while the rules go from capture to none or back: they find what is ours by listing sockets, and a
    /// connect just then would be neither listed nor noted by them, so that the application's answers would miss us.
    /// `None` where an application keeps a connect waiting for longer than [`SETTLE`].
    pub(crate) async fn settled(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        timeout(SETTLE, self.connects.write()).await.ok()
    }

    /// A listener is open until the guard is dropped.
    pub(crate) fn listening(self: &Arc<Self>) -> Listening {
        self.listening.send_modify(|tasks| *tasks += 1);
        Listening(self.clone())
    }

    /// Waits until no listener is open.
    pub(crate) async fn closed(&self) {
        // The sender is ours, so waiting cannot fail.
        self.listening.subscribe().wait_for(|tasks| *tasks == 0).await.ok();
    }
}

/// One open listener of a pod.
pub(crate) struct Listening(Arc<Pod>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listening.send_modify(|tasks| *tasks -= 1);
    }
}

/// Ports of clients whose captured plaintext connections to the pod are carried now.
///
/// A connect to the pod's application with such a client's address as source must not use one of these ports: the
/// kernel would find the captured connection under the same four addresses, and the connect would hang.
/// Bounded by the number of connections.
#[derive(Debug, Default)]
pub(crate) struct ClientPorts(Mutex<HashMap<IpAddr, HashMap<u16, u32>>>);

impl ClientPorts {
    /// Notes a client for as long as the guard lives.
    pub(crate) fn hold(&self, client: SocketAddr) -> HeldPort<'_> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held.entry(client.ip()).or_default().entry(client.port()).or_default() += 1;
        HeldPort { ports: self, client }
    }

    /// Whether the client holds a captured connection from this port.
    pub(crate) fn holds(&self, client: IpAddr, port: u16) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&client).is_some_and(|ports| ports.contains_key(&port))
    }
}

/// A client's port, held until dropped.
#[derive(Debug)]
pub(crate) struct HeldPort<'a> {
    ports: &'a ClientPorts,
    client: SocketAddr,
}

impl Drop for HeldPort<'_> {
    fn drop(&mut self) {
        let mut held = self.ports.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ports) = held.get_mut(&self.client.ip()) else { return };
        if let Some(count) = ports.get_mut(&self.client.port()) {
            *count -= 1;
            if *count == 0 {
                ports.remove(&self.client.port());
            }
        }
        if ports.is_empty() {
            held.remove(&self.client.ip());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_port_is_held_until_its_last_connection_ends() {
        let ports = ClientPorts::default();
        let client: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let first = ports.hold(client);
        let second = ports.hold(client);
        drop(first);
        assert!(ports.holds(client.ip(), 4000));
        assert!(!ports.holds(client.ip(), 4001));
        drop(second);
        assert!(!ports.holds(client.ip(), 4000));
        assert!(ports.0.lock().unwrap().is_empty());
    }
}
