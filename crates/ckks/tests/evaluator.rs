//! The evaluator's arithmetic and its refusals.
//!
//! | test | what it proves |
//! |---|---|
//! | `arithmetic` | every cheap operation against clear slots, seeds dropped |
//! | `constants` | real and complex, added and multiplied |
//! | `set_level_lands_on_the_nominal_scale` | from any level and scale, exactly |
//! | `counters` | what each operation counts, transforms included |
//! | `levels_and_scales_must_agree` | typed errors, nothing aligned behind the caller's back |
//! | `missing_keys_are_named` | rotation and level in the message |
//! | `parameter_sets_do_not_mix` | every entry point |
//! | `secrets_do_not_mix` | keys and ciphertexts of two secrets of one set, every entry point |
//! | `sums_of_degree_two` | products summed before one relinearization |

#![expect(clippy::float_cmp, reason = "exact by construction")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, Error, EvaluationKeys, Evaluator,
    KeyGenerator, KeySpec, LinearTransform, Polynomial, cost,
};
use cipherform_profile::{Cost, Counter, record};
use cipherform_ring::Device;
use common::{Fixture, max_error};
use num_complex::Complex64;

/// 16 deviations of one rounding at n = 2^11 and 2^36: see `polynomial.rs`.
const BOUND: f64 = 8e-8;

fn check(f: &Fixture, got: &Ciphertext, want: impl Fn(usize) -> Complex64, what: &str) {
    let want: Vec<Complex64> = (0..f.ctx.params().slots()).map(want).collect();
    let error = max_error(&want, &f.decrypt(got));
    assert!(error < BOUND, "{what}: {error:e}");
    assert!(!got.is_seeded(), "{what}: still seeded");
}

#[test]
fn arithmetic() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let (x, y) = (f.random_slots(slots), f.random_slots(slots));
    let (a, b) = (f.encrypt(&x, 3), f.encrypt(&y, 3));
    let p = f.encoder.encode(&y, 3, a.scale()).unwrap();
    let short = f.encoder.encode(&y[..4], 3, a.scale()).unwrap();
    let e = &f.evaluator;
    check(&f, &e.add(&a, &b).unwrap(), |j| x[j] + y[j], "add");
    check(&f, &e.sub(&a, &b).unwrap(), |j| x[j] - y[j], "sub");
    check(&f, &e.neg(&a).unwrap(), |j| -x[j], "neg");
    check(&f, &e.add_plain(&a, &p).unwrap(), |j| x[j] + y[j], "add_plain");
    check(&f, &e.sub_plain(&a, &p).unwrap(), |j| x[j] - y[j], "sub_plain");
    check(&f, &e.add_plain(&a, &short).unwrap(), |j| x[j] + y[j % 4], "add periodic");
    check(&f, &e.sub_plain(&a, &short).unwrap(), |j| x[j] - y[j % 4], "sub periodic");
    check(&f, &e.mul_integer(&a, -3).unwrap(), |j| x[j] * -3.0, "mul_integer");
    check(&f, &e.mul_i(&a).unwrap(), |j| x[j] * Complex64::I, "mul_i");
    check(&f, &e.drop_level(&a, 1).unwrap(), |j| x[j], "drop_level");
    let product = e.rescale(e.mul_plain(&a, &p).unwrap()).unwrap();
    check(&f, &product, |j| x[j] * y[j], "mul_plain");
    let product = e.rescale(e.mul_plain(&a, &short).unwrap()).unwrap();
    check(&f, &product, |j| x[j] * y[j % 4], "mul periodic");
    let mut sum = e.mul_plain(&a, &p).unwrap();
    e.mul_plain_add_assign(&mut sum, &b, &short).unwrap();
    check(&f, &e.rescale(sum).unwrap(), |j| x[j] * y[j] + y[j] * y[j % 4], "mul_plain_add");
    let mut half = a.clone();
    half.reinterpret_scale(a.scale() * 2.0).unwrap();
    check(&f, &e.mul_integer(&half, 1).unwrap(), |j| x[j] * 0.5, "reinterpret_scale");
}

