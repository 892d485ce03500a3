//! What is published: from arguments or from lines of standard input, checked before it is sent.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, Read};

use protocol::{RoomName, event};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::cli::Format;
use crate::target::Failure;
use crate::trace::{Trace, Traces};

/// Lines that are read ahead at most.
const READ_AHEAD: usize = 256;
/// The most bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 256;
/// JSON writes a byte as six at worst (`\u0041`); the rest is for the envelope itself.
const ENVELOPE_FACTOR: usize = 6;
const ENVELOPE_EXTRA: usize = 4096;

/// An event that follows the rules, ready to be sent, and sent again with the same key.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where it goes.
    pub room: RoomName,
    /// Empty for an unnamed event.
    pub event: String,
    /// The data.
    pub data: String,
    /// Idempotency key; not used for an ephemeral event.
    pub key: String,
    /// The key was given, not made here.
    pub own_key: bool,
    /// Delivered, not stored.
    pub ephemeral: bool,
    /// Line of standard input.
    pub line: Option<u64>,
    /// The trace that it belongs to.
    pub trace: Trace,
}

impl Outgoing {
    /// The event as a JSON object, as it is published over HTTP.
    #[must_use]
    pub fn envelope(&self) -> serde_json::Value {
        if self.event.is_empty() {
            serde_json::json!({ "data": self.data })
        } else {
            serde_json::json!({ "event": self.event, "data": self.data })
        }
    }

    /// Where it came from, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        self.line
            .map_or_else(String::new, |line| format!("line {line}: "))
    }
}

/// Makes events, with the same rules and defaults for all.
#[derive(Debug)]
pub struct Maker {
    /// Room of events that name none.
    pub room: RoomName,
    /// Name for events that have none.
    pub event: String,
    /// What a line is.
    pub format: Format,
    /// The most bytes of data.
    pub max_bytes: usize,
    /// Given idempotency key.
    pub key: Option<String>,
    /// Delivered, not stored.
    pub ephemeral: bool,
    /// Keys may only have what an HTTP header may have.
    pub printable_keys: bool,
    /// Where random keys begin.
    pub random: RandomKeys,
    /// Whose spans events have.
    pub traces: Traces,
}

impl Maker {
    /// The one event of the arguments.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn single(&mut self, data: String) -> Result<Outgoing, Failure> {
        let envelope = Envelope {
            data,
            key: self.key.clone(),
            ..Envelope::default()
        };
        self.checked(envelope, None)
    }

    /// The event of a line, if it holds one.
    ///
    /// # Errors
    /// It breaks a rule; the sentence names the line.
    pub fn line(&mut self, line: Line) -> Result<Option<Outgoing>, Failure> {
        let number = line.number;
        self.read(line).map_err(|failure| Failure {
            sentence: format!("line {number}: {}", failure.sentence),
            ..failure
        })
    }

    fn read(&mut self, line: Line) -> Result<Option<Outgoing>, Failure> {
        let text = line.text?;
        let begins = text.trim_start();
        if begins.is_empty() && self.format != Format::Text {
            return Ok(None);
        }
        let json = match self.format {
            Format::Auto => begins.starts_with('{'),
            Format::Json => true,
            Format::Text => false,
        };
        let mut envelope = if json {
            Envelope::read(begins)?
        } else {
            Envelope {
                data: text,
                ..Envelope::default()
            }
        };
        let numbered = || {
            self.key
                .as_ref()
                .map(|key| format!("{key}:{}", line.number))
        };
        envelope.key = envelope.key.or_else(numbered);
        self.checked(envelope, Some(line.number)).map(Some)
    }

    fn checked(&mut self, envelope: Envelope, line: Option<u64>) -> Result<Outgoing, Failure> {
        let Envelope {
            room,
            event,
            data,
            key,
        } = envelope;
        let room = match room {
            Some(room) => {
                RoomName::parse(&room).map_err(|error| Failure::refused(error.to_string()))?
            }
            None => self.room.clone(),
        };
        let event = event.unwrap_or_else(|| self.event.clone());
        event::check(event.as_bytes(), data.as_bytes(), self.max_bytes)
            .map_err(|error| Failure::refused(error.to_string()))?;
        if let Some(key) = &key {
            if self.ephemeral {
                return Err(Failure::refused(
                    "an ephemeral event has no idempotency key",
                ));
            }
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(Failure::refused("an idempotency key has 1 to 256 bytes"));
            }
            if self.printable_keys && !key.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                return Err(Failure::refused(
                    "over HTTP an idempotency key is made of printable ASCII characters",
                ));
            }
        }
        let own_key = key.is_some();
        Ok(Outgoing {
            trace: self.traces.event(&room),
            room,
            event,
            data,
            key: key.unwrap_or_else(|| self.random.next_key()),
            own_key,
            ephemeral: self.ephemeral,
            line,
        })
    }
}

