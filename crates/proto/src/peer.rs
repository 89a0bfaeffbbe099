//! Two parties over gRPC: a channel from the two streams of `Peer.Exchange`.
//!
//! The party is blocking code on a thread of its own; a runtime with one thread of its own moves the pieces. What arrives is taken off
//! the stream at once, so that both parties may send any amount at the same time.
//!
//! **Security.** HTTP/2 in the clear, like every service here: a tunnel protects it, or a proxy at each end.

use crate::pb::Piece;
use bytes::{Buf, Bytes};
use cipherform_mpc::{Channel, Error, Incoming, Outgoing, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{timeout, timeout_at};
use tonic::Streaming;

/// Largest piece that is sent, in bytes.
const PIECE_BYTES: usize = 1 << 20;
/// Longest message that is taken: a piece, its tag and its length. It is what bounds the memory of pieces that wait.
pub const MESSAGE_BYTES: usize = PIECE_BYTES + 16;
/// Pieces that wait for the network.
const LEAVING: usize = 2;
/// Pieces that wait for the party; 256 MiB of them.
const WAITING: usize = 256;
/// How long a party that leaves waits for the peer's end of the stream: what it said last is then heard.
const PARTING: Duration = Duration::from_secs(1);

/// A runtime for one channel.
///
/// # Errors
/// [`Error::Io`] when the system has no thread left.
pub fn runtime() -> Result<Arc<Runtime>> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cipherform-peer")
        .enable_all()
        .build();
    built.map(Arc::new).map_err(|source| Error::Io { what: "start a runtime".into(), source })
}

/// What a party says, before the stream that carries it exists: where it is put, and where the stream takes it from.
#[must_use]
pub fn leaving() -> (Sender<Piece>, Receiver<Piece>) {
    channel(LEAVING)
}

/// The channel of `said` and what the peer says on `heard`. `runtime` carries both.
#[must_use]
pub fn over(runtime: Arc<Runtime>, said: Sender<Piece>, heard: Streaming<Piece>) -> Channel {
    let (arrived, pieces) = channel(WAITING);
    let (end, ended) = channel(1);
    runtime.spawn(take(heard, arrived, end));
    let incoming = GrpcIncoming { pieces, current: Bytes::new(), runtime: runtime.clone() };
    let outgoing = GrpcOutgoing { said: Some(said), ended, runtime };
    Channel::new(Box::new(outgoing), Box::new(incoming))
}

/// Moves what arrives to the party until the stream, or the party, ends.
async fn take(mut heard: Streaming<Piece>, arrived: Sender<Bytes>, _end: Sender<()>) {
    while let Ok(Some(piece)) = heard.message().await {
        if !piece.data.is_empty() && arrived.send(piece.data).await.is_err() {
            return;
        }
    }
}

struct GrpcOutgoing {
    /// Absent once the party leaves.
    said: Option<Sender<Piece>>,
    /// Closed when the peer's stream has ended.
    ended: Receiver<()>,
    runtime: Arc<Runtime>,
}

impl Outgoing for GrpcOutgoing {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        let after = deadline.saturating_duration_since(Instant::now());
        let mut rest = Bytes::from(bytes);
        while rest.has_remaining() {
            let data = rest.split_to(rest.len().min(PIECE_BYTES));
            let said = self.said.as_ref().ok_or(Error::Disconnected { what: "a stream" })?;
            let sending = async { timeout_at(deadline.into(), said.send(Piece { data })).await };
            match self.runtime.block_on(sending) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::Disconnected { what: "a stream" }),
                Err(_) => return Err(Error::Timeout { what: "progress of a stream", after }),
            }
        }
        Ok(())
    }
}

impl Drop for GrpcOutgoing {
    fn drop(&mut self) {
        self.said = None;
        let _ = self.runtime.block_on(async { timeout(PARTING, self.ended.recv()).await });
    }
}

struct GrpcIncoming {
    pieces: Receiver<Bytes>,
    current: Bytes,
    runtime: Arc<Runtime>,
}

impl Incoming for GrpcIncoming {
    fn receive(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<()> {
        let after = deadline.saturating_duration_since(Instant::now());
        while !buffer.is_empty() {
            if !self.current.has_remaining() {
                let next = async { timeout_at(deadline.into(), self.pieces.recv()).await };
                self.current = match self.runtime.block_on(next) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return Err(Error::Disconnected { what: "bytes" }),
                    Err(_) => return Err(Error::Timeout { what: "bytes", after }),
                };
            }
            let n = buffer.len().min(self.current.remaining());
            let (head, rest) = buffer.split_at_mut(n);
            self.current.copy_to_slice(head);
            buffer = rest;
        }
        Ok(())
    }
}
