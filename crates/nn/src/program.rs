//! The instructions that one encrypted inference runs: a small static-single-assignment program over packed
//! ciphertexts, in which every level and every scale is known before any key exists.
//!
//! A builder appends instructions and tracks level and scale by the rules of the scheme; the lowering drives it.
//! Executors interpret the result ([`crate::exec::execute`]); costs, keys and memory are folds over it.

mod builder;
mod crossing;
mod needs;

pub(crate) use builder::{Builder, Ladder, Plain, Refreshing};
pub use crossing::{Crossing, CrossingId, Function, Parts};
pub(crate) use needs::needs;

use crate::error::{Error, Result};
use cipherform_ckks::{BootstrapKind, BootstrapOptions, Parameters};
use num_complex::Complex64;

/// A ciphertext-valued register: assigned once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Register(pub(crate) u32);

/// Index of a constant of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstantId(pub(crate) u32);

/// Index of a polynomial of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolynomialId(pub(crate) u32);

/// Plaintext slots at the level and scale at which the program uses them.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Length of one period of the slots: a power of two that divides their number.
    pub period: usize,
    /// The slots of one period; none in a sketch, which is a program that is only priced.
    pub values: Vec<Complex64>,
    /// Level of the ciphertext it meets.
    pub level: usize,
    /// Scale of its encoding.
    pub scale: f64,
    /// Whether its values depend on how many tokens an input has.
    pub varies: bool,
}

impl Constant {
    /// Bytes of its encoding: periodic ones hold two words a slot of their period and limb.
    #[must_use]
    pub fn bytes(&self, params: &Parameters) -> u64 {
        let words = (2 * self.period).min(params.n()) as u64;
        words * size_of::<u64>() as u64 * params.limbs_at(self.level) as u64
    }
}

/// What an instruction does to its arguments. Levels change in `Rescale`, `SetLevel` and `Polynomial`, downwards, and in
/// `Refresh` and `Cross`, upwards; every other result stays at the arguments' common level.
#[derive(Clone, Debug, PartialEq)]
pub enum Opcode {
    /// The client's ciphertext of this index.
    Input(usize),
    /// Slot `j` of the result reads slot `j + k`.
    Rotate(i64),
    /// One result for each amount; all share one digit decomposition.
    HoistedRotations(Vec<i64>),
    /// Sum of the arguments, each rotated by its own amount; their key switches share one division.
    SumRotated(Vec<i64>),
    /// Complex conjugation of every slot.
    Conjugate,
    /// Multiplication of every slot by i^k: a monomial, free.
    MulImaginary(u8),
    /// Sum of two ciphertexts.
    Add,
    /// Difference of two ciphertexts.
    Sub,
    /// Adds a constant vector.
    AddPlain(ConstantId),
    /// Adds one real number to every slot.
    AddNumber(f64),
    /// Sum over the arguments of argument times constant; the scale is multiplied by the constants' scale.
    DotPlain(Vec<ConstantId>),
    /// Multiplies by a small integer; the scale stays.
    MulInteger(i64),
    /// Tensor product: degree 2, scales multiply.
    Tensor,
    /// Degree 2 to degree 1.
    Relinearize,
    /// Divides by the level's prime.
    Rescale,
    /// Drops to a lower level, multiplying by a real factor on the way, and lands on that level's exact scale.
    SetLevel {
        /// The level to land on.
        level: usize,
        /// The factor; 1 to keep the values.
        factor: f64,
    },
    /// Evaluates a Chebyshev polynomial at arguments in [-1, 1].
    Polynomial(PolynomialId),
    /// Bootstraps, with the program's options: from their input level to their output level, slots within their bound. A
    /// pair takes two arguments and writes two results.
    Refresh(BootstrapKind),
    /// Leaves encryption for shares, through a function, and comes back at another level: needs the client.
    Cross(CrossingId),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The operation.
    pub op: Opcode,
    /// Registers it reads.
    pub args: Vec<Register>,
    /// First register it writes; it writes [`Instruction::outputs`] consecutive ones.
    pub out: Register,
}

