//! Encoded values.

use crate::error::{Error, Result};
use crate::params::Parameters;
use cipherform_ring::{RingPoly, SubringPoly};
use zeroize::Zeroize;

/// How a plaintext holds its polynomial.
#[derive(Clone, Debug)]
pub(crate) enum PlainPoly {
    /// All n words a limb.
    Dense(RingPoly),
    /// A polynomial in X^(n/2m): 2m words a limb for a vector of period m.
    Periodic(SubringPoly),
}

/// One encoded vector: a polynomial, its level and its scale. Prints no values; one that was decrypted is wiped when dropped.
#[derive(Clone, Debug)]
pub struct Plaintext {
    pub(crate) params: Parameters,
    pub(crate) level: usize,
    pub(crate) scale: f64,
    pub(crate) period: usize,
    pub(crate) poly: PlainPoly,
    /// Whether it is a decryption. Encoded weights, which are many and large, are not worth the pass over memory.
    pub(crate) decrypted: bool,
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        if let (true, PlainPoly::Dense(poly)) = (self.decrypted, &mut self.poly) {
            poly.zeroize();
        }
    }
}

impl Plaintext {
    /// Level: the ciphertexts it combines with are at the same one.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Factor between values and polynomial.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The slots repeat with this period; the number of slots for a full vector.
    #[must_use]
    pub fn period(&self) -> usize {
        self.period
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// Bytes of the words it holds on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let words = match &self.poly {
            PlainPoly::Dense(poly) => poly.limbs().rows() * self.params.n(),
            PlainPoly::Periodic(poly) => poly.limbs().rows() * poly.m(),
        };
        8 * words as u64
    }

    /// Makes the plaintext usable at a lower level. Free: higher limbs are kept but no longer looked at.
    ///
    /// # Errors
    /// [`Error::LevelTooHigh`] above its level.
    pub fn drop_level(&mut self, level: usize) -> Result<()> {
        if level > self.level {
            return Err(Error::LevelTooHigh { op: "drop_level", level, max: self.level });
        }
        self.level = level;
        Ok(())
    }
}
