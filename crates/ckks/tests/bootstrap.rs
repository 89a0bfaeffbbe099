//! Bootstrapping: real encryptions at toy degrees, with the scales and primes of the full sets.
//!
//! | test | what it proves |
//! |---|---|
//! | `noise_and_sine_are_as_predicted` | both sources of error, separately, for every degree of correction |
//! | `a_bootstrap_can_be_walked` | its estimate, typical and bound, for inputs with little and with much error |
//! | `all_kinds_and_their_exact_costs` | complex, two real, one real; level, scale and every counter |
//! | `any_shape_of_slots` | zero, constant, replicated, alternating and extreme vectors |
//! | `sparse_slots` | periods from one slot up: right, and cheaper |
//! | `larger_slots` | values up to a power of two |
//! | `levels_come_back` | computing between two bootstraps |
//! | `devices_agree` | the same words on both devices |
//! | `wrong_inputs` | a typed error for each, before any work |
//! | `wrong_options` | sets that cannot bootstrap, ranges, memory |
//! | `full_size` | ignored: boot15, boot16, boot16_deep, boot16_hp with times |
//!
//! Bounds. The noise of a bootstrap is Laplace over the slots (see `noise`), so a mean square over m parts scatters by
//! sqrt(5 / m), 0.05 bits of deviation for 1024 parts; roundings also depend on the secret's weight and the few vectors
//! that raising the modulus adds. 0.3 bits is far outside. For a largest error, half a bit below the prediction.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::noise::{NoiseMode, NoiseModel};
use cipherform_ckks::{
    BootstrapEstimate, BootstrapKind, BootstrapOptions, Bootstrapper, Ciphertext, Context, Error,
    EvaluationKeys, Polynomial, PrecisionStats, presets,
};
use cipherform_profile::{Counter, record};
use cipherform_ring::Device;
use common::Fixture;
use num_complex::Complex64;
use std::f64::consts::TAU;

const PRECISE: BootstrapOptions =
    BootstrapOptions { precise: true, log2_bound: 0, log2_slots: None, memory_limit: None };

struct Setup {
    f: Fixture,
    b: Bootstrapper,
    keys: EvaluationKeys,
}

impl Setup {
    fn new(set: &str, options: BootstrapOptions) -> Self {
        Self::on(Fixture::new(set, Device::cpu()), options)
    }

    fn on(mut f: Fixture, options: BootstrapOptions) -> Self {
        let b = Bootstrapper::new(&f.ctx, options).unwrap();
        let keys = f.many_keys(&b.keys());
        Self { f, b, keys }
    }

    fn encrypt<T: Copy + Into<Complex64>>(&mut self, z: &[T]) -> Ciphertext {
        self.f.encrypt(z, self.b.input_level())
    }

    /// Decrypts a result, which must have the promised level and scale.
    fn open(&self, ct: &Ciphertext) -> Vec<Complex64> {
        let level = self.b.output_level();
        assert_eq!((ct.level(), ct.degree()), (level, 1));
        assert_eq!(ct.scale().to_bits(), self.f.ctx.params().scale_at(level).to_bits());
        self.f.decrypt(ct)
    }

    fn assert_close(&self, what: &str, want: &[Complex64], got: &Ciphertext) {
        let stats = PrecisionStats::compare(want, &self.open(got));
        let predicted = self.b.precision().worst;
        assert!(stats.min > predicted - 0.5, "{what}: {stats}; predicted {predicted:.1}");
    }
}

fn repeated<T: Copy + Into<Complex64>>(values: &[T], slots: usize) -> Vec<Complex64> {
    values.iter().map(|&v| v.into()).cycle().take(slots).collect()
}

/// What an exact modular reduction would make of a slot: the corrected sine.
fn ideal(x: f64, ratio: f64, degree: usize) -> f64 {
    let t = TAU / ratio;
    let arcsine = Polynomial::interpolate(degree + 1, |x| (t * x).asin() / t).unwrap();
    let (before, after) = match degree {
        1 => (x, arcsine.coefficients()[1]),
        _ => (arcsine.evaluate_f64(x), 1.0),
    };
    after * (t * before).sin() / t
}

