//! A basis bound to a device.

#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::backend::{AnyBackend, Backend, cpu::Cpu, dispatch, reference::Reference};
use crate::basis::RnsBasis;
use crate::device::{Device, Kind};
use crate::error::Result;
use cipherform_profile::Timeline;
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
            #[cfg(feature = "cuda")]
            Kind::Cuda(ordinal) => AnyBackend::Cuda(Box::new(Cuda::new(ordinal, &basis)?)),
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

    /// Waits until the device has done everything that was asked of it. Only timings need this: results are complete
    /// whenever they are read.
    ///
    /// # Errors
    /// `DeviceFailure` if anything failed since the last result was read.
    pub fn synchronize(&self) -> Result<()> {
        dispatch!(self, |b| b.synchronize())
    }

    /// Seconds that the work asked for by `f` takes: by the device's own clock, waiting included, where it has one.
    ///
    /// # Errors
    /// Those of `f` and of the device.
    pub fn time(&self, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        dispatch!(self, |b| b.time(f))
    }

    /// Bytes a second, read and written ones added, of a copy between two pieces of `words` words of the device's memory:
    /// the measure of every operation that moves more than it computes. The best of `runs`.
    ///
    /// # Errors
    /// `DeviceMemory` without room for twice as many words.
    pub fn copy_bandwidth(&self, words: usize, runs: usize) -> Result<f64> {
        dispatch!(self, |b| {
            let (from, mut to) = (b.zeros(words)?, b.zeros(words)?);
            b.copy(&mut to, &from)?;
            let mut best = f64::INFINITY;
            for _ in 0..runs.max(1) {
                best = best.min(b.time(|| b.copy(&mut to, &from))?);
            }
            Ok((2 * words * size_of::<u64>()) as f64 / best)
        })
    }

    /// Bytes of the device's memory that polynomials and tables of this process hold now, and the most they ever held; of
    /// devices that do not count, 0.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        dispatch!(self, |b| b.memory())
    }

    /// Kernels that were asked of the device so far, by anybody in this process; 0 for devices without launches.
    #[must_use]
    pub fn launches(&self) -> u64 {
        dispatch!(self, |b| b.launches())
    }

    /// The device's own clock for [`cipherform_profile::follow`], if it is not done when calls return.
    #[must_use]
    pub fn timeline(&self) -> Option<Box<dyn Timeline>> {
        dispatch!(self, |b| b.timeline())
    }

    /// The root of unity ψ behind the NTT order of each prime, indexed as [`RnsBasis::moduli`], see [`crate::ntt`].
    #[must_use]
    pub fn psi(&self) -> Vec<u64> {
        (0..self.basis.moduli().len()).map(|i| dispatch!(self, |b| b.psi(i))).collect()
    }
}
