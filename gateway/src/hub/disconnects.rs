//! Users and rooms that were disconnected: their streams are closed, and a permission from before counts no more.
//!
//! Invariant: a disconnect is in the table before any shard is told to close streams, and a shard looks at the table when it
//! takes a stream. So a stream is either there to be closed, or not let in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use protocol::RoomName;
use tracing::warn;

use super::Terms;
use super::state::{Closed, State};
use super::subscriber::Handle;

/// The most bytes of a user's name: what is longer can be given no permission, and not be disconnected.
pub use protocol::token::MAX_USER_BYTES;
/// Users and rooms that are remembered; past it, the half that was disconnected longest ago is forgotten.
const MAX_REMEMBERED: usize = 200_000;
/// Milliseconds between looks for those who are too old to matter.
const LOOK_MS: u64 = 60_000;
/// Until `remember` says otherwise: the default of `tokens.max_age`.
const REMEMBERED_MS: u64 = 30 * 86_400_000;
/// Streams that leave in the tick in which they are told, whatever their number.
const AT_ONCE: usize = 256;
/// The others leave within so many ticks.
const TICKS: usize = 10;

/// Whose streams.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whom {
    /// Those of a user, in all rooms.
    User(Arc<str>),
    /// All of a room.
    Room(RoomName),
}

/// Why a text does not say whom to disconnect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WhomError {
    /// The user's name is empty or too long.
    #[error("a user is 1 to {MAX_USER_BYTES} bytes")]
    User,
    /// It is no room.
    #[error("{0}")]
    Room(#[from] protocol::RoomNameError),
    /// Neither a user nor a room.
    #[error("`{0}` is neither user nor room")]
    Kind(String),
}

impl Whom {
    /// Reads a field of an entry or of a request: `user` or `room`, and a name.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn read(kind: &str, name: &str) -> Result<Self, WhomError> {
        match kind {
            "user" if (1..=MAX_USER_BYTES).contains(&name.len()) => Ok(Self::User(name.into())),
            "user" => Err(WhomError::User),
            "room" => Ok(Self::Room(RoomName::parse(name)?)),
            _ => Err(WhomError::Kind(kind.chars().take(32).collect())),
        }
    }

    /// The field that names it, and the name.
    #[must_use]
    pub fn field(&self) -> (&'static str, &str) {
        match self {
            Self::User(user) => ("user", user),
            Self::Room(room) => ("room", room.as_str()),
        }
    }
}

/// An order to disconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Whose streams.
    pub whom: Whom,
    /// When it was given, in milliseconds since 1970: Redis's clock.
    pub at_ms: u64,
}

impl Disconnect {
    /// Whether a permission from then no longer counts. It is known by its second only, so one from the second of the
    /// disconnect is taken for one from before.
    fn covers(at_ms: u64, issued: u64) -> bool {
        Self::covers_stream(at_ms, issued, 0)
    }

    /// The same for an open stream, whose permission may be from before although it says that it is from so many seconds
    /// later: clocks differ. Whoever has a later one comes back, and is let in.
    fn covers_stream(at_ms: u64, issued: u64, leeway: u64) -> bool {
        issued <= (at_ms / 1000).saturating_add(leeway)
    }
}

/// Who was disconnected when, for as long as a permission from before may be shown. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Disconnects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: RwLock<Table>,
    /// Nothing is in the table: the usual case, which costs no lock.
    empty: AtomicBool,
    remember_ms: AtomicU64,
    forgotten: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    times: HashMap<Whom, Ordered>,
    /// When what is too old was looked for.
    looked: u64,
}

/// When somebody was disconnected, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Ordered {
    /// By Redis's clock.
    at_ms: u64,
    /// When this node heard of it, by its own clock.
    noted_ms: u64,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            table: RwLock::default(),
            empty: AtomicBool::new(true),
            remember_ms: AtomicU64::new(REMEMBERED_MS),
            forgotten: AtomicU64::default(),
        }
    }
}

impl Disconnects {
    /// How long one is remembered: the age at which a token no longer counts by itself.
    pub fn remember(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.0.remember_ms.store(time, Ordering::Relaxed);
    }

