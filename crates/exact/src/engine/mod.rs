//! The step itself, on the server's side: from ciphertexts of logits to one sample that encrypts the winning class.

mod eliminate;
mod keys;
mod label;
#[cfg(test)]
mod tests;

pub use keys::{LabelKeys, LabelSecret, SeededLabelKeys};
pub use label::EncryptedLabel;

use crate::error::{Error, Result};
use crate::params::{GRID_BITS, LARGE_DIMENSION, LabelParameters, SMALL_DIMENSION, Stage};
use cipherform_ckks::{Ciphertext, EvaluationKeys, Evaluator, LweSample};
use cipherform_profile::{Counter, Operator, count, operator};
use rayon::prelude::*;
use std::ops::ControlFlow;
use tfhe::core_crypto::prelude::{
    CiphertextModulus, GlweCiphertext, GlweCiphertextOwned, GlweSize, LweCiphertext,
    LweCiphertextOwned, LweSize, PolynomialSize, keyswitch_lwe_ciphertext,
    programmable_bootstrap_lwe_ciphertext,
};

/// Words are modulo 2^64.
const NATIVE: CiphertextModulus<u64> = CiphertextModulus::new_native();

/// Bits that rounding to the grid of a blind rotation drops.
const DROPPED: u32 = 64 - GRID_BITS;

type Sample = LweCiphertextOwned<u64>;

/// Compares encrypted logits, one ciphertext each with the logit in its constant coefficient at level 0 and the scale of
/// [`crate::scale_for`], and returns the class of the largest under the client's key: the first of equal ones.
///
/// `before` is asked before each stage; `Break` cancels. Each stage is one operator of a recording, and counts what
/// [`LabelParameters::stages`] says. Time and memory accesses do not depend on values.
///
/// # Errors
/// [`Error::Logits`]; [`Error::ParameterMismatch`]; [`Error::KeyMismatch`]; [`Error::Cancelled`]; those of
/// [`Evaluator::hand_over`].
pub fn evaluate(
    step: &LabelParameters,
    evaluator: &Evaluator,
    ring_keys: &EvaluationKeys,
    keys: &LabelKeys,
    logits: &[Ciphertext],
    before: &mut dyn FnMut(Stage) -> ControlFlow<()>,
) -> Result<EncryptedLabel> {
    if logits.len() != step.classes() {
        return Err(Error::Logits { expected: step.classes(), got: logits.len() });
    }
    keys.check(step, logits.iter().map(Ciphertext::secret_id))?;
    let mut stage = |stage: Stage| {
        if before(stage).is_break() {
            return Err(Error::Cancelled { stage: stage.name() });
        }
        Ok(operator(Operator::new(stage.name())))
    };
    let span = stage(Stage::HandOver)?;
    let samples = logits.iter().map(|ct| evaluator.hand_over(ct, ring_keys));
    let samples = samples.collect::<Result<Vec<_>, _>>()?;
    drop(span);
    let span = stage(Stage::Bridge)?;
    let rounded = bridge(keys, &samples);
    drop(span);
    let words = if step.is_paired() {
        let span = stage(Stage::Compare)?;
        let signs = compare(step, keys, &rounded);
        drop(span);
        let label = if step.classes() == 2 {
            // The sign says that class 0 wins: the label is its opposite, brought from +-1/4 of a turn to 0 and 1/2.
            signs.into_iter().next().map(|sign| shifted(negated(sign), 1 << 62))
        } else {
            let _span = stage(Stage::Select)?;
            let winners = select(step, keys, &signs);
            winners
                .iter()
                .enumerate()
                .map(|(class, w)| multiple(w, class as u64))
                .reduce(|a, b| sum(a, &b))
        };
        label.ok_or(Error::Logits { expected: step.classes(), got: 0 })?.into_container()
    } else {
        let span = stage(Stage::Digits)?;
        let bits = eliminate::bits(keys, &rounded);
        drop(span);
        let _span = stage(Stage::Eliminate)?;
        eliminate::label(step, keys, &bits).into_iter().flat_map(Sample::into_container).collect()
    };
    Ok(EncryptedLabel::new(step, keys.secret_id(), words))
}

/// A word modulo q as a fraction of 2^64, rounded.
fn to_torus(word: u64, modulus: u64) -> u64 {
    let double = 2 * u128::from(modulus);
    // Below 2^50: no overflow. A word that rounds up to a whole turn is 0.
    (((u128::from(word) << 65) + u128::from(modulus)) / double) as u64
}

/// Samples in the small dimension, rounded to the grid: from here on integers modulo 2^12, without noise.
fn bridge(keys: &LabelKeys, samples: &[LweSample]) -> Vec<Sample> {
    count(Counter::LweSwitches, samples.len() as u64);
    samples
        .par_iter()
        .map(|sample| {
            // There the phase is body minus mask times secret; with the ring it is their sum.
            let mask = sample.mask().iter().map(|&a| to_torus(a, sample.modulus()).wrapping_neg());
            let body = to_torus(sample.body(), sample.modulus());
            let words: Vec<u64> = mask.chain([body]).collect();
            let mut out = LweCiphertext::new(0, LweSize(SMALL_DIMENSION + 1), NATIVE);
            let sample = LweCiphertext::from_container(words, NATIVE);
            keyswitch_lwe_ciphertext(keys.bridge(), &sample, &mut out);
            round_to_grid(&mut out);
            out
        })
        .collect()
}

