//! Generated gRPC types, blob framing and the checked conversions between wire and domain types.
//!
//! Client and server speak in four kinds of things: [blobs](blob) (keys, ciphertexts, descriptions, recordings) that
//! travel in hashed chunks of 1 MiB, [ids and tokens](session), small messages that [`wire`] converts, and [`Fault`]s,
//! the typed refusals. The generated types are in [`pb`]; only [`wire`] looks inside them.
//!
//! [`peer`] makes a two-party channel of a pair of streams.
//!
//! **Non-goals.** No transport settings, no storage, no cryptography.
#![forbid(unsafe_code)]

pub mod blob;
mod fault;
pub mod peer;
pub mod session;
pub mod wire;

/// What the protobuf compiler made of `proto/cipherform.proto`.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::missing_errors_doc,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated; the .proto file is its documentation"
)]
pub mod pb {
    tonic::include_proto!("cipherform.v1");
}

pub use blob::{Assembler, BlobHeader, BlobKind, CHUNK_BYTES, Chunk, Chunked, FORMAT, Missing};
pub use fault::{Fault, Result};
pub use session::{Id, Owner, SessionToken};

/// Largest message that either side decodes, in bytes.
pub const MESSAGE_BYTES: usize = 8 << 20;
