//! As much of Redis's protocol (RESP2 and RESP3) as it takes to lose a message and nothing else.

/// Channel and payload of a pub/sub message.
pub fn pushed(value: &[u8]) -> Option<(&[u8], &[u8])> {
    if !matches!(value.first(), Some(b'*' | b'>')) {
        return None;
    }
    let mut words = Vec::new();
    let mut at = line_length(value)?;
    while at < value.len() && value[at] == b'$' {
        let (head, body) = (line_length(&value[at..])?, value_length(&value[at..])?);
        words.push(&value[at + head..(at + body - 2).max(at + head)]);
        at += body;
    }
    match words[..] {
        [b"message" | b"smessage", channel, payload] | [b"pmessage", _, channel, payload] => {
            Some((channel, payload))
        }
        _ => None,
    }
}

/// Bytes of the first line with its CRLF.
fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|w| w == b"\r\n").map(|at| at + 2)
}

/// Bytes of the first whole value, `None` while it is not all there.
pub fn value_length(bytes: &[u8]) -> Option<usize> {
    let line = line_length(bytes)?;
    let number: i64 = std::str::from_utf8(&bytes[1..line - 2])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let count = usize::try_from(number).unwrap_or(0);
    let children = match bytes[0] {
        b'$' | b'!' | b'=' if number >= 0 => {
            let end = line + count + 2;
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'>' | b'~' => count,
        b'%' => 2 * count,
        b'|' => 2 * count + 1,
        _ => 0,
    };
    let mut end = line;
    for _ in 0..children {
        end += value_length(bytes.get(end..)?)?;
    }
    Some(end)
}

mod tests {
    use super::{pushed, value_length};

    #[test]
    fn values_have_the_length_that_they_have() {
        for whole in [
            "+OK\r\n",
            "$-1\r\n",
            "$2\r\na\n\r\n",
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
            "%1\r\n+a\r\n>0\r\n",
            "*-1\r\n",
        ] {
            let bytes = whole.as_bytes();
            assert_eq!(value_length(bytes), Some(bytes.len()), "{whole:?}");
            assert_eq!(
                value_length(&[bytes, b"+x"].concat()),
                Some(bytes.len()),
                "{whole:?} and more"
            );
            for cut in 0..bytes.len() {
                assert_eq!(value_length(&bytes[..cut]), None, "{whole:?} up to {cut}");
            }
        }
    }

    #[test]
    fn messages_are_told_from_replies() {
        let message = b">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        assert_eq!(pushed(message), Some((&b"c"[..], &b"hi"[..])));
        assert_eq!(pushed(b"*1\r\n$7\r\nmessage\r\n"), None);
        assert_eq!(pushed(b"+OK\r\n"), None);
    }
}
