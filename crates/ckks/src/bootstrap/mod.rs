//! Bootstrapping: a ciphertext at a low level becomes one of the same values at a high level.
//!
//! **Circuit**, slots-to-coefficients first: the slots z, at a level just above 0, become coefficients z q_0 / R modulo q_0;
//! a key switch puts them under an ephemeral sparse secret; raising the modulus adds q_0 I, I small because that secret is;
//! a key switch leads back; the coefficients I + z / R become slots, real and imaginary parts in two ciphertexts; the
//! modular reduction ([`eval_mod`]) removes I. As the reduction acts on the slots themselves, the only condition is a
//! bound on each slot, whatever the vector looks like.
//!
//! Cheon, Han, Kim, Kim and Song (ePrint 2018/153); encapsulation, Bossuat, Troncoso-Pastoriza and Hubaux (2022/024).

mod bessel;
mod circuit;
mod dft;
mod eval_mod;
mod failure;
mod precision;

pub use precision::BootstrapPrecision;

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::cost;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::linear::LinearTransform;
use crate::params::{BootstrappingLiteral, ENCAPSULATION_SPECIAL, Parameters};
use crate::paterson_stockmeyer::Symbolic;
use crate::polynomial::Polynomial;
use crate::rlwe::{KeyKind, KeySpec, SwitchingKey};
use cipherform_profile::{Cost, Counter};
use dft::{Shape, Stage};
use eval_mod::EvalMod;
pub(crate) use failure::failure_log2;
use std::collections::BTreeMap;
use std::f64::consts::TAU;

/// Levels of the approximate modular reduction: five for a polynomial of degree 31, three for squarings.
pub(crate) const EVAL_MOD_LEVELS: usize = 8;

/// log2 of R in precise mode: eight times less noise than at 2^11, and a sine error that a correction takes away.
const PRECISE_LOG2_RATIO: u32 = 8;

/// By how much the correction raises the scale before it is rescaled, so that its own roundings do not show.
const CORRECTION_GAIN: f64 = 1024.0;

/// Largest `log2_bound`: every bit is one bit of absolute precision.
const MAX_LOG2_BOUND: u32 = 8;

/// How to bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootstrapOptions {
    /// Corrects the sine beforehand by a polynomial in the slots, which costs two levels (three for a set whose own R is
    /// 2^8, and whose noise calls for degree 5), and spends the accuracy on a smaller R.
    pub precise: bool,
    /// Slots are at most 2^this in absolute value, real and imaginary parts each. The input promises it: larger values give
    /// wrong results. Each bit costs a bit of absolute precision.
    pub log2_bound: u32,
    /// log2 of the period of the slots, if they repeat: fewer diagonals, a few more rotations. All slots if `None`.
    pub log2_slots: Option<u32>,
    /// Refuse if [`Bootstrapper::memory_bytes`] would be more than this.
    pub memory_limit: Option<u64>,
}

/// What is bootstrapped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootstrapKind {
    /// One ciphertext of complex slots.
    Complex,
    /// Two ciphertexts of real slots, for the price of one complex one.
    RealPair,
    /// One ciphertext of real slots: half the modular reductions.
    Real,
}

/// Refreshes ciphertexts of one context. Made once: it encodes the diagonals of both embeddings.
///
/// Input: [`Self::input_level`] at its nominal scale; output: [`Self::output_level`] at its nominal scale. Between two
/// bootstraps there are `output_level - input_level` levels.
///
/// # Security
/// IND-CPA under the dense secret and, for one key modulo q_0 P' alone, the sparse one; see
/// [`crate::ParametersLiteral::check`]. A failure ([`Self::failure_log2`]) is a wrong result, found by nobody.
#[derive(Debug)]
pub struct Bootstrapper {
    ctx: Context,
    evaluator: Evaluator,
    options: BootstrapOptions,
    correction: Option<Polynomial>,
    repetition_sums: Vec<LinearTransform>,
    slots_to_coefficients: Vec<LinearTransform>,
    coefficients_to_slots: Vec<LinearTransform>,
    eval_mod: EvalMod,
    precision: BootstrapPrecision,
}

