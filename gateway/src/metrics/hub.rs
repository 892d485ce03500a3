//! The hub's counts, of all rooms and by class of rooms.

use prometheus::Registry;

use super::labelled::{Family, Labelled};
use super::{Part, Readings, part, part_of};
use crate::hub::{ClassCounters, HubCounters, Node};

const CLOSED: &str = "Event streams that ended, by why: the client went (client), it did not read (lag), the node stops (drain), its age (age), its permission ended (expired), its user or room was disconnected (disconnected), or it was not let in (limit).";
const REFUSED: &str = "Event streams that were not let in, by the limit: the node's streams (streams), a shard's rooms (rooms), the streams of the client's address (address), of the user (user) or of the room in a shard (room), those that an address opens in a second (rate), or nobody could be asked for permission (permission).";
const RESETS: &str =
    "stream.reset events sent, one for each stream, by why continuity could not be proved.";
const RESUMES: &str = "Streams that resumed a position, by what answered: the recent events of this node (log), a read of the stream (broker), or that it cannot be proved (reset).";

const FORGOTTEN: &[Part<u64>] = &[part(
    "disconnects_forgotten_total",
    "Users and rooms whose disconnect was forgotten while tokens from before may still be shown, because there were too many.",
    |forgotten| *forgotten,
)];

const COUNTERS: &[Part<HubCounters>] = &[
    part("streams_opened_total", "Event streams opened.", |c| {
        c.streams_opened
    }),
    part_of("streams_closed_total", ("reason", "client"), CLOSED, |c| {
        c.closed_client
    }),
    part_of("streams_closed_total", ("reason", "lag"), CLOSED, |c| {
        c.closed_lag
    }),
    part_of("streams_closed_total", ("reason", "drain"), CLOSED, |c| {
        c.closed_drain
    }),
    part_of("streams_closed_total", ("reason", "age"), CLOSED, |c| {
        c.closed_age
    }),
    part_of("streams_closed_total", ("reason", "expired"), CLOSED, |c| {
        c.closed_expired
    }),
    part_of(
        "streams_closed_total",
        ("reason", "disconnected"),
        CLOSED,
        |c| c.closed_disconnected,
    ),
    part_of("streams_closed_total", ("reason", "limit"), CLOSED, |c| {
        c.closed_limit
    }),
    part_of(
        "streams_refused_total",
        ("limit", "streams"),
        REFUSED,
        |c| c.refused_streams,
    ),
    part_of("streams_refused_total", ("limit", "rooms"), REFUSED, |c| {
        c.refused_rooms
    }),
    part_of(
        "streams_refused_total",
        ("limit", "address"),
        REFUSED,
        |c| c.refused_address,
    ),
    part_of("streams_refused_total", ("limit", "user"), REFUSED, |c| {
        c.refused_user
    }),
    part_of("streams_refused_total", ("limit", "room"), REFUSED, |c| {
        c.refused_room
    }),
    part_of("streams_refused_total", ("limit", "rate"), REFUSED, |c| {
        c.refused_rate
    }),
    part_of(
        "streams_refused_total",
        ("limit", "permission"),
        REFUSED,
        |c| c.refused_permission,
    ),
    part(
        "events_total",
        "Events that reached a room, counted once for each shard that has the room.",
        |c| c.events_appended,
    ),
    part(
        "deliveries_total",
        "Events times the streams that they were due to.",
        |c| c.deliveries,
    ),
    part(
        "writes_total",
        "Writes to streams. Fewer than deliveries: one write carries all that is due.",
        |c| c.writes,
    ),
    part("written_bytes_total", "Bytes written to streams.", |c| {
        c.bytes_written
    }),
    part_of("resets_total", ("reason", "trimmed"), RESETS, |c| {
        c.resets_trimmed
    }),
    part_of("resets_total", ("reason", "unknown"), RESETS, |c| {
        c.resets_unknown
    }),
    part_of("resets_total", ("reason", "future"), RESETS, |c| {
        c.resets_future
    }),
    part_of("resets_total", ("reason", "malformed"), RESETS, |c| {
        c.resets_malformed
    }),
    part_of("resets_total", ("reason", "deleted"), RESETS, |c| {
        c.resets_deleted
    }),
    part_of("resets_total", ("reason", "fork"), RESETS, |c| {
        c.resets_fork
    }),
    part_of("resumes_total", ("source", "log"), RESUMES, |c| {
        c.resumes_log
    }),
    part_of("resumes_total", ("source", "broker"), RESUMES, |c| {
        c.resumes_broker
    }),
    part_of("resumes_total", ("source", "reset"), RESUMES, |c| {
        c.resumes_reset
    }),
    part(
        "lagged_total",
        "Times a stream fell behind the recent events of its room and went on from the broker.",
        |c| c.lagging,
    ),
    part(
        "room_log_evicted_total",
        "Events that left the recent events of a room.",
        |c| c.log_evicted,
    ),
];

const GAUGES: &[Part<HubCounters>] = &[
    part("streams_open", "Event streams open now.", |c| {
        c.streams_open
    }),
    part(
        "rooms",
        "Rooms with a subscriber, counted once for each shard.",
        |c| c.rooms,
    ),
    part(
        "room_log_bytes",
        "Bytes of recent events that this node keeps.",
        |c| c.log_bytes,
    ),
    part(
        "streams_stalled",
        "Event streams that take no bytes now while some are due.",
        |c| c.stalled,
    ),
    part(
        "stalled_bytes",
        "Bytes that stalled streams are behind, all together.",
        |c| c.stalled_bytes,
    ),
    part(
        "drain_streams",
        "Event streams that were open when the node began to close them; 0 before.",
        |c| c.drain_streams,
    ),
    part(
        "drain_streams_left",
        "Of those, how many are still open.",
        |c| c.drain_left,
    ),
];

const CLASS_COUNTERS: &[Family<ClassCounters>] = &[
    Family {
        name: "class_events_total",
        help: "Events that reached a room, counted once for each shard that has the room, by class of rooms.",
        read: |c| c.events as f64,
    },
    Family {
        name: "class_deliveries_total",
        help: "Events times the streams that they were due to, by class of rooms.",
        read: |c| c.deliveries as f64,
    },
];

const CLASS_GAUGES: &[Family<ClassCounters>] = &[Family {
    name: "class_streams_open",
    help: "Event streams open now, by class of rooms.",
    read: |c| c.streams_open as f64,
}];

/// Registers the hub's counts.
///
/// # Errors
/// The names are taken.
pub fn register_hub(registry: &Registry, node: Node) -> prometheus::Result<()> {
    let classes = node.class_names().to_vec();
    if !classes.is_empty() {
        let node = node.clone();
        let read = move || node.class_counters();
        let label = ("class", classes);
        Labelled::register(registry, label, read, CLASS_COUNTERS, CLASS_GAUGES)?;
    }
    let disconnects = node.disconnects().clone();
    let read = move || Some(disconnects.forgotten());
    Readings::register(registry, read, FORGOTTEN, &[])?;
    let read = move || Some(node.counters());
    Readings::register(registry, read, COUNTERS, GAUGES)
}
