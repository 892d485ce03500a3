//! Requests of the load tool, as the bare servers read them: HTTP/1.1 of a known shape, not of any client.

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Whether it publishes.
    pub(super) is_post: bool,
    /// The room of `/rooms/{room}/events`; the whole path where it has another form.
    pub(super) room: &'a str,
    /// The body.
    pub(super) body: &'a [u8],
    /// Its bytes.
    pub(super) length: usize,
}

/// Reads a request; `None` while it is not complete.
pub(super) fn read(bytes: &[u8]) -> Option<Request<'_>> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let body = bytes.get(end..end + length.unwrap_or(0))?;
    Some(Request {
        is_post: method == "POST",
        room: room(path),
        body,
        length: end + body.len(),
    })
}

/// The room of `/rooms/{room}/events`; the whole path where it has another form.
pub(super) fn room(path: &str) -> &str {
    let room = path
        .strip_prefix("/rooms/")
        .and_then(|rest| rest.strip_suffix("/events"));
    room.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_once_they_are_complete() {
        let bytes = b"POST /rooms/a/events HTTP/1.1\r\nHost: x\r\ncontent-length: 2\r\n\r\nhiGET ";
        let complete = bytes.len() - 4;
        assert!((0..complete).all(|end| read(&bytes[..end]).is_none()));
        let request = read(bytes).unwrap();
        assert_eq!(
            (request.is_post, request.room, request.body),
            (true, "a", b"hi".as_slice())
        );
        assert_eq!(request.length, complete);
        assert_eq!(read(b"GET /x HTTP/1.1\r\n\r\n").unwrap().room, "/x");
    }
}
