//! The party that is called: two-party computation over a gRPC stream.

use cipherform_mpc::{Channel, Error, Result};
use cipherform_proto::pb::Piece;
use cipherform_proto::pb::peer_server::{Peer, PeerServer};
use cipherform_proto::peer;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What the first caller is told from, and where its stream goes.
type Ends = (tokio::sync::mpsc::Receiver<Piece>, oneshot::Sender<Streaming<Piece>>);

/// Hands the first caller's streams over and refuses the others.
struct First {
    taken: Mutex<Option<Ends>>,
}

#[tonic::async_trait]
impl Peer for First {
    type ExchangeStream =
        std::pin::Pin<Box<dyn Stream<Item = std::result::Result<Piece, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Piece>>,
    ) -> std::result::Result<Response<Self::ExchangeStream>, Status> {
        let first = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((leaving, heard)) = first else {
            return Err(Status::already_exists("this party has a peer"));
        };
        if heard.send(request.into_inner()).is_err() {
            return Err(Status::unavailable("this party has given up waiting"));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(leaving).map(Ok))))
    }
}

/// Waits on `listener` for one caller.
///
/// # Errors
/// [`Error::Timeout`] when nobody has called by the deadline; [`Error::Io`].
///
/// # Security
/// As the other end's: HTTP/2 in the clear, and whoever calls first is the peer.
pub fn accept_peer(listener: &TcpListener, deadline: Duration) -> Result<Channel> {
    let io = |source| Error::Io { what: "listen for a peer".into(), source };
    let runtime = peer::runtime()?;
    let listener = listener.try_clone().map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let (said, leaving) = peer::leaving();
    let (hand_over, heard) = oneshot::channel();
    let (enough, stop) = oneshot::channel::<()>();
    let service = PeerServer::new(First { taken: Mutex::new(Some((leaving, hand_over))) })
        .max_decoding_message_size(peer::MESSAGE_BYTES);
    let end = Instant::now() + deadline;
    let called = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tonic::transport::Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(4 << 20)
            .max_concurrent_streams(4)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stop.await;
            });
        // Ends with the connection, once `enough` was said.
        tokio::spawn(serving);
        let called = tokio::time::timeout_at(end.into(), heard).await;
        called.map_err(|_| Error::Timeout { what: "connection", after: deadline })
    })?;
    let _ = enough.send(());
    let heard = called.map_err(|_| Error::Disconnected { what: "a caller" })?;
    Ok(peer::over(runtime, said, heard))
}
