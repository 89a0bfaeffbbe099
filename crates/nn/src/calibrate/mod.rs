//! How long each instruction takes on a machine: a few primitives measured at two levels, and straight lines through
//! them, kept in a file for the planner.

mod measure;
mod table;

pub use table::CostTable;

use crate::cost::{bootstrap_estimate, moved};
use crate::error::Result;
use crate::program::{Instruction, Opcode, Program};
use cipherform_ckks::{Basis, BootstrapEstimate, Parameters, Polynomial};
use cipherform_exact::{LabelParameters, StageCost};
use cipherform_profile::{Cost, Counter};
use serde::{Deserialize, Serialize};

/// Milliseconds of each primitive. What a key switch does is proportional to the limbs of its digits and of its two
/// mod-downs, everything else to the limbs of the ciphertext; lines in those sizes reach the levels between and above.
///
/// Limbs of one ring dimension cost the same in every set that has it, so there is one entry for each dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineCosts {
    key_switch: Line,
    hoisted_more: Line,
    tensor: Line,
    rescale: Line,
    set_level: Line,
    dot_term: Line,
    dense_term: Line,
    add: Line,
    /// Time of a bootstrap over that of as many transforms inside key switches.
    bootstrap: f64,
}

/// `fixed + slope * size`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

/// [`MachineCosts`]' factor of bootstraps where none has been measured.
const BOOTSTRAP: f64 = 1.0;

impl MachineCosts {
    /// Predicted milliseconds of one instruction of a program whose bootstraps are as estimated.
    ///
    /// # Errors
    /// When a polynomial of the program cannot be planned.
    pub fn instruction_ms(
        &self,
        params: &Parameters,
        bootstrap: Option<&BootstrapEstimate>,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<f64> {
        let meta = instruction.args.first().map(|&r| program.meta(r));
        let level = meta.map_or(0, |m| m.level);
        let limbs = params.limbs_at(level) as f64;
        let key_switch = |level| self.key_switch.at(switched_limbs(params, level));
        let three_halves = if meta.is_some_and(|m| m.degree == 2) { 1.5 } else { 1.0 };
        Ok(match &instruction.op {
            // A crossing's time is its messages': `hybrid` prices it.
            Opcode::Input(_) | Opcode::Cross(_) => 0.0,
            Opcode::Rotate(_) | Opcode::Conjugate | Opcode::Relinearize => key_switch(level),
            Opcode::HoistedRotations(amounts) => {
                let more = amounts.len().saturating_sub(1) as f64;
                key_switch(level) + more * self.hoisted_more.at(switched_limbs(params, level))
            }
            Opcode::SumRotated(amounts) => {
                let moved = moved(params.slots(), amounts) as f64;
                let added = (amounts.len() as f64 - 1.0) * self.add.at(limbs);
                added + self.lazy_ms(params, level, moved)
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
                    let period = program.constants()[id.0 as usize].period;
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
            Opcode::Refresh(kind) => {
                bootstrap.map_or(0.0, |b| self.bootstrap * self.switching_ms(&b.cost(*kind)))
            }
        })
    }

    /// Milliseconds of key switches that share one division: the digits of each, and the two results once.
    fn lazy_ms(&self, params: &Parameters, level: usize, switches: f64) -> f64 {
        if switches == 0.0 {
            return 0.0;
        }
        let extended = (params.limbs_at(level) + params.special().len()) as f64;
        let digits = params.digits_at(level).len() as f64;
        switches * self.key_switch.fixed
            + self.key_switch.slope * extended * (switches * digits + 2.0)
    }

    /// Milliseconds of these transforms and key switches, if the transforms were all inside them.
    fn switching_ms(&self, cost: &Cost) -> f64 {
        let transforms = cost.get(Counter::LimbNtts) as f64;
        let switches = cost.get(Counter::KeySwitches) as f64;
        self.key_switch.slope * transforms + self.key_switch.fixed * switches
    }

    /// Predicted milliseconds of every stage of an exact step, whose hand-over the machine does and the rest of which the cores of
    /// the host do.
    #[must_use]
    pub fn label_ms(&self, step: &LabelParameters) -> Vec<f64> {
        let params = step.params();
        let threads = rayon::current_num_threads();
        let ms = |stage: StageCost| {
            // Two limbs, one digit: the fixed part of the line belongs to larger ones.
            let transforms = stage.cost.get(Counter::LimbNtts) as f64;
            self.key_switch.slope * transforms + stage.exact_ms(params, threads)
        };
        step.stages().into_iter().map(ms).collect()
    }

    /// Predicted milliseconds of every operator of `program`.
    ///
    /// # Errors
    /// As [`MachineCosts::instruction_ms`].
    pub fn steps_ms(&self, params: &Parameters, program: &Program) -> Result<Vec<f64>> {
        let bootstrap = bootstrap_estimate(params, program)?;
        let price = |i: &Instruction| self.instruction_ms(params, bootstrap.as_ref(), program, i);
        program
            .steps()
            .iter()
            .map(|step| program.instructions()[step.instructions.clone()].iter().map(price).sum())
            .collect()
    }
}
