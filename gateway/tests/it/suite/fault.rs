//! What goes wrong, one thing at a time.

use std::collections::HashSet;

use super::deployment::Topology;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    GatewayKilled,
    GatewayStopped,
    RedisKilled,
    RedisFrozen,
    RedisFlushed,
    /// Killed, and back without its data.
    RedisEmptied,
    PubSubKilled,
    CommandsKilled,
    LinkCut,
    LinkRefused,
    /// Both ways, new connections too; nothing is closed.
    LinkStalled,
    StalledToServer,
    StalledToClient,
    /// Connections that are open fall silent for good; new ones work.
    LinkFrozen,
    LinkDelayed,
    MessagesDropped,
    PartialWrites,
    HalfClosed,
    BufferLimit,
    TrimmedUnderSlow,
    KeyDeleted,
    KeyExpired,
    KeyEvicted,
    KeyReplaced,
    ClockBack,
    /// The room begins again with lower ids.
    ClockBackAndDeleted,
    /// A replica takes over under load.
    PrimaryKilled,
    /// Its replica has everything.
    PromotedWith,
    /// Its replica lacks the last events; with a single Redis, an older copy comes back.
    PromotedWithout,
    /// It stands still until a replica is promoted, and goes on: it takes writes beside the new one until it is demoted.
    PrimaryThawed,
    SentinelFailover,
    ClusterFailover,
    SlotMoved,
    PrimaryLost,
}

/// What a fault does beyond an interruption.
#[derive(Debug, Default)]
pub struct Effect {
    /// Rooms in which the test itself made events disappear...
    pub destroyed: HashSet<usize>,
    /// ...for this client only: all others had them.
    pub only: Option<usize>,
    /// Redis may lose what it acknowledged: a replica without the last events takes over.
    pub may_lose: bool,
    /// Streams end: a node did.
    pub cuts_streams: bool,
}

impl Effect {
    pub fn destroys(rooms: impl IntoIterator<Item = usize>) -> Self {
        Self {
            destroyed: rooms.into_iter().collect(),
            ..Self::default()
        }
    }

    pub fn may_lose() -> Self {
        Self {
            may_lose: true,
            ..Self::default()
        }
    }
}

impl Fault {
    /// Those that a deployment can have.
    pub fn of(topology: Topology) -> Vec<Self> {
        use Fault::*;
        let mut faults = vec![
            GatewayKilled,
            GatewayStopped,
            RedisKilled,
            RedisFrozen,
            RedisFlushed,
            PubSubKilled,
            CommandsKilled,
            LinkCut,
            LinkRefused,
            LinkStalled,
            StalledToServer,
            StalledToClient,
            LinkFrozen,
            LinkDelayed,
            MessagesDropped,
            PartialWrites,
            HalfClosed,
            BufferLimit,
            TrimmedUnderSlow,
            KeyDeleted,
            KeyExpired,
            KeyEvicted,
            KeyReplaced,
            ClockBack,
            ClockBackAndDeleted,
            PromotedWithout,
        ];
        match topology {
            Topology::Single => faults.push(RedisEmptied),
            Topology::Sentinel => {
                faults.extend([PrimaryKilled, PromotedWith, PrimaryThawed, SentinelFailover]);
            }
            Topology::Cluster => {
                faults.extend([
                    PrimaryKilled,
                    PromotedWith,
                    PrimaryThawed,
                    ClusterFailover,
                    SlotMoved,
                    PrimaryLost,
                ]);
            }
        }
        faults
    }
}
