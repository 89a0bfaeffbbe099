//! Two parties in one process.

use super::{Channel, Incoming, Outgoing};
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

struct MemorySender(Sender<Vec<u8>>);

impl Outgoing for MemorySender {
    fn send(&mut self, bytes: Vec<u8>, _: Instant) -> Result<()> {
        self.0.send(bytes).map_err(|_| Error::Disconnected { what: "a receiver" })
    }
}

/// Chunks that arrive on a queue, read as a stream of bytes.
pub(super) struct Queue {
    receiver: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Queue {
    pub(super) fn new(receiver: Receiver<Vec<u8>>) -> Self {
        Self { receiver, current: Vec::new(), at: 0 }
    }
}

impl Incoming for Queue {
    fn receive(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<()> {
        let start = Instant::now();
        while !buffer.is_empty() {
            if self.at == self.current.len() {
                let left = deadline.saturating_duration_since(Instant::now());
                self.current = self.receiver.recv_timeout(left).map_err(|e| match e {
                    RecvTimeoutError::Timeout => Error::Timeout {
                        what: "bytes",
                        after: deadline.saturating_duration_since(start),
                    },
                    RecvTimeoutError::Disconnected => Error::Disconnected { what: "bytes" },
                })?;
                self.at = 0;
            }
            let n = buffer.len().min(self.current.len() - self.at);
            let (head, rest) = buffer.split_at_mut(n);
            head.copy_from_slice(&self.current[self.at..self.at + n]);
            self.at += n;
            buffer = rest;
        }
        Ok(())
    }
}

impl Channel {
    /// Both ends of a connection inside this process.
    #[must_use]
    pub fn pair() -> [Channel; 2] {
        let ((to_b, at_b), (to_a, at_a)) = (channel(), channel());
        let end =
            |out, queue| Channel::new(Box::new(MemorySender(out)), Box::new(Queue::new(queue)));
        [end(to_b, at_a), end(to_a, at_b)]
    }
}
