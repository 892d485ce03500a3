//! Event-stream bytes, both ways (WHATWG HTML, section 9.2).

pub mod decode;
pub mod encode;
