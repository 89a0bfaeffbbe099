//! Keys of the step: the client's secrets, what it sends, what the server uses.

use super::NATIVE;
use crate::error::{Error, Result};
use crate::params::{
    BOOTSTRAP_BASE, BOOTSTRAP_DIGITS, KEYS_HEADER, LARGE_DIMENSION, LARGE_NOISE, LabelParameters,
    SMALL_DIMENSION, SMALL_NOISE, SWITCH_BASE, SWITCH_DIGITS, check_security,
};
use cipherform_ckks::{SecretId, SecretKey};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng, SeedableRng};
use std::fmt;
use tfhe::conformance::ParameterSetConformant;
use tfhe::core_crypto::commons::math::random::{CompressionSeed, Seed, Seeder};
use tfhe::core_crypto::prelude::{
    DecompositionBaseLog, DecompositionLevelCount, DynamicDistribution, FourierLweBootstrapKey,
    FourierLweBootstrapKeyOwned, GlweSecretKey, GlweSize, LweDimension,
    LweKeyswitchKeyConformanceParams, LweKeyswitchKeyOwned, LweSecretKey, LweSize, PolynomialSize,
    SeededLweBootstrapKey, SeededLweKeyswitchKey, generate_seeded_lwe_keyswitch_key,
    par_convert_standard_lwe_bootstrap_key_to_fourier, par_generate_seeded_lwe_bootstrap_key,
};
use zeroize::Zeroizing;

const MAGIC: [u8; 4] = *b"CFLK";
const VERSION: u16 = 1;
const WHAT: &str = "label keys";

/// What the seed of the two secrets below is derived for.
const SECRET_CONTEXT: &str = "cipherform 2026 secrets of the label-only step";

/// The client's secrets of the step, all derived from its CKKS secret: whoever holds that needs no other file. Zeroised on
/// drop; prints no content.
pub struct LabelSecret {
    id: SecretId,
    /// Uniform ternary; -1 as a word.
    hand_over: Zeroizing<Vec<u64>>,
    /// Uniform bits.
    small: Zeroizing<Vec<u64>>,
    /// Uniform bits.
    large: Zeroizing<Vec<u64>>,
}

impl fmt::Debug for LabelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabelSecret(..)")
    }
}

/// The generator of the scheme asks for seeds; these come from the caller's.
struct Seeds<'a, R: ?Sized>(&'a mut R);

impl<R: CryptoRng + ?Sized> Seeder for Seeds<'_, R> {
    fn seed(&mut self) -> Seed {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        Seed(u128::from_le_bytes(bytes))
    }

    fn is_available() -> bool {
        true
    }
}

impl LabelSecret {
    /// Derives the secrets.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] without the feature `label-only`.
    pub fn new(secret: &SecretKey) -> Result<Self> {
        let mut rng = ChaCha20Rng::from_seed(*secret.derive_seed(SECRET_CONTEXT));
        let mut bits = |n: usize| {
            // One bit of each word of the stream.
            Zeroizing::new((0..n).map(|_| u64::from(rng.next_u32() & 1)).collect::<Vec<_>>())
        };
        let (small, large) = (bits(SMALL_DIMENSION), bits(LARGE_DIMENSION));
        let hand_over = secret.expose_hand_over_secret().iter().map(|&s| s as u64).collect();
        Ok(Self { id: secret.id(), hand_over: Zeroizing::new(hand_over), small, large })
    }

    /// The name of the CKKS secret.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.id
    }

    pub(super) fn large(&self) -> &[u64] {
        &self.large
    }

    #[cfg(test)]
    pub(super) fn small(&self) -> &[u64] {
        &self.small
    }

    /// Makes the keys that the server needs. Takes a second or two; 29 MiB.
    ///
    /// # Errors
    /// [`Error::Insecure`]; [`Error::Ckks`] if the key to the hand-over secret would be insecure in this set.
    pub fn keys<R: CryptoRng + ?Sized>(
        &self,
        step: &LabelParameters,
        rng: &mut R,
    ) -> Result<SeededLabelKeys> {
        check_security()?;
        if self.hand_over.len() != step.params().hand_over_dimension() {
            let expected = step.params().name().to_owned();
            return Err(Error::ParameterMismatch { what: "a secret", expected });
        }
        let small = LweSecretKey::from_container(self.small.as_slice());
        let ring = PolynomialSize(LARGE_DIMENSION);
        let ring_secret = GlweSecretKey::from_container(self.large.as_slice(), ring);
        let mut seeds = [[0; 16]; 3];
        for seed in &mut seeds {
            rng.fill_bytes(seed);
        }
        let [bridge_seed, switch_seed, bootstrap_seed] = seeds;
        let mut noise = Seeds(rng);
        let mut switch = |from: &[u64], seed| {
            let from = LweSecretKey::from_container(from);
            let mut key = seeded_switch(vec![0; from.lwe_dimension().0 * SWITCH_DIGITS], seed);
            let distribution = DynamicDistribution::<u64>::new_t_uniform(SMALL_NOISE);
            generate_seeded_lwe_keyswitch_key(&from, &small, &mut key, distribution, &mut noise);
            key.into_container()
        };
        let bridge = switch(&self.hand_over, bridge_seed);
        let switch = switch(&self.large, switch_seed);
        let [.., length] = step.key_words();
        let mut key = seeded_bootstrap(vec![0; length], bootstrap_seed);
        let distribution = DynamicDistribution::<u64>::new_t_uniform(LARGE_NOISE);
        par_generate_seeded_lwe_bootstrap_key(
            &small,
            &ring_secret,
            &mut key,
            distribution,
            &mut noise,
        );
        let words = [bridge, switch, key.into_container()];
        Ok(SeededLabelKeys::of(step, self.id, seeds, words))
    }
}

