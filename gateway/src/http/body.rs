//! Bodies of ordinary answers. Event streams have none: their sockets leave HTTP.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What follows a response head.
#[derive(Debug)]
pub enum Answer {
    /// All of it; empty once sent.
    Whole(Bytes),
    /// The answer to `HEAD` of a stream: the length is unknown, and nothing follows.
    NoLength,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(match &mut *self {
            Self::Whole(bytes) if !bytes.is_empty() => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Self::Whole(_) | Self::NoLength => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::NoLength => SizeHint::default(),
        }
    }
}
