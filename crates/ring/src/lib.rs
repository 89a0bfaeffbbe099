//! Exact RNS polynomial arithmetic in Z_Q[X]/(X^N+1).

mod automorphism;
mod backend;
mod basis;
mod device;
mod digits;
mod error;
mod form;
mod modulus;
pub mod ntt;
mod poly;
pub mod primes;
mod ring;
pub mod sample;
mod subring;

pub use automorphism::GaloisElement;
pub use basis::{Limbs, RnsBasis};
pub use device::Device;
pub use digits::Digits;
pub use error::{Error, Result};
pub use form::{Coeff, Form, Ntt};
pub use modulus::{MODULUS_LIMIT, Modulus};
pub use poly::RingPoly;
pub use ring::Ring;
pub use subring::SubringPoly;
