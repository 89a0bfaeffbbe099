//! Noise of whole circuits: a value that mirrors the evaluator's operations without computing anything.

use super::{NoiseModel, propagation};
use crate::alignment::{alignment, check_levels, check_scales};
use crate::context::check_scale;
use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::polynomial::Polynomial;
use num_complex::Complex64;
use std::collections::BTreeMap;

/// What the numbers of an estimate mean, and how errors that meet are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseMode {
    /// Sizes are root mean squares over the slots and errors that meet are independent: what a measurement finds.
    Typical,
    /// Sizes are the largest |slot|, and deviations of errors that may share anything add up, within one ciphertext (its
    /// slots in a linear map) as between two; only errors that an operation draws afresh add their squares. No slot's
    /// deviation, over keys and errors, is larger.
    Bound,
}

/// The error of one ciphertext, as far as it is known before there is one: what [`crate::Evaluator`] does to a
/// ciphertext, the method of the same name does to its estimate.
///
/// Operands must not share errors in [`NoiseMode::Typical`]: use [`Self::square`] and [`Self::mul_integer`] for x * x
/// and x + x. The slots' size after an operation is that of independent operands; whoever knows better (a square, a
/// calibrated range) says so with [`Self::with_message`].
#[derive(Clone, Debug)]
pub struct NoiseEstimate {
    model: NoiseModel,
    mode: NoiseMode,
    level: usize,
    scale: f64,
    degree: usize,
    message: f64,
    std: f64,
}

impl NoiseModel {
    /// The estimate of a ciphertext of degree 1 whose coefficients' error has a known deviation.
    ///
    /// `message` is the size of the slots in the sense of the mode.
    ///
    /// # Errors
    /// [`Error::LevelTooHigh`]; [`Error::InvalidScale`] or [`Error::ValueTooLarge`] for a scale that no ciphertext of
    /// that level has; [`Error::NonFinite`] for a size or a deviation that is negative or not a number.
    pub fn estimate(
        &self,
        mode: NoiseMode,
        level: usize,
        scale: f64,
        message: f64,
        std: f64,
    ) -> Result<NoiseEstimate> {
        const OP: &str = "noise estimate";
        self.params.require_level(OP, level)?;
        check_scale(&self.params, OP, level, scale)?;
        let usable = |x: f64| x.is_finite() && x >= 0.0;
        if let Some(index) = [message, std].iter().position(|&x| !usable(x)) {
            return Err(Error::NonFinite { index });
        }
        Ok(NoiseEstimate { model: self.clone(), mode, level, scale, degree: 1, message, std })
    }

    /// A fresh encryption under the secret key of a vector as long as the slots, its encoding included.
    ///
    /// # Errors
    /// As [`Self::estimate`].
    pub fn encrypted_with_secret_key(
        &self,
        mode: NoiseMode,
        level: usize,
        scale: f64,
        message: f64,
    ) -> Result<NoiseEstimate> {
        let std = self.fresh_secret_key().hypot(self.encoding());
        self.estimate(mode, level, scale, message, std)
    }

    /// A fresh encryption under the public key of a vector as long as the slots, its encoding included.
    ///
    /// # Errors
    /// As [`Self::estimate`].
    pub fn encrypted_with_public_key(
        &self,
        mode: NoiseMode,
        level: usize,
        scale: f64,
        message: f64,
    ) -> Result<NoiseEstimate> {
        let std = self.fresh_public_key().hypot(self.encoding());
        self.estimate(mode, level, scale, message, std)
    }
}

/// A factor of a product: size of its slots, scale, deviation of its coefficients.
type Factor = (f64, f64, f64);

impl NoiseEstimate {
    /// Rescalings left.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Factor between values and polynomial.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// 1, or 2 for a product that is not relinearized.
    #[must_use]
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// What the numbers mean.
    #[must_use]
    pub fn mode(&self) -> NoiseMode {
        self.mode
    }

