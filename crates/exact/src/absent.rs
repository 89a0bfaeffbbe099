//! The engine of a build without it: types without values, and one error.

use crate::error::{Error, Result};
use crate::params::{LabelParameters, Stage};
use cipherform_ckks::{Ciphertext, EvaluationKeys, Evaluator, SecretId, SecretKey};
use rand_core::CryptoRng;
use std::convert::Infallible;
use std::ops::ControlFlow;

/// The client's secrets of the step.
#[derive(Debug)]
pub struct LabelSecret(Infallible);

/// The keys as they travel.
#[derive(Clone, Debug)]
pub struct SeededLabelKeys(Infallible);

/// The keys in use.
#[derive(Debug)]
pub struct LabelKeys(Infallible);

/// The winning class under the client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedLabel(Infallible);

impl LabelSecret {
    /// Derives the secrets.
    ///
    /// # Errors
    /// [`Error::NotBuilt`].
    pub fn new(_secret: &SecretKey) -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// The name of the CKKS secret.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        match self.0 {}
    }

    /// Makes the keys that the server needs.
    ///
    /// # Errors
    /// None.
    pub fn keys<R: CryptoRng + ?Sized>(
        &self,
        _step: &LabelParameters,
        _rng: &mut R,
    ) -> Result<SeededLabelKeys> {
        match self.0 {}
    }
}

impl SeededLabelKeys {
    /// Serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.0 {}
    }

    /// Reads keys for a step.
    ///
    /// # Errors
    /// [`Error::NotBuilt`].
    pub fn from_bytes(_step: &LabelParameters, _bytes: &[u8]) -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// The name of the secret that they belong to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        match self.0 {}
    }

    /// The keys ready for use.
    ///
    /// # Errors
    /// None.
    pub fn expand(self) -> Result<LabelKeys> {
        match self.0 {}
    }
}

impl LabelKeys {
    /// The name of the secret that they belong to.
    #[must_use]
    pub fn secret_id(&self) -> SecretId {
        match self.0 {}
    }
}

impl EncryptedLabel {
    /// Serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.0 {}
    }

    /// Reads a reply of a step.
    ///
    /// # Errors
    /// [`Error::NotBuilt`].
    pub fn from_bytes(_step: &LabelParameters, _bytes: &[u8]) -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// The class.
    ///
    /// # Errors
    /// None.
    pub fn decrypt(&self, _step: &LabelParameters, _secret: &LabelSecret) -> Result<usize> {
        match self.0 {}
    }
}

/// Compares encrypted logits.
///
/// # Errors
/// None: without keys there is no call.
pub fn evaluate(
    _step: &LabelParameters,
    _evaluator: &Evaluator,
    _ring_keys: &EvaluationKeys,
    keys: &LabelKeys,
    _logits: &[Ciphertext],
    _before: &mut dyn FnMut(Stage) -> ControlFlow<()>,
) -> Result<EncryptedLabel> {
    match keys.0 {}
}
