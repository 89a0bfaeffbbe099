//! The measurements behind a cost table.

use super::{Line, MachineCosts, switched_limbs};
use crate::error::{Error, Result};
use cipherform_ckks::{
    BootstrapKind, BootstrapOptions, Bootstrapper, Ciphertext, Context, Encoder, Encryptor,
    EvaluationKeys, Evaluator, KeyGenerator, KeyKind, KeySpec,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Instant;

/// What is measured at one level.
struct Sample {
    key_switch: f64,
    hoisted_more: f64,
    tensor: f64,
    rescale: f64,
    set_level: f64,
    dot_term: f64,
    dense_term: f64,
    add: f64,
}

/// Calls in one measurement on a device that runs behind its caller: as in a program, one is asked for while others run.
const CALLS_BEHIND: usize = 16;

/// Milliseconds of one call, the better of two measurements: the first may pay for fresh memory.
fn best_of<T>(context: &Context, mut f: impl FnMut() -> Result<T>) -> Result<f64> {
    let ring = context.ring();
    let wait = || ring.synchronize().map_err(cipherform_ckks::Error::from);
    let calls = if ring.device().runs_behind() { CALLS_BEHIND } else { 1 };
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        wait()?;
        let begin = Instant::now();
        let mut kept = f()?;
        for _ in 1..calls {
            kept = f()?;
        }
        wait()?;
        best = best.min(begin.elapsed().as_secs_f64() * 1e3 / calls as f64);
        drop(kept);
    }
    Ok(best)
}

fn generator() -> Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| Error::Planner { op: "calibrate", detail: e.to_string() })?;
    Ok(ChaCha20Rng::from_seed(seed))
}

impl MachineCosts {
    /// Measures this machine for plans that start at level `top`. Makes its own throw-away key.
    ///
    /// # Errors
    /// Errors of the scheme; `Planner` for `top` below 3, where there is nothing to measure.
    pub fn measure(context: &Context, top: usize) -> Result<Self> {
        let params = context.params();
        if top < 3 || top > params.max_level() {
            let detail = format!("top level {top}, need 3..={}", params.max_level());
            return Err(Error::Planner { op: "calibrate", detail });
        }
        let mut rng = generator()?;
        let (low, high) = ((top / 5).max(1), (2 * top / 3).max(2));
        let generator = KeyGenerator::new(context);
        let secret = generator.secret_key(&mut rng)?;
        let mut keys = EvaluationKeys::new(context);
        // One key serves: rotations by one, alone and hoisted, stand for every key switch.
        if let Some(kind) = KeyKind::rotation(1, params.slots()) {
            let key = generator.evaluation_key(&secret, KeySpec { kind, level: high }, &mut rng)?;
            keys.insert(key.expand(context)?)?;
        }
        let encoder = Encoder::new(context);
        let plaintext = encoder.encode(&[0.5], high, params.scale_at(high))?;
        let fresh = Encryptor::with_secret_key(context, &secret)?.encrypt(&plaintext, &mut rng)?;
        let a = sample(context, &fresh, low, &keys)?;
        let b = sample(context, &fresh, high, &keys)?;
        let switched = |level| switched_limbs(params, level);
        let limbs = |level| params.limbs_at(level) as f64;
        let key = |y: [f64; 2]| Line::through((switched(low), y[0]), (switched(high), y[1]));
        let line = |y: [f64; 2]| Line::through((limbs(low), y[0]), (limbs(high), y[1]));
        Ok(Self {
            key_switch: key([a.key_switch, b.key_switch]),
            hoisted_more: key([a.hoisted_more, b.hoisted_more]),
            tensor: line([a.tensor, b.tensor]),
            rescale: line([a.rescale, b.rescale]),
            set_level: line([a.set_level, b.set_level]),
            dot_term: line([a.dot_term, b.dot_term]),
            dense_term: line([a.dense_term, b.dense_term]),
            add: line([a.add, b.add]),
            bootstrap: super::BOOTSTRAP,
        })
    }

    /// Measures how long a bootstrap takes beside as many transforms inside key switches. Makes throw-away keys for it, which
    /// take the memory of [`cipherform_ckks::Bootstrapper::memory_bytes`]: gigabytes for a set that protects. Returns its milliseconds.
    ///
    /// # Errors
    /// Errors of the scheme; `Planner` for a set that cannot bootstrap.
    pub fn measure_bootstrap(&mut self, context: &Context) -> Result<f64> {
        let params = context.params();
        let bootstrapper = Bootstrapper::new(context, BootstrapOptions::default())?;
        let mut rng = generator()?;
        let generator = KeyGenerator::new(context);
        let secret = generator.secret_key(&mut rng)?;
        let mut keys = EvaluationKeys::new(context);
        for spec in bootstrapper.keys() {
            keys.insert(generator.evaluation_key(&secret, spec, &mut rng)?.expand(context)?)?;
        }
        let level = bootstrapper.input_level();
        let plaintext = Encoder::new(context).encode(&[0.5], level, params.scale_at(level))?;
        let fresh = Encryptor::with_secret_key(context, &secret)?.encrypt(&plaintext, &mut rng)?;
        let ms = best_of(context, || Ok(bootstrapper.bootstrap(&fresh, &keys)?))?;
        let cost = bootstrapper.cost(BootstrapKind::Complex);
        self.bootstrap = ms / self.switching_ms(&cost);
        Ok(ms)
    }
}

/// Times every primitive at `level`.
fn sample(
    context: &Context,
    fresh: &Ciphertext,
    level: usize,
    keys: &EvaluationKeys,
) -> Result<Sample> {
    let (encoder, evaluator) = (Encoder::new(context), Evaluator::new(context));
    let slots = context.params().slots();
    let prime = context.params().modulus_at(level) as f64;
    let a = evaluator.drop_level(fresh, level)?;
    let period: Vec<f64> = (0..slots / 32).map(|i| i as f64 / slots as f64).collect();
    let periodic = encoder.encode(&period, level, prime)?;
    let dense = encoder.encode(&vec![0.5; slots], level, prime)?;
    let key_switch = best_of(context, || Ok(evaluator.rotate(&a, 1, keys)?))?;
    let twice = best_of(context, || Ok(evaluator.hoisted_rotations(&a, &[1, 1], keys)?))?;
    let mut sum = evaluator.mul_plain(&a, &periodic)?;
    Ok(Sample {
        key_switch,
        hoisted_more: (twice - key_switch).max(0.0),
        tensor: best_of(context, || Ok(evaluator.mul(&a, &a)?))?,
        rescale: best_of(context, || Ok(evaluator.rescale(a.clone())?))?,
        set_level: best_of(context, || Ok(evaluator.set_level(&a, level - 1)?))?,
        dot_term: best_of(
            context,
            || Ok(evaluator.mul_plain_add_assign(&mut sum, &a, &periodic)?),
        )?,
        dense_term: best_of(context, || Ok(evaluator.mul_plain(&a, &dense)?))?,
        add: best_of(context, || Ok(evaluator.add(&a, &a)?))?,
    })
}
