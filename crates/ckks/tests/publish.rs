//! Decryptions for others.
//!
//! | test | what it proves |
//! |---|---|
//! | `refused_exactly_above_the_bound` | the last binary place that is there, and the one after it |
//! | `values_are_rounded_and_flooded` | multiples of 2^-bits, moved as often as the deviation says |
//! | `the_ledger_counts_before_anything_is_published` | order, failure to store, exhaustion, the key it belongs to |
//! | `a_ledger_does_not_go_backwards` | old copies, damaged copies, every length |
//! | `estimates_that_bound_nothing_are_refused` | zero, tiny, infinite and not-a-number errors and messages; f64's places |
//! | `a_decryption_outside_the_estimate_is_not_published` | slots that are too large; it counts |
//! | `misuse` | typed errors |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "multiples of a power of two are exact")]

mod common;

use cipherform_ckks::noise::{NoiseEstimate, NoiseMode, NoiseModel};
use cipherform_ckks::{
    Ciphertext, Decryptor, Error, KeyGenerator, Publication, PublicationLedger, Result,
};
use cipherform_ring::Device;
use common::Fixture;
use num_complex::Complex64;

const LEVEL: usize = 3;

fn estimate(f: &Fixture, mode: NoiseMode) -> NoiseEstimate {
    let params = f.ctx.params();
    NoiseModel::new(params)
        .encrypted_with_secret_key(mode, LEVEL, params.scale_at(LEVEL), 1.0)
        .unwrap()
}

fn publish(
    f: &mut Fixture,
    ct: &Ciphertext,
    publication: &Publication<'_>,
    ledger: &mut PublicationLedger,
) -> Result<Vec<Complex64>> {
    let decryptor = Decryptor::new(&f.ctx, &f.secret).unwrap();
    decryptor.decrypt_public(&f.encoder, ct, publication, ledger, |_| Ok(()), &mut f.rng)
}

#[test]
fn refused_exactly_above_the_bound() {
    let mut f = Fixture::new("lev14", Device::cpu());
    let ct = f.encrypt(&[0.5], LEVEL);
    let (params, scale) = (f.ctx.params().clone(), f.ctx.params().scale_at(LEVEL));
    let model = NoiseModel::new(&params);
    for (allowed, s, bits) in [(1, 30, 7), (3, 30, 6), (12, 40, 1), (1, 31, 7), (1, 48, 0)] {
        // The deviation t for which log2(1 / sigma_f) - 2 is exactly `bits`, a little less and a little more.
        let sigma = 2f64.powi(-(bits as i32) - 2);
        let t = sigma / ((12.0 * allowed as f64).sqrt() * 2f64.powf(f64::from(s) / 2.0));
        let std = t * scale / (params.n() as f64 / 2.0).sqrt();
        for (std, possible) in [(std * (1.0 - 1e-9), true), (std * (1.0 + 1e-9), false)] {
            let error = model.estimate(NoiseMode::Bound, LEVEL, scale, 1.0, std).unwrap();
            let publication = Publication { bits, statistical_security: s, error: &error };
            let mut ledger = PublicationLedger::new(&f.secret, allowed).unwrap();
            let outcome = publish(&mut f, &ct, &publication, &mut ledger);
            if possible {
                outcome.unwrap();
                assert!((publication.available_bits(allowed) - f64::from(bits)).abs() < 1e-6);
            } else {
                assert!(
                    matches!(outcome, Err(Error::PrecisionUnavailable { bits: b, .. }) if b == bits)
                );
            }
            assert_eq!(ledger.published(), u64::from(possible), "nothing refused is counted");
        }
    }
}

