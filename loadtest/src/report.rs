//! What a run found, and its views.

pub mod model;
