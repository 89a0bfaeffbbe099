//! Exact arithmetic on polynomials in `Z_Q[X]/(X^N + 1)`, Q a product of primes below 2^50.
//!
//! An [`RnsBasis`] names the degree N, the primes q_0 ... q_L of Q, the special primes of P and the digits into which
//! Q is cut. A [`Ring`] binds it to a [`Device`]; a [`RingPoly`] holds the residues modulo the primes of its
//! [`Limbs`]. Above this crate a device is an opaque value: nothing else knows how it works.
//!
//! **Representation.** Words are stored limb-major (`row · N + index`), canonical, in `[0, q_i)`. Polynomials rest in
//! [`Ntt`] form, in the order of [`ntt`]; [`Coeff`] is a different type, and conversions consume. Lazy words never
//! cross this interface, so every operation is an exact integer formula and all devices give identical words.
//!
//! **Devices.** [`Device::cpu`]: one task a limb on the thread pool, vector loops written once and compiled for
//! AVX-512 IFMA (eight lanes of 52-bit products), AVX2 with FMA (four lanes of exact products in double precision) and
//! plain words; the fastest that the machine has is chosen at run time, [`Device::cpus`] are all of them.
//! [`Device::cuda`], with the feature `cuda`: FP64 kernels on polynomials in the memory of an NVIDIA card, through the
//! driver found at run time; calls return before the work is done. [`Device::reference`]: one thread, 128-bit remainders, the oracle of the tests.
//!
//! Key switching in three calls (hybrid, Han–Ki, ePrint 2019/688), here with the identity as a key:
//!
//! ```
//! use cipherform_ring::{Device, Limbs, Ring, RingPoly, RnsBasis, sample};
//! // Toy parameters: not secure. N = 16, Q of two primes in two digits, one special prime.
//! let (q, p) = ([97, 193], 257);
//! let ring = Ring::new(RnsBasis::new(16, &q, &[p], &[1, 1])?, &Device::cpu())?;
//! let a = sample::uniform(&ring, Limbs::q(2), &[1; 32], 0)?;
//!
//! // Row d of the gadget is P on the limbs of digit d and 0 on all others.
//! let gadget = |digit: usize| {
//!     let rows = [0, 1, 2].map(|row| if row == digit { p % q[row] } else { 0 });
//!     let words = rows.iter().flat_map(|&word| [word; 16]).collect();
//!     RingPoly::from_residues(&ring, Limbs { q: 2, p: 1 }, words)
//! };
//! let key = [[gadget(0)?, gadget(0)?], [gadget(1)?, gadget(1)?]];
//! let [b, _] = a.decompose()?.inner_product(&key)?;
//! assert_eq!(b.mod_down()?.to_residues()?, a.to_residues()?);
//! # Ok::<(), cipherform_ring::Error>(())
//! ```
//!
//! Work is counted into `cipherform-profile`: `limb_ntts` once a call on the calling thread, and primitive spans
//! `ntt`, `intt`, `base_conversion` (a whole digit decomposition, its transforms included), `inner_product`,
//! `key_switch`, `hoisted_sums`, `mod_down`, `rescale`, `mod_raise` and `automorphism`.
//!
//! **Security.** Arithmetic, reductions and the Gaussian sampler do not branch on values. What stays in memory after a
//! drop may be handed to the next polynomial of the same ring: wipe secrets with `zeroize` first.
//!
//! **Non-goals.** No scheme, no scales, no levels, no parameter choice; no moduli of 2^50 or more; no other rings.

mod automorphism;
mod backend;
mod basis;
mod convert;
mod device;
mod digits;
mod error;
mod form;
mod key_switch;
mod modulus;
pub mod ntt;
mod parked;
mod poly;
pub mod primes;
mod ring;
pub mod sample;
mod subring;

pub use automorphism::GaloisElement;
pub use basis::{Limbs, RnsBasis};
pub use device::{CPU_VARIABLE, CUDA_VARIABLE, Device};
pub use digits::{Baby, Digits};
pub use error::{Error, Result};
pub use form::{Coeff, Form, Ntt};
pub use modulus::{MODULUS_LIMIT, Modulus};
pub use parked::Parked;
pub use poly::RingPoly;
pub use ring::Ring;
pub use subring::SubringPoly;