impl Bootstrapper {
    /// Encodes the diagonals and predicts the precision.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a set that cannot bootstrap or options outside their range;
    /// [`Error::InsufficientMemory`] above the limit of the options, before anything is allocated.
    pub fn new(ctx: &Context, options: BootstrapOptions) -> Result<Self> {
        let params = ctx.params();
        let invalid = |detail: String| Error::InvalidArgument { op: "bootstrapper", detail };
        let Some(set) = params.bootstrapping() else {
            return Err(invalid(format!("{} cannot bootstrap", params.label())));
        };
        let log2_all = params.log_n() - 1;
        let log2_slots = options.log2_slots.unwrap_or(log2_all);
        if log2_slots > log2_all {
            return Err(invalid(format!("2^{log2_slots} slots; the set has 2^{log2_all}")));
        }
        if options.log2_bound > MAX_LOG2_BOUND {
            return Err(invalid(format!(
                "slots up to 2^{}; the most is 2^{MAX_LOG2_BOUND}: scale them down",
                options.log2_bound
            )));
        }
        let plan = Plan { params, set, options, log2_slots };
        if let Some(limit) = options.memory_limit {
            let needed = plan.memory_bytes();
            if needed > limit {
                return Err(Error::InsufficientMemory { op: "bootstrapper", needed, limit });
            }
        }
        if plan.input_level() >= params.application_level() {
            return Err(invalid("the correction leaves no level between two bootstraps".into()));
        }
        let eval_mod = EvalMod::new(params, set, plan.exponential_scale()?);
        let encoder = Encoder::new(ctx);
        let stages = plan.slots_to_coefficients_stages();
        let stc = dft::slots_to_coefficients(encoder.fft(), log2_slots, stages);
        let gain = plan.coefficient_scale() / plan.embedded_scale();
        let slots_to_coefficients = plan.encode(&encoder, &stc, stages, gain, 1.0)?;
        let stages = set.coefficients_to_slots.len();
        let cts = dft::coefficients_to_slots(encoder.fft(), log2_slots, stages);
        let gain = eval_mod.input_scale() / plan.raised_scale();
        // w + conj(w) = x / L, hence 1 / 2L.
        let weight = 0.5 / eval_mod::interval(set);
        let top = params.max_level();
        let coefficients_to_slots = plan.encode(&encoder, &cts, top, gain, weight)?;
        let repetition_sums = dft::repetition_sums(log2_slots, log2_all)
            .iter()
            .map(|stage| LinearTransform::new(&encoder, top, 1.0, &stage.diagonals, stage.baby))
            .collect::<Result<_>>()?;
        let precision = precision::predict(&plan, &eval_mod)?;
        Ok(Self {
            ctx: ctx.clone(),
            evaluator: Evaluator::new(ctx),
            options,
            correction: plan.correction()?,
            repetition_sums,
            slots_to_coefficients,
            coefficients_to_slots,
            eval_mod,
            precision,
        })
    }

    /// Level of the inputs.
    #[must_use]
    pub fn input_level(&self) -> usize {
        self.plan_level(self.correction.as_ref().map_or(0, Polynomial::depth))
    }

    fn plan_level(&self, correction: usize) -> usize {
        self.slots_to_coefficients.len() + correction
    }

    /// Level of the results.
    #[must_use]
    pub fn output_level(&self) -> usize {
        self.ctx.params().application_level()
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> BootstrapOptions {
        self.options
    }

    /// The keys that all kinds of bootstraps need.
    #[must_use]
    pub fn keys(&self) -> Vec<KeySpec> {
        collect_keys(self.ctx.params(), self.maps().flat_map(LinearTransform::keys))
    }

    fn maps(&self) -> impl Iterator<Item = &LinearTransform> {
        let embedding = self.slots_to_coefficients.iter().chain(&self.coefficients_to_slots);
        embedding.chain(&self.repetition_sums)
    }

    /// log2 of the probability that one bootstrap gives a wrong result, see the module's sources: exact up to the union
    /// bound over the coefficients. Minus infinity if it cannot happen.
    #[must_use]
    pub fn failure_log2(&self) -> f64 {
        let params = self.ctx.params();
        params.bootstrapping().map_or(0.0, |set| failure_log2(params.n(), set))
    }

    /// Predicted precision of the results.
    #[must_use]
    pub fn precision(&self) -> &BootstrapPrecision {
        &self.precision
    }

    /// Bytes for expanded keys, encoded diagonals and the largest working set of a bootstrap.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let params = self.ctx.params();
        let diagonals: u64 = self.maps().map(LinearTransform::bytes).sum();
        key_bytes(params, &self.keys()) + diagonals + working_bytes(params)
    }

