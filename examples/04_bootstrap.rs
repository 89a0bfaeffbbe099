//! Bootstrapping: a ciphertext that has no levels left gets them back, without anybody seeing what is in it.
//!
//! `cargo run --release --example 04_bootstrap` (a toy set: seconds, not secure)
//! `cargo run --release --example 04_bootstrap -- --set boot16 --precise --rounds 3` (needs 14 GiB)
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::{Context as _, Result};
use cipherform_ckks::{
    BootstrapKind, BootstrapOptions, Bootstrapper, Context, Decryptor, Device, Encoder, Encryptor,
    Evaluator, KeyGenerator, PrecisionStats, SeededKey, presets,
};
use cipherform_profile::{Recording, record};
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the circuit consists of, by name of the span; the correction is there in precise mode only.
const STAGES: [&str; 7] = [
    "correction",
    "slots_to_coefficients",
    "raise",
    "coefficients_to_slots",
    "split",
    "eval_mod",
    "sines",
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag| args.iter().skip_while(|a| *a != flag).nth(1);
    let set = after("--set").map_or("toy12_boot", String::as_str);
    let rounds = after("--rounds").map_or(Ok(1), |n| n.parse::<usize>())?;
    let options = BootstrapOptions {
        precise: args.iter().any(|a| a == "--precise"),
        log2_bound: after("--log2-bound").map_or(Ok(0), |k| k.parse())?,
        log2_slots: after("--log2-slots").map(|k| k.parse()).transpose()?,
        memory_limit: None,
    };

    let params = presets::get(set)?;
    let ctx = Context::new(params.clone(), &Device::cpu())?;
    println!("{params:?} on {}", Device::cpu().description());
    let start = Instant::now();
    let bootstrapper = Bootstrapper::new(&ctx, options)?;
    let (low, high) = (bootstrapper.input_level(), bootstrapper.output_level());
    let predicted = *bootstrapper.precision();
    println!("  {} levels between two bootstraps: {low} to {high}.", high - low);
    let failure = bootstrapper.failure_log2();
    println!("  fails with probability 2^{failure:.1}; security {} bits.", params.security_bits());
    println!(
        "  predicted: noise of {:.1} bits, {:.1} in the worst slot; {:.1} with the sine's error.",
        predicted.noise_std, predicted.noise_worst, predicted.worst
    );
    let memory = bootstrapper.memory_bytes() as f64 / 1e9;
    println!("  {memory:.2} GB of keys, diagonals and work. Diagonals: {:.1?}.", start.elapsed());

    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng)?;
    let specs = bootstrapper.keys();
    let seeded: usize = specs.iter().map(|&s| SeededKey::serialized_len(&params, s)).sum();
    let start = Instant::now();
    let keys = generator.expanded_keys(&secret, &specs, &mut rng, |_| ())?;
    println!(
        "{} keys in {:.1?}: {:.2} GB seeded, {:.2} GB expanded.",
        specs.len(),
        start.elapsed(),
        seeded as f64 / 1e9,
        keys.bytes() as f64 / 1e9
    );

    let period = 1 << options.log2_slots.unwrap_or(params.log_n() - 1);
    let size = f64::from(options.log2_bound).exp2();
    let mut part = || size * ((rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0);
    let z: Vec<Complex64> = (0..period).map(|_| Complex64::new(part(), part())).collect();
    let encoder = Encoder::new(&ctx);
    let plaintext = encoder.encode(&z, low, params.scale_at(low))?;
    let ct = Encryptor::with_secret_key(&ctx, &secret)?.encrypt(&plaintext, &mut rng)?;
    println!("Encrypted {} complex slots at level {}.", params.slots(), ct.level());

    let mut best: Option<(Duration, Recording)> = None;
    let mut refreshed = None;
    for _ in 0..rounds {
        let start = Instant::now();
        let (out, recording) = record(|| bootstrapper.bootstrap(&ct, &keys));
        let elapsed = start.elapsed();
        bootstrapper.cost(BootstrapKind::Complex).check(&recording.total())?;
        println!("Bootstrapped in {elapsed:.2?}.");
        if best.as_ref().is_none_or(|(least, _)| elapsed < *least) {
            best = Some((elapsed, recording));
        }
        refreshed = Some(out?);
    }
    let (refreshed, (_, recording)) = (refreshed.context("no rounds")?, best.context("no rounds")?);
    let decryptor = Decryptor::new(&ctx, &secret)?;
    let want: Vec<Complex64> = z.iter().copied().cycle().take(params.slots()).collect();
    let stats = PrecisionStats::compare(&want, &encoder.decode(&decryptor.decrypt(&refreshed)?)?);
    println!("Level {}: {stats}", refreshed.level());
    print_times(&recording);

    // The levels are real: multiply by another encrypted vector, of absolute value 1, until they are used up again.
    let evaluator = Evaluator::new(&ctx);
    let turn = |j: usize| Complex64::from_polar(1.0, j as f64);
    let y: Vec<Complex64> = (0..params.slots()).map(turn).collect();
    let plaintext = encoder.encode(&y, high, params.scale_at(high))?;
    let y = Encryptor::with_secret_key(&ctx, &secret)?.encrypt(&plaintext, &mut rng)?;
    let mut x = refreshed;
    while x.level() > low {
        let product = evaluator.mul(&x, &evaluator.set_level(&y, x.level())?)?;
        let product = evaluator.relinearize_rescale(&[product], &keys)?;
        x = product.into_iter().next().context("one product gives one result")?;
    }
    let turns = (high - low) as f64;
    let turned = |(j, z): (usize, &Complex64)| z * Complex64::from_polar(1.0, turns * j as f64);
    let clear: Vec<Complex64> = want.iter().enumerate().map(turned).collect();
    let got = encoder.decode(&decryptor.decrypt(&x)?)?;
    let used = PrecisionStats::compare(&clear, &got);
    println!("Multiplied down to level {}: worst slot {:.1} bits.", x.level(), used.min);
    // Half a bit below the model, as the largest of many errors scatters.
    anyhow::ensure!(stats.min > predicted.worst - 0.5, "less precise than predicted");
    Ok(())
}

/// Where the time went, by primitive, children excluded.
fn print_times(recording: &Recording) {
    let mut own: BTreeMap<&str, Duration> = BTreeMap::new();
    let spans = recording.spans();
    for (i, span) in spans.iter().enumerate() {
        let children = spans.iter().enumerate().filter(|(j, child)| child.parent == i && *j != i);
        let children: Duration = children.map(|(_, child)| child.wall).sum();
        *own.entry(&span.operator.name).or_default() += span.wall.saturating_sub(children);
    }
    for stage in STAGES {
        let total: Duration =
            spans.iter().filter(|s| s.operator.name == stage).map(|s| s.wall).sum();
        println!("  {stage:<22} {total:>8.1?}");
    }
    let mut own: Vec<_> = own.into_iter().collect();
    own.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
    for (name, time) in own.into_iter().take(12) {
        println!("    {name:<22} {time:>8.1?}");
    }
}
