//! From a model to the program that evaluates it under encryption, in layout P-tile ([`crate::packing`]).
//!
//! One pass writes every operator in order and knows every level as it goes. Constants that would cost a level are
//! folded into the plaintext that already stands next to them; each fold is written where it happens. The two factors
//! that recur: splitting a complex ciphertext yields *twice* its parts, and the residual stream is stored times
//! `alpha`, so that the sum of squares of a token lands in the interval of the inverse square root's polynomial.

mod activation;
mod attention;
mod feed_forward;
mod functions;
mod pair;
mod schedule;
#[cfg(test)]
mod tests;

use self::activation::Terms;
use self::functions::refresh_at;
pub(crate) use self::schedule::{LayerSchedule, RefreshPoint, Schedule};
use crate::approx::{InverseSqrt, LayerApproximations, layer_approximations};
use crate::config::{ModelConfig, NormOrder, Pooling, Structure};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::packing::Packing;
use crate::program::{Builder, Crossing, Function, Ladder, Parts, Plain, Program, Register};
use crate::weights::{LinearWeights, Model, NormWeights};
use cipherform_ckks::BootstrapKind;
use num_complex::Complex64;

/// Hoisted rotations of a matrix product: 1..8; its giant steps are rotations by 8.
pub(crate) const BABY_STEPS: usize = 8;

/// What the client packs into one input ciphertext.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct InputSpec {
    /// `normalized`, the first norm's output, or `residual`, the centred embedding.
    pub name: String,
    /// Level at which it enters.
    pub level: usize,
    /// Blocks that hold a copy; 1 in layout P-pair.
    pub blocks: usize,
    /// Which of the ciphertexts that hold the features; 0 in layout P-tile.
    pub part: usize,
    /// Factor on the values.
    pub factor: f64,
}

/// The client's input that holds the first norm's output.
pub(crate) const NORMALIZED: &str = "normalized";

/// The client's input that holds the centred embedding.
pub(crate) const RESIDUAL: &str = "residual";

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Head {
    /// All logits in one ciphertext, one a row, and nothing else in it.
    Logits,
    /// One ciphertext a class at level 0, for the exact step: the mean of its slots is `factor` times the logit less the mean
    /// of all logits.
    Label {
        /// Places the logits on the torus of the exact step.
        factor: f64,
    },
}

/// A program with the inputs it expects.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub(crate) program: Program,
    pub(crate) inputs: Vec<InputSpec>,
}

/// Refuses what a layout has no program for.
pub(crate) fn supports(config: &ModelConfig, layout: &Layout) -> Result<()> {
    match layout {
        Layout::Tile(_) => check_structure(config),
        Layout::Pair(_) => pair::check_structure(config),
    }
}

/// Refuses what layout P-tile has no program for.
fn check_structure(config: &ModelConfig) -> Result<()> {
    let Structure { norm, parallel, causal, pooling, .. } = config.structure;
    let refusals = [
        (norm == NormOrder::Post, "a norm after attention, under encryption in layout P-tile,"),
        (parallel, "a feed-forward block beside attention, under encryption in layout P-tile,"),
        (causal, "causal attention under encryption in layout P-tile"),
        (
            pooling != Pooling::Mean,
            "pooling other than the mean, under encryption in layout P-tile,",
        ),
    ];
    refuse(&refusals, "use a pre-norm encoder with mean pooling, or run it in the clear")
}

