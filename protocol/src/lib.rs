//! What every sse-gateway program agrees on: room names, event ids, events and their limits,
//! Redis key and channel names, the bytes on a channel, the publish function, and event-stream
//! bytes in both directions. Knows neither tokio nor a Redis client, but for `servers`, which the programs that connect to
//! Redis turn on. `token` is what those share that make or check JSON Web Tokens.

pub mod disconnects;
pub mod envelope;
pub mod event;
pub mod event_id;
pub mod keys;
pub mod last_event_id;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod pattern;
pub mod publish;
pub mod room;
#[cfg(feature = "servers")]
pub mod servers;
pub mod sse;
#[cfg(feature = "tokens")]
pub mod token;
pub mod trace;

pub use event::{Event, EventError};
pub use event_id::EventId;
pub use keys::Keys;
pub use last_event_id::{ForkId, LastEventId};
pub use room::{RoomName, RoomNameError};
pub use trace::TraceParent;
