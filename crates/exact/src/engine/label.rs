//! The reply.

use super::keys::{read_header, write_header};
use super::{LabelSecret, NATIVE};
use crate::error::{Error, Result};
use crate::params::{LABEL_HEADER, LARGE_DIMENSION, LabelParameters};
use cipherform_ckks::SecretId;
use tfhe::conformance::ParameterSetConformant;
use tfhe::core_crypto::prelude::{
    LweCiphertext, LweCiphertextConformanceParams, LweDimension, LweSecretKey,
    decrypt_lwe_ciphertext,
};

const MAGIC: [u8; 4] = *b"CFLB";
const VERSION: u16 = 1;
const WHAT: &str = "encrypted label";

/// A phase further than this from a label, in labels, is refused; honest ones are within a twentieth.
const PLAUSIBLE: f64 = 0.25;

/// The winning class under the client's key: all that leaves the server, and a label is all that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedLabel {
    fingerprint: [u8; 32],
    id: SecretId,
    /// The digits of the class, the least significant first: mask, then body of each.
    words: Vec<u64>,
}

impl EncryptedLabel {
    pub(super) fn new(step: &LabelParameters, id: SecretId, words: Vec<u64>) -> Self {
        Self { fingerprint: step.params().fingerprint(), id, words }
    }

    /// Serialises: magic `CFLB`, version, set, secret, words; [`LabelParameters::label_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LABEL_HEADER + 8 * self.words.len());
        write_header(&mut out, MAGIC, VERSION, &self.fingerprint, self.id);
        self.words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        out
    }

    /// Reads a reply of a step; the length is checked before anything is allocated.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::ParameterMismatch`].
    pub fn from_bytes(step: &LabelParameters, bytes: &[u8]) -> Result<Self> {
        let (id, rest) = read_header(step, WHAT, MAGIC, VERSION, bytes, step.label_bytes())?;
        let words: Vec<u64> =
            rest.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        // The library's own check; lengths follow from the header's, which was compared.
        let shape = LweCiphertextConformanceParams {
            lwe_dim: LweDimension(LARGE_DIMENSION),
            ct_modulus: NATIVE,
        };
        let fits = |words| LweCiphertext::from_container(words, NATIVE).is_conformant(&shape);
        if !words.chunks(LARGE_DIMENSION + 1).all(fits) {
            let detail = "the library refuses it for these parameters".to_owned();
            return Err(Error::Malformed { what: WHAT, detail });
        }
        Ok(Self::new(step, id, words))
    }

    /// The class.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`]; [`Error::Implausible`] for a phase that is no class.
    pub fn decrypt(&self, step: &LabelParameters, secret: &LabelSecret) -> Result<usize> {
        if self.id != secret.secret_id() {
            return Err(Error::KeyMismatch { expected: secret.secret_id(), got: self.id });
        }
        let key = LweSecretKey::from_container(secret.large());
        let messages = step.messages();
        let shift = 64 - messages.trailing_zeros();
        let half = 1u64 << (shift - 1);
        let (mut label, mut weight, mut distance) = (0, 1, 0f64);
        for words in self.words.chunks(LARGE_DIMENSION + 1) {
            let phase =
                decrypt_lwe_ciphertext(&key, &LweCiphertext::from_container(words, NATIVE)).0;
            let digit = (phase.wrapping_add(half) >> shift) as usize % messages;
            let off = phase.wrapping_sub((digit as u64) << shift) as i64;
            distance = distance.max(off.unsigned_abs() as f64 / (half as f64 * 2.0));
            label += weight * digit;
            weight *= messages;
        }
        if distance > PLAUSIBLE || label >= step.classes() {
            return Err(Error::Implausible { distance, limit: PLAUSIBLE });
        }
        Ok(label)
    }
}

#[cfg(test)]
impl EncryptedLabel {
    pub(super) fn words_for_test(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn id_for_test(&self) -> SecretId {
        self.id
    }
}