/// The first refusal that applies.
pub(crate) fn refuse(refusals: &[(bool, &'static str)], hint: &'static str) -> Result<()> {
    match refusals.iter().find(|(refused, _)| *refused) {
        Some(&(_, what)) => Err(Error::Unsupported { what, hint }),
        None => Ok(()),
    }
}

/// Writes the program of `model` for inputs of as many tokens as the layout says, whose number changes constants only:
/// neither instructions nor levels.
pub(crate) fn lower(
    model: &Model,
    layout: &Layout,
    ladder: Ladder,
    schedule: &Schedule,
    head: Head,
) -> Result<Lowered> {
    let approximations = approximations(model)?;
    let packing = match layout {
        Layout::Tile(packing) => packing,
        Layout::Pair(packing) => {
            let pass = pair::PairPass::new(model, &approximations, *packing, ladder, false);
            return pass.lower(schedule);
        }
    };
    let mut pass = Pass {
        model,
        approximations: &approximations,
        p: *packing,
        head,
        b: Builder::new(ladder, false),
        inputs: Vec::new(),
    };
    pass.b.step("input");
    let input = pass.input(NORMALIZED, schedule.input, packing.input_blocks(), 1.0);
    let mut flow = Flow::Normalized(input);
    for (index, layer) in schedule.layers.iter().enumerate() {
        flow = pass.layer(index, &flow, layer)?;
    }
    Ok(Lowered { program: pass.b.finish(flow.registers()), inputs: pass.inputs })
}

/// The scalar functions of every layer.
pub(crate) fn approximations(model: &Model) -> Result<Vec<LayerApproximations>> {
    (0..model.config.layers.len()).map(|i| layer_approximations(&model.config, i)).collect()
}

/// One layer alone as a sketch, from a stream (or the client's input) that enters at `level`. A sketch has no values in its
/// constants and is good for counting and pricing only.
#[expect(
    clippy::too_many_arguments,
    reason = "the search has all of them at hand, and nobody else calls this"
)]
pub(crate) fn sketch_layer(
    model: &Model,
    approximations: &[LayerApproximations],
    layout: &Layout,
    ladder: Ladder,
    index: usize,
    level: usize,
    schedule: &LayerSchedule,
    head: Head,
) -> Result<Program> {
    let p = match layout {
        Layout::Tile(packing) => *packing,
        Layout::Pair(packing) => {
            let pass = pair::PairPass::new(model, approximations, *packing, ladder, true);
            return pass.sketch_layer(index, level, schedule);
        }
    };
    let b = Builder::new(ladder, true);
    let mut pass = Pass { model, approximations, p, head, b, inputs: Vec::new() };
    pass.b.step("input");
    let register = pass.b.input(0, level);
    let entry = match pass.norm1(index) {
        Ok(root) => Flow::Stream(Stream { register, alpha: stream_factor(root, pass.width()) }),
        Err(_) => Flow::Normalized(register),
    };
    let flow = pass.layer(index, &entry, schedule)?;
    Ok(pass.b.finish(flow.registers()))
}

/// What passes from one layer to the next.
#[derive(Clone, Debug)]
enum Flow {
    /// Values after the first norm, which the client makes for the first layer.
    Normalized(Register),
    /// The residual stream.
    Stream(Stream),
    /// The last layer's logits, as the head says.
    Logits(Vec<Register>),
}

impl Flow {
    fn registers(self) -> Vec<Register> {
        match self {
            Self::Normalized(register) | Self::Stream(Stream { register, .. }) => vec![register],
            Self::Logits(registers) => registers,
        }
    }
}

/// The residual stream: `alpha` times the centred values, copied into several blocks.
#[derive(Clone, Copy, Debug)]
struct Stream {
    register: Register,
    alpha: f64,
}

/// The stream after attention together with twice its two halves.
#[derive(Clone, Copy, Debug)]
struct Summed {
    stream: Stream,
    re2: Register,
    im2: Register,
}

/// What the projections of attention read: `factor` times the values after the first norm, whose gain and bias are not
/// applied yet if `norm` is there.
#[derive(Clone, Copy, Debug)]
struct Normalized<'a> {
    register: Register,
    factor: f64,
    norm: Option<&'a NormWeights>,
}

/// Attention before its output projection: `factor` times the concatenated heads, in block 0.
#[derive(Clone, Copy, Debug)]
struct Attended {
    register: Register,
    factor: f64,
}

/// Weights that reach one output slot: one value an input feature, over the period of the input.
type Columns = Vec<Option<Vec<f64>>>;

struct Pass<'a> {
    model: &'a Model,
    approximations: &'a [LayerApproximations],
    p: Packing,
    head: Head,
    b: Builder,
    inputs: Vec<InputSpec>,
}

fn real(values: impl IntoIterator<Item = f64>) -> Vec<Complex64> {
    values.into_iter().map(|v| Complex64::new(v, 0.0)).collect()
}

/// `alpha` such that the window sum of `(alpha * x)^2`, doubled twice by two splits, is `2 mean(x^2) / (high - low)`:
/// the linear part of the map onto [-1, 1].
fn stream_factor(root: &InverseSqrt, width: usize) -> f64 {
    1.0 / (4.0 * width as f64 * (root.high - root.low)).sqrt()
}

