//! What a person sees while a run goes on: one line on standard error that is drawn anew.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar, or nothing where nobody looks.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
}

impl Progress {
    /// A bar on standard error; none where it is not a terminal or the user wants none.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            quiet,
        }
    }

    /// Begins a phase of `length` steps.
    pub fn phase(&mut self, name: &str, length: u64) {
        self.bar.finish_and_clear();
        if self.quiet {
            return;
        }
        self.bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>12} {bar:30} {pos}/{len} {msg}");
        if let Ok(style) = style {
            self.bar.set_style(style.progress_chars("━╸ "));
        }
        self.bar.set_prefix(name.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Where the phase is, and what to say beside it.
    pub fn step(&self, position: u64, message: String) {
        self.bar.set_position(position);
        self.bar.set_message(message);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