    /// Size of the slots: root mean square or largest absolute value, by the mode.
    #[must_use]
    pub fn message(&self) -> f64 {
        self.message
    }

    /// Deviation of a coefficient of the error polynomial.
    #[must_use]
    pub fn std(&self) -> f64 {
        self.std
    }

    /// Deviation of a slot's real or imaginary part, in values.
    #[must_use]
    pub fn slot_std(&self) -> f64 {
        self.in_slots(self.std)
    }

    /// A coefficient deviation as that of a slot's part, in values.
    pub(crate) fn in_slots(&self, std: f64) -> f64 {
        self.model.slot(std) / self.scale
    }

    /// -log2 of [`Self::slot_std`].
    #[must_use]
    pub fn bits(&self) -> f64 {
        self.model.bits(self.std, self.scale)
    }

    /// -log2 of the error that the worst of `parts` real and imaginary parts has on average, see [`NoiseModel::worst`].
    #[must_use]
    pub fn worst_bits(&self, parts: usize) -> f64 {
        self.bits() - self.model.worst(parts).log2()
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.model.params
    }

    /// The same error around slots of another size.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a size that is negative or not a number.
    pub fn with_message(&self, message: f64) -> Result<Self> {
        self.model.estimate(self.mode, self.level, self.scale, message, self.std).map(|mut out| {
            out.degree = self.degree;
            out
        })
    }

    /// The same ciphertext read as one of slots that are `factor` times smaller: a larger scale, for free.
    pub(crate) fn over(&self, factor: f64) -> Result<Self> {
        let message = self.message / factor;
        self.model.estimate(self.mode, self.level, self.scale * factor, message, self.std)
    }

    /// Two deviations that meet.
    fn join(&self, a: f64, b: f64) -> f64 {
        match self.mode {
            NoiseMode::Typical => a.hypot(b),
            NoiseMode::Bound => a + b,
        }
    }

    /// One more error, independent of everything before: it adds its square in both modes.
    fn fresh_error(mut self, std: f64) -> Self {
        self.std = self.std.hypot(std);
        self
    }

    /// The coefficients' deviation that has `size` as root mean square of the complex slots.
    fn coefficients_of(&self, size: f64) -> f64 {
        size / (self.params().n() as f64).sqrt()
    }

    /// Relative error of a constant encoded at a scale, and the constant's size.
    fn constant(&self, value: Complex64, scale: f64) -> (f64, f64) {
        let scaled = value * scale;
        let rounding = Complex64::new(scaled.re - scaled.re.round(), scaled.im - scaled.im.round());
        (value.norm(), self.coefficients_of(rounding.norm()))
    }

    /// z_a S_a e_b and z_b S_b e_a, and the product of both errors: a convolution of n terms.
    fn product(&self, (za, sa, ea): Factor, (zb, sb, eb): Factor) -> f64 {
        let first_order = self.join(za * sa * eb, zb * sb * ea);
        first_order.hypot(ea * eb * (self.params().n() as f64).sqrt())
    }

    fn as_factor(&self) -> Factor {
        (self.message, self.scale, self.std)
    }

    fn check_pair(&self, op: &'static str, other: &Self) -> Result<()> {
        self.params().require_same(op, other.params())?;
        if self.mode != other.mode {
            let detail = format!("modes differ ({:?} and {:?})", self.mode, other.mode);
            return Err(Error::InvalidArgument { op, detail });
        }
        check_levels(op, self.level, other.level)
    }

    fn check_degree(&self, op: &'static str, needed: usize) -> Result<()> {
        if self.degree == needed {
            Ok(())
        } else {
            Err(Error::DegreeMismatch { op, degree: self.degree, needed })
        }
    }

