//! Key sets of bootstrapping, made on all cores with a bar.

use crate::output::bar;
use anyhow::{Context as _, Result};
use cipherform_ckks::{Context, EvaluationKeys, KeyGenerator, KeySpec, SecretKey};
use rand_core::CryptoRng;
use std::sync::Mutex;

/// Generates and expands the keys; each is used where it was made.
pub(crate) fn generate(
    context: &Context,
    secret: &SecretKey,
    specs: &[KeySpec],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<EvaluationKeys> {
    let keys = Mutex::new(EvaluationKeys::new(context));
    let progress = bar(specs.len() as u64, "keys");
    KeyGenerator::new(context).evaluation_keys(secret, specs, rng, |key| {
        let key = key.expand(context)?;
        let mut keys = keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.insert(key)?;
        progress.inc(1);
        Ok(())
    })?;
    progress.finish_and_clear();
    keys.into_inner().ok().context("a thread that made keys panicked")
}
