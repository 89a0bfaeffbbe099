//! The instructions that one encrypted inference runs: a small static-single-assignment program over packed
//! ciphertexts, in which every level and every scale is known before any key exists.
//!
//! A builder appends instructions and tracks level and scale by the rules of the scheme; the lowering drives it.
//! Executors interpret the result ([`crate::exec::execute`]); costs, keys and memory are folds over it.

use crate::error::{Error, Result};
use cipherform_ckks::Parameters;
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
    /// One period of the slots; its length is a power of two that divides the slot count.
    pub values: Vec<Complex64>,
    /// Level of the ciphertext it meets.
    pub level: usize,
    /// Scale of its encoding.
    pub scale: f64,
}

/// What an instruction does to its arguments. "Level - 1" results come only from `Rescale`, `SetLevel` and
/// `Polynomial`; every other result stays at the arguments' common level.
#[derive(Clone, Debug, PartialEq)]
pub enum Opcode {
    /// The client's ciphertext of this index.
    Input(usize),
    /// Slot `j` of the result reads slot `j + k`.
    Rotate(i64),
    /// One result for each amount; all share one digit decomposition.
    HoistedRotations(Vec<i64>),
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
}

/// One instruction.
#[derive(Clone, Debug)]
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

    /// Chebyshev coefficients.
    #[must_use]
    pub fn polynomials(&self) -> &[Vec<f64>] {
        &self.polynomials
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

/// Where a builder takes levels from: a real parameter set, or an endless ladder to find out how many are needed.
#[derive(Clone, Debug)]
pub(crate) enum Ladder {
    /// The levels of a parameter set.
    Real(Parameters),
    /// Nominal scales at every level, for counting depth.
    Endless {
        /// log2 of the scale at every level.
        log2_scale: f64,
    },
}

impl Ladder {
    fn scale(&self, level: usize) -> f64 {
        match self {
            Ladder::Real(p) => p.scale_at(level),
            Ladder::Endless { log2_scale } => log2_scale.exp2(),
        }
    }

    fn prime(&self, level: usize) -> f64 {
        match self {
            Ladder::Real(p) => p.modulus_at(level) as f64,
            Ladder::Endless { log2_scale } => log2_scale.exp2(),
        }
    }
}

/// Appends instructions, tracking level, scale and degree.
#[derive(Debug)]
pub(crate) struct Builder {
    ladder: Ladder,
    program: Program,
    layer: String,
    open: Option<(String, usize)>,
}

/// Relative difference below which two scales count as equal: far under the rounding of one rescale.
const SCALE_TOLERANCE: f64 = 1.0 / (1u64 << 40) as f64;

impl Builder {
    pub(crate) fn new(ladder: Ladder) -> Self {
        let program = Program {
            instructions: Vec::new(),
            metas: Vec::new(),
            steps: Vec::new(),
            constants: Vec::new(),
            polynomials: Vec::new(),
            outputs: Vec::new(),
        };
        Self { ladder, program, layer: String::new(), open: None }
    }

    /// Names the layer of the steps that follow.
    pub(crate) fn layer(&mut self, name: impl Into<String>) {
        self.close();
        self.layer = name.into();
    }

    /// Starts a step; the previous one ends.
    pub(crate) fn step(&mut self, operator: &str) {
        self.close();
        self.open = Some((operator.to_owned(), self.program.instructions.len()));
    }

    fn close(&mut self) {
        let Some((operator, start)) = self.open.take() else { return };
        let end = self.program.instructions.len();
        if start == end {
            return;
        }
        let p = &self.program;
        let level_in = p.instructions[start..end]
            .iter()
            .flat_map(|i| i.args.iter())
            .map(|r| p.metas[r.0 as usize].level)
            .max();
        let last = p.metas[p.metas.len() - 1];
        let step = Step {
            operator,
            layer: self.layer.clone(),
            instructions: start..end,
            level_in: level_in.unwrap_or(last.level),
            level_out: last.level,
            scale_out: last.scale,
        };
        self.program.steps.push(step);
    }

    pub(crate) fn finish(mut self, outputs: Vec<Register>) -> Program {
        self.close();
        self.program.outputs = outputs;
        self.program
    }

    pub(crate) fn meta(&self, r: Register) -> Meta {
        self.program.metas[r.0 as usize]
    }

    pub(crate) fn level(&self, r: Register) -> usize {
        self.meta(r).level
    }

    fn push(&mut self, op: Opcode, args: Vec<Register>, metas: &[Meta]) -> Register {
        let out = Register(self.program.metas.len() as u32);
        self.program.metas.extend_from_slice(metas);
        self.program.instructions.push(Instruction { op, args, out });
        out
    }

    fn same(&self, op: &'static str, a: Register, b: Register) -> Result<Meta> {
        let (ma, mb) = (self.meta(a), self.meta(b));
        if ma.level != mb.level || ((ma.scale / mb.scale) - 1.0).abs() > SCALE_TOLERANCE {
            return Err(Error::Planner {
                op,
                detail: format!(
                    "operands at level {} scale 2^{:.3} and level {} scale 2^{:.3}",
                    ma.level,
                    ma.scale.log2(),
                    mb.level,
                    mb.scale.log2()
                ),
            });
        }
        Ok(Meta { degree: ma.degree.max(mb.degree), ..ma })
    }

    pub(crate) fn input(&mut self, index: usize, level: usize) -> Register {
        let meta = Meta { level, scale: self.ladder.scale(level), degree: 1 };
        self.push(Opcode::Input(index), vec![], &[meta])
    }

    pub(crate) fn rotate(&mut self, a: Register, by: i64) -> Register {
        let meta = self.meta(a);
        self.push(Opcode::Rotate(by), vec![a], &[meta])
    }

    pub(crate) fn hoisted(&mut self, a: Register, amounts: Vec<i64>) -> Vec<Register> {
        let metas = vec![self.meta(a); amounts.len()];
        let count = amounts.len() as u32;
        let first = self.push(Opcode::HoistedRotations(amounts), vec![a], &metas);
        (0..count).map(|k| Register(first.0 + k)).collect()
    }

    /// Twice the real and twice the imaginary parts, as two real ciphertexts. The factor 2 is the caller's to fold.
    pub(crate) fn split(&mut self, a: Register) -> Result<(Register, Register)> {
        let meta = self.meta(a);
        let conjugate = self.push(Opcode::Conjugate, vec![a], &[meta]);
        let re = self.add(a, conjugate)?;
        let difference = self.sub(a, conjugate)?;
        let im = self.push(Opcode::MulImaginary(3), vec![difference], &[meta]);
        Ok((re, im))
    }

    pub(crate) fn mul_i(&mut self, a: Register) -> Register {
        let meta = self.meta(a);
        self.push(Opcode::MulImaginary(1), vec![a], &[meta])
    }

    pub(crate) fn add(&mut self, a: Register, b: Register) -> Result<Register> {
        let meta = self.same("add", a, b)?;
        Ok(self.push(Opcode::Add, vec![a, b], &[meta]))
    }

    pub(crate) fn sub(&mut self, a: Register, b: Register) -> Result<Register> {
        let meta = self.same("sub", a, b)?;
        Ok(self.push(Opcode::Sub, vec![a, b], &[meta]))
    }

    fn constant(&mut self, values: Vec<Complex64>, level: usize, scale: f64) -> ConstantId {
        self.program.constants.push(Constant { values, level, scale });
        ConstantId(self.program.constants.len() as u32 - 1)
    }

    pub(crate) fn add_plain(&mut self, a: Register, values: Vec<Complex64>) -> Register {
        let meta = self.meta(a);
        let id = self.constant(values, meta.level, meta.scale);
        self.push(Opcode::AddPlain(id), vec![a], &[meta])
    }

    pub(crate) fn add_number(&mut self, a: Register, x: f64) -> Register {
        let meta = self.meta(a);
        self.push(Opcode::AddNumber(x), vec![a], &[meta])
    }

    /// Sum of `args[i] * values[i]`; the constants' scale is chosen so that a rescale lands on the exact scale of the
    /// next level.
    pub(crate) fn dot_plain(
        &mut self,
        args: &[Register],
        values: Vec<Vec<Complex64>>,
    ) -> Result<Register> {
        let Some(&first) = args.first() else {
            return Err(Error::Planner { op: "dot_plain", detail: "no operands".into() });
        };
        for &other in &args[1..] {
            self.same("dot_plain", first, other)?;
        }
        let meta = self.meta(first);
        let next = Self::below(meta.level, "dot_plain")?;
        let scale = self.ladder.scale(next) * self.ladder.prime(meta.level) / meta.scale;
        let ids = values.into_iter().map(|v| self.constant(v, meta.level, scale)).collect();
        let out = Meta { scale: meta.scale * scale, ..meta };
        Ok(self.push(Opcode::DotPlain(ids), args.to_vec(), &[out]))
    }

    /// `a * values`, rescaled: one level.
    pub(crate) fn mul_plain(&mut self, a: Register, values: Vec<Complex64>) -> Result<Register> {
        let product = self.dot_plain(&[a], vec![values])?;
        self.rescale(product)
    }

    pub(crate) fn mul_integer(&mut self, a: Register, k: i64) -> Register {
        if k == 1 {
            return a;
        }
        let meta = self.meta(a);
        self.push(Opcode::MulInteger(k), vec![a], &[meta])
    }

    pub(crate) fn tensor(&mut self, a: Register, b: Register) -> Result<Register> {
        let meta = self.same("tensor", a, b)?;
        let out = Meta { scale: self.meta(a).scale * self.meta(b).scale, degree: 2, ..meta };
        Ok(self.push(Opcode::Tensor, vec![a, b], &[out]))
    }

    pub(crate) fn relinearize(&mut self, a: Register) -> Register {
        let meta = Meta { degree: 1, ..self.meta(a) };
        self.push(Opcode::Relinearize, vec![a], &[meta])
    }

    fn below(level: usize, op: &'static str) -> Result<usize> {
        level.checked_sub(1).ok_or(Error::LevelExhausted { op, level, needed: 1 })
    }

    pub(crate) fn rescale(&mut self, a: Register) -> Result<Register> {
        let meta = self.meta(a);
        let level = Self::below(meta.level, "rescale")?;
        let scale = meta.scale / self.ladder.prime(meta.level);
        Ok(self.push(Opcode::Rescale, vec![a], &[Meta { level, scale, ..meta }]))
    }

    /// Relinearizes and rescales a tensor product or a sum of them.
    pub(crate) fn close_product(&mut self, a: Register) -> Result<Register> {
        let linear = self.relinearize(a);
        self.rescale(linear)
    }

    /// `a * b`, relinearized and rescaled: one level.
    pub(crate) fn mul(&mut self, a: Register, b: Register) -> Result<Register> {
        let product = self.tensor(a, b)?;
        self.close_product(product)
    }

    /// Brings `a` down to `level`, multiplying by `factor`; a no-op when it is there and the factor is 1.
    pub(crate) fn set_level(&mut self, a: Register, level: usize, factor: f64) -> Result<Register> {
        let meta = self.meta(a);
        let exact = self.ladder.scale(level);
        #[expect(clippy::float_cmp, reason = "a literal 1 is passed where nothing is folded")]
        let keeps = factor == 1.0;
        if meta.level == level && keeps {
            return Ok(a);
        }
        if meta.level <= level {
            return Err(Error::Planner {
                op: "set_level",
                detail: format!("from level {} to {level}: only downwards", meta.level),
            });
        }
        let out = Meta { level, scale: exact, degree: meta.degree };
        Ok(self.push(Opcode::SetLevel { level, factor }, vec![a], &[out]))
    }

    /// A Chebyshev polynomial of degree 2^k - 1 (or less) costs k levels and lands on the level's exact scale.
    pub(crate) fn polynomial(&mut self, a: Register, chebyshev: &[f64]) -> Result<Register> {
        let meta = self.meta(a);
        let depth = chebyshev.len().next_power_of_two().trailing_zeros() as usize;
        let level = meta.level.checked_sub(depth).ok_or(Error::LevelExhausted {
            op: "polynomial",
            level: meta.level,
            needed: depth,
        })?;
        self.program.polynomials.push(chebyshev.to_vec());
        let id = PolynomialId(self.program.polynomials.len() as u32 - 1);
        let out = Meta { level, scale: self.ladder.scale(level), degree: 1 };
        Ok(self.push(Opcode::Polynomial(id), vec![a], &[out]))
    }

    /// Adds `a` rotated by `-step`, `-2 step`, `-4 step`, ... so that `copies` (a power of two) copies stand side by
    /// side.
    pub(crate) fn replicate(
        &mut self,
        mut a: Register,
        step: usize,
        copies: usize,
    ) -> Result<Register> {
        let mut m = 1;
        while m < copies {
            let moved = self.rotate(a, -((step * m) as i64));
            a = self.add(a, moved)?;
            m *= 2;
        }
        Ok(a)
    }

    /// Sums `count` (a power of two) neighbours at distance `step`; valid where the whole window is.
    pub(crate) fn window_sum(
        &mut self,
        mut a: Register,
        step: usize,
        count: usize,
    ) -> Result<Register> {
        let mut m = count / 2;
        while m > 0 {
            let moved = self.rotate(a, (step * m) as i64);
            a = self.add(a, moved)?;
            m /= 2;
        }
        Ok(a)
    }
}
