//! Rooms: who wants them, what arrives for them, and what their sequencers say.

use protocol::envelope::{self, ChannelMessage};
use protocol::{Event, RoomName, event};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Cause, Done, Driver, READS, REQUESTS, SETTLE};
use crate::broker::redis::Request;
use crate::broker::redis::reads::{self, ReadError};
use crate::broker::redis::resp::Push;
use crate::broker::redis::rooms::{Handle, Out};
use crate::broker::sequencer::{Message, Output, Sequencer, Tail};
use crate::hub::{Item, ShardId, Supply};

impl Driver {
    pub(super) async fn requests(
        &mut self,
        first: Request,
        inbox: &mut mpsc::UnboundedReceiver<Request>,
    ) {
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
    pub(super) async fn subscribe(&mut self, shard: ShardId, name: &RoomName) -> Option<usize> {
        if let Some(index) = self.rooms.find(name) {
            let room = self.rooms.get(index)?;
            if !room.shards.contains(&shard) {
                room.shards.push(shard);
            }
            let head = room.sequencer.head()?;
            let is_away = room.is_away;
            let room = name.clone();
            if is_away {
                // Before anyone is told that it is not.
                let (room, live) = (room.clone(), false);
                self.send(shard, Supply::RoomLive { room, live }).await;
            }
            self.send(shard, Supply::Joined { room, head }).await;
            return None;
        }
        let index = self.rooms.insert(name, &self.shared.keys, self.database());
        let room = self.rooms.get(index)?;
        room.shards.push(shard);
        let address = self.shared.topology.primary_of(room.slot).ok();
        let server = self
            .servers
            .iter()
            .find(|server| Some(&server.address) == address.as_ref());
        room.server = server.map(|server| server.id);
        self.has_homeless |= room.server.is_none();
        Some(index)
    }

    fn database(&self) -> i64 {
        self.shared.config.servers.database()
    }

    /// Asks the servers of rooms for their channels; connects to those that had no room before.
    pub(super) fn ask_for(&mut self, fresh: &[usize]) {
        if fresh.is_empty() {
            return;
        }
        for server in &mut self.servers {
            let rooms = fresh.iter().filter_map(|&index| self.rooms.peek(index));
            let mut here = rooms
                .filter(|room| room.server == Some(server.id))
                .peekable();
            if here.peek().is_none() {
                continue;
            }
            match &mut server.link {
                Some(link) => link.join(here),
                None if server.is_connecting => {}
                None => {
                    server.connect.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, shard: ShardId, name: &RoomName) {
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
        let servers = &mut self.servers;
        let server = servers
            .iter_mut()
            .find(|server| Some(server.id) == room.server);
        match server.and_then(|server| server.link.as_mut()) {
            Some(link) if !room.is_homeless => {
                room.is_leaving = true;
                link.leave(std::iter::once(&*room));
                self.rooms.restart(index);
            }
            Some(link) => {
                // Its server has told it to go, but may still have its other channel.
                link.leave(std::iter::once(&*room));
                self.rooms.remove(index);
            }
            None => self.rooms.remove(index),
        }
    }

    /// The channels of a room are given up; perhaps someone has come back meanwhile.
    pub(super) fn left(&mut self, index: usize) {
        let Some(room) = self.rooms.get(index) else {
            return;
        };
        if !room.is_leaving {
            // Nobody asked for it: its slot has gone to another server.
            room.sequencer.lost();
            room.is_homeless = true;
            self.has_homeless = true;
            self.shared.topology.doubt();
            return;
        }
        room.is_leaving = false;
        if room.shards.is_empty() {
            self.rooms.remove(index);
        } else {
            self.ask_for(&[index]);
        }
    }

    pub(super) fn message(&mut self, index: usize, push: &Push) {
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

    pub(super) fn signal(&mut self, index: usize, name: &[u8]) {
        let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) else {
            return;
        };
        let handle = (index, room.serial);
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
    pub(super) fn sequence(
        &mut self,
        handle: Handle,
        cause: Cause,
        step: impl FnOnce(&mut Sequencer, &mut Vec<Output>),
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
                        metrics.holes.inc();
                        room.has_hole = true;
                    }
                    self.reads.push_back((handle, read));
                }
                Output::RetryLater => {
                    let mut servers = self.servers.iter_mut();
                    // Without a server it is read once it has one.
                    if let Some(server) = servers.find(|one| Some(one.id) == room.server) {
                        server.retries.push(handle, Instant::now());
                    }
                }
                Output::Joined(head) => room.out.push(Out::Joined(head)),
                Output::Reset(reset) => {
                    metrics.resets.inc();
                    room.has_hole = false;
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
                    counter.inc();
                    match room.out.last_mut() {
                        Some(Out::Items(items)) => items.push(item),
                        _ => room.out.push(Out::Items(vec![item])),
                    }
                }
            }
        }
        if room.is_away && room.sequencer.is_live() {
            room.is_away = false;
            room.out.push(Out::Live(true));
        }
        if !room.out.is_empty() && !std::mem::replace(&mut room.is_dirty, true) {
            self.dirty.push(handle.0);
        }
        if room.has_hole && !room.sequencer.is_reading() {
            room.has_hole = false;
            metrics.holes_repaired.inc();
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
    pub(super) fn settle(&mut self) {
        for index in std::mem::take(&mut self.unsettled) {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            room.is_unsettled = false;
            let handle = (index, room.serial);
            self.sequence(handle, Cause::Stream, |room, out| room.settle(out));
        }
    }

    pub(super) fn start_reads(&mut self) {
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

    pub(super) fn read(&mut self, handle: Handle, result: Result<Tail, ReadError>) {
        self.reading -= 1;
        let server = self.rooms.current(handle).and_then(|room| room.server);
        let is_replaced = self.is_replaced(server);
        let Some(room) = self.rooms.current(handle) else {
            return;
        };
        let tail = match result {
            Ok(_) if is_replaced => None,
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
        if tail.is_some() {
            let mut servers = self.servers.iter_mut();
            if let Some(server) = servers.find(|one| Some(one.id) == room.server) {
                server.retries.answered(Instant::now());
            }
        }
        self.sequence(handle, Cause::Stream, |room, out| room.read(tail, out));
    }

    pub(super) async fn send(&self, shard: ShardId, supply: Supply) {
        // A shard that has ended needs nothing.
        if let Some(inlet) = self.inlets.get(shard) {
            let _ = inlet.send(supply).await;
        }
    }

    pub(super) async fn flush(&mut self) {
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
                let fan_out = match &out {
                    Out::Items(items) => {
                        let events = items.iter().filter_map(Item::event);
                        self.shared.traces.fan_out(&name, events)
                    }
                    _ => None,
                };
                for &shard in &shards {
                    let room = name.clone();
                    let supply = match &out {
                        Out::Joined(head) => Supply::Joined { room, head: *head },
                        Out::Items(items) => Supply::Append {
                            room,
                            items: items.clone(),
                            fan_out: fan_out.clone(),
                        },
                        Out::Reset(reset) => Supply::Reset {
                            room,
                            reset: *reset,
                        },
                        Out::Live(live) => Supply::RoomLive { room, live: *live },
                    };
                    self.send(shard, supply).await;
                }
            }
        }
        // While a shard was waited for nothing was read, so no probe can be missed.
        if began.elapsed() > self.shared.config.probe_interval {
            for server in &mut self.servers {
                server.probe_seen = Instant::now();
            }
        }
    }
}
