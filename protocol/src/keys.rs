//! Redis names: stream keys, channels and the keys beside them.

use crate::RoomName;

/// The prefix unless configured.
pub const DEFAULT_PREFIX: &str = "sse:";

/// The flags of `notify-keyspace-events` that a gateway wants: keyspace channels, stream commands,
/// expired and evicted keys, and keys that are deleted, renamed or moved.
pub const NOTIFICATION_FLAGS: [char; 5] = ['K', 't', 'x', 'e', 'g'];

/// Those without which plain `XADD`s are not announced.
const NEEDED_FLAGS: [char; 2] = ['K', 't'];

/// Whether the server's `notify-keyspace-events` has flag, or the letter that stands for it.
fn has_flag(current: &str, flag: char) -> bool {
    current.contains(flag) || (flag != 'K' && current.contains('A'))
}

/// Whether the server's `notify-keyspace-events` announces plain `XADD`s.
#[must_use]
pub fn announces_streams(current: &str) -> bool {
    NEEDED_FLAGS.into_iter().all(|flag| has_flag(current, flag))
}

/// The server's `notify-keyspace-events` with [`NOTIFICATION_FLAGS`] added; `None` where they are
/// all there. `A` stands for all classes.
#[must_use]
pub fn with_notifications(current: &str) -> Option<String> {
    let missing: String = NOTIFICATION_FLAGS
        .into_iter()
        .filter(|&flag| !has_flag(current, flag))
        .collect();
    (!missing.is_empty()).then(|| format!("{current}{missing}"))
}

/// Makes and reads the Redis names of one prefix. The prefix is what separates environments that
/// share a server: pub/sub ignores database numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Names under `prefix`, such as `sse:`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The stream key of a room, which is its channel too.
    #[must_use]
    pub fn room(&self, room: &RoomName) -> String {
        format!("{}room:{room}", self.prefix)
    }

    /// The room of a channel.
    #[must_use]
    pub fn room_from_channel(&self, channel: &[u8]) -> Option<RoomName> {
        let room = channel
            .strip_prefix(self.prefix.as_bytes())?
            .strip_prefix(b"room:")?;
        RoomName::parse(std::str::from_utf8(room).ok()?).ok()
    }

    /// The key that remembers an idempotency key; in the stream's slot.
    #[must_use]
    pub fn once(&self, room: &RoomName, idempotency_key: &str) -> String {
        format!("{{{}}}:once:{idempotency_key}", self.room(room))
    }

    /// The channel on which Redis signals changes of the room's key in a database.
    #[must_use]
    pub fn keyspace(&self, database: i64, room: &RoomName) -> String {
        format!("__keyspace@{database}__:{}", self.room(room))
    }

    /// The room of a keyspace channel, of whichever database.
    #[must_use]
    pub fn room_from_keyspace(&self, channel: &[u8]) -> Option<RoomName> {
        let rest = channel.strip_prefix(b"__keyspace@")?;
        let end = memchr::memmem::find(rest, b"__:")?;
        self.room_from_channel(&rest[end + 3..])
    }

    /// The stream of users and rooms that are disconnected.
    #[must_use]
    pub fn disconnects(&self) -> String {
        format!("{}disconnects", self.prefix)
    }

    /// The channel on which a node hears itself.
    #[must_use]
    pub fn probe(&self, node: &str) -> String {
        format!("{}probe:{node}", self.prefix)
    }

    /// The same in a cluster, where a channel belongs to one primary: numbered, so that each
    /// primary has one.
    #[must_use]
    pub fn shard_probe(&self, node: &str, number: u32) -> String {
        format!("{}probe:{node}:{number}", self.prefix)
    }
}

/// Hash slots of a Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// The hash slot of a key or a shard channel (Redis Cluster specification, "Key distribution
/// model"): CRC-16/XMODEM of the key, or of the part between its first braces.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let mut crc = 0u16;
    for &byte in tag.unwrap_or(key) {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_added_to_what_is_set() {
        assert_eq!(with_notifications("").as_deref(), Some("Ktxeg"));
        assert_eq!(with_notifications("Eg").as_deref(), Some("EgKtxe"));
        assert!(announces_streams("Kt") && announces_streams("KA") && !announces_streams("Kg"));
        assert_eq!(with_notifications("KEA"), None);
        assert_eq!(with_notifications("AE").as_deref(), Some("AEK"));
        assert_eq!(with_notifications("xKetg"), None);
    }

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` answers.
        for (key, expected) in [
            ("", 0),
            ("foo", 12182),
            ("123456789", 12739),
            ("{foo}.a", 12182),
            ("{}foo", 9500),
            ("{sse:room:a}:once:k", slot(b"sse:room:a")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        let keys = Keys::new("sse:");
        let room = RoomName::parse("a:b").unwrap();
        assert_eq!(keys.room(&room), "sse:room:a:b");
        assert_eq!(keys.once(&room, "k"), "{sse:room:a:b}:once:k");
        assert_eq!(keys.keyspace(3, &room), "__keyspace@3__:sse:room:a:b");
        assert_eq!(keys.room_from_channel(b"sse:room:a:b"), Some(room.clone()));
        assert_eq!(
            keys.room_from_keyspace(b"__keyspace@3__:sse:room:a:b"),
            Some(room)
        );
        for bad in [
            &b"sse:room:"[..],
            b"x:room:a",
            b"sse:room:a b",
            b"sse:room:\xff",
            b"sse:probe:n",
        ] {
            assert_eq!(keys.room_from_channel(bad), None);
        }
    }
}
