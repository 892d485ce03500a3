//! Catching up: positions older than the room log are served from pages of history.
//!
//! A room has one reader. It reads from the oldest position that somebody waits at, and whoever
//! waits inside of the page is served from it, so that a herd costs what its bytes cost, not what
//! its positions do. A page is encoded once, like a room log; a subscriber in it costs a cursor (`catchup/page.rs`).
//!
//! Invariant: nobody goes from a page to the log unless both are of one stream. For a moment after a failover they are
//! not: one of them came from the old primary, the other one from the new one. Who comes then waits.

use std::sync::Arc;

use protocol::EventId;

use super::log::Place;
use super::resume::Verdict;
use super::state::{Purpose, Read, State, Witness};
use super::subscriber::{Handle, PageCursor, Source};
use super::{History, HistoryError, HistoryQuery, Position, ResetReason};

mod page;

pub(super) use page::Page;

/// Pages that one shard reads at a time: bounds the memory of answers.
const PAGES_AT_ONCE: usize = 32;
/// How long a page is kept that nobody is in: a herd comes over some time.
const KEPT_TICKS: u16 = 20;
/// Ticks for which somebody waits at a position of a lost branch, while the node may still hear the old primary: 2 s, until
/// sentinels agree.
const LOST_PATIENCE: u16 = 40;
/// How long somebody waits for a log and a stream to agree: 30 s, like a witness (`state.rs`). Then the stream counts.
const PATIENCE: u16 = 600;

/// Who waits for pages of one room, and the read that is under way for them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The read that is under way, or has failed and is to be tried again.
    reading: Option<u32>,
    /// The next read is for these...
    waiting: Vec<Handle>,
    /// ...of whom this many were there before the read under way began.
    fresh: usize,
    /// What the room log ended with when the read under way began.
    head: EventId,
    /// The page that began where the log ends did not reach any of them.
    is_far: bool,
    /// Newcomers, until the next tick: a herd gathers, and its oldest member sets the beginning.
    arriving: Vec<Handle>,
    queued: bool,
}

impl Reader {
    /// Keeps only those who are here.
    pub(super) fn forget(&mut self, is_here: impl Fn(&Handle) -> bool) {
        let fresh = &self.waiting[..self.fresh.min(self.waiting.len())];
        self.fresh = fresh.iter().filter(|handle| is_here(handle)).count();
        self.waiting.retain(&is_here);
        self.arriving.retain(&is_here);
    }
}

impl State {
    /// The outbox is empty and the cursor is not in the log: on to the log, or to the next page.
    pub(super) fn catch_up(&mut self, key: usize) {
        let subscriber = &mut self.subscribers[key];
        let handle = (key as u32, subscriber.serial);
        let room_key = subscriber.room as usize;
        let room = &self.rooms[room_key];
        let Some(catch_up) = subscriber
            .catch_up
            .as_mut()
            .filter(|c| !c.reading && room.joined)
        else {
            return;
        };
        if let Some(done) = catch_up.page.take() {
            let seen = catch_up.after().unwrap_or_default();
            catch_up.want = Position::After(done.log.head().max(seen));
        }
        let Some(after) = catch_up.after().filter(|_| !catch_up.waiting) else {
            return;
        };
        let is_known = catch_up.agreed || matches!(room.log.locate(after), Place::At(_));
        let is_late = catch_up.waits > PATIENCE;
        if let Some(offset) = room.log.seek(after).filter(|_| catch_up.proved) {
            if is_known || is_late {
                let end = room.log.end();
                self.place(key, offset, end, after);
                self.flush(key);
                return;
            }
            // The log has parted from what the page was of.
            catch_up.proved = false;
            self.wait_for_tick(handle, room_key);
            return;
        }
        catch_up.reading = true;
        // Only newcomers gather: one that is in the midst of it goes on at once.
        let ripe = catch_up.proved || catch_up.presented.is_none();
        let (proved, fork) = (catch_up.proved, catch_up.fork());
        let kept = self.pages.iter().position(|page| {
            let is_sound = page.room == room_key && !page.is_astray;
            is_sound && page.answers(after, proved, fork, false)
        });
        if let Some(at) = kept {
            self.serve(handle, at);
            return;
        }
        let reader = &mut self.rooms[room_key].reader;
        if ripe {
            reader.waiting.push(handle);
            self.want_page(room_key);
        } else {
            if reader.arriving.is_empty() {
                self.gathering.push(room_key);
            }
            reader.arriving.push(handle);
        }
    }

