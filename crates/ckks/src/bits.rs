//! Residues packed at the bit length of their prime, least significant bit first.

/// Bytes of `n` packed words (n a multiple of 8).
pub(crate) fn packed_len(n: usize, bits: u32) -> usize {
    n / 8 * bits as usize
}

/// Appends `words`, a multiple of 8 of them, each below 2^bits, bits <= 63.
pub(crate) fn pack(words: &[u64], bits: u32, out: &mut Vec<u8>) {
    let (mut pending, mut filled) = (0u128, 0u32);
    for &word in words {
        pending |= u128::from(word) << filled;
        filled += bits;
        if filled >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            filled -= 64;
        }
    }
    let rest = (pending as u64).to_le_bytes();
    out.extend(rest.iter().take(filled as usize / 8));
}

/// Fills `words` from exactly [`packed_len`] bytes.
pub(crate) fn unpack(bytes: &[u8], bits: u32, words: &mut [u64]) {
    let mask = (1u64 << bits) - 1;
    let (mut pending, mut filled) = (0u128, 0u32);
    let mut chunks = bytes.chunks(8);
    for word in words {
        if filled < bits {
            let chunk = chunks.next().unwrap_or_default();
            let mut eight = [0; 8];
            for (to, from) in eight.iter_mut().zip(chunk) {
                *to = *from;
            }
            pending |= u128::from(u64::from_le_bytes(eight)) << filled;
            filled += 8 * chunk.len() as u32;
        }
        *word = pending as u64 & mask;
        pending >>= bits;
        filled = filled.saturating_sub(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(bits in 28u32..=50, raw in prop::collection::vec(any::<u64>(), 1..8)) {
            let words: Vec<u64> =
                raw.iter().cycle().take(8 * raw.len()).map(|w| w & ((1 << bits) - 1)).collect();
            let mut bytes = Vec::new();
            pack(&words, bits, &mut bytes);
            prop_assert_eq!(bytes.len(), packed_len(words.len(), bits));
            let mut back = vec![0; words.len()];
            unpack(&bytes, bits, &mut back);
            prop_assert_eq!(back, words);
        }
    }

    #[test]
    fn known_answer() {
        let mut bytes = Vec::new();
        pack(&[1, 2, 3, 4, 5, 6, 7, 0xfff], 12, &mut bytes);
        assert_eq!(bytes, [1, 32, 0, 3, 64, 0, 5, 96, 0, 7, 240, 255]);
    }
}
