//! Turns of the streams of one connection: how many frames may wait until the connection's task writes them.
//!
//! h2 keeps the frames that wait in one list for each connection, of some 300 bytes a frame, which grows by doubling and
//! never shrinks. An event of a room is due to all its streams at once: without turns, a connection of a hundred streams
//! would keep room for all of their frames for good, a third of all that a stream costs.
//!
//! Invariant: whoever waits for a turn gets one, or learns that the connection has ended: as long as somebody waits, the
//! connection's task is awake.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// Frames after which others wait. One task may bring a few more: with the head and the first event of a stream, the list
/// stays at sixteen.
const FRAMES: usize = 15;

/// The turns of one connection.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Frames since the connection's task ran last.
    queued: Cell<usize>,
    /// Tasks that wait for a turn, the first one first. One may be there twice.
    waiting: RefCell<VecDeque<Waker>>,
    /// The connection's task.
    connection: RefCell<Option<Waker>>,
    /// The connection has ended: nothing is written any more, and nobody has to wait.
    over: Cell<bool>,
}

impl Turns {
    /// Whether a request's task may bring frames now. Otherwise it is woken when it may.
    pub(super) fn is_mine(&self, cx: &Context<'_>) -> bool {
        if self.queued.get() < FRAMES || self.over.get() {
            return true;
        }
        self.waiting.borrow_mut().push_back(cx.waker().clone());
        if let Some(connection) = &*self.connection.borrow() {
            connection.wake_by_ref();
        }
        false
    }

    /// A request's task has brought so many frames.
    pub(super) fn count(&self, frames: usize) {
        self.queued.set(self.queued.get() + frames);
    }

    /// The connection's task has written what it could: the next ones have their turn, and then the connection again.
    pub(super) fn begin(&self, cx: &Context<'_>) {
        self.queued.set(0);
        let mut connection = self.connection.borrow_mut();
        match &mut *connection {
            Some(known) => known.clone_from(cx.waker()),
            None => *connection = Some(cx.waker().clone()),
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let next = waiting.len().min(FRAMES);
        waiting.drain(..next).for_each(Waker::wake);
        cx.waker().wake_by_ref();
    }

    /// The connection has ended.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.connection.take();
        std::mem::take(&mut *self.waiting.borrow_mut())
            .into_iter()
            .for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn those_who_wait_come_next_and_in_order() {
        let (connection, first, others) = <(Arc<Woken>, Arc<Woken>, Arc<Woken>)>::default();
        let turns = Turns::default();
        let connection_waker = Waker::from(connection.clone());
        let connection_task = Context::from_waker(&connection_waker);
        turns.begin(&connection_task);
        let first_waker = Waker::from(first.clone());
        assert!(turns.is_mine(&Context::from_waker(&first_waker)));
        turns.count(FRAMES);
        assert!(!turns.is_mine(&Context::from_waker(&first_waker)));
        assert_eq!(connection.times(), 1, "it has to write");
        let others_waker = Waker::from(others.clone());
        for _ in 0..FRAMES {
            assert!(!turns.is_mine(&Context::from_waker(&others_waker)));
        }
        let before = connection.times();
        turns.begin(&connection_task);
        assert_eq!((first.times(), others.times()), (1, FRAMES - 1));
        assert_eq!(connection.times(), before + 1, "one still waits");
        assert!(turns.is_mine(&Context::from_waker(&first_waker)));
        turns.count(FRAMES);
        assert!(!turns.is_mine(&Context::from_waker(&first_waker)));
        turns.end();
        assert_eq!((first.times(), others.times()), (2, FRAMES));
        assert!(turns.is_mine(&Context::from_waker(&first_waker)));
    }
}
