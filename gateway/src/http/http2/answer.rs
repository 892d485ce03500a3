//! An ordinary answer of an HTTP/2 connection, on its way to hyper slice by slice: so it is seen whether the client takes
//! any of it.
//!
//! Invariant: the request's task lives until hyper has written all of it, however small the client's windows are; only of
//! an answer of some hundred bytes a part may wait in hyper.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, SizeHint};

use super::stream::Last;
use crate::http::body::Answer;

/// Bytes of a slice.
const SLICE: usize = 16 * 1024;
/// An answer that is no larger ends with its bytes, without a frame of its own for the end.
const SMALL: usize = 1024;

/// Slices that hyper has taken: it takes one when the one before has begun to go.
#[derive(Debug, Default)]
pub(super) struct Taken(Cell<u64>);

impl Taken {
    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The body.
#[derive(Debug)]
pub(super) struct AnswerBody {
    rest: Bytes,
    /// What its head says of its length.
    length: Option<u64>,
    /// Nothing follows what is left.
    ends_itself: bool,
    /// Whether the last slice has been written, once it has been given.
    last: Option<Arc<AtomicBool>>,
    taken: Rc<Taken>,
}

impl AnswerBody {
    pub(super) fn new(answer: Answer) -> Self {
        let length = answer.size_hint().exact();
        let rest = match answer {
            Answer::Whole(bytes) => bytes,
            Answer::NoLength => Bytes::new(),
        };
        Self {
            ends_itself: length.is_some() && rest.len() <= SMALL,
            rest,
            length,
            last: None,
            taken: Rc::default(),
        }
    }

    pub(super) fn taken(&self) -> Rc<Taken> {
        self.taken.clone()
    }

    /// The next slice. `None` once all of it is written.
    pub(super) fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.rest.is_empty() {
            return match &self.last {
                Some(written) if !written.load(Ordering::Relaxed) => Poll::Pending,
                _ => Poll::Ready(None),
            };
        }
        self.taken.0.set(self.taken.0.get() + 1);
        let slice = self.rest.split_to(self.rest.len().min(SLICE));
        if !self.rest.is_empty() || self.ends_itself {
            return Poll::Ready(Some(slice));
        }
        let (slice, written) = Last::mark(slice, cx.waker().clone());
        self.last = Some(written);
        Poll::Ready(Some(slice))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ends_itself && self.rest.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
