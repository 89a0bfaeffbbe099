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

/// An error of a socket that was given `after`.
pub(crate) fn io(what: &str, after: Duration) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| match source.kind() {
        ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::UnexpectedEof => Error::Disconnected { what: "a socket" },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Error::Timeout { what: "progress of a socket", after }
        }
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
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        write_all(&self.0, &bytes, deadline)
    }
}

/// A socket of which every call ends at one deadline: a time-out of a socket bounds a call, not a message.
pub(crate) struct Until<'a> {
    pub(crate) stream: &'a TcpStream,
    pub(crate) deadline: Instant,
}

impl Until<'_> {
    fn left(&self) -> std::io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

/// Writes all of `bytes` by `deadline`.
pub(crate) fn write_all(stream: &TcpStream, bytes: &[u8], deadline: Instant) -> Result<()> {
    let after = deadline.saturating_duration_since(Instant::now());
    Until { stream, deadline }.write_all(bytes).map_err(io("write to the peer", after))
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
    listener.set_nonblocking(true).map_err(io("listen", deadline))?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(io("accept", deadline))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if start.elapsed() >= deadline {
                    return Err(Error::Timeout { what: "connection", after: deadline });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(io("accept", deadline)(e)),
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
    /// A channel over a connected socket.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket refuses its options.
    pub fn tcp(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).map_err(io("set TCP_NODELAY", Duration::ZERO))?;
        let reader = stream.try_clone().map_err(io("clone a socket", Duration::ZERO))?;
        let (queue, received) = sync_channel(WAITING);
        std::thread::spawn(move || read(reader, &queue));
        Ok(Self::new(Box::new(TcpSender(stream)), Box::new(Queue::new(received))))
    }

    /// Waits for the peer on `listener`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Io`].
    pub fn tcp_accept(listener: &TcpListener, deadline: Duration) -> Result<Self> {
        Self::tcp(accept(listener, deadline)?)
    }

    /// Connects to the peer, who may start listening within `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Io`].
    pub fn tcp_connect(peer: SocketAddr, deadline: Duration) -> Result<Self> {
        Self::tcp(connect(peer, deadline)?)
    }
}
