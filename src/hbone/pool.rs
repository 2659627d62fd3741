//! Tunnels by key.
use crate::*;
use std::future::Future;
use std::hash::Hash;
use std::marker::PhantomData;
/// x
#[derive(Debug)]
pub struct Pool<K, P> {
    _k: PhantomData<(K, P)>,
}
impl<K, P> Clone for Pool<K, P> {
    fn clone(&self) -> Self {
        Self { _k: PhantomData }
    }
}
/// Makes a tunnel for one key. The future owns what it needs, since it outlives any one waiter.
pub trait Dialer<P> {
    /// x
    fn dial(&self) -> impl Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static;
}
impl<P, F, Fut> Dialer<P> for F
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static,
{
    fn dial(&self) -> impl Future<Output = Result<(Tunnel, P), DialError>> + Send + 'static {
        self()
    }
}
/// How a stream came to be.
#[derive(Clone, Debug)]
pub struct Opened<P> {
    /** An existing tunnel carried it. */
    pub reused: bool,
    /** What the dialer said of the peer. */
    pub peer: P,
}
/// Bounds.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /** Tunnels per key. */
    pub tunnels: usize,
    /** Keys. */
    pub keys: usize,
}
/// One key, for reports.
#[derive(Clone, Debug)]
pub struct KeyReport<K> {
    /** x */
    pub key: K,
    /** x */
    pub tunnels: Vec<usize>,
    /** x */
    pub dialing: bool,
}
impl<K: Eq + Hash + Clone + Send + Sync + 'static, P: Clone + Send + Sync + 'static> Pool<K, P> {
    /// x
    pub fn new(_config: PoolConfig) -> Self {
        todo!()
    }
    /// x
    pub async fn open(
        &self,
        _key: &K,
        _dialer: &(impl Dialer<P> + Sync),
        _request: &ConnectRequest,
    ) -> Result<(Stream, Reply, Opened<P>), OpenError> {
        todo!()
    }
    /// Retires.
    pub fn evict(&self, _which: impl FnMut(&K, &P) -> bool) -> usize {
        todo!()
    }
    /// Cuts.
    pub fn cut(&self, _which: impl FnMut(&K, &P) -> bool) -> usize {
        todo!()
    }
    /// x
    pub fn report(&self) -> Vec<KeyReport<K>> {
        todo!()
    }
}
