//! Bootstrapping, timed and compared slot by slot, and the same inputs through the peer's.

use crate::output::bytes;
use crate::verbs::bench::harness::{Measured, Row, Times, measure};
use crate::verbs::bench::keys::generate;
use crate::verbs::bench::peer::Peer;
use anyhow::{Context as _, Result, bail};
use cipherform_ckks::{
    BootstrapOptions, Bootstrapper, Ciphertext, Context, Decryptor, Device, Encoder, Encryptor,
    KeyGenerator, PrecisionStats, SeededKey, SwitchingKey, presets,
};
use cipherform_client::entropy;
use cipherform_profile::{Recording, follow, peak_rss_bytes, record};
use num_complex::Complex64;
use rand_core::Rng as _;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;

/// What a run is asked for.
pub(crate) struct Plan<'a> {
    pub(crate) set: &'a str,
    pub(crate) precise: bool,
    pub(crate) device: Device,
    pub(crate) threads: &'a [usize],
    pub(crate) rounds: usize,
    /// The peer's library, if it takes part.
    pub(crate) peer: Option<&'a Path>,
}

/// The largest ratio to the peer that was promised: 4.5 s of 17.3 s with AVX-512 IFMA, 15 s with AVX2 and FMA only.
pub(crate) fn target(device: Device) -> Option<f64> {
    match device.to_string().as_str() {
        "cpu:avx512ifma" => Some(4.5 / 17.3),
        "cpu:avx2" => Some(15.0 / 17.3),
        _ => None,
    }
}

/// Uniform in [-1, 1], exact in 32 bits, because that is what the peer's interface takes.
fn inputs(slots: usize) -> Result<Vec<f32>> {
    let mut rng = entropy()?;
    Ok((0..slots).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect())
}

/// The rows, and everything that is not a time.
pub(crate) fn run(plan: &Plan<'_>) -> Result<(Vec<Measured>, Value)> {
    let values = inputs(presets::get(plan.set)?.slots())?;
    // Both together would not fit most machines, so the two sides follow each other: the peer first, because its process
    // ends and gives everything back, which an allocator need not.
    let peer = plan.peer.map(|library| theirs(library, &values, plan)).transpose()?;
    let (mut rows, mut facts) = ours(plan, &values)?;
    if let Some((times, setup)) = peer {
        for row in rows.iter_mut().filter(|row| row.op == "bootstrap") {
            row.peer = Some(times.clone());
        }
        facts["peer"] = setup;
    }
    Ok((rows, facts))
}