/// A toy set whose own R is 2^8, like that of `boot16_hp`: always corrected, by degree 5 in precise mode.
fn fixture_of_ratio_8() -> Fixture {
    let mut literal = presets::literal("toy12_boot").unwrap();
    literal.name = "toy12_ratio8".into();
    literal.bootstrapping.as_mut().unwrap().log2_ratio = 8;
    let ctx = Context::new(literal.check_insecure_toy().unwrap(), &Device::cpu()).unwrap();
    Fixture::in_context(ctx)
}

#[test]
fn noise_and_sine_are_as_predicted() {
    let plain = BootstrapOptions::default();
    let cases = [
        (Setup::new("toy10_boot", plain), 2048.0, 1),
        (Setup::new("toy12_boot", plain), 2048.0, 1),
        (Setup::new("toy10_boot", PRECISE), 128.0, 3),
        (Setup::on(fixture_of_ratio_8(), plain), 128.0, 3),
        (Setup::on(fixture_of_ratio_8(), PRECISE), 64.0, 5),
    ];
    for (mut s, ratio, degree) in cases {
        let what = format!("{} with degree {degree}", s.f.ctx.params().name());
        let z = s.f.random_slots(s.f.ctx.params().slots());
        let ct = s.encrypt(&z);
        let out = s.b.bootstrap(&ct, &s.keys).unwrap();
        let predicted = *s.b.precision();
        s.assert_close(&what, &z, &out);
        let exact =
            |z: &Complex64| Complex64::new(ideal(z.re, ratio, degree), ideal(z.im, ratio, degree));
        let sines: Vec<Complex64> = z.iter().map(exact).collect();
        let noise = PrecisionStats::compare(&sines, &s.open(&out));
        for std in [noise.std_real, noise.std_imaginary] {
            assert!((std - predicted.noise_std).abs() < 0.3, "{what}: {noise} v {predicted:?}");
        }
        assert!(noise.min > predicted.noise_worst - 0.5, "{what}: {noise} v {predicted:?}");
        // Interpolation is not quite the best approximation: up to 0.3 bits.
        let grid = (-1000..=1000).map(|i| f64::from(i) / 1000.0);
        let sine = grid.map(|x| (ideal(x, ratio, degree) - x).abs()).fold(0.0, f64::max);
        assert!((-sine.log2() - predicted.sine).abs() < 0.3, "{what}: {sine:e} v {predicted:?}");
    }
}