#[test]
fn constants() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let x = f.random_slots(f.ctx.params().slots());
    let a = f.encrypt(&x, 2);
    let q = f.ctx.params().modulus_at(2) as f64;
    let e = &f.evaluator;
    let z = Complex64::new(-0.375, 0.8125);
    check(&f, &e.add_constant(&a, 0.1).unwrap(), |j| x[j] + 0.1, "add real");
    check(&f, &e.add_constant(&a, z).unwrap(), |j| x[j] + z, "add complex");
    for c in [Complex64::new(0.7, 0.0), z, Complex64::I] {
        let product = e.mul_constant(&a, c, q).unwrap();
        assert_eq!(product.scale(), a.scale() * q);
        check(&f, &e.rescale(product).unwrap(), |j| x[j] * c, "mul_constant");
    }
    assert!(matches!(e.add_constant(&a, f64::NAN), Err(Error::NonFinite { .. })));
    assert!(matches!(e.add_constant(&a, 1e300), Err(Error::ValueTooLarge { .. })));
    assert!(matches!(e.mul_constant(&a, 1.0, -1.0), Err(Error::InvalidScale { .. })));
    assert!(matches!(e.mul_constant(&a, 1.0, 1e200), Err(Error::ValueTooLarge { .. })));
}

#[test]
fn set_level_lands_on_the_nominal_scale() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let x = f.random_slots(f.ctx.params().slots());
    for (from, to) in [(24, 23), (24, 5), (6, 0), (3, 2)] {
        let mut a = f.encrypt(&x, from);
        for shift in [1.0, 1.5, 0.3] {
            a.reinterpret_scale(f.ctx.params().scale_at(from) * shift).unwrap();
            let (got, recording) = record(|| f.evaluator.set_level(&a, to).unwrap());
            assert_eq!((got.level(), got.scale()), (to, f.ctx.params().scale_at(to)));
            check(&f, &got, |j| x[j] / shift, "set_level");
            cost::set_level(f.ctx.params(), to).check(&recording.total()).unwrap();
            assert_eq!(recording.total().get(Counter::Rescales), 1);
        }
    }
    // At its own level only the nominal scale passes, for free.
    let a = f.encrypt(&x, 3);
    let (_, recording) = record(|| f.evaluator.set_level(&a, 3).unwrap());
    assert_eq!(recording.total(), Cost::default());
    let mut odd = a.clone();
    odd.reinterpret_scale(a.scale() * 1.1).unwrap();
    assert!(matches!(f.evaluator.set_level(&odd, 3), Err(Error::ScaleMismatch { .. })));
    assert!(matches!(f.evaluator.set_level(&a, 4), Err(Error::LevelTooHigh { .. })));
    // A product that was never rescaled cannot be aligned with any precision.
    let square = f.evaluator.mul(&a, &a).unwrap();
    assert!(matches!(f.evaluator.set_level(&square, 1), Err(Error::InvalidScale { .. })));
}

#[test]
fn counters() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let params = f.ctx.params().clone();
    for level in [24, 12, 4, 1] {
        let specs = [
            KeySpec::relinearization(level),
            KeySpec::conjugation(level),
            f.rotation(1, level),
            f.rotation(2, level),
        ];
        let keys = f.keys(specs);
        let a = f.encrypt(&[0.5], level);
        let p = f.encoder.encode(&[0.5], level, a.scale()).unwrap();
        let e = &f.evaluator;
        let seen = |op: &dyn Fn() -> Ciphertext| record(op).1.total();
        let product = e.mul(&a, &a).unwrap();
        let cases: Vec<(&str, Cost, Cost)> = vec![
            ("mul", Cost::of(Counter::CtCt, 1), seen(&|| e.mul(&a, &a).unwrap())),
            ("mul_plain", Cost::of(Counter::CtPt, 1), seen(&|| e.mul_plain(&a, &p).unwrap())),
            (
                "mul_constant",
                Cost::of(Counter::CtPt, 1),
                seen(&|| e.mul_constant(&a, 0.3, 1e9).unwrap()),
            ),
            ("mul_integer", Cost::default(), seen(&|| e.mul_integer(&a, 7).unwrap())),
            ("mul_i", Cost::default(), seen(&|| e.mul_i(&a).unwrap())),
            ("add", Cost::default(), seen(&|| e.add(&a, &a).unwrap())),
            (
                "relinearize",
                cost::relinearize(&params, level),
                seen(&|| e.relinearize(&product, &keys).unwrap()),
            ),
            ("rescale", cost::rescale(&params, level, 1), seen(&|| e.rescale(a.clone()).unwrap())),
            (
                "rescale product",
                cost::rescale(&params, level, 2),
                seen(&|| e.rescale(product.clone()).unwrap()),
            ),
            ("rotate", cost::rotate(&params, level), seen(&|| e.rotate(&a, 1, &keys).unwrap())),
            ("rotate 0", Cost::default(), seen(&|| e.rotate(&a, 1024, &keys).unwrap())),
            ("conjugate", cost::rotate(&params, level), seen(&|| e.conjugate(&a, &keys).unwrap())),
            (
                "hoisted",
                cost::hoisted_rotations(&params, level, 2),
                seen(&|| e.hoisted_rotations(&a, &[2, 0, 1], &keys).unwrap().remove(0)),
            ),
            (
                "sum_rotated",
                cost::sum_rotated(&params, level, 3),
                seen(&|| {
                    let terms = [(&a, 1), (&a, 0), (&a, 2), (&a, 1025)];
                    e.sum_rotated(&terms, &keys).unwrap()
                }),
            ),
            (
                "sum_rotated, none moved",
                cost::sum_rotated(&params, level, 0),
                seen(&|| e.sum_rotated(&[(&a, 0), (&a, 1024)], &keys).unwrap()),
            ),
            (
                "hoisted identity",
                Cost::default(),
                seen(&|| e.hoisted_rotations(&a, &[0], &keys).unwrap().remove(0)),
            ),
        ];
        for (name, predicted, observed) in cases {
            predicted.check(&observed).unwrap_or_else(|e| panic!("{name} at {level}: {e}"));
        }
        let rotate = cost::rotate(&params, level);
        assert_eq!((rotate.get(Counter::Rotations), rotate.get(Counter::KeySwitches)), (1, 1));
    }
}