impl Instruction {
    /// How many registers it writes.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        match &self.op {
            Opcode::HoistedRotations(amounts) => amounts.len() as u32,
            Opcode::Refresh(BootstrapKind::RealPair) => 2,
            _ => 1,
        }
    }
}

/// What is known of a register before it is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Rescalings left.
    pub level: usize,
    /// Exact scale.
    pub scale: f64,
    /// 1, or 2 between `Tensor` and `Relinearize`.
    pub degree: usize,
}

/// A run of instructions that make up one operator: the row of a report.
#[derive(Clone, Debug)]
pub struct Step {
    /// Operator name, e.g. `attention.scores`.
    pub operator: String,
    /// Layer, e.g. `layer.0`; empty outside layers.
    pub layer: String,
    /// Instructions of this step.
    pub instructions: std::ops::Range<usize>,
    /// Highest level it reads.
    pub level_in: usize,
    /// Level of its last result.
    pub level_out: usize,
    /// Scale of its last result.
    pub scale_out: f64,
}

/// The whole program.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) metas: Vec<Meta>,
    pub(crate) steps: Vec<Step>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) polynomials: Vec<Vec<f64>>,
    pub(crate) outputs: Vec<Register>,
    pub(crate) refresh: Option<BootstrapOptions>,
    pub(crate) crossings: Vec<Crossing>,
}

impl Program {
    /// Instructions in order.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Operators in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Level, scale and degree of a register.
    #[must_use]
    pub fn meta(&self, register: Register) -> Meta {
        self.metas[register.0 as usize]
    }

    /// Plaintext constants: the model's weights and masks. Server side only.
    #[must_use]
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// Marks the constants that differ from those of `other`, the same program for inputs of another length.
    ///
    /// # Errors
    /// [`Error::Planner`] when they do not run the same instructions.
    pub(crate) fn mark_varying(&mut self, other: &Program) -> Result<()> {
        self.same_instructions(other)?;
        for (constant, other) in self.constants.iter_mut().zip(&other.constants) {
            constant.varies = constant.values != other.values;
        }
        Ok(())
    }

    /// Refuses another program that does not run the same instructions at the same levels and scales.
    ///
    /// # Errors
    /// [`Error::Planner`].
    pub(crate) fn same_instructions(&self, other: &Program) -> Result<()> {
        let shape = |c: &Constant| (c.period, c.level, c.scale.to_bits());
        let constants = self.constants.iter().map(shape).eq(other.constants.iter().map(shape));
        if constants && self.instructions == other.instructions && self.metas == other.metas {
            return Ok(());
        }
        let detail = "inputs of two lengths do not run the same instructions".into();
        Err(Error::Planner { op: "lower", detail })
    }

    /// Chebyshev coefficients.
    #[must_use]
    pub fn polynomials(&self) -> &[Vec<f64>] {
        &self.polynomials
    }

    /// How its `Refresh` instructions bootstrap; `None` if it has none.
    #[must_use]
    pub fn refresh(&self) -> Option<BootstrapOptions> {
        self.refresh
    }

    /// What its `Cross` instructions do, in the order of the program.
    #[must_use]
    pub fn crossings(&self) -> &[Crossing] {
        &self.crossings
    }

    /// The result registers.
    #[must_use]
    pub fn outputs(&self) -> &[Register] {
        &self.outputs
    }

    /// For each instruction, the registers that nobody reads after it.
    #[must_use]
    pub fn last_uses(&self) -> Vec<Vec<Register>> {
        let mut last = vec![None; self.metas.len()];
        for (i, instruction) in self.instructions.iter().enumerate() {
            for k in 0..instruction.outputs() {
                last[(instruction.out.0 + k) as usize] = Some(i);
            }
            for arg in &instruction.args {
                last[arg.0 as usize] = Some(i);
            }
        }
        let mut dead = vec![Vec::new(); self.instructions.len()];
        for (register, at) in last.into_iter().enumerate() {
            let register = Register(register as u32);
            if let Some(at) = at
                && !self.outputs.contains(&register)
            {
                dead[at].push(register);
            }
        }
        dead
    }
}
