//! Polynomials put aside: their words on the host, out of a device's memory.

use crate::backend::{Backend, dispatch};
use crate::basis::Limbs;
use crate::error::Result;
use crate::poly::{RingPoly, check_contains, store};
use crate::ring::Ring;
use std::fmt;
use std::sync::Arc;

/// The words of a polynomial on the host. It can come back to its device, or some of its limbs can.
#[derive(Clone)]
pub struct Parked {
    ring: Arc<Ring>,
    limbs: Limbs,
    words: Vec<u64>,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parked(n = {}, limbs = {})", self.ring.n(), self.limbs)
    }
}

impl RingPoly {
    /// A copy on the host. Works on the calling thread alone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn park(&self) -> Result<Parked> {
        Ok(Parked { ring: self.ring.clone(), limbs: self.limbs, words: self.to_residues()? })
    }
}

impl Parked {
    /// A copy of some of the limbs on the device. Works on the calling thread alone.
    ///
    /// # Errors
    /// `LimbMismatch` if a wanted limb is not there; those of the device.
    pub fn restore(&self, limbs: Limbs) -> Result<RingPoly> {
        const OP: &str = "restore";
        self.ring.basis().check_limbs(OP, limbs)?;
        check_contains(OP, self.limbs, limbs)?;
        let (n, special) = (self.ring.n(), self.limbs.q);
        // On this thread alone: callers hold locks, and a thread that waits for others may take up their work.
        let wanted = [0..limbs.q * n, special * n..(special + limbs.p) * n];
        let mut words = Vec::with_capacity(limbs.rows() * n);
        for rows in wanted {
            words.extend_from_slice(&self.words[rows]);
        }
        let data = dispatch!(self.ring, |b| store(b, b.upload(words)?));
        Ok(RingPoly::from_parts(self.ring.clone(), limbs, data))
    }
}
