//! Bytes between two parties: in process, over TCP, over TLS, each optionally behind a shaper.

mod memory;
mod shaper;
mod tcp;
mod tls;

pub use shaper::Network;
pub use tls::{Identity, PublicKey};

use crate::error::Result;
use std::fmt;
use std::time::Instant;

/// The sending half of a connection.
pub trait Outgoing: Send {
    /// Hands over `bytes`, waiting until `deadline` at most; may return before they are on the wire.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`] at the deadline, e.g. because the peer does not read; [`crate::Error::Disconnected`], [`crate::Error::Io`].
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()>;
}

/// The receiving half of a connection.
pub trait Incoming: Send {
    /// Fills `buffer`, waiting until `deadline` at most.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`] at the deadline, [`crate::Error::Disconnected`] when the peer is gone first, [`crate::Error::Io`].
    fn receive(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<()>;
}

/// A two-way, ordered, reliable connection to the peer. Both parties may send at once, any amount.
pub struct Channel {
    pub(crate) outgoing: Box<dyn Outgoing>,
    pub(crate) incoming: Box<dyn Incoming>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

impl Channel {
    /// A channel of two halves.
    #[must_use]
    pub fn new(outgoing: Box<dyn Outgoing>, incoming: Box<dyn Incoming>) -> Self {
        Self { outgoing, incoming }
    }

    /// Delays what this party sends as `network` would; see [`Network`]. Shape both ends to emulate both directions.
    #[must_use]
    pub fn shaped(self, network: Network) -> Self {
        Self {
            outgoing: Box::new(shaper::Shaped::new(self.outgoing, network)),
            incoming: self.incoming,
        }
    }
}
