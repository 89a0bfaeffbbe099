//! From keys to a decrypted result: the dot product of two encrypted vectors.
//!
//! `cargo run --release --example 01_encrypted_dot_product`
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::Result;
use cipherform_ckks::{
    Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    KeySpec, SeededKey, presets,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const LENGTH: usize = 512;

fn main() -> Result<()> {
    let params = presets::get("lev13")?;
    println!(
        "Parameters {}: {} slots, {} levels, log QP {:.1}, {} bits of security.",
        params.name(),
        params.slots(),
        params.max_level(),
        params.log_qp(),
        params.security_bits()
    );
    let ctx = Context::new(params.clone(), &Device::cpu())?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);

    // The client makes a secret key, and the evaluation keys that this computation needs: one product, and rotations
    // by 1, 2, 4, .. that add up all slots of a vector.
    let top = params.max_level();
    let steps: Vec<i64> = (0..LENGTH.trailing_zeros()).map(|k| 1 << k).collect();
    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng)?;
    let mut specs = vec![KeySpec::relinearization(top)];
    specs.extend(steps.iter().filter_map(|&k| KeySpec::rotation(&params, k, top - 1)));
    let mut on_the_wire = Vec::new();
    for &spec in &specs {
        on_the_wire.push(generator.evaluation_key(&secret, spec, &mut rng)?.to_bytes()?);
    }
    let bytes: usize = on_the_wire.iter().map(Vec::len).sum();
    println!("The client sends {} evaluation keys, {:.1} MB.", specs.len(), bytes as f64 / 1e6);

    // It encrypts two vectors. A vector shorter than the slots repeats in them.
    let a: Vec<f64> = (0..LENGTH).map(|i| (i as f64 * 0.1).sin()).collect();
    let b: Vec<f64> = (0..LENGTH).map(|i| (i as f64 * 0.1 + 0.5).cos() / LENGTH as f64).collect();
    let encoder = Encoder::new(&ctx);
    let encryptor = Encryptor::with_secret_key(&ctx, &secret)?;
    let encrypted_a =
        encryptor.encrypt(&encoder.encode(&a, top, params.scale_at(top))?, &mut rng)?;
    let encrypted_b =
        encryptor.encrypt(&encoder.encode(&b, top, params.scale_at(top))?, &mut rng)?;
    println!("And two ciphertexts of {:.2} MB each.", encrypted_a.to_bytes()?.len() as f64 / 1e6);

    // The server sees keys and ciphertexts only.
    let mut keys = EvaluationKeys::new(&ctx);
    for bytes in &on_the_wire {
        keys.insert(SeededKey::from_bytes(&ctx, bytes)?.expand(&ctx)?)?;
    }
    let server = Evaluator::new(&ctx);
    let product = server.mul(&encrypted_a, &encrypted_b)?;
    let mut sum = server.rescale(server.relinearize(&product, &keys)?)?;
    println!("Server: product at level {} of {top}; now {} rotations.", sum.level(), steps.len());
    for &k in &steps {
        let rotated = server.rotate(&sum, k, &keys)?;
        server.add_assign(&mut sum, &rotated)?;
    }

    // Only the client can look at the result.
    let slots = encoder.decode(&Decryptor::new(&ctx, &secret)?.decrypt(&sum)?)?;
    let got = slots.first().map_or(f64::NAN, |z| z.re);
    let want: f64 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
    println!("Client: {got:.6}; in the clear {want:.6}; error {:.1e}.", (got - want).abs());
    // 512 products with errors of 2^-21.6 each in the worst of directions stay below 2^-12.
    anyhow::ensure!((got - want).abs() < 2f64.powi(-12), "the encrypted result is wrong");
    Ok(())
}