fn compression(seed: [u8; 16]) -> CompressionSeed {
    Seed(u128::from_le_bytes(seed)).into()
}

fn seeded_switch(words: Vec<u64>, seed: [u8; 16]) -> SeededLweKeyswitchKey<Vec<u64>> {
    SeededLweKeyswitchKey::from_container(
        words,
        DecompositionBaseLog(SWITCH_BASE),
        DecompositionLevelCount(SWITCH_DIGITS),
        LweSize(SMALL_DIMENSION + 1),
        compression(seed),
        NATIVE,
    )
}

fn seeded_bootstrap(words: Vec<u64>, seed: [u8; 16]) -> SeededLweBootstrapKey<Vec<u64>> {
    SeededLweBootstrapKey::from_container(
        words,
        GlweSize(2),
        PolynomialSize(LARGE_DIMENSION),
        DecompositionBaseLog(BOOTSTRAP_BASE),
        DecompositionLevelCount(BOOTSTRAP_DIGITS),
        compression(seed),
        NATIVE,
    )
}

/// The keys as they travel: bodies, and the seeds of the masks. Made by [`LabelSecret::keys`].
///
/// | bytes | field |
/// |---|---|
/// | 4, 2 | magic `CFLK`, version |
/// | 32, 32 | fingerprint of the parameter set, name of the secret |
/// | 3 x 16 | seeds: bridge, switch, bootstrap |
/// | rest | the bodies of the three keys, words of 8 bytes, little-endian |
///
/// The length follows from the parameter set, and every word is a word of a key, so that there is nothing further to
/// check: an object of the library's own format, with its own lengths inside, is never parsed.
#[derive(Clone)]
pub struct SeededLabelKeys {
    fingerprint: [u8; 32],
    id: SecretId,
    hand_over_dimension: usize,
    seeds: [[u8; 16]; 3],
    /// Bridge, switch, bootstrap.
    words: [Vec<u64>; 3],
}

impl fmt::Debug for SeededLabelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeededLabelKeys(of {})", self.id)
    }
}

impl SeededLabelKeys {
    fn of(
        step: &LabelParameters,
        id: SecretId,
        seeds: [[u8; 16]; 3],
        words: [Vec<u64>; 3],
    ) -> Self {
        let fingerprint = step.params().fingerprint();
        Self {
            fingerprint,
            id,
            hand_over_dimension: step.params().hand_over_dimension(),
            seeds,
            words,
        }
    }

    /// Serialises: [`LabelParameters::seeded_key_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = self.words.iter().map(Vec::len).sum::<usize>();
        let mut out = Vec::with_capacity(KEYS_HEADER + 8 * words);
        write_header(&mut out, MAGIC, VERSION, &self.fingerprint, self.id);
        self.seeds.iter().for_each(|seed| out.extend(seed));
        self.words.iter().flatten().for_each(|word| out.extend(word.to_le_bytes()));
        out
    }

    /// Reads keys for a step. The length is checked before anything is allocated.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::ParameterMismatch`].
    pub fn from_bytes(step: &LabelParameters, bytes: &[u8]) -> Result<Self> {
        let malformed = |detail: String| Error::Malformed { what: WHAT, detail };
        let (id, rest) = read_header(step, WHAT, MAGIC, VERSION, bytes, step.seeded_key_bytes())?;
        let (seeds, rest) =
            rest.split_first_chunk::<48>().ok_or_else(|| malformed("they end early".into()))?;
        let (chunks, _) = seeds.as_chunks::<16>();
        let seeds = chunks.try_into().map_err(|_| malformed("they end early".into()))?;
        let (all, _) = rest.as_chunks::<8>();
        let mut all = all.iter().map(|word| u64::from_le_bytes(*word));
        let words = step.key_words().map(|n| all.by_ref().take(n).collect());
        Ok(Self::of(step, id, seeds, words))
    }

    /// The name of the secret that they belong to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.id
    }

    /// The keys ready for use. A second or so on one core; memory: [`LabelParameters::key_bytes`] and twice the
    /// bootstrapping key while it lasts.
    ///
    /// # Errors
    /// [`Error::Malformed`] for keys that the library itself finds unfit for the parameters.
    pub fn expand(self) -> Result<LabelKeys> {
        let [bridge, switch, bootstrap] = self.words;
        let [bridge_seed, switch_seed, bootstrap_seed] = self.seeds;
        let expanded =
            |words, seed| seeded_switch(words, seed).par_decompress_into_lwe_keyswitch_key();
        let standard = seeded_bootstrap(bootstrap, bootstrap_seed);
        let standard = standard.par_decompress_into_lwe_bootstrap_key();
        let mut fourier = FourierLweBootstrapKey::new(
            LweDimension(SMALL_DIMENSION),
            GlweSize(2),
            PolynomialSize(LARGE_DIMENSION),
            DecompositionBaseLog(BOOTSTRAP_BASE),
            DecompositionLevelCount(BOOTSTRAP_DIGITS),
        );
        par_convert_standard_lwe_bootstrap_key_to_fourier(&standard, &mut fourier);
        let keys = LabelKeys {
            fingerprint: self.fingerprint,
            id: self.id,
            bridge: expanded(bridge, bridge_seed),
            switch: expanded(switch, switch_seed),
            bootstrap: fourier,
        };
        let fits = is_fit(&keys.bridge, self.hand_over_dimension)
            && is_fit(&keys.switch, LARGE_DIMENSION)
            && standard.input_lwe_dimension() == LweDimension(SMALL_DIMENSION)
            && standard.output_lwe_dimension() == LweDimension(LARGE_DIMENSION);
        if !fits {
            let detail = "the library refuses it for these parameters".to_owned();
            return Err(Error::Malformed { what: WHAT, detail });
        }
        Ok(keys)
    }
}

