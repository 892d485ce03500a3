//! `sse-loadtest`: see the library.

fn main() {}
