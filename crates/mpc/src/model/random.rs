//! Random weights: for timings and tests of models whose outputs mean nothing.

use super::{Architecture, BlockWeights, Weights};
use rand_core::Rng;

/// Standard normal numbers, by Box and Muller.
fn normal(rng: &mut impl Rng, n: usize, sigma: f64, mean: f64) -> Vec<f64> {
    let mut unit = || ((rng.next_u64() >> 11) as f64 + 0.5) / 2f64.powi(53);
    (0..n)
        .map(|_| {
            let (u, v) = (unit(), unit());
            mean + sigma * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        })
        .collect()
}

impl Weights {
    /// Weights with the usual variances: matrices 1 / inputs, norms near 1.
    #[must_use]
    pub fn random(a: &Architecture, rng: &mut impl Rng) -> Self {
        let (d, f) = (a.shape.width, a.shape.hidden);
        let (s, t) = ((d as f64).sqrt().recip(), (f as f64).sqrt().recip());
        let blocks = a.blocks.iter().map(|_| BlockWeights {
            norm0: [normal(rng, d, 0.1, 1.0), normal(rng, d, 0.05, 0.0)],
            qkv: normal(rng, 3 * d * d, s, 0.0),
            qkv_bias: normal(rng, 3 * d, 0.05, 0.0),
            out: normal(rng, d * d, s, 0.0),
            out_bias: normal(rng, d, 0.05, 0.0),
            norm1: [normal(rng, d, 0.1, 1.0), normal(rng, d, 0.05, 0.0)],
            w1: normal(rng, d * f, s, 0.0),
            w1_bias: normal(rng, f, 0.05, 0.0),
            w2: normal(rng, d * f, t, 0.0),
            w2_bias: normal(rng, d, 0.05, 0.0),
            quadratic: [0.1, 0.5, 0.125],
        });
        let blocks = blocks.collect();
        Self {
            blocks,
            head: normal(rng, d * a.classes, s, 0.0),
            head_bias: normal(rng, a.classes, 0.1, 0.0),
        }
    }
}

impl Architecture {
    /// Random embedded tokens.
    #[must_use]
    pub fn random_tokens(&self, rng: &mut impl Rng) -> Vec<f64> {
        normal(rng, self.shape.tokens * self.shape.width, 1.0, 0.2)
    }
}