/// Rounds every word to the grid, so that a blind rotation, which does that, changes nothing any more.
///
/// Rounding the mask adds the dropped parts times the secret, whose bits are 1 half of the time: half of the dropped parts
/// is taken from the body before it is rounded itself, which leaves variance 1/4 a coefficient instead of 1/2.
/// Bernard, Joye, Smart and Walter (ePrint 2024/1718), section 4.
fn round_to_grid(sample: &mut Sample) {
    let (mut mask, body) = sample.get_mut_mask_and_body();
    let mut dropped = 0i64;
    for word in mask.as_mut() {
        let rounded = rounded(*word);
        // At most 2^51 each and 918 of them: below 2^61.
        dropped += word.wrapping_sub(rounded) as i64;
        *word = rounded;
    }
    *body.data = rounded(body.data.wrapping_sub((dropped / 2) as u64));
}

fn rounded(word: u64) -> u64 {
    word.wrapping_add(1 << (DROPPED - 1)) >> DROPPED << DROPPED
}

/// For each pair i < j in order, a sample of plus the half unit of a win if i is not smaller than j, of minus it otherwise.
fn compare(step: &LabelParameters, keys: &LabelKeys, rounded: &[Sample]) -> Vec<Sample> {
    let c = rounded.len();
    let pairs: Vec<_> = (0..c).flat_map(|i| (i + 1..c).map(move |j| (i, j))).collect();
    count(Counter::ProgrammableBootstraps, pairs.len() as u64);
    // A constant polynomial: half a turn of phases gives its constant, the other half its opposite. No bit of padding.
    let sign = accumulator(|_| half_win(step));
    let compare = |&(i, j): &(usize, usize)| -> Option<Sample> {
        let difference = sum(rounded.get(i)?.clone(), &negated(rounded.get(j)?.clone()));
        Some(bootstrap(keys, &difference, &sign))
    };
    pairs.par_iter().filter_map(compare).collect()
}

/// For each class a sample of one unit of the label if it won against all others, of zero otherwise.
fn select(step: &LabelParameters, keys: &LabelKeys, signs: &[Sample]) -> Vec<Sample> {
    let c = step.classes();
    count(Counter::LweSwitches, c as u64);
    count(Counter::ProgrammableBootstraps, c as u64);
    let half = half_win(step);
    // A sign of +-half, times the opposite for the second of the pair, plus half: 1 or 0 wins.
    let pairs = (0..c).flat_map(|i| (i + 1..c).map(move |j| (i, j)));
    let mut wins: Vec<Option<Sample>> = vec![None; c];
    for ((i, j), sign) in pairs.zip(signs) {
        for (class, win) in [(i, sign.clone()), (j, negated(sign.clone()))] {
            let win = shifted(win, half);
            if let Some(total) = wins.get_mut(class) {
                *total = Some(match total.take() {
                    Some(before) => sum(before, &win),
                    None => win,
                });
            }
        }
    }
    // Everything from half a win below c - 1 up, but for half a win at the end, whose phases are those of less than none.
    let boxes = LARGE_DIMENSION / step.messages();
    let won = (c - 1) * boxes - boxes / 2..LARGE_DIMENSION - boxes / 2;
    let unit = 1 << (64 - step.messages().trailing_zeros());
    let table = accumulator(|k| if won.contains(&k) { unit } else { 0 });
    wins.par_iter().flatten().map(|wins| read(keys, wins, &table)).collect()
}

/// Switches a result of bootstraps back to the small dimension and looks it up; both counted by the caller.
fn read(keys: &LabelKeys, sample: &Sample, table: &GlweCiphertextOwned<u64>) -> Sample {
    let mut small = LweCiphertext::new(0, LweSize(SMALL_DIMENSION + 1), NATIVE);
    keyswitch_lwe_ciphertext(keys.switch(), sample, &mut small);
    round_to_grid(&mut small);
    bootstrap(keys, &small, table)
}

/// Half the distance of two numbers of wins: they share half a turn, as the other half gives opposite values. The sign of
/// two classes is a label already, and labels have the whole turn.
fn half_win(step: &LabelParameters) -> u64 {
    let turn = if step.classes() == 2 { 63 } else { 62 };
    1 << (turn - step.messages().trailing_zeros())
}

/// The polynomial whose coefficient k a phase of k steps of the grid selects.
fn accumulator(value: impl Fn(usize) -> u64) -> GlweCiphertextOwned<u64> {
    let size = PolynomialSize(LARGE_DIMENSION);
    let mut out = GlweCiphertext::new(0, GlweSize(2), size, NATIVE);
    for (k, word) in out.get_mut_body().as_mut().iter_mut().enumerate() {
        *word = value(k);
    }
    out
}

fn bootstrap(keys: &LabelKeys, input: &Sample, table: &GlweCiphertextOwned<u64>) -> Sample {
    let mut out = LweCiphertext::new(0, LweSize(LARGE_DIMENSION + 1), NATIVE);
    programmable_bootstrap_lwe_ciphertext(input, &mut out, table, keys.bootstrap());
    out
}

fn sum(mut a: Sample, b: &Sample) -> Sample {
    for (a, b) in a.as_mut().iter_mut().zip(b.as_ref()) {
        *a = a.wrapping_add(*b);
    }
    a
}

fn negated(mut a: Sample) -> Sample {
    a.as_mut().iter_mut().for_each(|word| *word = word.wrapping_neg());
    a
}

fn multiple(a: &Sample, factor: u64) -> Sample {
    let words = a.as_ref().iter().map(|word| word.wrapping_mul(factor)).collect();
    LweCiphertext::from_container(words, NATIVE)
}

fn shifted(mut a: Sample, by: u64) -> Sample {
    let body = a.get_mut_body();
    *body.data = body.data.wrapping_add(by);
    a
}