    /// What a bootstrap counts, exactly.
    #[must_use]
    pub fn cost(&self, kind: BootstrapKind) -> Cost {
        let params = self.ctx.params();
        let top = params.max_level();
        let halves = if kind == BootstrapKind::Real { 1 } else { 2 };
        let mut cost = Cost::of(Counter::Bootstraps, 1);
        if let Some(polynomial) = &self.correction {
            let level = self.input_level();
            cost += polynomial.cost_at(params, level) * halves;
            if kind == BootstrapKind::Complex {
                cost += cost::rotate(params, level);
            }
        }
        cost += self.slots_to_coefficients.iter().map(LinearTransform::cost_rescaled).sum();
        // One digit of one limb, into three limbs; two halves back.
        let small = 1 + ENCAPSULATION_SPECIAL as u64;
        cost += Cost::of(Counter::KeySwitches, 1) + Cost::of(Counter::LimbNtts, 3 * small);
        cost += Cost::of(Counter::LimbNtts, 2 * params.limbs_at(top) as u64);
        cost += cost::key_switch(params, top);
        cost += self.repetition_sums.iter().map(LinearTransform::cost).sum();
        cost += self.coefficients_to_slots.iter().map(LinearTransform::cost_rescaled).sum();
        let level = top - self.coefficients_to_slots.len();
        cost += cost::rotate(params, level);
        let mut model = Symbolic::new(Some(params), halves);
        let input = Symbolic::input(level, self.eval_mod.input_scale());
        if self.eval_mod.apply(&mut model, &input).is_ok() {
            cost += model.cost();
        }
        let conjugations = if kind == BootstrapKind::RealPair { 2 } else { 1 };
        cost + cost::rotate(params, self.output_level()) * conjugations
    }

    /// Bootstraps one ciphertext of complex slots.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::DegreeMismatch`]; [`Error::LevelMismatch`] and [`Error::ScaleMismatch`] unless
    /// the input is at [`Self::input_level`] and its nominal scale; [`Error::MissingKey`], before any work is done.
    pub fn bootstrap(
        &self,
        ct: &Ciphertext,
        keys: &crate::rlwe::EvaluationKeys,
    ) -> Result<Ciphertext> {
        let [out, _] = self.run(BootstrapKind::Complex, [Some(ct), None], keys)?;
        out.ok_or_else(nothing)
    }

    /// Bootstraps two ciphertexts of real slots together, for the price of one of complex slots.
    ///
    /// # Errors
    /// As [`Self::bootstrap`].
    pub fn bootstrap_pair(
        &self,
        a: &Ciphertext,
        b: &Ciphertext,
        keys: &crate::rlwe::EvaluationKeys,
    ) -> Result<[Ciphertext; 2]> {
        let [a, b] = self.run(BootstrapKind::RealPair, [Some(a), Some(b)], keys)?;
        Ok([a.ok_or_else(nothing)?, b.ok_or_else(nothing)?])
    }

    /// Bootstraps one ciphertext of real slots: half the modular reductions. Small imaginary parts, such as noise, are lost.
    ///
    /// # Errors
    /// As [`Self::bootstrap`].
    pub fn bootstrap_real(
        &self,
        ct: &Ciphertext,
        keys: &crate::rlwe::EvaluationKeys,
    ) -> Result<Ciphertext> {
        let [out, _] = self.run(BootstrapKind::Real, [Some(ct), None], keys)?;
        out.ok_or_else(nothing)
    }
}

