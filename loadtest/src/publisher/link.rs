//! One connection that events are published on.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::{Answers, Wire, WireError};
use super::{Published, Work};
use crate::clock;
use crate::histogram::Times;
use crate::report::model::Publishing;

struct Sent {
    room: u32,
    number: u64,
    at: u64,
}

#[derive(Default)]
struct State {
    /// `None` while the connection is being made again.
    wire: Option<Wire>,
    in_flight: VecDeque<Sent>,
    /// Due, and not sent: (room, due).
    queue: VecDeque<(u32, u64)>,
    /// The last number of each room; those of other links stay 0.
    heads: Vec<u64>,
    unsure: Vec<(u32, u64)>,
    accepted: u64,
    failed: u64,
    unsent: u64,
    confirm: Times,
    late: Times,
    closed: bool,
}

/// A connection, the events under way on it, and those that wait for it.
pub(super) struct Link {
    at: usize,
    work: Work,
    /// Events that may be under way at once.
    window: usize,
    state: Mutex<State>,
    confirmed: Condvar,
    answers: Mutex<Option<Answers>>,
}

impl Link {
    pub(super) fn connect(work: &Work, at: usize) -> Result<Self, WireError> {
        let (wire, answers) = Wire::connect(&work.publish, at)?;
        Ok(Self {
            at,
            window: wire.window(),
            work: work.clone(),
            state: Mutex::new(State {
                wire: Some(wire),
                heads: vec![0; work.rooms.len()],
                ..State::default()
            }),
            confirmed: Condvar::new(),
            answers: Mutex::new(Some(answers)),
        })
    }

    /// Counts stay true whatever panicked while it held them.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event, or lets it wait for its turn.
    pub(super) fn publish(&self, room: u32, due: u64, late: &mut Times) {
        let mut state = self.state();
        if state.wire.is_some() && state.in_flight.len() < self.window && state.queue.is_empty() {
            self.send(&mut state, room, due);
            late.record_ns(clock::now().saturating_sub(due));
        } else {
            state.queue.push_back((room, due));
        }
    }

    fn send(&self, state: &mut State, room: u32, due: u64) {
        let number = state.heads[room as usize] + 1;
        state.heads[room as usize] = number;
        let data = self.work.payloads.write(room, number, due);
        let name = &self.work.rooms[room as usize];
        let at = clock::now();
        state.in_flight.push_back(Sent { room, number, at });
        let sent = state
            .wire
            .as_mut()
            .is_some_and(|wire| wire.send(&self.work.publish, name, &data, self.work.keep));
        if !sent {
            // The reader notices, and connects again.
            if let Some(wire) = state.wire.take() {
                wire.shut();
            }
        }
    }

    /// Reads confirmations until the link is closed; connects again where the connection breaks.
    pub(super) fn read_confirmations(&self) {
        let mut answers = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        loop {
            let Some(reader) = &mut answers else {
                if self.state().closed {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
                if let Ok((wire, new)) = Wire::connect(&self.work.publish, self.at) {
                    answers = Some(new);
                    self.state().wire = Some(wire);
                    self.send_waiting(&mut self.state());
                }
                continue;
            };
            let outcome = reader.next();
            let now = clock::now();
            let mut state = self.state();
            let Ok(accepted) = outcome else {
                // Whether these were published, nobody can say.
                let lost: Vec<_> = state.in_flight.drain(..).collect();
                state.failed += lost.len() as u64;
                state.unsure.extend(lost.iter().map(|s| (s.room, s.number)));
                state.wire = None;
                self.confirmed.notify_all();
                if state.closed {
                    return;
                }
                answers = None;
                continue;
            };
            if let Some(sent) = state.in_flight.pop_front() {
                if accepted {
                    state.accepted += 1;
                    state.confirm.record_ns(now - sent.at);
                } else {
                    state.failed += 1;
                    state.unsure.push((sent.room, sent.number));
                }
            }
            self.send_waiting(&mut state);
            if state.in_flight.is_empty() {
                self.confirmed.notify_all();
            }
        }
    }

    fn send_waiting(&self, state: &mut State) {
        while state.wire.is_some() && state.in_flight.len() < self.window {
            let Some((room, due)) = state.queue.pop_front() else {
                return;
            };
            self.send(state, room, due);
            state.late.record_ns(clock::now().saturating_sub(due));
        }
    }

    /// Drops what waits, and waits for what is under way.
    pub(super) fn settle(&self, deadline: u64) {
        let mut state = self.state();
        state.unsent += state.queue.len() as u64;
        state.queue.clear();
        while !state.in_flight.is_empty() {
            let left = deadline.saturating_sub(clock::now());
            if left == 0 {
                return;
            }
            let waited = self
                .confirmed
                .wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn add_to(&self, published: &mut Published) {
        let state = self.state();
        for (all, own) in published.heads.iter_mut().zip(&state.heads) {
            *all = (*all).max(*own);
        }
        published.unsure.extend(&state.unsure);
        // What is under way may yet come, and may not.
        let under_way = state.in_flight.iter().map(|sent| (sent.room, sent.number));
        published.unsure.extend(under_way);
    }

    pub(super) fn accepted(&self) -> u64 {
        self.state().accepted
    }

    /// Closes the connection, and adds its counts.
    pub(super) fn close(&self, sum: &mut Publishing, confirm: &mut Times, late: &mut Times) {
        let mut state = self.state();
        state.closed = true;
        if let Some(wire) = &state.wire {
            wire.shut();
        }
        sum.accepted += state.accepted;
        sum.failed += state.failed + state.in_flight.len() as u64;
        sum.unsent += state.unsent;
        confirm.add(&state.confirm.take());
        late.add(&state.late.take());
    }
}
