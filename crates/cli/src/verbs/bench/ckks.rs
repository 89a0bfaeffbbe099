//! The scheme's operations, named and sized as in the peers' scripts.

use crate::verbs::bench::harness::{Measured, Row, measure};
use crate::verbs::bench::peer::{Peer, hoisted_stand_in};
use anyhow::Result;
use cipherform_ckks::{
    Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    KeyKind, KeySpec, LinearTransform, Parameters, ParametersLiteral, SecretDistribution, presets,
};
use cipherform_client::entropy;
use std::collections::BTreeMap;

/// The set of the comparison: as many limbs, special primes and digits as the peers' scripts use.
pub(crate) const COMPARISON_SET: &str = "peers16";

/// n = 2^16, 24 limbs in three digits of eight, eight special primes: log QP = 1577, 128 bits. All primes are below 2^50, so
/// those of Q are near 2^49 where the peer's are near 2^50: P must exceed a digit. For benches only: nothing can be stored
/// under it, because no other verb knows it.
fn comparison_set() -> Result<Parameters> {
    let prime = |k: u64| (k << 17) + 1;
    // Top down, in an order that keeps the exact scale within 2^-24 of 2^49.
    let application = [
        4_294_967_285,
        4_294_967_309,
        4_294_967_343,
        4_294_967_228,
        4_294_967_274,
        4_294_967_384,
        4_294_967_261,
        4_294_967_363,
        4_294_967_258,
        4_294_967_256,
        4_294_967_399,
        4_294_967_249,
        4_294_967_495,
        4_294_967_214,
        4_294_967_453,
        4_294_967_156,
        4_294_967_525,
        4_294_967_151,
        4_294_967_571,
        4_294_967_454,
        4_294_967_006,
        4_294_967_138,
        4_294_967_615,
    ];
    let special = [
        8_589_934_556,
        8_589_934_443,
        8_589_934_436,
        8_589_934_431,
        8_589_934_419,
        8_589_934_418,
        8_589_934_415,
        8_589_934_413,
    ];
    let literal = ParametersLiteral {
        name: COMPARISON_SET.to_owned(),
        log_n: 16,
        secret: SecretDistribution::UniformTernary,
        log2_scale: 49,
        base: prime(8_589_934_569),
        application: application.map(prime).to_vec(),
        special: special.map(prime).to_vec(),
        bootstrapping: None,
    };
    Ok(literal.check()?)
}

/// A preset, or the set of the comparison.
pub(crate) fn parameters(name: &str) -> Result<Parameters> {
    if name == COMPARISON_SET { comparison_set() } else { Ok(presets::get(name)?) }
}

/// Largest ratio to the peer that was promised: with AVX-512 IFMA, and with AVX2 and FMA only.
pub(crate) fn target(op: &str, device: Device) -> Option<f64> {
    let (ifma, avx2) = match op {
        "ct_ct_mul_relin" | "rotate" | "ct_ct_mul_relin_rescale" => (3.5, 2.2),
        "hoisted_8" => (3.0, 2.0),
        "ct_pt_mul" | "rescale" | "encode_encrypt_pk" => (2.0, 2.0),
        _ => return None,
    };
    match device.to_string().as_str() {
        "cpu:avx512ifma" => Some(1.0 / ifma),
        "cpu:avx2" => Some(1.0 / avx2),
        _ => None,
    }
}

/// What a run is asked for.
pub(crate) struct Plan<'a> {
    pub(crate) params: Parameters,
    pub(crate) device: Device,
    pub(crate) level: usize,
    pub(crate) threads: &'a [usize],
    pub(crate) rounds: usize,
}