fn nothing() -> Error {
    Error::InvalidArgument { op: "bootstrap", detail: "no result".into() }
}

/// Everything that follows from parameters and options alone.
struct Plan<'a> {
    params: &'a Parameters,
    set: &'a BootstrappingLiteral,
    options: BootstrapOptions,
    log2_slots: u32,
}

impl Plan<'_> {
    fn log2_ratio(&self) -> u32 {
        if self.options.precise {
            PRECISE_LOG2_RATIO.min(self.set.log2_ratio)
        } else {
            self.set.log2_ratio
        }
    }

    /// R.
    fn ratio(&self) -> f64 {
        f64::from(self.log2_ratio()).exp2()
    }

    fn slots_to_coefficients_stages(&self) -> usize {
        self.set.slots_to_coefficients.len()
    }

    /// Levels of the correction.
    fn correction_depth(&self) -> usize {
        if !self.options.precise {
            0
        } else if self.set.log2_ratio > PRECISE_LOG2_RATIO {
            2
        } else {
            3
        }
    }

    fn input_level(&self) -> usize {
        self.slots_to_coefficients_stages() + self.correction_depth()
    }

    /// What the sine needs as its argument for x in [-1, 1], a slot over its bound: (R / 2 pi) arcsin(2 pi x / R), as a
    /// Chebyshev series of a low odd degree.
    ///
    /// Interpolated in the zeros of the next even function, so the error is that of the first term left out. Degree 1 is
    /// a factor, which costs nothing: it makes the sine's largest error four times smaller than its Taylor series would.
    fn arcsine(&self) -> Result<Polynomial> {
        let t = TAU / self.ratio();
        let degree = [1, 1, 3, 5].get(self.correction_depth()).copied().unwrap_or(1);
        Polynomial::interpolate(degree + 1, |x| (t * x).asin() / t)
    }

    /// What is evaluated before slots-to-coefficients.
    fn correction(&self) -> Result<Option<Polynomial>> {
        if self.correction_depth() == 0 { Ok(None) } else { self.arcsine().map(Some) }
    }

    /// Largest absolute value of a slot's part.
    fn bound(&self) -> f64 {
        f64::from(self.options.log2_bound).exp2()
    }

    /// Scale of x when it enters slots-to-coefficients.
    fn embedded_scale(&self) -> f64 {
        let nominal = self.params.scale_at(self.slots_to_coefficients_stages());
        nominal * if self.options.precise { CORRECTION_GAIN } else { self.bound() }
    }

    /// q_0.
    fn base(&self) -> f64 {
        self.params.modulus_at(0) as f64
    }

    /// Scale of x as coefficients: q_0 / R.
    fn coefficient_scale(&self) -> f64 {
        self.base() / self.ratio()
    }

    /// Scale of I + x / R after raising the modulus: q_0, times what the sum over the unused slots multiplies by.
    fn raised_scale(&self) -> f64 {
        self.base() * f64::from(self.params.log_n() - 1 - self.log2_slots).exp2()
    }

    /// Scale of the exponential such that twice the sine, read as a slot, has the nominal scale of the output level.
    fn exponential_scale(&self) -> Result<f64> {
        let slope = match self.correction_depth() {
            0 => self.arcsine()?.coefficients().get(1).copied().unwrap_or(1.0),
            _ => 1.0,
        };
        let nominal = self.params.scale_at(self.params.application_level());
        Ok(nominal * self.bound() * slope * self.ratio() / (2.0 * TAU))
    }

    /// Encodes stages from a level downwards so that together they multiply the scale by `gain` and values by `weight`.
    fn encode(
        &self,
        encoder: &Encoder,
        stages: &[Stage],
        top: usize,
        gain: f64,
        weight: f64,
    ) -> Result<Vec<LinearTransform>> {
        let share = |x: f64| x.powf(1.0 / stages.len().max(1) as f64);
        let (gain, weight) = (share(gain), share(weight));
        let encode_one = |(i, stage): (usize, &Stage)| {
            let level = top - i;
            let scale = self.params.modulus_at(level) as f64 * gain;
            let weighted = |values: &Vec<_>| values.iter().map(|v| v * weight).collect::<Vec<_>>();
            let diagonals: BTreeMap<i64, Vec<num_complex::Complex64>> =
                stage.diagonals.iter().map(|(&d, values)| (d, weighted(values))).collect();
            LinearTransform::new(encoder, level, scale, &diagonals, stage.baby)
        };
        stages.iter().enumerate().map(encode_one).collect()
    }

    /// As [`Bootstrapper::memory_bytes`], before anything exists.
    fn memory_bytes(&self) -> u64 {
        let slots = self.params.slots() as i64;
        let mut keys = Vec::new();
        let mut diagonals = 0;
        let stc = Shape::split(self.log2_slots, self.slots_to_coefficients_stages());
        let mut cts = Shape::split(self.log2_slots, self.set.coefficients_to_slots.len());
        cts.reverse();
        let levels = (1..=self.slots_to_coefficients_stages()).rev();
        let tops = (0..=self.params.max_level()).rev();
        for (shape, level) in stc.into_iter().zip(levels).chain(cts.into_iter().zip(tops)) {
            let rows = self.params.limbs_at(level) + self.params.special().len();
            diagonals += (shape.diagonals() * 2 * shape.period() * rows * 8) as u64;
            let (step, baby) = (1i64 << shape.low, shape.baby() as i64);
            let amounts = (1..=baby / step).map(|i| i * step).filter(|k| k % slots != 0);
            keys.extend(amounts.filter_map(|k| KeySpec::rotation(self.params, k, level)));
        }
        let top = self.params.max_level();
        for stage in dft::repetition_sums(self.log2_slots, self.params.log_n() - 1) {
            let rows = self.params.limbs_at(top) + self.params.special().len();
            diagonals += (stage.diagonals.len() * 2 * rows * 8) as u64;
            let amounts = stage.diagonals.keys();
            keys.extend(amounts.filter_map(|&k| KeySpec::rotation(self.params, k, top)));
        }
        let keys = collect_keys(self.params, keys);
        key_bytes(self.params, &keys) + diagonals + working_bytes(self.params)
    }
}

