//! The cap on bytes that this process holds for readers that do not read.
use std::sync::Arc;
/// x
#[derive(Debug)]
pub struct Budget {
    _cap: usize,
}
impl Budget {
    /// x
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { _cap: cap })
    }
    /// Bytes held now.
    pub fn used(&self) -> usize {
        todo!()
    }
    /// x
    pub fn cap(&self) -> usize {
        todo!()
    }
    /// Streams that were reset because of the cap, since the start.
    pub fn resets(&self) -> u64 {
        todo!()
    }
}
