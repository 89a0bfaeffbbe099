//! Measured noise against the predictions of `noise`.
//!
//! | test | what it proves |
//! |---|---|
//! | `fresh` | both encryptors |
//! | `key_switches` | relinearization, rotation and conjugation at levels with one and several digits |
//! | `rescalings_and_products` | rescaling, ciphertext and plaintext products |
//!
//! Each compares the root mean square over all slots with the prediction. With 2^11 to 2^14 parts the estimate itself
//! scatters by 1.6 % or less; the secret's weight scatters the rounding noise by 2 %, and noise times the secret is the
//! same secret in every slot. 15 % is far outside all of that and far inside a bit (100 %).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{Ciphertext, Encryptor, KeyGenerator, KeySpec, PrecisionStats};
use cipherform_ring::Device;
use common::Fixture;
use num_complex::Complex64;

const TOLERANCE: f64 = 0.15;

/// Root mean square of the slots' parts, as a coefficient deviation in units of 1.
fn measured(f: &Fixture, want: &[Complex64], ct: &Ciphertext) -> f64 {
    let stats = PrecisionStats::compare(want, &f.decrypt(ct));
    let square = |bits: f64| (-2.0 * bits).exp2();
    let mean_square = f64::midpoint(square(stats.std_real), square(stats.std_imaginary));
    mean_square.sqrt() * ct.scale() / (f.ctx.params().n() as f64 / 2.0).sqrt()
}

fn assert_close(what: &str, got: f64, want: f64) {
    assert!((got / want - 1.0).abs() < TOLERANCE, "{what}: measured {got:.2}, predicted {want:.2}");
}

#[test]
fn fresh() {
    for set in ["toy11_lev", "lev13", "lev14"] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let slots = f.random_slots(f.ctx.params().slots());
        let ct = f.encrypt(&slots, 1);
        let want = model.fresh_secret_key().hypot(model.encoding());
        assert_close(set, measured(&f, &slots, &ct), want);
        let public = KeyGenerator::new(&f.ctx).public_key(&f.secret, &mut f.rng).unwrap();
        let plain = f.encoder.encode(&slots, 1, f.ctx.params().scale_at(1)).unwrap();
        let encryptor = Encryptor::with_public_key(&f.ctx, &public).unwrap();
        let ct = encryptor.encrypt(&plain, &mut f.rng).unwrap();
        let want = model.fresh_public_key().hypot(model.encoding());
        assert_close(set, measured(&f, &slots, &ct), want);
    }
}

#[test]
fn key_switches() {
    // lev13 has the smallest margin of P over a digit, toy11_lev none at all: their key switches are noisy.
    let cases =
        [("toy11_lev", 3), ("toy11_deep", 24), ("toy11_deep", 7), ("lev13", 4), ("lev14", 7)];
    for (set, level) in cases {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let slots = f.ctx.params().slots();
        let specs =
            [KeySpec::relinearization(level), KeySpec::conjugation(level), f.rotation(1, level)];
        let keys = f.keys(specs);
        let x = f.random_slots(slots);
        let ct = f.encrypt(&x, level);
        let fresh = model.fresh_secret_key().hypot(model.encoding());
        let want = fresh.hypot(model.key_switch(level));
        let rotated: Vec<_> = (0..slots).map(|j| x[(j + 1) % slots]).collect();
        let got = f.evaluator.rotate(&ct, 1, &keys).unwrap();
        assert_close(&format!("{set} rotate"), measured(&f, &rotated, &got), want);
        let got = f.evaluator.hoisted_rotations(&ct, &[1], &keys).unwrap();
        assert_close(&format!("{set} hoisted"), measured(&f, &rotated, &got[0]), want);
        let conjugated: Vec<_> = x.iter().map(Complex64::conj).collect();
        let got = f.evaluator.conjugate(&ct, &keys).unwrap();
        assert_close(&format!("{set} conjugate"), measured(&f, &conjugated, &got), want);
        // The difference between a relinearized and an unrelinearized product is the key switch alone.
        let product = f.evaluator.mul(&ct, &ct).unwrap();
        let switched = f.evaluator.relinearize(&product, &keys).unwrap();
        let mut difference = f.evaluator.sub(&switched, &product).unwrap();
        // Measured at the input's scale: at the product's, errors are below the 60 bits that statistics resolve.
        difference.reinterpret_scale(ct.scale()).unwrap();
        let zero = vec![Complex64::ZERO; slots];
        let got = measured(&f, &zero, &difference);
        assert_close(&format!("{set} relinearize"), got, model.key_switch(level));
    }
}

#[test]
fn rescalings_and_products() {
    for (set, level) in [("toy11_deep", 24), ("lev13", 4), ("lev14", 7)] {
        let mut f = Fixture::new(set, Device::cpu());
        let model = NoiseModel::new(f.ctx.params());
        let (slots, q) = (f.ctx.params().slots(), f.ctx.params().modulus_at(level) as f64);
        let keys = f.keys([KeySpec::relinearization(level)]);
        let (x, y) = (f.random_slots(slots), f.random_slots(slots));
        let (cx, cy) = (f.encrypt(&x, level), f.encrypt(&y, level));
        // In units of the result's scale: S |values| e / q, root mean square of |values| over the square: sqrt(2/3).
        let share = cx.scale() * (2.0f64 / 3.0).sqrt() / q;
        let fresh = model.fresh_secret_key().hypot(model.encoding());
        let want: Vec<_> = x.iter().zip(&y).map(|(a, b)| a * b).collect();

        let product = f.evaluator.relinearize(&f.evaluator.mul(&cx, &cy).unwrap(), &keys).unwrap();
        let product = f.evaluator.rescale(product).unwrap();
        let noise = (fresh * share * 2f64.sqrt()).hypot(model.key_switch(level) / q);
        assert_close(
            &format!("{set} product"),
            measured(&f, &want, &product),
            noise.hypot(model.rounding()),
        );

        let plain = f.encoder.encode(&y, level, q).unwrap();
        let product = f.evaluator.rescale(f.evaluator.mul_plain(&cx, &plain).unwrap()).unwrap();
        let noise = (fresh * (2.0f64 / 3.0).sqrt()).hypot(model.encoding() * share);
        assert_close(
            &format!("{set} plain product"),
            measured(&f, &want, &product),
            noise.hypot(model.rounding()),
        );
    }
}
