//! Messages in lock-step.

use crate::error::Result;
use crate::link::Link;
use crate::role::Role;
use cipherform_profile::{Counter, count, primitive};

/// The steps of one run over a link.
pub(super) struct Wire<'a> {
    link: &'a mut Link,
    step: u32,
}

impl<'a> Wire<'a> {
    pub(super) fn new(link: &'a mut Link) -> Self {
        Self { link, step: 0 }
    }

    pub(super) fn role(&self) -> Role {
        self.link.role()
    }

    /// One step: sends `message` unless it is empty, receives `expected` bytes unless that is zero.
    pub(super) fn exchange(&mut self, message: &[u8], expected: usize) -> Result<Vec<u8>> {
        let _wait = primitive("wait");
        self.step += 1;
        count(Counter::BytesSent, message.len() as u64);
        count(Counter::BytesReceived, expected as u64);
        self.link.exchange(self.step, message, expected)
    }
}
