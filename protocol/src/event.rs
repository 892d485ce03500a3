//! Events and their limits.

use bytes::Bytes;

/// Event names that begin with this are the gateway's own.
pub const CONTROL_PREFIX: &str = "stream.";
/// The most bytes an event name may have.
pub const MAX_EVENT_NAME_BYTES: usize = 256;
/// The most bytes of an event's data by default.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 64 * 1024;

/// One event as programs hand it around. `name` and `data` are UTF-8 (checked by whoever makes
/// the value); both are slices of the buffer that they arrived in, so a clone copies no text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Given by Redis; an ephemeral event has none.
    pub id: Option<EventId>,
    /// The id of the entry before it, where the publish function wrote it down.
    pub prev: Option<EventId>,
    /// Empty for an unnamed event (`message` in a browser).
    pub name: Bytes,
    /// The data, without any escaping.
    pub data: Bytes,
    /// The trace that it belongs to, where its publisher named one.
    pub trace: Option<TraceParent>,
}

use crate::{EventId, TraceParent};

/// Why an event cannot be published, or why a stored entry is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The name begins with `stream.`.
    #[error("event names that begin with 'stream.' are the gateway's own: choose another name")]
    Reserved,
    /// The name has CR, LF or NUL.
    #[error("an event name must not contain CR, LF or NUL")]
    NameCharacter,
    /// The name is over [`MAX_EVENT_NAME_BYTES`].
    #[error("an event name has at most {MAX_EVENT_NAME_BYTES} bytes")]
    NameTooLong,
    /// Name or data is not UTF-8.
    #[error("event name and data must be UTF-8 text")]
    NotUtf8,
    /// Data is over the limit.
    #[error("event data has {actual} bytes, over the limit of {limit}")]
    TooLarge {
        /// Bytes of data.
        actual: usize,
        /// The limit in force.
        limit: usize,
    },
}

/// Checks an event name; an empty one is fine.
///
/// # Errors
/// [`EventError`] says which rule was broken.
pub fn check_name(name: &[u8]) -> Result<(), EventError> {
    if name.len() > MAX_EVENT_NAME_BYTES {
        return Err(EventError::NameTooLong);
    }
    if name.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return Err(EventError::NameCharacter);
    }
    if name.starts_with(CONTROL_PREFIX.as_bytes()) {
        return Err(EventError::Reserved);
    }
    std::str::from_utf8(name)
        .map(|_| ())
        .map_err(|_| EventError::NotUtf8)
}

/// Checks name, size and encoding of an event that is to be published or was received.
///
/// # Errors
/// [`EventError`] says which rule was broken.
pub fn check(name: &[u8], data: &[u8], max_data_bytes: usize) -> Result<(), EventError> {
    check_name(name)?;
    if data.len() > max_data_bytes {
        return Err(EventError::TooLarge {
            actual: data.len(),
            limit: max_data_bytes,
        });
    }
    std::str::from_utf8(data)
        .map(|_| ())
        .map_err(|_| EventError::NotUtf8)
}
