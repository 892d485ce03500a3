//! Publish keys: for backends that publish over HTTP. A node has no key in its memory, only digests of them.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderValue, header};
use protocol::RoomName;
use protocol::pattern::fits;
use tracing::{error, info};

use super::{Refusal, RefusalKind};

pub use super::key_line::{MIN_KEY_BYTES, is_short, without_key};
use super::key_line::{PublishKey, digest_of, read_file, read_line};

/// Keys, and where each may publish: those of the configuration, and those of files. `Debug` hides the digests: of a weak
/// key they tell too much.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PublishKeys {
    lines: Vec<PublishKey>,
    files: Vec<KeyFile>,
}

#[derive(Clone, PartialEq, Eq)]
struct KeyFile {
    path: String,
    /// Bytes that each key in it has at least.
    least: usize,
    /// As of the last time that it could be used.
    keys: Vec<PublishKey>,
    /// What stands in it since the last look: it counts if it stands there at the next one too, as it may be half written.
    next: Option<Vec<PublishKey>>,
    /// Why it cannot be used now.
    fault: Option<String>,
}

/// What a request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A key that may publish here.
    Key,
    /// A key that may publish in other rooms.
    Elsewhere,
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

impl PublishKeys {
    /// Reads lines such as `KEY`, `KEY chat:* news` and `sha256:HEX chat:*`, where HEX is the SHA-256 digest of the key, and
    /// files with a line for each key, in which empty lines and those that begin with `#` are comments. A key that stands in
    /// several lines may publish where any of them says. A key that is not a digest has `least` bytes at least.
    ///
    /// # Errors
    /// A sentence that says what is wrong with which line or file, without the key.
    pub fn read(lines: &[String], files: &[String], least: usize) -> Result<Self, String> {
        for (at, line) in lines.iter().enumerate() {
            let read = read_line(line, least);
            read.map_err(|reason| format!("publish.keys, key {}: {reason}", at + 1))?;
        }
        let keys = Self::new(lines, files, least);
        for KeyFile { path, fault, .. } in &keys.files {
            if let Some(fault) = fault {
                return Err(format!("publish.key_files names `{path}`: {fault}"));
            }
        }
        Ok(keys)
    }

    /// The same without errors: what cannot be used is left out, and a file may come to be usable.
    #[must_use]
    pub fn new(lines: &[String], files: &[String], least: usize) -> Self {
        let file = |path: &String| {
            let (keys, fault) = match read_file(path, least) {
                Ok(keys) => (keys, None),
                Err(fault) => (Vec::new(), Some(fault)),
            };
            KeyFile {
                path: path.clone(),
                least,
                keys,
                next: None,
                fault,
            }
        };
        let lines = lines.iter().filter_map(|line| read_line(line, least).ok());
        Self {
            lines: lines.collect(),
            files: files.iter().map(file).collect(),
        }
    }

    /// Goes on with what `before` knew of the same files: those that cannot be used now are logged, and what has changed counts
    /// once the next look has found the same.
    pub(super) fn inherit(&mut self, before: &Self) {
        for file in &mut self.files {
            if let Some(fault) = &file.fault {
                error!(
                    file = file.path,
                    fault, "A file of publish keys cannot be used: its last keys go on to count."
                );
            }
            let known = before.files.iter().find(|known| known.path == file.path);
            if let Some(known) = known
                && known.keys != file.keys
            {
                let keys = std::mem::replace(&mut file.keys, known.keys.clone());
                file.next = file.fault.is_none().then_some(keys);
            }
        }
    }

    /// Files that cannot be used now.
    pub(super) fn faults(&self) -> usize {
        let files = self.files.iter();
        files.filter(|file| file.fault.is_some()).count()
    }

    /// Reads the files again. What has changed counts once two looks in a row have found the same. A file that cannot be used
    /// now leaves its keys as they were, and is logged once. `None` where nothing has changed. Blocks for as long as the disk
    /// does.
    #[must_use]
    pub(super) fn again(&self) -> Option<Self> {
        let mut now = self.clone();
        for file in &mut now.files {
            match read_file(&file.path, file.least) {
                Ok(keys) if keys == file.keys => (file.next, file.fault) = (None, None),
                Ok(keys) if file.next.as_ref() == Some(&keys) => {
                    info!(file = file.path, "The publish keys of a file have changed.");
                    (file.keys, file.next, file.fault) = (keys, None, None);
                }
                Ok(keys) => file.next = Some(keys),
                Err(fault) => {
                    file.next = None;
                    if file.fault.as_ref() != Some(&fault) {
                        error!(
                            file = file.path,
                            fault,
                            "A file of publish keys cannot be used: its last keys go on to count."
                        );
                    }
                    file.fault = Some(fault);
                }
            }
        }
        (now != *self).then_some(now)
    }

