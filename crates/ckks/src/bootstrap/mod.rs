//! Bootstrapping: a ciphertext at a low level becomes one of the same values at a high level.

#[cfg(test)]
mod bessel;
mod failure;

pub(crate) use failure::failure_log2;

/// Levels of the approximate modular reduction: five for a polynomial of degree 31, three for squarings.
pub(crate) const EVAL_MOD_LEVELS: usize = 8;