#[test]
fn values_are_rounded_and_flooded() {
    let mut f = Fixture::new("lev14", Device::cpu());
    let slots = f.ctx.params().slots();
    let ct = f.encrypt(&[0.5, -0.25], LEVEL);
    let error = estimate(&f, NoiseMode::Bound);
    let allowed = 16;
    let mut publication = Publication { bits: 0, statistical_security: 30, error: &error };
    let available = publication.available_bits(allowed);
    publication.bits = available as u32;
    assert!(publication.bits >= 2, "{available}");
    let mut ledger = PublicationLedger::new(&f.secret, allowed).unwrap();
    let got = publish(&mut f, &ct, &publication, &mut ledger).unwrap();
    let unit = 2f64.powi(publication.bits as i32);
    let mut moved = 0;
    for (j, v) in got.iter().enumerate() {
        let want = if j % 2 == 0 { 0.5 } else { -0.25 };
        for (part, want) in [(v.re, want), (v.im, 0.0)] {
            assert_eq!((part * unit).fract().abs(), 0.0);
            moved += u32::from((part - want).abs() > 0.25 / unit);
        }
    }
    // A part moves if its flooding exceeds half a unit, h = 2^-bits / 2 sigma_f deviations: P = erfc(h / sqrt 2), here from
    // a table of the normal distribution by quadrature. The sampler may be 5 % wider; five deviations of the count.
    let half = 2f64.powf(available + 2.0) / unit / 2.0;
    let tail = |h: f64| {
        let density = |x: f64| (-x * x / 2.0).exp() * (2.0 / std::f64::consts::PI).sqrt();
        (0..10_000).map(|i| density(h + (f64::from(i) + 0.5) * 1e-3) * 1e-3).sum::<f64>()
    };
    let parts = 2.0 * slots as f64;
    let deviation = (parts * tail(half / 1.05)).sqrt();
    let (low, high) = (parts * tail(half), parts * tail(half / 1.05));
    let moved = f64::from(moved);
    assert!(
        moved > low - 5.0 * deviation && moved < high + 5.0 * deviation,
        "{moved} moved, {low:.1} to {high:.1} expected"
    );
    assert!(low > 20.0, "the test would say nothing: {low}");
}

#[test]
fn the_ledger_counts_before_anything_is_published() {
    let mut f = Fixture::new("lev13", Device::cpu());
    let ct = f.encrypt(&[0.5], LEVEL);
    let error = NoiseModel::new(f.ctx.params())
        .estimate(NoiseMode::Bound, LEVEL, ct.scale(), 1.0, 3.2)
        .unwrap();
    let publication = Publication { bits: 1, statistical_security: 30, error: &error };
    let mut ledger = PublicationLedger::new(&f.secret, 2).unwrap();
    let decryptor = Decryptor::new(&f.ctx, &f.secret).unwrap();
    let mut stored = Vec::new();
    let keep = |bytes: &[u8]| {
        stored = bytes.to_vec();
        Ok(())
    };
    decryptor.decrypt_public(&f.encoder, &ct, &publication, &mut ledger, keep, &mut f.rng).unwrap();
    assert_eq!((ledger.published(), ledger.allowed()), (1, 2));
    assert_eq!(PublicationLedger::from_bytes(&stored, 1).unwrap(), ledger);
    let fail = |_: &[u8]| Err(std::io::Error::other("disk full"));
    let outcome =
        decryptor.decrypt_public(&f.encoder, &ct, &publication, &mut ledger, fail, &mut f.rng);
    assert!(matches!(outcome, Err(Error::LedgerNotStored { .. })));
    // Whether those bytes reached a disk is not known: they count.
    assert_eq!(ledger.published(), 2);
    let outcome = publish(&mut f, &ct, &publication, &mut ledger);
    assert!(matches!(outcome, Err(Error::PublicationsExhausted { allowed: 2 })));
    let other = KeyGenerator::new(&f.ctx).secret_key(&mut f.rng).unwrap();
    let mut foreign = PublicationLedger::new(&other, 2).unwrap();
    let outcome = publish(&mut f, &ct, &publication, &mut foreign);
    assert!(outcome.unwrap_err().to_string().contains("another secret key"));
    assert_eq!(format!("{ledger:?}"), "PublicationLedger(2 of 2)");
}

#[test]
fn a_ledger_does_not_go_backwards() {
    let f = Fixture::new("toy11_lev", Device::cpu());
    let ledger = PublicationLedger::new(&f.secret, 5).unwrap();
    let bytes = ledger.to_bytes();
    assert_eq!(PublicationLedger::from_bytes(&bytes, 0).unwrap(), ledger);
    let old = PublicationLedger::from_bytes(&bytes, 1).unwrap_err();
    assert!(old.to_string().contains("old copy"), "{old}");
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 1;
        assert!(matches!(PublicationLedger::from_bytes(&damaged, 0), Err(Error::Malformed { .. })));
        assert!(PublicationLedger::from_bytes(&bytes[..i], 0).is_err());
    }
    assert!(PublicationLedger::from_bytes(&[bytes.as_slice(), &[0]].concat(), 0).is_err());
    assert!(PublicationLedger::new(&f.secret, 0).is_err());
}

