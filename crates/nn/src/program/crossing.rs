//! What happens where a program leaves encryption for shares.

use num_complex::Complex64;
use serde::{Deserialize, Serialize};

/// Index of a crossing of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossingId(pub(crate) u32);

/// Which parts of slots an element is read from and written to. A part is `2 slot`, or `2 slot + 1` for the imaginary part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The part that each element is read from.
    pub read: Vec<u32>,
    /// Parts and the elements that they receive; all other parts receive zero.
    pub write: Vec<(u32, u32)>,
}

impl Parts {
    /// Every part of `slots` slots to itself.
    #[must_use]
    pub fn all(slots: usize) -> Self {
        let read: Vec<u32> = (0..2 * slots as u32).collect();
        let write = read.iter().map(|&i| (i, i)).collect();
        Self { read, write }
    }
}

/// What is computed on shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Function {
    /// Nothing: the ciphertext is refreshed.
    Identity,
    /// `1 / sqrt(u)` for u in [low, 1].
    InverseRoot {
        /// Lower end.
        low: f64,
    },
    /// `1 / u` for u in [low, 1].
    Reciprocal {
        /// Lower end.
        low: f64,
    },
}

impl Function {
    /// In f64.
    #[must_use]
    pub fn evaluate(self, u: f64) -> f64 {
        match self {
            Self::Identity => u,
            Self::InverseRoot { .. } => 1.0 / u.sqrt(),
            Self::Reciprocal { .. } => 1.0 / u,
        }
    }
}

/// One crossing: `factor_out f(factor_in x)` for every element x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// What is read and written.
    pub parts: Parts,
    /// What is computed.
    pub function: Function,
    /// Factor on what is read.
    pub factor_in: f64,
    /// Factor on what is written.
    pub factor_out: f64,
    /// log2 of a bound on every slot that enters, read or not.
    pub log2_bound: f64,
}

impl Crossing {
    /// The slots after it, exactly.
    #[must_use]
    pub fn evaluate(&self, slots: &[Complex64]) -> Vec<Complex64> {
        let part = |&at: &u32| {
            let z = slots.get(at as usize / 2).copied().unwrap_or_default();
            if at.is_multiple_of(2) { z.re } else { z.im }
        };
        let f = |x: f64| self.factor_out * self.function.evaluate(self.factor_in * x);
        let elements: Vec<f64> = self.parts.read.iter().map(part).map(f).collect();
        let mut out = vec![Complex64::default(); slots.len()];
        for &(at, element) in &self.parts.write {
            let x = elements.get(element as usize).copied().unwrap_or_default();
            if let Some(z) = out.get_mut(at as usize / 2) {
                if at.is_multiple_of(2) {
                    z.re = x;
                } else {
                    z.im = x;
                }
            }
        }
        out
    }
}
