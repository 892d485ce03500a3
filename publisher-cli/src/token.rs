//! `sse-publish token`: makes tokens, and says what one says. Never needs a network.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::{Explain, Token};
use crate::report;
use crate::target::Failure;

mod explain;
mod make;

/// Larger files are no keys, and longer input is no token, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Does it.
///
/// # Errors
/// One sentence. It quotes nothing of a key.
pub fn run(token: &Token) -> Result<(), Failure> {
    match token {
        Token::Make(make) => {
            report::print(&make::make(make, now())?);
            Ok(())
        }
        Token::Explain(explain) => {
            let text = token_text(explain)?;
            let found = explain::explain(explain, text.trim(), now())?;
            report::print(&found.text);
            match found.refused {
                None => Ok(()),
                Some(why) => Err(Failure::new(crate::target::FailureKind::Forbidden, why)),
            }
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn token_text(explain: &Explain) -> Result<String, Failure> {
    match explain.token.as_deref() {
        Some(token) if token != "-" => return Ok(token.to_owned()),
        _ => {}
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("sse-publish: paste the token, and end with Ctrl-D");
    }
    let mut text = String::new();
    let read = stdin.lock().take(MAX_FILE_BYTES).read_to_string(&mut text);
    read.map_err(|error| Failure::other(format!("standard input cannot be read: {error}")))?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::other(format!("{} cannot be read: {error}", path.display()));
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut text)
        .map_err(failed)?;
    Ok(text)
}

/// A sentence about a key's file.
fn about(path: &Path, clause: &str) -> Failure {
    Failure::refused(format!("{} {clause}", path.display()))
}
