//! Linear maps by diagonals.
//!
//! | test | what it proves |
//! |---|---|
//! | `matches_the_definition_and_its_cost` | dense and periodic, negative diagonals, gaps, many B |
//! | `misuse` | typed errors |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "scales are exact")]

mod common;

use cipherform_ckks::{Error, LinearTransform};
use cipherform_profile::{Counter, record};
use cipherform_ring::Device;
use common::{Fixture, max_error};
use num_complex::Complex64;
use std::collections::BTreeMap;

#[test]
fn matches_the_definition_and_its_cost() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let (slots, level) = (f.ctx.params().slots(), 4);
    let scale = f.ctx.params().modulus_at(level) as f64;
    let x = f.random_slots(slots);
    let ct = f.encrypt(&x, level);
    let cases: [(&[i64], usize, usize); 7] = [
        (&[0, 1, 2, 3, 4, 5, 6, 7], 3, 64),
        (&[-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7], 4, 16),
        (&[0, 9, 17, 40], 8, 1),
        (&[5], 4, slots),
        (&[0], 1, slots),
        (&[-1, 1], 1, 2),
        (&[-512, 512], 512, 1024),
    ];
    for (amounts, baby, period) in cases {
        let diagonals: BTreeMap<i64, Vec<f64>> =
            amounts.iter().map(|&d| (d, f.random_reals(period))).collect();
        let map = LinearTransform::new(&f.encoder, level, scale, &diagonals, baby).unwrap();
        let keys = f.keys(map.keys());
        let (out, recording) = record(|| f.evaluator.linear_transform(&ct, &map, &keys).unwrap());
        map.cost().check(&recording.total()).unwrap();
        assert_eq!(recording.total().get(Counter::CtPt), amounts.len() as u64);
        let out = f.evaluator.rescale(out).unwrap();
        assert_eq!(out.scale(), ct.scale());
        let want: Vec<Complex64> = (0..slots as i64)
            .map(|j| {
                let read = |d: i64| x[(j + d).rem_euclid(slots as i64) as usize];
                diagonals.iter().map(|(&d, w)| read(d) * w[j as usize % period]).sum()
            })
            .collect();
        let error = max_error(&want, &f.decrypt(&out));
        // Every key switch and the final rescaling: worst slot 2^-23.6 each (see polynomial.rs); those before the
        // product are weighted by |w| <= 1, those after it divided by q. Encodings are rounded at 2^36: negligible.
        let bound = 2f64.powf(-23.6) * ((amounts.len() + 1) as f64).sqrt() * 1.5;
        assert!(error < bound, "{amounts:?} by {baby}: {error:e} v {bound:e}");
    }
}

#[test]
fn misuse() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let scale = f.ctx.params().modulus_at(2) as f64;
    let diagonals = BTreeMap::from([(0, vec![1.0]), (3, vec![0.5])]);
    let map = LinearTransform::new(&f.encoder, 2, scale, &diagonals, 2).unwrap();
    let (none, keys) = (f.keys([]), f.keys(map.keys()));
    let ct = f.encrypt(&[0.5], 2);
    // 3 = 2 * 1 + 1: baby step 1, one giant step by 2.
    assert_eq!(map.keys(), [f.rotation(1, 2), f.rotation(2, 2)]);
    let missing = f.evaluator.linear_transform(&ct, &map, &none).unwrap_err();
    assert!(missing.to_string().contains("rotation 1 at level 2"), "{missing}");
    let high = f.encrypt(&[0.5], 3);
    assert!(matches!(
        f.evaluator.linear_transform(&high, &map, &keys),
        Err(Error::LevelMismatch { lhs: 3, rhs: 2, .. })
    ));
    let refused = |diagonals: &BTreeMap<i64, Vec<f64>>, baby| {
        LinearTransform::new(&f.encoder, 2, scale, diagonals, baby).is_err()
    };
    assert!(refused(&BTreeMap::new(), 2));
    assert!(refused(&diagonals, 0));
    assert!(refused(&BTreeMap::from([(1024, vec![1.0])]), 2));
    assert!(refused(&BTreeMap::from([(0, vec![])]), 2));
    assert!(refused(&BTreeMap::from([(0, vec![1.0; 3])]), 2));
    assert!(refused(&BTreeMap::from([(0, vec![f64::INFINITY])]), 2));
}
