//! Recycled host memory: fresh pages cost more than the arithmetic on them.

use crate::device::{Device, InstructionSet, Kind};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroize;

/// Most bytes kept for reuse: the sums of a doubly hoisted map and the digits of two polynomials at N = 2^16.
const KEPT_BYTES: usize = Device::KEPT_BYTES;
/// Smaller vectors go to the allocator directly.
const SMALLEST_WORDS: usize = 1 << 13;

/// Bytes of a cache line and of the widest vector: words start at such an address, or each vector touches two lines.
const ALIGNMENT: usize = 64;
/// Words that alignment may cost.
const PADDING: usize = ALIGNMENT / size_of::<u64>() - 1;

#[derive(Debug, Default)]
struct Shelf {
    vectors: Vec<Vec<u64>>,
    words: usize,
}

/// Vectors that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct Pool {
    set: InstructionSet,
    shelf: Mutex<Shelf>,
}

/// Host words that go back to their pool when dropped.
#[derive(Debug)]
pub(crate) struct Words {
    /// Everything that was ever written, so that reuse needs no filling; `len` words from `start` count.
    all: Vec<u64>,
    start: usize,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// The memory of rings whose loops use `set`.
    pub(crate) fn new(set: InstructionSet) -> Self {
        Self { set, shelf: Mutex::default() }
    }

    /// `len` words of arbitrary content: whoever asks writes all of them.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Words {
        // Zeroed pages come from the operating system without being written.
        let words = self.reuse(len + PADDING).unwrap_or_else(|| vec![0; len + PADDING]);
        Words {
            start: words.as_ptr().align_offset(ALIGNMENT).min(PADDING),
            all: words,
            len,
            pool: self.clone(),
        }
    }

    /// `len` zeros.
    pub(crate) fn zeros(self: &Arc<Self>, len: usize) -> Words {
        let mut words = self.take(len);
        words.fill(0);
        words
    }

    /// Takes over host words, of which no copy is left.
    pub(crate) fn adopt(self: &Arc<Self>, mut host: Vec<u64>) -> Words {
        let mut words = self.take(host.len());
        words.copy_from_slice(&host);
        host.zeroize();
        words
    }

    /// The smallest vector that holds `len` words and at most a quarter more: polynomials may live long.
    fn reuse(&self, len: usize) -> Option<Vec<u64>> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = shelf.vectors.iter().enumerate();
        let (index, _) = fitting
            .filter(|(_, v)| (len..=len + len / 4).contains(&v.len()))
            .min_by_key(|(_, v)| v.len())?;
        let words = shelf.vectors.remove(index);
        shelf.words -= words.len();
        Some(words)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.all);
        if words.len() < SMALLEST_WORDS {
            return;
        }
        let mut shelf = self.pool.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.words += words.len();
        shelf.vectors.push(words);
        // The oldest go first: sizes fall with the level of a computation.
        while shelf.words * size_of::<u64>() > KEPT_BYTES {
            shelf.words -= shelf.vectors.remove(0).len();
        }
    }
}

impl Clone for Words {
    fn clone(&self) -> Self {
        let mut copy = self.pool.take(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Words {
    /// Whose memory this is.
    pub(crate) fn device(&self) -> Device {
        Device { kind: Kind::Cpu(self.pool.set) }
    }

    /// Forgets the words from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len < self.all.len() / 2 {
            self.all.truncate(self.start + self.len);
            self.all.shrink_to_fit();
        }
    }

    /// Overwrites all words with zeros, also those that were forgotten and are still held: what a truncation to less than
    /// half gave back to the allocator is not reached, so secrets are never truncated.
    pub(crate) fn wipe(&mut self) {
        self.all.as_mut_slice().zeroize();
    }
}

impl std::ops::Deref for Words {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.all[self.start..][..self.len]
    }
}

impl std::ops::DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.all[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_aligned_and_reused() {
        let pool = Arc::new(Pool::new(InstructionSet::Scalar));
        for len in [1, 16, SMALLEST_WORDS, 3 * SMALLEST_WORDS] {
            let mut words = pool.take(len);
            assert_eq!(words.as_ptr().align_offset(ALIGNMENT), 0);
            words.fill(7);
            let address = words.as_ptr();
            drop(words);
            let again = pool.zeros(len);
            assert!(again.len() == len && again.iter().all(|&word| word == 0));
            assert!(again.as_ptr() == address || len < SMALLEST_WORDS, "{len}");
            assert_eq!(*pool.adopt(vec![5; len]), vec![5; len]);
        }
    }

    #[test]
    fn truncated_and_wiped_words_forget() {
        let pool = Arc::new(Pool::new(InstructionSet::Scalar));
        let mut words = pool.adopt((1..=64).collect());
        words.truncate(40);
        assert_eq!(*words, (1..=40).collect::<Vec<u64>>());
        words.truncate(10);
        assert_eq!(*words, (1..=10).collect::<Vec<u64>>());
        words.wipe();
        assert!(words.all.iter().all(|&word| word == 0));
    }
}
