//! The byte format: round trips, and hostile bytes.
//!
//! | test | what it proves |
//! |---|---|
//! | `ciphertexts_survive` | every level and degree, exact lengths, seeded at half size |
//! | `keys_survive` | all kinds and levels, exact lengths, the same key afterwards |
//! | `truncated_or_extended` | every other length is refused, for every kind |
//! | `every_header_bit_counts` | a flipped bit anywhere before the scale's mantissa is refused |
//! | `the_secret_is_named` | every object says under which secret it is, and the first version is refused |
//! | `hostile_fields` | level, degree, scale, kind, amount |
//! | `residues_above_the_prime` | refused, with the limb named |
//! | `keys_of_bootstrapping` | the key to the ephemeral secret lives modulo q_0 P' only; its size, tags, levels |
//! | `random_bytes` | never a panic |
//! | `secret_keys` | storage bytes give the same key; nothing is printed |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    Ciphertext, Context, Encryptor, Error, KeyGenerator, KeySpec, PublicKey, SecretKey, SeededKey,
    presets,
};
use cipherform_ring::Device;
use common::Fixture;
use proptest::prelude::*;

fn toy() -> Fixture {
    Fixture::new("toy11_lev", Device::cpu())
}

/// One serialised object of each kind, small ones, and the reader of its kind.
type Reader = fn(&Context, &[u8]) -> Result<(), Error>;
type Object = (&'static str, Vec<u8>, Reader);
fn objects(f: &mut Fixture) -> Vec<Object> {
    let seeded = f.encrypt(&[0.5, 0.25], 1);
    let full = f.evaluator.neg(&seeded).unwrap();
    let product = f.evaluator.mul(&full, &full).unwrap();
    let generator = KeyGenerator::new(&f.ctx);
    let spec = f.rotation(3, 1);
    let key = generator.evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
    let public = generator.public_key(&f.secret, &mut f.rng).unwrap();
    let ciphertext: Reader = |ctx, bytes| Ciphertext::from_bytes(ctx, bytes).map(drop);
    let keys: Reader = |ctx, bytes| SeededKey::from_bytes(ctx, bytes).map(drop);
    let public_keys: Reader = |ctx, bytes| PublicKey::from_bytes(ctx, bytes).map(drop);
    vec![
        ("seeded", seeded.to_bytes().unwrap(), ciphertext),
        ("full", full.to_bytes().unwrap(), ciphertext),
        ("product", product.to_bytes().unwrap(), ciphertext),
        ("key", key.to_bytes().unwrap(), keys),
        ("public", public.to_bytes().unwrap(), public_keys),
    ]
}

#[test]
fn ciphertexts_survive() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    for level in [0, 1, 11, 24] {
        let values = f.random_slots(8);
        let ct = f.encrypt(&values, level);
        let bytes = ct.to_bytes().unwrap();
        assert_eq!(bytes.len(), Ciphertext::serialized_len(f.ctx.params(), level, 1, true));
        let back = Ciphertext::from_bytes(&f.ctx, &bytes).unwrap();
        assert_eq!((back.level(), back.scale(), back.is_seeded()), (level, ct.scale(), true));
        assert_eq!(back.to_bytes().unwrap(), bytes);
        assert_eq!(f.decrypt(&back), f.decrypt(&ct));
        let full = f.evaluator.neg(&ct).unwrap();
        let full_bytes = full.to_bytes().unwrap();
        assert_eq!(full_bytes.len(), Ciphertext::serialized_len(f.ctx.params(), level, 1, false));
        // Half size, up to the fixed fields.
        assert!(full_bytes.len() > 2 * bytes.len() - 200);
        assert_eq!(
            f.decrypt(&Ciphertext::from_bytes(&f.ctx, &full_bytes).unwrap()),
            f.decrypt(&full)
        );
        if level > 0 {
            let product = f.evaluator.mul(&full, &full).unwrap();
            let bytes = product.to_bytes().unwrap();
            assert_eq!(bytes.len(), Ciphertext::serialized_len(f.ctx.params(), level, 2, false));
            let back = Ciphertext::from_bytes(&f.ctx, &bytes).unwrap();
            assert_eq!(f.decrypt(&back), f.decrypt(&product));
        }
    }
    // The format's sizes, by hand: 25 limbs at n = 2^11: a 50-bit base and 24 primes of 36 or 37 bits.
    let bits: u32 = f.ctx.params().q().iter().map(|p| 64 - p.leading_zeros()).sum();
    let want = 72 + 11 + 32 + 2048 / 8 * bits as usize;
    assert_eq!(Ciphertext::serialized_len(f.ctx.params(), 24, 1, true), want);
}

