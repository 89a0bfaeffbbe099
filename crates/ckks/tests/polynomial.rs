//! Polynomials on ciphertexts.
//!
//! | test | what it proves |
//! |---|---|
//! | `every_degree_is_exact_in_depth_scale_and_cost` | degrees 0..=33 and some up to 255, both bases |
//! | `sparse_polynomials_are_cheaper` | zero coefficients cost nothing |
//! | `any_target_scale_is_hit` | odd input scales, odd target scales |
//! | `misuse` | typed errors |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "scales are exact")]

mod common;

use cipherform_ckks::{Basis, Error, Polynomial};
use cipherform_profile::{Cost, Counter, record};
use cipherform_ring::Device;
use common::{Fixture, max_error};
use num_complex::Complex64;

/// Coefficients of absolute sum 1 without zeros.
fn dense(degree: usize) -> Vec<f64> {
    let raw: Vec<f64> = (0..=degree).map(|i| (1.0 + i as f64 * 0.7).sin() + 0.01).collect();
    let sum: f64 = raw.iter().map(|c| c.abs()).sum();
    raw.iter().map(|c| c / sum).collect()
}

fn without_transforms(cost: Cost) -> Cost {
    let mut out = Cost::default();
    for counter in Counter::ALL {
        if counter != Counter::LimbNtts {
            out.count(counter, cost.get(counter));
        }
    }
    out
}

#[test]
fn every_degree_is_exact_in_depth_scale_and_cost() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let level = 9;
    let keys = f.keys([cipherform_ckks::KeySpec::relinearization(level)]);
    let x = f.random_reals(slots);
    let ct = f.encrypt(&x, level);
    let degrees = (0..=33).chain([47, 63, 64, 100, 127, 255]);
    for degree in degrees {
        for basis in [Basis::Chebyshev, Basis::Monomial] {
            let p = Polynomial::new(basis, dense(degree)).unwrap();
            assert_eq!(p.depth(), ((degree + 1) as f64).log2().ceil() as usize);
            let (out, recording) = record(|| f.evaluator.polynomial(&ct, &p, &keys).unwrap());
            assert_eq!(out.level(), level - p.depth(), "{basis:?} {degree}");
            assert_eq!(out.scale(), f.ctx.params().scale_at(out.level()), "{basis:?} {degree}");
            p.cost_at(f.ctx.params(), level).check(&recording.total()).unwrap();
            p.cost(level).check(&without_transforms(recording.total())).unwrap();
            let want: Vec<Complex64> = x.iter().map(|&v| p.evaluate_f64(v).into()).collect();
            let error = max_error(&want, &f.decrypt(&out));
            // One rescaling at n = 2^11 and 2^36 has a worst slot of 16 * 2^8.4 / 2^36 = 2^-23.6. T_2k amplifies by
            // at most 4 a doubling where |T| = 1, and the coefficients sum to 1: 2^(2 depth) times that, at most.
            let bound = 2f64.powi(-23 + 2 * p.depth() as i32 / 2);
            assert!(error < bound, "{basis:?} {degree}: {error:e} v {bound:e}");
        }
    }
}

#[test]
fn sparse_polynomials_are_cheaper() {
    let count = |coefficients: Vec<f64>| {
        let cost = Polynomial::new(Basis::Chebyshev, coefficients).unwrap().cost(20);
        (cost.get(Counter::Relinearizations), cost.get(Counter::CtPt))
    };
    let all = dense(31);
    let parity = |odd: usize| -> Vec<f64> {
        all.iter().enumerate().map(|(i, &c)| if i % 2 == odd { c } else { 0.0 }).collect()
    };
    let (full, odd, even) = (count(all.clone()), count(parity(1)), count(parity(0)));
    assert!(even.0 < full.0 && even.1 < full.1, "{even:?} v {full:?}");
    assert!(odd.0 <= full.0 && odd.1 < full.1, "{odd:?} v {full:?}");
    // T_16 alone: four doublings.
    let mut t16 = vec![0.0; 17];
    t16[16] = 1.0;
    assert_eq!(count(t16), (4, 1));
    // Degree 31 by hand, leaves of degree 3: T_2, T_3, T_4, T_8, T_16 and five sums of products.
    assert_eq!(full.0, 10);
}

#[test]
fn any_target_scale_is_hit() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let keys = f.keys([cipherform_ckks::KeySpec::relinearization(8)]);
    let x = f.random_reals(f.ctx.params().slots());
    let encoded = f.encoder.encode(&x, 8, 2f64.powf(35.3)).unwrap();
    let encryptor = cipherform_ckks::Encryptor::with_secret_key(&f.ctx, &f.secret).unwrap();
    let ct = encryptor.encrypt(&encoded, &mut f.rng).unwrap();
    let p = Polynomial::new(Basis::Chebyshev, dense(13)).unwrap();
    let target = 2f64.powf(36.7);
    let out = f.evaluator.polynomial_to_scale(&ct, &p, target, &keys).unwrap();
    assert_eq!((out.level(), out.scale()), (4, target));
    let want: Vec<Complex64> = x.iter().map(|&v| p.evaluate_f64(v).into()).collect();
    let error = max_error(&want, &f.decrypt(&out));
    // As above with depth 4, and 0.7 bits less scale at the input.
    assert!(error < 2f64.powi(-18), "{error:e}");
}

#[test]
fn misuse() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let none = f.keys([]);
    let keys = f.keys([cipherform_ckks::KeySpec::relinearization(2)]);
    let ct = f.encrypt(&[0.5], 3);
    let p = Polynomial::new(Basis::Chebyshev, dense(15)).unwrap();
    assert!(matches!(
        f.evaluator.polynomial(&ct, &p, &none),
        Err(Error::LevelExhausted { level: 3, needed: 4, .. })
    ));
    assert_eq!(p.cost(3), Cost::default());
    let p = Polynomial::new(Basis::Chebyshev, dense(7)).unwrap();
    let missing = f.evaluator.polynomial(&ct, &p, &keys).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no key for relinearization at level 3; generate it and insert it into the evaluation keys"
    );
}
