//! Learned polynomial activations, one polynomial a channel.
//!
//! Coefficients never cost a level: they go into the matrix that follows, one plaintext for each power. A quadratic is
//! completed to a square, `a0 + a1 h + a2 h^2 = a2 (h + s)^2 + rest`, so that one product and one term suffice.

use super::Pass;
use crate::config::Activation;
use crate::error::Result;
use crate::program::Register;
use crate::weights::LayerWeights;

/// Largest shift for which a quadratic is completed to a square: beyond it the square of the shift drowns the signal in
/// the rounding.
const LARGEST_SHIFT: f64 = 64.0;

/// An activation as a sum of terms, each a power of the hidden values with a factor a channel.
pub(super) struct Terms {
    /// Added to the hidden values before anything else.
    pub(super) shift: Vec<f64>,
    /// For each term in the order of [`Pass::activation`], the factor of each channel.
    pub(super) factors: Vec<Vec<f64>>,
    /// What remains in each channel.
    pub(super) rest: Vec<f64>,
}

impl Terms {
    pub(super) fn new(weights: &LayerWeights, activation: Activation) -> Self {
        let row = |k: usize| weights.activation.row(k).to_vec();
        let (a0, a1, a2) = (row(0), row(1), row(2));
        let shift: Vec<f64> = a1.iter().zip(&a2).map(|(a1, a2)| a1 / (2.0 * a2)).collect();
        if activation == Activation::Quadratic && shift.iter().all(|s| s.abs() <= LARGEST_SHIFT) {
            let rest = (0..a0.len()).map(|f| a0[f] - a1[f] * a1[f] / (4.0 * a2[f])).collect();
            return Self { shift, factors: vec![a2], rest };
        }
        let factors = (1..activation.coefficients()).map(row).collect();
        Self { shift: vec![0.0; a0.len()], factors, rest: a0 }
    }

    /// Whether the square of the shifted values is the only term.
    fn is_square(&self) -> bool {
        self.factors.len() == 1
    }
}

impl Pass<'_> {
    /// One ciphertext a term: the square alone, or the powers 1 to degree, all at one level. `pooled` adds the two
    /// halves; otherwise they become real and imaginary parts again.
    pub(super) fn activation(
        &mut self,
        hidden: [Register; 2],
        terms: &Terms,
        pooled: bool,
    ) -> Result<Vec<Register>> {
        if terms.is_square() {
            return Ok(vec![self.product(hidden, hidden, pooled)?]);
        }
        let linear = self.join(hidden, pooled)?;
        let squares = [self.b.mul(hidden[0], hidden[0])?, self.b.mul(hidden[1], hidden[1])?];
        let mut powers = vec![linear, self.join(squares, pooled)?];
        if terms.factors.len() > 2 {
            let level = self.b.level(squares[0]);
            let first = [
                self.b.set_level(hidden[0], level, 1.0)?,
                self.b.set_level(hidden[1], level, 1.0)?,
            ];
            powers.push(self.product(first, squares, pooled)?);
        }
        if terms.factors.len() > 3 {
            powers.push(self.product(squares, squares, pooled)?);
        }
        let level = powers.iter().map(|&r| self.b.level(r)).min().unwrap_or(0);
        powers.into_iter().map(|r| self.b.set_level(r, level, 1.0)).collect()
    }

    fn join(&mut self, [re, im]: [Register; 2], pooled: bool) -> Result<Register> {
        let im = if pooled { im } else { self.b.mul_i(im) };
        self.b.add(re, im)
    }

    /// The products of both halves, joined before one relinearisation.
    fn product(&mut self, a: [Register; 2], b: [Register; 2], pooled: bool) -> Result<Register> {
        let first = self.b.tensor(a[0], b[0])?;
        let other = if pooled { b[1] } else { self.b.mul_i(b[1]) };
        let second = self.b.tensor(a[1], other)?;
        let sum = self.b.add(first, second)?;
        self.b.close_product(sum)
    }
}
