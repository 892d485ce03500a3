//! Keys from settings and files.

use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use protocol::token::{Key, KeyLine, KeySource, read_set};

/// Keys of one place.
const MAX_KEYS: usize = 64;
/// Larger files are no keys, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys of `tokens.keys`.
///
/// # Errors
/// A sentence that says which of them cannot be used, by its number: the line holds a secret.
pub fn read_keys(lines: &[String]) -> Result<Vec<Key>, String> {
    let key = |(at, line): (usize, &String)| {
        let read = KeyLine::read(line).and_then(|line| match line.algorithm {
            Some(algorithm) => Key::new(line.id, algorithm, line.rest.as_bytes())
                .map_err(|error| format!("has a key that {error}")),
            None => Err("does not begin with an algorithm such as HS256".into()),
        });
        read.map_err(|error| format!("line {} of tokens.keys {error}", at + 1))
    };
    lines.iter().enumerate().map(key).collect()
}

/// The keys in the files of `tokens.key_files`.
///
/// # Errors
/// A sentence that says which of them cannot be used. It quotes nothing of a file.
pub fn read_files(lines: &[String]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let says = |error: String| format!("{} {error}", place(at, line));
        let file = KeyLine::read(line).map_err(says)?;
        let text = read_file(file.rest).map_err(says)?;
        match file.algorithm {
            Some(algorithm) => keys.push(Key::new(file.id, algorithm, &text).map_err(says)?),
            None => keys.extend(read_set(&text, KeySource::File, |_| {}).map_err(says)?),
        }
    }
    // Each may be tried for a token that names none.
    if keys.len() > MAX_KEYS {
        return Err(format!(
            "tokens.key_files has {} keys, more than {MAX_KEYS}",
            keys.len()
        ));
    }
    Ok(keys)
}

/// Checks the lines of `tokens.key_files`, and not the files: they are for the node that runs, and may be in the middle of
/// being replaced.
///
/// # Errors
/// A sentence that says which of them is none.
pub fn check_lines(lines: &[String]) -> Result<(), String> {
    lines.iter().enumerate().try_for_each(|(at, line)| {
        let read = KeyLine::read(line);
        read.map(drop)
            .map_err(|error| format!("{} {error}", place(at, line)))
    })
}

/// What a line is called: by its path only if it is one, because somebody may have put a secret there.
fn place(at: usize, line: &str) -> String {
    match KeyLine::read(line) {
        Ok(file)
            if file.rest.starts_with(['/', '.']) || std::fs::exists(file.rest).unwrap_or(false) =>
        {
            format!("{} of tokens.key_files", file.rest)
        }
        _ => format!("line {} of tokens.key_files", at + 1),
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() || about.len() > MAX_FILE_BYTES {
        return Err("is not a file with a key".into());
    }
    std::fs::read(path).map_err(unreadable)
}

/// What changes with a file: when, how long, and which one. `None` where there is none.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

/// Of each file.
pub(super) fn stamps(lines: &[String]) -> Vec<Stamp> {
    let stamp = |line: &String| {
        let about = std::fs::metadata(KeyLine::read(line).ok()?.rest).ok()?;
        Some((about.modified().ok()?, about.len(), about.ino()))
    };
    lines.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_and_files_are_named_without_their_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let line = |before: &str| vec![format!("{before}{}", path.display())];
        let secret = "a secret that is not long";
        for line in [secret, "HS256 a secret", "kid=1 RS256 a secret"] {
            let error = read_keys(&["HS256 0123456789abcdef0123456789abcdef".into(), line.into()])
                .unwrap_err();
            assert!(error.starts_with("line 2 of tokens.keys "), "{error}");
            assert!(
                !error.contains("secret that") && !error.contains(" a secret"),
                "{error}"
            );
        }
        assert!(
            read_files(&line("HS256 "))
                .unwrap_err()
                .contains("cannot be read")
        );
        std::fs::write(&path, secret).unwrap();
        let before = stamps(&line("HS256 "));
        for words in ["HS256 ", "kid=1 ES256 ", ""] {
            let error = read_files(&line(words)).unwrap_err();
            assert!(
                error.contains("tokens.key_files") && !error.contains(secret),
                "{error}"
            );
        }
        // A secret where a path has to be.
        for line in ["HS256 a-secret", "kid=1 a-secret"] {
            for error in [
                read_files(&[line.into()]).err(),
                check_lines(&[line.into()]).err(),
            ] {
                assert!(error.is_none_or(
                    |error| error.starts_with("line 1 ") && !error.contains("a-secret")
                ));
            }
        }
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_ne!(stamps(&line("HS256 ")), before);
        let keys = read_files(&line("kid=1 HS256 ")).unwrap();
        assert_eq!(keys[0].id.as_deref(), Some("1"));
    }
}