#[test]
fn levels_and_scales_must_agree() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let (a, b, bottom) = (f.encrypt(&[0.5], 3), f.encrypt(&[0.5], 2), f.encrypt(&[0.5], 0));
    let mut c = a.clone();
    let p = f.encoder.encode(&[0.5], 2, a.scale()).unwrap();
    let e = &f.evaluator;
    let levels = |r: Result<Ciphertext, Error>| {
        matches!(r, Err(Error::LevelMismatch { lhs: 3, rhs: 2, .. }))
    };
    assert!(levels(e.add(&a, &b)) && levels(e.sub(&a, &b)) && levels(e.mul(&a, &b)));
    assert!(
        levels(e.add_plain(&a, &p)) && levels(e.sub_plain(&a, &p)) && levels(e.mul_plain(&a, &p))
    );
    c.reinterpret_scale(a.scale() * (1.0 + 2f64.powi(-41))).unwrap();
    assert!(e.add(&a, &c).is_ok());
    c.reinterpret_scale(a.scale() * (1.0 + 2f64.powi(-38))).unwrap();
    let scales = |r: Result<Ciphertext, Error>| matches!(r, Err(Error::ScaleMismatch { .. }));
    let p = f.encoder.encode(&[0.5], 3, a.scale() * 2.0).unwrap();
    assert!(scales(e.add(&a, &c)) && scales(e.sub(&a, &c)) && scales(e.add_plain(&a, &p)));
    let mut sum = a.clone();
    assert!(matches!(e.mul_plain_add_assign(&mut sum, &a, &p), Err(Error::ScaleMismatch { .. })));
    assert!(c.reinterpret_scale(0.0).is_err() && c.reinterpret_scale(f64::NAN).is_err());

    let keys = EvaluationKeys::new(&f.ctx);
    assert!(levels(e.sum_rotated(&[(&a, 0), (&b, 0)], &keys)));
    assert!(scales(e.sum_rotated(&[(&a, 0), (&c, 0)], &keys)));
    assert!(matches!(e.sum_rotated(&[], &keys), Err(Error::EmptySum { .. })));

    assert!(matches!(e.mul(&bottom, &bottom), Err(Error::ValueTooLarge { .. })));
    assert!(matches!(e.rescale(bottom), Err(Error::LevelExhausted { level: 0, needed: 1, .. })));
    assert!(matches!(e.drop_level(&a, 4), Err(Error::LevelTooHigh { level: 4, max: 3, .. })));
    let product = e.mul(&a, &a).unwrap();
    assert!(matches!(
        e.sum_rotated(&[(&product, 0)], &keys),
        Err(Error::DegreeMismatch { degree: 2, needed: 1, .. })
    ));
    assert!(matches!(e.mul(&product, &a), Err(Error::DegreeMismatch { degree: 2, needed: 1, .. })));
    assert!(matches!(
        e.relinearize(&a, &keys),
        Err(Error::DegreeMismatch { degree: 1, needed: 2, .. })
    ));
    assert!(matches!(e.rotate(&product, 1, &keys), Err(Error::DegreeMismatch { .. })));
    assert!(matches!(e.conjugate(&product, &keys), Err(Error::DegreeMismatch { .. })));
}