#[test]
fn a_bootstrap_can_be_walked() {
    let plain = BootstrapOptions::default();
    let large = BootstrapOptions { log2_bound: 3, ..PRECISE };
    let sparse = BootstrapOptions { log2_slots: Some(5), ..plain };
    for options in [plain, PRECISE, large, sparse] {
        let mut s = Setup::new("toy10_boot", options);
        let params = s.f.ctx.params().clone();
        let model = NoiseModel::new(&params);
        let (level, bound) = (s.b.input_level(), f64::from(options.log2_bound).exp2());
        let (scale, slots) = (params.scale_at(level), 1 << options.log2_slots.unwrap_or(9));
        for error in [0.0, 1e-3] {
            let z: Vec<_> = s.f.random_slots(slots).into_iter().map(|v| v * bound).collect();
            let errors = s.f.random_slots(slots);
            let noisy: Vec<_> = z.iter().zip(&errors).map(|(z, e)| z + e * error).collect();
            let ct = s.encrypt(&noisy);
            let out = s.b.bootstrap(&ct, &s.keys).unwrap();
            let want = repeated(&z, params.slots());
            let stats = PrecisionStats::compare(&want, &s.open(&out));
            // Uniform errors of size 1 have the deviation 1 / sqrt 3.
            let walk = |mode, message| {
                let fresh = model.encrypted_with_secret_key(mode, level, scale, message).unwrap();
                let std = error / 3f64.sqrt() * scale / model.slot(1.0);
                let input = model.estimate(mode, level, scale, message, fresh.std().hypot(std));
                input.unwrap().bootstrap(options).unwrap()
            };
            let typical = walk(NoiseMode::Typical, bound * (2.0f64 / 3.0).sqrt());
            let worst = walk(NoiseMode::Bound, bound);
            for walked in [&typical, &worst] {
                assert_eq!((walked.level(), walked.degree()), (out.level(), 1));
                assert_eq!(walked.scale().to_bits(), out.scale().to_bits());
            }
            let what = format!("{options:?}, {error}: {stats}, {typical:?}, {worst:?}");
            // With 64 parts a mean square scatters by 0.28, half of that in bits' terms 0.2; and the input's is uniform.
            let tolerance = if options.log2_slots.is_some() { 0.8 } else { 0.3 };
            let measured = stats.std_real.midpoint(stats.std_imaginary);
            assert!((measured - typical.bits()).abs() < tolerance, "{what}");
            assert!(
                measured > worst.bits()
                    && stats.min > -(worst.slot_std() * model.quantile(-54.0)).log2(),
                "{what}"
            );
            // The worst multiple and slot, not an impossible one.
            assert!(typical.bits() - worst.bits() < 4.0, "{what}");
        }
        let at = |mode, level, message| {
            model.estimate(mode, level, params.scale_at(level), message, 10.0).unwrap()
        };
        let refused = at(NoiseMode::Bound, level, bound * 1.01).bootstrap(options);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
        assert!(at(NoiseMode::Typical, level, bound).bootstrap(options).is_ok());
        let refused = at(NoiseMode::Bound, level - 1, bound).bootstrap(options);
        assert!(matches!(refused, Err(Error::LevelMismatch { .. })));
    }
    let flat = presets::get("lev13").unwrap();
    let input = NoiseModel::new(&flat).estimate(NoiseMode::Bound, 1, flat.scale_at(1), 1.0, 10.0);
    assert!(input.unwrap().bootstrap(plain).is_err());
}

#[test]
fn all_kinds_and_their_exact_costs() {
    for options in [BootstrapOptions::default(), PRECISE] {
        let mut s = Setup::new("toy10_boot", options);
        let slots = s.f.ctx.params().slots();
        let z = s.f.random_slots(slots);
        let (re, im): (Vec<f64>, Vec<f64>) = z.iter().map(|z| (z.re, z.im)).unzip();
        let (ct, ct_re, ct_im) = (s.encrypt(&z), s.encrypt(&re), s.encrypt(&im));
        let (re, im) = (repeated(&re, slots), repeated(&im, slots));

        let (out, recording) = record(|| s.b.bootstrap(&ct, &s.keys).unwrap());
        let complex = s.b.cost(BootstrapKind::Complex);
        complex.check(&recording.total()).unwrap();
        s.assert_close("complex", &z, &out);

        let (out, recording) = record(|| s.b.bootstrap_pair(&ct_re, &ct_im, &s.keys).unwrap());
        s.b.cost(BootstrapKind::RealPair).check(&recording.total()).unwrap();
        s.assert_close("first of two", &re, &out[0]);
        s.assert_close("second of two", &im, &out[1]);

        let (out, recording) = record(|| s.b.bootstrap_real(&ct_re, &s.keys).unwrap());
        let real = s.b.cost(BootstrapKind::Real);
        real.check(&recording.total()).unwrap();
        s.assert_close("real", &re, &out);
        // Sixteen tensor products and thirteen relinearizations a modular reduction.
        if !options.precise {
            let counts = [&complex, &real].map(|cost| {
                [Counter::CtCt, Counter::Relinearizations, Counter::Bootstraps].map(|c| cost.get(c))
            });
            assert_eq!(counts, [[32, 26, 1], [16, 13, 1]]);
        }
    }
}