/// The rotations of the maps and everything else, each kind at the highest level of its use.
fn collect_keys(params: &Parameters, rotations: impl IntoIterator<Item = KeySpec>) -> Vec<KeySpec> {
    let stages = params.bootstrapping().map_or(0, |set| set.coefficients_to_slots.len());
    let split = params.max_level() - stages;
    let fixed = [
        KeySpec::relinearization(split),
        KeySpec::conjugation(split),
        KeySpec::dense_to_sparse(),
        KeySpec::sparse_to_dense(params),
    ];
    let mut highest: BTreeMap<KeyKind, usize> = BTreeMap::new();
    for spec in rotations.into_iter().chain(fixed) {
        let level = highest.entry(spec.kind).or_insert(0);
        *level = (*level).max(spec.level);
    }
    highest.into_iter().map(|(kind, level)| KeySpec { kind, level }).collect()
}

fn key_bytes(params: &Parameters, keys: &[KeySpec]) -> u64 {
    keys.iter().map(|&spec| SwitchingKey::expanded_bytes(params, spec)).sum()
}

/// The largest working set: in coefficients-to-slots the digits of one polynomial and the sums of all giant steps; in the
/// modular reduction seven basis functions, products and digits of two ciphertexts at its highest level.
fn working_bytes(params: &Parameters) -> u64 {
    let top = params.max_level();
    let extended = params.limbs_at(top) + params.special().len();
    let stages = params.bootstrapping().map_or(0, |set| set.coefficients_to_slots.len());
    let split = params.limbs_at(top - stages);
    let transform = (params.digits_at(top).len() + 4 + 2 * 8) * extended;
    let reduction = 2 * (7 * 2 * split + 3 * 3 * split + (params.dnum() + 4) * extended);
    (transform.max(reduction) * params.n() * 8) as u64
}
