//! The scheme's operations. Ids name the shape: `rotate/logN=16/limbs=24/cpu`; limbs counts the q primes.
//!
//! The names are those of the scripts that run other libraries, so that rows pair by name; they use n = 2^16, 24 limbs,
//! 8 special primes and 3 digits, which is level 23 of `lev16_36`. Level 20 is where the shipped model starts.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use cipherform_ckks::{
    BootstrapOptions, Bootstrapper, Ciphertext, Context, Decryptor, Device, Encoder, Encryptor,
    EvaluationKeys, Evaluator, KeyGenerator, KeySpec, LinearTransform, Parameters, Polynomial,
    SeededKey, presets,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::time::Duration;

fn specs(params: &Parameters, level: usize) -> Vec<KeySpec> {
    let rotations = (1..=8).filter_map(|k| KeySpec::rotation(params, k, level));
    [KeySpec::relinearization(level), KeySpec::conjugation(level)]
        .into_iter()
        .chain(rotations)
        .collect()
}

fn at_level(c: &mut Criterion, set: &str, level: usize) {
    let ctx = Context::new(presets::get(set).unwrap(), &Device::cpu()).unwrap();
    let params = ctx.params().clone();
    let (slots, scale) = (params.slots(), params.scale_at(level));
    let id = |op: &str| format!("{op}/logN={}/limbs={}/cpu", params.log_n(), level + 1);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng).unwrap();
    let public = generator.public_key(&secret, &mut rng).unwrap();
    let mut keys = EvaluationKeys::new(&ctx);
    for spec in specs(&params, level) {
        let key = generator.evaluation_key(&secret, spec, &mut rng).unwrap();
        keys.insert(key.expand(&ctx).unwrap()).unwrap();
    }
    let (encoder, evaluator) = (Encoder::new(&ctx), Evaluator::new(&ctx));
    let encryptor = Encryptor::with_secret_key(&ctx, &secret).unwrap();
    let public_encryptor = Encryptor::with_public_key(&ctx, &public).unwrap();
    let decryptor = Decryptor::new(&ctx, &secret).unwrap();
    let values: Vec<f64> = (0..slots).map(|i| (i as f64).sin()).collect();
    let plain = encoder.encode(&values, level, scale).unwrap();
    let periodic = encoder.encode(&values[..1024.min(slots / 2)], level, scale).unwrap();
    let ct = evaluator.neg(&encryptor.encrypt(&plain, &mut rng).unwrap()).unwrap();
    let product = evaluator.mul(&ct, &ct).unwrap();
    let relinearized = evaluator.relinearize(&product, &keys).unwrap();

    c.bench_function(&id("encode"), |b| b.iter(|| encoder.encode(&values, level, scale).unwrap()));
    c.bench_function(&id("encode_period_1024"), |b| {
        b.iter(|| encoder.encode(&values[..1024.min(slots / 2)], level, scale).unwrap());
    });
    c.bench_function(&id("encrypt_pk"), |b| {
        b.iter(|| public_encryptor.encrypt(&plain, &mut rng).unwrap());
    });
    c.bench_function(&id("encrypt_sk"), |b| {
        b.iter(|| encryptor.encrypt(&plain, &mut rng).unwrap());
    });
    c.bench_function(&id("decrypt"), |b| {
        b.iter(|| encoder.decode(&decryptor.decrypt(&ct).unwrap()).unwrap());
    });
    c.bench_function(&id("ct_pt_mul"), |b| b.iter(|| evaluator.mul_plain(&ct, &plain).unwrap()));
    c.bench_function(&id("ct_pt_mul_period_1024"), |b| {
        b.iter(|| evaluator.mul_plain(&ct, &periodic).unwrap());
    });
    c.bench_function(&id("rescale"), |b| {
        b.iter_batched(
            || relinearized.clone(),
            |ct| evaluator.rescale(ct).unwrap(),
            BatchSize::PerIteration,
        );
    });
    let relin =
        |ct: &Ciphertext| evaluator.relinearize(&evaluator.mul(ct, ct).unwrap(), &keys).unwrap();
    c.bench_function(&id("ct_ct_mul_relin"), |b| b.iter(|| relin(&ct)));
    c.bench_function(&id("ct_ct_mul_relin_rescale"), |b| {
        b.iter(|| evaluator.rescale(relin(&ct)).unwrap());
    });
    c.bench_function(&id("rotate"), |b| b.iter(|| evaluator.rotate(&ct, 1, &keys).unwrap()));
    let amounts: Vec<i64> = (1..=8).collect();
    c.bench_function(&id("hoisted_8"), |b| {
        b.iter(|| evaluator.hoisted_rotations(&ct, &amounts, &keys).unwrap());
    });
    c.bench_function(&id("conjugate"), |b| b.iter(|| evaluator.conjugate(&ct, &keys).unwrap()));
    let spec = KeySpec::conjugation(level);
    c.bench_function(&id("keygen_galois"), |b| {
        b.iter(|| generator.evaluation_key(&secret, spec, &mut rng).unwrap());
    });
    let key = generator.evaluation_key(&secret, spec, &mut rng).unwrap();
    c.bench_function(&id("key_expand"), |b| {
        b.iter_batched(|| key.clone(), |key| key.expand(&ctx).unwrap(), BatchSize::PerIteration);
    });
    let bytes = key.to_bytes().unwrap();
    c.bench_function(&id("key_to_bytes"), |b| b.iter(|| key.to_bytes().unwrap()));
    c.bench_function(&id("key_from_bytes"), |b| {
        b.iter(|| SeededKey::from_bytes(&ctx, &bytes).unwrap());
    });
    let polynomial = Polynomial::interpolate(15, |x| 1.0 / (1.2 + x)).unwrap();
    c.bench_function(&id("polynomial_15"), |b| {
        b.iter(|| evaluator.polynomial(&ct, &polynomial, &keys).unwrap());
    });
    let diagonals: BTreeMap<i64, Vec<f64>> =
        (0..64).map(|d| (d, values[..1024.min(slots / 2)].to_vec())).collect();
    let map = LinearTransform::new(&encoder, level, scale, &diagonals, 8).unwrap();
    c.bench_function(&id("linear_64_diagonals"), |b| {
        b.iter(|| evaluator.linear_transform(&ct, &map, &keys).unwrap());
    });
}

