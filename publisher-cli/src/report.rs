//! What the user sees: ids on standard output, progress and trouble on standard error.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use protocol::RoomName;

use crate::cli;
use crate::target::{Failure, Receipt};

/// Tells what happens.
#[derive(Debug)]
pub struct Report {
    json: bool,
    many: bool,
    bar: ProgressBar,
    in_trouble: bool,
    published: u64,
    repeats: u64,
    last_id: Option<String>,
}

impl Report {
    /// With a progress display if events come from a file or pipe and standard error is a
    /// terminal.
    #[must_use]
    pub fn new(cli: &cli::Publish) -> Self {
        let many = cli.data.is_none();
        let typed = std::io::stdin().is_terminal();
        let shared = cli.json && std::io::stdout().is_terminal();
        let bar = if many && !typed && !shared && std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self {
            json: cli.json,
            many,
            bar,
            in_trouble: false,
            published: 0,
            repeats: 0,
            last_id: None,
        }
    }

    /// An event was taken.
    pub fn published(&mut self, room: &RoomName, receipt: &Receipt) {
        if self.in_trouble {
            self.in_trouble = false;
            self.bar.set_message("");
        }
        self.published += 1;
        self.repeats += u64::from(receipt.repeat);
        self.bar.inc(1);
        if self.json {
            let mut line = serde_json::json!({
                "room": room.as_str(),
                "id": receipt.id,
                "repeat": receipt.repeat,
            });
            if let Some(replicas) = receipt.replicas {
                line["replicas"] = replicas.into();
            }
            show(&format!("{line}\n"));
        } else if let (false, Some(id)) = (self.many, &receipt.id) {
            show(&format!("{id}\n"));
        }
        self.last_id.clone_from(&receipt.id);
    }

    /// Something has to be tried again; told once per outage.
    pub fn trouble(&mut self, sentence: &str) {
        if self.in_trouble {
            return;
        }
        self.in_trouble = true;
        if self.bar.is_hidden() {
            tell(&format!("trying again: {sentence}"));
        } else {
            self.bar.set_message(format!("trying again: {sentence}"));
        }
    }

    /// Help for someone who types.
    pub fn hint(&self, text: &str) {
        tell(text);
    }

    /// How many events were taken so far.
    pub fn count(&self) -> String {
        count(self.published, "event")
    }

    /// Everything is through, or nothing more will be.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        if self.json {
            return;
        }
        let mut line = format!("published {}", self.count());
        if self.repeats > 0 {
            line += &format!(", of which {}", count(self.repeats, "repeat"));
        }
        if let Some(id) = &self.last_id {
            line += &format!("; last id {id}");
        }
        show(&(line + "\n"));
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn style() -> ProgressStyle {
    let template = if cli::no_color() {
        "{spinner} {human_pos} events, {rate}, {elapsed} {wide_msg}"
    } else {
        "{spinner:.cyan} {human_pos:.bold} events, {rate}, {elapsed} {wide_msg:.yellow}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        })
}

/// Prints to standard output.
pub fn print(text: &str) -> ExitCode {
    show(text);
    ExitCode::SUCCESS
}

/// Prints why nothing more is done; to machines too.
pub fn fail(failure: &Failure, json: bool) -> ExitCode {
    if json {
        let line = serde_json::json!({ "error": failure.sentence });
        show(&format!("{line}\n"));
    }
    tell(&failure.sentence);
    ExitCode::from(failure.exit_code())
}

/// Whoever reads may stop reading: what is to be published is published all the same.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn tell(sentence: &str) {
    let _ = writeln!(std::io::stderr().lock(), "sse-publish: {sentence}");
}