#[test]
fn keys_survive() {
    let mut f = Fixture::new("toy11_deep", Device::cpu());
    let generator = KeyGenerator::new(&f.ctx);
    let specs = [
        KeySpec::relinearization(24),
        KeySpec::conjugation(5),
        f.rotation(-1, 4),
        f.rotation(1, 0),
    ];
    for spec in specs {
        let key = generator.evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
        let bytes = key.to_bytes().unwrap();
        assert_eq!(bytes.len(), SeededKey::serialized_len(f.ctx.params(), spec));
        let back = SeededKey::from_bytes(&f.ctx, &bytes).unwrap();
        assert_eq!(back.spec(), spec);
        assert_eq!(back.to_bytes().unwrap(), bytes);
    }
    // The same key afterwards: a rotation with it works.
    let spec = f.rotation(1, 2);
    let key = generator.evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
    let back = SeededKey::from_bytes(&f.ctx, &key.to_bytes().unwrap()).unwrap();
    let mut keys = cipherform_ckks::EvaluationKeys::new(&f.ctx);
    keys.insert(back.expand(&f.ctx).unwrap()).unwrap();
    let ct = f.encrypt(&[0.25, 0.75], 2);
    let got = f.decrypt(&f.evaluator.rotate(&ct, 1, &keys).unwrap());
    assert!((got[0].re - 0.75).abs() < 1e-4);
    // And public keys.
    let public = generator.public_key(&f.secret, &mut f.rng).unwrap();
    let bytes = public.to_bytes().unwrap();
    assert_eq!(bytes.len(), PublicKey::serialized_len(f.ctx.params()));
    let back = PublicKey::from_bytes(&f.ctx, &bytes).unwrap();
    let encoded = f.encoder.encode(&[0.5], 1, f.ctx.params().scale_at(1)).unwrap();
    let encryptor = Encryptor::with_public_key(&f.ctx, &back).unwrap();
    let ct = encryptor.encrypt(&encoded, &mut f.rng).unwrap();
    assert!((f.decrypt(&ct)[0].re - 0.5).abs() < 1e-4);
}

#[test]
fn truncated_or_extended() {
    let mut f = toy();
    for (name, bytes, read) in objects(&mut f) {
        read(&f.ctx, &bytes).unwrap();
        let lengths = (0..100).chain((100..bytes.len()).step_by(997)).chain([bytes.len() - 1]);
        for length in lengths {
            let error = read(&f.ctx, &bytes[..length]).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{name} at {length}: {error}");
        }
        for extra in [1, 8, 4096] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + extra, 0);
            assert!(matches!(read(&f.ctx, &longer), Err(Error::Malformed { .. })), "{name}");
        }
    }
}

