//! A basis bound to a device.

use crate::backend::{AnyBackend, Backend, cpu::Cpu, dispatch, reference::Reference};
use crate::basis::RnsBasis;
use crate::device::{Device, Kind};
use crate::error::Result;
use std::sync::Arc;

/// The ring `Z_Q[X]/(X^n + 1)` over an [`RnsBasis`], with its tables on a [`Device`]. Shared by `Arc`.
#[derive(Debug)]
pub struct Ring {
    basis: RnsBasis,
    device: Device,
    pub(crate) backend: AnyBackend,
}

impl Ring {
    /// Builds the tables: per prime about 32n bytes and some milliseconds at n = 2^16.
    ///
    /// # Errors
    /// `InvalidModulus` if a prime has no transform of this degree; `DeviceUnavailable`.
    pub fn new(basis: RnsBasis, device: &Device) -> Result<Arc<Self>> {
        let backend = match device.kind {
            Kind::Cpu(set) => AnyBackend::Cpu(Box::new(Cpu::new(&basis, set)?)),
            Kind::Reference => AnyBackend::Reference(Reference::new(&basis)?),
        };
        Ok(Arc::new(Self { basis, device: *device, backend }))
    }

    /// Degree of the ring.
    #[must_use]
    pub fn n(&self) -> usize {
        self.basis.n()
    }

    /// Primes and digits.
    #[must_use]
    pub fn basis(&self) -> &RnsBasis {
        &self.basis
    }

    /// Where the polynomials of this ring live.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The root of unity ψ behind the NTT order of each prime, indexed as [`RnsBasis::moduli`], see [`crate::ntt`].
    #[must_use]
    pub fn psi(&self) -> Vec<u64> {
        (0..self.basis.moduli().len()).map(|i| dispatch!(self, |b| b.psi(i))).collect()
    }
}