    /// Takes note, and gives those that were not known, for the shards. `now_ms` is milliseconds since 1970.
    #[must_use]
    pub fn note(&self, orders: Vec<Disconnect>, now_ms: u64) -> Vec<Disconnect> {
        let first = now_ms.saturating_sub(self.0.remember_ms.load(Ordering::Relaxed));
        let mut table = self.0.table.write();
        let Table { times, looked } = &mut *table;
        let mut news = Vec::new();
        for order in orders {
            let known = times.get(&order.whom);
            if order.at_ms >= first && known.is_none_or(|known| known.at_ms < order.at_ms) {
                let ordered = Ordered {
                    at_ms: order.at_ms,
                    noted_ms: now_ms,
                };
                times.insert(order.whom.clone(), ordered);
                news.push(order);
            }
        }
        if now_ms.saturating_sub(*looked) > LOOK_MS || times.len() > MAX_REMEMBERED {
            *looked = now_ms;
            times.retain(|_, known| known.at_ms >= first);
            times.shrink_to_fit();
        }
        if times.len() > MAX_REMEMBERED {
            let mut all: Vec<u64> = times.values().map(|known| known.at_ms).collect();
            let half = all.len() / 2;
            let (_, &mut median, _) = all.select_nth_unstable(half);
            let before = times.len();
            times.retain(|_, known| known.at_ms > median);
            let forgotten = before - times.len();
            self.0
                .forgotten
                .fetch_add(forgotten as u64, Ordering::Relaxed);
            warn!(
                forgotten,
                "More users and rooms were disconnected than a node remembers: tokens from before may count again for those of the longest ago, at most for tokens.max_age."
            );
        }
        self.0.empty.store(times.is_empty(), Ordering::Release);
        news
    }

    /// Orders that were forgotten while they mattered still, because there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.0.forgotten.load(Ordering::Relaxed)
    }

    /// Whether permission on these terms was given before its user, or the room, was disconnected.
    #[must_use]
    pub fn refuse(&self, room: &RoomName, terms: &Terms) -> bool {
        self.find(room, terms, |known| known.at_ms)
    }

    /// The same for what a backend has answered to this node, which knows by its own clock when that was, and when it heard
    /// of the disconnect: Redis's clock may be another.
    #[must_use]
    pub fn refuse_answer(&self, room: &RoomName, terms: &Terms) -> bool {
        self.find(room, terms, |known| known.noted_ms)
    }

    fn find(&self, room: &RoomName, terms: &Terms, at: impl Fn(&Ordered) -> u64) -> bool {
        let Some(issued) = terms.issued else {
            return false;
        };
        if self.0.empty.load(Ordering::Acquire) {
            return false;
        }
        let table = self.0.table.read();
        let covered = |whom: &Whom| {
            let known = table.times.get(whom);
            known.is_some_and(|known| Disconnect::covers(at(known), issued))
        };
        let user = terms.user.clone().map(Whom::User);
        user.is_some_and(|user| covered(&user)) || covered(&Whom::Room(room.clone()))
    }
}

/// Streams that were told to leave and have not had their turn. They leave a part at a time, so that a large room does not
/// hold up the others.
#[derive(Debug, Default)]
pub(super) struct Dismissed {
    queue: VecDeque<Handle>,
    /// Of them, how many in each tick.
    part: usize,
}

impl State {
    /// Ends the streams of these users and rooms, unless their permission is a later one.
    pub(super) fn disconnect(&mut self, orders: &[Disconnect]) {
        let leeway = self.rules.get().leeway.as_secs();
        let mut users: HashMap<&str, u64> = HashMap::new();
        let mut keys: HashSet<u32> = HashSet::new();
        for order in orders {
            match &order.whom {
                Whom::User(user) => {
                    let at = users.entry(user).or_default();
                    *at = order.at_ms.max(*at);
                }
                Whom::Room(room) => {
                    let members = self.by_name.get(room).map(|&key| &self.rooms[key].members);
                    let members = members.into_iter().flatten();
                    keys.extend(members.filter(|&&key| {
                        let owner = self.owners.get(key as usize);
                        owner.is_none_or(|owner| {
                            Disconnect::covers_stream(order.at_ms, owner.issued.into(), leeway)
                        })
                    }));
                }
            }
        }
        if !users.is_empty() {
            let owned = self.owners.iter().filter(|(_, owner)| {
                let at = users.get(&**owner.user());
                at.is_some_and(|&at| Disconnect::covers_stream(at, owner.issued.into(), leeway))
            });
            keys.extend(owned.map(|(key, _)| key as u32));
        }
        let handles = keys
            .into_iter()
            .filter_map(|key| Some((key, self.subscribers.get(key as usize)?.serial)));
        self.dismissed.queue.extend(handles);
        self.dismissed.part = self.dismissed.queue.len().div_ceil(TICKS).max(AT_ONCE);
        self.dismiss_some();
    }

