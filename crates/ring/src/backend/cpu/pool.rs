//! Recycled host memory: fresh pages cost more than the arithmetic on them.

use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes kept for reuse.
const KEPT_BYTES: usize = 256 << 20;
/// Smaller vectors go to the allocator directly.
const SMALLEST_WORDS: usize = 1 << 13;

#[derive(Debug, Default)]
struct Shelf {
    vectors: Vec<Vec<u64>>,
    words: usize,
}

/// Vectors that nobody uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    shelf: Mutex<Shelf>,
}

/// Host words that go back to their pool when dropped.
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<u64>,
    pool: Arc<Pool>,
}

impl Pool {
    /// `len` words of arbitrary content: whoever asks writes all of them.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Words {
        let mut words = self.reuse(len).unwrap_or_default();
        if words.len() < len && words.capacity() < len {
            // Nothing fits; zeroed pages come from the operating system without being written.
            words = vec![0; len];
        } else {
            words.resize(len, 0);
        }
        Words { words, pool: self.clone() }
    }

    /// `len` zeros.
    pub(crate) fn zeros(self: &Arc<Self>, len: usize) -> Words {
        match self.reuse(len) {
            Some(mut words) => {
                words.clear();
                words.resize(len, 0);
                Words { words, pool: self.clone() }
            }
            None => Words { words: vec![0; len], pool: self.clone() },
        }
    }

    /// Puts host words under this pool's care.
    pub(crate) fn adopt(self: &Arc<Self>, words: Vec<u64>) -> Words {
        Words { words, pool: self.clone() }
    }

    /// The smallest vector that holds `len` words without wasting half of itself.
    fn reuse(&self, len: usize) -> Option<Vec<u64>> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = shelf.vectors.iter().enumerate();
        let (index, _) = fitting
            .filter(|(_, v)| (len..=2 * len).contains(&v.capacity()))
            .min_by_key(|(_, v)| v.capacity())?;
        let words = shelf.vectors.swap_remove(index);
        shelf.words -= words.capacity();
        Some(words)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        if words.capacity() < SMALLEST_WORDS {
            return;
        }
        let mut shelf = self.pool.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if (shelf.words + words.capacity()) * size_of::<u64>() <= KEPT_BYTES {
            shelf.words += words.capacity();
            shelf.vectors.push(words);
        }
    }
}

impl Clone for Words {
    fn clone(&self) -> Self {
        let mut copy = self.pool.take(self.words.len());
        copy.copy_from_slice(&self.words);
        copy
    }
}

impl Words {
    /// Forgets the words from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.words.truncate(len);
    }
}

impl std::ops::Deref for Words {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.words
    }
}

impl std::ops::DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}
