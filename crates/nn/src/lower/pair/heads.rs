//! Attention of a layer, from values after a norm to concatenated heads.

use super::feed_forward::Placed;
use super::layer::{Normalized, PairPass, after_norm};
use super::scalars::Gathered;
use crate::approx::{LayerApproximations, denominator_scale};
use crate::config::{HeadKind, LayerConfig};
use crate::error::Result;
use crate::lower::functions::{power_boost, power_factors, reciprocal, refresh_at};
use crate::lower::{LayerSchedule, RefreshPoint};
use crate::packing::{Features, HeadGroup};
use crate::program::{Plain, Register};
use crate::weights::{LayerWeights, Model};
use cipherform_ckks::BootstrapKind;
use num_complex::Complex64;

/// The factors of a layer's heads. Scores come out of the power's split as `gamma s`, with `gamma^p = scale / counted`, so
/// that sums over the keys are `scale` times the denominators, but for what depends on an input's length.
struct Gains {
    gamma: Vec<f64>,
    scale: Vec<f64>,
    /// By what powers are larger, for precision.
    boost: i64,
    /// Brings sums over keys to means: the most tokens over those that there are. Causal means are in the mask.
    length: f64,
}

impl PairPass<'_> {
    fn gains(&self, layer: &LayerConfig, weights: &LayerWeights) -> Gains {
        let config = &self.model.config;
        let scale = denominator_scale(&layer.ranges, config.approximation);
        let (counted, length) = if config.structure.causal {
            (1.0, 1.0)
        } else {
            let most = config.tokens as f64;
            (most, most / self.pair.p.tokens as f64)
        };
        let power = f64::from(layer.power);
        let gamma = scale.iter().map(|s| (s / counted).powf(1.0 / power)).collect();
        let boost = power_boost(layer, &weights.shift, &scale, counted / 2.0);
        Gains { gamma, scale, boost, length }
    }

    /// Queries, keys and values of every group, in this order.
    fn projections(
        &mut self,
        input: &Normalized<'_>,
        index: usize,
        groups: &[HeadGroup],
        gains: &Gains,
    ) -> Result<Vec<Register>> {
        let model: &Model = self.model;
        let (layer, weights) = (&model.config.layers[index], &model.weights.layers[index]);
        let (d, columns) = (self.width(), self.pair.p.columns);
        let head_width = d / layer.heads.len();
        // Two splits double the scores. Shared evenly by queries and keys, so that neither sinks towards the rounding.
        let factor = |head: usize| {
            let shifted = layer.shifted && layer.heads[head].raises();
            let divisor = if shifted { f64::from(layer.power) } else { 1.0 };
            (gains.gamma[head] / (4.0 * divisor * (head_width as f64).sqrt())).sqrt()
        };
        let linears = [&weights.query, &weights.key, &weights.value];
        let folded = linears.map(|linear| after_norm(linear, input.norm, input.factor));
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
        let features = self.stream_features();
        let products = self.pair.matrix(&input.registers, &features, &outputs, &weight)?;
        let mut projected = Vec::with_capacity(products.len());
        for (product, features) in products.into_iter().zip(&outputs) {
            let bias =
                |column: usize| folded[column / d].1[column % d] * gain(column / d, column % d);
            projected.push(self.add_live(product, features, &bias));
        }
        Ok(projected)
    }

    /// `value(query, key, head of the group)` at every score of a query and a key that carry data: the real parts for queries
    /// of the first half, the imaginary parts for the second; `part` is which of the group's ciphertexts.
    fn seen_pairs(
        &self,
        group: &HeadGroup,
        part: usize,
        value: impl Fn(usize, usize, usize) -> f64,
    ) -> Plain {
        let p = self.pair.p;
        let at = |slot: usize| {
            let (t, f) = (slot / p.columns, slot % p.columns);
            let (j, h) = (f / group.stride(), f % group.stride());
            if j >= p.rows {
                return Complex64::default();
            }
            let half = if group.halves == 2 { h / group.heads } else { part };
            let key = (t + j) % p.rows + half * p.rows;
            let of = |query: usize| {
                let seen = query < p.tokens && key < p.tokens;
                if seen { value(query, key, h % group.heads) } else { 0.0 }
            };
            Complex64::new(of(t), of(t + p.rows))
        };
        self.pair.b.plain(p.slots, || (0..p.slots).map(at).collect())
    }

    /// `boost ((2 re)^p + i (2 im)^p)`: log2 p levels, rounded up; a level more with a mask on the scores of both halves.
    fn power(
        &mut self,
        scores: Register,
        power: u32,
        boost: i64,
        masks: Option<[Plain; 2]>,
    ) -> Result<Register> {
        let b = &mut self.pair.b;
        let (mut re, mut im) = b.split(scores)?;
        if let Some([of_re, of_im]) = masks {
            re = b.mul_plain(re, of_re)?;
            im = b.mul_plain(im, of_im)?;
        }
        let [re, im] = [power_factors(b, re, power)?, power_factors(b, im, power)?];
        let first = b.tensor(re[0], re[1])?;
        let turned = b.mul_i(im[1]);
        let second = b.tensor(im[0], turned)?;
        let sum = b.add(first, second)?;
        let linear = b.relinearize(sum);
        let boosted = b.mul_integer(linear, boost);
        b.rescale(boosted)
    }

    /// What a causal layer multiplies the scores of both halves with: zero at later keys, and the root of the mean's divisor.
    fn causal_masks(&self, group: &HeadGroup, part: usize, power: u32) -> Option<[Plain; 2]> {
        if !self.model.config.structure.causal {
            return None;
        }
        let rows = self.pair.p.rows;
        let root = |query: usize| ((query + 1) as f64).powf(-1.0 / f64::from(power));
        // Masks of real ciphertexts.
        let half = |second: bool| {
            let plain = self.seen_pairs(group, part, |query, key, _| {
                let mine = (query >= rows) == second;
                if mine && key <= query { root(query) } else { 0.0 }
            });
            plain.map(|z| Complex64::new(z.re + z.im, 0.0))
        };
        Some([half(false), half(true)])
    }

    /// Scores of a group, shifted, and their powers if any head raises.
    fn scores(
        &mut self,
        [query, key]: [Register; 2],
        index: usize,
        group: &HeadGroup,
        gains: &Gains,
    ) -> Result<(Vec<Register>, Vec<Register>)> {
        let model: &Model = self.model;
        let (layer, weights) = (&model.config.layers[index], &model.weights.layers[index]);
        let kinds = &layer.heads[group.first..group.first + group.heads];
        self.pair.b.step("attention.scores");
        let keys = self.pair.skew(key, group)?;
        let keys = self.pair.halves(keys, group)?;
        let mut scores = self.pair.scores(query, &keys, group)?;
        if layer.shifted {
            for (part, score) in scores.iter_mut().enumerate() {
                // The power's split doubles.
                let offset = |_, _, h: usize| {
                    let head = group.first + h;
                    if kinds[h].raises() {
                        gains.gamma[head] * weights.shift[head] / 2.0
                    } else {
                        0.0
                    }
                };
                let constant = self.seen_pairs(group, part, offset);
                *score = self.pair.b.add_plain(*score, constant);
            }
        }
        let mut powers = Vec::with_capacity(scores.len());
        if kinds.iter().any(|kind| kind.raises()) {
            self.pair.b.step("attention.power");
            for (part, &score) in scores.iter().enumerate() {
                let masks = self.causal_masks(group, part, layer.power);
                powers.push(self.power(score, layer.power, gains.boost, masks)?);
            }
        }
        Ok((scores, powers))
    }

    /// The reciprocals of the denominators of all heads and both halves.
    fn denominators(
        &mut self,
        powers: &[Vec<Register>],
        index: usize,
        groups: &[HeadGroup],
        gains: &Gains,
        at: &LayerSchedule,
    ) -> Result<Option<Gathered>> {
        let layer = &self.model.config.layers[index];
        let approximations: &LayerApproximations = &self.approximations[index];
        let Some(denominator) = &approximations.denominator else { return Ok(None) };
        self.pair.b.step("attention.row_sums");
        let mut sums = Vec::with_capacity(groups.len());
        let mut of = Vec::with_capacity(groups.len());
        for (group, powers) in groups.iter().zip(powers) {
            let kinds = &layer.heads[group.first..group.first + group.heads];
            if kinds.contains(&HeadKind::Power) {
                sums.push(self.pair.key_sums(powers, group)?);
                of.push(group);
            }
        }
        let most = of.iter().map(|g| g.heads).max().unwrap_or(1);
        let eps = |k: usize, h: usize| {
            let group = of.get(k).filter(|group| h < group.heads)?;
            let head = group.first + h;
            (layer.heads[head] == HeadKind::Power).then_some(layer.eps * gains.scale[head])
        };
        let factor = gains.length / gains.boost as f64;
        let gathered = self.pair.gather(&sums, most, factor, &eps, 0.5)?;
        let mut register = [gathered.register];
        let point = RefreshPoint::RowSums;
        refresh_at(&mut self.pair.b, &mut register, BootstrapKind::Real, point, at, 1.0)?;
        self.pair.b.step("attention.reciprocal");
        let r = &denominator.reciprocal;
        let z = self.pair.b.add_number(register[0], -r.first_shift);
        let register = reciprocal(&mut self.pair.b, z, r, |_, factor| Ok(factor))?;
        Ok(Some(Gathered { register, ..gathered }))
    }

    /// Concatenated heads, normalised, one ciphertext a group, from the values after the first norm.
    pub(super) fn attention(
        &mut self,
        input: &Normalized<'_>,
        index: usize,
        at: &LayerSchedule,
    ) -> Result<Placed> {
        let model: &Model = self.model;
        let (layer, weights) = (&model.config.layers[index], &model.weights.layers[index]);
        let groups = self.pair.p.groups(layer.heads.len(), self.width() / layer.heads.len());
        let gains = self.gains(layer, weights);
        self.pair.b.step("attention.qkv");
        let projected = self.projections(input, index, &groups, &gains)?;
        let (queries, rest) = projected.split_at(groups.len());
        let (keys, values) = rest.split_at(groups.len());
        let (mut scores, mut powers) = (Vec::new(), Vec::new());
        for ((group, &query), &key) in groups.iter().zip(queries).zip(keys) {
            let (of_scores, of_powers) = self.scores([query, key], index, group, &gains)?;
            scores.push(of_scores);
            powers.push(of_powers);
        }
        let inverse = self.denominators(&powers, index, &groups, &gains, at)?;
        let mut place = 0;
        let mut registers = Vec::with_capacity(groups.len());
        for (g, group) in groups.iter().enumerate() {
            let kinds = &layer.heads[group.first..group.first + group.heads];
            let divides = kinds.contains(&HeadKind::Power);
            self.pair.b.step("attention.values");
            // Power heads: all factors are the normaliser's. Others: means over the keys there are; the split of the values
            // doubles, unless a normaliser follows.
            let undoubled = if divides { 1.0 } else { 0.5 };
            let gain = |h: usize, raises: bool| match kinds[h] {
                kind if kind.raises() != raises => 0.0,
                HeadKind::Power => 1.0,
                HeadKind::Undivided => {
                    undoubled * gains.length / (gains.boost as f64 * gains.scale[group.first + h])
                }
                // Scores are half of gamma s.
                // The other kinds have no polynomials and were refused before.
                HeadKind::Scaled | HeadKind::Relu | HeadKind::Softmax => {
                    2.0 * undoubled / (gains.gamma[group.first + h] * self.pair.p.tokens as f64)
                }
            };
            let of = |raises: bool| (0..group.heads).map(|h| gain(h, raises)).collect::<Vec<_>>();
            let mut sources = Vec::new();
            if !powers[g].is_empty() {
                sources.push((powers[g].clone(), of(true)));
            }
            if kinds.contains(&HeadKind::Scaled) {
                sources.push((scores[g].clone(), of(false)));
            }
            let lowest = sources.iter().flat_map(|s| &s.0).map(|&r| self.pair.b.level(r)).min();
            // Skew and mask; no higher than the weights ask.
            let needed = (lowest.unwrap_or(0) + 2).min(self.pair.b.level(values[g]));
            let value = self.pair.b.set_level(values[g], needed, 1.0)?;
            let value = self.pair.skew(value, group)?;
            let value = self.pair.halves(value, group)?;
            let mixed = self.pair.values(&sources, &value, group)?;
            let Some(gathered) = inverse.filter(|_| divides) else {
                registers.push(mixed);
                continue;
            };
            self.pair.b.step("attention.normalize");
            registers.push(self.normalize(mixed, gathered, place, index, group, &gains)?);
            place += 1;
        }
        let columns = self.pair.p.columns;
        let features = groups.iter().map(|g| g.features(columns, false)).collect();
        Ok(Placed { registers, features })
    }

    /// Values of a group over their denominators, the `place`-th in the gathered reciprocals.
    fn normalize(
        &mut self,
        mixed: Register,
        gathered: Gathered,
        place: usize,
        index: usize,
        group: &HeadGroup,
        gains: &Gains,
    ) -> Result<Register> {
        let kinds = &self.model.config.layers[index].heads[group.first..group.first + group.heads];
        let denominator = self.approximations[index].denominator.as_ref();
        // The values' split, this one's and the scatter's each double; powers are boosted.
        let beta = denominator.map_or(1.0, |d| d.reciprocal.beta) / (8.0 * gains.boost as f64);
        let divides = |h: usize| kinds.get(h) == Some(&HeadKind::Power);
        let factor = |_, h: usize| if divides(h) { beta * gains.length } else { 0.0 };
        let (stride, width) = (group.stride(), group.head_width);
        let (mut r_re, mut r_im) = self.pair.scatter(gathered, place, stride, width, factor)?;
        if !kinds.iter().all(|&kind| kind == HeadKind::Power) {
            // Other heads are multiplied by one.
            let one = |f: usize| {
                let (i, h) = (f / stride, f % stride);
                if i < width && h < kinds.len() && !divides(h) { 0.25 } else { 0.0 }
            };
            let (of_re, of_im) = (self.pair.row(one), self.pair.row(one));
            r_re = self.pair.b.add_plain(r_re, of_re);
            r_im = self.pair.b.add_plain(r_im, of_im);
        }
        let (re, im) = self.pair.b.split(mixed)?;
        let [re, im, r_re, r_im] = self.pair.b.align([re, im, r_re, r_im])?;
        self.pair.b.pair_product([re, im], [r_re, r_im])
    }
}