impl<'a> Pass<'a> {
    /// One layer; the last one's result are the logits.
    fn layer(&mut self, index: usize, flow: &Flow, at: &LayerSchedule) -> Result<Flow> {
        let model: &'a Model = self.model;
        let (layer, weights) = (&model.config.layers[index], &model.weights.layers[index]);
        let approximations: &'a LayerApproximations = &self.approximations[index];
        let last = index + 1 == model.config.layers.len();
        self.b.layer(format!("layer.{index}"));
        // The client applies gain and bias of the very first norm.
        let (input, stream) = match *flow {
            Flow::Normalized(register) => (Normalized { register, factor: 1.0, norm: None }, None),
            Flow::Stream(stream) => {
                let normalized = self.first_norm(stream, index, at)?;
                (Normalized { norm: Some(&weights.norm1), ..normalized }, Some(stream))
            }
            Flow::Logits(_) => {
                return Err(Error::Planner {
                    op: "layer",
                    detail: "it follows the last one".into(),
                });
            }
        };
        let attended = self.attention(input, layer, approximations, weights, at)?;
        let summed =
            self.attention_output(attended, stream, &approximations.norm2, weights, last, at)?;
        let terms = Terms::new(weights, layer.activation);
        let hidden = self.feed_forward_in(&summed, &approximations.norm2, weights, &terms, at)?;
        Ok(if last {
            Flow::Logits(self.pool_and_classify(hidden, &summed, weights, &terms)?)
        } else {
            Flow::Stream(self.feed_forward_out(hidden, &summed, index, &terms, at)?)
        })
    }