#[test]
fn missing_keys_are_named() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let low = f.rotation(5, 2);
    let keys = f.keys([low]);
    let a = f.encrypt(&[0.5], 3);
    let e = &f.evaluator;
    let text = |r: Result<Ciphertext, Error>| r.unwrap_err().to_string();
    // The key for rotation 5 exists, but only up to level 2.
    assert!(text(e.rotate(&a, 5, &keys)).starts_with("no key for rotation 5 at level 3"));
    assert!(text(e.rotate(&a, -1, &keys)).starts_with("no key for rotation 1023 at level 3"));
    assert!(text(e.conjugate(&a, &keys)).starts_with("no key for conjugation at level 3"));
    let product = e.mul(&a, &a).unwrap();
    assert!(
        text(e.relinearize(&product, &keys)).starts_with("no key for relinearization at level 3")
    );
    let hoisted = e.hoisted_rotations(&a, &[0, 7], &keys).map(|mut v| v.remove(0));
    assert!(text(hoisted).starts_with("no key for rotation 7 at level 3"));
    assert!(
        text(e.sum_rotated(&[(&a, 0), (&a, 7)], &keys))
            .starts_with("no key for rotation 7 at level 3")
    );
    let wanted = [f.rotation(5, 2), f.rotation(5, 3), KeySpec::conjugation(0)];
    assert_eq!(keys.missing(&wanted), wanted[1..]);
    assert_eq!(keys.specs(), [low]);
    assert_eq!(keys.bytes(), 2 * (3 + 4) * 2048 * 8);
    // Unusable specifications.
    let generator = KeyGenerator::new(&f.ctx);
    let identity = KeySpec { kind: cipherform_ckks::KeyKind::Rotation(1024), level: 1 };
    let refused = generator.evaluation_key(&f.secret, identity, &mut f.rng);
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    let refused = generator.evaluation_key(&f.secret, KeySpec::conjugation(25), &mut f.rng);
    assert!(matches!(refused, Err(Error::LevelTooHigh { .. })));
}

#[expect(clippy::needless_pass_by_value, reason = "results are used up here")]
fn foreign<T>(r: Result<T, Error>) -> bool {
    matches!(r, Err(Error::ParameterMismatch { .. }))
}

#[test]
fn parameter_sets_do_not_mix() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let mut g = Fixture::new("toy11_lev", Device::cpu());
    let (a, b) = (f.encrypt(&[0.5], 2), g.encrypt(&[0.5], 2));
    let p = g.encoder.encode(&[0.5], 2, b.scale()).unwrap();
    let keys = g.keys([KeySpec::conjugation(2)]);
    let (e, ctx) = (&f.evaluator, &f.ctx);
    assert!(foreign(e.add(&a, &b)) && foreign(e.add(&b, &a)) && foreign(e.mul(&a, &b)));
    assert!(foreign(e.add_plain(&a, &p)) && foreign(e.mul_plain(&a, &p)) && foreign(e.neg(&b)));
    assert!(foreign(e.rescale(b.clone())) && foreign(e.drop_level(&b, 1)) && foreign(e.mul_i(&b)));
    assert!(foreign(e.conjugate(&a, &keys)) && foreign(e.rotate(&b, 1, &keys)));
    assert!(foreign(e.set_level(&b, 1)) && foreign(e.add_constant(&b, 1.0)));
    assert!(foreign(f.encoder.decode(&p)));
    assert!(foreign(Encryptor::with_secret_key(ctx, &g.secret)));
    assert!(foreign(Decryptor::new(ctx, &g.secret)));
    assert!(foreign(Decryptor::new(ctx, &f.secret).unwrap().decrypt(&b)));
    assert!(foreign(Encryptor::with_secret_key(ctx, &f.secret).unwrap().encrypt(&p, &mut f.rng)));
    assert!(foreign(KeyGenerator::new(ctx).public_key(&g.secret, &mut f.rng)));
    let key = KeyGenerator::new(&g.ctx)
        .evaluation_key(&g.secret, KeySpec::conjugation(1), &mut g.rng)
        .unwrap();
    assert!(foreign(key.clone().expand(ctx)));
    assert!(foreign(EvaluationKeys::new(ctx).insert(key.expand(&g.ctx).unwrap())));
    // Two contexts over the same set do work together: client and server in one process.
    let twin = Context::new(f.ctx.params().clone(), &Device::cpu()).unwrap();
    let sum = Evaluator::new(&twin).add(&a, &a).unwrap();
    let plain = Decryptor::new(&f.ctx, &f.secret).unwrap().decrypt(&sum).unwrap();
    let got = Encoder::new(&twin).decode(&plain).unwrap();
    assert!((got[0].re - 1.0).abs() < 1e-6);
}

#[expect(clippy::needless_pass_by_value, reason = "results are used up here")]
fn strange<T>(r: Result<T, Error>) -> bool {
    matches!(r, Err(Error::KeyMismatch { .. }))
}