    /// Whether there is a file to look at from time to time.
    #[must_use]
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &PublishKey> {
        let files = self.files.iter().flat_map(|file| &file.keys);
        self.lines.iter().chain(files)
    }

    pub(super) fn find(&self, room: &RoomName, headers: &HeaderMap) -> Found {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        match (shown.next().map(bearer), shown.next()) {
            (Some(Some(key)), None) => self.look_up(room, key),
            (Some(_), _) => Found::Other,
            (None, _) => Found::Nothing,
        }
    }

    /// Compares with every key, whatever is found on the way: the time taken tells nothing.
    fn look_up(&self, room: &RoomName, key: &[u8]) -> Found {
        if key.is_empty() {
            return Found::Other;
        }
        let shown = digest_of(key);
        let mut found = Found::Other;
        for one in self.all() {
            let same = verify_slices_are_equal(&shown, &one.digest).is_ok();
            let here = one.rooms.is_empty()
                || one.rooms.iter().any(|pattern| fits(pattern, room.as_str()));
            found = match (same, here, found) {
                (true, true, _) | (_, _, Found::Key) => Found::Key,
                (true, false, _) => Found::Elsewhere,
                (false, _, found) => found,
            };
        }
        found
    }

    /// What to say to whom no rule lets in.
    pub(super) fn refusal(&self, found: Found) -> Refusal {
        if self.all().next().is_none() {
            return Refusal::new(
                RefusalKind::Forbidden,
                "not_configured",
                "publishing in this room over HTTP is not configured: set publish.keys, or name the room in access.publish",
            );
        }
        match found {
            Found::Nothing => Refusal::new(
                RefusalKind::Missing,
                "missing",
                "publishing in this room needs `Authorization: Bearer KEY` with one of publish.keys, or a rule in access.publish",
            ),
            Found::Elsewhere => Refusal::new(
                RefusalKind::Forbidden,
                "room",
                "the key in `Authorization: Bearer KEY` may not publish in this room: its line of publish.keys names other rooms",
            ),
            Found::Key | Found::Other => Refusal::new(
                RefusalKind::Invalid,
                "unknown_key",
                "the key in `Authorization: Bearer KEY` is none of publish.keys",
            ),
        }
    }
}

impl std::fmt::Debug for PublishKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublishKeys({})", self.all().count())
    }
}

