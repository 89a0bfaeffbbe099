//! Words of few bits, packed without gaps: the wire's form of everything in this mode.

/// Bytes of `bits` bits.
pub(super) fn bytes(bits: usize) -> usize {
    bits.div_ceil(8)
}

/// Packs words, low bits first.
#[derive(Default)]
pub(super) struct Packer {
    out: Vec<u8>,
    hold: u128,
    held: u32,
}

impl Packer {
    pub(super) fn with_bits(bits: usize) -> Self {
        Self { out: Vec::with_capacity(bytes(bits) + 16), ..Self::default() }
    }

    /// Appends the low `width` bits, at most 64, of `word`.
    #[inline]
    pub(super) fn push(&mut self, word: u64, width: u32) {
        let word = if width == 0 { 0 } else { word & crate::low(width) };
        self.hold |= (word as u128) << self.held;
        self.held += width;
        if self.held >= 64 {
            self.out.extend_from_slice(&(self.hold as u64).to_le_bytes());
            self.hold >>= 64;
            self.held -= 64;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let rest = bytes(self.held as usize);
        self.out.extend_from_slice(&self.hold.to_le_bytes()[..rest]);
        self.out
    }
}

/// Reads what a [`Packer`] wrote.
pub(super) struct Unpacker<'a> {
    bytes: &'a [u8],
    hold: u128,
    held: u32,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, hold: 0, held: 0 }
    }

    /// The next `width` bits; zeros past the end, which the frame's length excludes.
    #[inline]
    pub(super) fn next(&mut self, width: u32) -> u64 {
        if self.held < width {
            let mut word = [0; 8];
            let n = self.bytes.len().min(8);
            word[..n].copy_from_slice(&self.bytes[..n]);
            self.bytes = &self.bytes[n..];
            self.hold |= (u64::from_le_bytes(word) as u128) << self.held;
            self.held += 64;
        }
        let out = self.hold as u64 & if width == 0 { 0 } else { crate::low(width) };
        self.hold >>= width;
        self.held -= width;
        out
    }
}

/// Packs `words` at one width.
pub(super) fn pack(words: &[u64], width: u32) -> Vec<u8> {
    let mut out = Packer::with_bits(words.len() * width as usize);
    for word in words {
        out.push(*word, width);
    }
    out.finish()
}

/// Unpacks `count` words of one width.
pub(super) fn unpack(bytes: &[u8], width: u32, count: usize) -> Vec<u64> {
    let mut bits = Unpacker::new(bytes);
    (0..count).map(|_| bits.next(width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_widths_come_back() {
        let widths: Vec<u32> = (0..400).map(|i| (i * 7 + i / 9) % 65).collect();
        let word = |i: usize| (i as u64 + 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let total: u32 = widths.iter().sum();
        let mut packer = Packer::with_bits(total as usize);
        widths.iter().enumerate().for_each(|(i, w)| packer.push(word(i), *w));
        let out = packer.finish();
        assert_eq!(out.len(), bytes(total as usize));
        let mut bits = Unpacker::new(&out);
        for (i, &w) in widths.iter().enumerate() {
            let want = if w == 0 { 0 } else { word(i) & crate::low(w) };
            assert_eq!(bits.next(w), want, "{i} {w}");
        }
        assert_eq!(unpack(&pack(&[5, 6, 7], 3), 3, 3), [5, 6, 7]);
    }
}
