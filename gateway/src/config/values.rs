//! How values are written: durations, addresses, switches and lists, from TOML and from the
//! environment's strings alike.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serializer};

/// Units, the largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `250ms`, `15s`, `5m`, `12h`, `1d` and `0`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() {
        return (number == 0).then_some(Duration::ZERO);
    }
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that fits, so that [`parse_duration`] reads it back.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    UNITS
        .iter()
        .find(|(_, factor)| millis % factor == 0)
        .map_or_else(String::new, |(unit, factor)| {
            format!("{}{unit}", millis / factor)
        })
}

/// Durations as strings.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_duration(*value))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text).ok_or_else(|| {
            de::Error::custom(format_args!(
                "`{text}` is not a duration such as 250ms, 15s, 5m or 1d"
            ))
        })
    }
}

fn parse_address<E: de::Error>(text: &str) -> Result<SocketAddr, E> {
    text.parse().map_err(|_| {
        E::custom(format_args!(
            "`{text}` is not an address and port such as 127.0.0.1:8080 or [::]:8080"
        ))
    })
}

/// An address and port.
pub(super) mod address {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &SocketAddr,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SocketAddr, D::Error> {
        parse_address(&String::deserialize(from)?)
    }
}

/// An address and port, or nothing.
pub(super) mod optional_address {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<SocketAddr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => to.collect_str(address),
            None => to.serialize_str(""),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            Ok(None)
        } else {
            parse_address(&text).map(Some)
        }
    }
}

/// `true`, `false` or `"auto"`.
pub(super) mod switch {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<bool>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_bool(*value),
            None => to.serialize_str("auto"),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<bool>, D::Error> {
        struct Switch;

        impl Visitor<'_> for Switch {
            type Value = Option<bool>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"auto\"")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Some(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "auto" => Ok(None),
                    "true" => Ok(Some(true)),
                    "false" => Ok(Some(false)),
                    _ => Err(E::custom(format_args!(
                        "`{text}` is none of true, false and \"auto\""
                    ))),
                }
            }
        }

        from.deserialize_any(Switch)
    }
}

/// An array of strings, or (from the environment) one string with commas. Blanks around items and
/// empty items are dropped.
pub(super) fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_any(List { keep_first: false })
}

/// The same for publish keys: a blank before the first stays, as it shows that a variable was empty (`$KEY news`).
pub(super) fn key_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_any(List { keep_first: true })
}

struct List {
    /// The blanks before the first item stay.
    keep_first: bool,
}

impl<'de> Visitor<'de> for List {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let items = text.split(',').enumerate().map(|(at, item)| match at {
            0 if self.keep_first => item.trim_end(),
            _ => item.trim(),
        });
        let items = items.filter(|item| !item.is_empty());
        Ok(items.map(str::to_owned).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
}
