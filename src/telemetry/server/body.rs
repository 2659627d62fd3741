//! What an answer consists of: a page that was made, or flow records as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
pub(super) enum Body {
    /// A page; `None` once it was taken.
    Page(Option<Bytes>),
    /// Records from now on, until the reader goes.
    Live(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Page(page) => Poll::Ready(page.take().map(|page| Ok(Frame::data(page)))),
            Self::Live(records) => {
                records.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Page(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => SizeHint::with_exact(
                page.as_ref().map_or(0, |page| u64::try_from(page.len()).unwrap_or(u64::MAX)),
            ),
            Self::Live(_) => SizeHint::default(),
        }
    }
}
