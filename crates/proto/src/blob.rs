//! Blobs: what is too large for one message travels as a header and chunks of [`CHUNK_BYTES`].
//!
//! A blob's *digest* is a two-level hash, `BLAKE3("cipherform blob" ‖ length ‖ hash of chunk 0 ‖ hash of chunk 1 ‖ ...)`:
//! every byte is hashed once, whether it is checked chunk by chunk or as a whole.
//!
//! The receiver never believes a declared size: [`Assembler::new`] takes the exact size that the plan prescribes, and a
//! header that says anything else is refused before a byte is stored.

use crate::{Fault, Result};
use bytes::Bytes;
use std::ops::Range;

/// Bytes of payload in every chunk but the last. One MiB keeps a message far below the 8 MiB decode limit.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Version of the framing and of the serialisation inside; both sides speak exactly one today.
pub const FORMAT: u16 = 1;

/// Missing ranges that one status message lists.
pub const MAX_RANGES: usize = 1024;

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobKind {
    /// One seeded evaluation key.
    EvaluationKey,
    /// One ciphertext, input or output.
    Ciphertext,
    /// A model description: all a client may know of a model.
    ModelDescription,
    /// The latency recording of a job, as JSON.
    Recording,
    /// The keys of the exact step of a plan that answers with a label.
    LabelKeys,
    /// An encrypted label, the output of such a plan.
    Label,
}

/// The first message of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHeader {
    /// What the blob holds.
    pub kind: BlobKind,
    /// Fingerprint of the parameter set.
    pub parameters: [u8; 32],
    /// Length of the payload in bytes.
    pub bytes: u64,
    /// The blob's digest, see the module.
    pub digest: [u8; 32],
    /// The model it belongs to.
    pub model: String,
    /// Which key or input of the model's plan, or which output of a job.
    pub index: u32,
}

/// A piece of a blob at a multiple of [`CHUNK_BYTES`].
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Offset of the first byte in the blob.
    pub offset: u64,
    /// BLAKE3 of `data`.
    pub hash: [u8; 32],
    /// The bytes: [`CHUNK_BYTES`] of them, fewer only at the blob's end.
    pub data: Bytes,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk")
            .field("offset", &self.offset)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A blob cut into chunks, ready to send.
#[derive(Clone, Debug)]
pub struct Chunked {
    bytes: Bytes,
    hashes: Vec<[u8; 32]>,
}

impl Chunked {
    /// Cuts and hashes `bytes`. Cost: one pass of BLAKE3, no copy.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let hashes = bytes.chunks(CHUNK_BYTES as usize).map(|c| *blake3::hash(c).as_bytes());
        let hashes = hashes.collect();
        Self { bytes, hashes }
    }

    /// Length of the blob in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether the blob is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The blob's digest, see the module.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        digest(self.len(), self.hashes.iter())
    }

    /// The header of this blob.
    #[must_use]
    pub fn header(
        &self,
        kind: BlobKind,
        parameters: [u8; 32],
        model: &str,
        index: u32,
    ) -> BlobHeader {
        let (bytes, digest) = (self.len(), self.digest());
        BlobHeader { kind, parameters, bytes, digest, model: model.to_owned(), index }
    }

    /// The chunks in order; no copy.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Send + use<> {
        let bytes = self.bytes.clone();
        self.hashes.clone().into_iter().enumerate().map(move |(i, hash)| {
            let start = i * CHUNK_BYTES as usize;
            let end = bytes.len().min(start + CHUNK_BYTES as usize);
            Chunk { offset: start as u64, hash, data: bytes.slice(start..end) }
        })
    }
}

fn digest<'a>(bytes: u64, hashes: impl Iterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"cipherform blob");
    hasher.update(&bytes.to_le_bytes());
    hashes.for_each(|h| {
        hasher.update(h);
    });
    *hasher.finalize().as_bytes()
}

/// What a receiver has and lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Bytes received.
    pub received: u64,
    /// Bytes of the blob.
    pub total: u64,
    /// The first [`MAX_RANGES`] ranges that are missing.
    pub ranges: Vec<Range<u64>>,
}

/// Puts a blob together from chunks in any order, each any number of times.
///
/// Memory grows with the chunks that arrive, never with a declared size, and never beyond the exact size given.
pub struct Assembler {
    total: u64,
    digest: [u8; 32],
    chunks: Vec<Option<([u8; 32], Bytes)>>,
    received: u64,
}

