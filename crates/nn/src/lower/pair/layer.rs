//! Whole layers and models in layout P-pair.
//!
//! The stream is kept times `alpha`, centred, so that the mean costs nothing. A norm's gain and bias go into the matrix
//! that follows; constants are added at live tokens alone, so padding stays exactly zero and scores with it vanish.

use super::Pair;
use super::scalars::Gathered;
use crate::approx::{InverseSqrt, LayerApproximations};
use crate::config::{HeadKind, ModelConfig, NormOrder, Pooling};
use crate::error::{Error, Result};
use crate::lower::activation::Terms;
use crate::lower::functions::{centered, normalized_factor, refresh_at, root_shift, stream_bound};
use crate::lower::{
    InputSpec, LayerSchedule, Lowered, NORMALIZED, RESIDUAL, RefreshPoint, Schedule, refuse,
};
use crate::packing::{Features, PairPacking};
use crate::program::{Builder, Ladder, Program, Register};
use crate::weights::{LinearWeights, Model, NormWeights};
use cipherform_ckks::BootstrapKind;
use num_complex::Complex64;

/// Refuses what this layout has no program for.
pub(in crate::lower) fn check_structure(config: &ModelConfig) -> Result<()> {
    let scaled = config.layers.iter().any(|l| l.heads.contains(&HeadKind::Scaled));
    let refusals = [(
        scaled && config.structure.causal,
        "a scaled head of a causal layer, under encryption in layout P-pair,",
    )];
    refuse(&refusals, "use power heads or undivided ones, or run it in the clear")
}

/// Values after a norm whose gain and bias are not applied yet, times `factor`.
#[derive(Clone, Debug)]
pub(super) struct Normalized<'a> {
    pub(super) registers: Vec<Register>,
    pub(super) factor: f64,
    /// `None` where the client has applied them.
    pub(super) norm: Option<&'a NormWeights>,
}

/// What passes from one layer to the next.
enum Flow<'a> {
    /// Values after a norm: of the client, or of the layer before where norms stand after.
    Normalized(Normalized<'a>),
    /// The centred residual stream times alpha.
    Stream(Vec<Register>),
}

/// Lowers a model over a [`Pair`].
pub(in crate::lower) struct PairPass<'a> {
    pub(super) pair: Pair,
    pub(super) model: &'a Model,
    pub(super) approximations: &'a [LayerApproximations],
    /// Factor of the stream, whose entries it keeps at or below one.
    alpha: f64,
    inputs: Vec<InputSpec>,
}

/// A matrix after a norm: its weights and what the norm's bias adds to its own.
pub(super) fn after_norm<'w>(
    linear: &'w LinearWeights,
    norm: Option<&'w NormWeights>,
    factor: f64,
) -> (impl Fn(usize, usize) -> f64 + 'w, Vec<f64>) {
    let mut bias = linear.bias.clone();
    for (row, shift) in norm.iter().flat_map(|n| n.bias.iter().enumerate()) {
        for (b, w) in bias.iter_mut().zip(linear.weight.row(row)) {
            *b += shift * w;
        }
    }
    let weight = move |row: usize, column: usize| {
        linear.weight.row(row)[column] * norm.map_or(1.0, |n| n.gain[row]) / factor
    };
    (weight, bias)
}

impl<'a> PairPass<'a> {
    pub(in crate::lower) fn new(
        model: &'a Model,
        approximations: &'a [LayerApproximations],
        p: PairPacking,
        ladder: Ladder,
        sketch: bool,
    ) -> Self {
        let alpha = (1.0 / stream_bound(&model.config)).log2().floor().exp2();
        let pair = Pair { b: Builder::new(ladder, sketch), p };
        Self { pair, model, approximations, alpha, inputs: Vec::new() }
    }

    /// The whole program.
    pub(in crate::lower) fn lower(mut self, schedule: &Schedule) -> Result<Lowered> {
        self.pair.b.step("input");
        let registers = self.input(NORMALIZED, schedule.input, 1.0);
        let mut flow = Flow::Normalized(Normalized { registers, factor: 1.0, norm: None });
        for (index, layer) in schedule.layers.iter().enumerate() {
            flow = self.layer(index, flow, layer)?;
        }
        let output = self.classify(&flow)?;
        Ok(Lowered { program: self.pair.b.finish(vec![output]), inputs: self.inputs })
    }

