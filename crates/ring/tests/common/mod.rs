//! Shared by the test files: rings of many shapes, random polynomials, one test for all devices.
#![allow(
    clippy::allow_attributes,
    clippy::trivially_copy_pass_by_ref,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses a part"
)]

use cipherform_ring::{Device, Limbs, Ring, RingPoly, RnsBasis, primes, sample};
use num_bigint::BigUint;
use std::sync::Arc;

/// This machine's first CUDA card, if the build and the machine have one. With `CIPHERFORM_NEED_CUDA` set it must be
/// there; without, tests say that they skip it.
pub fn cuda() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let needed = std::env::var_os("CIPHERFORM_NEED_CUDA").is_some();
            assert!(!needed, "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Every device but the reference: the CPU with each of its instruction sets, and a CUDA card.
pub fn devices() -> Vec<Device> {
    Device::cpus().into_iter().chain(cuda()).collect()
}

/// Makes a module with a test of the CPU, with every instruction set it has, of a CUDA card and of the reference device
/// out of a function of a device.
#[macro_export]
macro_rules! on_devices {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn cpu() {
                cipherform_ring::Device::cpus().iter().for_each(super::$name);
            }
            #[test]
            fn cuda() {
                $crate::common::cuda().iter().for_each(super::$name);
            }
            #[test]
            fn reference() {
                super::$name(&cipherform_ring::Device::reference());
            }
        }
    )* };
}

/// The `count` largest friendly primes below `2^bits`.
pub fn primes_below(bits: u32, n: usize, count: usize) -> Vec<u64> {
    let step = 2 * n as u64;
    let top = ((1u64 << bits) - 1) / step * step + 1;
    (0..)
        .map(|i| top - i * step)
        .filter(|&p| p < 1 << bits && primes::is_ntt_friendly(p, n))
        .take(count)
        .collect()
}

/// Q of 50-, 40- and 28-bit primes in one chain (6), P of three primes, digits 2 + 3 + 1.
pub fn mixed_basis(n: usize) -> RnsBasis {
    let mut q = primes_below(50, n, 2);
    q.extend(primes_below(40, n, 2));
    q.extend(primes_below(28, n, 2));
    let mut p = primes_below(49, n, 2);
    p.extend(primes_below(45, n, 1));
    RnsBasis::new(n, &q, &p, &[2, 3, 1]).unwrap()
}

pub fn mixed_ring(n: usize, device: &Device) -> Arc<Ring> {
    Ring::new(mixed_basis(n), device).unwrap()
}

/// A reproducible random polynomial.
pub fn random(ring: &Arc<Ring>, limbs: Limbs, seed: u8) -> RingPoly {
    sample::uniform(ring, limbs, &[seed; 32], 0).unwrap()
}

/// A polynomial whose every word is `f(prime)`.
pub fn constant_words(ring: &Arc<Ring>, limbs: Limbs, f: impl Fn(u64) -> u64) -> RingPoly {
    let rows = ring.basis().row_moduli(limbs);
    let words = rows.flat_map(|m| vec![f(m.value()); ring.n()]).collect();
    RingPoly::from_residues(ring, limbs, words).unwrap()
}

/// Random, all zero, all p - 1, and alternating extremes.
pub fn samples(ring: &Arc<Ring>, limbs: Limbs) -> Vec<RingPoly> {
    let n = ring.n();
    let rows = ring.basis().row_moduli(limbs);
    let mixed = rows.flat_map(|m| {
        let p = m.value();
        (0..n).map(move |i| [0, p - 1, 1, p / 2, p / 2 + 1][i % 5])
    });
    vec![
        random(ring, limbs, 1),
        constant_words(ring, limbs, |_| 0),
        constant_words(ring, limbs, |p| p - 1),
        RingPoly::from_residues(ring, limbs, mixed.collect()).unwrap(),
    ]
}

/// The words, for comparisons.
pub fn words<F: cipherform_ring::Form>(a: &RingPoly<F>) -> Vec<u64> {
    a.to_residues().unwrap()
}

/// The coefficients as whole integers in `[0, product)`, and the product of the primes.
pub fn integers(a: &RingPoly) -> (Vec<BigUint>, BigUint) {
    let (ring, limbs) = (a.ring().clone(), a.limbs());
    let words = words(&a.clone().into_coeff().unwrap());
    let moduli: Vec<u64> =
        ring.basis().row_moduli(limbs).map(cipherform_ring::Modulus::value).collect();
    let product: BigUint = moduli.iter().map(|&p| BigUint::from(p)).product();
    let weights: Vec<BigUint> = moduli
        .iter()
        .map(|&p| {
            let other = &product / p;
            let inverse = (&other % p).modpow(&BigUint::from(p - 2), &BigUint::from(p));
            other * inverse
        })
        .collect();
    let n = ring.n();
    let coefficient = |i: usize| {
        let terms = weights.iter().enumerate().map(|(row, w)| w * words[row * n + i]);
        terms.sum::<BigUint>() % &product
    };
    ((0..n).map(coefficient).collect(), product)
}

pub fn sum(a: &RingPoly, b: &RingPoly) -> RingPoly {
    let mut out = a.clone();
    out.add_assign(b).unwrap();
    out
}

pub fn product(a: &RingPoly, b: &RingPoly) -> RingPoly {
    let mut out = a.clone();
    out.mul_assign(b).unwrap();
    assert_eq!(words(&out), words(&a.product(b).unwrap()));
    out
}

/// A key of random words with all limbs and digits.
pub fn random_key(ring: &Arc<Ring>, seed: u8) -> Vec<[RingPoly; 2]> {
    let all = ring.basis().all_limbs();
    (0..3).map(|d| [0, 1].map(|h| random(ring, all, seed + 2 * d + h))).collect()
}
