//! Linear maps of the slots, given by diagonals.

use crate::ciphertext::Ciphertext;
use crate::cost;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::params::Parameters;
use crate::plaintext::Plaintext;
use crate::rlwe::{EvaluationKeys, KeySpec};
use cipherform_profile::{Cost, Counter};
use std::collections::{BTreeMap, BTreeSet};

/// The map y = sum over d of w_d * rotate(x, d), encoded once for one level, applied often.
///
/// Baby-step giant-step with d = B g + b, 0 <= b < B: the babies rotate(x, b) are hoisted, and the giants are a Horner
/// scheme with the single amount B, y = in_0 + rot_B(in_1 + rot_B(in_2 + ..)), in_g = sum over b of
/// rotate(w_(Bg+b), -Bg) * baby_b, the weights being rotated before they are encoded. Diagonals may be negative: the
/// scheme then starts at the lowest g and ends with one rotation by B g. The result has the scale of the input times
/// that of the plaintexts; the caller rescales.
///
/// Halevi and Shoup (ePrint 2018/244), section 3; Horner as in section 5.2 there ("minimal" keys).
#[derive(Clone, Debug)]
pub struct LinearTransform {
    params: Parameters,
    level: usize,
    scale: f64,
    baby: usize,
    /// By giant step, then by baby step.
    rows: BTreeMap<i64, BTreeMap<usize, Plaintext>>,
}

impl LinearTransform {
    /// Encodes the diagonals at a level and scale. Vectors may be periodic, see [`Encoder::encode`].
    ///
    /// `diagonals[d][j]` multiplies x\[j + d\] into y\[j\]; `baby` is B, usually near the square root of the number of
    /// diagonals.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without diagonals, for B = 0 or for a diagonal beyond the slots; those of
    /// [`Encoder::encode`].
    pub fn new(
        encoder: &Encoder,
        level: usize,
        scale: f64,
        diagonals: &BTreeMap<i64, Vec<f64>>,
        baby: usize,
    ) -> Result<Self> {
        let params = encoder.context().params();
        let invalid = |detail: String| Error::InvalidArgument { op: "linear transform", detail };
        let slots = params.slots() as i64;
        if diagonals.is_empty() {
            return Err(invalid("no diagonals were given".into()));
        }
        if baby == 0 || baby as i64 > slots {
            return Err(invalid(format!("{baby} baby steps are not in 1..={slots}")));
        }
        let mut rows: BTreeMap<i64, BTreeMap<usize, Plaintext>> = BTreeMap::new();
        for (&d, weights) in diagonals {
            if d.abs() >= slots {
                return Err(invalid(format!("diagonal {d} is beyond the {slots} slots")));
            }
            let giant = d.div_euclid(baby as i64);
            let mut rotated = weights.clone();
            if !rotated.is_empty() {
                // rotate(w, -Bg): slot j reads slot j - Bg.
                let shift = (giant * baby as i64).rem_euclid(rotated.len() as i64);
                rotated.rotate_right(shift as usize);
            }
            let plaintext = encoder.encode(&rotated, level, scale)?;
            rows.entry(giant).or_default().insert(d.rem_euclid(baby as i64) as usize, plaintext);
        }
        Ok(Self { params: params.clone(), level, scale, baby, rows })
    }

    /// Level of the inputs and of the result.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Scale of the plaintexts, by which the result's scale exceeds the input's.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Bytes of all plaintexts on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.values().flat_map(BTreeMap::values).map(Plaintext::bytes).sum()
    }

    /// The baby steps that occur, 0 included.
    fn babies(&self) -> BTreeSet<usize> {
        self.rows.values().flat_map(|row| row.keys().copied()).collect()
    }

    /// Lowest and highest giant step.
    fn giants(&self) -> (i64, i64) {
        let first = self.rows.keys().next().copied().unwrap_or(0);
        let last = self.rows.keys().next_back().copied().unwrap_or(0);
        (first, last)
    }

    /// The rotation keys that an application needs.
    #[must_use]
    pub fn keys(&self) -> Vec<KeySpec> {
        let (first, last) = self.giants();
        let mut amounts: BTreeSet<i64> = self.babies().iter().map(|&b| b as i64).collect();
        if last > first {
            amounts.insert(self.baby as i64);
        }
        amounts.insert(first * self.baby as i64);
        let keys: BTreeSet<KeySpec> = amounts
            .into_iter()
            .filter_map(|k| KeySpec::rotation(&self.params, k, self.level))
            .collect();
        keys.into_iter().collect()
    }

    /// What an application counts, exactly.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let (first, last) = self.giants();
        let is_rotation =
            |k: i64| u64::from(KeySpec::rotation(&self.params, k, self.level).is_some());
        let hoisted: u64 = self.babies().iter().map(|&b| is_rotation(b as i64)).sum();
        let giants = (last - first) as u64 * is_rotation(self.baby as i64)
            + is_rotation(first * self.baby as i64);
        let products = self.rows.values().map(BTreeMap::len).sum::<usize>() as u64;
        cost::hoisted_rotations(&self.params, self.level, hoisted)
            + cost::rotate(&self.params, self.level) * giants
            + Cost::of(Counter::CtPt, products)
    }
}

impl Evaluator {
    /// Applies a linear map. Level unchanged; the result's scale is the product of both; rescale it.
    ///
    /// Cost: [`LinearTransform::cost`].
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::LevelMismatch`] unless the ciphertext is at the map's level;
    /// [`Error::DegreeMismatch`]; [`Error::MissingKey`]; [`Error::ValueTooLarge`].
    pub fn linear_transform(
        &self,
        a: &Ciphertext,
        map: &LinearTransform,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        const OP: &str = "linear_transform";
        self.check(OP, a)?;
        self.context().params().require_same(OP, &map.params)?;
        if a.level != map.level {
            return Err(Error::LevelMismatch { op: OP, lhs: a.level, rhs: map.level });
        }
        if let Some(&spec) = keys.missing(&map.keys()).first() {
            return Err(Error::MissingKey { spec });
        }
        let steps: Vec<usize> = map.babies().into_iter().collect();
        let amounts: Vec<i64> = steps.iter().map(|&b| b as i64).collect();
        let rotated = self.hoisted_rotations(a, &amounts, keys)?;
        let babies: BTreeMap<usize, Ciphertext> = steps.into_iter().zip(rotated).collect();

        let (first, last) = map.giants();
        let mut sum: Option<Ciphertext> = None;
        for giant in (first..=last).rev() {
            if let Some(acc) = sum.take() {
                sum = Some(self.rotate(&acc, map.baby as i64, keys)?);
            }
            for (step, weights) in map.rows.get(&giant).into_iter().flatten() {
                let Some(baby) = babies.get(step) else { continue };
                sum = Some(match sum.take() {
                    None => self.mul_plain(baby, weights)?,
                    Some(mut acc) => {
                        self.mul_plain_add_assign(&mut acc, baby, weights)?;
                        acc
                    }
                });
            }
        }
        match sum {
            Some(sum) => self.rotate(&sum, first * map.baby as i64, keys),
            None => Err(Error::InvalidArgument { op: OP, detail: "the map is empty".into() }),
        }
    }
}