/// The credentials of `Authorization: Bearer` (RFC 6750, section 2.1).
#[must_use]
pub fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<PublishKeys, String> {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        PublishKeys::read(&lines, &[], 0)
    }

    fn with(value: &'static str) -> HeaderMap {
        [(header::AUTHORIZATION, HeaderValue::from_static(value))]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_key_is_known_or_the_answer_says_what_to_send() {
        let demo = RoomName::parse("demo").unwrap();
        let keys = read(&["k1", "key2"]).unwrap();
        let mut two = with("Bearer k1");
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer no"));
        for (shown, found, label) in [
            (HeaderMap::new(), Found::Nothing, "missing"),
            (with("Bearer no"), Found::Other, "unknown_key"),
            (with("Bearer "), Found::Other, "unknown_key"),
            (with("Bearer k"), Found::Other, "unknown_key"),
            (with("Basic key2"), Found::Other, "unknown_key"),
            (two, Found::Other, "unknown_key"),
            (with("bearer key2"), Found::Key, "unknown_key"),
        ] {
            assert_eq!(keys.find(&demo, &shown), found, "{shown:?}");
            assert_eq!(keys.refusal(found).label, label);
        }
        let refusal = PublishKeys::default().refusal(Found::Nothing);
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
        assert!(refusal.sentence.contains("publish.keys"));
        assert_eq!(format!("{keys:?}"), "PublishKeys(2)");
    }

    #[test]
    fn a_key_counts_in_the_rooms_of_any_of_its_lines() {
        // printf secret | sha256sum
        let digest = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let digest = format!("{digest} news");
        let keys = read(&["one chat:* lobby", &digest, "one stock", "any"]).unwrap();
        let find = |room: &str, value| keys.find(&RoomName::parse(room).unwrap(), &with(value));
        for (room, value, found) in [
            ("chat:1", "Bearer one", Found::Key),
            ("lobby", "Bearer one", Found::Key),
            ("stock", "Bearer one", Found::Key),
            ("chat", "Bearer one", Found::Elsewhere),
            ("news", "Bearer secret", Found::Key),
            ("lobby", "Bearer secret", Found::Elsewhere),
            ("news", "Bearer any", Found::Key),
            (
                "news",
                "Bearer sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
                Found::Other,
            ),
            ("chat:1", "Bearer chat:*", Found::Other),
        ] {
            assert_eq!(find(room, value), found, "{room} {value}");
        }
        let refusal = keys.refusal(Found::Elsewhere);
        assert_eq!(
            (refusal.kind, refusal.label),
            (RefusalKind::Forbidden, "room")
        );
    }

    #[test]
    fn bad_lines_are_named_without_the_key() {
        for (lines, number) in [
            (&["good", ""][..], "key 2"),
            (&["secret a/b"], "key 1"),
            (&["secr\u{e9}t"], "key 1"),
            (&["sha256:secret"], "key 1"),
            (
                &["sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a2 secret"],
                "key 1",
            ),
            (&["good", "secret:*"], "key 2"),
            (&["secr*t news"], "key 1"),
            (&["good", " secret"], "key 2"),
            (&["\tsecret news"], "key 1"),
            // printf '' | sha256sum
            (
                &["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
                "key 1",
            ),
        ] {
            let error = read(lines).unwrap_err();
            assert!(
                error.starts_with("publish.keys") && error.contains(number),
                "{error}"
            );
            assert!(!error.contains("secr"), "{error}");
        }
        assert_eq!(without_key("secret chat:* lobby"), "*** chat:* lobby");
        assert!(is_short("secret789012345 chat:* lobby") && !is_short("secret7890123456"));
    }

    #[test]
    fn where_others_can_try_a_key_is_long() {
        let read = |line: &str| PublishKeys::read(&[line.to_owned()], &[], MIN_KEY_BYTES);
        let error = read("secret789012345 news").unwrap_err();
        assert!(
            error.contains("16 bytes") && !error.contains("secret"),
            "{error}"
        );
        assert!(read("secret7890123456 news").is_ok());
        // What it is of cannot be told.
        let digest = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert!(read(digest).is_ok());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys").to_str().unwrap().to_owned();
        std::fs::write(&path, "secret7890123456\n").unwrap();
        let keys = PublishKeys::read(&[], std::slice::from_ref(&path), MIN_KEY_BYTES).unwrap();
        for bad in ["secret\n", " news:of-the-last-century\n"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(keys.again().unwrap().faults(), 1, "{bad}");
        }
    }

    #[test]
    fn files_are_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys").to_str().unwrap().to_owned();
        let files = [path.clone()];
        assert!(
            PublishKeys::read(&[], &files, 0)
                .unwrap_err()
                .contains(&path)
        );
        std::fs::write(&path, "# ours\n\none chat:*\r\nsha256:no\n").unwrap();
        let error = PublishKeys::read(&[], &files, 0).unwrap_err();
        assert!(error.contains("line 4"), "{error}");
        std::fs::write(&path, "  # ours\n \none chat:*\r\n").unwrap();
        let first = PublishKeys::read(&["inline".to_owned()], &files, 0).unwrap();
        assert!(first.has_files() && first.again().is_none());
        let chat = RoomName::parse("chat:1").unwrap();
        let find = |keys: &PublishKeys, value| keys.find(&chat, &with(value));
        assert_eq!(find(&first, "Bearer one"), Found::Key);
        // Caught while it is written: what counts is what two looks find.
        for (half, faults) in [("tw", 0), ("", 1), ("# keys\n", 1)] {
            std::fs::write(&path, half).unwrap();
            let halfway = first.again().unwrap();
            assert_eq!(find(&halfway, "Bearer one"), Found::Key);
            assert_eq!(find(&halfway, "Bearer tw"), Found::Other);
            assert_eq!(halfway.faults(), faults);
        }
        let mut anew = PublishKeys::new(&["inline".to_owned()], &files, 0);
        assert_eq!(find(&anew, "Bearer one"), Found::Other);
        anew.inherit(&first);
        assert_eq!(find(&anew, "Bearer one"), Found::Key);
        std::fs::write(&path, "two").unwrap();
        let mut anew = PublishKeys::new(&["inline".to_owned()], &files, 0);
        anew.inherit(&first);
        assert_eq!(find(&anew, "Bearer two"), Found::Other);
        assert_eq!(find(&anew.again().unwrap(), "Bearer two"), Found::Key);
        let second = first.again().unwrap().again().unwrap();
        assert_eq!(find(&second, "Bearer one"), Found::Other);
        assert_eq!(find(&second, "Bearer two"), Found::Key);
        assert_eq!(find(&second, "Bearer inline"), Found::Key);
        std::fs::remove_file(&path).unwrap();
        let third = second.again().unwrap();
        assert_eq!(find(&third, "Bearer two"), Found::Key);
        assert!(third.again().is_none(), "the same fault is told once");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(third.again().unwrap(), second);
        assert!(second.again().is_none());
    }
}
