//! Executors of a model's graph, and what they share.

mod clear;
mod he;
mod machine;
mod mpc;
mod observe;
mod slots;

pub use clear::ClearExecutor;
pub(crate) use he::Replaced;
pub use he::{Encoded, Encrypted};
pub use machine::{Machine, Monitor, Progress, execute};
pub use mpc::{MpcOutput, MpcPlan};
pub use observe::{Observer, RangeObserver};
pub use slots::Slots;

use crate::approx::{LayerApproximations, layer_approximations};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::op::NormIndex;

/// How reciprocals and inverse square roots are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Functions {
    /// f64 division and square root.
    Exact,
    /// The polynomials of the encrypted run, fitted to the config's widened ranges.
    Polynomial,
}

/// The scalar functions of a whole model, ready to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarFunctions {
    /// f64 division and square root.
    Exact,
    /// One set of polynomials per layer.
    Polynomial(Vec<LayerApproximations>),
}

impl ScalarFunctions {
    /// Fits whatever `functions` asks for.
    ///
    /// # Errors
    /// `Approximation` when a calibrated range is too wide for the tolerance.
    pub fn new(config: &ModelConfig, functions: Functions) -> Result<Self> {
        match functions {
            Functions::Exact => Ok(Self::Exact),
            Functions::Polynomial => (0..config.layers.len())
                .map(|layer| layer_approximations(config, layer))
                .collect::<Result<_>>()
                .map(Self::Polynomial),
        }
    }

    /// `1/denominator` of a power head. Where no polynomial exists the exact value stands.
    #[must_use]
    pub fn reciprocal(&self, layer: usize, head: usize, denominator: f64) -> f64 {
        let polynomial = match self {
            Self::Exact => None,
            Self::Polynomial(layers) => layers
                .get(layer)
                .and_then(|l| l.denominator.as_ref())
                .and_then(|d| d.evaluate(head, denominator)),
        };
        polynomial.unwrap_or_else(|| 1.0 / denominator)
    }

    /// `x^-1/2` for a norm; one that the client computes is exact.
    #[must_use]
    pub fn inverse_sqrt(&self, layer: usize, index: NormIndex, x: f64) -> f64 {
        let polynomial = match self {
            Self::Exact => None,
            Self::Polynomial(layers) => layers.get(layer).and_then(|l| match index {
                NormIndex::First => l.norm1.as_ref(),
                NormIndex::Second => Some(&l.norm2),
            }),
        };
        polynomial.map_or_else(|| 1.0 / x.sqrt(), |p| p.evaluate(x))
    }
}
