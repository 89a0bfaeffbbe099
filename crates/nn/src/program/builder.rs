//! Appends instructions and tracks level, scale and degree by the rules of the scheme.

use super::{
    Constant, ConstantId, Crossing, CrossingId, Instruction, Meta, Opcode, PolynomialId, Program,
    Register, Step,
};
use crate::error::{Error, Result};
use cipherform_ckks::{BootstrapEstimate, BootstrapKind, BootstrapOptions, Parameters};
use num_complex::Complex64;

/// Where a builder takes levels from: a real parameter set, or an endless ladder to find out how many are needed.
#[derive(Clone, Debug)]
pub(crate) enum Ladder {
    /// The levels of a parameter set.
    Real {
        /// The set.
        params: Parameters,
        /// How it bootstraps, if the program may.
        refresh: Option<Refreshing>,
    },
    /// Nominal scales at every level, for counting depth.
    Endless {
        /// log2 of the scale at every level.
        log2_scale: f64,
        /// Where inputs and refreshed ciphertexts enter.
        top: usize,
        /// Whether the program may cross to shares.
        crosses: bool,
    },
}

/// How a program gets levels back, with the levels that follow from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refreshing {
    /// Options of its bootstraps; `None` if it crosses to shares instead.
    options: Option<BootstrapOptions>,
    /// Level of their inputs.
    pub(crate) input_level: usize,
    /// Level of their results.
    pub(crate) output_level: usize,
}

impl Refreshing {
    /// The levels of these options.
    pub(crate) fn new(options: BootstrapOptions, estimate: &BootstrapEstimate) -> Self {
        let &BootstrapEstimate { input_level, output_level, .. } = estimate;
        Self { options: Some(options), input_level, output_level }
    }

    /// By crossings, from `input_level` or above to any level of the set.
    pub(crate) fn crossing(params: &Parameters, input_level: usize) -> Self {
        Self { options: None, input_level, output_level: params.max_level() }
    }
}

impl Ladder {
    /// The levels of a set.
    pub(crate) fn real(params: &Parameters, refresh: Option<Refreshing>) -> Self {
        Self::Real { params: params.clone(), refresh }
    }

    /// How programs on it bootstrap.
    pub(crate) fn refreshing(&self) -> Option<Refreshing> {
        match self {
            Ladder::Real { refresh, .. } => *refresh,
            Ladder::Endless { .. } => None,
        }
    }

    /// Whether programs on it cross to shares.
    pub(crate) fn crosses(&self) -> bool {
        match self {
            Ladder::Real { refresh, .. } => refresh.is_some_and(|r| r.options.is_none()),
            Ladder::Endless { crosses, .. } => *crosses,
        }
    }

    fn scale(&self, level: usize) -> f64 {
        match self {
            Ladder::Real { params, .. } => params.scale_at(level),
            Ladder::Endless { log2_scale, .. } => log2_scale.exp2(),
        }
    }

    fn prime(&self, level: usize) -> f64 {
        match self {
            Ladder::Real { params, .. } => params.modulus_at(level) as f64,
            Ladder::Endless { log2_scale, .. } => log2_scale.exp2(),
        }
    }
}

/// One period of plaintext slots: its values, or in a sketch its length alone.
#[derive(Debug)]
pub(crate) struct Plain {
    period: usize,
    values: Vec<Complex64>,
}

impl From<Vec<Complex64>> for Plain {
    fn from(values: Vec<Complex64>) -> Self {
        Self { period: values.len(), values }
    }
}

impl Plain {
    /// With every value mapped.
    pub(crate) fn map(mut self, f: impl Fn(Complex64) -> Complex64) -> Self {
        for value in &mut self.values {
            *value = f(*value);
        }
        self
    }
}

/// Appends instructions, tracking level, scale and degree.
#[derive(Debug)]
pub(crate) struct Builder {
    ladder: Ladder,
    /// Whether constants have no values: the program is only priced.
    sketch: bool,
    program: Program,
    layer: String,
    open: Option<(String, usize)>,
}

/// Relative difference below which two scales count as equal: far under the rounding of one rescale.
const SCALE_TOLERANCE: f64 = 1.0 / (1u64 << 40) as f64;

impl Builder {
    pub(crate) fn new(ladder: Ladder, sketch: bool) -> Self {
        let program = Program {
            instructions: Vec::new(),
            metas: Vec::new(),
            steps: Vec::new(),
            constants: Vec::new(),
            polynomials: Vec::new(),
            outputs: Vec::new(),
            refresh: None,
            crossings: Vec::new(),
        };
        Self { ladder, sketch, program, layer: String::new(), open: None }
    }

    /// Whether constants have no values.
    pub(crate) fn is_sketch(&self) -> bool {
        self.sketch
    }

    /// Whether the program crosses to shares where it would bootstrap.
    pub(crate) fn crosses(&self) -> bool {
        self.ladder.crosses()
    }

