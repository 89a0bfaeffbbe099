//! Everything that follows from parameters and options alone.

use super::dft::{self, Shape, Stage};
use super::eval_mod::EvalMod;
use super::failure::failure_log2;
use super::precision::{self, BootstrapPrecision};
use super::{BootstrapKind, BootstrapOptions, EVAL_MOD_LEVELS};
use crate::cost;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::linear::LinearTransform;
use crate::params::{BootstrappingLiteral, ENCAPSULATION_SPECIAL, Parameters};
use crate::paterson_stockmeyer::Symbolic;
use crate::polynomial::Polynomial;
use crate::rlwe::{KeyKind, KeySpec, SwitchingKey};
use cipherform_profile::{Cost, Counter};
use cipherform_ring::Device;
use num_complex::Complex64;
use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::TAU;

const OP: &str = "bootstrapper";

/// log2 of R by correction: the smaller, the less noise, and the larger the sine's error that the correction leaves. These
/// balance the two for the scales of the sets.
const CUBIC_LOG2_RATIO: u32 = 7;
const QUINTIC_LOG2_RATIO: u32 = 6;

/// The smallest R that any mode uses.
pub(crate) const LEAST_LOG2_RATIO: u32 = QUINTIC_LOG2_RATIO;

/// Sets with an R up to this are made for so little noise that the sine's error is always corrected.
const ALWAYS_CORRECTED_LOG2_RATIO: u32 = 8;

/// By how much the correction raises the scale before it is rescaled, so that its own roundings do not show.
pub(super) const CORRECTION_GAIN: f64 = 1024.0;

/// Largest `log2_bound`: every bit is one bit of absolute precision.
const MAX_LOG2_BOUND: u32 = 8;

/// What bootstraps of a set with some options will be like, known before a key or a table exists.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BootstrapEstimate {
    /// Level of the inputs.
    pub input_level: usize,
    /// Level of the results.
    pub output_level: usize,
    /// log2 of the probability that one bootstrap gives a wrong result: exact up to the union bound over the
    /// coefficients. Minus infinity if it cannot happen.
    pub failure_log2: f64,
    /// Precision of the results.
    pub precision: BootstrapPrecision,
    /// The keys that all kinds of bootstraps need.
    pub keys: Vec<KeySpec>,
    /// What a bootstrap of each kind counts, in the order of [`BootstrapKind`].
    costs: [Cost; 3],
    /// Bytes of the encoded diagonals.
    pub diagonal_bytes: u64,
    /// Bytes of the largest working set.
    pub working_bytes: u64,
    /// Bytes for expanded keys, encoded diagonals, the largest working set, and what a CPU keeps of it for reuse.
    pub memory_bytes: u64,
    /// The same without what a CPU keeps: the memory of a card.
    pub card_bytes: u64,
    /// Bytes of expanded keys that one step of a bootstrap holds at once, at most: the baby steps of a map.
    pub held_key_bytes: u64,
}

impl BootstrapEstimate {
    /// Predicts. Cost: microseconds.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a set that cannot bootstrap or options outside their range. Memory is not limited.
    pub fn new(params: &Parameters, options: BootstrapOptions) -> Result<Self> {
        let plan = Plan::new(params, options)?;
        plan.estimate(&plan.eval_mod()?)
    }

    /// What a bootstrap counts, exactly.
    #[must_use]
    pub fn cost(&self, kind: BootstrapKind) -> Cost {
        let [complex, pair, real] = self.costs;
        match kind {
            BootstrapKind::Complex => complex,
            BootstrapKind::RealPair => pair,
            BootstrapKind::Real => real,
        }
    }
}

/// The choices behind an estimate.
pub(super) struct Plan<'a> {
    pub(super) params: &'a Parameters,
    pub(super) set: &'a BootstrappingLiteral,
    options: BootstrapOptions,
    pub(super) log2_slots: u32,
}

impl<'a> Plan<'a> {
    pub(super) fn new(params: &'a Parameters, options: BootstrapOptions) -> Result<Self> {
        let invalid = |detail: String| Error::InvalidArgument { op: OP, detail };
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
        let plan = Self { params, set, options, log2_slots };
        if plan.input_level() >= params.application_level() {
            return Err(invalid("the correction leaves no level between two bootstraps".into()));
        }
        Ok(plan)
    }

