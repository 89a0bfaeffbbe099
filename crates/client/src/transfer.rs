//! Blobs in both directions.

use crate::connection::{Authorized, Client};
use crate::error::{Error, Result};
use bytes::Bytes;
use cipherform_proto::wire::{self, BlobPart};
use cipherform_proto::{Assembler, BlobHeader, BlobKind, Chunked, Id, Missing, pb};
use tonic::Streaming;

/// How often an upload is taken up again after a chunk stream broke before it gives up.
const RESUMPTIONS: usize = 3;

/// Receives one blob of at most `limit` bytes, each message within the time of a call.
pub(crate) async fn receive(
    client: &Client,
    doing: &'static str,
    parts: &mut Streaming<pb::BlobPart>,
    kind: BlobKind,
    limit: u64,
) -> Result<(BlobHeader, Bytes)> {
    let header = match next(client, doing, parts).await? {
        Some(BlobPart::Header(header)) if header.kind == kind => header,
        _ => return Err(Error::Protocol(format!("a header of a {kind:?} was expected"))),
    };
    let mut assembler = Assembler::at_most(&header, limit)?;
    loop {
        match next(client, doing, parts).await? {
            Some(BlobPart::Chunk(chunk)) => assembler.accept(chunk)?,
            Some(BlobPart::Header(_)) => return Err(Error::Protocol("a second header".into())),
            None => return Ok((header, assembler.finish()?)),
        }
    }
}

async fn next(
    client: &Client,
    doing: &'static str,
    parts: &mut Streaming<pb::BlobPart>,
) -> Result<Option<BlobPart>> {
    let part = client.in_time(doing, parts.message()).await?;
    Ok(part.map(BlobPart::try_from).transpose()?)
}

/// Sends one blob and returns the id of the complete upload.
pub(crate) async fn send(
    client: &Client,
    uploads: &mut pb::uploads_client::UploadsClient<Authorized>,
    doing: &'static str,
    header: BlobHeader,
    blob: &Chunked,
) -> Result<Id> {
    let begun = client.call(doing, uploads.begin(pb::BlobHeader::from(header))).await?;
    let id = Id::try_from(&begun)?;
    let mut missing = Missing {
        received: 0,
        total: blob.len(),
        ranges: std::iter::once(0..blob.len()).collect(),
    };
    for attempt in 0.. {
        let wanted = missing.ranges.clone();
        let is_wanted = move |offset: u64| wanted.iter().any(|range| range.contains(&offset));
        let chunks = blob.chunks().filter(move |chunk| is_wanted(chunk.offset));
        let messages = tokio_stream::iter(chunks.map(move |chunk| wire::upload_chunk(id, chunk)));
        missing = match client.call(doing, uploads.put_chunks(messages)).await {
            Ok(status) => status.into(),
            // The chunks that arrived are there: ask which, and send the others.
            Err(Error::Disconnected { .. } | Error::Timeout { .. }) if attempt < RESUMPTIONS => {
                client.call(doing, uploads.status(wire::upload_id(id))).await?.into()
            }
            Err(error) => return Err(error),
        };
        if missing.received == missing.total {
            return Ok(id);
        }
        if attempt >= RESUMPTIONS {
            break;
        }
    }
    let Missing { received, total, .. } = missing;
    Err(cipherform_proto::Fault::Incomplete { received, total }.into())
}
