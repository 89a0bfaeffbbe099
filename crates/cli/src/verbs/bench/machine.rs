//! What this machine can do at best: the rates behind the floors.

use anyhow::Result;
use cipherform_ring::{Limbs, Modulus, Ring, RnsBasis, sample};
use rayon::prelude::*;
use std::time::Instant;

/// Far larger than any cache.
const STREAM_WORDS: usize = 1 << 24;

/// Measured in the thread pool that is used.
pub(crate) struct Machine {
    /// One transform of the ring's degree with its data in cache, one thread, in ms.
    transform_ms: f64,
    /// Bytes read and written per ms while copying, all threads.
    bytes_per_ms: f64,
}

/// Smallest wall time of a few runs, in ms.
fn fastest(runs: usize, mut f: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        best = best.min(f()?);
    }
    Ok(best)
}

impl Machine {
    /// What the device of `ring` can do. Takes half a second.
    pub(crate) fn measure(ring: &Ring) -> Result<Self> {
        if ring.device().runs_behind() {
            // A card's arithmetic hides behind its memory or should.
            let bytes_per_ms = ring.copy_bandwidth(4 * STREAM_WORDS, 8)? / 1e3;
            return Ok(Self { transform_ms: 0.0, bytes_per_ms });
        }
        let first = ring.basis().q().first().map_or(0, Modulus::value);
        let one = Ring::new(RnsBasis::new(ring.n(), &[first], &[], &[])?, ring.device())?;
        let a = sample::uniform(&one, Limbs::q(1), &[0; 32], 0)?;
        let transform_ms = fastest(40, || {
            let coefficients = a.clone().into_coeff()?;
            let begin = Instant::now();
            coefficients.into_ntt()?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        })?;
        let from = vec![1u64; STREAM_WORDS];
        let mut to = vec![0u64; STREAM_WORDS];
        let copy_ms = fastest(8, || {
            let begin = Instant::now();
            let chunk = STREAM_WORDS / 64;
            to.par_chunks_mut(chunk)
                .zip(from.par_chunks(chunk))
                .for_each(|(to, from)| to.copy_from_slice(from));
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        })?;
        Ok(Self { transform_ms, bytes_per_ms: 16.0 * STREAM_WORDS as f64 / copy_ms })
    }

    /// No faster than its transforms in cache on all threads, nor than its bytes at the copying rate.
    pub(crate) fn floor_ms(&self, transforms: u64, bytes: u64, threads: usize) -> f64 {
        let compute = transforms as f64 * self.transform_ms / threads as f64;
        compute.max(bytes as f64 / self.bytes_per_ms)
    }

    /// Bytes read and written per ns while copying, all threads.
    pub(crate) fn copy_gb_per_s(&self) -> f64 {
        self.bytes_per_ms / 1e6
    }

    /// The instructions that decide which vector loops run, as the processor reports them.
    pub(crate) fn cpu_flags() -> Vec<&'static str> {
        #[cfg(target_arch = "x86_64")]
        let known = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512ifma", std::is_x86_feature_detected!("avx512ifma")),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let known: [(&str, bool); 0] = [];
        known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
    }
}
