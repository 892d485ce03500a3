//! What an event of a run carries, so that a client can tell which one it is and how late it comes.
//!
//! The data is `sselt:<room>:<number>:<due>:<sample>:` and then the sample. `room` is the room's index,
//! `number` counts the room's events from 1, `due` is the moment in nanoseconds at which the event was to be
//! published: measured from there, a publisher that was held up hides nothing.

use memchr::memmem;

const MARK: &[u8] = b"sselt:";

/// The head of an event's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The room's index.
    pub room: u32,
    /// The event's number in its room, from 1.
    pub number: u64,
    /// When it was due, on [`crate::clock::now`].
    pub due: u64,
    /// Which sample follows.
    pub sample: u32,
}

/// A payload is not what was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled;

/// The samples that events carry.
#[derive(Debug, Clone)]
pub struct Samples {
    samples: Vec<Vec<u8>>,
}

impl Samples {
    /// One made-up sample, so that an event's data has `bytes` bytes all in all where that is enough for
    /// its head.
    #[must_use]
    pub fn of_size(bytes: usize) -> Self {
        // The head has a length of its own: it is padded up to `bytes` by `write`.
        let pad = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
        Self { samples: vec![pad] }
    }

    /// Samples from a file: one a line.
    #[must_use]
    pub fn of_lines(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty());
        Self {
            samples: lines.map(|line| line.as_bytes().to_vec()).collect(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// Writes and reads payloads; publisher and clients of a run have the same.
#[derive(Debug, Clone)]
pub struct Payloads {
    samples: Samples,
    /// Samples are cut so that the whole has this many bytes.
    size: Option<usize>,
}

impl Payloads {
    /// Payloads of `bytes` bytes, or of the lines of `file` whole.
    #[must_use]
    pub fn new(bytes: usize, file: Option<&str>) -> Self {
        match file.map(Samples::of_lines).filter(|s| !s.is_empty()) {
            Some(samples) => Self {
                samples,
                size: None,
            },
            None => Self {
                samples: Samples::of_size(bytes),
                size: Some(bytes),
            },
        }
    }

    /// The data of an event.
    #[must_use]
    pub fn write(&self, room: u32, number: u64, due: u64) -> String {
        let sample = number as usize % self.samples.len();
        let mut data = format!("sselt:{room}:{number}:{due}:{sample}:");
        let tail = self.tail(sample, data.len());
        data.push_str(&String::from_utf8_lossy(tail));
        data
    }

    fn tail(&self, sample: usize, head: usize) -> &[u8] {
        let whole = &self.samples.samples[sample];
        match self.size {
            Some(size) => &whole[..size.saturating_sub(head)],
            None => whole,
        }
    }

    /// Reads the data of an event as it reached a client. `None` is an event that no run published: a control
    /// event, or something of the server's own.
    ///
    /// # Errors
    /// It begins as a payload and is not one.
    pub fn read(&self, data: &[u8]) -> Result<Option<Head>, Garbled> {
        // A server may wrap the data in something of its own.
        let at = if data.starts_with(MARK) {
            0
        } else {
            match memmem::find(data, MARK) {
                Some(at) => at,
                None => return Ok(None),
            }
        };
        let payload = &data[at..];
        let mut rest = &payload[MARK.len()..];
        let room = number(&mut rest)?;
        let event = number(&mut rest)?;
        let due = number(&mut rest)?;
        let sample = number(&mut rest)?;
        let known = usize::try_from(sample)
            .ok()
            .filter(|&s| s < self.samples.len());
        let (Some(known), Ok(room)) = (known, u32::try_from(room)) else {
            return Err(Garbled);
        };
        let tail = self.tail(known, payload.len() - rest.len());
        // Inside something else the sample may be escaped: then only its head is checked.
        let whole = if at == 0 {
            rest == tail
        } else {
            self.size.is_none() || rest.starts_with(tail)
        };
        if !whole {
            return Err(Garbled);
        }
        Ok(Some(Head {
            room,
            number: event,
            due,
            sample: known as u32,
        }))
    }
}

/// Decimal digits and a colon.
fn number(rest: &mut &[u8]) -> Result<u64, Garbled> {
    let mut value: u64 = 0;
    for (at, &byte) in rest.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                value = value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                    .ok_or(Garbled)?;
            }
            b':' if at > 0 => {
                *rest = &rest[at + 1..];
                return Ok(value);
            }
            _ => return Err(Garbled),
        }
    }
    Err(Garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let payloads = Payloads::new(200, None);
        let data = payloads.write(7, 12, 345);
        assert_eq!(data.len(), 200);
        let head = Head {
            room: 7,
            number: 12,
            due: 345,
            sample: 0,
        };
        assert_eq!(payloads.read(data.as_bytes()), Ok(Some(head)));
        let wrapped = format!("{{\"pub\":{{\"data\":\"{data}\"}}}}");
        assert_eq!(payloads.read(wrapped.as_bytes()), Ok(Some(head)));
        assert_eq!(
            Payloads::new(5, None).read(Payloads::new(5, None).write(7, 12, 345).as_bytes()),
            Ok(Some(head))
        );
    }

    #[test]
    fn what_was_not_published_is_told_from_what_was_changed() {
        let payloads = Payloads::new(100, None);
        let data = payloads.write(7, 12, 345);
        assert_eq!(payloads.read(b"{\"live\":true}"), Ok(None));
        assert_eq!(payloads.read(&data.as_bytes()[..99]), Err(Garbled));
        assert_eq!(
            payloads.read(data.replace("xy", "yx").as_bytes()),
            Err(Garbled)
        );
        assert_eq!(payloads.read(format!("{data}.").as_bytes()), Err(Garbled));
        assert_eq!(payloads.read(b"sselt:7:x:"), Err(Garbled));
        assert_eq!(
            payloads.read(b"sselt:7:99999999999999999999999:1:0:"),
            Err(Garbled)
        );
    }

    #[test]
    fn samples_of_a_file_are_taken_in_turn() {
        let payloads = Payloads::new(0, Some("{\"a\":1}\n\n{\"b\":2}\n"));
        let (one, two) = (payloads.write(0, 1, 9), payloads.write(0, 2, 9));
        assert!(one.ends_with("{\"b\":2}") && two.ends_with("{\"a\":1}"));
        assert!(
            payloads
                .read(one.as_bytes())
                .is_ok_and(|head| head.is_some())
        );
    }
}
