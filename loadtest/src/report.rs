//! What a run found, and its views.
//!
//! The model is plain data, and `serde_json` of it is the JSON report. `summary` shows it in a
//! terminal, `html` as a page; both take their words and figures from `facts`, so that they cannot
//! tell different stories.

pub mod html;
pub mod model;
pub mod summary;
pub mod units;

mod command;
mod costs;
mod facts;
#[cfg(test)]
mod fixture;
mod machine;
mod plot;
mod text;
mod versus;

pub use command::{command, without_password};
pub use machine::{machine, unix_now};