    /// One layer alone, the last one with what classifies, from a stream or the client's input that enters at `level`.
    pub(in crate::lower) fn sketch_layer(
        mut self,
        index: usize,
        level: usize,
        schedule: &LayerSchedule,
    ) -> Result<Program> {
        self.pair.b.step("input");
        let registers = self.input(NORMALIZED, level, 1.0);
        let before = index.checked_sub(1).map(|before| &self.model.weights.layers[before].norm2);
        let flow = match (self.model.config.structure.norm, before) {
            (NormOrder::Pre, Some(_)) => Flow::Stream(registers),
            (_, norm) => Flow::Normalized(Normalized { registers, factor: 1.0, norm }),
        };
        let out = self.layer(index, flow, schedule)?;
        let outputs = if index + 1 == self.model.config.layers.len() {
            vec![self.classify(&out)?]
        } else {
            let (Flow::Normalized(Normalized { registers, .. }) | Flow::Stream(registers)) = out;
            registers
        };
        Ok(self.pair.b.finish(outputs))
    }

    fn input(&mut self, name: &str, level: usize, factor: f64) -> Vec<Register> {
        let parts = self.pair.p.parts(self.width());
        let specs = (0..parts).map(|part| {
            let name = name.to_owned();
            InputSpec { name, level, blocks: 1, part, factor }
        });
        let first = self.inputs.len();
        self.inputs.extend(specs);
        (first..first + parts).map(|i| self.pair.b.input(i, level)).collect()
    }

    pub(super) fn width(&self) -> usize {
        self.model.config.width
    }

    pub(super) fn stream_features(&self) -> Vec<Features> {
        self.pair.p.natural(self.width())
    }

    /// Adds `value(feature)` at the live tokens of a ciphertext with these features.
    pub(super) fn add_live(
        &mut self,
        a: Register,
        features: &Features,
        value: &dyn Fn(usize) -> f64,
    ) -> Register {
        let p = self.pair.p;
        let at = |slot: usize| {
            let (t, f) = (slot / p.columns, slot % p.columns);
            let v = features.get(f).copied().flatten().map_or(0.0, value);
            let live = |token: usize| if token < p.tokens { v } else { 0.0 };
            Complex64::new(live(t), live(t + p.rows))
        };
        let constant = self.pair.b.plain(p.slots, || (0..p.slots).map(at).collect());
        self.pair.b.add_plain(a, constant)
    }

    fn add_all(&mut self, a: &[Register], b: &[Register]) -> Result<Vec<Register>> {
        let mut out = Vec::with_capacity(a.len());
        for (&a, &b) in a.iter().zip(b) {
            let [a, b] = self.pair.b.align([a, b])?;
            out.push(self.pair.b.add(a, b)?);
        }
        Ok(out)
    }

    /// `factor x / sqrt(mean x^2 + eps)` of the stream, zero at padding. Trunk 1 level; statistics 2 and the polynomial's
    /// beside it, and one for the masks of the scatter.
    fn norm(
        &mut self,
        stream: &[Register],
        root: &InverseSqrt,
        factor: f64,
        point: RefreshPoint,
        at: &LayerSchedule,
    ) -> Result<Vec<Register>> {
        let (alpha, tokens) = (self.alpha, self.pair.p.tokens);
        let halves = self.pair.split_all(stream)?;
        let sums = self.pair.square_sums(&halves)?;
        let shift = root_shift(root, self.model.config.norm_eps);
        // What is refreshed is at most one; padding has no square and is at the shift itself.
        let (fresh, unit) = match at.landing(point) {
            Some(_) => (true, shift.abs().max(1.0).log2().ceil().exp2()),
            None => (false, 1.0),
        };
        let scale =
            2.0 / (unit * (root.high - root.low) * self.width() as f64 * 4.0 * alpha * alpha);
        let gathered = self.pair.gather(&[sums], 1, scale, &|_, _| Some(shift / unit), 0.0)?;
        let mut register = [gathered.register];
        refresh_at(&mut self.pair.b, &mut register, BootstrapKind::Real, point, at, 1.0)?;
        if fresh {
            self.pair.b.step("norm.root");
        }
        let [register] = register;
        let register = self.pair.b.mul_integer(register, unit as i64);
        let register = self.pair.b.polynomial(register, &root.coefficients)?;
        let copies = self.width().min(self.pair.p.columns).next_power_of_two();
        // Two splits double each factor.
        let live = |t: usize, _| if t < tokens { factor / (4.0 * alpha) } else { 0.0 };
        let (r_re, r_im) =
            self.pair.scatter(Gathered { register, ..gathered }, 0, 1, copies, live)?;
        let mut out = Vec::with_capacity(halves.len());
        for [re, im] in halves {
            let [re, im, r_re, r_im] = self.pair.b.align([re, im, r_re, r_im])?;
            out.push(self.pair.b.pair_product([re, im], [r_re, r_im])?);
        }
        Ok(out)
    }

