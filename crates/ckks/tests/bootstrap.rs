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
