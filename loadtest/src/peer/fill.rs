//! Placeholders in a system's description.

use std::io;

use tempfile::TempDir;

use super::{PeerError, Surroundings, System};
use crate::target::Request;

/// What placeholders stand for.
pub(super) struct Fill {
    system: String,
    values: Vec<(&'static str, String)>,
}

impl Fill {
    pub(super) fn new(
        system: &System,
        around: &Surroundings,
        directory: &TempDir,
        ports: [u16; 3],
    ) -> io::Result<Self> {
        let itself = std::env::current_exe()?.display().to_string();
        let gateway = around.gateway.display().to_string();
        let program = match (&around.program, system.program.as_str()) {
            (Some(program), _) => program.display().to_string(),
            (None, "@self@") => itself.clone(),
            (None, "@gateway@") => gateway.clone(),
            (None, program) => program.to_owned(),
        };
        let mut values = vec![
            ("program", program),
            ("self", itself),
            ("gateway", gateway),
            ("dir", directory.path().display().to_string()),
            ("port", ports[0].to_string()),
            ("port2", ports[1].to_string()),
            ("port3", ports[2].to_string()),
            ("shards", around.shards.max(1).to_string()),
        ];
        if let Some(redis) = &around.redis {
            values.push(("redis", redis.clone()));
        }
        if let Some(keys) = &around.keys {
            values.push(("keys", keys.display().to_string()));
        }
        Ok(Self {
            system: system.name.clone(),
            values,
        })
    }

    pub(super) fn unknown(&self, name: &str) -> PeerError {
        PeerError::Placeholder {
            system: self.system.clone(),
            name: name.to_owned(),
            hint: if name == "redis" {
                ": it needs a Redis server"
            } else {
                ""
            },
        }
    }

    pub(super) fn text(&self, text: &str) -> Result<String, PeerError> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('@') {
            let (before, after) = rest.split_at(at);
            out.push_str(before);
            let word = after[1..]
                .split_once('@')
                .map(|(word, _)| word)
                .filter(|word| {
                    !word.is_empty()
                        && word
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                });
            let Some(word) = word else {
                out.push('@');
                rest = &after[1..];
                continue;
            };
            let value = self.values.iter().find(|(name, _)| *name == word);
            out.push_str(&value.ok_or_else(|| self.unknown(word))?.1);
            rest = &after[word.len() + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }

    pub(super) fn request(&self, request: &Request) -> Result<Request, PeerError> {
        let headers = request.headers.iter();
        let headers = headers.map(|(name, value)| Ok((name.clone(), self.text(value)?)));
        Ok(Request {
            method: request.method.clone(),
            path: self.text(&request.path)?,
            headers: headers.collect::<Result<_, PeerError>>()?,
            body: self.text(&request.body)?,
        })
    }
}