    /// A layer's first norm.
    fn first_norm(
        &mut self,
        stream: &[Register],
        index: usize,
        at: &LayerSchedule,
    ) -> Result<Normalized<'a>> {
        let model: &'a Model = self.model;
        let approximations: &'a [LayerApproximations] = self.approximations;
        let root = approximations[index].norm1.as_ref();
        let root = root.ok_or(Error::Planner { op: "norm1", detail: "not calibrated".into() })?;
        let refreshed = at.landing(RefreshPoint::Normalized).is_some();
        let factor = if refreshed { normalized_factor(&model.config, index) } else { 1.0 };
        self.pair.b.step("norm1");
        let mut registers = self.norm(stream, root, factor, RefreshPoint::FirstNormSums, at)?;
        let (b, kind) = (&mut self.pair.b, BootstrapKind::Complex);
        refresh_at(b, &mut registers, kind, RefreshPoint::Normalized, at, 1.0)?;
        Ok(Normalized { registers, factor, norm: Some(&model.weights.layers[index].norm1) })
    }

    /// A matrix onto the stream, centred and times alpha, with its bias; `weight` and `bias` are centred already.
    fn onto_stream(
        &mut self,
        xs: &[Register],
        inputs: &[Features],
        weight: &dyn Fn(usize, usize) -> f64,
        bias: &[f64],
    ) -> Result<Vec<Register>> {
        let (outputs, alpha) = (self.stream_features(), self.alpha);
        let weight = |row: usize, column: usize| weight(row, column) * alpha;
        let xs = self.pair.align_all(xs)?;
        let mut branch = self.pair.matrix(&xs, inputs, &outputs, &weight)?;
        for (register, features) in branch.iter_mut().zip(&outputs) {
            *register = self.add_live(*register, features, &|f| bias[f] * alpha);
        }
        Ok(branch)
    }

    /// As [`Self::onto_stream`] with what stands beside the branch: a stream to add, or, where norms stand after, the
    /// normalised values, which pass through the same product: their rows apply gain and centring.
    fn join(
        &mut self,
        mut xs: Vec<Register>,
        mut inputs: Vec<Features>,
        rows: usize,
        weight: &dyn Fn(usize, usize) -> f64,
        bias: &[f64],
        beside: &Normalized<'_>,
    ) -> Result<Vec<Register>> {
        let d = self.width();
        xs.extend(&beside.registers);
        let shifted = |features: Features| features.into_iter().map(|f| f.map(|f| f + rows));
        inputs.extend(self.stream_features().into_iter().map(|f| shifted(f).collect()));
        let gain = |f: usize| beside.norm.map_or(1.0, |n| n.gain[f]) / beside.factor;
        let weight = |row: usize, column: usize| match row.checked_sub(rows) {
            None => weight(row, column),
            Some(f) => gain(f) * (f64::from(u8::from(f == column)) - 1.0 / d as f64),
        };
        let norm_bias = beside.norm.map_or_else(|| vec![0.0; d], |n| centered(&n.bias));
        let bias: Vec<f64> = bias.iter().zip(norm_bias).map(|(a, b)| a + b).collect();
        self.onto_stream(&xs, &inputs, &weight, &bias)
    }

    fn layer(&mut self, index: usize, flow: Flow<'a>, at: &LayerSchedule) -> Result<Flow<'a>> {
        self.pair.b.layer(format!("layer.{index}"));
        let out = match self.model.config.structure.norm {
            NormOrder::Pre => Flow::Stream(self.pre_norm(index, flow, at)?),
            NormOrder::Post => Flow::Normalized(self.post_norm(index, flow, at)?),
        };
        let level = |pass: &mut Self, registers: &mut [Register]| -> Result<()> {
            for register in registers {
                let level = at.out.unwrap_or(pass.pair.b.level(*register));
                *register = pass.pair.b.set_level(*register, level, 1.0)?;
            }
            Ok(())
        };
        Ok(match out {
            Flow::Stream(mut registers) => {
                level(self, &mut registers)?;
                Flow::Stream(registers)
            }
            Flow::Normalized(mut normalized) => {
                level(self, &mut normalized.registers)?;
                Flow::Normalized(normalized)
            }
        })
    }

    fn refresh_stream(
        &mut self,
        stream: &mut [Register],
        point: RefreshPoint,
        at: &LayerSchedule,
    ) -> Result<()> {
        let bound = self.alpha * stream_bound(&self.model.config);
        refresh_at(&mut self.pair.b, stream, BootstrapKind::Complex, point, at, bound)
    }

    /// The stream after a layer whose branches read norms of it.
    fn pre_norm(
        &mut self,
        index: usize,
        flow: Flow<'a>,
        at: &LayerSchedule,
    ) -> Result<Vec<Register>> {
        let model: &'a Model = self.model;
        let approximations: &'a LayerApproximations = &self.approximations[index];
        let weights = &model.weights.layers[index];
        let parallel = model.config.structure.parallel;
        let alpha = self.alpha;
        let (input, stream) = match flow {
            Flow::Normalized(input) => (input, None),
            Flow::Stream(stream) => (self.first_norm(&stream, index, at)?, Some(stream)),
        };
        // A parallel branch reads the stream from above; otherwise it enters where it is added.
        let stream = match stream {
            None if parallel => {
                self.pair.b.step("input");
                Some(self.input(RESIDUAL, self.pair.b.level(input.registers[0]), alpha))
            }
            other => other,
        };
        let heads = self.attention(&input, index, at)?;
        self.pair.b.step("attention.output");
        let rows: Vec<Vec<f64>> =
            (0..self.width()).map(|r| centered(weights.output.weight.row(r))).collect();
        let weight = |row: usize, column: usize| rows[row][column];
        let bias = centered(&weights.output.bias);
        let branch = self.onto_stream(&heads.registers, &heads.features, &weight, &bias)?;
        let stream = match stream {
            Some(stream) => stream,
            None => self.input(RESIDUAL, self.pair.b.level(branch[0]), alpha),
        };
        let mut summed = self.add_all(&branch, &stream)?;
        if !parallel {
            self.refresh_stream(&mut summed, RefreshPoint::Attended, at)?;
        }
        let shared = parallel && approximations.norm1.as_ref() == Some(&approximations.norm2);
        let normalized = if shared && input.norm.is_some() {
            Normalized { norm: Some(&weights.norm2), ..input }
        } else {
            self.pair.b.step("norm2");
            let read = if parallel { &stream } else { &summed };
            let point = RefreshPoint::SecondNormSums;
            let registers = self.norm(read, &approximations.norm2, 1.0, point, at)?;
            Normalized { registers, factor: 1.0, norm: Some(&weights.norm2) }
        };
        let terms = Terms::new(weights, model.config.layers[index].activation);
        let hidden = self.hidden(&normalized, index, &terms)?;
        let (rows, constant) = Self::ffn_rows(weights, &terms);
        let ffn = model.config.ffn;
        let weight = |row: usize, column: usize| {
            terms.factors[row / ffn][row % ffn] * rows[row % ffn][column]
        };
        let branch = self.onto_stream(&hidden.registers, &hidden.features, &weight, &constant)?;
        let mut out = self.add_all(&branch, &summed)?;
        self.refresh_stream(&mut out, RefreshPoint::Output, at)?;
        Ok(out)
    }

    /// The second norm of a layer whose branches read what norms made.
    fn post_norm(
        &mut self,
        index: usize,
        flow: Flow<'a>,
        at: &LayerSchedule,
    ) -> Result<Normalized<'a>> {
        let model: &'a Model = self.model;
        let approximations: &'a LayerApproximations = &self.approximations[index];
        let weights = &model.weights.layers[index];
        let Flow::Normalized(input) = flow else {
            return Err(Error::Planner { op: "post_norm", detail: "reads a stream".into() });
        };
        let heads = self.attention(&input, index, at)?;
        self.pair.b.step("attention.output");
        let d = self.width();
        let rows: Vec<Vec<f64>> = (0..d).map(|r| centered(weights.output.weight.row(r))).collect();
        let weight = |row: usize, column: usize| rows[row][column];
        let bias = centered(&weights.output.bias);
        let mut summed = self.join(heads.registers, heads.features, d, &weight, &bias, &input)?;
        self.refresh_stream(&mut summed, RefreshPoint::Attended, at)?;
        let normalized = self.first_norm(&summed, index, at)?;

        let terms = Terms::new(weights, model.config.layers[index].activation);
        let hidden = self.hidden(&normalized, index, &terms)?;
        let (rows, constant) = Self::ffn_rows(weights, &terms);
        let ffn = model.config.ffn;
        let weight = |row: usize, column: usize| {
            terms.factors[row / ffn][row % ffn] * rows[row % ffn][column]
        };
        let all = terms.factors.len() * ffn;
        let mut out =
            self.join(hidden.registers, hidden.features, all, &weight, &constant, &normalized)?;
        self.refresh_stream(&mut out, RefreshPoint::Output, at)?;
        self.pair.b.step("norm2");
        let point = RefreshPoint::SecondNormSums;
        let registers = self.norm(&out, &approximations.norm2, 1.0, point, at)?;
        Ok(Normalized { registers, factor: 1.0, norm: Some(&weights.norm2) })
    }

    /// Logits in the first slots, or in those of every token, and nothing elsewhere.
    fn classify(&mut self, flow: &Flow<'_>) -> Result<Register> {
        let p = self.pair.p;
        let pooling = self.model.config.structure.pooling;
        let classes = self.model.config.classes.len();
        let (registers, factor, norm) = match flow {
            Flow::Normalized(n) => (&n.registers, n.factor, n.norm),
            Flow::Stream(stream) => (stream, self.alpha, None),
        };
        self.pair.b.layer("");
        self.pair.b.step("pool");
        let mut pooled = registers.clone();
        if pooling == Pooling::Mean {
            for x in &mut pooled {
                *x = self.pair.b.window_sum(*x, p.columns, p.rows)?;
            }
        }
        self.pair.b.step("classifier");
        let (weight, bias) = after_norm(&self.model.weights.head, norm, factor);
        let outputs = p.natural(classes);
        let logits = self.pair.matrix(&pooled, &self.stream_features(), &outputs, &weight)?;
        let z = logits.first().copied();
        let z = z.ok_or(Error::Planner { op: "head", detail: "no class".into() })?;
        if pooling == Pooling::Tokens {
            self.pair.b.step("output_mask");
            let only = self.pair.row(|f| if f < classes { 1.0 } else { 0.0 });
            let masked = self.pair.b.mul_plain(z, only)?;
            return Ok(self.add_live(masked, &outputs[0], &|k| bias[k]));
        }
        // The real part of (1 - i)(re + i im) is re + im.
        let (z, tokens) = match pooling {
            Pooling::Mean => {
                let turned = self.pair.b.mul_i(z);
                (self.pair.b.sub(z, turned)?, p.tokens)
            }
            _ => (z, 1),
        };
        let (re, _) = self.pair.b.split(z)?;
        self.pair.b.step("output_mask");
        let at =
            |value: f64, slot: usize| Complex64::new(if slot < classes { value } else { 0.0 }, 0.0);
        // The split doubles.
        let mean = 0.5 / tokens as f64;
        let only = self.pair.b.plain(p.slots, || (0..p.slots).map(|s| at(mean, s)).collect());
        let masked = self.pair.b.mul_plain(re, only)?;
        let bias = |s: usize| at(bias.get(s).copied().unwrap_or_default(), s);
        let bias = self.pair.b.plain(p.slots, || (0..p.slots).map(bias).collect());
        Ok(self.pair.b.add_plain(masked, bias))
    }
}
