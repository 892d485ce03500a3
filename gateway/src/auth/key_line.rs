//! Lines with a publish key each, and files of them.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use protocol::pattern::is_pattern;

/// Written before a digest in place of a key.
const DIGEST_PREFIX: &str = "sha256:";
/// Bytes that a key has at least where others can try: 16 random ones are found by nobody, and few names of rooms are as long,
/// so that `$KEY news` without a KEY is not taken for a key either.
pub const MIN_KEY_BYTES: usize = 16;
/// The most bytes of a file with keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A SHA-256 digest.
type Digest = [u8; SHA256_OUTPUT_LEN];

/// A key, and where it may publish.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PublishKey {
    pub(super) digest: Digest,
    /// Patterns of rooms; none is any room.
    pub(super) rooms: Vec<String>,
}

/// A key line without the key: what of it may be shown.
#[must_use]
pub fn without_key(line: &str) -> String {
    let rooms = line.split_ascii_whitespace().skip(1);
    std::iter::once("***")
        .chain(rooms)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether the key of a line can be guessed by trying.
#[must_use]
pub fn is_short(line: &str) -> bool {
    let key = line.split_ascii_whitespace().next().unwrap_or_default();
    key.len() < MIN_KEY_BYTES
}

/// The keys of a file with a line for each; empty lines and those that begin with `#` are comments.
///
/// # Errors
/// What is wrong with the file, or with which line of it, without the key.
pub(super) fn read_file(path: &str, least: usize) -> Result<Vec<PublishKey>, String> {
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not text (UTF-8)".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    if std::fs::metadata(path).map_err(cannot)?.len() > MAX_FILE_BYTES {
        return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let is_key = |line: &str| !line.is_empty() && !line.starts_with('#');
    let lines = text.lines().enumerate();
    let keys: Vec<PublishKey> = lines
        .filter(|(_, line)| is_key(line.trim()))
        .map(|(at, line)| {
            read_line(line, least).map_err(|reason| format!("line {}: {reason}", at + 1))
        })
        .collect::<Result<_, _>>()?;
    // More likely half written than meant.
    if keys.is_empty() {
        return Err("there is no key in it".to_owned());
    }
    Ok(keys)
}

/// # Errors
/// What is wrong with it, without the key.
pub(super) fn read_line(line: &str, least: usize) -> Result<PublishKey, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let key = words.next().ok_or("it is empty")?;
    if line.starts_with([' ', '\t']) {
        return Err(
            "it begins with a blank, as `$KEY news` does where KEY is not set: the key stands first in its line",
        );
    }
    if !key.bytes().all(|c| c.is_ascii_graphic()) {
        return Err("it is not printable ASCII");
    }
    let digest = match key.strip_prefix(DIGEST_PREFIX) {
        Some(hex) => read_hex(hex).ok_or("`sha256:` is not followed by 64 hexadecimal digits")?,
        // As in `$KEY chat:*` without a KEY.
        None if key.contains('*') => {
            return Err(
                "its key has a `*`, like a pattern of rooms: the key must stand before them",
            );
        }
        None if key.len() < least => {
            return Err(
                "its key has less than 16 bytes, and others can reach the node: whoever tries finds it, so take a long random one \
                 (openssl rand -hex 32)",
            );
        }
        None => digest_of(key.as_bytes()),
    };
    if digest == digest_of(b"") {
        return Err("`sha256:` is followed by the digest of nothing: it was made without a key");
    }
    let rooms: Vec<String> = words.map(str::to_owned).collect();
    if !rooms.iter().all(|pattern| is_pattern(pattern)) {
        return Err("what follows the key is not a pattern of rooms such as chat:*");
    }
    Ok(PublishKey { digest, rooms })
}

pub(super) fn digest_of(key: &[u8]) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, key).as_ref());
    bytes
}

fn read_hex(text: &str) -> Option<Digest> {
    let mut bytes = Digest::default();
    if text.len() != 2 * bytes.len() || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
