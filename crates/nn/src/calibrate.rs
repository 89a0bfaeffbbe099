//! How long each instruction takes on this machine: a few measured primitives, interpolated over levels.

use crate::error::{Error, Result};
use crate::program::{Instruction, Opcode, Program};
use cipherform_ckks::{
    Basis, Ciphertext, Context, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    KeyKind, KeySpec, Polynomial,
};
use cipherform_profile::Counter;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Instant;

/// Milliseconds of each primitive at the measured levels; between them interpolated through three points, since key
/// switching is quadratic in the level and everything else linear.
#[derive(Clone, Debug)]
pub struct MachineCosts {
    levels: [f64; 3],
    key_switch: [f64; 3],
    hoisted_more: [f64; 3],
    tensor: [f64; 3],
    rescale: [f64; 3],
    set_level: [f64; 3],
    dot_term: [f64; 3],
    dense_term: [f64; 3],
    add: [f64; 3],
}

/// The better of two: the first run may pay for fresh memory.
fn best_of<T>(mut f: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let begin = Instant::now();
        let kept = f()?;
        best = best.min(begin.elapsed().as_secs_f64() * 1e3);
        drop(kept);
    }
    Ok(best)
}

impl MachineCosts {
    /// Measures this machine up to `top`, the highest level of the plan to price. Makes its own throw-away keys.
    ///
    /// # Errors
    /// Errors of the scheme; `Planner` for `top` below 3, where there is nothing to interpolate.
    pub fn measure(context: &Context, top: usize) -> Result<Self> {
        if top < 3 || top > context.params().max_level() {
            return Err(Error::Planner {
                op: "calibrate",
                detail: format!("top level {top}, need 3..={}", context.params().max_level()),
            });
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Error::Planner { op: "calibrate", detail: e.to_string() })?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let generator = KeyGenerator::new(context);
        let secret = generator.secret_key(&mut rng)?;
        let slots = context.params().slots();
        let mut keys = EvaluationKeys::new(context);
        // One key serves: rotations by one, alone and hoisted, stand for every key switch.
        if let Some(kind) = KeyKind::rotation(1, slots) {
            let key = generator.evaluation_key(&secret, KeySpec { kind, level: top }, &mut rng)?;
            keys.insert(key.expand(context)?)?;
        }
        let (encoder, evaluator) = (Encoder::new(context), Evaluator::new(context));
        let scale = context.params().scale_at(top);
        let plaintext = encoder.encode(&[0.5], top, scale)?;
        let fresh = Encryptor::with_secret_key(context, &secret)?.encrypt(&plaintext, &mut rng)?;

        let points = [2.min(top - 2), usize::midpoint(top, 2), top];
        let mut costs = Self {
            levels: points.map(|l| l as f64),
            key_switch: [0.0; 3],
            hoisted_more: [0.0; 3],
            tensor: [0.0; 3],
            rescale: [0.0; 3],
            set_level: [0.0; 3],
            dot_term: [0.0; 3],
            dense_term: [0.0; 3],
            add: [0.0; 3],
        };
        let period: Vec<f64> = (0..slots / 32).map(|i| i as f64 / slots as f64).collect();
        for (i, &level) in points.iter().enumerate() {
            let a: Ciphertext = evaluator.drop_level(&fresh, level)?;
            let prime = context.params().modulus_at(level) as f64;
            let periodic = encoder.encode(&period, level, prime)?;
            let dense = encoder.encode(&vec![0.5; slots], level, prime)?;
            costs.key_switch[i] = best_of(|| Ok(evaluator.rotate(&a, 1, &keys)?))?;
            let twice = best_of(|| Ok(evaluator.hoisted_rotations(&a, &[1, 1], &keys)?))?;
            costs.hoisted_more[i] = (twice - costs.key_switch[i]).max(0.0);
            costs.tensor[i] = best_of(|| Ok(evaluator.mul(&a, &a)?))?;
            costs.rescale[i] = best_of(|| Ok(evaluator.rescale(a.clone())?))?;
            costs.set_level[i] = best_of(|| Ok(evaluator.set_level(&a, level - 1)?))?;
            let mut sum = evaluator.mul_plain(&a, &periodic)?;
            costs.dot_term[i] =
                best_of(|| Ok(evaluator.mul_plain_add_assign(&mut sum, &a, &periodic)?))?;
            costs.dense_term[i] = best_of(|| Ok(evaluator.mul_plain(&a, &dense)?))?;
            costs.add[i] = best_of(|| Ok(evaluator.add(&a, &a)?))?;
        }
        Ok(costs)
    }

    /// Lagrange through the three measured levels.
    fn at(&self, values: &[f64; 3], level: f64) -> f64 {
        let [x0, x1, x2] = self.levels;
        let [y0, y1, y2] = values;
        let x = level;
        let l0 = (x - x1) * (x - x2) / ((x0 - x1) * (x0 - x2));
        let l1 = (x - x0) * (x - x2) / ((x1 - x0) * (x1 - x2));
        let l2 = (x - x0) * (x - x1) / ((x2 - x0) * (x2 - x1));
        (y0 * l0 + y1 * l1 + y2 * l2).max(0.0)
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
        let meta = instruction.args.first().map(|&r| program.meta(r));
        let level = meta.map_or(0.0, |m| m.level as f64);
        let three_halves = if meta.is_some_and(|m| m.degree == 2) { 1.5 } else { 1.0 };
        let slots = context.params().slots();
        Ok(match &instruction.op {
            Opcode::Input(_) => 0.0,
            Opcode::Rotate(_) | Opcode::Conjugate | Opcode::Relinearize => {
                self.at(&self.key_switch, level)
            }
            Opcode::HoistedRotations(amounts) => {
                let more = amounts.len().saturating_sub(1) as f64;
                self.at(&self.key_switch, level) + more * self.at(&self.hoisted_more, level)
            }
            Opcode::MulImaginary(_)
            | Opcode::Add
            | Opcode::Sub
            | Opcode::AddPlain(_)
            | Opcode::AddNumber(_)
            | Opcode::MulInteger(_) => self.at(&self.add, level) * three_halves,
            Opcode::DotPlain(ids) => ids
                .iter()
                .map(|id| {
                    let dense = program.constants()[id.0 as usize].values.len() == slots;
                    self.at(if dense { &self.dense_term } else { &self.dot_term }, level)
                })
                .sum(),
            Opcode::Tensor => self.at(&self.tensor, level),
            Opcode::Rescale => self.at(&self.rescale, level) * three_halves,
            Opcode::SetLevel { level: to, .. } => self.at(&self.set_level, *to as f64 + 1.0),
            Opcode::Polynomial(id) => {
                let coefficients = program.polynomials()[id.0 as usize].clone();
                let polynomial = Polynomial::new(Basis::Chebyshev, coefficients)?;
                let cost = polynomial.cost_at(context.params(), level as usize);
                // Its products spread evenly over its levels.
                let middle = level - polynomial.depth() as f64 / 2.0;
                let products = cost.get(Counter::CtCt) as f64;
                let rescales = cost.get(Counter::Rescales) as f64;
                products * (self.at(&self.tensor, middle) + self.at(&self.key_switch, middle))
                    + rescales * self.at(&self.rescale, middle)
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
