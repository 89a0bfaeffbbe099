//! Key sets.

use super::{hash, id_bytes, name};
use crate::{Fault, Id, Result, pb};
use bytes::Bytes;

/// Missing keys that one message lists.
pub const MAX_MISSING: usize = 1024;

/// A key set on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetInfo {
    /// Its id.
    pub id: Id,
    /// The model it is for.
    pub model: String,
    /// Fingerprint of that model's description.
    pub description: [u8; 32],
    /// Keys present.
    pub present: u32,
    /// Keys that the plan needs.
    pub required: u32,
    /// Bytes in the server's memory.
    pub bytes: u64,
    /// The first [`MAX_MISSING`] missing keys, as indices into the plan's keys.
    pub missing: Vec<u32>,
}

impl KeySetInfo {
    /// Whether every key of the plan is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.present == self.required
    }
}

/// The message that commits an upload to a key set, or to a new one.
#[must_use]
pub fn commit_request(upload: Id, key_set: Option<Id>) -> pb::CommitRequest {
    let key_set_id = key_set.map(id_bytes).unwrap_or_default();
    pb::CommitRequest { upload_id: id_bytes(upload), key_set_id }
}

/// The upload and key set of a commit.
///
/// # Errors
/// [`Fault::Malformed`].
pub fn commit_parts(message: &pb::CommitRequest) -> Result<(Id, Option<Id>)> {
    let key_set = match message.key_set_id.as_ref() {
        [] => None,
        bytes => Some(Id::from_bytes(bytes)?),
    };
    Ok((Id::from_bytes(&message.upload_id)?, key_set))
}

/// The message that names a key set.
#[must_use]
pub fn key_set_id(id: Id) -> pb::KeySetId {
    pb::KeySetId { key_set_id: id_bytes(id) }
}

impl From<KeySetInfo> for pb::KeySet {
    fn from(info: KeySetInfo) -> Self {
        Self {
            key_set_id: id_bytes(info.id),
            model: info.model,
            description: Bytes::copy_from_slice(&info.description),
            present: info.present,
            required: info.required,
            bytes: info.bytes,
            missing: info.missing,
        }
    }
}

impl TryFrom<pb::KeySet> for KeySetInfo {
    type Error = Fault;
    fn try_from(set: pb::KeySet) -> Result<Self> {
        Ok(Self {
            id: Id::from_bytes(&set.key_set_id)?,
            model: name("model name", set.model)?,
            description: hash("description fingerprint", &set.description)?,
            present: set.present,
            required: set.required,
            bytes: set.bytes,
            missing: set.missing,
        })
    }
}

/// A list of key sets.
#[must_use]
pub fn key_sets(sets: Vec<KeySetInfo>) -> pb::KeySets {
    pb::KeySets { key_sets: sets.into_iter().map(Into::into).collect() }
}

/// The key sets in a list.
///
/// # Errors
/// [`Fault::Malformed`].
pub fn key_set_list(sets: pb::KeySets) -> Result<Vec<KeySetInfo>> {
    sets.key_sets.into_iter().map(TryInto::try_into).collect()
}
