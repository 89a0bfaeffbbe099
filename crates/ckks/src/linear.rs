//! Linear maps of the slots, given by diagonals.

use crate::ciphertext::Ciphertext;
use crate::cost;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::params::Parameters;
use crate::rlwe::{EvaluationKeys, KeyKind, KeySpec};
use cipherform_profile::{Cost, Counter, count, primitive};
use cipherform_ring::{Baby, Limbs, RingPoly, SubringPoly};
use num_complex::Complex64;
use std::collections::{BTreeMap, BTreeSet};

/// The map y = sum over d of w_d * rotate(x, d), encoded once for one level, applied often.
///
/// Baby-step giant-step with d = B g + b, 0 <= b < B: y = in_0 + rot_B(in_1 + rot_B(in_2 + ..)), a Horner scheme with the
/// single giant amount B, in_g = sum over b of rotate(w_(Bg+b), -Bg) * rotate(x, b), the weights being rotated before they
/// are encoded. Diagonals may be negative: the scheme then starts at the lowest g and ends with one rotation by B g. The
/// result has the scale of the input times that of the weights.
///
/// Double hoisting (Bossuat, Mouchet, Troncoso-Pastoriza and Hubaux, ePrint 2020/1203, section 4): the babies share one
/// digit decomposition and are summed before any division by P, so the weights are held modulo the special primes too;
/// a giant step divides only the half that it decomposes; the last division takes both halves, and the primes of the
/// level with them if the result is rescaled. Horner as in Halevi and Shoup (ePrint 2018/244), section 5.2.
#[derive(Clone, Debug)]
pub struct LinearTransform {
    params: Parameters,
    level: usize,
    scale: f64,
    baby: usize,
    /// By giant step, then by baby step.
    rows: BTreeMap<i64, BTreeMap<usize, SubringPoly>>,
}

impl LinearTransform {
    /// Encodes real or complex diagonals at a level and scale. Vectors may be periodic, see [`Encoder::encode`].
    ///
    /// `diagonals[d][j]` multiplies x\[j + d\] into y\[j\]; `baby` is B, usually a little above the square root of the
    /// number of diagonals, times their greatest common divisor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without diagonals, for B = 0 or for a diagonal beyond the slots; those of
    /// [`Encoder::encode`].
    pub fn new<T: Copy + Into<Complex64>>(
        encoder: &Encoder,
        level: usize,
        scale: f64,
        diagonals: &BTreeMap<i64, Vec<T>>,
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
        let mut rows: BTreeMap<i64, BTreeMap<usize, SubringPoly>> = BTreeMap::new();
        for (&d, weights) in diagonals {
            if d.abs() >= slots {
                return Err(invalid(format!("diagonal {d} is beyond the {slots} slots")));
            }
            let giant = d.div_euclid(baby as i64);
            let mut rotated: Vec<Complex64> = weights.iter().map(|&w| w.into()).collect();
            if !rotated.is_empty() {
                // rotate(w, -Bg): slot j reads slot j - Bg.
                let shift = (giant * baby as i64).rem_euclid(rotated.len() as i64);
                rotated.rotate_right(shift as usize);
            }
            let weights = encoder.encode_weights(&rotated, level, scale)?;
            rows.entry(giant).or_default().insert(d.rem_euclid(baby as i64) as usize, weights);
        }
        Ok(Self { params: params.clone(), level, scale, baby, rows })
    }

    /// Level of the inputs, and of the result before it is rescaled.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Scale of the weights, by which the result's scale exceeds the input's.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Baby steps: the amount of a giant step, in slots.
    #[cfg(test)]
    pub(crate) fn baby(&self) -> usize {
        self.baby
    }

    /// Number of diagonals.
    pub(crate) fn terms(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    /// Bytes of all weights on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let words = |w: &SubringPoly| (w.m() * w.limbs().rows()) as u64;
        8 * self.rows.values().flat_map(BTreeMap::values).map(words).sum::<u64>()
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

    /// What [`Evaluator::linear_transform`] counts, exactly.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.priced(false)
    }

