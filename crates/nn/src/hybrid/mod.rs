//! Encryption where a model is polynomial, shares where it is not: a program whose ciphertexts cross to shares, through a function, and back.
//!
//! `ARCHITECTURE.md`, "Hybrid: ciphertexts and shares", has the protocol.

mod cross;
mod plan;
mod session;
#[cfg(test)]
mod tests;

pub use cross::Passage;
pub use plan::{HybridCost, HybridPlan};
pub use session::{HybridClient, HybridServer, HybridSession};
