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
mod plan;
mod precision;

pub(crate) use failure::failure_log2;
pub use plan::BootstrapEstimate;
pub(crate) use plan::LEAST_LOG2_RATIO;
pub use precision::BootstrapPrecision;

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::encoding::Encoder;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::linear::LinearTransform;
use crate::polynomial::Polynomial;
use crate::rlwe::{EvaluationKeys, KeySpec};
use cipherform_profile::Cost;
use eval_mod::EvalMod;
use plan::Plan;

/// Levels of the approximate modular reduction: five for a polynomial of degree 31, three for squarings.
pub(crate) const EVAL_MOD_LEVELS: usize = 8;

/// How to bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BootstrapOptions {
    /// Corrects the sine beforehand by a cubic polynomial in the slots, which costs two levels, and spends the accuracy on
    /// a smaller R. A set made for precision (`boot16_hp`) always does; there this makes the polynomial quintic, for
    /// three levels.
    pub precise: bool,
    /// Slots are at most 2^this in absolute value, real and imaginary parts each. The input promises it: larger values give
    /// wrong results. Each bit costs a bit of absolute precision.
    pub log2_bound: u32,
    /// log2 of the period of the slots, if they repeat: fewer diagonals, a few more rotations. All slots if `None`.
    pub log2_slots: Option<u32>,
    /// [`Bootstrapper::new`] refuses if [`Bootstrapper::memory_bytes`], on a card [`BootstrapEstimate::card_bytes`], would be
    /// more than this; if `None`, more than
    /// [`cipherform_ring::Device::available_memory`].
    pub memory_limit: Option<u64>,
}

/// What is bootstrapped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    estimate: BootstrapEstimate,
    correction: Option<Polynomial>,
    repetition_sums: Vec<LinearTransform>,
    slots_to_coefficients: Vec<LinearTransform>,
    coefficients_to_slots: Vec<LinearTransform>,
    eval_mod: EvalMod,
}

impl Bootstrapper {
    /// Encodes the diagonals and predicts the precision.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a set that cannot bootstrap or options outside their range;
    /// [`Error::InsufficientMemory`] above the limit of the options or of the machine, before anything is allocated.
    pub fn new(ctx: &Context, options: BootstrapOptions) -> Result<Self> {
        let plan = Plan::new(ctx.params(), options)?;
        let (eval_mod, encoder, device) =
            (plan.eval_mod()?, Encoder::new(ctx), ctx.ring().device());
        let estimate = plan.estimate(&eval_mod)?;
        let card = device.runs_behind();
        let needed = if card { estimate.card_bytes } else { estimate.memory_bytes };
        plan.check_memory(needed, device.available_memory())?;
        Ok(Self {
            ctx: ctx.clone(),
            evaluator: Evaluator::new(ctx),
            options,
            estimate,
            correction: plan.correction()?,
            repetition_sums: plan.encode_repetition_sums(&encoder)?,
            slots_to_coefficients: plan.encode_slots_to_coefficients(&encoder)?,
            coefficients_to_slots: plan.encode_coefficients_to_slots(&encoder, &eval_mod)?,
            eval_mod,
        })
    }

    /// What was known before: levels, keys, precision, failures, memory.
    #[must_use]
    pub fn estimate(&self) -> &BootstrapEstimate {
        &self.estimate
    }

    /// Level of the inputs.
    #[must_use]
    pub fn input_level(&self) -> usize {
        self.estimate.input_level
    }

    /// Level of the results.
    #[must_use]
    pub fn output_level(&self) -> usize {
        self.estimate.output_level
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> BootstrapOptions {
        self.options
    }

    /// The keys that all kinds of bootstraps need.
    #[must_use]
    pub fn keys(&self) -> Vec<KeySpec> {
        self.estimate.keys.clone()
    }

    /// log2 of the probability that one bootstrap gives a wrong result, see [`BootstrapEstimate::failure_log2`].
    #[must_use]
    pub fn failure_log2(&self) -> f64 {
        self.estimate.failure_log2
    }

    /// Predicted precision of the results.
    #[must_use]
    pub fn precision(&self) -> &BootstrapPrecision {
        &self.estimate.precision
    }

    /// Bytes for expanded keys, encoded diagonals and the largest working set of a bootstrap, see
    /// [`BootstrapEstimate::memory_bytes`].
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.estimate.memory_bytes
    }

    /// What a bootstrap counts, exactly.
    #[must_use]
    pub fn cost(&self, kind: BootstrapKind) -> Cost {
        self.estimate.cost(kind)
    }

    /// Bootstraps one ciphertext of complex slots.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::DegreeMismatch`]; [`Error::LevelMismatch`] and [`Error::ScaleMismatch`] unless
    /// the input is at [`Self::input_level`] and its nominal scale; [`Error::MissingKey`], before any work is done.
    pub fn bootstrap(&self, ct: &Ciphertext, keys: &EvaluationKeys) -> Result<Ciphertext> {
        self.bootstrap_batch(&[ct], keys)?.pop().ok_or_else(nothing)
    }

    /// [`Self::bootstrap`] of every member of a batch, in order. Their modular reductions share every pass over a key, which
    /// a card gains from; all of their memory is taken at once, [`BootstrapEstimate::working_bytes`] each at most.
    ///
    /// # Errors
    /// As [`Self::bootstrap`], for any member.
    pub fn bootstrap_batch(
        &self,
        batch: &[&Ciphertext],
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let inputs: Vec<_> = batch.iter().map(|&ct| [Some(ct), None]).collect();
        let outputs = self.run(BootstrapKind::Complex, &inputs, keys)?;
        outputs.into_iter().map(|[out, _]| out.ok_or_else(nothing)).collect()
    }

    /// Bootstraps two ciphertexts of real slots together, for the price of one of complex slots.
    ///
    /// # Errors
    /// As [`Self::bootstrap`].
    pub fn bootstrap_pair(
        &self,
        a: &Ciphertext,
        b: &Ciphertext,
        keys: &EvaluationKeys,
    ) -> Result<[Ciphertext; 2]> {
        let pairs = self.run(BootstrapKind::RealPair, &[[Some(a), Some(b)]], keys)?;
        let [a, b] = pairs.into_iter().next().ok_or_else(nothing)?;
        Ok([a.ok_or_else(nothing)?, b.ok_or_else(nothing)?])
    }

    /// Bootstraps one ciphertext of real slots: half the modular reductions. Small imaginary parts, such as noise, are lost.
    ///
    /// # Errors
    /// As [`Self::bootstrap`].
    pub fn bootstrap_real(&self, ct: &Ciphertext, keys: &EvaluationKeys) -> Result<Ciphertext> {
        let outputs = self.run(BootstrapKind::Real, &[[Some(ct), None]], keys)?;
        outputs.into_iter().next().and_then(|[out, _]| out).ok_or_else(nothing)
    }
}

fn nothing() -> Error {
    Error::InvalidArgument { op: "bootstrap", detail: "no result".into() }
}
