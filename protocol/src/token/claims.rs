//! What a token says, as far as the gateway listens.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{MAX_PATTERNS, MAX_USER_BYTES, PUBLISH, SUBSCRIBE, Times};
use crate::RoomName;
use crate::pattern::{fits, is_pattern};

/// The claims of a token (RFC 7519, section 4.1). Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: whose it is.
    pub user: Option<Arc<str>>,
    /// `iat`: when it was made.
    pub issued: Option<u64>,
    /// `nbf`: it does not count before.
    pub not_before: Option<u64>,
    /// `exp`: it does not count from then on.
    pub expires: Option<u64>,
    /// `iss`: who made it.
    pub issuer: Option<String>,
    /// `aud`: for whom; empty where it does not say.
    pub audience: Vec<String>,
    /// To subscribe to.
    pub subscribe: Rooms,
    /// To publish in.
    pub publish: Rooms,
}

/// Patterns of rooms. None fits nothing; `*` fits all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rooms(Box<[Box<str>]>);

impl Rooms {
    /// Whether one of them fits.
    #[must_use]
    pub fn fit(&self, room: &RoomName) -> bool {
        self.0.iter().any(|pattern| fits(pattern, room.as_str()))
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|pattern| &**pattern)
    }

    /// Bytes that they take, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|pattern| pattern.len() + size_of::<Box<str>>())
            .sum()
    }

    fn read(name: &str, value: Option<&Value>) -> Result<Self, String> {
        let list = match value {
            // Some languages write an empty list so.
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(format!("`{name}` is not a list of patterns of rooms")),
        };
        if list.len() > MAX_PATTERNS {
            return Err(format!(
                "`{name}` has more than {MAX_PATTERNS} patterns of rooms"
            ));
        }
        let pattern = |value: &Value| match value {
            Value::String(pattern) if is_pattern(pattern) => Ok(pattern.as_str().into()),
            _ => Err(format!(
                "`{name}` has what is not a pattern of rooms such as chat:*"
            )),
        };
        Ok(Self(list.iter().map(pattern).collect::<Result<_, _>>()?))
    }
}

impl Claims {
    /// Reads them; `claim` is the one with the rooms.
    ///
    /// # Errors
    /// A clause that says which of them is not what it has to be. It quotes nothing of the token.
    pub fn read(payload: &[u8], claim: &str) -> Result<Self, String> {
        let all: Map<String, Value> = serde_json::from_slice(payload)
            .map_err(|_| "its claims are not a JSON object".to_owned())?;
        let empty = Map::new();
        let rooms = match all.get(claim) {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(rooms)) => rooms,
            Some(_) => {
                return Err(format!(
                    "`{claim}` is not an object such as {{\"{SUBSCRIBE}\": [\"chat:*\"], \"{PUBLISH}\": []}}"
                ));
            }
        };
        let of = |name| {
            Rooms::read(name, rooms.get(name)).map_err(|error| format!("{error}, in `{claim}`"))
        };
        Ok(Self {
            user: text(&all, "sub")?.map(user).transpose()?,
            issued: time(&all, "iat")?,
            not_before: time(&all, "nbf")?,
            expires: time(&all, "exp")?,
            issuer: text(&all, "iss")?.map(str::to_owned),
            audience: audience(&all)?,
            subscribe: of(SUBSCRIBE)?,
            publish: of(PUBLISH)?,
        })
    }

    /// When they count.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            issued: self.issued.unwrap_or(0),
            not_before: self.not_before.unwrap_or(0),
            expires: self.expires.unwrap_or(0),
        }
    }
}

fn text<'a>(all: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match all.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is not a string")),
    }
}

fn user(text: &str) -> Result<Arc<str>, String> {
    if (1..=MAX_USER_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.into())
    } else {
        Err(format!(
            "`sub` is not 1 to {MAX_USER_BYTES} bytes without control characters"
        ))
    }
}

/// A `NumericDate` may have a fraction (RFC 7519, section 2).
fn time(all: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    /// No clock goes further, and below it every fraction has an exact whole part.
    const MOST: f64 = (1_u64 << 53) as f64;
    match all.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(time), _) => Ok(Some(time)),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is in range"
            )]
            (None, Some(time)) if (0.0..MOST).contains(&time) => Ok(Some(time as u64)),
            _ => Err(format!("`{name}` is not a time in seconds since 1970")),
        },
        Some(_) => Err(format!("`{name}` is not a number of seconds since 1970")),
    }
}

/// One, or a list (RFC 7519, section 4.1.3).
fn audience(all: &Map<String, Value>) -> Result<Vec<String>, String> {
    let wrong = || "`aud` is neither a string nor a list of strings".to_owned();
    match all.get("aud") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let one = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
            list.iter().map(one).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Claims, String> {
        Claims::read(json.as_bytes(), "sse")
    }

    #[test]
    fn claims_say_who_when_and_where() {
        let claims = read(
            r#"{"sub":"ann","iat":1,"exp":1700000000.9,"aud":["a","b"],"sse":{"subscribe":["chat:*"],"publish":null}}"#,
        );
        let claims = claims.unwrap();
        assert_eq!(claims.user.as_deref(), Some("ann"));
        assert_eq!(
            (claims.issued, claims.expires),
            (Some(1), Some(1_700_000_000))
        );
        assert_eq!(claims.audience, ["a", "b"]);
        let room = |name| RoomName::parse(name).unwrap();
        assert!(claims.subscribe.fit(&room("chat:1")) && !claims.subscribe.fit(&room("news")));
        assert!(!claims.publish.fit(&room("chat:1")));
        let nothing = read("{}").unwrap();
        assert!(!nothing.subscribe.fit(&room("a")) && !nothing.publish.fit(&room("a")));
        assert!(
            read(r#"{"sse":{"subscribe":["*"]}}"#)
                .unwrap()
                .subscribe
                .fit(&room("a"))
        );
    }

    #[test]
    fn wrong_types_are_named_and_not_quoted() {
        let many = format!(
            r#"{{"sse":{{"subscribe":["{}"]}}}}"#,
            ["a"; 65].join("\",\"")
        );
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(257));
        for (json, word) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            (r#"{"sub":7}"#, "`sub`"),
            (r#"{"sub":""}"#, "`sub`"),
            (&long, "`sub`"),
            (r#"{"sub":"a\nb"}"#, "`sub`"),
            (r#"{"exp":"soon"}"#, "`exp`"),
            (r#"{"exp":-1}"#, "`exp`"),
            (r#"{"nbf":1e300}"#, "`nbf`"),
            (r#"{"iat":null}"#, "`iat`"),
            (r#"{"iss":[]}"#, "`iss`"),
            (r#"{"aud":{}}"#, "`aud`"),
            (r#"{"aud":["a",1]}"#, "`aud`"),
            (r#"{"sse":["chat:*"]}"#, "`sse`"),
            (r#"{"sse":{"subscribe":"chat:*"}}"#, "`subscribe`"),
            (r#"{"sse":{"subscribe":[1]}}"#, "`subscribe`"),
            (r#"{"sse":{"publish":["secret room"]}}"#, "`publish`"),
            (r#"{"sse":{"publish":[""]}}"#, "`publish`"),
            (&many, "more than 64"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
            assert!(
                !error.contains("secret") && !error.contains("soon"),
                "{error}"
            );
        }
    }
}
