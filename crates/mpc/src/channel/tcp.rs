//! Two parties over TCP, unprotected: for experiments on one machine, or inside a tunnel.

use super::memory::Queue;
use super::{Channel, Outgoing};
use crate::error::{Error, Result};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Bytes a read takes at most.
pub(crate) const READ: usize = 1 << 16;
/// Reads that wait for the party; 256 MiB of them.
pub(crate) const WAITING: usize = 1 << 12;

pub(crate) fn io(what: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| match source.kind() {
        ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::UnexpectedEof => Error::Disconnected { what: "a socket" },
        _ => Error::Io { what: what.into(), source },
    }
}

/// Closes the connection when either half is gone, which ends the reader thread and tells the peer.
struct TcpSender(TcpStream);

impl Drop for TcpSender {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Outgoing for TcpSender {
    fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.0.write_all(&bytes).map_err(io("write to the peer"))
    }
}

/// Moves what arrives to a queue, so that the peer can always send.
fn read(mut stream: TcpStream, queue: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; READ];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || queue.send(buffer[..n].to_vec()).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Waits for one connection until `deadline`.
pub(crate) fn accept(listener: &TcpListener, deadline: Duration) -> Result<TcpStream> {
    let start = Instant::now();
    listener.set_nonblocking(true).map_err(io("listen"))?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(io("accept"))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if start.elapsed() >= deadline {
                    return Err(Error::Timeout { what: "connection", after: deadline });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(io("accept")(e)),
        }
    }
}

/// Connects, trying again until `deadline` while the peer is not there yet.
pub(crate) fn connect(peer: SocketAddr, deadline: Duration) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(Error::Timeout { what: "connection", after: deadline });
        }
        match TcpStream::connect_timeout(&peer, left) {
            Ok(stream) => return Ok(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Channel {
    /// A channel over a connected socket. `deadline` bounds every write.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket refuses its options.
    pub fn tcp(stream: TcpStream, deadline: Duration) -> Result<Self> {
        stream.set_nodelay(true).map_err(io("set TCP_NODELAY"))?;
        stream.set_write_timeout(Some(deadline)).map_err(io("set a write timeout"))?;
        let reader = stream.try_clone().map_err(io("clone a socket"))?;
        let (queue, received) = sync_channel(WAITING);
        std::thread::spawn(move || read(reader, &queue));
        Ok(Self::new(Box::new(TcpSender(stream)), Box::new(Queue::new(received))))
    }

    /// Waits for the peer on `listener`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Io`].
    pub fn tcp_accept(listener: &TcpListener, deadline: Duration) -> Result<Self> {
        Self::tcp(accept(listener, deadline)?, deadline)
    }

    /// Connects to the peer, who may start listening within `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Io`].
    pub fn tcp_connect(peer: SocketAddr, deadline: Duration) -> Result<Self> {
        Self::tcp(connect(peer, deadline)?, deadline)
    }
}
