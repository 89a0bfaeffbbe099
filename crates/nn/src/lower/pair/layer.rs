//! Whole layers and models in layout P-pair: pre-norm, power heads.
//!
//! The stream is kept times `alpha`, centred, so that the mean costs nothing. A norm's gain and bias go into the matrix
//! that follows; constants are added at live tokens alone, so padding stays exactly zero and scores with it vanish.

use super::scalars::Gathered;
use super::{Features, HeadGroup, Pair};
use crate::approx::{InverseSqrt, LayerApproximations, Reciprocal, denominator_scale};
use crate::config::HeadKind;
use crate::error::{Error, Result};
use crate::lower::activation::Terms;
use crate::program::Register;
use crate::weights::{LayerWeights, LinearWeights, Model, NormWeights};
use num_complex::Complex64;

/// Lowers a model over a [`Pair`].
pub(super) struct PairPass<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) model: &'a Model,
    pub(super) approximations: &'a [LayerApproximations],
    /// Factor of the stream.
    pub(super) alpha: f64,
}

/// The projection that removes the mean, applied to the columns of `row . W`.
fn centered(row: &[f64]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    row.iter().map(|v| v - mean).collect()
}

/// A matrix after a norm: its weights and what the norm's bias adds to its own.
fn after_norm<'w>(
    linear: &'w LinearWeights,
    norm: Option<&'w NormWeights>,
) -> (impl Fn(usize, usize) -> f64 + 'w, Vec<f64>) {
    let mut bias = linear.bias.clone();
    for (row, shift) in norm.iter().flat_map(|n| n.bias.iter().enumerate()) {
        for (b, w) in bias.iter_mut().zip(linear.weight.row(row)) {
            *b += shift * w;
        }
    }
    let weight = move |row: usize, column: usize| {
        linear.weight.row(row)[column] * norm.map_or(1.0, |n| n.gain[row])
    };
    (weight, bias)
}

