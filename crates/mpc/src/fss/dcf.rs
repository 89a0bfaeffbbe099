//! Distributed comparison function: shares of `beta` where `x < alpha`, of 0 elsewhere.
//!
//! Source: Boyle, Chandran, Gilboa, Gupta, Ishai, Kumar, Rathee, *Function Secret Sharing for Mixed-Mode and Fixed-Point Secure
//! Computation* (ePrint 2020/1392), figure 3, with output group (Z_2^64)^M. The generator is
//! `G(s) = H_left,seed(s) || H_left,value(s) || H_right,..`, `H_c(s) = pi(s xor c) xor s xor c`; the control bit is the low bit
//! of the seed block.

#![expect(
    clippy::inline_always,
    reason = "inlined into the code compiled for the vector units found at run time"
)]

use super::{Sections, Tweak, read_u64, split};
use crate::prg::Permutation;

/// Bytes of one key over `bits` input bits with `words` output words.
pub(crate) fn key_bytes(bits: usize, words: usize) -> usize {
    bits * (16 + 8 * words) + 16 + 8 * words + (2 * bits).div_ceil(8)
}

/// Bytes of the control bits of one key: two a level.
fn flag_bytes(bits: usize) -> usize {
    (2 * bits).div_ceil(8)
}

/// Blocks of one value.
const fn value_blocks(words: usize) -> usize {
    words.div_ceil(2)
}

/// Uses of the permutation at a level: seed and values of the left child, of the right child; values of the last seed.
const LEFT: u32 = 0;
const RIGHT: u32 = 8;
const LAST: u32 = 16;

fn zip<const M: usize>(a: [u64; M], b: [u64; M], f: impl Fn(u64, u64) -> u64) -> [u64; M] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

fn negate_if<const M: usize>(a: [u64; M], negative: bool) -> [u64; M] {
    if negative { a.map(u64::wrapping_neg) } else { a }
}

/// Hashed blocks of many lanes: block `k` of lane `i` at `2 (k lanes + i)`.
struct Hashed<'a> {
    words: &'a [u64],
    lanes: usize,
}

impl Hashed<'_> {
    fn block(&self, k: usize, lane: usize) -> [u64; 2] {
        let at = 2 * (k * self.lanes + lane);
        [self.words[at], self.words[at + 1]]
    }

    fn value<const M: usize>(&self, k: usize, lane: usize) -> [u64; M] {
        std::array::from_fn(|w| self.block(k + w / 2, lane)[w % 2])
    }
}

