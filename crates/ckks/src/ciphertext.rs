//! Ciphertexts.

use crate::params::Parameters;
use crate::rlwe::SecretId;
use cipherform_ring::RingPoly;

/// An encrypted vector: polynomials (c_0, c_1) with c_0 + c_1 s = scale * message + noise modulo the primes of its
/// level, or (c_0, c_1, c_2) with c_2 s^2 added between a multiplication and its relinearization.
#[derive(Clone, Debug)]
pub struct Ciphertext {
    pub(crate) params: Parameters,
    pub(crate) secret: SecretId,
    pub(crate) level: usize,
    pub(crate) scale: f64,
    /// Two or three polynomials over the limbs of `level`, in NTT order.
    pub(crate) polys: Vec<RingPoly>,
    /// c_1 comes from this seed, so that it need not be sent; gone after the first operation.
    pub(crate) seed: Option<[u8; 32]>,
}

impl Ciphertext {
    /// Rescalings left.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Factor between values and polynomial, tracked exactly up to the rounding of f64.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Number of polynomials minus one: 1, or 2 for an unrelinearized product.
    #[must_use]
    pub fn degree(&self) -> usize {
        self.polys.len() - 1
    }

    /// Whether c_1 is held as a seed, i.e. the ciphertext serialises at half size. True for fresh secret-key
    /// encryptions only.
    #[must_use]
    pub fn is_seeded(&self) -> bool {
        self.seed.is_some()
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// The name of the secret that it belongs to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.secret
    }

    /// Bytes of the words it holds on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.polys.len() * self.params.limbs_at(self.level) * self.params.n() * 8) as u64
    }

    /// Declares another scale: divides the encrypted values by `scale / self.scale()` without touching a word.
    ///
    /// The free way to multiply by a public constant that needs no precision of its own, such as 1/2 or 1/T.
    ///
    /// # Errors
    /// [`crate::Error::InvalidScale`] unless finite and positive.
    pub fn reinterpret_scale(&mut self, scale: f64) -> crate::Result<()> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(crate::Error::InvalidScale { op: "reinterpret_scale", scale });
        }
        self.scale = scale;
        Ok(())
    }
}
