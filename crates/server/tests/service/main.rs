//! The whole service on loopback, with toy parameters (not secure) and a small random model.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and their helpers")]

mod boundary;
mod devices;
mod hostile;
#[cfg(feature = "label-only")]
mod label;
mod loopback;
mod support;
mod text;
