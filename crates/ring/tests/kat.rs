//! Known answers, from `testdata/ring.py` (plain modular arithmetic on Python integers).
//!
//! | test | what is pinned |
//! | --- | --- |
//! | transforms | ψ, the NTT order, product, automorphism, monomial, subring; N = 16 and 32; 28- to 50-bit primes |
//! | conversions | rescale, digit decomposition and division by P of given whole integers |
//! | uniform | the seeded sampler's stream layout |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "a device is passed as the library takes it"
)]

mod common;

use cipherform_ring::{
    Coeff, Device, GaloisElement, Limbs, Ring, RingPoly, RnsBasis, SubringPoly, sample,
};
use serde_json::Value;
use std::sync::Arc;

on_devices! { transforms conversions uniform }

fn data() -> Value {
    serde_json::from_str(include_str!("testdata/ring.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

fn flat(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().flat_map(numbers).collect()
}

fn coeff(ring: &Arc<Ring>, words: Vec<u64>) -> RingPoly<Coeff> {
    RingPoly::from_residues(ring, Limbs::q(1), words).unwrap()
}

fn transforms(device: &Device) {
    for case in data()["transforms"].as_array().unwrap() {
        let (n, p) = (case["n"].as_u64().unwrap() as usize, case["p"].as_u64().unwrap());
        let ring = Ring::new(RnsBasis::new(n, &[p], &[], &[]).unwrap(), device).unwrap();
        assert_eq!(ring.psi(), [case["psi"].as_u64().unwrap()]);

        let a = coeff(&ring, numbers(&case["a"])).into_ntt().unwrap();
        assert_eq!(common::words(&a), numbers(&case["ntt"]), "n = {n}, p = {p}");
        let back = |a: RingPoly| common::words(&a.into_coeff().unwrap());
        assert_eq!(back(a.clone()), numbers(&case["a"]));

        let b = coeff(&ring, numbers(&case["b"])).into_ntt().unwrap();
        let mut product = a.clone();
        product.mul_assign(&b).unwrap();
        assert_eq!(back(product), numbers(&case["product"]));

        let g = GaloisElement::new(case["galois"].as_u64().unwrap(), n).unwrap();
        assert_eq!(back(a.automorphism(g).unwrap()), numbers(&case["image"]));
        let conjugation = GaloisElement::conjugation(n);
        assert_eq!(back(a.automorphism(conjugation).unwrap()), numbers(&case["conjugate"]));

        let mut shifted = a.clone();
        shifted.mul_monomial_assign(5).unwrap();
        assert_eq!(back(shifted), numbers(&case["x^5*a"]));

        let small: Vec<i64> = numbers(&case["subring"]).iter().map(|&c| c as i64).collect();
        let subring = SubringPoly::from_i64(&ring, Limbs::q(1), &small).unwrap();
        let spread: Vec<u64> =
            subring.to_residues().unwrap().iter().flat_map(|&w| [w; 4]).collect();
        assert_eq!(spread, numbers(&case["subring_ntt"]));
    }
}

fn conversions(device: &Device) {
    let data = &data()["conversions"];
    let digits: Vec<usize> = numbers(&data["digits"]).iter().map(|&d| d as usize).collect();
    let (q, p) = (numbers(&data["q"]), numbers(&data["p"]));
    let n = data["n"].as_u64().unwrap() as usize;
    let ring = Ring::new(RnsBasis::new(n, &q, &p, &digits).unwrap(), device).unwrap();
    let all = ring.basis().all_limbs();

    let x = RingPoly::from_residues(&ring, Limbs::q(q.len()), flat(&data["x"])).unwrap();
    let decomposed = x.decompose().unwrap();
    assert_eq!(decomposed.len(), digits.len());
    for (i, want) in data["decomposed"].as_array().unwrap().iter().enumerate() {
        assert_eq!(common::words(&decomposed.digit(i).unwrap()), flat(want), "digit {i}");
    }
    assert_eq!(common::words(&x.rescale().unwrap()), flat(&data["rescaled"]));

    let y = RingPoly::from_residues(&ring, all, flat(&data["y"])).unwrap();
    assert_eq!(common::words(&y.mod_down().unwrap()), flat(&data["mod_down"]));
}

fn uniform(device: &Device) {
    // First words of the limbs for key 00 01 .. 1f, stream 3: pins cipher, stream and position layout.
    let ring = common::mixed_ring(16, device);
    let seed: [u8; 32] = std::array::from_fn(|i| i as u8);
    let all = ring.basis().all_limbs();
    let words = common::words(&sample::uniform(&ring, all, &seed, 3).unwrap());
    let first: Vec<u64> = words.chunks(16).map(|row| row[0]).collect();
    assert_eq!(first, UNIFORM_FIRST_WORDS);
}

/// Made by `testdata/uniform.py`.
const UNIFORM_FIRST_WORDS: [u64; 9] = [
    1_107_865_209_240_169,
    926_862_143_123_898,
    519_323_222_200,
    941_875_289_610,
    29_042_529,
    71_201_502,
    533_398_432_868_608,
    386_783_362_910_250,
    35_146_718_704_617,
];
