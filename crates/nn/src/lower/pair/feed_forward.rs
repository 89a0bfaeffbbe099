//! The feed-forward block.

use super::layer::{Normalized, PairPass, after_norm};
use crate::error::Result;
use crate::lower::activation::Terms;
use crate::lower::functions::centered;
use crate::packing::Features;
use crate::program::Register;
use crate::weights::LayerWeights;

/// Ciphertexts and which row of the matrix that follows each of their slots meets.
pub(super) struct Placed {
    pub(super) registers: Vec<Register>,
    pub(super) features: Vec<Features>,
}

impl PairPass<'_> {
    /// The second matrix, centred, and its bias with what the activation leaves over.
    pub(super) fn ffn_rows(weights: &LayerWeights, terms: &Terms) -> (Vec<Vec<f64>>, Vec<f64>) {
        let rows: Vec<Vec<f64>> = (0..weights.ffn_out.weight.rows())
            .map(|f| centered(weights.ffn_out.weight.row(f)))
            .collect();
        let mut constant = centered(&weights.ffn_out.bias);
        for (row, rest) in rows.iter().zip(&terms.rest) {
            for (c, w) in constant.iter_mut().zip(row) {
                *c += rest * w;
            }
        }
        (rows, constant)
    }

    /// The activation's terms of all hidden features, one after the other.
    pub(super) fn hidden(
        &mut self,
        input: &Normalized<'_>,
        index: usize,
        terms: &Terms,
    ) -> Result<Placed> {
        let (ffn, model) = (self.model.config.ffn, self.model);
        let hidden = self.pair.p.natural(ffn);
        self.pair.b.step("ffn.in");
        let linear = &model.weights.layers[index].ffn_in;
        let (weight, bias) = after_norm(linear, input.norm, input.factor);
        // The split doubles.
        let halved = |row: usize, column: usize| weight(row, column) / 2.0;
        let features = self.stream_features();
        let mut h = self.pair.matrix(&input.registers, &features, &hidden, &halved)?;
        for (register, features) in h.iter_mut().zip(&hidden) {
            let value = |f: usize| 0.5 * (bias[f] + terms.shift[f]);
            *register = self.add_live(*register, features, &value);
        }
        self.pair.b.step("ffn.activation");
        let registers = self.activation(&h, terms)?;
        self.pair.b.step("ffn.out");
        let features = (0..terms.factors.len())
            .flat_map(|term| hidden.iter().map(move |features| (term, features)))
            .map(|(term, features)| features.iter().map(|f| f.map(|f| f + term * ffn)).collect())
            .collect();
        Ok(Placed { registers, features })
    }

    /// The activation's terms: for each term one ciphertext a hidden ciphertext, all at one level.
    fn activation(&mut self, hidden: &[Register], terms: &Terms) -> Result<Vec<Register>> {
        let count = terms.factors.len();
        let mut by_term = vec![Vec::with_capacity(hidden.len()); count];
        for [re, im] in self.pair.split_all(hidden)? {
            let b = &mut self.pair.b;
            if count == 1 {
                by_term[0].push(b.pair_product([re, im], [re, im])?);
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
                by_term[2].push(b.pair_product(first, squares)?);
            }
            if count > 3 {
                by_term[3].push(b.pair_product(squares, squares)?);
            }
        }
        self.pair.align_all(&by_term.concat())
    }
}
