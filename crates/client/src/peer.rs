//! The party that calls: two-party computation over a gRPC stream.

use crate::connection::root_cause;
use cipherform_mpc::{Channel, Error, Result};
use cipherform_proto::pb::peer_client::PeerClient;
use cipherform_proto::peer;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel as Transport, Endpoint};

/// Time between two attempts while the peer is not there yet.
const AGAIN: Duration = Duration::from_millis(20);

/// A channel to the party that waits at `address`, who may start listening within `deadline`.
///
/// # Errors
/// [`Error::Timeout`]; [`Error::Io`], also when the peer has a peer already.
///
/// # Security
/// HTTP/2 in the clear; who is at the other end is not checked. For a tunnel, or a proxy that ends TLS.
pub fn connect_peer(address: SocketAddr, deadline: Duration) -> Result<Channel> {
    let runtime = peer::runtime()?;
    let io = |e: tonic::Status| Error::Io {
        what: format!("peer at {address}"),
        source: std::io::Error::other(e.message().to_owned()),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| Error::Io {
        what: format!("peer at {address}"),
        source: std::io::Error::other(root_cause(&e)),
    })?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(4 << 20);
    let (said, leaving) = peer::leaving();
    let end = Instant::now() + deadline;
    let calling = async {
        let transport: Transport = loop {
            match endpoint.connect().await {
                Ok(transport) => break transport,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        let mut peer = PeerClient::new(transport).max_decoding_message_size(peer::MESSAGE_BYTES);
        peer.exchange(ReceiverStream::new(leaving)).await.map_err(io)
    };
    let called = runtime.block_on(async { tokio::time::timeout_at(end.into(), calling).await });
    let heard = called.map_err(|_| Error::Timeout { what: "connection", after: deadline })??;
    Ok(peer::over(runtime, said, heard.into_inner()))
}
