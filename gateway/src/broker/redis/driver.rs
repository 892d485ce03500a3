//! The loop of the broker's thread: the only place that changes rooms.
//!
//! Invariant: everything that one buffer of the link brought is sent to the shards before the next
//! one is read. A shard that does not keep up so stops the reading, and nothing piles up here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::envelope::{self, ChannelMessage};
use protocol::{Event, RoomName, event};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::library::{self, Notifications};
use super::link::Link;
use super::reads::{self, ReadError};
use super::resp::{Kind, Push};
use super::rooms::{Channel, Handle, Out, Room, Rooms};
use super::upkeep::{self, Probed, Suspect};
use super::{RedisMetrics, Request, Shared};
use crate::broker::BrokerError;
use crate::broker::sequencer::{Message, Output, Read, Tail};
use crate::hub::{Inlets, Item, ShardId, Supply};

/// How long the rest of a signal's buffer may take.
const SETTLE: Duration = Duration::from_millis(1);
/// Between attempts to read what could not be read.
const RETRY: Duration = Duration::from_millis(100);
/// Between trims of rooms that nobody else trims.
const TRIM: Duration = Duration::from_secs(60);
/// Reads under way at most; each may bring a page.
const READS: usize = 64;
/// Requests of shards that are answered in one go.
const REQUESTS: usize = 1024;
/// First and last pause before the link is made again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What something that ran beside the loop came back with.
enum Done {
    Linked(Result<Link, String>),
    Read(Handle, Result<Tail, ReadError>),
    Verified(Vec<Suspect>),
    Notifications(Result<Notifications, BrokerError>),
    Probed(Probed),
}

/// When what is due.
struct Timers {
    connect: Option<Instant>,
    settle: Option<Instant>,
    retry: Option<Instant>,
    probe: Instant,
    verify: Instant,
    flags: Instant,
    trim: Instant,
}