    /// What [`Evaluator::linear_transform_rescale`] counts, exactly.
    #[must_use]
    pub fn cost_rescaled(&self) -> Cost {
        self.priced(true)
    }

    fn priced(&self, rescaled: bool) -> Cost {
        let (first, last) = self.giants();
        let is_rotation =
            |k: i64| u64::from(KeySpec::rotation(&self.params, k, self.level).is_some());
        let babies: u64 = self.babies().iter().map(|&b| is_rotation(b as i64)).sum();
        let giants = (last - first) as u64 * is_rotation(self.baby as i64)
            + is_rotation(first * self.baby as i64);
        let products = self.terms() as u64;
        cost::linear_transform(&self.params, self.level, products, babies, giants, rescaled)
    }
}

impl Evaluator {
    /// Applies a linear map. Level unchanged; the result's scale is the product of both; rescale it.
    ///
    /// Cost: [`LinearTransform::cost`]. Counts one `ct_pt` a diagonal, a rotation and a key switch for every baby (hoisted
    /// and lazy) and giant step that is not the identity.
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
        let scale = self.check_map(a, map, keys)?;
        let _span = primitive("linear_transform");
        let sums = self.hoisted_map(a, map, keys)?;
        let polys = if sums.iter().any(|p| p.limbs().p > 0) {
            RingPoly::mod_down_many(sums.into(), 0)?
        } else {
            sums.into()
        };
        Ok(self.ciphertext(a.secret, a.level, scale, polys))
    }

    /// Applies a linear map and rescales, with one division and one rounding.
    ///
    /// Cost: [`LinearTransform::cost_rescaled`].
    ///
    /// # Errors
    /// As [`Self::linear_transform`]; [`Error::LevelExhausted`] at level 0.
    pub fn linear_transform_rescale(
        &self,
        a: &Ciphertext,
        map: &LinearTransform,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        const OP: &str = "linear_transform";
        let scale = self.check_map(a, map, keys)?;
        let params = self.context().params();
        let Some(level) = a.level.checked_sub(1) else {
            return Err(Error::LevelExhausted { op: OP, level: 0, needed: 1 });
        };
        let _span = primitive(OP);
        count(Counter::Rescales, 1);
        let (scale, primes) =
            (scale / params.modulus_at(a.level) as f64, params.primes_at(a.level));
        let sums = self.hoisted_map(a, map, keys)?;
        let polys = if sums.iter().any(|p| p.limbs().p > 0) {
            RingPoly::mod_down_many(sums.into(), primes)?
        } else {
            RingPoly::rescale_many(sums.into(), primes)?
        };
        Ok(self.ciphertext(a.secret, level, scale, polys))
    }

    /// Refuses what does not fit; the scale of the result before any rescaling.
    fn check_map(
        &self,
        a: &Ciphertext,
        map: &LinearTransform,
        keys: &EvaluationKeys,
    ) -> Result<f64> {
        const OP: &str = "linear_transform";
        self.check(OP, a)?;
        let params = self.context().params();
        params.require_same(OP, &map.params)?;
        keys.check(OP, a)?;
        Self::check_degree_1(OP, a)?;
        if a.level != map.level {
            return Err(Error::LevelMismatch { op: OP, lhs: a.level, rhs: map.level });
        }
        self.context().check_scale(OP, a.level, a.scale * map.scale)?;
        match keys.missing(&map.keys()).first() {
            Some(&spec) => Err(Error::MissingKey { spec }),
            None => Ok(a.scale * map.scale),
        }
    }

    /// The two halves of the result: times P, over the limbs of the level and all special ones; or as they are, over the
    /// limbs of the level alone, if nothing is rotated.
    fn hoisted_map(
        &self,
        a: &Ciphertext,
        map: &LinearTransform,
        keys: &EvaluationKeys,
    ) -> Result<[RingPoly; 2]> {
        const OP: &str = "linear_transform";
        let empty = || Error::InvalidArgument { op: OP, detail: "the map is empty".into() };
        let (params, ring) = (self.context().params(), self.context().ring());
        let [c0, c1] = a.polys.as_slice() else {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 1 });
        };
        count(Counter::CtPt, map.terms() as u64);
        let kind = |k: i64| KeyKind::rotation(k, params.slots());
        let steps: Vec<usize> = map.babies().into_iter().collect();
        let (first, last) = map.giants();
        let turned = steps.iter().filter(|&&b| kind(b as i64).is_some()).count() as u64;
        let mut inner: Vec<Option<[RingPoly; 2]>> = if turned == 0 {
            let plain = |weights: &SubringPoly| -> Result<[RingPoly; 2]> {
                let (mut x0, mut x1) = (c0.clone(), c1.clone());
                x0.mul_subring_assign(weights)?;
                x1.mul_subring_assign(weights)?;
                if last == first && kind(first * map.baby as i64).is_none() {
                    return Ok([x0, x1]);
                }
                let limbs = Limbs { q: x0.limbs().q, p: params.special().len() };
                let mut times_p = [RingPoly::zero(ring, limbs)?, RingPoly::zero(ring, limbs)?];
                for (out, x) in times_p.iter_mut().zip([x0, x1]) {
                    out.add_special_multiple_assign(&x)?;
                }
                Ok(times_p)
            };
            let row = |g| map.rows.get(&g).and_then(|row| row.values().next()).map(plain);
            (first..=last).map(|g| row(g).transpose()).collect::<Result<_>>()?
        } else {
            count(Counter::Rotations, turned);
            count(Counter::KeySwitches, turned);
            count(Counter::Hoisted, turned);
            count(Counter::Lazy, turned);
            let switches = steps.iter().map(|&b| {
                let Some(kind) = kind(b as i64) else { return Ok(None) };
                let Some([galois, _]) = kind.galois_elements(params.n()) else { return Ok(None) };
                Ok(Some((galois, keys.get(kind, a.level)?)))
            });
            let switches = switches.collect::<Result<Vec<_>>>()?;
            let babies = switches.iter().map(|switch| match switch {
                Some((galois, key)) => Baby::Switched { galois: *galois, key },
                None => Baby::Identity,
            });
            let babies: Vec<Baby<'_>> = babies.collect();
            let weights: Vec<Vec<Option<&SubringPoly>>> = map
                .rows
                .values()
                .map(|row| steps.iter().map(|step| row.get(step)).collect())
                .collect();
            let sums = c1.decompose()?.hoisted_sums([c0, c1], &babies, &weights)?;
            let mut by_giant: BTreeMap<i64, [RingPoly; 2]> =
                map.rows.keys().copied().zip(sums).collect();
            (first..=last).map(|g| by_giant.remove(&g)).collect()
        };

        let mut sum = inner.pop().flatten().ok_or_else(empty)?;
        while let Some(next) = inner.pop() {
            sum = self.rotate_times_p(sum, map.baby as i64, a.level, keys, next.as_ref())?;
        }
        self.rotate_times_p(sum, first * map.baby as i64, a.level, keys, None)
    }

    /// Rotates a pair times P over {q, all special} and adds the next: only the half that is decomposed is divided by P
    /// before.
    fn rotate_times_p(
        &self,
        [a0, a1]: [RingPoly; 2],
        k: i64,
        level: usize,
        keys: &EvaluationKeys,
        next: Option<&[RingPoly; 2]>,
    ) -> Result<[RingPoly; 2]> {
        let params = self.context().params();
        let kind = KeyKind::rotation(k, params.slots());
        let galois = kind.and_then(|kind| Some((kind, kind.galois_elements(params.n())?)));
        let Some((kind, [g, _])) = galois else {
            let mut sum = [a0, a1];
            for (sum, next) in sum.iter_mut().zip(next.into_iter().flatten()) {
                sum.add_assign(next)?;
            }
            return Ok(sum);
        };
        count(Counter::Rotations, 1);
        count(Counter::KeySwitches, 1);
        let key = keys.get(kind, level)?;
        Ok(a1.mod_down()?.key_switch_sum(&key, &a0, Some(g), next)?)
    }
}