    /// One tick: those whose turn it is.
    pub(super) fn dismiss_some(&mut self) {
        for _ in 0..self.dismissed.part {
            let Some(handle) = self.dismissed.queue.pop_front() else {
                return;
            };
            self.dismiss(handle, Closed::Disconnected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(kind: &str, name: &str, at_ms: u64) -> Disconnect {
        let whom = Whom::read(kind, name).unwrap();
        Disconnect { whom, at_ms }
    }

    fn terms(user: Option<&str>, issued: Option<u64>) -> Terms {
        Terms {
            user: user.map(Into::into),
            issued,
            ends: None,
        }
    }

    #[test]
    fn what_is_from_before_counts_no_more_and_what_is_later_does() {
        let (table, demo) = (Disconnects::default(), RoomName::parse("demo").unwrap());
        let now = 0;
        let first = vec![
            order("user", "ann", 1_000_500),
            order("room", "demo", 2_000_000),
        ];
        assert_eq!(table.note(first.clone(), now), first);
        // Read again, or told by a server that is behind.
        assert_eq!(table.note(first, now), []);
        assert_eq!(table.note(vec![order("user", "ann", 900_000)], now), []);
        let other = RoomName::parse("other").unwrap();
        for (room, user, issued, refused) in [
            (&other, Some("ann"), Some(999), true),
            (&other, Some("ann"), Some(1000), true),
            (&other, Some("ann"), Some(1001), false),
            (&other, Some("ann"), Some(0), true),
            (&other, Some("bob"), Some(0), false),
            (&other, None, Some(0), false),
            (&demo, Some("bob"), Some(2000), true),
            (&demo, None, Some(2000), true),
            (&demo, None, Some(2001), false),
            // Nobody in particular, in a room that anyone may be in.
            (&demo, None, None, false),
        ] {
            let terms = terms(user, issued);
            assert_eq!(table.refuse(room, &terms), refused, "{room} {terms:?}");
        }
        table.remember(Duration::from_secs(10));
        let later = 1_000_500 + 10_001;
        assert_eq!(table.note(Vec::new(), later), []);
        assert!(!table.refuse(&other, &terms(Some("ann"), Some(0))));
        assert!(table.refuse(&demo, &terms(None, Some(0))));
        assert_eq!(table.note(vec![order("user", "bob", 1)], later), []);
    }

    #[test]
    fn a_backends_answer_is_from_before_by_the_nodes_own_clock() {
        let (table, demo) = (Disconnects::default(), RoomName::parse("demo").unwrap());
        // The node's clock is ahead of Redis's.
        let orders = vec![order("user", "ann", 100_000)];
        assert_eq!(table.note(orders, 107_000).len(), 1);
        for (issued, refused) in [(105, true), (107, true), (108, false)] {
            let terms = terms(Some("ann"), Some(issued));
            assert_eq!(table.refuse_answer(&demo, &terms), refused, "{issued}");
            assert!(!table.refuse(&demo, &terms));
        }
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let table = Disconnects::default();
        let orders = (0..=MAX_REMEMBERED).map(|at| order("user", &at.to_string(), at as u64));
        assert_eq!(table.note(orders.collect(), 0).len(), MAX_REMEMBERED + 1);
        let kept = table.0.table.read().times.len();
        assert!(kept <= MAX_REMEMBERED / 2);
        assert_eq!(table.forgotten(), (MAX_REMEMBERED + 1 - kept) as u64);
        let last = Whom::User(MAX_REMEMBERED.to_string().into());
        assert!(table.0.table.read().times.contains_key(&last));
    }

    #[test]
    fn whom_is_a_user_or_a_room() {
        for (kind, name) in [
            ("user", ""),
            ("user", &"x".repeat(MAX_USER_BYTES + 1)[..]),
            ("room", "a b"),
            ("node", "n1"),
        ] {
            assert!(Whom::read(kind, name).is_err(), "{kind} {name}");
        }
        assert_eq!(Whom::read("user", "ä b").unwrap().field(), ("user", "ä b"));
    }
}
