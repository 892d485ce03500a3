//! Bodies of ordinary answers, and what is left of requests' ones. Event streams have none: their sockets leave HTTP.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::timeout;

/// How much of a request's body is read for its client's sake, and for how long.
const SKIPPED: (usize, Duration) = (1024 * 1024, Duration::from_secs(2));

/// Reads what is left of a request's body, if it is not too much. Over HTTP/2 an answer before the body's end takes the stream
/// back (`RST_STREAM`), and clients that still send, such as curl 7.88, say that instead of the answer.
pub(super) async fn skip<B>(mut body: Pin<&mut B>)
where
    B: Body<Data = Bytes>,
{
    if body.is_end_stream() || body.size_hint().lower() > SKIPPED.0 as u64 {
        return;
    }
    let skipping = async {
        let mut left = SKIPPED.0;
        while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(less) = left.checked_sub(length) else {
                break;
            };
            left = less;
        }
    };
    // Who takes longer gets the answer all the same.
    let _ = timeout(SKIPPED.1, skipping).await;
}

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