#[test]
fn every_header_bit_counts() {
    let mut f = toy();
    for (name, bytes, read) in objects(&mut f) {
        // Header, level and degree of ciphertexts; header, kind, amount and level of keys.
        let fields = match name {
            "key" => 72 + 11,
            "public" => 72,
            _ => 72 + 3,
        };
        for bit in 0..8 * fields {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A rotation by another amount is a well-formed key, just not the one that was asked for.
            let amount = name == "key" && (73..81).contains(&(bit / 8));
            // An object of another secret is well-formed too: see `the_secret_is_named`.
            let secret = (40..72).contains(&(bit / 8));
            match read(&f.ctx, &flipped) {
                Ok(()) => assert!(amount || secret, "{name}: bit {bit} went unnoticed"),
                Err(Error::Malformed { .. }) => {}
                Err(Error::ParameterMismatch { .. }) => assert!((8..40).contains(&(bit / 8))),
                Err(Error::LevelTooHigh { .. }) => assert!(bit / 8 >= 72),
                Err(other) => panic!("{name}: bit {bit}: {other}"),
            }
        }
    }
    // A foreign but valid set.
    let other = Context::new(presets::get("toy11_deep").unwrap(), &Device::cpu()).unwrap();
    for (name, bytes, read) in objects(&mut f) {
        let error = read(&other, &bytes).unwrap_err();
        assert!(matches!(error, Error::ParameterMismatch { .. }), "{name}: {error}");
    }
}

#[test]
fn the_secret_is_named() {
    let mut f = toy();
    let id = f.secret.id();
    for (name, bytes, _) in objects(&mut f) {
        let read = match name {
            "key" => SeededKey::from_bytes(&f.ctx, &bytes).map(|key| key.secret_id()),
            "public" => PublicKey::from_bytes(&f.ctx, &bytes).map(|key| key.secret_id()),
            _ => Ciphertext::from_bytes(&f.ctx, &bytes).map(|ct| ct.secret_id()),
        };
        assert_eq!(read.unwrap(), id, "{name}");
    }
    for (name, mut bytes, read) in objects(&mut f) {
        bytes[4] = 1;
        let error = read(&f.ctx, &bytes).unwrap_err();
        assert!(error.to_string().contains("format version 1; this is 2"), "{name}: {error}");
    }
    // A name that was changed on the way does not match.
    let mut bytes = f.encrypt(&[0.5], 1).to_bytes().unwrap();
    bytes[71] ^= 1;
    let other = Ciphertext::from_bytes(&f.ctx, &bytes).unwrap();
    let decryptor = cipherform_ckks::Decryptor::new(&f.ctx, &f.secret).unwrap();
    assert!(matches!(decryptor.decrypt(&other), Err(Error::KeyMismatch { .. })));
}

#[test]
fn hostile_fields() {
    let mut f = toy();
    let good = f.encrypt(&[0.5], 1).to_bytes().unwrap();
    let with = |at: usize, field: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + field.len()].copy_from_slice(field);
        Ciphertext::from_bytes(&f.ctx, &bytes)
    };
    assert!(with(72, &1u16.to_le_bytes()).is_ok());
    for level in [4u16, 255, u16::MAX] {
        assert!(matches!(with(72, &level.to_le_bytes()), Err(Error::LevelTooHigh { .. })));
    }
    for degree in [0u8, 2, 3, 255] {
        assert!(matches!(with(74, &[degree]), Err(Error::Malformed { .. })), "degree {degree}");
    }
    let scales = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, -1.0, 1e-310, 1e300];
    for scale in scales {
        assert!(matches!(with(75, &scale.to_le_bytes()), Err(Error::Malformed { .. })), "{scale}");
    }
    let spec = f.rotation(3, 1);
    let key = KeyGenerator::new(&f.ctx).evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
    let good = key.to_bytes().unwrap();
    for (kind, amount) in [(0u8, 3i64), (1, 0), (1, -1), (1, 1024), (1, i64::MIN), (2, 1), (3, 0)] {
        let mut bytes = good.clone();
        bytes[72] = kind;
        bytes[73..81].copy_from_slice(&amount.to_le_bytes());
        let error = SeededKey::from_bytes(&f.ctx, &bytes).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{kind} {amount}: {error}");
    }
}

