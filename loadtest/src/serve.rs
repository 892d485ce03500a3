//! Servers to compare with.