/// Writes one chunk of keys for each party. `roots` supplies the root seeds, two words a seed, two seeds a key.
pub(crate) fn generate<const M: usize>(
    permutation: &Permutation,
    tweak: Tweak,
    bits: usize,
    alphas: &[u64],
    betas: &[[u64; M]],
    roots: &[u64],
    out: [&mut [u8]; 2],
) {
    let count = alphas.len();
    let side_blocks = 1 + value_blocks(M);
    let lanes = 2 * count; // lane = 2 key + party
    let root = |lane: usize| [roots[2 * lane] & !1, roots[2 * lane + 1]];
    let mut seeds: Vec<[u64; 2]> = (0..lanes).map(root).collect();
    let mut control: Vec<bool> = (0..lanes).map(|i| i % 2 == 1).collect();
    let mut sum = vec![[0u64; M]; count];
    let mut words: Vec<u8> = Vec::with_capacity(count * (key_bytes(bits, M) - 16));
    let mut flags = vec![0u8; count * flag_bytes(bits)];
    let mut input = vec![0; 2 * lanes * 2 * side_blocks];
    let mut output = input.clone();
    for level in 0..bits {
        let uses =
            [LEFT, RIGHT].into_iter().flat_map(|s| (0..side_blocks).map(move |k| s + k as u32));
        fill(&mut input, &seeds, uses.map(|usage| tweak.at(level, usage)));
        permutation.hash(&input, &mut output);
        let hashed = Hashed { words: &output, lanes };
        let seed = |side: usize, lane: usize| hashed.block(side * side_blocks, lane);
        let value = |side: usize, lane: usize| hashed.value::<M>(side * side_blocks + 1, lane);
        let mut value_words = Vec::with_capacity(8 * M * count);
        for (key, &alpha) in alphas.iter().enumerate() {
            let bit = (alpha >> (bits - 1 - level)) & 1 == 1;
            let (keep, lose) = (usize::from(bit), usize::from(!bit));
            let (l0, l1) = (2 * key, 2 * key + 1);
            let seed_cw = zip(seed(lose, l0), seed(lose, l1), |a, b| a ^ b);
            let seed_cw = [seed_cw[0] & !1, seed_cw[1]];
            let t = |side: usize| (seed(side, l0)[0] ^ seed(side, l1)[0]) & 1 == 1;
            let (t_left, t_right) = (!(t(0) ^ bit), t(1) ^ bit);
            let t_keep = if bit { t_right } else { t_left };
            let negative = control[l1];
            let mut wanted = zip(value(lose, l1), value(lose, l0), u64::wrapping_sub);
            wanted = zip(wanted, sum[key], u64::wrapping_sub);
            if bit {
                wanted = zip(wanted, betas[key], u64::wrapping_add);
            }
            let kept = zip(value(keep, l0), value(keep, l1), u64::wrapping_sub);
            sum[key] = zip(zip(sum[key], kept, u64::wrapping_add), wanted, u64::wrapping_add);
            for lane in [l0, l1] {
                let block = seed(keep, lane);
                let mask = u64::from(control[lane]).wrapping_neg();
                control[lane] = (block[0] & 1 == 1) ^ (control[lane] & t_keep);
                seeds[lane] =
                    [(block[0] & !1) ^ (seed_cw[0] & mask), block[1] ^ (seed_cw[1] & mask)];
            }
            words.extend(seed_cw.iter().flat_map(|w| w.to_le_bytes()));
            let value_cw = negate_if(wanted, negative);
            value_words.extend(value_cw.iter().flat_map(|w| w.to_le_bytes()));
            let pair = u8::from(t_left) | u8::from(t_right) << 1;
            flags[key * flag_bytes(bits) + level / 4] |= pair << (2 * (level % 4));
        }
        words.extend_from_slice(&value_words);
    }
    let used = 2 * lanes * value_blocks(M);
    fill(&mut input, &seeds, (0..value_blocks(M)).map(|k| tweak.at(bits, LAST + k as u32)));
    permutation.hash(&input[..used], &mut output[..used]);
    let hashed = Hashed { words: &output, lanes };
    for (key, sum) in sum.iter().enumerate() {
        let (l0, l1) = (2 * key, 2 * key + 1);
        let last = zip(hashed.value::<M>(0, l1), hashed.value::<M>(0, l0), u64::wrapping_sub);
        let last = negate_if(zip(last, *sum, u64::wrapping_sub), control[l1]);
        words.extend(last.iter().flat_map(|w| w.to_le_bytes()));
    }
    for (party, out) in out.into_iter().enumerate() {
        let (own, rest) = out.split_at_mut(16 * count);
        for (i, word) in own.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&root(2 * (i / 2) + party)[i % 2].to_le_bytes());
        }
        let (corrections, bits) = rest.split_at_mut(words.len());
        corrections.copy_from_slice(&words);
        bits.copy_from_slice(&flags);
    }
}

/// One run of inputs a tweak: every seed xor the tweak.
fn fill(input: &mut [u64], seeds: &[[u64; 2]], tweaks: impl Iterator<Item = u128>) {
    for (run, tweak) in input.chunks_mut(2 * seeds.len()).zip(tweaks) {
        let [low, high] = split(tweak);
        for (input, seed) in run.as_chunks_mut::<2>().0.iter_mut().zip(seeds) {
            *input = [seed[0] ^ low, seed[1] ^ high];
        }
    }
}

/// Evaluations that go through the levels together: a multiple of the AES batch for every use.
const LANES: usize = 64;
type Lane = [u64; LANES];

/// The state of one group of evaluations, by lane.
struct State<const M: usize> {
    low: Lane,
    high: Lane,
    /// All ones where the control bit is set.
    on: Lane,
    sum: [Lane; M],
}

/// The corrections of one level, by lane.
struct Corrections<const M: usize> {
    low: Lane,
    high: Lane,
    value: [Lane; M],
    /// Control bits of the left and the right child.
    flags: Lane,
}

/// Inputs of one level: `seed xor tweak` for the child each lane goes to.
struct Prepare<'a, const M: usize> {
    state: &'a State<M>,
    /// 0 or 1.
    bits: &'a Lane,
    tweak: [u64; 2],
    input: &'a mut [u64],
}

