//! Circuits as parts of a longer computation of two parties without a dealer, with messages of its own between them.

use crate::error::{Error, Result};
use crate::link::Link;
use crate::no_dealer::{NoDealerPlan, Pairing, begin, steps};
use crate::role::Role;
use cipherform_profile::{Counter, count, primitive};
use std::time::Instant;

/// Step numbers of messages between circuits; a circuit's own start at 1.
const BETWEEN: u32 = 1 << 30;

/// One party's end of such a computation. Both parties call the same methods in the same order, one sending where the other receives. One that
/// is dropped before it is closed, as after an error, ends its pairing: the other party may have used other transfers.
#[derive(Debug)]
pub struct Joint<'a> {
    link: &'a mut Link,
    pairing: &'a mut Pairing,
    step: u32,
    start: Instant,
    closed: bool,
}

impl Drop for Joint<'_> {
    fn drop(&mut self) {
        if !self.closed {
            self.pairing.end();
        }
    }
}

impl<'a> Joint<'a> {
    /// Compares `plan`, a hash of all that will happen, and starts counting from zero.
    ///
    /// # Errors
    /// [`Error::Peer`] when the peer is about to do something else; errors of the link.
    pub fn open(link: &'a mut Link, pairing: &'a mut Pairing, plan: &[u8; 32]) -> Result<Self> {
        begin(link, pairing, &blake3::derive_key("cipherform mpc 1 joint computation", plan))?;
        Ok(Self { link, pairing, step: BETWEEN, start: Instant::now(), closed: false })
    }

    /// This party.
    #[must_use]
    pub fn role(&self) -> Role {
        self.link.role()
    }

    /// Sends a message, which is not empty.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty message; errors of the link.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        if payload.is_empty() {
            let (what, index) = ("message", self.step as usize);
            return Err(Error::Input { what, index, detail: "is empty".into() });
        }
        self.exchange(payload, 0).map(|_| ())
    }

    /// Receives the peer's message of `expected` bytes, more than zero.
    ///
    /// # Errors
    /// Errors of the link, a message of another length among them.
    pub fn receive(&mut self, expected: usize) -> Result<Vec<u8>> {
        self.exchange(&[], expected)
    }

    fn exchange(&mut self, payload: &[u8], expected: usize) -> Result<Vec<u8>> {
        let _wait = primitive("wait");
        self.step += 1;
        count(Counter::BytesSent, payload.len() as u64);
        count(Counter::BytesReceived, expected as u64);
        self.link.exchange(self.step, payload, expected)
    }

    /// Runs a circuit that uses no weights; as [`crate::run_without_dealer`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&mut self, plan: &NoDealerPlan<'_>, inputs: &[Vec<u64>]) -> Result<Vec<Vec<u64>>> {
        steps(plan, self.pairing, None, inputs, self.link)
    }

    /// Compares what both sent and received.
    ///
    /// # Errors
    /// [`Error::Frame`] when the sums differ; errors of the link.
    pub fn close(mut self) -> Result<()> {
        self.link.farewell(self.start.elapsed())?;
        self.closed = true;
        Ok(())
    }
}
