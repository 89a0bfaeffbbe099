//! Device words of one polynomial, shared until one of the owners writes.

use super::driver::{Gpu, Memory};
use crate::device::{Device, Kind};
use crate::error::Result;
use std::fmt;
use std::sync::Arc;

/// Words on a card. A clone costs nothing: whoever changes a buffer that is shared writes into a new one.
#[derive(Clone)]
pub(crate) struct Buf {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} words, {:?})", self.len, self.memory)
    }
}

impl Buf {
    /// `len` words of arbitrary content.
    pub(super) fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Self { memory: Arc::new(gpu.take(len)?), start: 0, len })
    }

    /// `parts` buffers of `len` words each, one after the other in one piece of memory.
    pub(super) fn parts(gpu: &Arc<Gpu>, parts: usize, len: usize) -> Result<Vec<Self>> {
        let memory = Arc::new(gpu.take(parts * len)?);
        let part = |i| Self { memory: memory.clone(), start: i * len, len };
        Ok((0..parts).map(part).collect())
    }

    /// Two buffers of `len` words, one after the other.
    pub(super) fn pair(gpu: &Arc<Gpu>, len: usize) -> Result<[Self; 2]> {
        let memory = Arc::new(gpu.take(2 * len)?);
        Ok([0, len].map(|start| Self { memory: memory.clone(), start, len }))
    }

    pub(super) fn upload(gpu: &Arc<Gpu>, words: &[u64]) -> Result<Self> {
        Ok(Self { memory: Arc::new(gpu.upload(words)?), start: 0, len: words.len() })
    }

    /// Where the words are.
    pub(in crate::backend) fn device(&self) -> Device {
        Device { kind: Kind::Cuda(self.gpu().ordinal()) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        self.memory.gpu()
    }

    /// The address of `words` words from word `from`.
    pub(super) fn at(&self, from: usize, words: usize) -> Result<u64> {
        self.memory.at(self.start + from, words)
    }

    pub(super) fn download(&self) -> Result<Vec<u64>> {
        self.gpu().download(&self.memory, self.start, self.len)
    }

    /// Copies `words` words of `from`, from word `source` on, to word `to`.
    pub(super) fn copy(&self, to: usize, from: &Buf, source: usize, words: usize) -> Result<()> {
        let from = (&*from.memory, from.start + source);
        self.gpu().copy((&self.memory, self.start + to), from, words)
    }

    pub(super) fn clear(&self) -> Result<()> {
        self.gpu().clear(&self.memory, self.start, self.len)
    }

    /// Whether nobody else reads these words.
    pub(super) fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.memory).is_some()
    }

    /// Where an operation that replaces every word of this buffer may write: here if nobody else reads it, elsewhere
    /// otherwise.
    pub(super) fn output(&mut self) -> Result<Self> {
        if self.is_unique() { Ok(self.clone()) } else { Self::new(self.gpu(), self.len) }
    }

    /// Makes this buffer the only owner of its words.
    pub(super) fn detach(&mut self) -> Result<()> {
        if !self.is_unique() {
            let own = Self::new(self.gpu(), self.len)?;
            own.copy(0, self, 0, self.len)?;
            *self = own;
        }
        Ok(())
    }

    /// Keeps the first `len` words, in a smaller piece of memory if most of this one would be unused.
    pub(super) fn truncate(&mut self, len: usize) -> Result<()> {
        self.len = self.len.min(len);
        if self.len < self.memory.words() / 2 {
            let small = Self::new(self.gpu(), self.len)?;
            small.copy(0, self, 0, self.len)?;
            *self = small;
        }
        Ok(())
    }
}