enum Woke {
    Link(std::io::Result<()>),
    Request(Option<Request>),
    Done(Done),
    Timer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Channel,
    Stream,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    inlets: Inlets,
    rooms: Rooms,
    link: Option<Link>,
    backoff: Duration,
    live: bool,
    /// Of this process; another node of the same name uses another.
    nonce: String,
    probe_channel: Vec<u8>,
    /// When a probe came back, or the link was made.
    probe_seen: Instant,
    is_probing: bool,
    came_back: bool,
    /// Rooms that wait for their verification; `None` while no pass is under way.
    verifying: Option<VecDeque<usize>>,
    is_polling: bool,
    signals_seen: bool,
    dirty: Vec<usize>,
    unsettled: Vec<usize>,
    reads: VecDeque<(Handle, Read)>,
    reading: usize,
    retry: Vec<Handle>,
    plain: Vec<RoomName>,
    outputs: Vec<Output>,
    timers: Timers,
    done: mpsc::UnboundedSender<Done>,
    results: Option<mpsc::UnboundedReceiver<Done>>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, inlets: Inlets) -> Self {
        let (done, results) = mpsc::unbounded_channel();
        let now = Instant::now();
        let config = &shared.config;
        Self {
            inlets,
            rooms: Rooms::default(),
            link: None,
            backoff: BACKOFF.0,
            live: false,
            nonce: format!("{:016x}", fastrand::u64(..)),
            probe_channel: shared.keys.probe(&config.node).into_bytes(),
            probe_seen: now,
            is_probing: false,
            came_back: false,
            verifying: None,
            is_polling: false,
            signals_seen: false,
            dirty: Vec::new(),
            unsettled: Vec::new(),
            reads: VecDeque::new(),
            reading: 0,
            retry: Vec::new(),
            plain: Vec::new(),
            outputs: Vec::new(),
            timers: Timers {
                connect: Some(now),
                settle: None,
                retry: None,
                probe: now + config.probe_interval,
                verify: now + config.verify_interval,
                flags: now + config.verify_interval,
                trim: now + TRIM,
            },
            done,
            results: Some(results),
            shared,
        }
    }

    /// Runs until nobody can ask for anything any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        let Some(mut results) = self.results.take() else {
            return;
        };
        loop {
            let due = self.next_timer();
            let link = &mut self.link;
            let progress = async {
                match link {
                    Some(link) => link.progress().await,
                    None => std::future::pending().await,
                }
            };
            // In this order: what has arrived is looked at before a timer takes it for missing.
            let woke = tokio::select! {
                biased;
                result = progress => Woke::Link(result),
                Some(done) = results.recv() => Woke::Done(done),
                request = inbox.recv() => Woke::Request(request),
                () = tokio::time::sleep_until(due) => Woke::Timer,
            };
            match woke {
                Woke::Link(Ok(())) => {
                    self.pushes();
                    if std::mem::take(&mut self.came_back) && self.link.is_some() {
                        self.set_live(true).await;
                    }
                }
                Woke::Link(Err(error)) => self.link_down(&error.to_string()).await,
                Woke::Request(Some(first)) => self.requests(first, &mut inbox).await,
                Woke::Request(None) => return,
                Woke::Done(done) => {
                    self.done(done).await;
                    for _ in 0..READS {
                        let Ok(done) = results.try_recv() else { break };
                        self.done(done).await;
                    }
                }
                Woke::Timer => self.tick().await,
            }
            self.start_reads();
            self.flush().await;
        }
    }

    fn next_timer(&self) -> Instant {
        let timers = &self.timers;
        let fixed = timers
            .probe
            .min(timers.verify)
            .min(timers.flags)
            .min(timers.trim);
        [timers.connect, timers.settle, timers.retry]
            .into_iter()
            .flatten()
            .fold(fixed, Instant::min)
    }

    fn spawn(&self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            let _ = done.send(work.await);
        });
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let due = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        if due(&mut self.timers.connect) {
            self.connect();
        }
        if due(&mut self.timers.settle) {
            self.settle();
        }
        if due(&mut self.timers.retry) {
            for handle in std::mem::take(&mut self.retry) {
                self.sequence(handle, Cause::Stream, |room, out| room.retry(out));
            }
        }
        if self.timers.probe <= now {
            self.timers.probe = now + self.shared.config.probe_interval;
            self.probe(now).await;
        }
        if self.timers.flags <= now {
            self.timers.flags = now + self.shared.config.verify_interval;
            self.look_at_notifications();
        }
        if self.timers.verify <= now {
            self.begin_verification(now);
        }
        if self.timers.trim <= now {
            self.timers.trim = now + TRIM;
            let (shared, rooms) = (self.shared.clone(), std::mem::take(&mut self.plain));
            tokio::spawn(async move {
                // What fails is done at the next turn.
                let _ = upkeep::trim(&shared, rooms).await;
            });
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Linked(Ok(link)) => self.link_up(link),
            Done::Linked(Err(reason)) => self.link_down(&reason).await,
            Done::Read(handle, result) => self.read(handle, result),
            Done::Verified(suspects) => self.verified(suspects),
            Done::Notifications(result) => self.notifications(result),
            Done::Probed(probed) => self.probed(probed),
        }
    }

    // The link.

    fn connect(&mut self) {
        let shared = self.shared.clone();
        self.spawn(async move {
            let config = &shared.config;
            Done::Linked(Link::connect(&shared.info, &config.node, config.connect_timeout).await)
        });
    }

    fn link_up(&mut self, mut link: Link) {
        self.probe_seen = Instant::now();
        self.signals_seen = false;
        link.subscribe([&self.probe_channel[..]]);
        link.subscribe(self.rooms.iter().flat_map(|(_, room)| room.channels()));
        self.link = Some(link);
        self.look_at_notifications();
    }

    async fn link_down(&mut self, reason: &str) {
        self.link = None;
        self.shared.status.link(Some(reason.to_owned()));
        if self.live {
            tracing::warn!(
                reason,
                "the subscription connection to Redis was lost; streams stay open"
            );
            RedisMetrics::add(&self.shared.metrics.reconnects, 1);
        } else {
            tracing::debug!(reason, "no subscription connection to Redis");
        }
        for index in self.rooms.indexes() {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            room.sequencer.lost();
            room.is_leaving = false;
            if room.shards.is_empty() {
                self.rooms.remove(index);
            }
        }
        let pause = self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.timers.connect = Some(Instant::now() + pause);
        self.set_live(false).await;
    }

    async fn set_live(&mut self, live: bool) {
        if self.live == live {
            return;
        }
        self.live = live;
        self.shared.status.live(live);
        if live {
            self.backoff = BACKOFF.0;
            self.shared.status.link(None);
            tracing::info!("events flow from Redis");
        }
        for shard in 0..self.inlets.len() {
            self.send(shard, Supply::Live(live)).await;
        }
    }

    fn pushes(&mut self) {
        while let Some(link) = &mut self.link {
            match link.next() {
                Ok(Some(push)) => self.push(&push),
                Ok(None) => return,
                Err(error) => {
                    let failed = Err(error.to_string());
                    self.link = None;
                    let _ = self.done.send(Done::Linked(failed));
                }
            }
        }
    }

    fn push(&mut self, push: &Push) {
        let channel = self.rooms.channel(push.channel());
        match (push.kind, channel) {
            (Kind::Message, Some(Channel::Events(index))) => self.message(index, push),
            (Kind::Message, Some(Channel::Keyspace(index))) => self.signal(index, &push.payload()),
            (Kind::Subscribed, Some(Channel::Events(index))) => {
                if let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) {
                    let handle = (index, room.serial);
                    self.sequence(handle, Cause::Stream, |room, out| room.confirmed(out));
                }
            }
            (Kind::Unsubscribed, Some(Channel::Events(index))) => self.left(index),
            (Kind::Message, None) if push.channel() == self.probe_channel => {
                if push.payload() == self.nonce {
                    self.probe_seen = Instant::now();
                    self.came_back = true;
                }
            }
            (Kind::Subscribed, None) if push.channel() == self.probe_channel => {
                self.timers.probe = Instant::now();
            }
            (Kind::Error, _) => {
                let text = String::from_utf8_lossy(&push.payload()).into_owned();
                tracing::error!(error = text, "Redis refused a subscription");
                self.link = None;
                let _ = self.done.send(Done::Linked(Err(text)));
            }
            _ => {}
        }
    }

    // Rooms.

    async fn requests(&mut self, first: Request, inbox: &mut mpsc::UnboundedReceiver<Request>) {
        let mut next = Some(first);
        let mut fresh = Vec::new();
        let mut left = REQUESTS;
        while let Some(request) = next.take() {
            match request {
                Request::Subscribe(shard, room) => {
                    fresh.extend(self.subscribe(shard, &room).await);
                }
                Request::Unsubscribe(shard, room) => {
                    // In the order of the requests.
                    self.ask_for(&std::mem::take(&mut fresh));
                    self.unsubscribe(shard, &room);
                }
            }
            left -= 1;
            if left > 0 {
                next = inbox.try_recv().ok();
            }
        }
        self.ask_for(&fresh);
    }

    /// Gives the room where its channels have to be asked for.
    async fn subscribe(&mut self, shard: ShardId, name: &RoomName) -> Option<usize> {
        if let Some(index) = self.rooms.find(name) {
            let room = self.rooms.get(index)?;
            if !room.shards.contains(&shard) {
                room.shards.push(shard);
            }
            let head = room.sequencer.head()?;
            let room = name.clone();
            self.send(shard, Supply::Joined { room, head }).await;
            return None;
        }
        let index = self
            .rooms
            .insert(name, &self.shared.keys, self.shared.database);
        self.rooms.get(index)?.shards.push(shard);
        Some(index)
    }

    fn ask_for(&mut self, fresh: &[usize]) {
        if let Some(link) = &mut self.link {
            let rooms = fresh.iter().filter_map(|&index| self.rooms.peek(index));
            link.subscribe(rooms.flat_map(Room::channels));
        }
    }

    fn unsubscribe(&mut self, shard: ShardId, name: &RoomName) {
        let Some(index) = self.rooms.find(name) else {
            return;
        };
        let Some(room) = self.rooms.get(index) else {
            return;
        };
        room.shards.retain(|&other| other != shard);
        if !room.shards.is_empty() || room.is_leaving {
            return;
        }
        self.shared.skips.forget(name);
        match &mut self.link {
            Some(link) => {
                room.is_leaving = true;
                link.unsubscribe(room.channels());
                self.rooms.restart(index);
            }
            None => self.rooms.remove(index),
        }
    }

    /// The channels of a room are given up; perhaps someone has come back meanwhile.
    fn left(&mut self, index: usize) {
        let Some(room) = self.rooms.get(index).filter(|room| room.is_leaving) else {
            return;
        };
        room.is_leaving = false;
        if room.shards.is_empty() {
            self.rooms.remove(index);
        } else {
            self.ask_for(&[index]);
        }
    }

    fn message(&mut self, index: usize, push: &Push) {
        let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) else {
            return;
        };
        let handle = (index, room.serial);
        let payload = push.payload();
        let (shared, name) = (&self.shared, &room.name);
        let checked =
            |event: &Event| event::check(&event.name, &event.data, shared.config.max_bytes);
        let message = match envelope::decode(&payload) {
            Ok(ChannelMessage::Stored(event)) => {
                let prev = event.prev;
                let item = match (checked(&event), event.id) {
                    (Err(error), Some(id)) => {
                        shared.skipped(name, id, &error);
                        Item::Skipped(id)
                    }
                    _ => Item::Event(event),
                };
                Some(Message { item, prev })
            }
            Ok(ChannelMessage::Ephemeral(event)) => match checked(&event) {
                Ok(()) => Some(Message {
                    item: Item::Event(event),
                    prev: None,
                }),
                Err(error) => {
                    shared
                        .skips
                        .message(name, &error.to_string(), &shared.metrics);
                    return;
                }
            },
            Ok(ChannelMessage::UnknownVersion) => None,
            Err(error) => {
                shared
                    .skips
                    .message(name, &error.to_string(), &shared.metrics);
                None
            }
        };
        match message {
            Some(message) => self.sequence(handle, Cause::Channel, |room, out| {
                room.message(message, out);
            }),
            // Perhaps an event stands behind it: the stream knows.
            None => self.sequence(handle, Cause::Channel, |room, _| room.signal()),
        }
    }

    fn signal(&mut self, index: usize, name: &[u8]) {
        let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) else {
            return;
        };
        let handle = (index, room.serial);
        self.signals_seen = true;
        match name {
            b"xadd" => self.sequence(handle, Cause::Channel, |room, _| room.signal()),
            b"del" | b"expired" | b"evicted" | b"rename_from" | b"rename_to" | b"restore"
            | b"copy_to" | b"move_from" | b"move_to" | b"set" => {
                self.sequence(handle, Cause::Stream, |room, out| room.replaced(out));
            }
            _ => {}
        }
    }

    /// Lets one room's sequencer move, and does what it says.
    fn sequence(
        &mut self,
        handle: Handle,
        cause: Cause,
        step: impl FnOnce(&mut crate::broker::sequencer::Sequencer, &mut Vec<Output>),
    ) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let Some(room) = self.rooms.current(handle) else {
            self.outputs = outputs;
            return;
        };
        step(&mut room.sequencer, &mut outputs);
        let metrics = &self.shared.metrics;
        for output in outputs.drain(..) {
            match output {
                Output::Read(read) => {
                    if cause == Cause::Channel {
                        RedisMetrics::add(&metrics.holes, 1);
                    }
                    self.reads.push_back((handle, read));
                }
                Output::RetryLater => {
                    self.retry.push(handle);
                    self.timers
                        .retry
                        .get_or_insert_with(|| Instant::now() + RETRY);
                }
                Output::Joined(head) => room.out.push(Out::Joined(head)),
                Output::Reset(reset) => {
                    RedisMetrics::add(&metrics.resets, 1);
                    tracing::warn!(room = %room.name, reason = ?reset.reason, after = %reset.after, resume = %reset.resume,
                        "the continuity of this room is broken; subscribers are told");
                    room.out.push(Out::Reset(reset));
                }
                Output::Append(item) => {
                    let counter = match (item.id(), cause) {
                        (None, _) => &metrics.events_ephemeral,
                        (_, Cause::Channel) => &metrics.events_function,
                        (_, Cause::Stream) => &metrics.events_stream,
                    };
                    RedisMetrics::add(counter, 1);
                    match room.out.last_mut() {
                        Some(Out::Items(items)) => items.push(item),
                        _ => room.out.push(Out::Items(vec![item])),
                    }
                }
            }
        }
        if !room.out.is_empty() && !std::mem::replace(&mut room.is_dirty, true) {
            self.dirty.push(handle.0);
        }
        if room.sequencer.is_unsettled() && !std::mem::replace(&mut room.is_unsettled, true) {
            self.unsettled.push(handle.0);
            self.timers
                .settle
                .get_or_insert_with(|| Instant::now() + SETTLE);
        }
        if room.sequencer.take_plain() && !self.plain.contains(&room.name) {
            self.plain.push(room.name.clone());
        }
        self.outputs = outputs;
    }

    /// Signals that no message accounts for are plain `XADD`s: their rooms are read.
    fn settle(&mut self) {
        for index in std::mem::take(&mut self.unsettled) {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            room.is_unsettled = false;
            let handle = (index, room.serial);
            self.sequence(handle, Cause::Stream, |room, out| room.settle(out));
        }
    }

    fn start_reads(&mut self) {
        while self.reading < READS {
            let Some((handle, read)) = self.reads.pop_front() else {
                return;
            };
            let Some(room) = self.rooms.current(handle) else {
                continue;
            };
            let (shared, name) = (self.shared.clone(), room.name.clone());
            self.reading += 1;
            self.spawn(async move { Done::Read(handle, reads::tail(&shared, &name, read).await) });
        }
    }

    fn read(&mut self, handle: Handle, result: Result<Tail, ReadError>) {
        self.reading -= 1;
        let Some(room) = self.rooms.current(handle) else {
            return;
        };
        let tail = match result {
            Ok(tail) => {
                room.has_wrong_type = false;
                Some(tail)
            }
            Err(ReadError::Away(_)) => None,
            Err(ReadError::WrongType) => {
                if !std::mem::replace(&mut room.has_wrong_type, true) {
                    tracing::error!(room = %room.name, "the key of this room holds another type, not a stream: rename or delete it");
                }
                Some(Tail::default())
            }
        };
        self.sequence(handle, Cause::Stream, |room, out| room.read(tail, out));
    }

    // In the background.

    async fn probe(&mut self, now: Instant) {
        let config = &self.shared.config;
        let patience = config.probe_interval * 3 + config.response_timeout;
        if self.link.is_some() && now - self.probe_seen > patience {
            self.link_down("its probes do not come back").await;
        }
        if std::mem::replace(&mut self.is_probing, true) {
            return;
        }
        let (shared, nonce) = (self.shared.clone(), self.nonce.clone());
        self.spawn(async move { Done::Probed(upkeep::probe(&shared, &nonce).await) });
    }

    fn look_at_notifications(&self) {
        let shared = self.shared.clone();
        self.spawn(async move { Done::Notifications(library::notifications(&shared).await) });
    }

    fn notifications(&mut self, result: Result<Notifications, BrokerError>) {
        match result {
            Ok(Notifications::Off(reason)) => {
                // Flags that cannot be looked at may be set all the same.
                self.is_polling = !self.signals_seen;
                let trouble = self.is_polling.then_some(reason);
                if let Some(reason) = self.shared.status.notifications(trouble) {
                    tracing::warn!(
                        reason,
                        "plain XADD is not announced by Redis: active rooms are polled"
                    );
                }
                if self.is_polling {
                    let soon = Instant::now() + self.shared.config.poll_interval;
                    self.timers.verify = self.timers.verify.min(soon);
                }
            }
            Ok(found) => {
                self.is_polling = false;
                self.shared.status.notifications(None);
                if found == Notifications::TurnedOn {
                    self.timers.verify = Instant::now();
                }
            }
            // Looked at again soon.
            Err(_) => {}
        }
    }

    fn begin_verification(&mut self, now: Instant) {
        let config = &self.shared.config;
        let pause = if self.is_polling {
            config.poll_interval.min(config.verify_interval)
        } else {
            config.verify_interval
        };
        self.timers.verify = now + pause;
        if self.link.is_some() && self.verifying.is_none() {
            self.verifying = Some(self.rooms.indexes().into());
            self.verify_next();
        }
    }

    fn verify_next(&mut self) {
        let mut batch = Vec::new();
        while let Some(index) = self.verifying.as_mut().and_then(VecDeque::pop_front) {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            if let Some(head) = room
                .sequencer
                .head()
                .filter(|_| !room.sequencer.is_reading())
            {
                let handle = (index, room.serial);
                batch.push(Suspect {
                    handle,
                    room: room.name.clone(),
                    head,
                });
            }
            if batch.len() == upkeep::BATCH {
                break;
            }
        }
        if batch.is_empty() {
            self.verifying = None;
            return;
        }
        let shared = self.shared.clone();
        self.spawn(async move {
            // What cannot be asked now is asked in the next pass.
            Done::Verified(upkeep::verify(&shared, batch).await.unwrap_or_default())
        });
    }

    fn verified(&mut self, suspects: Vec<Suspect>) {
        for suspect in suspects {
            self.sequence(suspect.handle, Cause::Stream, |room, _| {
                room.suspicious(suspect.head)
            });
        }
        self.verify_next();
    }

    fn probed(&mut self, probed: Probed) {
        self.is_probing = false;
        let status = &self.shared.status;
        if let Some(reason) = status.commands(probed.commands) {
            tracing::warn!(reason, "commands to Redis fail");
        }
        if let Some(reason) = status.library(probed.library) {
            tracing::warn!(
                reason,
                "the publish function could not be loaded into Redis"
            );
        }
    }

    // The shards.

    async fn send(&self, shard: ShardId, supply: Supply) {
        // A shard that has ended needs nothing.
        if let Some(inlet) = self.inlets.get(shard) {
            let _ = inlet.send(supply).await;
        }
    }

    async fn flush(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let began = Instant::now();
        for index in std::mem::take(&mut self.dirty) {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            room.is_dirty = false;
            let (name, shards) = (room.name.clone(), room.shards.clone());
            for out in std::mem::take(&mut room.out) {
                for &shard in &shards {
                    let room = name.clone();
                    let supply = match &out {
                        Out::Joined(head) => Supply::Joined { room, head: *head },
                        Out::Items(items) => Supply::Append {
                            room,
                            items: items.clone(),
                        },
                        Out::Reset(reset) => Supply::Reset {
                            room,
                            reset: *reset,
                        },
                    };
                    self.send(shard, supply).await;
                }
            }
        }
        // While a shard was waited for nothing was read, so no probe can be missed.
        if began.elapsed() > self.shared.config.probe_interval {
            self.probe_seen = Instant::now();
        }
    }
}
