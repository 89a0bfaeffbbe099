//! Parameters bound to a device.

use crate::error::{Error, Result};
use crate::params::{ENCAPSULATION_SPECIAL, HAND_OVER_SPECIAL, Parameters};
use crate::rlwe::{KeyKind, KeyMemory};
use cipherform_ring::{Device, Limbs, Ring, RnsBasis};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A parameter set bound to a device: its ring and tables. Cheap to clone.
///
/// Objects made by two contexts over the same set and device work together; over different sets every operation fails
/// with [`Error::ParameterMismatch`].
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    params: Parameters,
    ring: Arc<Ring>,
    /// q_0 and two special primes, in sets that bootstrap: where the switch to the ephemeral secret happens.
    encapsulation: Option<Arc<Ring>>,
    /// q_0 and one special prime: where the switch to the hand-over secret happens. Made when it is first used.
    hand_over: OnceLock<Arc<Ring>>,
    keys: Arc<KeyMemory>,
}

impl Context {
    /// Builds the tables of a set on a device.
    ///
    /// # Errors
    /// [`Error::Ring`] if the device is not available.
    pub fn new(params: Parameters, device: &Device) -> Result<Self> {
        let basis = RnsBasis::new(params.n(), params.q(), params.special(), params.digit_sizes())?;
        let ring = Ring::new(basis, device)?;
        let encapsulation = if params.bootstrapping().is_some() {
            Some(small_ring(&params, ENCAPSULATION_SPECIAL, *device)?)
        } else {
            None
        };
        let (hand_over, keys) = (OnceLock::new(), Arc::default());
        Ok(Self(Arc::new(Inner { params, ring, encapsulation, hand_over, keys })))
    }

    /// Limits what the switching keys that were and will be expanded in this context, and in its clones, take of the
    /// device's memory; `None` for no limit, as at first. What is over is put aside on the host, the keys used longest
    /// ago first, and comes back when it is used, with the limbs of the level of use. Results are the same; an operation
    /// that needs more keys at once than that fails with [`Error::KeyMemory`].
    ///
    /// # Errors
    /// Those of the device, when keys are put aside now.
    pub fn limit_keys(&self, bytes: Option<u64>) -> Result<()> {
        self.0.keys.limit(bytes)
    }

    /// Bytes that switching keys of this context take of the device's memory now.
    #[must_use]
    pub fn resident_key_bytes(&self) -> u64 {
        self.0.keys.used()
    }

    pub(crate) fn key_memory(&self) -> &Arc<KeyMemory> {
        &self.0.keys
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.0.params
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.0.ring
    }

    /// The ring in which keys of a kind live: a small one for the keys to the ephemeral and to the hand-over secret.
    pub(crate) fn key_ring(&self, kind: KeyKind) -> Result<&Arc<Ring>> {
        match kind {
            KeyKind::DenseToSparse => {
                self.0.encapsulation.as_ref().ok_or_else(|| Error::InvalidArgument {
                    op: "evaluation key",
                    detail: format!("{} cannot bootstrap", self.params().label()),
                })
            }
            KeyKind::HandOver => {
                if let Some(ring) = self.0.hand_over.get() {
                    return Ok(ring);
                }
                // Of two threads that make it at once, one ring stays; both are the same.
                let ring = small_ring(self.params(), HAND_OVER_SPECIAL, *self.0.ring.device())?;
                Ok(self.0.hand_over.get_or_init(|| ring))
            }
            _ => Ok(&self.0.ring),
        }
    }

    /// The limbs of a ciphertext at a level.
    pub(crate) fn limbs(&self, level: usize) -> Limbs {
        Limbs::q(self.params().limbs_at(level))
    }

    /// The limbs of a key at a level: those of a ciphertext and all special ones.
    pub(crate) fn key_limbs(&self, level: usize) -> Limbs {
        self.params().key_limbs_at(level)
    }

    /// Fails unless the scale is finite and positive and fits the modulus of the level.
    pub(crate) fn check_scale(&self, op: &'static str, level: usize, scale: f64) -> Result<()> {
        check_scale(self.params(), op, level, scale)
    }
}

/// The ring of q_0 and some special primes.
fn small_ring(params: &Parameters, special: usize, device: Device) -> Result<Arc<Ring>> {
    let base = params.q().get(..1).unwrap_or_default();
    let special = params.special().get(..special).unwrap_or_default();
    Ok(Ring::new(RnsBasis::new(params.n(), base, special, &[1])?, &device)?)
}

/// Fails unless the scale is finite and positive and fits the modulus of the level.
pub(crate) fn check_scale(
    params: &Parameters,
    op: &'static str,
    level: usize,
    scale: f64,
) -> Result<()> {
    if !(scale.is_finite() && scale > 0.0) {
        return Err(Error::InvalidScale { op, scale });
    }
    let log2_modulus = params.log2_q_at(level);
    if scale.log2() >= log2_modulus {
        return Err(Error::ValueTooLarge { op, log2_value: scale.log2(), log2_modulus });
    }
    Ok(())
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?} on {})", self.0.params, self.0.ring.device())
    }
}
