//! The task of a request, for as long as its answer or stream goes on.
//!
//! Invariant: a task takes the least that the runtime gives one, 128 bytes: so it has room for [`Task`], of 24 bytes at
//! most, and what only some need is boxed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Sleep, sleep};

use super::answer::Taken;
use super::stream::{Pipe, When};
use super::{LAST_WITHIN, Traffic};

/// Time between a stream's last bytes and its reset: browsers drop what they have not read when a reset comes (seen in
/// Chromium), and with it the time to come back after.
const RESET_AFTER: Duration = Duration::from_millis(100);

/// What a request has become.
#[derive(Debug)]
pub(super) enum Became {
    Stream(Rc<Pipe>),
    Answer(Rc<Taken>),
}

/// Runs the tasks of requests on the shard's thread.
#[derive(Clone)]
pub(super) struct Tasks(pub(super) Rc<Traffic>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let traffic = self.0.clone();
        traffic.open.set(traffic.open.get() + 1);
        tokio::task::spawn_local(Task {
            future: Box::pin(future),
            state: State::Asked(traffic),
        });
    }
}

/// One request, or what it has become.
struct Task<F> {
    future: Pin<Box<F>>,
    state: State,
}

enum State {
    /// There is no answer yet.
    Asked(Rc<Traffic>),
    Stream(Rc<Pipe>),
    /// A stream that ends, or an answer.
    Ending(Box<Ending>),
}

/// Until the reset, if nothing changes.
struct Ending {
    became: Became,
    traffic: Rc<Traffic>,
    /// Of a stream, why it waits.
    why: Option<When>,
    /// Slices of the answer that were taken before the pause began.
    taken: u64,
    pause: Option<Pin<Box<Sleep>>>,
}

impl State {
    fn traffic(&self) -> Rc<Traffic> {
        match self {
            Self::Asked(traffic) => traffic.clone(),
            Self::Stream(pipe) => pipe.traffic(),
            Self::Ending(ending) => ending.traffic.clone(),
        }
    }

    fn new(became: Became, traffic: Rc<Traffic>) -> Self {
        match became {
            Became::Stream(pipe) => Self::Stream(pipe),
            Became::Answer(_) => Self::ending(became, traffic),
        }
    }

    fn ending(became: Became, traffic: Rc<Traffic>) -> Self {
        Self::Ending(Box::new(Ending {
            became,
            traffic,
            why: None,
            taken: 0,
            pause: None,
        }))
    }

    /// Frames that it has brought since the last time, or a little more.
    fn count_frames(&self) -> usize {
        match self {
            Self::Asked(_) => 0,
            Self::Stream(pipe) => pipe.count_taken(),
            Self::Ending(ending) => match &ending.became {
                Became::Stream(pipe) => pipe.count_taken(),
                Became::Answer(_) => 1,
            },
        }
    }
}

impl Ending {
    /// Ready when the request's future has to go.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (why, taken, time) = match &self.became {
            Became::Stream(pipe) => match pipe.ends() {
                None => return Poll::Pending,
                Some(When::Now) => return Poll::Ready(()),
                Some(When::Soon) => (Some(When::Soon), 0, RESET_AFTER),
                Some(When::Later) => (Some(When::Later), 0, LAST_WITHIN),
            },
            Became::Answer(taken) => (None, taken.get(), self.traffic.answer_timeout),
        };
        if (self.why, self.taken) != (why, taken) {
            (self.why, self.taken, self.pause) = (why, taken, None);
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(time)));
        pause.as_mut().poll(cx)
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let traffic = this.state.traffic();
        if !traffic.turns.is_mine(cx) {
            return Poll::Pending;
        }
        let is_new = matches!(this.state, State::Asked(_));
        if is_new {
            traffic.task.replace(Some(cx.waker().clone()));
        }
        let polled = this.future.as_mut().poll(cx);
        if is_new && let Some(became) = traffic.fresh.take() {
            traffic.turns.count(1);
            this.state = State::new(became, traffic.clone());
        }
        traffic.turns.count(this.state.count_frames());
        if polled.is_ready() {
            return polled;
        }
        if let State::Stream(pipe) = &this.state
            && pipe.ends().is_some()
        {
            this.state = State::ending(Became::Stream(pipe.clone()), traffic);
        }
        // Without the future there is no stream: hyper resets it.
        match &mut this.state {
            State::Ending(ending) => ending.poll(cx),
            State::Asked(_) | State::Stream(_) => Poll::Pending,
        }
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        let traffic = self.state.traffic();
        traffic.open.set(traffic.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a word more the runtime's task takes 256 bytes instead of 128: its head, its links and its state leave room for
    /// no more.
    #[test]
    fn a_task_is_small() {
        assert!(size_of::<Task<()>>() <= 24);
    }
}