/// All rows, interleaved with the peer's.
pub(crate) fn run(plan: &Plan<'_>, peer: Option<&mut Peer>) -> Result<Vec<Measured>> {
    let context = Context::new(plan.params.clone(), &plan.device)?;
    let (params, level) = (context.params(), plan.level);
    let mut rng = entropy()?;
    let generator = KeyGenerator::new(&context);
    let secret = generator.secret_key(&mut rng)?;
    let mut keys = EvaluationKeys::new(&context);
    let rotations: Vec<i64> = (1..=8).collect();
    let kinds = rotations.iter().filter_map(|&k| KeyKind::rotation(k, params.slots()));
    let spec = |kind| KeySpec { kind, level };
    for kind in kinds.chain([KeyKind::Conjugation, KeyKind::Relinearization]) {
        let key = generator.evaluation_key(&secret, spec(kind), &mut rng)?;
        keys.insert(key.expand(&context)?)?;
    }
    let (encoder, evaluator) = (Encoder::new(&context), Evaluator::new(&context));
    let wave = |phase: f64| -> Vec<f64> {
        (0..params.slots()).map(|i| (i as f64 * 0.37 + phase).sin()).collect()
    };
    let (values, others) = (wave(0.0), wave(1.0));
    let scale = params.scale_at(level);
    let plaintext = encoder.encode(&values, level, scale)?;
    let public = generator.public_key(&secret, &mut rng)?;
    let encryptor = Encryptor::with_public_key(&context, &public)?;
    let secret_encryptor = Encryptor::with_secret_key(&context, &secret)?;
    let decryptor = Decryptor::new(&context, &secret)?;
    let a = encryptor.encrypt(&plaintext, &mut rng)?;
    let b = encryptor.encrypt(&encoder.encode(&others, level, scale)?, &mut rng)?;
    // Without giant steps, as the peer's.
    let diagonals: BTreeMap<i64, Vec<f64>> = (0..8).map(|d| (d, others.clone())).collect();
    let map =
        LinearTransform::new(&encoder, level, params.modulus_at(level) as f64, &diagonals, 8)?;

    // Sizes, for the floors.
    let poly = plaintext.bytes();
    let ct = a.bytes();
    let key = cipherform_ckks::SwitchingKey::expanded_bytes(params, spec(KeyKind::Conjugation));
    let extended = poly + poly / params.limbs_at(level) as u64 * params.special().len() as u64;
    let product = || Ok(evaluator.relinearize(&evaluator.mul(&a, &b)?, &keys)?);
    let raw = evaluator.mul_plain(&a, &plaintext)?;
    let (mut encrypting, mut encrypting_sk, mut generating) = (entropy()?, entropy()?, entropy()?);
    let mut rows = vec![
        Row::new("encode", poly, || Ok(encoder.encode(&values, level, scale)?)),
        Row::new("encrypt_pk", poly + ct + 2 * extended, || {
            Ok(encryptor.encrypt(&plaintext, &mut encrypting)?)
        }),
        Row::new("encrypt_sk", poly + ct, || {
            Ok(secret_encryptor.encrypt(&plaintext, &mut encrypting_sk)?)
        }),
        Row::new("decrypt", ct + poly, || Ok(encoder.decode(&decryptor.decrypt(&a)?)?)),
        Row::new("add", 3 * ct, || Ok(evaluator.add(&a, &b)?)),
        Row::new("ct_pt_mul", 2 * ct + poly, || Ok(evaluator.mul_plain(&a, &plaintext)?)),
        Row::with_setup("rescale", 2 * ct, || Ok(raw.clone()), |x| Ok(evaluator.rescale(x)?)),
        Row::new("ct_ct_mul_relin", 3 * ct + key, product),
        Row::new("ct_ct_mul_relin_rescale", 3 * ct + key, || Ok(evaluator.rescale(product()?)?)),
        Row::new("rotate", 2 * ct + key, || Ok(evaluator.rotate(&a, 1, &keys)?)),
        Row::new("conjugate", 2 * ct + key, || Ok(evaluator.conjugate(&a, &keys)?)),
        Row::new("hoisted_8", 9 * ct + 8 * key, || {
            Ok(evaluator.hoisted_rotations(&a, &rotations, &keys)?)
        }),
        Row::new("linear_8", 2 * ct + 7 * key + map.bytes(), || {
            Ok(evaluator.linear_transform(&a, &map, &keys)?)
        }),
        Row::new("keygen_galois", key / 2, || {
            Ok(generator.evaluation_key(&secret, spec(KeyKind::Conjugation), &mut generating)?)
        }),
    ];
    let mut measured = measure(context.ring(), &mut rows, plan.threads, plan.rounds, peer)?;
    let find = |rows: &[Measured], op, threads| {
        rows.iter().find(|row| row.op == op && row.threads == threads).cloned()
    };
    for &threads in plan.threads {
        let (encode, encrypt) =
            (find(&measured, "encode", threads), find(&measured, "encrypt_pk", threads));
        if let (Some(encode), Some(encrypt)) = (encode, encrypt) {
            measured.push(Measured::together("encode_encrypt_pk", &encode, &encrypt));
        }
        let rotate = find(&measured, "rotate", threads).and_then(|row| row.peer);
        let hoisted =
            measured.iter_mut().find(|row| row.op == "hoisted_8" && row.threads == threads);
        if let (Some(rotate), Some(hoisted)) = (rotate, hoisted) {
            let (times, note) = hoisted_stand_in(&rotate);
            (hoisted.peer, hoisted.peer_note) = (Some(times), Some(note));
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_set_has_the_peers_shape_and_is_secure() {
        let params = comparison_set().unwrap();
        assert_eq!((params.limbs_at(23), params.special().len()), (24, 8));
        assert_eq!(params.digit_sizes(), [8, 8, 8]);
        assert_eq!(params.security_bits(), 128);
        assert!((params.log_qp() - 1577.0).abs() < 0.1, "{}", params.log_qp());
        for level in 0..=23 {
            assert!((params.scale_at(level).log2() - 49.0).abs() < 1e-6, "{level}");
        }
        assert!(presets::get(COMPARISON_SET).is_err());
    }
}