    /// The inverse root of a layer's first norm: none in the first layer, where the client computes it.
    fn norm1(&self, index: usize) -> Result<&'a InverseSqrt> {
        let root = self.approximations.get(index).and_then(|a| a.norm1.as_ref());
        root.ok_or(Error::Planner { op: "norm1", detail: "not calibrated".into() })
    }

    /// What tokens that carry data read and write: `read` and `write` say where in the token's row, and which of a row's elements.
    fn token_parts(&self, read: &[usize], write: &[(usize, usize)]) -> Parts {
        let p = &self.p;
        let mut parts = Parts::default();
        for t in 0..p.tokens {
            let part = |at: usize| (2 * (t % p.rows * p.columns + at) + t / p.rows) as u32;
            let first = parts.read.len();
            parts.read.extend(read.iter().map(|&at| part(at)));
            parts.write.extend(write.iter().map(|&(at, i)| (part(at), (first + i) as u32)));
        }
        parts
    }

    /// Refreshes a register whose slots are at most `bound` in each part if the schedule says so.
    fn maybe_refresh(
        &mut self,
        a: Register,
        point: RefreshPoint,
        at: &LayerSchedule,
        bound: f64,
    ) -> Result<Register> {
        if self.b.crosses()
            && let Some(landing) = at.landing(point)
        {
            self.b.step(point.operator());
            let crossing = Crossing {
                parts: Parts::all(self.p.slots),
                function: Function::Identity,
                factor_in: 1.0,
                factor_out: 1.0,
                // Of both parts.
                log2_bound: bound.log2() + 0.5,
            };
            return self.b.cross(a, crossing, landing);
        }
        let mut registers = [a];
        refresh_at(&mut self.b, &mut registers, BootstrapKind::Complex, point, at, bound)?;
        Ok(registers[0])
    }

    fn input(&mut self, name: &str, level: usize, blocks: usize, factor: f64) -> Register {
        let spec = InputSpec { name: name.to_owned(), level, blocks, part: 0, factor };
        self.inputs.push(spec);
        self.b.input(self.inputs.len() - 1, level)
    }

    /// Columns of a row, filled unless nobody will read them.
    fn columns(&self, fill: impl FnOnce(&mut Columns)) -> Columns {
        let mut columns = vec![None; self.p.columns];
        if !self.b.is_sketch() {
            fill(&mut columns);
        }
        columns
    }

    /// A row of `columns` values at every token that carries data, as a constant.
    fn live(&self, row: &[f64]) -> Plain {
        self.b.plain(self.p.slots, || self.p.live(row))
    }

    fn width(&self) -> usize {
        self.model.config.width
    }

    // ---- matrix product --------------------------------------------------------------------------------------------

    /// The input and its rotations by 1, 2, ... one less than the baby steps.
    fn babies(&mut self, x: Register) -> Vec<Register> {
        let mut babies = vec![x];
        babies.extend(self.b.hoisted(x, (1..BABY_STEPS as i64).collect()));
        babies
    }

    /// `y[f] = sum_d x[f + d] W[(f + d) mod period, f]` over the diagonals `d`: the input repeats every `period` slots,
    /// so the diagonals are cyclic and no mask is needed. Baby-step giant-step; giant steps by Horner's rule, so that
    /// one key serves them all. One level.
    fn matrix(
        &mut self,
        babies: &[Register],
        columns: &Columns,
        period: usize,
    ) -> Result<Register> {
        self.matrices(&[(babies.to_vec(), columns.clone())], period)
    }

    /// The sum of several matrix products, which share their giant steps and their rescale.
    fn matrices(
        &mut self,
        sources: &[(Vec<Register>, Columns)],
        period: usize,
    ) -> Result<Register> {
        let mut sum: Option<Register> = None;
        for giant in (0..period / BABY_STEPS).rev() {
            let shift = giant * BABY_STEPS;
            let mut registers = Vec::new();
            let mut diagonals = Vec::new();
            for (babies, columns) in sources {
                let n = columns.len();
                for (baby, &register) in babies.iter().enumerate() {
                    // Diagonal d, rotated back by the giant step that its sum will be rotated by.
                    let value = |slot: usize| {
                        let f = (slot + n - shift % n) % n;
                        columns[f].as_ref().map_or(0.0, |w| w[(f + shift + baby) % period])
                    };
                    diagonals.push(self.b.plain(n, || real((0..n).map(value))));
                    registers.push(register);
                }
            }
            let inner = self.b.dot_plain(&registers, diagonals)?;
            sum = Some(match sum {
                None => inner,
                Some(outer) => {
                    let moved = self.b.rotate(outer, BABY_STEPS as i64);
                    self.b.add(inner, moved)?
                }
            });
        }
        let sum = sum.ok_or(Error::Planner { op: "matrix", detail: "no diagonals".into() })?;
        self.b.rescale(sum)
    }

    /// Columns and bias of a projection, after a norm's gain and bias, onto interlaced heads, in each of the first `blocks` blocks; head `h` is
    /// multiplied by `factors[h]`.
    fn head_columns(
        &self,
        linear: &LinearWeights,
        input: Normalized<'_>,
        factors: &[f64],
        blocks: usize,
    ) -> (Columns, Vec<f64>) {
        let mut bias = vec![0.0; self.p.columns];
        let head_width = self.width() / factors.len();
        let columns = self.columns(|columns| {
            for (h, factor) in factors.iter().enumerate() {
                for i in 0..head_width {
                    let source = h * head_width + i;
                    let mut weights = vec![0.0; self.p.block];
                    let mut constant = linear.bias[source];
                    for (f, w) in weights.iter_mut().enumerate().take(self.width()) {
                        *w = linear.weight.row(f)[source] * factor / input.factor;
                        if let Some(norm) = input.norm {
                            *w *= norm.gain[f];
                            constant += norm.bias[f] * linear.weight.row(f)[source];
                        }
                    }
                    for block in 0..blocks {
                        let slot = block * self.p.block + self.p.head_slot(h, i);
                        columns[slot] = Some(weights.clone());
                        bias[slot] = constant * factor;
                    }
                }
            }
        });
        (columns, bias)
    }

    fn projection(
        &mut self,
        babies: &[Register],
        linear: &LinearWeights,
        input: Normalized<'_>,
        factors: &[f64],
        blocks: usize,
    ) -> Result<Register> {
        let (columns, bias) = self.head_columns(linear, input, factors, blocks);
        let product = self.matrix(babies, &columns, self.p.block)?;
        let bias = self.live(&bias);
        Ok(self.b.add_plain(product, bias))
    }

    /// Relinearizes a product, sums a window of slots, and only then rescales: one rounding instead of one a term.
    fn sum_product(&mut self, product: Register, step: usize, count: usize) -> Result<Register> {
        let linear = self.b.relinearize(product);
        let summed = self.b.window_sum(linear, step, count)?;
        self.b.rescale(summed)
    }
}
