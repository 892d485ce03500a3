//! The task of a request, for as long as its answer or stream goes on.
//!
//! Invariant: a task takes the least that the runtime gives one, 128 bytes: so it has room for [`Task`], of 32 bytes at
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
#[derive(Debug, Clone)]
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
            state: State::Asked,
            traffic,
        });
    }
}

/// One request, or what it has become.
struct Task<F> {
    future: Pin<Box<F>>,
    state: State,
    traffic: Rc<Traffic>,
}

enum State {
    /// There is no answer yet.
    Asked,
    Open(Became),
    Ending(Box<Ending>),
}

/// Until the reset, if nothing changes.
struct Ending {
    became: Became,
    /// Of a stream, why it waits.
    why: Option<When>,
    /// Slices of the answer that were taken before the pause began.
    taken: u64,
    pause: Pin<Box<Sleep>>,
}

impl State {
    fn became(&self) -> Option<&Became> {
        match self {
            Self::Asked => None,
            Self::Open(became) => Some(became),
            Self::Ending(ending) => Some(&ending.became),
        }
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let traffic = &this.traffic;
        if !traffic.turns.is_mine(cx) {
            return Poll::Pending;
        }
        let is_new = matches!(this.state, State::Asked);
        if is_new {
            traffic.task.replace(Some(cx.waker().clone()));
        }
        let polled = this.future.as_mut().poll(cx);
        if is_new && let Some(became) = traffic.fresh.take() {
            traffic.turns.count(1);
            this.state = State::Open(became);
        }
        match this.state.became() {
            Some(Became::Stream(pipe)) => traffic.turns.count(pipe.count_taken()),
            Some(Became::Answer(_)) => traffic.turns.count(1),
            None => {}
        }
        if polled.is_ready() {
            return polled;
        }
        // Without the future there is no stream: hyper resets it.
        let (why, taken, time) = match this.state.became() {
            None => return Poll::Pending,
            Some(Became::Stream(pipe)) => match pipe.ends() {
                None => return Poll::Pending,
                Some(When::Now) => return Poll::Ready(()),
                Some(When::Soon) => (Some(When::Soon), 0, RESET_AFTER),
                Some(When::Later) => (Some(When::Later), 0, LAST_WITHIN),
            },
            Some(Became::Answer(taken)) => (None, taken.get(), traffic.answer_timeout),
        };
        let goes_on = matches!(&this.state, State::Ending(ending) if (ending.why, ending.taken) == (why, taken));
        if !goes_on && let Some(became) = this.state.became().cloned() {
            this.state = State::Ending(Box::new(Ending {
                became,
                why,
                taken,
                pause: Box::pin(sleep(time)),
            }));
        }
        match &mut this.state {
            State::Ending(ending) => ending.pause.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        self.traffic.open.set(self.traffic.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a word more the runtime's task takes 256 bytes instead of 128: its head, its links and its alignment leave
    /// room for no more.
    #[test]
    fn a_task_is_small() {
        assert!(size_of::<Task<()>>() <= 32);
    }
}