#[test]
fn residues_above_the_prime() {
    let mut f = toy();
    for (name, bytes, read) in objects(&mut f) {
        // The last limb ends the string: all ones is above any prime but a Mersenne prime.
        let mut bad = bytes.clone();
        let end = bad.len();
        bad[end - 16..].fill(0xff);
        let error = read(&f.ctx, &bad).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{name}: {error}");
        assert!(error.to_string().contains("not below its prime"), "{name}: {error}");
    }
}

#[test]
fn keys_of_bootstrapping() {
    let mut f = Fixture::new("toy10_boot", Device::cpu());
    let generator = KeyGenerator::new(&f.ctx);
    let (params, top) = (f.ctx.params().clone(), f.top());
    let specs = [KeySpec::dense_to_sparse(), KeySpec::sparse_to_dense(&params)];
    let mut written = Vec::new();
    for spec in specs {
        let key = generator.evaluation_key(&f.secret, spec, &mut f.rng).unwrap();
        let bytes = key.to_bytes().unwrap();
        assert_eq!(bytes.len(), SeededKey::serialized_len(&params, spec));
        let back = SeededKey::from_bytes(&f.ctx, &bytes).unwrap();
        assert_eq!((back.spec(), back.to_bytes().unwrap()), (spec, bytes.clone()));
        back.expand(&f.ctx).unwrap();
        for length in [0, 39, 71, 82, 114, bytes.len() - 1] {
            let error = SeededKey::from_bytes(&f.ctx, &bytes[..length]).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{spec} at {length}: {error}");
        }
        let mut bad = bytes.clone();
        let end = bad.len();
        bad[end - 16..].fill(0xff);
        assert!(matches!(SeededKey::from_bytes(&f.ctx, &bad), Err(Error::Malformed { .. })));
        written.push(bytes);
    }
    // One digit over q_0 and two special primes of 50 bits each.
    assert_eq!(written[0].len(), 72 + 11 + 32 + 3 * 1024 / 8 * 50);
    // The tag says under which secret and modulus: neither may be exchanged, nor the level raised.
    let with = |bytes: &[u8], at: usize, field: &[u8]| {
        let mut changed = bytes.to_vec();
        changed[at..at + field.len()].copy_from_slice(field);
        SeededKey::from_bytes(&f.ctx, &changed).unwrap_err()
    };
    for tag in [0, 2, 4, 5] {
        assert!(matches!(with(&written[0], 72, &[tag]), Error::Malformed { .. }), "{tag}");
    }
    assert!(matches!(with(&written[1], 72, &[3]), Error::InvalidArgument { .. }));
    assert!(matches!(with(&written[0], 73, &[1]), Error::Malformed { .. }));
    for level in [1, top as u8] {
        assert!(matches!(with(&written[0], 81, &[level]), Error::InvalidArgument { .. }));
    }
    // A set without bootstrapping has neither.
    let mut other = toy();
    for spec in [KeySpec::dense_to_sparse(), KeySpec::sparse_to_dense(other.ctx.params())] {
        let generator = KeyGenerator::new(&other.ctx);
        let error = generator.evaluation_key(&other.secret, spec, &mut other.rng).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes(junk in prop::collection::vec(any::<u8>(), 0..600), keep in 0usize..60) {
        thread_local! {
            static TOY: (Context, Vec<Object>) = {
                let mut f = toy();
                let objects = objects(&mut f);
                (f.ctx.clone(), objects)
            };
        }
        TOY.with(|(ctx, objects)| {
            for (_, bytes, read) in objects {
                let mut mixed = bytes[..keep].to_vec();
                mixed.extend(&junk);
                assert!(read(ctx, &mixed).is_err());
            }
        });
    }
}

#[test]
fn secret_keys() {
    let mut f = toy();
    let ct = f.encrypt(&[0.5], 1);
    let stored = f.secret.expose_bytes_for_storage();
    f.secret = SecretKey::from_stored_bytes(&f.ctx, &stored).unwrap();
    assert!((f.decrypt(&ct)[0].re - 0.5).abs() < 1e-6);
    assert_eq!(format!("{:?}", f.secret), "SecretKey(..)");
}