    /// `available` is what holds without a limit in the options.
    pub(super) fn check_memory(&self, needed: u64, available: Option<u64>) -> Result<()> {
        match self.options.memory_limit.or(available) {
            Some(limit) if needed > limit => {
                Err(Error::InsufficientMemory { op: OP, needed, limit })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn estimate(&self, eval_mod: &EvalMod) -> Result<BootstrapEstimate> {
        Ok(BootstrapEstimate {
            input_level: self.input_level(),
            output_level: self.params.application_level(),
            failure_log2: failure_log2(self.params.n(), self.set, self.log2_ratio()),
            precision: precision::predict(self, eval_mod)?,
            keys: self.keys(),
            costs: [
                self.cost(BootstrapKind::Complex, eval_mod)?,
                self.cost(BootstrapKind::RealPair, eval_mod)?,
                self.cost(BootstrapKind::Real, eval_mod)?,
            ],
            diagonal_bytes: self.diagonal_bytes(),
            working_bytes: self.working_bytes(),
            memory_bytes: self.memory_bytes(),
            card_bytes: self.held_bytes() + self.working_bytes(),
            held_key_bytes: self.held_key_bytes(),
        })
    }

    pub(super) fn eval_mod(&self) -> Result<EvalMod> {
        Ok(EvalMod::new(self.params, self.set, self.exponential_scale()?))
    }

    /// Slots-to-coefficients from the lowest application level down.
    pub(super) fn encode_slots_to_coefficients(
        &self,
        encoder: &Encoder,
    ) -> Result<Vec<LinearTransform>> {
        let top = self.slots_to_coefficients_stages();
        let stages = dft::slots_to_coefficients(encoder.fft(), self.log2_slots, top);
        self.encode(encoder, &stages, top, self.coefficient_scale() / self.embedded_scale(), 1.0)
    }

    /// Coefficients-to-slots from the highest level down, to x / 2L at the scale that the modular reduction starts from:
    /// w + conj(w) = x / L.
    pub(super) fn encode_coefficients_to_slots(
        &self,
        encoder: &Encoder,
        eval_mod: &EvalMod,
    ) -> Result<Vec<LinearTransform>> {
        let count = self.set.coefficients_to_slots.len();
        let stages = dft::coefficients_to_slots(encoder.fft(), self.log2_slots, count);
        let gain = eval_mod.input_scale() / self.raised_scale();
        let weight = 0.5 / super::eval_mod::interval(self.set);
        self.encode(encoder, &stages, self.params.max_level(), gain, weight)
    }

    /// The sums over repetitions, at the highest level.
    pub(super) fn encode_repetition_sums(&self, encoder: &Encoder) -> Result<Vec<LinearTransform>> {
        dft::repetition_sums(self.log2_slots, self.params.log_n() - 1)
            .iter()
            .map(|stage| {
                let top = self.params.max_level();
                LinearTransform::new(encoder, top, 1.0, &stage.diagonals, stage.baby)
            })
            .collect()
    }

    /// Degree of the correction; 1 for none.
    pub(super) fn correction_degree(&self) -> usize {
        match (self.set.log2_ratio <= ALWAYS_CORRECTED_LOG2_RATIO, self.options.precise) {
            (false, false) => 1,
            (false, true) | (true, false) => 3,
            (true, true) => 5,
        }
    }

    pub(super) fn log2_ratio(&self) -> u32 {
        match self.correction_degree() {
            1 => self.set.log2_ratio,
            3 => CUBIC_LOG2_RATIO.min(self.set.log2_ratio),
            _ => QUINTIC_LOG2_RATIO.min(self.set.log2_ratio),
        }
    }

    /// R.
    pub(super) fn ratio(&self) -> f64 {
        f64::from(self.log2_ratio()).exp2()
    }

    fn slots_to_coefficients_stages(&self) -> usize {
        self.set.slots_to_coefficients.len()
    }

    /// Levels of the correction.
    fn correction_depth(&self) -> usize {
        match self.correction_degree() {
            1 => 0,
            degree => (degree + 1).next_power_of_two().ilog2() as usize,
        }
    }

    pub(super) fn input_level(&self) -> usize {
        self.slots_to_coefficients_stages() + self.correction_depth()
    }

    /// What the sine needs as its argument for x in [-1, 1], a slot over its bound: (R / 2 pi) arcsin(2 pi x / R), as a
    /// Chebyshev series of a low odd degree.
    ///
    /// Interpolated in the zeros of the next even function, so the error is that of the first term left out. Degree 1 is
    /// a factor, which costs nothing: it makes the sine's largest error four times smaller than its Taylor series would.
    fn arcsine(&self) -> Result<Polynomial> {
        let t = TAU / self.ratio();
        Polynomial::interpolate(self.correction_degree() + 1, |x| (t * x).asin() / t)
    }

    /// What is evaluated before slots-to-coefficients.
    pub(super) fn correction(&self) -> Result<Option<Polynomial>> {
        if self.correction_degree() == 1 { Ok(None) } else { self.arcsine().map(Some) }
    }

    /// Largest absolute value of a slot's part.
    pub(super) fn bound(&self) -> f64 {
        f64::from(self.options.log2_bound).exp2()
    }

    /// Scale of x when it enters slots-to-coefficients.
    pub(super) fn embedded_scale(&self) -> f64 {
        let nominal = self.params.scale_at(self.slots_to_coefficients_stages());
        nominal * if self.correction_degree() > 1 { CORRECTION_GAIN } else { self.bound() }
    }

    /// q_0.
    fn base(&self) -> f64 {
        self.params.modulus_at(0) as f64
    }

    /// Scale of x as coefficients: q_0 / R.
    pub(super) fn coefficient_scale(&self) -> f64 {
        self.base() / self.ratio()
    }

    /// Scale of I + x / R after raising the modulus: q_0, times what the sum over the unused slots multiplies by.
    fn raised_scale(&self) -> f64 {
        self.base() * f64::from(self.params.log_n() - 1 - self.log2_slots).exp2()
    }

    /// Scale of the exponential such that twice the sine, read as a slot, has the nominal scale of the output level.
    pub(super) fn exponential_scale(&self) -> Result<f64> {
        let nominal = self.params.scale_at(self.params.application_level());
        Ok(nominal * self.bound() * self.slope()? * self.ratio() / (2.0 * TAU))
    }

    /// Factor on the sine that stands for a correction of degree 1.
    pub(super) fn slope(&self) -> Result<f64> {
        Ok(match self.correction_degree() {
            1 => self.arcsine()?.coefficients().get(1).copied().unwrap_or(1.0),
            _ => 1.0,
        })
    }

    /// What a slot x over its bound comes back as, exactly: the corrected sine.
    pub(super) fn corrected_sine(&self, x: f64) -> Result<f64> {
        let t = TAU / self.ratio();
        let before = self.correction()?.map_or(x, |polynomial| polynomial.evaluate_f64(x));
        Ok(self.slope()? * (t * before).sin() / t)
    }

    /// Scales between the stages of slots-to-coefficients, and how many of the layers have been applied there.
    pub(super) fn embedding_scales(&self) -> Vec<(f64, u32)> {
        let shapes = Shape::split(self.log2_slots, self.slots_to_coefficients_stages());
        let share = (self.coefficient_scale() / self.embedded_scale())
            .powf(1.0 / shapes.len().max(1) as f64);
        let scale = |i: usize| self.embedded_scale() * share.powi(i as i32 + 1);
        shapes.iter().enumerate().map(|(i, s)| (scale(i), s.low + s.layers)).collect()
    }

    /// Key switches from raising the modulus to coefficients-to-slots, and divisions of the latter.
    pub(super) fn raised_errors(&self) -> usize {
        let repetitions = dft::repetition_sums(self.log2_slots, self.params.log_n() - 1);
        let sums: usize = repetitions.iter().map(|stage| stage.diagonals.len()).sum();
        1 + sums + self.set.coefficients_to_slots.len()
    }

    /// By how much coefficients-to-slots multiplies the coefficients of an error, at most.
    pub(super) fn raised_gain(&self, eval_mod: &EvalMod) -> f64 {
        let weight = 0.5 / super::eval_mod::interval(self.set);
        (eval_mod.input_scale() / self.raised_scale() * weight).max(1.0)
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
            let diagonals: BTreeMap<i64, Vec<Complex64>> =
                stage.diagonals.iter().map(|(&d, values)| (d, weighted(values))).collect();
            LinearTransform::new(encoder, level, scale, &diagonals, stage.baby)
        };
        stages.iter().enumerate().map(encode_one).collect()
    }

    /// What a bootstrap counts, exactly.
    fn cost(&self, kind: BootstrapKind, eval_mod: &EvalMod) -> Result<Cost> {
        let params = self.params;
        let top = params.max_level();
        let halves = if kind == BootstrapKind::Real { 1 } else { 2 };
        let mut sum = Cost::of(Counter::Bootstraps, 1);
        if let Some(polynomial) = self.correction()? {
            let level = self.input_level();
            sum += polynomial.cost_at(params, level) * halves;
            if kind == BootstrapKind::Complex {
                sum += cost::rotate(params, level);
            }
        }
        for (shape, level) in self.stages() {
            let indices: Vec<i64> = shape.indices().map(|d| d as i64).collect();
            sum += cost_of_map(params, level, &indices, shape.baby(), true);
        }
        // One digit of one limb, into three limbs; two halves back.
        let small = 1 + ENCAPSULATION_SPECIAL as u64;
        sum += Cost::of(Counter::KeySwitches, 1) + Cost::of(Counter::LimbNtts, 3 * small);
        sum += Cost::of(Counter::LimbNtts, 2 * params.limbs_at(top) as u64);
        sum += cost::key_switch(params, top);
        for stage in dft::repetition_sums(self.log2_slots, params.log_n() - 1) {
            let indices: Vec<i64> = stage.diagonals.into_keys().collect();
            sum += cost_of_map(params, top, &indices, stage.baby, false);
        }
        let level = top - self.set.coefficients_to_slots.len();
        sum += cost::rotate(params, level);
        let mut model = Symbolic::new(Some(params), halves);
        eval_mod.apply(&mut model, &Symbolic::input(level, eval_mod.input_scale()))?;
        sum += model.cost();
        let conjugations = if kind == BootstrapKind::RealPair { 2 } else { 1 };
        Ok(sum + cost::rotate(params, params.application_level()) * conjugations)
    }

    /// Bytes for keys, diagonals and work on a CPU.
    pub(super) fn memory_bytes(&self) -> u64 {
        let work = self.working_bytes();
        // Buffers that are kept for reuse seldom have the size of the next one.
        self.held_bytes() + work + work.min(Device::KEPT_BYTES as u64)
    }

    /// Bytes for keys and diagonals.
    fn held_bytes(&self) -> u64 {
        let keys = self.keys();
        let keys = keys.iter().map(|&spec| SwitchingKey::expanded_bytes(self.params, spec));
        keys.sum::<u64>() + self.diagonal_bytes()
    }

    fn diagonal_bytes(&self) -> u64 {
        let rows = |level| self.params.limbs_at(level) + self.params.special().len();
        let top = self.params.max_level();
        let repetitions = dft::repetition_sums(self.log2_slots, self.params.log_n() - 1);
        let ones = repetitions.iter().map(|stage| stage.diagonals.len() * 2 * rows(top));
        let stages = self.stages().into_iter();
        let weights = stages.map(|(s, level)| s.diagonals() * 2 * s.period() * rows(level));
        8 * weights.chain(ones).sum::<usize>() as u64
    }

    /// Stages of both embeddings and their levels.
    fn stages(&self) -> Vec<(Shape, usize)> {
        let low = Shape::split(self.log2_slots, self.slots_to_coefficients_stages());
        let mut high = Shape::split(self.log2_slots, self.set.coefficients_to_slots.len());
        high.reverse();
        let levels = (1..=low.len()).rev().chain((0..=self.params.max_level()).rev());
        low.into_iter().chain(high).zip(levels).collect()
    }

    /// Every key once, at the highest level of its use.
    fn keys(&self) -> Vec<KeySpec> {
        let (params, top) = (self.params, self.params.max_level());
        let split = params.application_level() + EVAL_MOD_LEVELS;
        let embeddings = self.stages().into_iter().flat_map(|(shape, level)| {
            let (step, baby) = (1i64 << shape.low, shape.baby() as i64);
            (1..=baby / step).map(move |i| (i * step, level))
        });
        // The giant step itself is a rotation only if there are several.
        let slots = 1i64 << self.log2_slots;
        let embeddings = embeddings.filter(|&(k, _)| k < slots);
        let repetitions = dft::repetition_sums(self.log2_slots, params.log_n() - 1);
        let repetitions = repetitions.iter().flat_map(|s| s.diagonals.keys().map(|&k| (k, top)));
        let rotations = embeddings
            .chain(repetitions)
            .filter_map(|(k, level)| KeySpec::rotation(params, k, level));
        let fixed = [
            KeySpec::relinearization(split),
            KeySpec::conjugation(split),
            KeySpec::dense_to_sparse(),
            KeySpec::sparse_to_dense(params),
        ];
        let mut highest: BTreeMap<KeyKind, usize> = BTreeMap::new();
        for spec in rotations.chain(fixed) {
            let level = highest.entry(spec.kind).or_insert(0);
            *level = (*level).max(spec.level);
        }
        highest.into_iter().map(|(kind, level)| KeySpec { kind, level }).collect()
    }

    /// Keys of a map's baby steps, the giant step's left out: it follows them. A key that is on the device already may be
    /// there with more limbs than the map needs.
    fn held_key_bytes(&self) -> u64 {
        let (params, keys) = (self.params, self.keys());
        let bytes = |k: i64| {
            let kind = KeyKind::rotation(k, params.slots());
            let key = keys.iter().find(|key| Some(key.kind) == kind);
            key.map_or(0, |&spec| SwitchingKey::expanded_bytes(params, spec))
        };
        let embeddings = self.stages().into_iter().map(|(shape, _)| {
            let (step, baby) = (1i64 << shape.low, shape.baby() as i64);
            (1..baby / step).map(|i| bytes(i * step)).sum()
        });
        let repetitions = dft::repetition_sums(self.log2_slots, params.log_n() - 1);
        let repetitions = repetitions.iter().map(|s| s.diagonals.keys().map(|&k| bytes(k)).sum());
        let single = keys.iter().map(|&spec| SwitchingKey::expanded_bytes(params, spec));
        embeddings.chain(repetitions).chain(single).max().unwrap_or(0)
    }

    /// The largest working set: in coefficients-to-slots the digits of one polynomial and the
    /// sums of all giant steps; in the modular reduction seven basis functions, products and digits of two ciphertexts at
    /// its highest level. Making keys takes less beside them, a few polynomials a core.
    fn working_bytes(&self) -> u64 {
        let params = self.params;
        let top = params.max_level();
        let extended = params.limbs_at(top) + params.special().len();
        let split = params.limbs_at(params.application_level() + EVAL_MOD_LEVELS);
        let transform = (params.digits_at(top).len() + 4 + 2 * 8) * extended;
        let reduction = 2 * (7 * 2 * split + 3 * 3 * split + (params.dnum() + 4) * extended);
        (transform.max(reduction) * params.n() * 8) as u64
    }
}

/// What a doubly hoisted linear map counts, see [`LinearTransform::cost`]: from its diagonals alone.
fn cost_of_map(
    params: &Parameters,
    level: usize,
    indices: &[i64],
    baby: usize,
    rescaled: bool,
) -> Cost {
    let baby = baby as i64;
    let turns = |k: i64| u64::from(KeySpec::rotation(params, k, level).is_some());
    let babies: BTreeSet<i64> = indices.iter().map(|d| d % baby).collect();
    let rows: BTreeSet<i64> = indices.iter().map(|d| d / baby).collect();
    let (first, last) = (rows.first().unwrap_or(&0), rows.last().unwrap_or(&0));
    let giants = (last - first) as u64 * turns(baby) + turns(first * baby);
    let babies = babies.into_iter().map(turns).sum();
    cost::linear_transform(params, level, indices.len() as u64, babies, giants, rescaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Bootstrapper;
    use crate::bootstrap::eval_mod::MARGIN;
    use crate::bootstrap::failure::message;
    use crate::{Context, presets};

    #[test]
    fn the_estimate_is_true_of_the_maps() {
        let ctx = Context::new(presets::get("toy10_boot").unwrap(), &Device::cpu()).unwrap();
        for log2_slots in [None, Some(0), Some(1), Some(5), Some(8)] {
            let options = BootstrapOptions { log2_slots, ..BootstrapOptions::default() };
            let plan = Plan::new(ctx.params(), options).unwrap();
            let b = Bootstrapper::new(&ctx, options).unwrap();
            let maps = || {
                let low = b.slots_to_coefficients.iter().chain(&b.coefficients_to_slots);
                low.chain(&b.repetition_sums)
            };
            // Every rotation that a map needs and no other, at the highest level of its use.
            let mut highest: BTreeMap<KeyKind, usize> = BTreeMap::new();
            for spec in maps().flat_map(LinearTransform::keys) {
                let level = highest.entry(spec.kind).or_insert(0);
                *level = (*level).max(spec.level);
            }
            let rotations = b.keys().into_iter().filter(|s| matches!(s.kind, KeyKind::Rotation(_)));
            assert_eq!(rotations.map(|s| (s.kind, s.level)).collect::<BTreeMap<_, _>>(), highest);
            let keys = b.keys();
            let keys = keys.iter().map(|&s| SwitchingKey::expanded_bytes(ctx.params(), s));
            let bytes = keys.chain(maps().map(LinearTransform::bytes)).sum::<u64>();
            assert_eq!(b.estimate().card_bytes, bytes + plan.working_bytes(), "{log2_slots:?}");
            // All keys of a map but the giant step's are held together.
            let held = maps().map(|map| {
                let baby = |key: &KeySpec| {
                    let giant = KeyKind::rotation(map.baby() as i64, ctx.params().slots());
                    Some(key.kind) != giant
                };
                let top = |key: KeySpec| KeySpec { level: highest[&key.kind], ..key };
                let keys = map.keys().into_iter().filter(baby).map(top);
                keys.map(|s| SwitchingKey::expanded_bytes(ctx.params(), s)).sum::<u64>()
            });
            let single =
                b.keys().into_iter().map(|s| SwitchingKey::expanded_bytes(ctx.params(), s));
            assert_eq!(b.estimate().held_key_bytes, held.chain(single).max().unwrap());
            // What the maps' cost was reckoned from is what they are.
            let encoded = b.slots_to_coefficients.iter().chain(&b.coefficients_to_slots);
            for ((shape, level), map) in plan.stages().into_iter().zip(encoded) {
                let indices: Vec<i64> = shape.indices().map(|d| d as i64).collect();
                let cost = cost_of_map(ctx.params(), level, &indices, shape.baby(), true);
                assert_eq!((level, cost), (map.level(), map.cost_rescaled()), "{log2_slots:?}");
            }
            assert!(b.memory_bytes() > b.estimate().card_bytes);
        }
    }

    #[test]
    fn without_a_limit_the_machine_has_one() {
        let params = presets::get("boot15").unwrap();
        let plain = BootstrapOptions::default();
        let plan = Plan::new(&params, plain).unwrap();
        let needed = plan.memory_bytes();
        plan.check_memory(needed, Some(needed)).unwrap();
        plan.check_memory(needed, None).unwrap();
        let error = plan.check_memory(needed, Some(needed - 1)).unwrap_err();
        assert!(matches!(error, Error::InsufficientMemory { limit, .. } if limit == needed - 1));
        // A limit is the caller's decision, in both directions.
        let raised = BootstrapOptions { memory_limit: Some(needed), ..plain };
        Plan::new(&params, raised).unwrap().check_memory(needed, Some(1)).unwrap();
    }

    #[test]
    fn every_mode_keeps_the_message_where_the_failures_are_counted() {
        let cases = [("boot16", false, 11), ("boot16", true, 7), ("boot16_hp", false, 7)];
        let mut failures = Vec::new();
        for (set, precise, log2_ratio) in cases.into_iter().chain([("boot16_hp", true, 6)]) {
            let params = presets::get(set).unwrap();
            let options = BootstrapOptions { precise, ..Default::default() };
            let plan = Plan::new(&params, options).unwrap();
            assert_eq!(plan.log2_ratio(), log2_ratio);
            // The correction lengthens the slots; without one they enter as they are.
            let gain = plan.correction().unwrap().map_or(1.0, |p| p.evaluate_f64(1.0));
            let bound = message(log2_ratio);
            assert!(gain / plan.ratio() < bound && bound < MARGIN, "{set}: {gain}");
            failures.push(BootstrapEstimate::new(&params, options).unwrap().failure_log2);
        }
        // Both sets have the same n, weight and K: the smaller R is, the likelier a failure.
        let [plain, cubic, same, quintic] = failures.try_into().unwrap();
        assert!(plain < cubic && cubic < quintic, "{plain} {cubic} {quintic}");
        assert!((cubic - same).abs() < 1e-9 && quintic < -128.0, "{cubic} {same} {quintic}");
    }
}