#[test]
fn any_shape_of_slots() {
    let mut s = Setup::new("toy10_boot", BootstrapOptions::default());
    let slots = s.f.ctx.params().slots();
    let c = Complex64::new;
    let shapes = [
        ("zero", vec![c(0.0, 0.0)]),
        ("constant", vec![c(0.3, -0.7)]),
        ("one", vec![c(1.0, 1.0)]),
        ("minus one", vec![c(-1.0, -1.0)]),
        ("corners", vec![c(1.0, -1.0), c(-1.0, 1.0), c(1.0, 1.0), c(-1.0, -1.0)]),
        ("one of many", (0..slots).map(|j| c(f64::from(u8::from(j == 77)), 0.0)).collect()),
        ("ramp", (0..slots).map(|j| c(j as f64 / slots as f64, 1.0 - j as f64 / 256.0)).collect()),
    ];
    for (what, z) in shapes {
        let ct = s.encrypt(&z);
        let out = s.b.bootstrap(&ct, &s.keys).unwrap();
        s.assert_close(what, &repeated(&z, slots), &out);
    }
}

#[test]
fn sparse_slots() {
    let all = Setup::new("toy10_boot", BootstrapOptions::default());
    let full = all.b.cost(BootstrapKind::Complex).get(Counter::LimbNtts);
    for log2_slots in [0, 1, 4, 8] {
        for precise in [false, true] {
            let options = BootstrapOptions { precise, log2_slots: Some(log2_slots), ..PRECISE };
            let mut s = Setup::new("toy10_boot", options);
            let slots = s.f.ctx.params().slots();
            let z = s.f.random_slots(1 << log2_slots);
            let ct = s.encrypt(&z);
            let (out, recording) = record(|| s.b.bootstrap(&ct, &s.keys).unwrap());
            let cost = s.b.cost(BootstrapKind::Complex);
            cost.check(&recording.total()).unwrap();
            s.assert_close(&format!("2^{log2_slots} slots"), &repeated(&z, slots), &out);
            if log2_slots <= 4 && !precise {
                assert!(cost.get(Counter::LimbNtts) < full);
            }
        }
    }
}

#[test]
fn larger_slots() {
    for options in [
        BootstrapOptions { log2_bound: 3, ..Default::default() },
        BootstrapOptions { log2_bound: 3, ..PRECISE },
    ] {
        let mut s = Setup::new("toy10_boot", options);
        let mut z = s.f.random_slots(s.f.ctx.params().slots());
        for z in &mut z {
            *z *= 8.0;
        }
        z[5] = Complex64::new(8.0, -8.0);
        let ct = s.encrypt(&z);
        let out = s.b.bootstrap(&ct, &s.keys).unwrap();
        s.assert_close("up to 8", &z, &out);
        // Three bits less than for slots up to 1.
        let one =
            Bootstrapper::new(&s.f.ctx, BootstrapOptions { log2_bound: 0, ..options }).unwrap();
        let lost = one.precision().worst - s.b.precision().worst;
        assert!((lost - 3.0).abs() < 0.3, "{lost} bits");
    }
}

#[test]
fn levels_come_back() {
    let mut s = Setup::new("toy12_boot", BootstrapOptions::default());
    // Within the unit circle, where squares stay.
    let mut z = s.f.random_slots(s.f.ctx.params().slots());
    for z in &mut z {
        *z *= std::f64::consts::FRAC_1_SQRT_2;
    }
    let mut ct = s.encrypt(&z);
    for round in 0..2 {
        ct = s.b.bootstrap(&ct, &s.keys).unwrap();
        while ct.level() > s.b.input_level() {
            let square = s.f.evaluator.square(&ct).unwrap();
            ct = s.f.evaluator.relinearize_rescale(&[square], &s.keys).unwrap().remove(0);
            for z in &mut z {
                *z *= *z;
            }
        }
        // Each of four squarings doubles the error of the bootstrap, at most.
        let stats = PrecisionStats::compare(&z, &s.f.decrypt(&ct));
        assert!(stats.min > s.b.precision().worst - 4.5, "round {round}: {stats}");
    }
}