fn ours(plan: &Plan<'_>, values: &[f32]) -> Result<(Vec<Measured>, Value)> {
    let context = Context::new(presets::get(plan.set)?, &plan.device)?;
    let params = context.params();
    let options = BootstrapOptions { precise: plan.precise, ..BootstrapOptions::default() };
    let begin = Instant::now();
    let bootstrapper = Bootstrapper::new(&context, options)?;
    let setup_s = begin.elapsed().as_secs_f64();
    let mut rng = entropy()?;
    let secret = KeyGenerator::new(&context).secret_key(&mut rng)?;
    let specs = bootstrapper.keys();
    let begin = Instant::now();
    let keys = generate(&context, &secret, &specs, &mut rng)?;
    let keygen_s = begin.elapsed().as_secs_f64();
    let seeded: usize = specs.iter().map(|&spec| SeededKey::serialized_len(params, spec)).sum();

    let (encoder, level) = (Encoder::new(&context), bootstrapper.input_level());
    let slots: Vec<Complex64> = values.iter().map(|&x| f64::from(x).into()).collect();
    let plaintext = encoder.encode(&slots, level, params.scale_at(level))?;
    let encryptor = Encryptor::with_secret_key(&context, &secret)?;
    let ct = encryptor.encrypt(&plaintext, &mut rng)?;
    // Every key once: the floor of one bootstrap that shares nothing with others.
    let key_bytes = specs.iter().map(|&spec| SwitchingKey::expanded_bytes(params, spec)).sum();
    let mut rows = vec![
        Row::new("bootstrap", key_bytes, || Ok(bootstrapper.bootstrap(&ct, &keys)?)),
        Row::new("bootstrap_pair", key_bytes, || Ok(bootstrapper.bootstrap_pair(&ct, &ct, &keys)?)),
        Row::new("bootstrap_4", key_bytes, || {
            Ok(bootstrapper.bootstrap_batch(&[&ct, &ct, &ct, &ct], &keys)?)
        }),
        Row::new("bootstrap_real", key_bytes, || Ok(bootstrapper.bootstrap_real(&ct, &keys)?)),
    ];
    let measured = measure(context.ring(), &mut rows, plan.threads, plan.rounds, None)?;
    drop(rows);

    let decryptor = Decryptor::new(&context, &secret)?;
    let stats = |out: &Ciphertext| -> Result<Value> {
        let stats = PrecisionStats::compare(&slots, &encoder.decode(&decryptor.decrypt(out)?)?);
        Ok(json!({
            "worst_bits": stats.min, "std_real_bits": stats.std_real,
            "std_imaginary_bits": stats.std_imaginary, "mean_bits": stats.mean,
        }))
    };
    // By the device's clock; the memory is what a bootstrap holds, keys, diagonals and the input included: making keys,
    // which takes more, is over.
    let (out, recording) = record(|| {
        follow(|| context.ring().timeline());
        bootstrapper.bootstrap(&ct, &keys)
    });
    let (complex, stages) = (stats(&out?)?, stages(&recording));
    let vram = recording.spans().iter().map(|span| span.peak_bytes).max().filter(|&peak| peak > 0);
    let real = stats(&bootstrapper.bootstrap_real(&ct, &keys)?)?;
    let predicted = bootstrapper.precision();
    let levels = bootstrapper.output_level() - bootstrapper.input_level();
    println!(
        "{}{}: {levels} levels between bootstraps; keys {} seeded, made in {keygen_s:.1} s; predicted memory {}, peak {}",
        plan.set,
        if plan.precise { ", precise" } else { "" },
        bytes(seeded as u64),
        bytes(bootstrapper.memory_bytes()),
        peak_rss_bytes().map_or_else(|| "unknown".to_owned(), bytes),
    );
    if let Some(vram) = vram {
        println!(
            "card's memory in a bootstrap: {} predicted, {} at its peak, of which keys {}; {} at most since the start",
            bytes(bootstrapper.estimate().card_bytes),
            bytes(vram),
            bytes(key_bytes),
            bytes(context.ring().memory().1 as u64),
        );
    }
    println!("stages, ms: {}", Value::Object(stages.clone()));
    println!(
        "precision, {} uniform reals\n  bootstrap      {complex}\n  bootstrap_real {real}\n  predicted      {predicted:?}",
        slots.len()
    );
    let facts = json!({
        "set": plan.set, "precise": plan.precise, "levels": levels, "log2_scale": params.literal().log2_scale,
        "failure_log2": bootstrapper.failure_log2(),
        "complex": complex, "real": real,
        "predicted": {
            "noise_std_bits": predicted.noise_std, "noise_worst_bits": predicted.noise_worst,
            "sine_bits": predicted.sine, "worst_bits": predicted.worst,
        },
        "keys": specs.len(), "key_bytes_seeded": seeded, "keygen_s": keygen_s, "setup_s": setup_s,
        "memory_bytes": bootstrapper.memory_bytes(), "peak_rss_bytes": peak_rss_bytes(), "key_bytes": key_bytes,
        "peak_vram_bytes": vram, "predicted_peak_vram_bytes": bootstrapper.estimate().card_bytes, "stages_ms": stages,
    });
    Ok((measured, facts))
}

/// Milliseconds of the parts of a bootstrap.
fn stages(recording: &Recording) -> Map<String, Value> {
    let spans = recording.spans();
    let whole = spans.iter().position(|span| span.operator.name == "bootstrap");
    let parts = spans.iter().filter(|span| Some(span.parent) == whole);
    let rounded = |ms: f64| (ms * 1e3).round() / 1e3;
    parts
        .map(|span| (span.operator.name.clone(), rounded(span.wall.as_secs_f64() * 1e3).into()))
        .collect()
}

/// The peer's times for the same values, and what it says about itself and the result.
fn theirs(library: &Path, values: &[f32], plan: &Plan<'_>) -> Result<(Times, Value)> {
    let file = std::env::temp_dir().join(format!("cipherform-inputs-{}.f32", std::process::id()));
    let words: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&file, words).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("starting {} for bootstrapping: 15 GiB and a few minutes", Peer::NAME);
    let threads = plan.threads.first().copied().unwrap_or(1);
    let peer = Peer::start(library, threads, Some(&file));
    // It has read them, or has not started.
    let _ = std::fs::remove_file(&file);
    let mut peer = peer?;
    let mut times = Times::default();
    let mut answer = Value::Null;
    for _ in 0..plan.rounds {
        answer = peer.ask("bootstrap")?;
        times.push(Peer::sample(&answer)?);
    }
    let (Some(levels), Some(bits)) = (answer.get("levels"), answer.get("worst_bits")) else {
        bail!("the peer says nothing about its result: {answer}");
    };
    println!("{}: {levels} levels left, worst slot {bits} bits, {}", Peer::NAME, peer.setup);
    Ok((times, json!({ "setup": peer.setup, "levels": levels, "worst_bits": bits })))
}
