//! Paths.

use percent_encoding::percent_decode_str;
use protocol::RoomName;

use super::error::Failure;

/// What a path names, the prefix taken off.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file of the demo page; empty is the page itself.
    Page(String),
    Room(RoomName),
    Events(RoomName),
}

impl Target {
    /// # Errors
    /// 404: there is no such path, or no room can have this name.
    pub(super) fn read(path: &str, prefix: &str) -> Result<Self, Failure> {
        let unknown = || {
            Failure::not_found(
                "there is nothing at this path: try /rooms/{room}/events or /rooms/{room}",
            )
        };
        let rest = path
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        let Some(room) = rest.strip_prefix("rooms/") else {
            return Ok(Self::Page(rest.to_owned()));
        };
        match room.split_once('/') {
            None => Ok(Self::Room(room_name(room)?)),
            Some((room, "events")) => Ok(Self::Events(room_name(room)?)),
            Some(_) => Err(unknown()),
        }
    }

    /// What may be done there, for `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Events(_) => "GET, HEAD, POST, OPTIONS",
            Self::Page(_) | Self::Room(_) => "GET, HEAD, OPTIONS",
        }
    }
}

fn room_name(segment: &str) -> Result<RoomName, Failure> {
    let mut escapes = segment.split('%').skip(1).map(str::as_bytes);
    if !escapes.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit)) {
        return Err(Failure::not_found(
            "the room in this path has a bad percent-encoding",
        ));
    }
    let text = percent_decode_str(segment).decode_utf8_lossy();
    RoomName::parse(&text)
        .map_err(|error| Failure::not_found(format!("there is no such room: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let room = |name| RoomName::parse(name).unwrap();
        let read =
            |path, prefix| Target::read(path, prefix).map_err(|failure| failure.status.as_u16());
        assert_eq!(
            read("/rooms/demo/events", ""),
            Ok(Target::Events(room("demo")))
        );
        assert_eq!(
            read("/live/rooms/a%3Ab", "/live"),
            Ok(Target::Room(room("a:b")))
        );
        assert_eq!(read("/", ""), Ok(Target::Page(String::new())));
        assert_eq!(
            read("/live/demo/app.js", "/live"),
            Ok(Target::Page("demo/app.js".into()))
        );
        for bad in [
            "/rooms/",
            "/rooms//events",
            "/rooms/./events",
            "/rooms/%2e%2E",
            "/rooms/a%2",
            "/rooms/a%zz/events",
            "/rooms/a%2fb",
            "/rooms/a%ff",
            "/rooms/a/other",
            "/rooms/a/events/",
            "/rooms/a b",
            "*",
            "",
        ] {
            assert_eq!(read(bad, ""), Err(404), "{bad}");
        }
        assert_eq!(read("/rooms/a", "/live"), Err(404));
        assert_eq!(read("/liverooms/a", "/live"), Err(404));
        assert_eq!(read("/live", "/live"), Err(404));
    }
}