#[test]
fn devices_agree() {
    let run = |device| {
        let mut s = Setup::on(
            Fixture::new("toy10_boot", device),
            BootstrapOptions { log2_slots: Some(3), ..Default::default() },
        );
        let ct = s.encrypt(&[0.5, -0.25, 1.0, -1.0, 0.0, 0.125, 0.75, 0.0]);
        let [a, b] = s.b.bootstrap_pair(&ct, &ct, &s.keys).unwrap();
        (a.to_bytes().unwrap(), b.to_bytes().unwrap())
    };
    let reference = run(Device::reference());
    for cpu in Device::cpus() {
        assert!(run(cpu) == reference, "{cpu} computed other words");
    }
}

#[test]
fn wrong_inputs() {
    let mut s = Setup::new("toy10_boot", BootstrapOptions::default());
    let level = s.b.input_level();
    let good = s.encrypt(&[0.5]);
    let refused = |ct: &Ciphertext| s.b.bootstrap(ct, &s.keys).unwrap_err();
    let e = &s.f.evaluator;
    for other in [0, level - 1] {
        let error = refused(&e.drop_level(&good, other).unwrap());
        assert!(
            matches!(error, Error::LevelMismatch { lhs, rhs: 2, .. } if lhs == other),
            "{error}"
        );
    }
    let mut scaled = good.clone();
    scaled.reinterpret_scale(good.scale() * 1.001).unwrap();
    assert!(matches!(refused(&scaled), Error::ScaleMismatch { .. }));
    for scale in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        assert!(matches!(scaled.reinterpret_scale(scale), Err(Error::InvalidScale { .. })));
    }
    assert!(matches!(refused(&e.square(&good).unwrap()), Error::DegreeMismatch { degree: 2, .. }));
    let nan = s.f.encoder.encode(&[f64::NAN], level, good.scale());
    assert!(matches!(nan, Err(Error::NonFinite { index: 0 })));
    // Of two real ones, either may be wrong.
    let low = e.drop_level(&good, 1).unwrap();
    assert!(matches!(s.b.bootstrap_pair(&good, &low, &s.keys), Err(Error::LevelMismatch { .. })));
    assert!(matches!(s.b.bootstrap_pair(&low, &good, &s.keys), Err(Error::LevelMismatch { .. })));

    // Each key is needed, at its level.
    let specs = s.b.keys();
    for missing in [0, specs.len() / 2, specs.len() - 1] {
        let mut fewer = specs.clone();
        let gone = fewer.remove(missing);
        let keys = s.f.many_keys(&fewer);
        let error = s.b.bootstrap(&good, &keys).unwrap_err();
        assert!(matches!(error, Error::MissingKey { spec } if spec == gone), "{error}");
    }

    // Another set's ciphertext, and another set's keys.
    let mut other = Fixture::new("toy12_boot", Device::cpu());
    let foreign = other.encrypt(&[0.5], 3);
    assert!(matches!(refused(&foreign), Error::ParameterMismatch { .. }));
    let foreign_keys = other.many_keys(&[]);
    let error = s.b.bootstrap(&good, &foreign_keys).unwrap_err();
    assert!(matches!(error, Error::ParameterMismatch { .. }), "{error}");
}

