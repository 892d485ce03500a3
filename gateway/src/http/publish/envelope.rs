//! An event as a JSON object: `{"event": "chat", "data": "hi", "ephemeral": false}`, of which only `data` must be there.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What an object says. Names, size and encoding of the event are for [`protocol::event::check`].
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Empty for an unnamed event.
    pub name: String,
    /// A string's text; anything else as JSON, without blanks between its tokens.
    pub data: Vec<u8>,
    /// It is not to be stored.
    pub ephemeral: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(default)]
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    ephemeral: bool,
}

impl Envelope {
    /// Reads a request body.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let text =
            std::str::from_utf8(body).map_err(|_| protocol::EventError::NotUtf8.to_string())?;
        let bad = |error: serde_json::Error| {
            format!(
                "the request body is not a JSON object with data and perhaps event and ephemeral: {error}"
            )
        };
        if !text.trim_start().starts_with('{') {
            return Err(
                "the request body is JSON, but not an object such as {\"event\":\"chat\",\"data\":\"hi\"}; to publish it as it is, send it as text/plain"
                    .to_owned(),
            );
        }
        let Members {
            event,
            data,
            ephemeral,
        } = serde_json::from_str(text).map_err(bad)?;
        let data = match data.get() {
            string if string.starts_with('"') => serde_json::from_str::<String>(string)
                .map_err(bad)?
                .into_bytes(),
            other => compact(other),
        };
        Ok(Self {
            name: event.unwrap_or_default(),
            data,
            ephemeral,
        })
    }
}

/// JSON without the blanks between its tokens. Numbers and the order of members stay as they were
/// written.
fn compact(json: &str) -> Vec<u8> {
    let (mut string, mut escaped) = (false, false);
    let keep = |b: &u8| {
        let blank = !string && b.is_ascii_whitespace();
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = string,
            b'"' => string = !string,
            _ => {}
        }
        !blank
    };
    json.bytes().filter(keep).collect()
}
