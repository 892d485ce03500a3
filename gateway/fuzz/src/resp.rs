//! The reader of a subscribed connection to Redis: pieces do not matter, and nothing is lost or read twice.

use bytes::BytesMut;

use crate::pushes::{Kind, command, next};

type Seen = (Kind, Vec<u8>, Vec<u8>);

/// All pushes in what comes in pieces of so many bytes; what is left; whether it broke.
fn read(bytes: &[u8], piece: usize) -> (Vec<Seen>, usize, bool) {
    let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match next(&mut buffer) {
                Ok(Some(push)) => {
                    assert!(buffer.len() < before, "a push of no bytes");
                    seen.push((push.kind, push.channel().to_vec(), push.payload().to_vec()));
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "what is not whole stays");
                    break;
                }
                Err(_) => return (seen, buffer.len(), true),
            }
        }
    }
    (seen, buffer.len(), false)
}

pub fn check(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, usize::from(*piece).max(1));
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.2, pieces.2);
    if !whole.2 {
        assert_eq!(whole.1, pieces.1);
    }
    let parts: usize = whole.0.iter().map(|(_, a, b)| a.len() + b.len()).sum();
    assert!(parts <= bytes.len(), "more came out than went in");

    // What a server writes comes back as it was, whatever stands behind it.
    let (channel, payload) = crate::cut(bytes, 64);
    let mut wire = BytesMut::new();
    command(&mut wire, &[b"smessage", channel, payload]);
    wire.extend_from_slice(bytes);
    let push = next(&mut wire).unwrap().unwrap();
    assert_eq!(
        (push.kind, push.channel(), &push.payload()[..]),
        (Kind::Message, channel, payload)
    );
    assert_eq!(wire, bytes);
}
