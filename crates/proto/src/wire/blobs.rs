//! Blob headers, chunks and uploads.

use super::{format, hash, id_bytes, name, present};
use crate::blob::{BlobHeader, BlobKind, Chunk, FORMAT, Missing};
use crate::{Fault, Id, Result, pb};
use bytes::Bytes;
use std::time::Duration;

/// The first or a later part of a blob on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPart {
    /// What follows.
    Header(BlobHeader),
    /// The next piece.
    Chunk(Chunk),
}

impl From<BlobHeader> for pb::BlobHeader {
    fn from(header: BlobHeader) -> Self {
        let kind = match header.kind {
            BlobKind::EvaluationKey => pb::BlobKind::EvaluationKey,
            BlobKind::Ciphertext => pb::BlobKind::Ciphertext,
            BlobKind::ModelDescription => pb::BlobKind::ModelDescription,
            BlobKind::Recording => pb::BlobKind::Recording,
            BlobKind::LabelKeys => pb::BlobKind::LabelKeys,
            BlobKind::Label => pb::BlobKind::Label,
        };
        Self {
            kind: kind.into(),
            format: FORMAT.into(),
            parameters: Bytes::copy_from_slice(&header.parameters),
            bytes: header.bytes,
            digest: Bytes::copy_from_slice(&header.digest),
            model: header.model,
            index: header.index,
        }
    }
}

impl TryFrom<pb::BlobHeader> for BlobHeader {
    type Error = Fault;
    fn try_from(header: pb::BlobHeader) -> Result<Self> {
        format(header.format)?;
        let kind = match header.kind() {
            pb::BlobKind::EvaluationKey => BlobKind::EvaluationKey,
            pb::BlobKind::Ciphertext => BlobKind::Ciphertext,
            pb::BlobKind::ModelDescription => BlobKind::ModelDescription,
            pb::BlobKind::Recording => BlobKind::Recording,
            pb::BlobKind::LabelKeys => BlobKind::LabelKeys,
            pb::BlobKind::Label => BlobKind::Label,
            pb::BlobKind::Unspecified => {
                return Err(Fault::malformed("blob kind", format!("unknown: {}", header.kind)));
            }
        };
        Ok(Self {
            kind,
            parameters: hash("parameter fingerprint", &header.parameters)?,
            bytes: header.bytes,
            digest: hash("digest", &header.digest)?,
            model: name("model name", header.model)?,
            index: header.index,
        })
    }
}

impl From<Chunk> for pb::Chunk {
    fn from(chunk: Chunk) -> Self {
        let hash = Bytes::copy_from_slice(&chunk.hash);
        Self { offset: chunk.offset, hash, data: chunk.data }
    }
}

impl TryFrom<pb::Chunk> for Chunk {
    type Error = Fault;
    fn try_from(chunk: pb::Chunk) -> Result<Self> {
        if chunk.data.len() as u64 > crate::CHUNK_BYTES {
            let got = chunk.data.len() as u64;
            return Err(Fault::TooLarge { what: "chunk".into(), limit: crate::CHUNK_BYTES, got });
        }
        let hash = hash("chunk hash", &chunk.hash)?;
        Ok(Self { offset: chunk.offset, hash, data: chunk.data })
    }
}

impl From<BlobPart> for pb::BlobPart {
    fn from(part: BlobPart) -> Self {
        use pb::blob_part::Part;
        let part = match part {
            BlobPart::Header(header) => Part::Header(header.into()),
            BlobPart::Chunk(chunk) => Part::Chunk(chunk.into()),
        };
        Self { part: Some(part) }
    }
}

impl TryFrom<pb::BlobPart> for BlobPart {
    type Error = Fault;
    fn try_from(part: pb::BlobPart) -> Result<Self> {
        use pb::blob_part::Part;
        match present("blob part", part.part)? {
            Part::Header(header) => Ok(Self::Header(header.try_into()?)),
            Part::Chunk(chunk) => Ok(Self::Chunk(chunk.try_into()?)),
        }
    }
}

/// The message that names an upload.
#[must_use]
pub fn upload_id(id: Id) -> pb::UploadId {
    pb::UploadId { upload_id: id_bytes(id) }
}

/// The answer to `Begin`.
#[must_use]
pub fn upload(id: Id, expires: Duration) -> pb::Upload {
    let expires_ms = expires.as_millis() as u64;
    pb::Upload { upload_id: id_bytes(id), chunk_bytes: crate::CHUNK_BYTES, expires_ms }
}

/// One chunk of an upload.
#[must_use]
pub fn upload_chunk(id: Id, chunk: Chunk) -> pb::UploadChunk {
    pb::UploadChunk { upload_id: id_bytes(id), chunk: Some(chunk.into()) }
}

/// The id and chunk in a message.
///
/// # Errors
/// [`Fault::Malformed`] or [`Fault::TooLarge`].
pub fn upload_chunk_parts(message: pb::UploadChunk) -> Result<(Id, Chunk)> {
    let id = Id::from_bytes(&message.upload_id)?;
    Ok((id, present("chunk", message.chunk)?.try_into()?))
}

/// The answer to `Status`.
#[must_use]
pub fn upload_status(id: Id, missing: Missing) -> pb::UploadStatus {
    let range = |r: std::ops::Range<u64>| pb::ByteRange { start: r.start, end: r.end };
    pb::UploadStatus {
        upload_id: id_bytes(id),
        received: missing.received,
        total: missing.total,
        missing: missing.ranges.into_iter().map(range).collect(),
    }
}

impl From<pb::UploadStatus> for Missing {
    fn from(status: pb::UploadStatus) -> Self {
        let ranges = status.missing.into_iter().map(|r| r.start..r.end).collect();
        Self { received: status.received, total: status.total, ranges }
    }
}