/// The library's own check of a switching key.
fn is_fit(key: &LweKeyswitchKeyOwned<u64>, from: usize) -> bool {
    key.is_conformant(&LweKeyswitchKeyConformanceParams {
        decomp_base_log: DecompositionBaseLog(SWITCH_BASE),
        decomp_level_count: DecompositionLevelCount(SWITCH_DIGITS),
        output_lwe_size: LweSize(SMALL_DIMENSION + 1),
        input_lwe_dimension: LweDimension(from),
        ciphertext_modulus: NATIVE,
    })
}

/// The keys in use.
pub struct LabelKeys {
    fingerprint: [u8; 32],
    id: SecretId,
    bridge: LweKeyswitchKeyOwned<u64>,
    switch: LweKeyswitchKeyOwned<u64>,
    bootstrap: FourierLweBootstrapKeyOwned,
}

impl fmt::Debug for LabelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelKeys(of {})", self.id)
    }
}

impl LabelKeys {
    /// The name of the secret that they belong to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        self.id
    }

    pub(super) fn bridge(&self) -> &LweKeyswitchKeyOwned<u64> {
        &self.bridge
    }

    pub(super) fn switch(&self) -> &LweKeyswitchKeyOwned<u64> {
        &self.switch
    }

    pub(super) fn bootstrap(&self) -> &FourierLweBootstrapKeyOwned {
        &self.bootstrap
    }

    /// Refuses a step of another set and logits of another secret.
    pub(super) fn check(
        &self,
        step: &LabelParameters,
        secrets: impl Iterator<Item = SecretId>,
    ) -> Result<()> {
        if self.fingerprint != step.params().fingerprint() {
            let expected = step.params().name().to_owned();
            return Err(Error::ParameterMismatch { what: WHAT, expected });
        }
        for expected in secrets {
            if expected != self.id {
                return Err(Error::KeyMismatch { expected, got: self.id });
            }
        }
        Ok(())
    }
}

/// Magic, version, set and secret.
pub(super) fn write_header(
    out: &mut Vec<u8>,
    magic: [u8; 4],
    version: u16,
    fingerprint: &[u8; 32],
    id: SecretId,
) {
    out.extend(magic);
    out.extend(version.to_le_bytes());
    out.extend(fingerprint);
    out.extend(id.to_bytes());
}

/// Checks a header and the whole length, which is known; returns the secret and what follows.
pub(super) fn read_header<'a>(
    step: &LabelParameters,
    what: &'static str,
    magic: [u8; 4],
    version: u16,
    bytes: &'a [u8],
    length: usize,
) -> Result<(SecretId, &'a [u8])> {
    let malformed = |detail: String| Error::Malformed { what, detail };
    let Some((header, rest)) = bytes.split_first_chunk::<70>() else {
        return Err(malformed(format!("{} bytes", bytes.len())));
    };
    if header[..4] != magic || header[4..6] != version.to_le_bytes() {
        return Err(malformed("not of this kind and version".into()));
    }
    if header[6..38] != step.params().fingerprint() {
        let expected = step.params().name().to_owned();
        return Err(Error::ParameterMismatch { what, expected });
    }
    if bytes.len() != length {
        return Err(malformed(format!("{} bytes instead of {length}", bytes.len())));
    }
    let mut id = [0; 32];
    id.copy_from_slice(&header[38..]);
    Ok((SecretId::from_bytes(id), rest))
}