    /// Puts a subscriber into a page that answers for its position. It is written to in the sweep.
    fn serve(&mut self, handle: Handle, at: usize) {
        let key = handle.0 as usize;
        let now = self.now();
        let page = &mut self.pages[at];
        page.used = now;
        let (room_key, log) = (page.room, page.log.clone());
        let Some(catch_up) = &mut self.subscribers[key].catch_up else {
            return;
        };
        catch_up.reading = false;
        let Some(after) = catch_up.after() else {
            return;
        };
        let after = catch_up.fork().map_or(after, |fork| page.place(fork));
        let mut begin = after;
        let agrees = page.agrees(&self.rooms[room_key].log);
        let last = page.facts.last_id;
        // A log that is shorter than a read takes says nothing.
        let is_short = !page.is_below && last < self.rooms[room_key].log.floor();
        let patience = if is_short { KEPT_TICKS } else { PATIENCE };
        let (waits, waits_long) = (catch_up.waits <= LOST_PATIENCE, catch_up.waits <= patience);
        let (is_whole, is_below) = (!page.facts.more, page.is_below);
        page.is_astray |= !agrees && is_whole;
        if !catch_up.proved {
            catch_up.answered_by(Source::Broker);
            let verdict = page.judge(after);
            let is_lost = matches!(verdict, Verdict::Lost(_));
            // What the log has after this position is not what follows it, and may have been seen.
            let is_apart = !agrees && (is_whole || is_lost);
            // Without a stream there is nothing to wait for.
            let is_gone = is_lost && last == EventId::ZERO;
            if !is_gone && ((is_apart && waits_long) || (is_lost && is_below && waits)) {
                page.is_astray = true;
                self.wait_for_tick(handle, room_key);
                return;
            }
            catch_up.agreed = agrees;
            catch_up.want = Position::After(after);
            let lost_branch = catch_up.lost_branch.take();
            match verdict {
                Verdict::Proved => {
                    catch_up.proved = true;
                    if let Some(seen) = lost_branch.filter(|&seen| seen != after) {
                        self.tell_fork(key, after, seen);
                    }
                }
                Verdict::Trimmed(resume) => {
                    catch_up.proved = true;
                    catch_up.want = Position::After(resume);
                    begin = resume;
                    self.send_reset(key, ResetReason::Trimmed, Some(after), resume);
                }
                Verdict::Lost(reason) => {
                    let log = &self.rooms[room_key].log;
                    let (head, end) = (log.head(), log.end());
                    // A log that is not where the stream is may be of a lost branch, and another node may have handed on
                    // more of it: from its head that would be given again.
                    let is_there = agrees && !is_below;
                    // What the stream has beyond the log may be what both primaries have, and the client with them.
                    let resume = match is_there {
                        true if is_whole => head.max(last),
                        true => head,
                        false => head.max(after),
                    };
                    let floor = if is_there && resume > head {
                        resume
                    } else {
                        EventId::ZERO
                    };
                    self.send_reset(key, reason, Some(after), resume);
                    // It may be of a primary of which this node is still to hear.
                    self.witnesses.push_back(Witness {
                        handle,
                        id: after,
                        is_lost: true,
                        head,
                        since: now,
                    });
                    self.place(key, end, end, floor);
                    self.to_flush.push_back(handle);
                    return;
                }
            }
        } else if after >= log.head() {
            // The stream ends here, and the log begins later: not before the next tick again.
            self.wait_for_tick(handle, room_key);
            return;
        }
        if let Some(catch_up) = &mut self.subscribers[key].catch_up {
            let offset = log.seek(begin).unwrap_or(log.start());
            catch_up.agreed = agrees;
            catch_up.replayed += log.stored_after(begin);
            catch_up.page = Some(PageCursor { log, offset });
        }
        self.to_flush.push_back(handle);
    }

    /// Asks again at the next tick for somebody whom a page has nothing for.
    fn wait_for_tick(&mut self, handle: Handle, room_key: usize) {
        if let Some(catch_up) = &mut self.subscribers[handle.0 as usize].catch_up {
            catch_up.reading = true;
            catch_up.waits = catch_up.waits.saturating_add(1);
        }
        let reader = &mut self.rooms[room_key].reader;
        if reader.arriving.is_empty() {
            self.gathering.push(room_key);
        }
        reader.arriving.push(handle);
    }