impl<const M: usize> pulp::WithSimd for Prepare<'_, M> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let [low, high] = self.tweak;
        for (k, run) in self.input.chunks_exact_mut(2 * LANES).enumerate() {
            let low = low ^ k as u64;
            for (i, input) in run.as_chunks_mut::<2>().0.iter_mut().enumerate().take(LANES) {
                let side = self.bits[i] * RIGHT as u64;
                *input = [self.state.low[i] ^ low ^ side, self.state.high[i] ^ high];
            }
        }
    }
}

/// Takes one level's hashes into the state.
struct Descend<'a, const M: usize> {
    state: &'a mut State<M>,
    hashed: &'a [u64],
    cw: &'a Corrections<M>,
    bits: &'a Lane,
}

impl<const M: usize> pulp::WithSimd for Descend<'_, M> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Descend { state, hashed, cw, bits } = self;
        for w in 0..M {
            let run = hashed[2 * LANES * (1 + w / 2)..].as_chunks::<2>().0;
            for (i, block) in run.iter().enumerate().take(LANES) {
                let word = block[w % 2].wrapping_add(cw.value[w][i] & state.on[i]);
                state.sum[w][i] = state.sum[w][i].wrapping_add(word);
            }
        }
        for (i, block) in hashed.as_chunks::<2>().0.iter().enumerate().take(LANES) {
            let on = state.on[i];
            state.low[i] = (block[0] & !1) ^ (cw.low[i] & on);
            state.high[i] = block[1] ^ (cw.high[i] & on);
            let flag = (cw.flags[i] >> bits[i]) & on;
            state.on[i] = ((block[0] ^ flag) & 1).wrapping_neg();
        }
    }
}

/// One chunk of keys, as a party holds it.
pub(crate) struct Keys<'a, const M: usize> {
    bits: usize,
    roots: &'a [u8],
    levels: Vec<(&'a [u8], &'a [u8])>,
    last: &'a [u8],
    flags: &'a [u8],
}

impl<'a, const M: usize> Keys<'a, M> {
    /// Reads a chunk of `count` keys; `bytes` must be `count * key_bytes(bits, M)` long.
    pub(crate) fn new(bytes: &'a [u8], bits: usize, count: usize) -> Self {
        let mut sections = Sections(bytes);
        let roots = sections.take(16 * count);
        let levels =
            (0..bits).map(|_| (sections.take(16 * count), sections.take(8 * M * count))).collect();
        let last = sections.take(8 * M * count);
        Self { bits, roots, levels, last, flags: sections.0 }
    }

