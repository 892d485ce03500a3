//! What was found, as lines for people or as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Works, until something else happens.
    Warning,
    /// Events are lost or late, or will be.
    Problem,
}

impl Level {
    const ALL: [Self; 4] = [Self::Problem, Self::Warning, Self::Note, Self::Ok];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    /// The escape sequence of its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Note => "\x1b[36m",
            Self::Warning => "\x1b[33m",
            Self::Problem => "\x1b[31m",
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The address of a server, or the deployment.
    pub server: String,
    /// Which check it is, in one word.
    pub check: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What is so, and what follows from it.
    pub says: String,
    /// What to do about it: a command, a setting or a sentence. Empty for nothing.
    #[serde(rename = "do")]
    pub remedy: String,
}

impl Finding {
    /// A finding with nothing to do about it; `server` is filled in later.
    pub(super) fn new(check: &'static str, level: Level, says: impl Into<String>) -> Self {
        Self {
            server: String::new(),
            check,
            level,
            says: says.into(),
            remedy: String::new(),
        }
    }

    /// The same with something to do.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Everything that was found.
#[derive(Debug, Clone)]
pub struct Report {
    findings: Vec<Finding>,
    unreachable: bool,
}

impl Report {
    /// `unreachable`: no server could be asked at all.
    pub(super) fn new(findings: Vec<Finding>, unreachable: bool) -> Self {
        Self {
            findings,
            unreachable,
        }
    }

    /// All findings, server by server.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether no server could be asked at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether there is a [`Level::Problem`].
    #[must_use]
    pub fn has_problems(&self) -> bool {
        let mut levels = self.findings.iter().map(|finding| finding.level);
        levels.any(|level| level == Level::Problem)
    }

    /// One line for each finding, and a summary.
    #[must_use]
    pub fn text(&self, with_colour: bool) -> String {
        let mut text = String::new();
        let wide = self.findings.iter().map(|finding| finding.server.len());
        let server_width = wide.max().unwrap_or(0);
        let wide = self.findings.iter().map(|finding| finding.check.len());
        let check_width = wide.max().unwrap_or(0);
        for finding in &self.findings {
            let level = finding.level;
            let (colour, end) = match with_colour {
                true => (level.colour(), "\x1b[0m"),
                false => ("", ""),
            };
            let (server, check) = (&finding.server, finding.check);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{colour}{:<7}{end}  {server:<server_width$}  {check:<check_width$}  {}.",
                level.label(),
                finding.says
            );
            if !finding.remedy.is_empty() {
                let _ = write!(text, " What to do: {}", finding.remedy);
            }
            text.push('\n');
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    fn summary(&self) -> String {
        let counts = Level::ALL.map(|level| {
            let count = self
                .findings
                .iter()
                .filter(|finding| finding.level == level);
            let count = count.count();
            let plural = if count == 1 || level == Level::Ok {
                ""
            } else {
                "s"
            };
            format!("{count} {}{plural}", level.label())
        });
        counts.join(", ")
    }

    /// An array of objects with `server`, `check`, `level`, `says` and `do`.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.findings).unwrap_or_default();
        text.push('\n');
        text
    }
}