#[test]
fn wrong_options() {
    let refused = |set: &str, options: BootstrapOptions| {
        let f = Fixture::new(set, Device::cpu());
        Bootstrapper::new(&f.ctx, options).map(drop).unwrap_err()
    };
    let plain = BootstrapOptions::default();
    let invalid = [
        refused("toy11_deep", plain),
        refused("toy10_boot", BootstrapOptions { log2_slots: Some(10), ..plain }),
        refused("toy10_boot", BootstrapOptions { log2_bound: 9, ..plain }),
    ];
    for error in invalid {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    // The limit applies before anything exists.
    for options in [plain, PRECISE, BootstrapOptions { log2_slots: Some(3), ..plain }] {
        let f = Fixture::new("toy10_boot", Device::cpu());
        let bytes = BootstrapEstimate::new(f.ctx.params(), options).unwrap().memory_bytes;
        assert_eq!(Bootstrapper::new(&f.ctx, options).unwrap().memory_bytes(), bytes);
        let limited = |limit| BootstrapOptions { memory_limit: Some(limit), ..options };
        assert!(Bootstrapper::new(&f.ctx, limited(bytes)).is_ok());
        let error = refused("toy10_boot", limited(bytes - 1));
        let Error::InsufficientMemory { needed, limit, .. } = error else { panic!("{error}") };
        assert_eq!((needed, limit), (bytes, bytes - 1));
    }
    // A forecast has no limit.
    let params = presets::get("toy10_boot").unwrap();
    let limited = BootstrapOptions { memory_limit: Some(1), ..plain };
    let forecast = BootstrapEstimate::new(&params, limited).unwrap();
    assert_eq!(forecast, BootstrapEstimate::new(&params, plain).unwrap());
    // Correction needs two levels of the three, and degree 5 all of them.
    let mut literal = presets::literal("toy10_boot").unwrap();
    literal.name = "toy10_ratio8".into();
    literal.bootstrapping.as_mut().unwrap().log2_ratio = 8;
    let ctx = Context::new(literal.check_insecure_toy().unwrap(), &Device::cpu()).unwrap();
    assert!(matches!(Bootstrapper::new(&ctx, PRECISE), Err(Error::InvalidArgument { .. })));
}

/// CPU seconds of this process, in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

#[test]
#[ignore = "slow: the full sets, 9 to 14 GiB of memory, a minute each; choose by BOOT_SET, BOOT_PRECISE, BOOT_ROUNDS"]
fn full_size() {
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let set = var("BOOT_SET", "boot16");
    let options =
        BootstrapOptions { precise: !var("BOOT_PRECISE", "").is_empty(), ..Default::default() };
    let mut f = Fixture::new(&set, Device::cpu());
    let b = Bootstrapper::new(&f.ctx, options).unwrap();
    let start = std::time::Instant::now();
    let keys = f.many_keys(&b.keys());
    println!("{set}: {} keys in {:.1?}", b.keys().len(), start.elapsed());
    let z = f.random_slots(f.ctx.params().slots());
    let ct = f.encrypt(&z, b.input_level());
    for _ in 0..var("BOOT_ROUNDS", "1").parse().unwrap() {
        let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
        let (out, recording) = record(|| b.bootstrap(&ct, &keys).unwrap());
        let (wall, cpu) = (start.elapsed(), cpu_seconds() - cpu);
        b.cost(BootstrapKind::Complex).check(&recording.total()).unwrap();
        let stats = PrecisionStats::compare(&z, &f.decrypt(&out));
        println!("{wall:.2?} wall, {cpu:.2} s CPU; {stats}\n  {:?}", b.precision());
        assert!(stats.min > b.precision().worst - 0.5);
        let mut own: std::collections::BTreeMap<&str, f64> = std::collections::BTreeMap::new();
        let spans = recording.spans();
        for (i, span) in spans.iter().enumerate() {
            let wall = span.wall.as_secs_f64();
            *own.entry(&span.operator.name).or_default() += wall;
            if i > 0 {
                *own.entry(&spans[span.parent].operator.name).or_default() -= wall;
            }
        }
        let mut own: Vec<_> = own.into_iter().collect();
        own.sort_by(|a, b| b.1.total_cmp(&a.1));
        println!(
            "  {:?}",
            own.iter().take(14).map(|(n, t)| format!("{n} {t:.2}")).collect::<Vec<_>>()
        );
    }
}