    /// Evaluates key `lanes[i].0` at `lanes[i].1`; the control flow depends on the lanes, which are public, alone.
    /// `party` is 0 or 1.
    pub(crate) fn evaluate(
        &self,
        permutation: &Permutation,
        tweak: Tweak,
        party: usize,
        lanes: &[(usize, u64)],
        out: &mut [[u64; M]],
    ) {
        let arch = pulp::Arch::new();
        let vb = value_blocks(M);
        let mut input = vec![0; 2 * LANES * (1 + vb)];
        let mut hashed = input.clone();
        let zero = [0; LANES];
        let mut cw = Corrections { low: zero, high: zero, value: [zero; M], flags: zero };
        for (lanes, out) in lanes.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let on = [(party as u64).wrapping_neg(); LANES];
            let mut state = State { low: zero, high: zero, on, sum: [zero; M] };
            for (i, (key, _)) in lanes.iter().enumerate() {
                state.low[i] = read_u64(self.roots, 2 * key);
                state.high[i] = read_u64(self.roots, 2 * key + 1);
            }
            for (level, sections) in self.levels.iter().enumerate() {
                let mut bits = zero;
                for (bit, (_, x)) in bits.iter_mut().zip(lanes) {
                    *bit = (x >> (self.bits - 1 - level)) & 1;
                }
                self.corrections(level, *sections, lanes, &mut cw);
                let tweak = split(tweak.at(level, LEFT));
                arch.dispatch(Prepare { state: &state, bits: &bits, tweak, input: &mut input });
                permutation.hash(&input, &mut hashed);
                arch.dispatch(Descend { state: &mut state, hashed: &hashed, cw: &cw, bits: &bits });
            }
            let tweak = split(tweak.at(self.bits, LAST));
            let used = 2 * LANES * vb;
            let input = &mut input[..used];
            arch.dispatch(Prepare { state: &state, bits: &zero, tweak, input });
            permutation.hash(input, &mut hashed[..used]);
            let blocks = Hashed { words: &hashed, lanes: LANES };
            for (i, ((key, _), out)) in lanes.iter().zip(out).enumerate() {
                let value: [u64; M] = blocks.value(0, i);
                *out = std::array::from_fn(|w| {
                    let last = read_u64(self.last, key * M + w) & state.on[i];
                    state.sum[w][i].wrapping_add(value[w]).wrapping_add(last)
                });
                *out = negate_if(*out, party == 1);
            }
        }
    }

    fn corrections(
        &self,
        level: usize,
        (seeds, values): (&[u8], &[u8]),
        lanes: &[(usize, u64)],
        cw: &mut Corrections<M>,
    ) {
        let flag_bytes = flag_bytes(self.bits);
        let mut previous = None;
        for (i, (key, _)) in lanes.iter().enumerate() {
            // Lanes of one key are neighbours.
            if let Some(p) = previous.filter(|&p: &usize| lanes[p].0 == *key) {
                (cw.low[i], cw.high[i], cw.flags[i]) = (cw.low[p], cw.high[p], cw.flags[p]);
                cw.value.iter_mut().for_each(|v| v[i] = v[p]);
            } else {
                cw.low[i] = read_u64(seeds, 2 * key);
                cw.high[i] = read_u64(seeds, 2 * key + 1);
                cw.value
                    .iter_mut()
                    .enumerate()
                    .for_each(|(w, v)| v[i] = read_u64(values, key * M + w));
                cw.flags[i] =
                    (self.flags[key * flag_bytes + level / 4] >> (2 * (level % 4))) as u64;
            }
            previous = Some(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::Seed;

    fn check<const M: usize>(bits: usize) {
        let permutation = Permutation::new(&[9; 32]);
        let tweak = Tweak::instruction(5);
        let alphas: Vec<u64> = (0..1u64 << bits).collect();
        let beta = |a: u64| {
            std::array::from_fn::<u64, M, _>(|w| {
                (a + 3).wrapping_mul(0xABCD_EF12_3456_789B + w as u64)
            })
        };
        let roots = Seed([3; 32]).stream().words(0, 0, 4 * alphas.len());
        let keys = |chunk: usize| {
            let alphas = &alphas[chunk * 64..(chunk * 64 + 64).min(alphas.len())];
            let betas: Vec<_> = alphas.iter().map(|&a| beta(a)).collect();
            let mut out = [
                vec![0u8; alphas.len() * key_bytes(bits, M)],
                vec![0u8; alphas.len() * key_bytes(bits, M)],
            ];
            let [a, b] = &mut out;
            generate::<M>(&permutation, tweak, bits, alphas, &betas, &roots[chunk * 256..], [a, b]);
            (alphas.len(), out)
        };
        for chunk in 0..alphas.len().div_ceil(64) {
            let (count, bytes) = keys(chunk);
            let lanes: Vec<(usize, u64)> =
                (0..count).flat_map(|k| (0..1u64 << bits).map(move |x| (k, x))).collect();
            let mut shares = [vec![[0; M]; lanes.len()], vec![[0; M]; lanes.len()]];
            for (party, shares) in shares.iter_mut().enumerate() {
                Keys::<M>::new(&bytes[party], bits, count).evaluate(
                    &permutation,
                    tweak,
                    party,
                    &lanes,
                    shares,
                );
            }
            for (i, (key, x)) in lanes.iter().enumerate() {
                let alpha = (chunk * 64 + key) as u64;
                let want = if *x < alpha { beta(alpha) } else { [0; M] };
                assert_eq!(
                    zip(shares[0][i], shares[1][i], u64::wrapping_add),
                    want,
                    "{x} < {alpha}"
                );
            }
        }
    }

    #[test]
    fn every_point_and_input_of_small_domains() {
        check::<1>(8);
        check::<3>(8);
        check::<3>(3);
        check::<1>(1);
    }

    #[test]
    fn key_sizes() {
        // fss-rs stores 626 bytes for 18 bits and 16 bytes of payload, with two bytes of control bits a level.
        assert_eq!(key_bytes(18, 2), 613);
        assert_eq!([key_bytes(18, 3), key_bytes(28, 3), key_bytes(23, 3)], [765, 1167, 966]);
    }
}
