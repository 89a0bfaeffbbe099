//! Errors of the crates below, in the words of the wire.

use cipherform_ckks::Parameters;
use cipherform_proto::Fault;

/// Where the parameter fingerprint lies in a serialised key or ciphertext.
const FINGERPRINT: std::ops::Range<usize> = 8..40;

/// What is wrong with the bytes of a key or ciphertext that a client sent.
pub(crate) fn bytes(params: &Parameters, bytes: &[u8], error: &cipherform_ckks::Error) -> Fault {
    match error {
        cipherform_ckks::Error::ParameterMismatch { .. } => {
            let got = bytes.get(FINGERPRINT).and_then(|b| b.try_into().ok()).unwrap_or_default();
            Fault::ParameterMismatch { expected: params.fingerprint(), got }
        }
        cipherform_ckks::Error::LevelTooHigh { level, max, .. } => {
            Fault::LevelMismatch { what: "blob".into(), expected: *max as u32, got: *level as u32 }
        }
        error => Fault::malformed("blob", error.to_string()),
    }
}

/// An error of the scheme in the server's own work.
pub(crate) fn ckks(error: &cipherform_ckks::Error) -> Fault {
    Fault::Failed { detail: error.to_string() }
}

/// What is wrong with the bytes of label keys that a client sent.
pub(crate) fn label_keys(params: &Parameters, error: &cipherform_exact::Error) -> Fault {
    match error {
        cipherform_exact::Error::ParameterMismatch { .. } => {
            Fault::ParameterMismatch { expected: params.fingerprint(), got: [0; 32] }
        }
        error => Fault::malformed("label keys", error.to_string()),
    }
}

/// An error of a model's run.
pub(crate) fn nn(error: &cipherform_nn::Error) -> Fault {
    match error {
        cipherform_nn::Error::Cancelled { .. } => Fault::Cancelled,
        error => Fault::Failed { detail: error.to_string() },
    }
}
