//! What every test needs: a context, keys, and slots to compare.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its own part of the fixture"
)]

use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator,
    KeySpec, SecretKey, presets,
};
use cipherform_ring::Device;
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// The only place where tests make a generator: fixed seeds exist in tests only.
pub(crate) fn insecure_test_rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

pub(crate) struct Fixture {
    pub(crate) ctx: Context,
    pub(crate) encoder: Encoder,
    pub(crate) evaluator: Evaluator,
    pub(crate) secret: SecretKey,
    pub(crate) rng: ChaCha20Rng,
}

impl Fixture {
    pub(crate) fn new(set: &str, device: Device) -> Self {
        Self::in_context(Context::new(presets::get(set).unwrap(), &device).unwrap())
    }

    pub(crate) fn in_context(ctx: Context) -> Self {
        let mut rng = insecure_test_rng(7);
        let secret = KeyGenerator::new(&ctx).secret_key(&mut rng).unwrap();
        Self { encoder: Encoder::new(&ctx), evaluator: Evaluator::new(&ctx), ctx, secret, rng }
    }

    pub(crate) fn top(&self) -> usize {
        self.ctx.params().max_level()
    }

    /// Uniform slots in the square [-1, 1] + i [-1, 1].
    pub(crate) fn random_slots(&mut self, m: usize) -> Vec<Complex64> {
        (0..m).map(|_| Complex64::new(uniform(&mut self.rng), uniform(&mut self.rng))).collect()
    }

    pub(crate) fn random_reals(&mut self, m: usize) -> Vec<f64> {
        (0..m).map(|_| uniform(&mut self.rng)).collect()
    }

    /// Encrypts at a level and its nominal scale.
    pub(crate) fn encrypt<T: Copy + Into<Complex64>>(
        &mut self,
        values: &[T],
        level: usize,
    ) -> Ciphertext {
        let scale = self.ctx.params().scale_at(level);
        let plaintext = self.encoder.encode(values, level, scale).unwrap();
        let encryptor = Encryptor::with_secret_key(&self.ctx, &self.secret).unwrap();
        encryptor.encrypt(&plaintext, &mut self.rng).unwrap()
    }

    pub(crate) fn decrypt(&self, ct: &Ciphertext) -> Vec<Complex64> {
        let decryptor = Decryptor::new(&self.ctx, &self.secret).unwrap();
        self.encoder.decode(&decryptor.decrypt(ct).unwrap()).unwrap()
    }

    pub(crate) fn keys(&mut self, specs: impl IntoIterator<Item = KeySpec>) -> EvaluationKeys {
        let generator = KeyGenerator::new(&self.ctx);
        let mut keys = EvaluationKeys::new(&self.ctx);
        for spec in specs {
            let key = generator.evaluation_key(&self.secret, spec, &mut self.rng).unwrap();
            keys.insert(key.expand(&self.ctx).unwrap()).unwrap();
        }
        keys
    }

    /// As [`Self::keys`], on all cores.
    pub(crate) fn many_keys(&mut self, specs: &[KeySpec]) -> EvaluationKeys {
        let generator = KeyGenerator::new(&self.ctx);
        let count = std::sync::atomic::AtomicUsize::new(0);
        let done = |spec| {
            assert!(specs.contains(&spec));
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let keys = generator.expanded_keys(&self.secret, specs, &mut self.rng, done).unwrap();
        assert_eq!((count.into_inner(), keys.missing(specs)), (specs.len(), Vec::new()));
        keys
    }

    pub(crate) fn rotation(&self, k: i64, level: usize) -> KeySpec {
        KeySpec::rotation(self.ctx.params(), k, level).unwrap()
    }
}

fn uniform(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Largest absolute error of a real or imaginary part.
pub(crate) fn max_error(want: &[Complex64], got: &[Complex64]) -> f64 {
    assert_eq!(want.len(), got.len());
    cipherform_ckks::PrecisionStats::compare(want, got).max_error
}