    /// A sum or a difference.
    ///
    /// # Errors
    /// Those of [`crate::Evaluator::add`]; [`Error::InvalidArgument`] for estimates of two modes.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.check_pair("add", other)?;
        check_scales("add", self.scale, other.scale)?;
        let mut out = self.clone();
        out.message = self.join(self.message, other.message);
        out.std = self.join(self.std, other.std);
        out.degree = self.degree.max(other.degree);
        Ok(out)
    }

    /// A sum or a difference with a plaintext of the same level and scale, of slots of size `plain` and of a period.
    #[must_use]
    pub fn add_plain(&self, plain: f64, period: usize) -> Self {
        let mut out = self.clone();
        out.message = self.join(self.message, plain);
        out.fresh_error(self.model.encoding_periodic(period))
    }

    /// A sum with a constant.
    #[must_use]
    pub fn add_constant<T: Into<Complex64>>(&self, value: T) -> Self {
        let mut out = self.clone();
        let (size, error) = self.constant(value.into(), self.scale);
        out.message = self.join(self.message, size);
        out.fresh_error(error)
    }

    /// The tensor product: degree 2.
    ///
    /// # Errors
    /// Those of [`crate::Evaluator::mul`]; [`Error::InvalidArgument`] for estimates of two modes.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        const OP: &str = "mul";
        self.check_pair(OP, other)?;
        self.check_degree(OP, 1)?;
        other.check_degree(OP, 1)?;
        let std = self.product(self.as_factor(), other.as_factor());
        self.multiplied(OP, other.message, other.scale, std, 2)
    }

    /// The tensor product of a ciphertext with itself: the two errors are one. In [`NoiseMode::Typical`] the size of
    /// the squares depends on the distribution of the slots; it is taken as the square of the size.
    ///
    /// # Errors
    /// Those of [`crate::Evaluator::square`].
    pub fn square(&self) -> Result<Self> {
        const OP: &str = "square";
        self.check_degree(OP, 1)?;
        let first_order = 2.0 * self.message * self.scale * self.std;
        let second_order = self.std * self.std * (2.0 * self.params().n() as f64).sqrt();
        self.multiplied(OP, self.message, self.scale, first_order.hypot(second_order), 2)
    }

    fn multiplied(
        &self,
        op: &'static str,
        message: f64,
        scale: f64,
        std: f64,
        degree: usize,
    ) -> Result<Self> {
        check_scale(self.params(), op, self.level, self.scale * scale)?;
        let mut out = self.clone();
        out.message *= message;
        out.scale *= scale;
        out.std = std;
        out.degree = degree;
        Ok(out)
    }

    /// Back to degree 1: one key switch.
    ///
    /// # Errors
    /// [`Error::DegreeMismatch`] unless the degree is 2.
    pub fn relinearize(&self) -> Result<Self> {
        self.check_degree("relinearize", 2)?;
        let mut out = self.clone().fresh_error(self.model.key_switch(self.level));
        out.degree = 1;
        Ok(out)
    }

    /// A product with a plaintext of the same level, of slots of size `plain`, a scale and a period.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`] or [`Error::InvalidScale`] for the scale of the product.
    pub fn mul_plain(&self, plain: f64, scale: f64, period: usize) -> Result<Self> {
        let factor = (plain, scale, self.model.encoding_periodic(period));
        let std = self.product(self.as_factor(), factor);
        self.multiplied("mul_plain", plain, scale, std, self.degree)
    }

    /// A product with a constant encoded at a scale; the error of the encoding is that of this very constant.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`] or [`Error::InvalidScale`] for the scale of the product.
    pub fn mul_constant<T: Into<Complex64>>(&self, value: T, scale: f64) -> Result<Self> {
        let (size, error) = self.constant(value.into(), scale);
        let std = self.product(self.as_factor(), (size, scale, error));
        self.multiplied("mul_constant", size, scale, std, self.degree)
    }

    /// A product with an integer.
    #[must_use]
    pub fn mul_integer(&self, factor: i64) -> Self {
        let mut out = self.clone();
        out.message *= factor.unsigned_abs() as f64;
        out.std *= factor.unsigned_abs() as f64;
        out
    }

    /// A rescaling: the error is divided with the scale, and rounding joins it.
    ///
    /// # Errors
    /// [`Error::LevelExhausted`] at level 0.
    pub fn rescale(&self) -> Result<Self> {
        if self.level == 0 {
            return Err(Error::LevelExhausted { op: "rescale", level: 0, needed: 1 });
        }
        let prime = self.params().modulus_at(self.level) as f64;
        let mut out = self.clone();
        out.level -= 1;
        out.scale /= prime;
        out.std /= prime;
        Ok(out.fresh_error(match self.degree {
            2 => self.model.rounding_degree_2(),
            _ => self.model.rounding(),
        }))
    }

    /// Limbs forgotten.
    ///
    /// # Errors
    /// [`Error::LevelTooHigh`] above the level.
    pub fn drop_level(&self, level: usize) -> Result<Self> {
        if level > self.level {
            return Err(Error::LevelTooHigh { op: "drop_level", level, max: self.level });
        }
        let mut out = self.clone();
        out.level = level;
        Ok(out)
    }

    /// A lower level at its nominal scale.
    ///
    /// # Errors
    /// Those of [`crate::Evaluator::set_level`].
    pub fn set_level(&self, level: usize) -> Result<Self> {
        let params = self.params();
        let target = params.scale_at(level);
        let Some(factor) = alignment(params, self.level, self.scale, level)? else {
            return Ok(self.clone());
        };
        let mut out = self.drop_level(level + 1)?;
        out.std *= factor;
        // The scale that the factor aims at: its own rounding is within the tolerance of scales.
        out.scale = target * params.modulus_at(level + 1) as f64;
        let mut out = out.rescale()?;
        out.scale = target;
        Ok(out)
    }

    /// A rotation (hoisted or not) or a conjugation: one key switch.
    ///
    /// # Errors
    /// [`Error::DegreeMismatch`] unless the degree is 1.
    pub fn rotate(&self) -> Result<Self> {
        self.check_degree("rotate", 1)?;
        Ok(self.clone().fresh_error(self.model.key_switch(self.level)))
    }

    /// A linear map given by the same diagonals, scale and baby steps as [`crate::LinearTransform::new`].
    ///
    /// Every output slot is a sum over diagonals of weight times (input + key switch of its baby step, before any division
    /// by P), and the encodings' errors times the input; a giant step adds one key switch, and the division by P at the
    /// end one rounding. The errors of the input add up along a row of weights as the mode says, by their squares or by
    /// their absolute values: after a sum over rotations, say, all slots have the same error.
    ///
    /// # Errors
    /// [`Error::DegreeMismatch`]; [`Error::InvalidArgument`] without diagonals or for no baby steps;
    /// [`Error::ValueTooLarge`] or [`Error::InvalidScale`] for the scale of the product.
    pub fn linear_transform(
        &self,
        diagonals: &BTreeMap<i64, Vec<f64>>,
        scale: f64,
        baby: usize,
    ) -> Result<Self> {
        const OP: &str = "linear_transform";
        self.check_degree(OP, 1)?;
        let baby = baby as i64;
        if diagonals.values().all(Vec::is_empty) || baby == 0 {
            let detail = "needs diagonals and baby steps".to_owned();
            return Err(Error::InvalidArgument { op: OP, detail });
        }
        let all = match self.mode {
            NoiseMode::Typical => self.row_size(diagonals, |_| true),
            NoiseMode::Bound => Self::row_sum(diagonals),
        };
        let switched = self.row_size(diagonals, |d| d.rem_euclid(baby) != 0);
        let encodings = diagonals
            .values()
            .map(|w| self.model.encoding_periodic(w.len()))
            .fold(0.0, |sum, e| self.join(sum, e));
        // In the units of the product, as every error before the giant steps.
        let std = self.join(all * scale * self.std, self.message * self.scale * encodings);
        let babies = switched * scale * self.model.key_switch_errors(self.level);
        let giants = self.giant_steps(diagonals, baby) as f64;
        let divided = switched > 0.0 || giants > 0.0;
        let rounding = if divided { self.model.rounding() } else { 0.0 };
        let out = self.multiplied(OP, all, scale, std, 1)?.fresh_error(babies);
        Ok(out.fresh_error((giants.sqrt() * self.model.key_switch(self.level)).hypot(rounding)))
    }

    /// Rotations of the Horner scheme over the giant steps, the last one included.
    fn giant_steps(&self, diagonals: &BTreeMap<i64, Vec<f64>>, baby: i64) -> i64 {
        let giant = |d: Option<&i64>| d.copied().unwrap_or(0).div_euclid(baby);
        let (first, last) = (giant(diagonals.keys().next()), giant(diagonals.keys().next_back()));
        last - first + i64::from(first * baby % self.params().slots() as i64 != 0)
    }

    /// sqrt(sum over the chosen diagonals of |w|^2) of an output slot; over all slots as the mode says.
    fn row_size(&self, diagonals: &BTreeMap<i64, Vec<f64>>, chosen: impl Fn(i64) -> bool) -> f64 {
        let rows = Self::rows(diagonals, |(&d, w), j| {
            let weight = w.get(j % w.len().max(1)).copied().unwrap_or(0.0);
            if chosen(d) { weight * weight } else { 0.0 }
        });
        match self.mode {
            NoiseMode::Typical => (rows.iter().sum::<f64>() / rows.len().max(1) as f64).sqrt(),
            NoiseMode::Bound => rows.iter().fold(0.0f64, |max, &r| max.max(r)).sqrt(),
        }
    }

    /// Largest sum of |w| of an output slot.
    fn row_sum(diagonals: &BTreeMap<i64, Vec<f64>>) -> f64 {
        Self::rows(diagonals, |(_, w), j| w.get(j % w.len().max(1)).map_or(0.0, |w| w.abs()))
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// A sum over the diagonals for each output slot; rows repeat with the longest period.
    fn rows(
        diagonals: &BTreeMap<i64, Vec<f64>>,
        term: impl Fn((&i64, &Vec<f64>), usize) -> f64,
    ) -> Vec<f64> {
        let period = diagonals.values().map(Vec::len).max().unwrap_or(0);
        (0..period).map(|j| diagonals.iter().map(|entry| term(entry, j)).sum()).collect()
    }

    /// A polynomial of real slots, at the nominal scale of its level.
    ///
    /// The evaluation is followed step by step on a grid of inputs: every rounding is an error of its own, and reaches
    /// the result with its exact derivative. [`NoiseMode::Bound`] takes the worst input of [-message, message],
    /// [`NoiseMode::Typical`] the average over inputs uniform in an interval of that root mean square.
    ///
    /// # Errors
    /// [`Error::DegreeMismatch`]; [`Error::LevelExhausted`].
    pub fn polynomial(&self, polynomial: &Polynomial) -> Result<Self> {
        let level = self.level.saturating_sub(polynomial.depth());
        self.polynomial_to_scale(polynomial, self.params().scale_at(level))
    }

    /// As [`Self::polynomial`], with any scale for the result.
    ///
    /// # Errors
    /// As [`Self::polynomial`]; [`Error::InvalidScale`] or [`Error::ValueTooLarge`] for the scale.
    pub fn polynomial_to_scale(&self, polynomial: &Polynomial, scale: f64) -> Result<Self> {
        const OP: &str = "polynomial";
        self.check_degree(OP, 1)?;
        let level = self.level.saturating_sub(polynomial.depth());
        check_scale(self.params(), OP, level, scale)?;
        let (message, slot_std) = propagation::polynomial(self, &self.model, polynomial, scale)?;
        let std = slot_std * scale / self.model.slot(1.0);
        self.model.estimate(self.mode, level, scale, message, std)
    }
}
