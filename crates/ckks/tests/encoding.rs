//! Values to polynomials and back.
//!
//! | test | what it proves |
//! |---|---|
//! | `round_trips` | every vector length, real and complex, many scales, both devices |
//! | `periodic_equals_repeated` | a short vector is its repetition, bit for bit in the slots |
//! | `large_scales` | scales of 2^90 and values near the modulus, at several levels |
//! | `misuse` | typed errors |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{Encoder, Error};
use cipherform_ring::Device;
use common::{Fixture, max_error};
use num_complex::Complex64;
use proptest::prelude::*;

fn repeated(values: &[Complex64], slots: usize) -> Vec<Complex64> {
    values.iter().copied().cycle().take(slots).collect()
}

/// Rounding 2m coefficients to integers moves a slot by at most m (1/2 each, 2m of them, in the worst case).
fn rounding_bound(m: usize, scale: f64) -> f64 {
    m as f64 / scale + 1e-13
}

fn round_trips(f: &mut Fixture) {
    let slots = f.ctx.params().slots();
    for log_m in 0..=slots.trailing_zeros() {
        let m = 1 << log_m;
        let values = f.random_slots(m);
        for (level, log_scale) in [(0, 30), (1, 40), (2, 55)] {
            let scale = f64::from(log_scale).exp2();
            let plain = f.encoder.encode(&values, level, scale).unwrap();
            assert_eq!((plain.level(), plain.scale(), plain.period()), (level, scale, m));
            let got = f.encoder.decode(&plain).unwrap();
            let error = max_error(&repeated(&values, slots), &got);
            assert!(error < rounding_bound(m, scale), "m = {m}, 2^{log_scale}: {error:e}");
        }
    }
}

#[test]
fn round_trips_cpu() {
    round_trips(&mut Fixture::new("toy11_deep", Device::cpu()));
    round_trips(&mut Fixture::new("lev13", Device::cpu()));
}

#[test]
fn round_trips_reference() {
    let mut f = Fixture::new("toy11_lev", Device::reference());
    let values = f.random_slots(64);
    let plain = f.encoder.encode(&values, 2, 2f64.powi(40)).unwrap();
    let got = f.encoder.decode(&plain).unwrap();
    assert!(max_error(&repeated(&values, 1024), &got) < rounding_bound(64, 2f64.powi(40)));
}

#[test]
fn periodic_equals_repeated() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    for m in [1, 2, 16, 512] {
        let values = f.random_slots(m);
        let short = f.encoder.encode(&values, 3, 2f64.powi(36)).unwrap();
        let long = f.encoder.encode(&repeated(&values, slots), 3, 2f64.powi(36)).unwrap();
        assert_eq!(short.bytes() * (slots / m) as u64, long.bytes());
        // Coefficients outside the subring round to zero: the integers are the same, so are the slots.
        assert_eq!(f.encoder.decode(&short).unwrap(), f.encoder.decode(&long).unwrap());
        // Products with either are the same ciphertext.
        let ct = f.encrypt(&[0.5, -0.25], 3);
        let a = f.evaluator.mul_plain(&ct, &short).unwrap();
        let b = f.evaluator.mul_plain(&ct, &long).unwrap();
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
    }
}

#[test]
fn large_scales() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let values = f.random_slots(slots);
    for (level, log_scale) in [(2, 90), (2, 110), (3, 120), (24, 90)] {
        let scale = f64::from(log_scale).exp2();
        let plain = f.encoder.encode(&values, level, scale).unwrap();
        let error = max_error(&values, &f.encoder.decode(&plain).unwrap());
        assert!(error < 1e-12, "level {level}, 2^{log_scale}: {error:e}");
    }
    // A constant just below half the modulus of level 0, of both signs.
    let half = f.ctx.params().q()[0] as f64 / 2.0;
    for sign in [1.0, -1.0] {
        let value = sign * half * 0.999;
        let plain = f.encoder.encode(&[value], 0, 1.0).unwrap();
        let got = f.encoder.decode(&plain).unwrap();
        assert!((got[7].re - value).abs() <= 1.0, "{} v {value}", got[7].re);
    }
}

#[test]
fn misuse() {
    let f = Fixture::new("toy11_lev", Device::cpu());
    let encode = |values: &[f64], level, scale| f.encoder.encode(values, level, scale);
    for length in [0, 3, 12, 2048] {
        assert!(matches!(encode(&vec![0.5; length], 1, 1e9), Err(Error::Length { .. })));
    }
    assert!(matches!(encode(&[0.0, f64::NAN], 1, 1e9), Err(Error::NonFinite { index: 1 })));
    assert!(matches!(encode(&[f64::INFINITY], 1, 1e9), Err(Error::NonFinite { index: 0 })));
    assert!(matches!(encode(&[0.5], 4, 1e9), Err(Error::LevelTooHigh { level: 4, max: 3, .. })));
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(encode(&[0.5], 1, scale), Err(Error::InvalidScale { .. })));
    }
    assert!(matches!(encode(&[0.5], 0, 2f64.powi(51)), Err(Error::ValueTooLarge { .. })));
    assert!(matches!(encode(&[1e6], 0, 2f64.powi(40)), Err(Error::ValueTooLarge { .. })));
    assert!(matches!(encode(&[1e300], 3, 2f64.powi(40)), Err(Error::ValueTooLarge { .. })));
    assert!(encode(&[0.0], 0, 2f64.powi(49)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any finite values: the decoded ones differ by the rounding, at most, plus the f64 error of their size.
    #[test]
    fn any_values(
        log_m in 0u32..6,
        log_scale in 20i32..45,
        raw in prop::collection::vec((-1e3f64..1e3, -1e3f64..1e3), 64),
    ) {
        thread_local! {
            static ENCODER: Encoder = Fixture::new("toy11_lev", Device::cpu()).encoder;
        }
        let values: Vec<Complex64> =
            raw.iter().take(1 << log_m).map(|&(re, im)| Complex64::new(re, im)).collect();
        let scale = f64::from(log_scale).exp2();
        ENCODER.with(|encoder| {
            let got = encoder.decode(&encoder.encode(&values, 3, scale).unwrap()).unwrap();
            let bound = rounding_bound(values.len(), scale) + 1e3 * 1e-13;
            assert!(max_error(&repeated(&values, 1024), &got) < bound);
        });
    }
}
