//! An activation function on encrypted values: approximation, levels and precision.
//!
//! `cargo run --release --example 03_polynomial_activation`
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::Result;
use cipherform_ckks::{
    Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    Polynomial, PrecisionStats, presets,
};
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Instant;

/// Inputs lie in [-RANGE, RANGE]; encrypted values are divided by it so that they lie in [-1, 1].
const RANGE: f64 = 4.0;

/// The sigmoid-weighted linear unit x / (1 + e^-x).
fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn main() -> Result<()> {
    let params = presets::get("lev14")?;
    let ctx = Context::new(params.clone(), &Device::cpu())?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);

    // Only sums and products exist under encryption: the activation becomes a polynomial on a known range. Chebyshev
    // coefficients keep that calm at any degree.
    println!("Approximating SiLU on [-{RANGE}, {RANGE}]:");
    let grid: Vec<f64> = (0..=1000).map(|i| f64::from(i) / 500.0 - 1.0).collect();
    // SiLU(x) - x/2 is even: odd degrees above 1 add nothing, and zero coefficients cost nothing.
    for degree in [3, 7, 15, 31] {
        let p = Polynomial::interpolate(degree, |x| silu(RANGE * x))?;
        let worst =
            grid.iter().map(|&x| (p.evaluate_f64(x) - silu(RANGE * x)).abs()).fold(0.0, f64::max);
        let cost = p.cost(params.max_level());
        println!(
            "  degree {:2}: {} levels, {} relinearizations, error {worst:.1e}",
            p.degree(),
            p.depth(),
            cost.get(cipherform_profile::Counter::Relinearizations)
        );
    }
    let activation = Polynomial::interpolate(15, |x| silu(RANGE * x))?;

    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng)?;
    let level = params.max_level();
    let mut keys = EvaluationKeys::new(&ctx);
    for spec in activation.keys(level) {
        keys.insert(generator.evaluation_key(&secret, spec, &mut rng)?.expand(&ctx)?)?;
    }

    let encoder = Encoder::new(&ctx);
    let inputs: Vec<f64> =
        (0..params.slots()).map(|i| 2.0 * i as f64 / (params.slots() - 1) as f64 - 1.0).collect();
    let plaintext = encoder.encode(&inputs, level, params.scale_at(level))?;
    let encrypted = Encryptor::with_secret_key(&ctx, &secret)?.encrypt(&plaintext, &mut rng)?;

    let start = Instant::now();
    let output = Evaluator::new(&ctx).polynomial(&encrypted, &activation, &keys)?;
    println!(
        "Degree {} on {} encrypted values: {:.0?}, level {} -> {}, scale exactly that of its level.",
        activation.degree(),
        inputs.len(),
        start.elapsed(),
        level,
        output.level()
    );

    let got = encoder.decode(&Decryptor::new(&ctx, &secret)?.decrypt(&output)?)?;
    let exact: Vec<Complex64> = inputs.iter().map(|&x| activation.evaluate_f64(x).into()).collect();
    let ideal: Vec<Complex64> = inputs.iter().map(|&x| silu(RANGE * x).into()).collect();
    let (noise, total) =
        (PrecisionStats::compare(&exact, &got), PrecisionStats::compare(&ideal, &got));
    println!("Against the polynomial (encryption noise): {noise}");
    println!("Against SiLU itself (noise and approximation): {total}");
    for x in [-1.0, -0.5, 0.0, 0.5, 1.0f64] {
        let i = (f64::midpoint(x, 1.0) * (inputs.len() - 1) as f64).round() as usize;
        println!(
            "  SiLU({:5.2}) = {:8.5}, encrypted {:8.5}",
            RANGE * inputs[i],
            ideal[i].re,
            got[i].re
        );
    }
    // A rescaling leaves 28.6 bits (deviation), the worst slot three less; four doublings amplify by at most 4 each
    // where |T| = 1, coefficients of sum 5: 28.6 - 3 - 8 - 2.3 = 15 bits.
    anyhow::ensure!(noise.min > 15.0, "the encrypted activation is wrong");
    Ok(())
}
