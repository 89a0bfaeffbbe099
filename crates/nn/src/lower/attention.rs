//! Attention: projections onto interlaced heads, scores of all heads and keys in one ciphertext, powers, late
//! normalisation.

use super::functions::{power_boost, power_factors, reciprocal};
use super::{Attended, LayerSchedule, Normalized, Pass, RefreshPoint, real};
use crate::approx::{LayerApproximations, Reciprocal, denominator_scale};
use crate::config::{HeadKind, LayerConfig};
use crate::error::{Error, Result};
use crate::program::{Crossing, Function, Register};
use crate::weights::LayerWeights;
use num_complex::Complex64;

/// What each head does: raise its scores to the power, and divide by their mean.
struct Kinds {
    raises: Vec<bool>,
    divides: Vec<bool>,
}

impl Kinds {
    fn of(layer: &LayerConfig) -> Self {
        let each = |f: fn(HeadKind) -> bool| layer.heads.iter().map(|&k| f(k)).collect();
        Self { raises: each(HeadKind::raises), divides: each(|k| k == HeadKind::Power) }
    }
}

impl Pass<'_> {
    /// Real ciphertexts with twice the keys (or values): in tile `2u + half`, block `j` of token row `t` holds token
    /// `(t + j + u * key_blocks) mod rows` of that half. The shift is linear in the block, so doubling builds it.
    fn tiles(&mut self, mut x: Register) -> Result<Vec<Register>> {
        let mut m = 1;
        while m < self.p.key_blocks() {
            let moved = self.b.rotate(x, (m * (self.p.columns - self.p.block)) as i64);
            x = self.b.add(x, moved)?;
            m *= 2;
        }
        let mut tiles = Vec::with_capacity(self.p.tiles());
        for u in 0..self.p.tiles() / 2 {
            if u > 0 {
                x = self.b.rotate(x, (self.p.key_blocks() * self.p.columns) as i64);
            }
            let (re, im) = self.b.split(x)?;
            tiles.extend([re, im]);
        }
        Ok(tiles)
    }

    /// One period of a mask over the interlaced heads: `value(h)` at feature index `i` for which `at(i)` holds.
    fn head_mask(&self, value: impl Fn(usize) -> f64, at: impl Fn(usize) -> bool) -> Vec<f64> {
        let p = &self.p;
        let mut mask = vec![0.0; p.block];
        for i in (0..p.head_width).filter(|&i| at(i)) {
            for h in 0..p.heads {
                mask[p.head_slot(h, i)] = value(h);
            }
        }
        mask
    }

    /// A row that is `mask` in block 0 and zero in the others.
    fn first_block(&self, mask: &[f64]) -> Vec<Complex64> {
        let mut row = mask.to_vec();
        row.resize(self.p.columns, 0.0);
        real(row)
    }

    pub(super) fn attention(
        &mut self,
        input: Normalized<'_>,
        layer: &LayerConfig,
        approximations: &LayerApproximations,
        weights: &LayerWeights,
        at: &LayerSchedule,
    ) -> Result<Attended> {
        let heads = layer.heads.len();
        let tokens = self.p.tokens as f64;
        let most = self.model.config.tokens as f64;
        let power = f64::from(layer.power);
        let head_width = (self.width() / heads) as f64;
        let kinds = Kinds::of(layer);
        // Scores come out as gamma_h s_ij with gamma = (scale_h / (2 T))^(1/p) / 2: the split doubles them, so their
        // p-th power is scale_h s^p / (2 T), and the sum over the keys, doubled by the next split, is the reciprocal's
        // argument scale_h den_h without eps. A shift, gamma_h c_h, is added where query and key carry data and nowhere
        // else, so that padding keeps weight zero at no level. Where nothing is divided, no interval has to be met, and T is
        // the most that an input can have: what depends on its length is then the gain of the values, not the weights.
        let scale = denominator_scale(&layer.ranges, self.model.config.approximation);
        let counted = if kinds.divides.contains(&true) { tokens } else { most };
        let gamma: Vec<f64> =
            scale.iter().map(|s| (s / (2.0 * counted)).powf(1.0 / power) / 2.0).collect();

        self.b.step("attention.qkv");
        let babies = self.babies(input.register);
        let half = self.p.key_blocks() / 2;
        // Shared evenly by queries and keys, so that neither sinks towards the rounding; tiles double the keys.
        let balanced = |g: &f64| (g / head_width.sqrt()).sqrt();
        let divisor = |h: usize| if layer.shifted && kinds.raises[h] { power } else { 1.0 };
        let query_factors: Vec<f64> =
            gamma.iter().enumerate().map(|(h, g)| balanced(&(g / divisor(h)))).collect();
        let key_factors: Vec<f64> = query_factors.iter().map(|f| f / 2.0).collect();
        let query = self.projection(&babies, &weights.query, input, &query_factors, half)?;
        let moved = self.b.rotate(query, -((half * self.p.block) as i64));
        let query = self.b.add(query, moved)?;
        let key = self.projection(&babies, &weights.key, input, &key_factors, 1)?;
        // Tiles double the values, too.
        let value = self.projection(&babies, &weights.value, input, &vec![0.5; heads], 1)?;

        self.b.step("attention.key_tiles");
        let keys = self.tiles(key)?;
        self.b.step("attention.scores");
        let mut scores = self.scores(query, &keys, heads)?;
        if layer.shifted {
            let offset = |h: usize| if kinds.raises[h] { gamma[h] * weights.shift[h] } else { 0.0 };
            scores = self.b.add_plain(scores, self.seen_pairs(heads, offset));
        }

        // Weights are small where a row has one strong key; boosted, they keep their bits through the value product.
        // An instruction, so it must not depend on the length.
        let boost = power_boost(layer, &weights.shift, &scale, most);
        let (powers, value_level) = if kinds.raises.contains(&true) {
            self.b.step("attention.power");
            let powers = self.power(scores, layer.power, boost)?;
            (Some(powers), self.b.level(powers[1]) - 1)
        } else {
            (None, self.b.level(scores).saturating_sub(1))
        };

        self.b.step("attention.value_tiles");
        let value = self.b.set_level(value, value_level, 1.0)?;
        let values = self.tiles(value)?;

        let normalizers = match (powers, &approximations.denominator) {
            (Some(powers), Some(denominator)) => {
                let reciprocal = &denominator.reciprocal;
                let eps: Vec<f64> = scale.iter().map(|s| layer.eps * s).collect();
                if let (Some(landing), true) = (at.landing(RefreshPoint::RowSums), self.b.crosses())
                {
                    let sums = self.summed_rows(powers[0])?;
                    let lower = reciprocal.lower;
                    Some(self.crossed_reciprocal(
                        sums,
                        lower,
                        &eps,
                        &kinds.divides,
                        boost,
                        landing,
                    )?)
                } else {
                    let (re, im) = self.row_sums(powers[0], at)?;
                    self.b.step("attention.reciprocal");
                    Some((
                        self.reciprocal(re, reciprocal, &eps, &kinds.divides, boost)?,
                        self.reciprocal(im, reciprocal, &eps, &kinds.divides, boost)?,
                    ))
                }
            }
            _ => None,
        };

        self.b.step("attention.values");
        // Power heads: scale s^p v / (2 T) times 2, over scale den; the normaliser takes the boost back. Undivided heads:
        // boost scale s^p v / (2 T) times 2 / (boost scale), for the T above. Scaled heads: gamma s v / (gamma T).
        let gain = |h: usize| match layer.heads[h] {
            HeadKind::Power => 2.0,
            HeadKind::Undivided => 2.0 * counted / (boost as f64 * scale[h] * tokens),
            // ReLU-softmax and softmax have no approximations: the layer was refused before.
            HeadKind::Scaled | HeadKind::Relu | HeadKind::Softmax => 1.0 / (gamma[h] * tokens),
        };
        let gains: Vec<f64> = (0..heads).map(gain).collect();
        let powers = powers.map(|p| p[1]);
        let mixed = self.values(powers, scores, &values, &gains, &kinds.raises)?;
        self.b.step("attention.normalize");
        self.normalize(mixed, normalizers)
    }

    /// Complex scores of all heads and keys in one ciphertext: key block `j`, tile `a` at feature index `a`.
    fn scores(&mut self, query: Register, keys: &[Register], heads: usize) -> Result<Register> {
        let p = self.p;
        let mask = self.head_mask(|h| f64::from(u8::from(h < heads)), |i| i == 0);
        let mut parts = Vec::with_capacity(keys.len());
        for &key in keys {
            let product = self.b.tensor(query, key)?;
            let summed = self.sum_product(product, p.heads, p.head_width)?;
            parts.push(self.b.mul_plain(summed, real(mask.iter().copied()))?);
        }
        // A tree of moves, so that log2 of the tile count different amounts suffice.
        let mut m = 1;
        while parts.len() > 1 {
            let mut merged = Vec::with_capacity(parts.len() / 2);
            for pair in parts.chunks(2) {
                let moved = self.b.rotate(pair[1], -((p.heads * m) as i64));
                merged.push(self.b.add(pair[0], moved)?);
            }
            parts = merged;
            m *= 2;
        }
        Ok(parts[0])
    }

    /// `value(h)` at every score of a query and a key that carry data, in the order of [`Self::scores`].
    fn seen_pairs(&self, heads: usize, value: impl Fn(usize) -> f64) -> Vec<Complex64> {
        let p = &self.p;
        let carries = |token: usize| f64::from(u8::from(token < p.tokens));
        let mut out = vec![Complex64::default(); p.slots];
        for t in 0..p.rows {
            let queries = Complex64::new(carries(t), carries(t + p.rows));
            for block in 0..p.key_blocks() {
                for tile in 0..p.tiles() {
                    let shift = block + tile / 2 * p.key_blocks();
                    let key = (t + shift) % p.rows + tile % 2 * p.rows;
                    let start = t * p.columns + block * p.block;
                    for h in 0..heads {
                        out[start + p.head_slot(h, tile)] = queries * carries(key) * value(h);
                    }
                }
            }
        }
        out
    }

    /// `(2 re)^p + i (2 im)^p` for p = 2, 4, 6, 8, twice: not yet rescaled, for sums; and times `boost` and rescaled,
    /// where the integer, multiplied before the rescale, lifts the result above the rounding.
    fn power(&mut self, scores: Register, power: u32, boost: i64) -> Result<[Register; 2]> {
        let (re, im) = self.b.split(scores)?;
        let halves =
            [power_factors(&mut self.b, re, power)?, power_factors(&mut self.b, im, power)?];
        let first = self.b.tensor(halves[0][0], halves[0][1])?;
        let turned = self.b.mul_i(halves[1][1]);
        let second = self.b.tensor(halves[1][0], turned)?;
        let sum = self.b.add(first, second)?;
        let linear = self.b.relinearize(sum);
        let boosted = self.b.mul_integer(linear, boost);
        Ok([linear, self.b.rescale(boosted)?])
    }

    /// Sums over all keys, doubled: valid at feature index 0 of block 0; partial sums elsewhere, none larger than the
    /// sums of two tokens, which the reciprocal's factor 2 above its calibrated end allows for.
    fn row_sums(&mut self, powers: Register, at: &LayerSchedule) -> Result<(Register, Register)> {
        let all = self.summed_rows(powers)?;
        if at.landing(RefreshPoint::RowSums).is_none() {
            let (re, im) = self.b.split(all)?;
            return Ok((self.b.rescale(re)?, self.b.rescale(im)?));
        }
        let all = self.b.rescale(all)?;
        // The split doubles: sums of two tokens are at most 1 after it.
        let fresh = self.maybe_refresh(all, RefreshPoint::RowSums, at, 0.5)?;
        self.b.step("attention.split_sums");
        self.b.split(fresh)
    }

    /// Both halves' sums over all keys, not yet rescaled.
    fn summed_rows(&mut self, powers: Register) -> Result<Register> {
        self.b.step("attention.row_sums");
        let tiles = self.b.window_sum(powers, self.p.heads, self.p.tiles())?;
        self.b.window_sum(tiles, self.p.block, self.p.key_blocks())
    }

    /// Reciprocals of both halves on shares, over the boost, at the features of heads that divide; one at those of others.
    fn crossed_reciprocal(
        &mut self,
        sums: Register,
        lower: f64,
        eps: &[f64],
        divides: &[bool],
        boost: i64,
        landing: usize,
    ) -> Result<(Register, Register)> {
        let p = self.p;
        let sums = self.b.rescale(sums)?;
        self.b.step(RefreshPoint::RowSums.operator());
        // A part of the sums is half of `b - eps`, b at most 1/2 for a true denominator, so `4 (part + eps / 2)` is at most one.
        let half = self.head_mask(|h| eps.get(h).copied().unwrap_or(0.0) / 2.0, |i| i == 0);
        let half: Vec<Complex64> =
            self.first_block(&half).iter().map(|z| Complex64::new(z.re, z.re)).collect();
        let shifted = self.b.add_plain(sums, half);
        let dividing: Vec<usize> = (0..divides.len()).filter(|&h| divides[h]).collect();
        let read: Vec<usize> = dividing.iter().map(|&h| p.head_slot(h, 0)).collect();
        let to = |(element, &h): (usize, &usize)| {
            (0..p.head_width).map(move |i| (p.head_slot(h, i), element)).collect::<Vec<_>>()
        };
        let write: Vec<(usize, usize)> = dividing.iter().enumerate().flat_map(to).collect();
        let crossing = Crossing {
            parts: self.token_parts(&read, &write),
            function: Function::Reciprocal { low: 2.0 * lower },
            factor_in: 4.0,
            // Twice the result is the reciprocal of b, and the split doubles.
            factor_out: 1.0 / boost as f64,
            // Sums of two tokens are at most 1 after doubling.
            log2_bound: 0.0,
        };
        let mut fresh = self.b.cross(shifted, crossing, landing)?;
        if !divides.iter().all(|&d| d) {
            let one = |h: usize| if divides.get(h) == Some(&false) { 0.5 } else { 0.0 };
            let ones = self.head_mask(one, |_| true);
            let ones = self
                .first_block(&ones)
                .iter()
                .map(|z| Complex64::new(z.re, z.re))
                .collect::<Vec<_>>();
            fresh = self.b.add_plain(fresh, ones);
        }
        self.b.split(fresh)
    }

    /// Relaxed Goldschmidt, with the first factor's scalar, the scale of the result and the mask (power heads, feature
    /// index 0, block 0) in one plaintext product; then spread over the head's features.
    fn reciprocal(
        &mut self,
        sums: Register,
        r: &Reciprocal,
        eps: &[f64],
        divides: &[bool],
        boost: i64,
    ) -> Result<Register> {
        // Idle head slots sit at 1/2, inside the interval.
        let shift = |h: usize| eps.get(h).copied().unwrap_or(0.5) - r.first_shift;
        let start = self.head_mask(shift, |_| true);
        let z = self.b.add_plain(sums, real(start));
        // The powers that it will multiply are boosted.
        let beta = r.beta / boost as f64;
        let chosen = |h: usize| if divides.get(h) == Some(&true) { beta } else { 0.0 };
        let mask = self.head_mask(chosen, |i| i == 0);
        let mask = self.first_block(&mask);
        let result = reciprocal(&mut self.b, z, r, |b, factor| b.mul_plain(factor, mask))?;
        let spread = self.b.replicate(result, self.p.heads, self.p.head_width)?;
        if divides.iter().all(|&d| d) {
            return Ok(spread);
        }
        // Other heads are not normalised: multiplied by one.
        let one = |h: usize| if divides.get(h) == Some(&false) { 1.0 } else { 0.0 };
        let ones = self.head_mask(one, |_| true);
        let ones = self.first_block(&ones);
        Ok(self.b.add_plain(spread, ones))
    }

    /// `sum_j w_ij v_j` in block 0, not normalised. Powers and scores are blended head by head in the product that
    /// takes each tile's weights out of the merged ciphertext, at no level of its own.
    fn values(
        &mut self,
        powers: Option<Register>,
        scores: Register,
        values: &[Register],
        gains: &[f64],
        raises: &[bool],
    ) -> Result<Register> {
        let p = self.p;
        let tiles = values.len();
        let mut sources = Vec::new();
        if let Some(powers) = powers {
            sources.push((self.b.replicate(powers, p.heads * tiles, p.head_width / tiles)?, true));
        }
        if raises.contains(&false) {
            let scores = match powers {
                Some(powers) => self.b.set_level(scores, self.b.level(powers), 1.0)?,
                None => scores,
            };
            sources.push((self.b.replicate(scores, p.heads * tiles, p.head_width / tiles)?, false));
        }
        let registers: Vec<Register> = sources.iter().map(|s| s.0).collect();
        let mut sum = None;
        for (a, &value) in values.iter().enumerate() {
            let masks = sources.iter().map(|&(_, of_power)| {
                let gain = |h: usize| if raises.get(h) == Some(&of_power) { gains[h] } else { 0.0 };
                real(self.head_mask(gain, |i| i % tiles == a)).into()
            });
            let masks = masks.collect();
            let blended = self.b.dot_plain(&registers, masks)?;
            let mut weights = self.b.rescale(blended)?;
            // To feature indices that are multiples of the tile count, then to all.
            let mut m = 1;
            while m < tiles {
                if a & m != 0 {
                    weights = self.b.rotate(weights, (p.heads * m) as i64);
                }
                m *= 2;
            }
            let weights = self.b.replicate(weights, p.heads, tiles)?;
            let [weights, value] = self.b.align([weights, value])?;
            let product = self.b.tensor(weights, value)?;
            sum = Some(match sum {
                None => product,
                Some(sum) => self.b.add(sum, product)?,
            });
        }
        let sum = sum.ok_or(Error::Planner { op: "values", detail: "no tiles".into() })?;
        self.sum_product(sum, p.block, p.key_blocks())
    }

    /// Late normalisation: one product per half, which also clears every block but the first.
    fn normalize(
        &mut self,
        mixed: Register,
        normalizers: Option<(Register, Register)>,
    ) -> Result<Attended> {
        let Some((r_re, r_im)) = normalizers else {
            let ones = self.head_mask(|_| 1.0, |_| true);
            let ones = self.first_block(&ones);
            return Ok(Attended { register: self.b.mul_plain(mixed, ones)?, factor: 1.0 });
        };
        let [mixed, r_re, r_im] = self.b.align([mixed, r_re, r_im])?;
        let register = self.scale_halves(mixed, r_re, r_im)?;
        Ok(Attended { register, factor: 2.0 })
    }

    /// `2 (re * r_re + i im * r_im)`.
    fn scale_halves(&mut self, x: Register, r_re: Register, r_im: Register) -> Result<Register> {
        let (re, im) = self.b.split(x)?;
        self.b.pair_product([re, im], [r_re, r_im])
    }
}
