//! Faults in the details of a status.

use super::{hash, text};
use crate::pb::error_detail as detail;
use crate::{Fault, pb};
use bytes::Bytes;
use cipherform_ckks::{KeyKind, KeySpec};
use prost::Message;

/// Missing keys that one refusal lists.
const MAX_LISTED_KEYS: usize = 64;

fn to_key(spec: &KeySpec) -> pb::KeySpec {
    let (kind, rotation) = match spec.kind {
        KeyKind::Relinearization => (pb::KeyKind::Relinearization, 0),
        KeyKind::Rotation(k) => (pb::KeyKind::Rotation, k),
        KeyKind::Conjugation => (pb::KeyKind::Conjugation, 0),
        KeyKind::DenseToSparse => (pb::KeyKind::DenseToSparse, 0),
        KeyKind::SparseToDense => (pb::KeyKind::SparseToDense, 0),
        KeyKind::HandOver => (pb::KeyKind::HandOver, 0),
    };
    pb::KeySpec { kind: kind.into(), rotation, level: spec.level as u32 }
}

fn from_key(key: &pb::KeySpec) -> Option<KeySpec> {
    let kind = match key.kind() {
        pb::KeyKind::Relinearization => KeyKind::Relinearization,
        pb::KeyKind::Rotation => KeyKind::Rotation(key.rotation),
        pb::KeyKind::Conjugation => KeyKind::Conjugation,
        pb::KeyKind::DenseToSparse => KeyKind::DenseToSparse,
        pb::KeyKind::SparseToDense => KeyKind::SparseToDense,
        pb::KeyKind::HandOver => KeyKind::HandOver,
        pb::KeyKind::Unspecified => return None,
    };
    Some(KeySpec { kind, level: key.level as usize })
}

/// The details of a status that carries `fault`.
pub(crate) fn fault_details(fault: &Fault) -> Bytes {
    to_detail(fault).encode_to_vec().into()
}

/// The fault in the details of a status, if there is one.
pub(crate) fn fault_from_details(details: &[u8]) -> Option<Fault> {
    from_detail(pb::ErrorDetail::decode(details).ok()?)
}

pub(super) fn to_detail(fault: &Fault) -> pb::ErrorDetail {
    use detail::Kind;
    let kind = match fault.clone() {
        Fault::ParameterMismatch { expected, got } => {
            let [expected, got] = [expected, got].map(|f| Bytes::copy_from_slice(&f));
            Kind::ParameterMismatch(detail::ParameterMismatch { expected, got })
        }
        Fault::KeyMissing { keys, count } => {
            let keys = keys.iter().take(MAX_LISTED_KEYS).map(to_key).collect();
            Kind::KeyMissing(detail::KeyMissing { keys, count })
        }
        Fault::LevelMismatch { what, expected, got } => {
            Kind::LevelMismatch(detail::LevelMismatch { what, expected, got })
        }
        Fault::FormatVersion { min, max, got } => {
            Kind::FormatVersion(detail::FormatVersion { min, max, got })
        }
        Fault::TooLarge { what, limit, got } => {
            Kind::TooLarge(detail::TooLarge { what, limit, got })
        }
        Fault::NotFound { what, name } => Kind::NotFound(detail::NotFound { what, name }),
        Fault::Malformed { what, detail } => Kind::Malformed(detail::Malformed { what, detail }),
        Fault::Busy { what, limit, retry_after_ms } => {
            Kind::Busy(detail::Busy { what, limit, retry_after_ms })
        }
        Fault::Cancelled => Kind::Cancelled(detail::Cancelled {}),
        Fault::Unauthenticated => Kind::Unauthenticated(detail::Unauthenticated {}),
        Fault::Incomplete { received, total } => {
            Kind::Incomplete(detail::Incomplete { received, total })
        }
        Fault::NotReady { state } => Kind::NotReady(detail::NotReady { state }),
        Fault::ShuttingDown => Kind::ShuttingDown(detail::ShuttingDown {}),
        Fault::Failed { detail } => Kind::Failed(detail::Failed { detail }),
        Fault::Internal => Kind::Internal(detail::Internal {}),
    };
    pb::ErrorDetail { kind: Some(kind) }
}

/// The fault of a message, its texts fit to be shown.
pub(super) fn from_detail(message: pb::ErrorDetail) -> Option<Fault> {
    use detail::Kind;
    Some(match message.kind? {
        Kind::ParameterMismatch(m) => Fault::ParameterMismatch {
            expected: hash("", &m.expected).ok()?,
            got: hash("", &m.got).ok()?,
        },
        Kind::KeyMissing(m) => {
            let keys = m.keys.iter().take(MAX_LISTED_KEYS).map(from_key);
            Fault::KeyMissing { keys: keys.collect::<Option<_>>()?, count: m.count }
        }
        Kind::LevelMismatch(m) => {
            Fault::LevelMismatch { what: text(&m.what), expected: m.expected, got: m.got }
        }
        Kind::FormatVersion(m) => Fault::FormatVersion { min: m.min, max: m.max, got: m.got },
        Kind::TooLarge(m) => Fault::TooLarge { what: text(&m.what), limit: m.limit, got: m.got },
        Kind::NotFound(m) => Fault::NotFound { what: text(&m.what), name: text(&m.name) },
        Kind::Malformed(m) => Fault::Malformed { what: text(&m.what), detail: text(&m.detail) },
        Kind::Busy(m) => {
            Fault::Busy { what: text(&m.what), limit: m.limit, retry_after_ms: m.retry_after_ms }
        }
        Kind::Cancelled(_) => Fault::Cancelled,
        Kind::Unauthenticated(_) => Fault::Unauthenticated,
        Kind::Incomplete(m) => Fault::Incomplete { received: m.received, total: m.total },
        Kind::NotReady(m) => Fault::NotReady { state: text(&m.state) },
        Kind::ShuttingDown(_) => Fault::ShuttingDown,
        Kind::Failed(m) => Fault::Failed { detail: text(&m.detail) },
        Kind::Internal(_) => Fault::Internal,
    })
}
