//! Bootstrapping, real encryptions at toy degrees and production scales.
//!
//! | test | what it proves |
//! |---|---|

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    BootstrapKind, BootstrapOptions, Bootstrapper, EvaluationKeys, PrecisionStats,
};
use cipherform_profile::record;
use cipherform_ring::Device;
use common::Fixture;

fn keyed(set: &str, options: BootstrapOptions) -> (Fixture, Bootstrapper, EvaluationKeys) {
    let mut f = Fixture::new(set, Device::cpu());
    let b = Bootstrapper::new(&f.ctx, options).unwrap();
    let keys = f.keys(b.keys());
    (f, b, keys)
}

#[test]
fn smoke() {
    for precise in [false, true] {
        let options = BootstrapOptions { precise, ..Default::default() };
        let (mut f, b, keys) = keyed("toy10_boot", options);
        let slots = f.ctx.params().slots();
        let z = f.random_slots(slots);
        let ct = f.encrypt(&z, b.input_level());
        let (out, recording) = record(|| b.bootstrap(&ct, &keys).unwrap());
        let stats = PrecisionStats::compare(&z, &f.decrypt(&out));
        let r = if precise { 256.0 } else { 2048.0 };
        let t = std::f64::consts::TAU / r;
        let slope = cipherform_ckks::Polynomial::interpolate(2, |x| (t * x).asin() / t)
            .unwrap()
            .coefficients()[1];
        let sine = |x: f64| slope * (t * x).sin() / t;
        let sines: Vec<_> =
            z.iter().map(|z| num_complex::Complex64::new(sine(z.re), sine(z.im))).collect();
        println!("without sine {}", PrecisionStats::compare(&sines, &f.decrypt(&out)));
        println!("{stats}\n{:?}\nfail {}", b.precision(), b.failure_log2());
        b.cost(BootstrapKind::Complex).check(&recording.total()).unwrap();
        assert_eq!(
            (out.level(), out.scale()),
            (b.output_level(), f.ctx.params().scale_at(out.level()))
        );
    }
}