impl std::fmt::Debug for Assembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler")
            .field("total", &self.total)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Assembler {
    /// Waits for the blob of `header`, whose length must be `exact`, the size that the receiver worked out itself.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] or [`Fault::Malformed`] when the header declares another length.
    pub fn new(header: &BlobHeader, exact: u64) -> Result<Self> {
        if header.bytes > exact {
            return Err(Fault::TooLarge { what: "blob".into(), limit: exact, got: header.bytes });
        }
        if header.bytes < exact {
            let detail = format!("declared {} bytes where the plan needs {exact}", header.bytes);
            return Err(Fault::malformed("blob", detail));
        }
        Ok(Self { total: exact, digest: header.digest, chunks: Vec::new(), received: 0 })
    }

    /// Waits for a blob whose exact length the receiver cannot know, only that `limit` is more than enough.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] when the header declares more than `limit`.
    pub fn at_most(header: &BlobHeader, limit: u64) -> Result<Self> {
        if header.bytes > limit {
            return Err(Fault::TooLarge { what: "blob".into(), limit, got: header.bytes });
        }
        Self::new(header, header.bytes)
    }

    /// Takes one chunk. The same chunk again changes nothing.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for an offset that is no multiple of the chunk size or lies beyond the end, for a chunk of
    /// the wrong length, for a wrong hash, and for a second, different chunk at one offset. The blob stays usable.
    pub fn accept(&mut self, chunk: Chunk) -> Result<()> {
        let bad = |detail: String| Err(Fault::malformed("chunk", detail));
        let offset = chunk.offset;
        if !offset.is_multiple_of(CHUNK_BYTES) {
            return bad(format!("offset {offset} is not a multiple of {CHUNK_BYTES}"));
        }
        if offset >= self.total {
            return bad(format!("offset {offset} is beyond the end at {}", self.total));
        }
        let expected = CHUNK_BYTES.min(self.total - offset);
        if chunk.data.len() as u64 != expected {
            return bad(format!("{} bytes where {expected} belong", chunk.data.len()));
        }
        if *blake3::hash(&chunk.data).as_bytes() != chunk.hash {
            return bad(format!("the hash of the chunk at {offset} does not match; send it again"));
        }
        let index = (offset / CHUNK_BYTES) as usize;
        if self.chunks.len() <= index {
            // One word a chunk, and `offset < total`: at most total / 1 MiB entries.
            self.chunks.resize(index + 1, None);
        }
        let Some(slot) = self.chunks.get_mut(index) else {
            return bad(format!("offset {offset} has no place"));
        };
        match slot {
            Some((hash, _)) if *hash == chunk.hash => Ok(()),
            Some(_) => bad(format!("another chunk was already received at {offset}")),
            None => {
                self.received += expected;
                *slot = Some((chunk.hash, chunk.data));
                Ok(())
            }
        }
    }

    /// Whether every byte is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.received == self.total
    }

    /// What is here and what is not.
    #[must_use]
    pub fn missing(&self) -> Missing {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for index in 0..self.total.div_ceil(CHUNK_BYTES) {
            if matches!(self.chunks.get(index as usize), Some(Some(_))) {
                continue;
            }
            let start = index * CHUNK_BYTES;
            let end = self.total.min(start + CHUNK_BYTES);
            let room = ranges.len() < MAX_RANGES;
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ if room => ranges.push(start..end),
                _ => break,
            }
        }
        Missing { received: self.received, total: self.total, ranges }
    }

    /// The whole blob, after its digest was checked.
    ///
    /// # Errors
    /// [`Fault::Incomplete`] while bytes are missing; [`Fault::Malformed`] when the digest does not match.
    pub fn finish(self) -> Result<Bytes> {
        if !self.is_complete() {
            return Err(Fault::Incomplete { received: self.received, total: self.total });
        }
        let mut chunks: Vec<_> = self.chunks.into_iter().flatten().collect();
        if digest(self.total, chunks.iter().map(|(hash, _)| hash)) != self.digest {
            return Err(Fault::malformed("blob", "the digest does not match"));
        }
        if chunks.len() == 1 {
            return Ok(chunks.swap_remove(0).1);
        }
        // Every byte counted here has been received.
        let mut whole = Vec::with_capacity(self.received as usize);
        for (_, data) in chunks {
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(len: usize) -> (Chunked, BlobHeader) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 131 + i / 251) as u8).collect();
        let chunked = Chunked::new(bytes.into());
        let header = chunked.header(BlobKind::Ciphertext, [7; 32], "m", 0);
        (chunked, header)
    }

    #[test]
    fn any_order_any_number_of_times() {
        for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 * (1 << 20) + 17] {
            let (chunked, header) = blob(len);
            let mut assembler = Assembler::new(&header, len as u64).unwrap();
            let mut chunks: Vec<_> = chunked.chunks().collect();
            chunks.reverse();
            for chunk in chunks.iter().chain(&chunks) {
                assembler.accept(chunk.clone()).unwrap();
            }
            assert!(assembler.is_complete());
            assert_eq!(assembler.finish().unwrap(), chunked.bytes);
        }
    }

    #[test]
    fn a_gap_is_reported_and_can_be_filled() {
        let (chunked, header) = blob(4 * (1 << 20) + 5);
        let mut assembler = Assembler::new(&header, chunked.len()).unwrap();
        let chunks: Vec<_> = chunked.chunks().collect();
        assembler.accept(chunks[0].clone()).unwrap();
        assembler.accept(chunks[3].clone()).unwrap();
        let missing = assembler.missing();
        assert_eq!(missing.received, 2 << 20);
        assert_eq!(missing.ranges, [1 << 20..3 << 20, 4 << 20..(4 << 20) + 5]);
        for chunk in chunks {
            assembler.accept(chunk).unwrap();
        }
        assert!(assembler.missing().ranges.is_empty());
        assert_eq!(assembler.finish().unwrap(), chunked.bytes);
    }

    #[test]
    fn declared_sizes_decide_nothing() {
        let (_, mut header) = blob(10);
        for bytes in [1 << 40, u64::MAX, 11] {
            header.bytes = bytes;
            assert!(matches!(
                Assembler::new(&header, 10),
                Err(Fault::TooLarge { limit: 10, got, .. }) if got == bytes
            ));
            assert!(matches!(Assembler::at_most(&header, 10), Err(Fault::TooLarge { .. })));
        }
        header.bytes = 9;
        assert!(matches!(Assembler::new(&header, 10), Err(Fault::Malformed { .. })));
    }

    #[test]
    fn hostile_chunks_are_refused_and_harmless() {
        let (chunked, header) = blob(2 * (1 << 20) + 9);
        let mut assembler = Assembler::new(&header, chunked.len()).unwrap();
        let good: Vec<_> = chunked.chunks().collect();
        let rehash = |mut chunk: Chunk| {
            chunk.hash = *blake3::hash(&chunk.data).as_bytes();
            chunk
        };
        let mut bad = vec![];
        for offset in [1, CHUNK_BYTES - 1, 3 * CHUNK_BYTES, 1 << 40, u64::MAX, u64::MAX - 0xf_ffff]
        {
            bad.push(Chunk { offset, ..good[0].clone() });
        }
        bad.push(Chunk { hash: [0; 32], ..good[0].clone() });
        bad.push(rehash(Chunk { data: good[0].data.slice(1..), ..good[0].clone() }));
        bad.push(rehash(Chunk { data: Bytes::new(), ..good[0].clone() }));
        bad.push(rehash(Chunk { data: good[0].data.clone(), ..good[2].clone() }));
        let mut flipped = good[1].data.to_vec();
        flipped[77] ^= 4;
        bad.push(Chunk { data: flipped.clone().into(), ..good[1].clone() });
        for chunk in bad {
            let error = assembler.accept(chunk).unwrap_err();
            assert!(matches!(error, Fault::Malformed { .. }), "{error}");
        }
        assert_eq!(assembler.missing().received, 0);

        // A second, different chunk with a right hash at the same offset is refused too.
        assembler.accept(good[1].clone()).unwrap();
        let other = rehash(Chunk { data: flipped.into(), ..good[1].clone() });
        assert!(assembler.accept(other).is_err());
        for chunk in &good {
            assembler.accept(chunk.clone()).unwrap();
        }
        assert_eq!(assembler.finish().unwrap(), chunked.bytes);
    }

    #[test]
    fn the_digest_catches_what_the_chunk_hashes_cannot() {
        let (chunked, mut header) = blob(100);
        header.digest[5] ^= 1;
        let mut assembler = Assembler::new(&header, 100).unwrap();
        assert!(matches!(
            Assembler::new(&header, 100).unwrap().finish(),
            Err(Fault::Incomplete { received: 0, total: 100 })
        ));
        chunked.chunks().for_each(|c| assembler.accept(c).unwrap());
        assert!(matches!(assembler.finish(), Err(Fault::Malformed { .. })));
    }
}
