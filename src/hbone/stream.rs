//! One stream of a tunnel: bytes both ways, half-close, reset.
use crate::*;
use bytes::Bytes;
/// x
#[derive(Debug)]
pub struct Stream;
impl Stream {
    /// x
    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> {
        todo!()
    }
    /// x
    pub async fn send(&mut self, _data: Bytes) -> Result<(), StreamError> {
        todo!()
    }
    /// x
    pub fn finish(&mut self) -> Result<(), StreamError> {
        todo!()
    }
    /// x
    pub fn reset(&mut self, _reason: ResetReason) {
        todo!()
    }
}