#[test]
fn secrets_do_not_mix() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let other = KeyGenerator::new(&f.ctx).secret_key(&mut f.rng).unwrap();
    assert_ne!(f.secret.id(), other.id());
    let specs = [KeySpec::relinearization(2), KeySpec::conjugation(2), f.rotation(1, 2)];
    let (a, keys) = (f.encrypt(&[0.5], 2), f.keys(specs));
    let own = std::mem::replace(&mut f.secret, other);
    let (b, their_keys) = (f.encrypt(&[0.5], 2), f.keys(specs));
    let public = KeyGenerator::new(&f.ctx).public_key(&f.secret, &mut f.rng).unwrap();
    assert_eq!((a.secret_id(), keys.secret_id()), (own.id(), Some(own.id())));
    assert_eq!((b.secret_id(), public.secret_id()), (f.secret.id(), f.secret.id()));

    let e = &f.evaluator;
    assert!(strange(e.add(&a, &b)) && strange(e.sub(&a, &b)) && strange(e.mul(&b, &a)));
    assert!(strange(e.rotate(&b, 1, &keys)) && strange(e.conjugate(&a, &their_keys)));
    assert!(strange(e.hoisted_rotations(&b, &[0, 1], &keys)));
    let product = e.mul(&a, &a).unwrap();
    assert!(strange(e.relinearize(&product, &their_keys)));
    assert!(strange(e.relinearize_rescale(std::slice::from_ref(&product), &their_keys)));
    let map = [(1, vec![1.0; f.ctx.params().slots()])].into();
    let map = LinearTransform::new(&f.encoder, 2, f.ctx.params().scale_at(2), &map, 1).unwrap();
    assert!(strange(e.linear_transform(&b, &map, &keys)));
    assert!(strange(e.linear_transform_rescale(&b, &map, &keys)));
    let square = Polynomial::new(cipherform_ckks::Basis::Monomial, vec![0.0, 0.0, 1.0]).unwrap();
    assert!(strange(e.polynomial(&a, &square, &their_keys)));
    assert!(strange(Decryptor::new(&f.ctx, &own).unwrap().decrypt(&b)));

    // The first key decides; one of another secret changes nothing.
    let mut mixed = keys.clone();
    let generator = KeyGenerator::new(&f.ctx);
    let spec = f.rotation(2, 2);
    let foreign = generator.evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
    assert!(strange(mixed.insert(foreign.expand(&f.ctx).unwrap())));
    assert_eq!(mixed.specs(), keys.specs());

    // What comes of operations and public keys is still named.
    let relinearized = e.relinearize_rescale(&[product], &keys).unwrap().remove(0);
    let conjugate = e.conjugate(&e.drop_level(&relinearized, 1).unwrap(), &keys).unwrap();
    assert_eq!(conjugate.secret_id(), own.id());
    Decryptor::new(&f.ctx, &own).unwrap().decrypt(&conjugate).unwrap();
    let plain = f.encoder.encode(&[0.5], 2, b.scale()).unwrap();
    let sent = Encryptor::with_public_key(&f.ctx, &public).unwrap().encrypt(&plain, &mut f.rng);
    assert_eq!(sent.unwrap().secret_id(), f.secret.id());
    // A name, not the secret: four bytes of it in messages.
    let text = e.add(&a, &b).unwrap_err().to_string();
    assert!(text.contains(&own.id().to_string()) && text.contains("secret keys differ"), "{text}");
}

#[test]
fn sums_of_degree_two() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let slots = f.ctx.params().slots();
    let (x, y) = (f.random_slots(slots), f.random_slots(slots));
    let (a, b) = (f.encrypt(&x, 3), f.encrypt(&y, 3));
    let keys = f.keys([KeySpec::relinearization(3)]);
    let e = &f.evaluator;
    let difference = e.sub(&e.mul(&a, &b).unwrap(), &e.mul(&b, &b).unwrap()).unwrap();
    let out = e.rescale(e.relinearize(&difference, &keys).unwrap()).unwrap();
    check(&f, &out, |j| (x[j] - y[j]) * y[j], "x y - y^2");
    // Degrees may differ, on either side.
    let square = e.square(&a).unwrap();
    let mut lifted = a.clone();
    let one = f.encoder.encode(&[1.0], 3, a.scale()).unwrap();
    lifted = e.mul_plain(&lifted, &one).unwrap();
    let sum = e.relinearize(&e.sub(&lifted, &square).unwrap(), &keys).unwrap();
    check(&f, &e.rescale(sum).unwrap(), |j| x[j] - x[j] * x[j], "x - x^2");
}