/// Idempotency keys that nobody else makes: 128 random bits for the process, then a number.
#[derive(Debug)]
pub struct RandomKeys {
    process: String,
    count: u64,
}

impl RandomKeys {
    /// The randomness is the operating system's: publishers that start at the same moment on
    /// many machines must not share keys, or events would be lost.
    #[must_use]
    pub fn new() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            process: format!("{:016x}{:016x}", random(), random()),
            count: 0,
        }
    }

    fn next_key(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.process, self.count)
    }
}

/// A JSON line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Envelope {
    room: Option<String>,
    event: Option<String>,
    data: String,
    key: Option<String>,
}

impl Envelope {
    fn read(text: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Members<'a> {
            #[serde(default)]
            room: Option<String>,
            #[serde(default)]
            event: Option<String>,
            #[serde(borrow)]
            data: &'a RawValue,
            #[serde(default)]
            idempotency_key: Option<String>,
        }
        let bad = |error: serde_json::Error| {
            // The position would name line 1 of a text of one line.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            Failure::refused(format!(
                "it is not a JSON object with data and perhaps event, room and idempotency_key: {reason} (column {})",
                error.column()
            ))
        };
        if !text.starts_with('{') {
            return Err(Failure::refused("it is not a JSON object"));
        }
        let members: Members<'_> = serde_json::from_str(text).map_err(bad)?;
        let data = match members.data.get() {
            string if string.starts_with('"') => serde_json::from_str(string).map_err(bad)?,
            other => compact(other),
        };
        Ok(Self {
            room: members.room,
            event: members.event,
            data,
            key: members.idempotency_key,
        })
    }
}

/// JSON without the blanks between its tokens. Numbers and the order of members stay as they were
/// written.
fn compact(json: &str) -> String {
    let (mut string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let blank = !string && c.is_ascii_whitespace();
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = string,
            '"' => string = !string,
            _ => {}
        }
        !blank
    };
    json.chars().filter(keep).collect()
}

/// A line of standard input, without its end.
#[derive(Debug)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// Or why it cannot be one.
    pub text: Result<String, Failure>,
}

/// Reads lines on a thread of their own, because standard input cannot be waited for otherwise.
/// Ends with the input, or after a line that cannot be read.
#[must_use]
pub fn lines(max_bytes: usize) -> mpsc::Receiver<Line> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let cap = max_bytes
        .saturating_mul(ENVELOPE_FACTOR)
        .saturating_add(ENVELOPE_EXTRA);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        for number in 1.. {
            let text = match next_line(&mut input, cap) {
                Ok(Some(text)) => Ok(text),
                Ok(None) => return,
                Err(failure) => Err(failure),
            };
            let last = text.is_err();
            if sender.blocking_send(Line { number, text }).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// The next line, if there is one. Never holds more than `cap` bytes of it.
fn next_line(input: &mut impl BufRead, cap: usize) -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(2);
    input
        .take(limit)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::other(format!("standard input cannot be read: {error}")))?;
    match line.pop() {
        None => return Ok(None),
        Some(b'\n') if line.last() == Some(&b'\r') => {
            line.pop();
        }
        Some(b'\n') => {}
        Some(last) => line.push(last),
    }
    if line.len() > cap {
        return Err(Failure::refused(format!("it has more than {cap} bytes")));
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| Failure::refused(protocol::EventError::NotUtf8.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_ends_and_a_limit() {
        let mut input = &b"a\r\n\nb\rc\n12345678\n\xff"[..];
        let mut next = || next_line(&mut input, 8).map_err(|failure| failure.sentence);
        for line in ["a", "", "b\rc", "12345678"] {
            assert_eq!(next(), Ok(Some(line.to_owned())));
        }
        assert!(next().unwrap_err().contains("UTF-8"));
        assert_eq!(next(), Ok(None));
        for long in [&b"123456789\n"[..], &[b'x'; 100]] {
            assert!(next_line(&mut &*long, 8).is_err());
        }
    }

    #[test]
    fn data_of_any_type_is_text() {
        for (line, data) in [
            (r#"{"data":"a\u0041\n"}"#, "aA\n"),
            (
                r#"{"data":12345678901234567890123}"#,
                "12345678901234567890123",
            ),
            (
                r#"{"data": {"b": "x \" y", "a": [1.50,  null]}}"#,
                r#"{"b":"x \" y","a":[1.50,null]}"#,
            ),
            (r#"{"data":null,"event":null}"#, "null"),
        ] {
            assert_eq!(Envelope::read(line).unwrap().data, data);
        }
    }

    #[test]
    fn random_keys_differ() {
        let (mut a, mut b) = (RandomKeys::new(), RandomKeys::new());
        let keys = [a.next_key(), a.next_key(), b.next_key()];
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && a.process != b.process);
    }
}