    /// A constant of this period, whose values are made only if somebody will read them.
    pub(crate) fn plain(&self, period: usize, values: impl FnOnce() -> Vec<Complex64>) -> Plain {
        Plain { period, values: if self.sketch { Vec::new() } else { values() } }
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

    /// Sum of `terms`, each rotated by its amount.
    pub(crate) fn sum_rotated(&mut self, terms: &[(Register, i64)]) -> Result<Register> {
        let Some(&(first, _)) = terms.first() else {
            return Err(Error::Planner { op: "sum_rotated", detail: "no terms".into() });
        };
        if let [(only, 0)] = terms {
            return Ok(*only);
        }
        for &(term, _) in terms {
            self.same("sum_rotated", first, term)?;
        }
        let (args, amounts) = terms.iter().copied().unzip();
        let meta = self.meta(first);
        Ok(self.push(Opcode::SumRotated(amounts), args, &[meta]))
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

    fn constant(&mut self, plain: Plain, level: usize, scale: f64) -> ConstantId {
        let Plain { period, values } = plain;
        self.program.constants.push(Constant { period, values, level, scale, varies: false });
        ConstantId(self.program.constants.len() as u32 - 1)
    }

    pub(crate) fn add_plain(&mut self, a: Register, values: impl Into<Plain>) -> Register {
        let meta = self.meta(a);
        let id = self.constant(values.into(), meta.level, meta.scale);
        self.push(Opcode::AddPlain(id), vec![a], &[meta])
    }

    pub(crate) fn add_number(&mut self, a: Register, x: f64) -> Register {
        let meta = self.meta(a);
        self.push(Opcode::AddNumber(x), vec![a], &[meta])
    }

    /// Sum of `args[i] * values[i]`; the constants' scale is chosen so that a rescale lands on the exact scale of the
    /// next level.
    pub(crate) fn dot_plain(&mut self, args: &[Register], values: Vec<Plain>) -> Result<Register> {
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
    pub(crate) fn mul_plain(&mut self, a: Register, values: impl Into<Plain>) -> Result<Register> {
        let product = self.dot_plain(&[a], vec![values.into()])?;
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

    /// `re * r_re + i im * r_im` of real ciphertexts: one relinearisation, one level.
    pub(crate) fn pair_product(
        &mut self,
        [re, im]: [Register; 2],
        [r_re, r_im]: [Register; 2],
    ) -> Result<Register> {
        let first = self.tensor(re, r_re)?;
        let turned = self.mul_i(im);
        let second = self.tensor(turned, r_im)?;
        let sum = self.add(first, second)?;
        self.close_product(sum)
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

    /// Brings all down to the lowest level among them.
    pub(crate) fn align<const N: usize>(
        &mut self,
        registers: [Register; N],
    ) -> Result<[Register; N]> {
        let level = registers.iter().map(|&r| self.level(r)).min().unwrap_or(0);
        let mut out = registers;
        for r in &mut out {
            *r = self.set_level(*r, level, 1.0)?;
        }
        Ok(out)
    }

    /// Bootstraps `Complex` or `Real` slots that are at most `1 / gain` in each part, and drops the result to `landing`. Where
    /// the drop has a level to spare, the slots are `gain` times as large meanwhile, which keeps as many bits more.
    pub(crate) fn refresh(
        &mut self,
        a: Register,
        kind: BootstrapKind,
        landing: usize,
        gain: i64,
    ) -> Result<Register> {
        let (output, refresh) = match &self.ladder {
            Ladder::Endless { top, .. } => (*top, None),
            Ladder::Real { refresh: Some(r), .. } => (r.output_level, Some(*r)),
            Ladder::Real { refresh: None, .. } => {
                let detail = "the parameter set does not bootstrap".into();
                return Err(Error::Planner { op: "refresh", detail });
            }
        };
        let gain = if landing < output { gain } else { 1 };
        let mut a = self.mul_integer(a, gain);
        if let Some(refresh) = refresh {
            let level = self.level(a);
            let needed = refresh.input_level;
            if level < needed {
                return Err(Error::LevelExhausted { op: "refresh", level, needed: needed - level });
            }
            a = self.set_level(a, needed, 1.0)?;
            self.program.refresh = refresh.options;
        }
        let meta = Meta { level: output, scale: self.ladder.scale(output), degree: 1 };
        let fresh = self.push(Opcode::Refresh(kind), vec![a], &[meta]);
        self.set_level(fresh, landing, 1.0 / gain as f64)
    }

    /// Crosses to shares and back, to the level `landing`.
    pub(crate) fn cross(
        &mut self,
        a: Register,
        crossing: Crossing,
        landing: usize,
    ) -> Result<Register> {
        let Meta { level, degree, .. } = self.meta(a);
        let needed = self.ladder.refreshing().map_or(0, |r| r.input_level);
        if level < needed {
            return Err(Error::LevelExhausted { op: "cross", level, needed: needed - level });
        }
        self.program.crossings.push(crossing);
        let id = CrossingId(self.program.crossings.len() as u32 - 1);
        let meta = Meta { level: landing, scale: self.ladder.scale(landing), degree };
        Ok(self.push(Opcode::Cross(id), vec![a], &[meta]))
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