    /// Writes to those who were put into pages, at most `budget` of them. `true` when more are due.
    pub(super) fn flush_served(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(handle) = self.to_flush.pop_front() else {
                return false;
            };
            if self.is_current(handle) {
                self.flush(handle.0 as usize);
            }
            if self.to_flush.is_empty() {
                self.start_pages();
            }
        }
        !self.to_flush.is_empty()
    }

    fn want_page(&mut self, room_key: usize) {
        let reader = &mut self.rooms[room_key].reader;
        if reader.reading.is_none() && !reader.queued && !reader.waiting.is_empty() {
            reader.queued = true;
            self.page_queue.push_back(room_key);
            self.start_pages();
        }
    }

    fn start_pages(&mut self) {
        // A page that came at once could push out one that nobody has been written from yet: two
        // positions would take turns without getting on.
        while self.to_flush.is_empty() && self.pages_reading < PAGES_AT_ONCE {
            let Some(room_key) = self.page_queue.pop_front() else {
                break;
            };
            let Some(room) = self.rooms.get_mut(room_key).filter(|r| r.reader.queued) else {
                continue;
            };
            room.reader.queued = false;
            let position = |&(key, serial): &Handle| {
                let subscriber = self.subscribers.get(key as usize)?;
                let catch_up = subscriber.catch_up.as_ref()?;
                catch_up.after().filter(|_| subscriber.serial == serial)
            };
            let reader = &mut room.reader;
            reader.waiting.retain(|handle| position(handle).is_some());
            let Some(oldest) = reader.waiting.iter().filter_map(position).min() else {
                continue;
            };
            // Who is ahead of the log goes on there: the page has to show that the log's end is on the way.
            let after = if reader.is_far {
                oldest
            } else {
                oldest.min(room.log.head())
            };
            let trace = reader.waiting.iter().find_map(|(key, _)| {
                let catch_up = self.subscribers[*key as usize].catch_up.as_ref()?;
                catch_up.trace.clone()
            });
            self.page_serial = self.page_serial.wrapping_add(1);
            reader.reading = Some(self.page_serial);
            reader.fresh = reader.waiting.len();
            reader.head = room.log.head();
            let query = HistoryQuery::After {
                after,
                limit: self.config.history_page,
            };
            self.pages_reading += 1;
            self.reads.push(Read {
                room: room.name.clone(),
                query,
                purpose: Purpose::Page(self.page_serial),
                trace,
            });
        }
    }

    /// The answer to the read `serial` of a room, if the room still waits for it.
    pub(super) fn page(
        &mut self,
        read: &Read,
        serial: u32,
        result: Result<Arc<History>, HistoryError>,
    ) {
        self.pages_reading -= 1;
        self.start_pages();
        let (Some(&room_key), HistoryQuery::After { after, .. }) =
            (self.by_name.get(&read.room), read.query)
        else {
            return;
        };
        let reader = &mut self.rooms[room_key].reader;
        if reader.reading != Some(serial) {
            return;
        }
        let history = match result {
            Err(HistoryError::Away(_)) => {
                self.retries.push((read.room.clone(), read.purpose));
                return;
            }
            result => result.ok(),
        };
        reader.reading = None;
        let fresh = reader.fresh;
        let waiting = std::mem::take(&mut reader.waiting);
        let arriving = std::mem::take(&mut reader.arriving);
        if !arriving.is_empty() {
            self.gathering.retain(|&room| room != room_key);
        }
        if let Some(history) = &history {
            self.keep_page(room_key, after, history);
        }
        let count = waiting.len();
        let mut is_answered = false;
        for (index, handle) in waiting.into_iter().chain(arriving).enumerate() {
            let fresh = index < fresh;
            let key = handle.0 as usize;
            if !self.is_current(handle) {
                continue;
            }
            let catch_up = self.subscribers[key].catch_up.as_mut();
            let Some(catch_up) = catch_up.filter(|catch_up| catch_up.reading) else {
                continue;
            };
            let (Some(after), proved) = (catch_up.after(), catch_up.proved) else {
                continue;
            };
            let fork = catch_up.fork();
            let newest = self.pages.len().wrapping_sub(1);
            if history.is_none() && fresh {
                catch_up.reading = false;
                let log = &self.rooms[room_key].log;
                let (head, end) = (log.head(), log.end());
                self.reset_to(key, ResetReason::Unknown, Some(after), end, head);
                self.to_flush.push_back(handle);
            } else if history.is_some() && self.pages[newest].answers(after, proved, fork, fresh) {
                is_answered = true;
                self.serve(handle, newest);
            } else if index < count {
                self.rooms[room_key].reader.waiting.push(handle);
            } else {
                self.wait_for_tick(handle, room_key);
            }
        }
        let is_partial = history.as_ref().is_some_and(|history| history.more);
        self.rooms[room_key].reader.is_far = is_partial && !is_answered;
        self.want_page(room_key);
    }

    /// The room's history is another one now, or the room is gone: nothing read before counts.
    pub(super) fn forget_pages(&mut self, room_key: usize) {
        self.drop_pages_of(room_key);
        let Some(room) = self.rooms.get_mut(room_key) else {
            return;
        };
        for &key in &room.members {
            if let Some(catch_up) = &mut self.subscribers[key as usize].catch_up {
                catch_up.proved = false;
            }
        }
        room.reader.reading = None;
        self.want_page(room_key);
    }

    /// One tick: newcomers have gathered, and pages that nobody uses go.
    pub(super) fn tick_pages(&mut self) {
        for room_key in std::mem::take(&mut self.gathering) {
            if let Some(room) = self.rooms.get_mut(room_key) {
                let reader = &mut room.reader;
                reader.waiting.append(&mut reader.arriving);
                self.want_page(room_key);
            }
        }
        self.drop_unused_pages();
    }

    /// Asks again for a page that could not be read.
    pub(super) fn retry_page(&mut self, room_key: usize, serial: u32) {
        let reader = &mut self.rooms[room_key].reader;
        if reader.reading == Some(serial) {
            reader.reading = None;
            self.want_page(room_key);
        }
    }
}