impl PairPass<'_> {
    fn width(&self) -> usize {
        self.model.config.width
    }

    fn stream_features(&self) -> Vec<Features> {
        self.pair.p.natural(self.width())
    }

    /// Adds `value(feature)` at the live tokens of a ciphertext with these features.
    fn add_live(
        &mut self,
        a: Register,
        features: &Features,
        value: &dyn Fn(usize) -> f64,
    ) -> Register {
        let p = self.pair.p;
        let at = |slot: usize| {
            let (t, f) = (slot / p.columns, slot % p.columns);
            let v = features[f].map_or(0.0, value);
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

    /// `x / sqrt(mean x^2 + eps)` of the stream, zero at padding. Trunk 1 level; statistics 2 and the polynomial's beside it,
    /// and one for the masks of the scatter.
    fn norm(&mut self, stream: &[Register], root: &InverseSqrt) -> Result<Vec<Register>> {
        let (alpha, tokens) = (self.alpha, self.pair.p.tokens);
        let mut halves = Vec::with_capacity(stream.len());
        for &x in stream {
            halves.push(<[_; 2]>::from(self.pair.b.split(x)?));
        }
        let sums = self.pair.square_sums(&halves)?;
        let span = root.high - root.low;
        let scale = 2.0 / (span * self.width() as f64 * 4.0 * alpha * alpha);
        let shift = (2.0 * self.model.config.norm_eps - root.low - root.high) / span;
        let gathered = self.pair.gather(&[sums], 1, scale, &|_, _| Some(shift), 0.0)?;
        let register = self.pair.b.polynomial(gathered.register, &root.coefficients)?;
        let copies = self.width().min(self.pair.p.columns).next_power_of_two();
        // Two splits double each factor.
        let live = |t: usize, _| if t < tokens { 1.0 / (4.0 * alpha) } else { 0.0 };
        let (r_re, r_im) =
            self.pair.scatter(Gathered { register, ..gathered }, 0, 1, copies, live)?;
        let mut out = Vec::with_capacity(halves.len());
        for [re, im] in halves {
            let [re, im, r_re, r_im] = self.pair.b.align([re, im, r_re, r_im])?;
            out.push(self.pair.b.pair_product([re, im], [r_re, r_im])?);
        }
        Ok(out)
    }

    /// `(2 re)^p + i (2 im)^p`: log2 p levels, rounded up.
    fn power(&mut self, scores: Register, power: u32) -> Result<Register> {
        let (re, im) = self.pair.b.split(scores)?;
        let mut factors = [[re, im]; 2];
        let [left, right] = &mut factors;
        for (left, right) in left.iter_mut().zip(right) {
            let b = &mut *self.pair.b;
            let x = *left;
            [*left, *right] = match power {
                2 => [x, x],
                4 => [b.mul(x, x)?; 2],
                6 => {
                    let square = b.mul(x, x)?;
                    let fourth = b.mul(square, square)?;
                    [fourth, b.set_level(square, b.level(fourth), 1.0)?]
                }
                8 => {
                    let square = b.mul(x, x)?;
                    [b.mul(square, square)?; 2]
                }
                other => {
                    let detail = format!("power {other} is not one of 2, 4, 6, 8");
                    return Err(Error::Planner { op: "power", detail });
                }
            };
        }
        self.pair.b.pair_product(factors[0], factors[1])
    }

    /// The product of the reciprocal's factors without its `beta`.
    fn reciprocal(&mut self, sums: Register, r: &Reciprocal) -> Result<Register> {
        let b = &mut *self.pair.b;
        let mut z = b.add_number(sums, -r.first_shift);
        let mut result = None;
        for (i, step) in r.steps.iter().enumerate() {
            let factor = b.add_number(z, step.offset);
            result = Some(match result {
                None => factor,
                Some(w) => {
                    let [w, factor] = b.align([w, factor])?;
                    b.mul(w, factor)?
                }
            });
            if i + 1 < r.steps.len() {
                let square = b.tensor(z, z)?;
                let scaled = b.mul_integer(square, step.multiplier);
                let closed = b.close_product(scaled)?;
                z = b.add_number(closed, step.next);
            }
        }
        result.ok_or(Error::Planner { op: "reciprocal", detail: "no steps".into() })
    }

    /// Concatenated heads, normalised, one ciphertext a group, from the values after the first norm.
    fn attention(
        &mut self,
        input: &[Register],
        norm: Option<&NormWeights>,
        index: usize,
        groups: &[HeadGroup],
    ) -> Result<Vec<Register>> {
        let model = self.model;
        let (layer, weights) = (&model.config.layers[index], &model.weights.layers[index]);
        let approximations = &self.approximations[index];
        let denominator = match &approximations.denominator {
            Some(d) if !layer.shifted && layer.heads.iter().all(|&k| k == HeadKind::Power) => d,
            _ => {
                return Err(Error::Unsupported {
                    what: "scaled, undivided or shifted heads in layout P-pair",
                    hint: "use power heads, or a model that fits layout P-tile",
                });
            }
        };
        let (d, columns, tokens) = (self.width(), self.pair.p.columns, self.pair.p.tokens);
        let head_width = d / layer.heads.len();
        let scale = denominator_scale(&layer.ranges, model.config.approximation);
        // Scores come out as gamma s after both splits, with gamma^p = scale / T.
        let factor = |head: usize| {
            let gamma = (scale[head] / tokens as f64).powf(1.0 / f64::from(layer.power));
            (gamma / (4.0 * (head_width as f64).sqrt())).sqrt()
        };

        self.pair.b.step("attention.qkv");
        let linears = [&weights.query, &weights.key, &weights.value];
        let folded = linears.map(|linear| after_norm(linear, norm));
        let gain = |kind: usize, column: usize| match kind {
            2 => 1.0,
            _ => factor(column / head_width),
        };
        let outputs: Vec<Features> = (0..3)
            .flat_map(|kind| groups.iter().map(move |group| (kind, group)))
            .map(|(kind, group)| {
                let features = group.features(columns, kind == 0);
                features.into_iter().map(|f| f.map(|f| f + kind * d)).collect()
            })
            .collect();
        let weight = |row: usize, column: usize| {
            let (kind, column) = (column / d, column % d);
            (folded[kind].0)(row, column) * gain(kind, column)
        };
        let products = self.pair.matrix(input, &self.stream_features(), &outputs, &weight)?;
        let mut projected = Vec::with_capacity(products.len());
        for (product, features) in products.into_iter().zip(&outputs) {
            let bias =
                |column: usize| folded[column / d].1[column % d] * gain(column / d, column % d);
            projected.push(self.add_live(product, features, &bias));
        }

        let (mut powers, mut sums) = (Vec::new(), Vec::new());
        for (g, group) in groups.iter().enumerate() {
            self.pair.b.step("attention.scores");
            let keys = self.pair.skew(projected[groups.len() + g], group)?;
            let keys = self.pair.halves(keys, group)?;
            let scores = self.pair.scores(projected[g], &keys, group)?;
            self.pair.b.step("attention.power");
            let mut of_group = Vec::with_capacity(scores.len());
            for score in scores {
                of_group.push(self.power(score, layer.power)?);
            }
            sums.push(self.pair.key_sums(&of_group, group)?);
            powers.push(of_group);
        }
        self.pair.b.step("attention.reciprocal");
        let most = groups.iter().map(|g| g.heads).max().unwrap_or(1);
        let eps = |k: usize, h: usize| {
            let group = groups.get(k).filter(|group| h < group.heads)?;
            Some(layer.eps * scale[group.first + h])
        };
        let gathered = self.pair.gather(&sums, most, 1.0, &eps, 0.5)?;
        let reciprocal = &denominator.reciprocal;
        let register = self.reciprocal(gathered.register, reciprocal)?;
        let gathered = Gathered { register, ..gathered };

        let mut out = Vec::with_capacity(groups.len());
        for (g, group) in groups.iter().enumerate() {
            self.pair.b.step("attention.values");
            // Skew and mask; no higher than the weights ask.
            let needed = self.pair.b.level(powers[g][0]) + 2;
            let value = projected[2 * groups.len() + g];
            let value = self.pair.b.set_level(value, needed.min(self.pair.b.level(value)), 1.0)?;
            let values = self.pair.skew(value, group)?;
            let values = self.pair.halves(values, group)?;
            let mixed = self.pair.values(&powers[g], &values, group)?;
            self.pair.b.step("attention.normalize");
            // The values' split, this one's and the scatter's each double.
            let beta = reciprocal.beta / 8.0;
            let factor = |_, h: usize| if h < group.heads { beta } else { 0.0 };
            let (r_re, r_im) =
                self.pair.scatter(gathered, g, group.stride(), group.head_width, factor)?;
            let (re, im) = self.pair.b.split(mixed)?;
            let [re, im, r_re, r_im] = self.pair.b.align([re, im, r_re, r_im])?;
            out.push(self.pair.b.pair_product([re, im], [r_re, r_im])?);
        }
        Ok(out)
    }

    /// The activation's terms: for each term one ciphertext a hidden ciphertext, all at one level.
    fn activation(&mut self, hidden: &[Register], terms: &Terms) -> Result<Vec<Register>> {
        let count = terms.factors.len();
        let mut by_term = vec![Vec::with_capacity(hidden.len()); count];
        for &h in hidden {
            let (re, im) = self.pair.b.split(h)?;
            let b = &mut *self.pair.b;
            if count == 1 {
                by_term[0].push(self.pair.b.pair_product([re, im], [re, im])?);
                continue;
            }
            let turned = b.mul_i(im);
            by_term[0].push(b.add(re, turned)?);
            let squares = [b.mul(re, re)?, b.mul(im, im)?];
            let turned = b.mul_i(squares[1]);
            by_term[1].push(b.add(squares[0], turned)?);
            let level = b.level(squares[0]);
            let first = [b.set_level(re, level, 1.0)?, b.set_level(im, level, 1.0)?];
            if count > 2 {
                by_term[2].push(self.pair.b.pair_product(first, squares)?);
            }
            if count > 3 {
                by_term[3].push(self.pair.b.pair_product(squares, squares)?);
            }
        }
        let all = by_term.concat();
        let level = all.iter().map(|&r| self.pair.b.level(r)).min().unwrap_or(0);
        all.into_iter().map(|r| self.pair.b.set_level(r, level, 1.0)).collect()
    }

    /// A branch's last matrix, centred and times `alpha`, with its bias, plus the stream.
    fn join(
        &mut self,
        xs: &[Register],
        inputs: &[Features],
        weight: &dyn Fn(usize, usize) -> f64,
        bias: &[f64],
        stream: &[Register],
    ) -> Result<Vec<Register>> {
        let (outputs, alpha) = (self.stream_features(), self.alpha);
        let mut branch = self.pair.matrix(xs, inputs, &outputs, weight)?;
        for (register, features) in branch.iter_mut().zip(&outputs) {
            *register = self.add_live(*register, features, &|f| bias[f] * alpha);
        }
        self.add_all(&branch, stream)
    }

    fn feed_forward(
        &mut self,
        normalized: &[Register],
        stream: &[Register],
        weights: &LayerWeights,
        terms: &Terms,
    ) -> Result<Vec<Register>> {
        let (ffn, alpha) = (self.model.config.ffn, self.alpha);
        let hidden = self.pair.p.natural(ffn);
        self.pair.b.step("ffn.in");
        let (weight, bias) = after_norm(&weights.ffn_in, Some(&weights.norm2));
        // The split doubles.
        let halved = |row: usize, column: usize| weight(row, column) / 2.0;
        let mut h = self.pair.matrix(normalized, &self.stream_features(), &hidden, &halved)?;
        for (register, features) in h.iter_mut().zip(&hidden) {
            let value = |f: usize| 0.5 * (bias[f] + terms.shift[f]);
            *register = self.add_live(*register, features, &value);
        }
        self.pair.b.step("ffn.activation");
        let powers = self.activation(&h, terms)?;
        self.pair.b.step("ffn.out");
        let rows: Vec<Vec<f64>> =
            (0..ffn).map(|f| centered(weights.ffn_out.weight.row(f))).collect();
        let mut constant = centered(&weights.ffn_out.bias);
        for (row, rest) in rows.iter().zip(&terms.rest) {
            for (c, w) in constant.iter_mut().zip(row) {
                *c += rest * w;
            }
        }
        let inputs: Vec<Features> = (0..terms.factors.len())
            .flat_map(|term| hidden.iter().map(move |features| (term, features)))
            .map(|(term, features)| features.iter().map(|f| f.map(|f| f + term * ffn)).collect())
            .collect();
        let weight = |row: usize, column: usize| {
            terms.factors[row / ffn][row % ffn] * rows[row % ffn][column] * alpha
        };
        self.join(&powers, &inputs, &weight, &constant, stream)
    }

    /// All layers and the head: from the client's normalised values and its centred stream times `alpha` to logits in the
    /// first slots, and nothing elsewhere.
    pub(super) fn lower(
        &mut self,
        normalized: Vec<Register>,
        mut stream: Vec<Register>,
    ) -> Result<Register> {
        let model = self.model;
        let approximations = self.approximations;
        let mut first = Some(normalized);
        for (index, layer) in model.config.layers.iter().enumerate() {
            self.pair.b.layer(format!("layer.{index}"));
            let weights = &model.weights.layers[index];
            let (input, norm) = match (first.take(), &approximations[index].norm1) {
                (Some(input), _) => (input, None),
                (None, Some(root)) => {
                    self.pair.b.step("norm1");
                    (self.norm(&stream, root)?, Some(&weights.norm1))
                }
                (None, None) => {
                    return Err(Error::Planner { op: "norm1", detail: "not calibrated".into() });
                }
            };
            let groups = self.pair.p.groups(layer.heads.len(), self.width() / layer.heads.len());
            let heads = self.attention(&input, norm, index, &groups)?;
            self.pair.b.step("attention.output");
            let inputs: Vec<Features> =
                groups.iter().map(|g| g.features(self.pair.p.columns, false)).collect();
            let rows: Vec<Vec<f64>> =
                (0..self.width()).map(|r| centered(weights.output.weight.row(r))).collect();
            let alpha = self.alpha;
            let weight = |row: usize, column: usize| rows[row][column] * alpha;
            let bias = centered(&weights.output.bias);
            stream = self.join(&heads, &inputs, &weight, &bias, &stream)?;
            self.pair.b.step("norm2");
            let normalized = self.norm(&stream, &approximations[index].norm2)?;
            let terms = Terms::new(weights, layer.activation);
            stream = self.feed_forward(&normalized, &stream, weights, &terms)?;
        }
        self.pair.b.layer("");
        self.classify(&stream)
    }

    fn classify(&mut self, stream: &[Register]) -> Result<Register> {
        let (p, alpha) = (self.pair.p, self.alpha);
        let head = &self.model.weights.head;
        let classes = self.model.config.classes.len();
        self.pair.b.step("pool");
        let mut pooled = Vec::with_capacity(stream.len());
        for &x in stream {
            pooled.push(self.pair.b.window_sum(x, p.columns, p.rows)?);
        }
        self.pair.b.step("classifier");
        // Twice the sum of both halves after the split.
        let factor = 1.0 / (2.0 * alpha * p.tokens as f64);
        let weight = |row: usize, column: usize| head.weight.row(row)[column] * factor;
        let outputs = p.natural(classes);
        let logits = self.pair.matrix(&pooled, &self.stream_features(), &outputs, &weight)?;
        let z = logits
            .first()
            .copied()
            .ok_or(Error::Planner { op: "head", detail: "no class".into() })?;
        // The real part of (1 - i)(re + i im) is re + im.
        let turned = self.pair.b.mul_i(z);
        let both = self.pair.b.sub(z, turned)?;
        let (re, _) = self.pair.b.split(both)?;
        self.pair.b.step("output_mask");
        let at =
            |value: f64, slot: usize| Complex64::new(if slot < classes { value } else { 0.0 }, 0.0);
        let only = self.pair.b.plain(p.slots, || (0..p.slots).map(|s| at(1.0, s)).collect());
        let masked = self.pair.b.mul_plain(re, only)?;
        let bias = |s: usize| at(head.bias.get(s).copied().unwrap_or_default(), s);
        let bias = self.pair.b.plain(p.slots, || (0..p.slots).map(bias).collect());
        Ok(self.pair.b.add_plain(masked, bias))
    }
}