/// All slots of one complex ciphertext, from the lowest level to the highest that is left.
fn bootstrap(c: &mut Criterion, set: &str) {
    let ctx = Context::new(presets::get(set).unwrap(), &Device::cpu()).unwrap();
    let params = ctx.params();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let generator = KeyGenerator::new(&ctx);
    let secret = generator.secret_key(&mut rng).unwrap();
    let bootstrapper = Bootstrapper::new(&ctx, BootstrapOptions::default()).unwrap();
    let keys = generator.expanded_keys(&secret, &bootstrapper.keys(), &mut rng, |_| ()).unwrap();
    let level = bootstrapper.input_level();
    let values: Vec<f64> = (0..params.slots()).map(|i| (i as f64).sin()).collect();
    let plain = Encoder::new(&ctx).encode(&values, level, params.scale_at(level)).unwrap();
    let ct = Encryptor::with_secret_key(&ctx, &secret).unwrap().encrypt(&plain, &mut rng).unwrap();
    c.bench_function(&format!("bootstrap/{set}/cpu"), |b| {
        b.iter(|| bootstrapper.bootstrap(&ct, &keys).unwrap());
    });
}

fn benches(c: &mut Criterion) {
    at_level(c, "lev16_36", 23);
    at_level(c, "lev16_36", 20);
    at_level(c, "lev14", 7);
    bootstrap(c, "toy12_boot");
    bootstrap(c, "boot15");
}

criterion_group! {
    name = group;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(group);
