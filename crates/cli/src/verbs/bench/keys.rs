//! Key sets of bootstrapping, made on all cores with a bar.

use crate::output::bar;
use anyhow::Result;
use cipherform_ckks::{Context, EvaluationKeys, KeyGenerator, KeySpec, SecretKey};
use rand_core::CryptoRng;

/// Generates and expands the keys; each is used where it was made.
pub(crate) fn generate(
    context: &Context,
    secret: &SecretKey,
    specs: &[KeySpec],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<EvaluationKeys> {
    let progress = bar(specs.len() as u64, "keys");
    let keys = KeyGenerator::new(context).expanded_keys(secret, specs, rng, |_| progress.inc(1))?;
    progress.finish_and_clear();
    Ok(keys)
}
