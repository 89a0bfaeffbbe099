//! A linear layer on an encrypted vector, and why its rotations are hoisted.
//!
//! `cargo run --release --example 02_hoisted_linear_layer`
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::Result;
use cipherform_ckks::{
    Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    LinearTransform, PrecisionStats, presets,
};
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::time::Instant;

const WIDTH: usize = 64;

fn main() -> Result<()> {
    let params = presets::get("lev14")?;
    let ctx = Context::new(params.clone(), &Device::cpu())?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);

    // y = W x for a 64 x 64 matrix. With x repeated in all slots, rotating by d brings x[j + d mod 64] to slot j, so
    // y is the sum over d of (diagonal d of W) * rotate(x, d): 64 products and, written like that, 63 rotations.
    let weight = |i: usize, j: usize| ((i * 7 + j * 3) as f64 * 0.37).sin() / 8.0;
    let diagonals: BTreeMap<i64, Vec<f64>> = (0..WIDTH)
        .map(|d| (d as i64, (0..WIDTH).map(|j| weight(j, (j + d) % WIDTH)).collect()))
        .collect();
    let x: Vec<f64> = (0..WIDTH).map(|j| (j as f64 * 0.9).cos()).collect();

    let encoder = Encoder::new(&ctx);
    let level = 3;
    let scale = params.modulus_at(level) as f64;
    // Baby steps 0..8 and giant steps of 8: d = 8 g + b.
    let layer = LinearTransform::new(&encoder, level, scale, &diagonals, 8)?;
    println!("A {WIDTH} x {WIDTH} layer at n = 2^{}, level {level}:", params.log_n());
    println!("  {} rotation keys instead of {}.", layer.keys().len(), WIDTH - 1);
    println!(
        "  weights repeat every {WIDTH} slots: {:.2} MB instead of {:.2} MB.",
        layer.bytes() as f64 / 1e6,
        (WIDTH * (level + 1) * params.n() * 8) as f64 / 1e6
    );
    println!("  predicted: {}", counters(&layer));

    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng)?;
    let mut keys = EvaluationKeys::new(&ctx);
    for spec in layer.keys() {
        keys.insert(generator.evaluation_key(&secret, spec, &mut rng)?.expand(&ctx)?)?;
    }
    let encryptor = Encryptor::with_secret_key(&ctx, &secret)?;
    let plaintext = encoder.encode(&x, level, params.scale_at(level))?;
    let input = encryptor.encrypt(&plaintext, &mut rng)?;
    let evaluator = Evaluator::new(&ctx);

    // Hoisting: the seven baby rotations share one digit decomposition, the dearest part of a key switch.
    let amounts: Vec<i64> = (1..8).collect();
    let start = Instant::now();
    let one_by_one = amounts
        .iter()
        .map(|&k| evaluator.rotate(&input, k, &keys))
        .collect::<Result<Vec<_>, _>>()?;
    let separate = start.elapsed();
    let start = Instant::now();
    let hoisted = evaluator.hoisted_rotations(&input, &amounts, &keys)?;
    let shared = start.elapsed();
    println!("Seven rotations: {separate:.1?} one by one, {shared:.1?} hoisted.");
    anyhow::ensure!(one_by_one.len() == hoisted.len());

    let start = Instant::now();
    let output = evaluator.rescale(evaluator.linear_transform(&input, &layer, &keys)?)?;
    println!("The whole layer: {:.1?}; level {} -> {}.", start.elapsed(), level, output.level());

    let got = encoder.decode(&Decryptor::new(&ctx, &secret)?.decrypt(&output)?)?;
    let want: Vec<Complex64> = (0..params.slots())
        .map(|i| (0..WIDTH).map(|j| weight(i % WIDTH, j) * x[j]).sum::<f64>().into())
        .collect();
    let stats = PrecisionStats::compare(&want, &got);
    println!("{stats}");
    // One rescaling and a few key switches at 2^40: 28.6 bits of deviation each (their noise model), three bits less
    // in the worst slot; 22 leaves a margin.
    anyhow::ensure!(stats.min > 22.0, "the encrypted layer is wrong");
    Ok(())
}

/// The counters that matter here.
fn counters(layer: &LinearTransform) -> String {
    let cost = layer.cost();
    cipherform_profile::Counter::ALL
        .into_iter()
        .filter(|&c| cost.get(c) > 0)
        .map(|c| format!("{} {}", cost.get(c), c.name()))
        .collect::<Vec<_>>()
        .join(", ")
}
