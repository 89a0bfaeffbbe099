//! What each operation will count, predicted from parameters and level alone.
//!
//! The predictions are exact, number-theoretic transforms included; tests compare them with what the recorder saw. A
//! plan's cost is a sum of these before any key exists.

use crate::params::{HAND_OVER_SPECIAL, Parameters};
use cipherform_profile::{Cost, Counter};

/// Limbs of a polynomial over {q of the level, all special}.
fn extended(params: &Parameters, level: usize) -> u64 {
    (params.limbs_at(level) + params.special().len()) as u64
}

/// Transforms of decomposing one polynomial: the inverse ones of its own limbs, and for every digit the limbs that
/// are not its own; together digits x (level + 1 + special).
fn decompose_transforms(params: &Parameters, level: usize) -> u64 {
    params.digits_at(level).len() as u64 * extended(params, level)
}

/// Transforms of dividing both halves of an inner product by P.
fn mod_down_transforms(params: &Parameters, level: usize) -> u64 {
    2 * extended(params, level)
}

/// One key switch, however it is named.
pub(crate) fn key_switch(params: &Parameters, level: usize) -> Cost {
    let transforms = decompose_transforms(params, level) + mod_down_transforms(params, level);
    Cost::of(Counter::KeySwitches, 1) + Cost::of(Counter::LimbNtts, transforms)
}

/// One relinearization at a level.
#[must_use]
pub fn relinearize(params: &Parameters, level: usize) -> Cost {
    Cost::of(Counter::Relinearizations, 1) + key_switch(params, level)
}

/// One relinearization and one rescaling from a level, with one division.
#[must_use]
pub fn relinearize_rescale(params: &Parameters, level: usize) -> Cost {
    relinearize(params, level) + Cost::of(Counter::Rescales, 1)
}

/// One rotation (not by a multiple of the slots) or conjugation at a level.
#[must_use]
pub fn rotate(params: &Parameters, level: usize) -> Cost {
    Cost::of(Counter::Rotations, 1) + key_switch(params, level)
}

/// `amounts` hoisted rotations of one ciphertext, identities not counted among them; nothing for none.
#[must_use]
pub fn hoisted_rotations(params: &Parameters, level: usize, amounts: u64) -> Cost {
    if amounts == 0 {
        return Cost::default();
    }
    let transforms =
        decompose_transforms(params, level) + amounts * mod_down_transforms(params, level);
    Cost::of(Counter::Rotations, amounts)
        + Cost::of(Counter::KeySwitches, amounts)
        + Cost::of(Counter::Hoisted, amounts)
        + Cost::of(Counter::LimbNtts, transforms)
}

/// A sum of rotated ciphertexts, `amounts` of them moved: their key switches share one division.
#[must_use]
pub fn sum_rotated(params: &Parameters, level: usize, amounts: u64) -> Cost {
    if amounts == 0 {
        return Cost::default();
    }
    let transforms =
        amounts * decompose_transforms(params, level) + mod_down_transforms(params, level);
    Cost::of(Counter::Rotations, amounts)
        + Cost::of(Counter::KeySwitches, amounts)
        + Cost::of(Counter::Lazy, amounts)
        + Cost::of(Counter::LimbNtts, transforms)
}

/// A doubly hoisted linear transform at a level: `products` with plaintexts, `babies` and `giants` that are rotations.
/// The same with a rescaling, which only adds itself to the counts unless nothing is rotated.
#[must_use]
pub fn linear_transform(
    params: &Parameters,
    level: usize,
    products: u64,
    babies: u64,
    giants: u64,
    rescaled: bool,
) -> Cost {
    let extended = extended(params, level);
    let decompose = decompose_transforms(params, level);
    let transforms = if babies + giants > 0 {
        let babies = if babies > 0 { decompose } else { 0 };
        babies + giants * (extended + decompose) + mod_down_transforms(params, level)
    } else if rescaled {
        2 * params.limbs_at(level) as u64
    } else {
        0
    };
    Cost::of(Counter::CtPt, products)
        + Cost::of(Counter::Rotations, babies + giants)
        + Cost::of(Counter::KeySwitches, babies + giants)
        + Cost::of(Counter::Hoisted, babies)
        + Cost::of(Counter::Lazy, babies)
        + Cost::of(Counter::Rescales, u64::from(rescaled))
        + Cost::of(Counter::LimbNtts, transforms)
}

/// Handing over one value: a key switch of one digit in a ring of q_0 and one special prime, then coefficients.
#[must_use]
pub fn hand_over() -> Cost {
    let extended = 1 + HAND_OVER_SPECIAL as u64;
    Cost::of(Counter::KeySwitches, 1) + Cost::of(Counter::LimbNtts, 3 * extended + 2)
}

/// One rescaling from a level of a ciphertext of a degree.
#[must_use]
pub fn rescale(params: &Parameters, level: usize, degree: usize) -> Cost {
    let transforms = ((degree + 1) * params.limbs_at(level)) as u64;
    Cost::of(Counter::Rescales, 1) + Cost::of(Counter::LimbNtts, transforms)
}

/// Bringing a ciphertext of degree 1 down to a level and its nominal scale.
#[must_use]
pub fn set_level(params: &Parameters, level: usize) -> Cost {
    rescale(params, level + 1, 1)
}
