//! Many classes: the leading bits of the logits, one after the other, then those of the classes' numbers.
//!
//! With a_i = 1 while class i is in, a round over bits b_i computes x_i = a_i and b_i, and any = or of all x_i: if any class
//! in has the bit, those without it are out. No bootstrap updates a_i: with w_i = 1 + sum over rounds of (x_i - any),
//! class i is in exactly if w_i = 1 and has w_i <= 0 from the round that put it out, so the next x_i is
//! "w_i + b_i = 2". Equal values are decided by the opposites of the classes' numbers, whose bits are known: the
//! smallest class stays, and `any` of these rounds are the bits of its opposite.

use super::{
    DROPPED, LARGE_DIMENSION, NATIVE, Sample, accumulator, bootstrap, multiple, negated, read,
    shifted, sum,
};
use crate::engine::LabelKeys;
use crate::params::{LabelParameters, MESSAGES, VALUE_ROUNDS, any_bootstraps, has_opposite_bit};
use cipherform_profile::{Counter, count};
use rayon::prelude::*;
use tfhe::core_crypto::prelude::{LweCiphertext, LweSize};

/// A number in a sum: sixteen of them in half a turn, as the other half gives opposite values.
const UNIT: u64 = 1 << (63 - MESSAGES.trailing_zeros());

/// Steps of the grid that a number is.
const BOX: usize = LARGE_DIMENSION / MESSAGES;

/// For each round the bit of every class, the most significant first, of logits between -1/4 and 1/4 of a turn.
pub(super) fn bits(keys: &LabelKeys, rounded: &[Sample]) -> Vec<Vec<Sample>> {
    count(Counter::ProgrammableBootstraps, (VALUE_ROUNDS * rounded.len()) as u64);
    // From 0 to half a turn: 2^11 steps of the grid, whose first bits are taken.
    let top = LARGE_DIMENSION.ilog2() as usize;
    (1..=VALUE_ROUNDS)
        .map(|round| {
            let table = accumulator(|k| if k >> (top - round) & 1 == 1 { UNIT } else { 0 });
            let bit = |sample: &Sample| bootstrap(keys, &shifted(sample.clone(), 1 << 62), &table);
            rounded.par_iter().map(bit).collect()
        })
        .collect()
}

/// The digits of the label, four bits each, the least significant first.
pub(super) fn label(step: &LabelParameters, keys: &LabelKeys, bits: &[Vec<Sample>]) -> Vec<Sample> {
    let classes = step.classes();
    let one = shifted(LweCiphertext::new(0, LweSize(LARGE_DIMENSION + 1), NATIVE), UNIT);
    let mut alive = vec![one.clone(); classes];
    for bits in bits {
        let all: Vec<usize> = (0..classes).collect();
        round(keys, &mut alive, &all, |class| bits.get(class));
    }
    // The label is all ones less its opposite; a digit has the whole turn for sixteen values.
    let digit_bits = MESSAGES.ilog2() as usize;
    let mut opposite: Vec<Option<Sample>> = vec![None; step.label_bits()];
    for bit in (0..step.label_bits()).rev() {
        let having: Vec<usize> =
            (0..classes).filter(|&class| has_opposite_bit(class, bit)).collect();
        if let Some(slot) = opposite.get_mut(bit) {
            *slot = Some(round(keys, &mut alive, &having, |_| Some(&one)));
        }
    }
    opposite
        .chunks(digit_bits)
        .map(|digit| {
            let ones = ((1u64 << digit.len()) - 1).wrapping_mul(2 * UNIT);
            let value = digit.iter().flatten().enumerate();
            let value = value.map(|(i, any)| negated(multiple(any, 2 << i)));
            let zero = LweCiphertext::new(0, LweSize(LARGE_DIMENSION + 1), NATIVE);
            shifted(value.fold(zero, |a, b| sum(a, &b)), ones)
        })
        .collect()
}

/// One round: who of `having` is in and has the bit; whether anybody is; and the numbers w afterwards.
fn round<'a>(
    keys: &LabelKeys,
    alive: &mut [Sample],
    having: &[usize],
    bit: impl Fn(usize) -> Option<&'a Sample> + Sync,
) -> Sample {
    count(Counter::LweSwitches, having.len() as u64);
    count(Counter::ProgrammableBootstraps, having.len() as u64);
    // w + b = 2 goes to the last number, 15; it is never less than 1 in sixteen rounds.
    let up = (MESSAGES as u64 - 3).wrapping_mul(UNIT);
    let last = table(|number| number == MESSAGES - 1);
    let both = |&class: &usize| -> Option<Sample> {
        let together = sum(alive.get(class)?.clone(), bit(class)?);
        Some(read(keys, &shifted(together, up), &last))
    };
    let products: Vec<Sample> = having.par_iter().filter_map(both).collect();
    let any = any(keys, &products);
    let none = negated(any.clone());
    for w in alive.iter_mut() {
        *w = sum(w.clone(), &none);
    }
    for (&class, product) in having.iter().zip(&products) {
        if let Some(w) = alive.get_mut(class) {
            *w = sum(w.clone(), product);
        }
    }
    any
}

/// Whether any of some bits is set: fifteen at a time, then whether any of these.
fn any(keys: &LabelKeys, bits: &[Sample]) -> Sample {
    let bootstraps = any_bootstraps(bits.len());
    count(Counter::LweSwitches, bootstraps);
    count(Counter::ProgrammableBootstraps, bootstraps);
    let positive = table(|number| number > 0);
    let zero = || LweCiphertext::new(0, LweSize(LARGE_DIMENSION + 1), NATIVE);
    let total = |bits: &[Sample]| bits.iter().fold(zero(), sum);
    let groups: Vec<Sample> =
        bits.par_chunks(MESSAGES - 1).map(|group| read(keys, &total(group), &positive)).collect();
    match groups.as_slice() {
        [one] => one.clone(),
        several => read(keys, &total(several), &positive),
    }
}

/// One for the numbers that are chosen, zero for others; a number is its box and half a box on both sides. What is half a
/// box below zero comes from the end of the table with its sign changed, so the end is zero.
fn table(chosen: impl Fn(usize) -> bool) -> tfhe::core_crypto::prelude::GlweCiphertextOwned<u64> {
    accumulator(|k| {
        let number = (k + BOX / 2) / BOX;
        if number < MESSAGES && chosen(number) { UNIT } else { 0 }
    })
}

// Half a turn below zero are the last steps of the grid.
const _: () = assert!(DROPPED as usize + LARGE_DIMENSION.ilog2() as usize == 63);
