//! Model registry, key store, job queue, worker and gRPC services.
//!
//! The server never sees a value: it holds models, evaluation keys and ciphertexts, and cannot name a secret key (the
//! crate denies the lint that lists those types). One client's visit:
//!
//! ```text
//! client                                   server
//!   │ Admin.Negotiate ───────────────────────> format versions
//!   │ Models.Describe ───────────────────────> what a client may know of the model: config, embedding, plan
//!   │ Uploads.Begin, PutChunks, Keys.Commit ─> for every key of the plan: exact size from the plan, hash of each
//!   │                                          chunk, every residue checked, then expanded into the key store
//!   │ Uploads.Begin, PutChunks ──────────────> the encrypted input, the same way
//!   │ Infer.Submit ──────────────────────────> keys and inputs checked against the plan, then queued, or Busy
//!   │ Infer.Watch <──────────────────────────  worker: operator by operator, with ETA; Infer.Cancel between two
//!   │ Infer.Result, Infer.Profile <──────────  the encrypted result; where the time went
//! ```
//!
//! Every look-up is by (owner, id), where the owner is a hash of the client's token: a foreign id is an absent id.
//!
//! **Non-goals.** No TLS and no accounts yet: use a tunnel (e.g. WireGuard, ssh) on both sides. Nothing survives a restart.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types)]

mod config;
mod convert;
mod error;
mod jobs;
mod key_store;
mod peer;
mod registry;
mod server;
mod services;
mod uploads;

pub use config::{Config, Limits};
pub use error::{Error, Result};
pub use peer::accept_peer;
pub use registry::Registry;
pub use server::{Server, ServerHandle};
