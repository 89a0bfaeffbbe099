//! The residual stream, the norms, the feed-forward block, pooling and the classifier.

use super::activation::Terms;
use super::functions::{centered, normalized_factor, root_shift, stream_bound};
use super::{
    Attended, Head, LayerSchedule, Normalized, Pass, RESIDUAL, RefreshPoint, Stream, Summed, real,
    stream_factor,
};
use crate::approx::InverseSqrt;
use crate::error::Result;
use crate::program::{Crossing, Function, Register};
use crate::weights::LayerWeights;
use num_complex::Complex64;

impl Pass<'_> {
    pub(super) fn attention_output(
        &mut self,
        attended: Attended,
        stream: Option<Stream>,
        root: &InverseSqrt,
        weights: &LayerWeights,
        last: bool,
        at: &LayerSchedule,
    ) -> Result<Summed> {
        self.b.step("attention.output");
        let p = self.p;
        let blocks = p.stream_blocks(last);
        let alpha = stream_factor(root, self.width());
        let copies = (blocks + 1).next_power_of_two();
        let replicated = self.b.replicate(attended.register, p.block, copies)?;
        let babies = self.babies(replicated);
        let heads = self.model.config.layers[0].heads.len();
        let head_width = self.width() / heads;
        let rows: Vec<Vec<f64>> =
            (0..self.width()).map(|r| centered(weights.output.weight.row(r))).collect();
        let columns = self.columns(|columns| {
            for f in 0..self.width() {
                let mut column = vec![0.0; p.block];
                for h in 0..heads {
                    for i in 0..head_width {
                        column[p.head_slot(h, i)] =
                            rows[h * head_width + i][f] * alpha / attended.factor;
                    }
                }
                for block in 0..blocks {
                    columns[block * p.block + f] = Some(column.clone());
                }
            }
        });
        let product = self.matrix(&babies, &columns, p.block)?;
        let bias = self.block_row(&centered(&weights.output.bias), blocks, alpha);
        let bias = self.live(&bias);
        let branch = self.b.add_plain(product, bias);

        self.b.step("attention.residual");
        let register = match stream {
            None => {
                let residual = self.input(RESIDUAL, self.b.level(branch), blocks, alpha);
                self.b.add(branch, residual)?
            }
            Some(stream) => self.add_residual(branch, stream, alpha)?,
        };
        let bound = alpha * stream_bound(&self.model.config);
        let register = self.maybe_refresh(register, RefreshPoint::Attended, at, bound)?;
        if at.landing(RefreshPoint::Attended).is_some() {
            self.b.step("norm2");
        }
        let (re2, im2) = self.b.split(register)?;
        Ok(Summed { stream: Stream { register, alpha }, re2, im2 })
    }

    /// A branch plus the stream, whose factor becomes the branch's on the way down.
    fn add_residual(&mut self, branch: Register, stream: Stream, alpha: f64) -> Result<Register> {
        // A factor takes a level.
        let above = self.b.level(stream.register).saturating_sub(1);
        let level = self.b.level(branch).min(above);
        let branch = self.b.set_level(branch, level, 1.0)?;
        let residual = self.b.set_level(stream.register, level, alpha / stream.alpha)?;
        self.b.add(branch, residual)
    }

    /// A row with `values * factor` in each of the first `blocks` blocks.
    fn block_row(&self, values: &[f64], blocks: usize, factor: f64) -> Vec<f64> {
        let mut row = vec![0.0; self.p.columns];
        for block in 0..blocks {
            for (slot, v) in row[block * self.p.block..].iter_mut().zip(values) {
                *slot = v * factor;
            }
        }
        row
    }

    /// Inverse roots of both halves from twice the halves of the stream. The stream repeats every block, so a window
    /// sum is already replicated; blocks beyond the copies hold smaller sums, where the polynomial stays bounded.
    fn inverse_roots(
        &mut self,
        [re2, im2]: [Register; 2],
        root: &InverseSqrt,
        point: RefreshPoint,
        at: &LayerSchedule,
    ) -> Result<(Register, Register)> {
        let first = self.b.tensor(re2, re2)?;
        let turned = self.b.mul_i(im2);
        let second = self.b.tensor(im2, turned)?;
        let squares = self.b.add(first, second)?;
        let sums = self.sum_product(squares, 1, self.p.block)?;
        let eps = self.model.config.norm_eps;
        let shift = root_shift(root, eps);
        if let (Some(landing), true) = (at.landing(point), self.b.crosses()) {
            return self.crossed_roots(sums, root, landing, point, shift);
        }
        let (re, im) = if at.landing(point).is_some() {
            // Centred first, so that what is refreshed is small; a slot that holds no sum is at the shift itself.
            let half = Complex64::new(shift, shift) / 2.0;
            let centred = self.b.add_plain(sums, vec![half]);
            let fresh = self.maybe_refresh(centred, point, at, shift.abs() / 2.0)?;
            self.b.step("norm.root");
            self.b.split(fresh)?
        } else {
            let (re, im) = self.b.split(sums)?;
            (self.b.add_number(re, shift), self.b.add_number(im, shift))
        };
        Ok((self.b.polynomial(re, &root.coefficients)?, self.b.polynomial(im, &root.coefficients)?))
    }

    /// Inverse roots of both halves on shares, from half the linear parts of the map onto [-1, 1], to all columns of a token.
    fn crossed_roots(
        &mut self,
        sums: Register,
        root: &InverseSqrt,
        landing: usize,
        point: RefreshPoint,
        shift: f64,
    ) -> Result<(Register, Register)> {
        self.b.step(point.operator());
        // The mean square with eps is `sums (high - low) + eps`; over `high` it is at most one.
        let width = root.high - root.low;
        let eps = self.model.config.norm_eps / width;
        let shifted = self.b.add_plain(sums, vec![Complex64::new(eps, eps)]);
        let columns: Vec<(usize, usize)> = (0..self.p.columns).map(|c| (c, 0)).collect();
        let crossing = Crossing {
            parts: self.token_parts(&[0], &columns),
            function: Function::InverseRoot { low: root.low / root.high },
            factor_in: width / root.high,
            // The split doubles.
            factor_out: 0.5 / root.high.sqrt(),
            // No sum is larger than the largest, `-shift` and more: its map is at most 1.
            log2_bound: (1.0 + shift.abs()).log2() + 0.5,
        };
        let fresh = self.b.cross(shifted, crossing, landing)?;
        self.b.split(fresh)
    }

    /// The first norm of a later layer, without gain and bias: those go into the projections that follow.
    pub(super) fn first_norm(
        &mut self,
        stream: Stream,
        index: usize,
        at: &LayerSchedule,
    ) -> Result<Normalized<'static>> {
        let root = self.norm1(index)?;
        self.b.step("norm1");
        let (re2, im2) = self.b.split(stream.register)?;
        let (r_re, r_im) = self.inverse_roots([re2, im2], root, RefreshPoint::FirstNormSums, at)?;
        let refreshed = at.landing(RefreshPoint::Normalized).is_some();
        let factor = if refreshed { normalized_factor(&self.model.config, index) } else { 1.0 };
        // Halves are twice the parts, and a factor takes a level.
        let level = self.b.level(r_re).min(self.b.level(re2).saturating_sub(1));
        let halves = 0.5 * factor / stream.alpha;
        let re = self.b.set_level(re2, level, halves)?;
        let im = self.b.set_level(im2, level, halves)?;
        let [r_re, r_im] =
            [self.b.set_level(r_re, level, 1.0)?, self.b.set_level(r_im, level, 1.0)?];
        let normalized = self.b.pair_product([re, im], [r_re, r_im])?;
        let register = self.maybe_refresh(normalized, RefreshPoint::Normalized, at, 1.0)?;
        Ok(Normalized { register, factor, norm: None })
    }

    /// The two halves of the hidden values, shifted as the activation's terms ask; the norm is applied after the matrix
    /// product, `h = r * (y W1) + b`, which saves a level. Zero at padding.
    pub(super) fn feed_forward_in(
        &mut self,
        summed: &Summed,
        root: &InverseSqrt,
        weights: &LayerWeights,
        terms: &Terms,
        at: &LayerSchedule,
    ) -> Result<[Register; 2]> {
        self.b.step("norm2");
        let (r_re, r_im) =
            self.inverse_roots([summed.re2, summed.im2], root, RefreshPoint::SecondNormSums, at)?;
        self.b.step("ffn.in");
        let p = self.p;
        let level = (self.b.level(r_re) + 1).min(self.b.level(summed.stream.register));
        let input = self.b.set_level(summed.stream.register, level, 1.0)?;
        let babies = self.babies(input);
        let ffn = self.model.config.ffn;
        // The split after the product doubles.
        let factor = 0.5 / summed.stream.alpha;
        let columns = self.columns(|columns| {
            for (f, column) in columns.iter_mut().enumerate().take(ffn) {
                let mut w = vec![0.0; p.block];
                for (i, slot) in w.iter_mut().enumerate().take(self.width()) {
                    *slot = weights.ffn_in.weight.row(i)[f] * weights.norm2.gain[i] * factor;
                }
                *column = Some(w);
            }
        });
        let product = self.matrix(&babies, &columns, p.block)?;
        self.b.step("ffn.late_norm");
        let (re, im) = self.b.split(product)?;
        let mut bias = vec![0.0; p.columns];
        for (f, slot) in bias.iter_mut().enumerate().take(ffn) {
            let from_norm: f64 = (0..self.width())
                .map(|i| weights.norm2.bias[i] * weights.ffn_in.weight.row(i)[f])
                .sum();
            *slot = weights.ffn_in.bias[f] + from_norm + terms.shift[f];
        }
        let [re, im, r_re, r_im] = self.b.align([re, im, r_re, r_im])?;
        let re = self.b.mul(re, r_re)?;
        let im = self.b.mul(im, r_im)?;
        let half = |second| self.b.plain(p.slots, || p.live_half(&bias, second));
        let (first, second) = (half(false), half(true));
        Ok([self.b.add_plain(re, first), self.b.add_plain(im, second)])
    }

    /// The second feed-forward product and the residual, in as many copies as the next layer reads.
    pub(super) fn feed_forward_out(
        &mut self,
        hidden: [Register; 2],
        summed: &Summed,
        index: usize,
        terms: &Terms,
        at: &LayerSchedule,
    ) -> Result<Stream> {
        let (root, weights) = (self.norm1(index + 1)?, &self.model.weights.layers[index]);
        let p = self.p;
        let alpha = stream_factor(root, self.width());
        self.b.step("ffn.activation");
        let powers = self.activation(hidden, terms, false)?;
        self.b.step("ffn.out");
        let blocks = p.stream_blocks(false);
        // A slot reads the hidden features after it, which must not reach into the next token: of more blocks than leave room
        // for that, some are made and the others are copies of them.
        let mut copied = 1;
        while blocks.div_ceil(copied) * p.block + p.hidden > p.columns && copied < blocks {
            copied *= 2;
        }
        let made = blocks.div_ceil(copied);
        let copies = (made * p.block + p.hidden).div_ceil(p.hidden).next_power_of_two();
        let mut constant = centered(&weights.ffn_out.bias);
        let mut sources = Vec::new();
        for (power, factors) in powers.into_iter().zip(&terms.factors) {
            let replicated = self.b.replicate(power, p.hidden, copies)?;
            let columns = self.columns(|columns| {
                for (f, factor) in factors.iter().enumerate() {
                    let row = centered(weights.ffn_out.weight.row(f));
                    for (d, w) in row.iter().enumerate() {
                        for block in 0..made {
                            let column =
                                columns[block * p.block + d].get_or_insert(vec![0.0; p.hidden]);
                            column[f] = factor * w * alpha;
                        }
                    }
                }
            });
            sources.push((self.babies(replicated), columns));
        }
        for (f, rest) in terms.rest.iter().enumerate() {
            let row = centered(weights.ffn_out.weight.row(f));
            for (c, w) in constant.iter_mut().zip(row) {
                *c += rest * w;
            }
        }
        let product = self.matrices(&sources, p.hidden)?;
        let product = self.b.replicate(product, made * p.block, copied)?;
        let bias = self.live(&self.block_row(&constant, blocks, alpha));
        let branch = self.b.add_plain(product, bias);
        self.b.step("ffn.residual");
        let sum = self.add_residual(branch, summed.stream, alpha)?;
        let bound = alpha * stream_bound(&self.model.config);
        let fresh = self.maybe_refresh(sum, RefreshPoint::Output, at, bound)?;
        let out = at.out.unwrap_or(self.b.level(fresh));
        Ok(Stream { register: self.b.set_level(fresh, out, 1.0)?, alpha })
    }

    /// Pooling adds both halves and all tokens; the second feed-forward product and the classifier are one plaintext a class.
    pub(super) fn pool_and_classify(
        &mut self,
        hidden: [Register; 2],
        summed: &Summed,
        weights: &LayerWeights,
        terms: &Terms,
    ) -> Result<Vec<Register>> {
        let p = self.p;
        self.b.step("ffn.activation");
        let mut powers = self.activation(hidden, terms, true)?;
        self.b.layer("");
        self.b.step("pool");
        let both = self.b.add(summed.re2, summed.im2)?;
        let level = self.b.level(powers[0]).min(self.b.level(both).saturating_sub(1));
        let both = self.b.set_level(both, level + 1, 1.0)?;
        for power in &mut powers {
            *power = self.b.set_level(*power, level, 1.0)?;
        }
        let mut mask = vec![0.0; p.columns];
        mask[p.hidden..p.hidden + p.block].fill(1.0);
        let stream = self.b.mul_plain(both, real(mask))?;
        // The stream stands beside the hidden features of the first term.
        powers[0] = self.b.add(powers[0], stream)?;
        let classes = self.classes(powers.len(), summed.stream.alpha, weights, terms);
        match self.head {
            Head::Logits => Ok(vec![self.logits(powers, &classes)?]),
            Head::Label { factor } => self.logits_for_label(&powers, &classes, factor),
        }
    }

    /// For each class its row for each power, of `columns` factors that meet the sum over all tokens, and its constant.
    fn classes(
        &self,
        powers: usize,
        alpha: f64,
        weights: &LayerWeights,
        terms: &Terms,
    ) -> Vec<(Vec<Vec<f64>>, f64)> {
        let p = self.p;
        let config = &self.model.config;
        let tokens = p.tokens as f64;
        let head = &self.model.weights.head;
        let class = |k: usize| {
            // The head reads the centred stream.
            let sum = (0..config.width).map(|d| head.weight.row(d)[k]).sum::<f64>();
            let centre = sum / config.width as f64;
            let head_of = |d: usize| head.weight.row(d)[k] - centre;
            let mut rows = vec![vec![0.0; p.columns]; powers];
            let mut constant = head.bias[k];
            for f in 0..config.ffn {
                let w2 = weights.ffn_out.weight.row(f);
                let through: f64 = (0..config.width).map(|d| w2[d] * head_of(d)).sum();
                for (row, factors) in rows.iter_mut().zip(&terms.factors) {
                    row[f] = factors[f] * through / tokens;
                }
                constant += terms.rest[f] * through;
            }
            for d in 0..config.width {
                // Twice the halves of alpha times the stream.
                rows[0][p.hidden + d] = head_of(d) / (2.0 * alpha * tokens);
                constant += weights.ffn_out.bias[d] * head_of(d);
            }
            (rows, constant)
        };
        (0..config.classes.len()).map(class).collect()
    }

    /// Class `k` in token row `k`; a last mask leaves nothing but the logits.
    fn logits(
        &mut self,
        powers: Vec<Register>,
        classes: &[(Vec<Vec<f64>>, f64)],
    ) -> Result<Register> {
        let p = self.p;
        let mut pooled = Vec::with_capacity(powers.len());
        for power in powers {
            pooled.push(self.b.window_sum(power, p.columns, p.rows)?);
        }
        self.b.step("classifier");
        let mut matrices = vec![Vec::with_capacity(p.slots); pooled.len()];
        for (rows, _) in classes {
            for (matrix, row) in matrices.iter_mut().zip(rows) {
                matrix.extend(row);
            }
        }
        let matrices = matrices.into_iter().map(|mut m| {
            m.resize(p.slots, 0.0);
            real(m).into()
        });
        let products = self.b.dot_plain(&pooled, matrices.collect())?;
        let products = self.b.rescale(products)?;
        let window = (p.hidden + p.block).next_power_of_two();
        let logits = self.b.window_sum(products, 1, window)?;
        self.b.step("output_mask");
        let mut only = vec![0.0; p.slots];
        let mut offsets = vec![0.0; p.slots];
        for (k, (_, constant)) in classes.iter().enumerate() {
            only[k * p.columns] = 1.0;
            offsets[k * p.columns] = *constant;
        }
        let masked = self.b.mul_plain(logits, real(only))?;
        Ok(self.b.add_plain(masked, real(offsets)))
    }

    /// No rotation: the mean over all slots is a coefficient of the plaintext, and the exact step reads nothing else. Less the mean
    /// over the classes, which changes no difference and bounds the logits by their largest difference.
    fn logits_for_label(
        &mut self,
        powers: &[Register],
        classes: &[(Vec<Vec<f64>>, f64)],
        factor: f64,
    ) -> Result<Vec<Register>> {
        let p = self.p;
        self.b.step("classifier");
        let count = classes.len() as f64;
        let mean_constant = classes.iter().map(|(_, constant)| constant).sum::<f64>() / count;
        let mut mean_rows = vec![vec![0.0; p.columns]; powers.len()];
        for (rows, _) in classes {
            for (mean, row) in mean_rows.iter_mut().zip(rows) {
                mean.iter_mut().zip(row).for_each(|(m, w)| *m += w / count);
            }
        }
        // The sum over all slots, of a mean.
        let sum = factor * p.slots as f64;
        let mut logits = Vec::with_capacity(classes.len());
        for (rows, constant) in classes {
            let row = |(row, mean): (&Vec<f64>, &Vec<f64>)| {
                let centred = || real(row.iter().zip(mean).map(|(w, m)| sum * (w - m)));
                self.b.plain(p.columns, centred)
            };
            let plains = rows.iter().zip(&mean_rows).map(row).collect();
            let product = self.b.dot_plain(powers, plains)?;
            let product = self.b.rescale(product)?;
            logits.push(self.b.add_number(product, factor * (constant - mean_constant)));
        }
        Ok(logits)
    }
}
