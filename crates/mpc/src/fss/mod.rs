//! Function secret sharing: two keys whose evaluations add up to a function neither party knows.
//!
//! Keys come in chunks of up to [`CHUNK`] and are stored structure-of-arrays inside a chunk, so that one level of all keys is
//! one batch of AES blocks. A chunk is the unit of parallelism of the dealer and of the parties.

pub(crate) mod dcf;
pub(crate) mod dpf;

/// Keys a chunk.
pub(crate) const CHUNK: usize = 64;

/// Where a batch of blocks is in the protocol; separates every use of the permutation within a session. Level, use and
/// instruction have bits of their own.
#[derive(Clone, Copy)]
pub(crate) struct Tweak(u128);

impl Tweak {
    pub(crate) fn instruction(instruction: usize) -> Self {
        Self((instruction as u128) << 64)
    }

    #[inline]
    pub(crate) fn at(self, level: usize, usage: u32) -> u128 {
        self.0 | (level as u128) << 8 | usage as u128
    }
}

/// A cursor over the sections of a key chunk.
pub(crate) struct Sections<'a>(pub(crate) &'a [u8]);

impl<'a> Sections<'a> {
    /// The next `len` bytes; empty when the chunk is shorter, which its owner has excluded by its total length.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len.min(self.0.len()));
        self.0 = tail;
        head
    }
}

/// Low and high word.
#[inline]
pub(crate) fn split(x: u128) -> [u64; 2] {
    [x as u64, (x >> 64) as u64]
}

#[inline]
pub(crate) fn read_u64(bytes: &[u8], index: usize) -> u64 {
    bytes.get(index * 8..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}