#[test]
fn estimates_that_bound_nothing_are_refused() {
    let mut f = Fixture::new("toy11_lev", Device::cpu());
    let ct = f.encrypt(&[0.5], LEVEL);
    let model = NoiseModel::new(f.ctx.params());
    let at = |std| model.estimate(NoiseMode::Bound, LEVEL, ct.scale(), 1.0, std).unwrap();
    let good = at(3.2);
    let wrong = [
        at(0.0),
        good.mul_integer(0),
        // Below what any encryption has.
        at(f64::MIN_POSITIVE),
        at(3.1),
        at(1e300).mul_integer(i64::MAX).mul_integer(i64::MAX),
        good.add_constant(f64::NAN),
        good.add_constant(f64::INFINITY),
        good.add_plain(f64::NAN, 1),
    ];
    let mut ledger = PublicationLedger::new(&f.secret, 1).unwrap();
    for error in &wrong {
        for bits in [0, 30, 60, 2000] {
            let publication = Publication { bits, statistical_security: 30, error };
            let outcome = publish(&mut f, &ct, &publication, &mut ledger);
            assert!(matches!(outcome, Err(Error::InvalidArgument { .. })), "{error:?}, {bits}");
            assert!(publication.available_bits(1) < 0.0);
        }
    }
    let none = Publication { bits: 0, statistical_security: u32::MAX, error: &good };
    let outcome = publish(&mut f, &ct, &none, &mut ledger);
    assert!(matches!(outcome, Err(Error::PrecisionUnavailable { .. })));
    assert_eq!(ledger.published(), 0);
}

#[test]
fn a_decryption_outside_the_estimate_is_not_published() {
    let mut f = Fixture::new("toy11_lev", Device::cpu());
    let honest = f.encrypt(&[0.5], LEVEL);
    let error = estimate(&f, NoiseMode::Bound);
    let publication = Publication { bits: 0, statistical_security: 30, error: &error };
    let mut ledger = PublicationLedger::new(&f.secret, 2).unwrap();
    publish(&mut f, &honest, &publication, &mut ledger).unwrap();
    // An estimate for slots up to 1 and slots of 2^6.
    let large = f.encrypt(&[64.0], LEVEL);
    let outcome = publish(&mut f, &large, &publication, &mut ledger);
    assert!(matches!(outcome, Err(Error::OutsideEstimate { .. })));
    assert_eq!(ledger.published(), 2);
}

#[test]
fn misuse() {
    let mut f = Fixture::new("lev14", Device::cpu());
    let ct = f.encrypt(&[0.5], LEVEL);
    let low = f.evaluator.drop_level(&ct, LEVEL - 1).unwrap();
    let base = f.evaluator.drop_level(&ct, 0).unwrap();
    let foreign = {
        let mut other = Fixture::new("lev14", Device::cpu());
        other.secret = KeyGenerator::new(&other.ctx).secret_key(&mut f.rng).unwrap();
        other.encrypt(&[0.5], LEVEL)
    };
    let error = estimate(&f, NoiseMode::Bound);
    let mut ledger = PublicationLedger::new(&f.secret, 1).unwrap();
    let good = Publication { bits: 2, statistical_security: 30, error: &error };
    let mut refused = |ct: &Ciphertext, publication: &Publication<'_>| {
        let outcome = publish(&mut f, ct, publication, &mut ledger);
        assert_eq!(ledger.published(), 0);
        outcome.unwrap_err()
    };
    assert!(matches!(refused(&foreign, &good), Error::KeyMismatch { .. }));
    let weak = Publication { statistical_security: 29, ..good };
    assert!(refused(&ct, &weak).to_string().contains("at least 30"));
    assert!(matches!(refused(&low, &good), Error::LevelMismatch { .. }));
    let mut rescaled = ct.clone();
    rescaled.reinterpret_scale(2.0 * ct.scale()).unwrap();
    assert!(matches!(refused(&rescaled, &good), Error::ScaleMismatch { .. }));
    // At level 0 a modulus of 50 bits does not hold values of 2^40 with a flooding for slots of size 2^9.
    let wide = error.with_message(1024.0).unwrap().drop_level(0).unwrap();
    let publication = Publication { error: &wide, ..good };
    assert!(matches!(refused(&base, &publication), Error::ValueTooLarge { .. }));
    let typical = {
        let f = Fixture::new("lev14", Device::cpu());
        estimate(&f, NoiseMode::Typical)
    };
    let publication = Publication { error: &typical, ..good };
    assert!(refused(&ct, &publication).to_string().contains("bound"));
}
