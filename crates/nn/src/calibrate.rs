//! How long each instruction takes on this machine: a few primitives measured at two levels, and straight lines through
//! them.

use crate::error::{Error, Result};
use crate::program::{Instruction, Opcode, Program};
use cipherform_ckks::{
    Basis, Ciphertext, Context, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    KeyKind, KeySpec, Parameters, Polynomial,
};
use cipherform_profile::Counter;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Instant;

/// Milliseconds of each primitive. What a key switch does is proportional to the limbs of its digits and of its two
/// mod-downs, everything else to the limbs of the ciphertext; lines in those sizes reach the levels between and above.
#[derive(Clone, Debug)]
pub struct MachineCosts {
    key_switch: Line,
    hoisted_more: Line,
    tensor: Line,
    rescale: Line,
    set_level: Line,
    dot_term: Line,
    dense_term: Line,
    add: Line,
}

/// `fixed + slope * size`.
#[derive(Clone, Copy, Debug)]
struct Line {
    fixed: f64,
    slope: f64,
}

impl Line {
    /// Through two points (size, time), with no negative time at size zero.
    fn through(low: (f64, f64), high: (f64, f64)) -> Self {
        let slope = ((high.1 - low.1) / (high.0 - low.0)).max(0.0);
        let fixed = high.1 - slope * high.0;
        if fixed < 0.0 {
            Self { fixed: 0.0, slope: high.1 / high.0 }
        } else {
            Self { fixed, slope }
        }
    }

    fn at(self, size: f64) -> f64 {
        self.fixed + self.slope * size
    }
}

/// Limbs of the digits and of the two results of a key switch.
fn switched_limbs(params: &Parameters, level: usize) -> f64 {
    let extended = params.limbs_at(level) + params.special().len();
    (extended * (params.digits_at(level).len() + 2)) as f64
}

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
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Error::Planner { op: "calibrate", detail: e.to_string() })?;
        let mut rng = ChaCha20Rng::from_seed(seed);
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
        })
    }

    /// Predicted milliseconds of one instruction.
    ///
    /// # Errors
    /// When a polynomial of the program cannot be planned.
    pub fn instruction_ms(
        &self,
        context: &Context,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<f64> {
        let params = context.params();
        let meta = instruction.args.first().map(|&r| program.meta(r));
        let level = meta.map_or(0, |m| m.level);
        let limbs = params.limbs_at(level) as f64;
        let key_switch = |level| self.key_switch.at(switched_limbs(params, level));
        let three_halves = if meta.is_some_and(|m| m.degree == 2) { 1.5 } else { 1.0 };
        Ok(match &instruction.op {
            Opcode::Input(_) => 0.0,
            Opcode::Rotate(_) | Opcode::Conjugate | Opcode::Relinearize => key_switch(level),
            Opcode::HoistedRotations(amounts) => {
                let more = amounts.len().saturating_sub(1) as f64;
                key_switch(level) + more * self.hoisted_more.at(switched_limbs(params, level))
            }
            Opcode::MulImaginary(_)
            | Opcode::Add
            | Opcode::Sub
            | Opcode::AddPlain(_)
            | Opcode::AddNumber(_)
            | Opcode::MulInteger(_) => self.add.at(limbs) * three_halves,
            Opcode::DotPlain(ids) => ids
                .iter()
                .map(|id| {
                    let period = program.constants()[id.0 as usize].values.len();
                    let term =
                        if period == params.slots() { self.dense_term } else { self.dot_term };
                    term.at(limbs)
                })
                .sum(),
            Opcode::Tensor => self.tensor.at(limbs),
            Opcode::Rescale => self.rescale.at(limbs) * three_halves,
            Opcode::SetLevel { level: to, .. } => self.set_level.at(params.limbs_at(to + 1) as f64),
            Opcode::Polynomial(id) => {
                let coefficients = program.polynomials()[id.0 as usize].clone();
                let polynomial = Polynomial::new(Basis::Chebyshev, coefficients)?;
                let cost = polynomial.cost_at(params, level);
                // Its products spread evenly over its levels.
                let middle = level - polynomial.depth().min(level) / 2;
                let limbs = params.limbs_at(middle) as f64;
                let products = cost.get(Counter::CtCt) as f64;
                let rescales = cost.get(Counter::Rescales) as f64;
                products * (self.tensor.at(limbs) + key_switch(middle))
                    + rescales * self.rescale.at(limbs)
            }
        })
    }

    /// Predicted milliseconds of every operator of `program`.
    ///
    /// # Errors
    /// As [`MachineCosts::instruction_ms`].
    pub fn steps_ms(&self, context: &Context, program: &Program) -> Result<Vec<f64>> {
        program
            .steps()
            .iter()
            .map(|step| {
                program.instructions()[step.instructions.clone()]
                    .iter()
                    .map(|i| self.instruction_ms(context, program, i))
                    .sum()
            })
            .collect()
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
