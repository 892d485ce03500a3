//! The W3C trace context that travels with an event: <https://www.w3.org/TR/trace-context/>.

use std::fmt;

/// Name of the HTTP header and of the entry's field.
pub const TRACEPARENT: &str = "traceparent";
/// The bit of [`TraceParent::flags`] that says that the trace is recorded.
pub const SAMPLED: u8 = 1;

/// Which trace an event belongs to, and the span that published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Not all zeros.
    pub trace_id: [u8; 16],
    /// Not all zeros.
    pub span_id: [u8; 8],
    /// See [`SAMPLED`].
    pub flags: u8,
}

impl TraceParent {
    /// Reads version 00, and what is known of later ones. `None` for anything else: a context that cannot be read
    /// is nobody's error.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let [version] = hex(text.get(..2)?)?;
        let ends = text.len() == 55 || (version > 0 && text.get(55) == Some(&b'-'));
        let dashes = [2, 35, 52].iter().all(|&at| text.get(at) == Some(&b'-'));
        if version == 0xff || !ends || !dashes {
            return None;
        }
        let read = Self {
            trace_id: hex(text.get(3..35)?)?,
            span_id: hex(text.get(36..52)?)?,
            flags: hex::<1>(text.get(53..55)?)?[0],
        };
        (read.trace_id != [0; 16] && read.span_id != [0; 8]).then_some(read)
    }

    /// Whether whoever began the trace wants it to be recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// As version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.span_id),
            self.flags
        )
    }
}

/// Lower-case digits only, as the specification says.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_comes_back() {
        let read = TraceParent::parse(TEXT.as_bytes()).unwrap();
        assert!(read.is_sampled());
        assert_eq!(read.to_string(), TEXT);
        let later = TEXT.replacen("00", "01", 1) + "-and-more";
        assert_eq!(TraceParent::parse(later.as_bytes()), Some(read));
        let off = TraceParent::parse(TEXT.replace("-01", "-00").as_bytes()).unwrap();
        assert!(!off.is_sampled());
    }

    #[test]
    fn anything_else_is_none() {
        for bad in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-more"),
            &TEXT.replacen("00", "ff", 1),
            &TEXT.to_uppercase(),
            &TEXT.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-a-b-01",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
