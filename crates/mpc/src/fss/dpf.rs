//! Distributed point function, evaluated on its whole domain: shares of `beta` at `alpha`, of 0 elsewhere.
//!
//! Source: the correlated tree of Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, *Half-Tree: Halving the Cost of Tree Expansion in COT
//! and DPF* (ePrint 2022/1431): a child is `H(s)` or `H(s) xor s`, one AES a node instead of two; on the special path the
//! parties' nodes differ by the secret offset, whose low bit is 1, so a node carries its control bit and keys need no bits
//! beside the seeds. `H(x) = pi(y) xor y`, `y = sigma(x) xor tweak`, `sigma(l || r) = (l xor r) || l` (circular correlation
//! robust: Guo, Katz, Wang, Yu, ePrint 2019/074). Leaves are hashed under tweaks of their own before they are used as values.

#![expect(
    clippy::inline_always,
    reason = "inlined into the code compiled for the vector units found at run time"
)]

use super::{Sections, Tweak, read_u64, split};
use crate::prg::{BATCH, Permutation};

/// Bytes of one key over 2^`bits` points with `words` output words.
pub(crate) fn key_bytes(bits: usize, words: usize) -> usize {
    16 * bits + 16 + 8 * words
}

/// A node of a tree: low word, high word; the control bit is the lowest.
type Node = [u64; 2];

fn xor(a: Node, b: Node) -> Node {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

/// `node` where `on` is odd, zero where it is even.
fn masked(node: Node, on: u64) -> Node {
    let mask = (on & 1).wrapping_neg();
    [node[0] & mask, node[1] & mask]
}

/// `input = sigma(node) xor tweak` of every node.
struct Inputs<'a> {
    nodes: &'a [u64],
    tweak: Node,
    input: &'a mut [u64],
}

impl pulp::WithSimd for Inputs<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let [low, high] = self.tweak;
        let inputs = self.input.as_chunks_mut::<2>().0.iter_mut();
        for (input, node) in inputs.zip(self.nodes.as_chunks::<2>().0) {
            *input = [node[1] ^ low, node[0] ^ node[1] ^ high];
        }
    }
}

/// Both children of every node of one key.
struct Children<'a> {
    nodes: &'a [u64],
    hashes: &'a [u64],
    correction: Node,
    next: &'a mut [u64],
}

impl pulp::WithSimd for Children<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let [low, high] = self.correction;
        let parents = self.nodes.as_chunks::<2>().0.iter().zip(self.hashes.as_chunks::<2>().0);
        for (next, (node, hash)) in self.next.as_chunks_mut::<4>().0.iter_mut().zip(parents) {
            let on = (node[0] & 1).wrapping_neg();
            let left = [hash[0] ^ (low & on), hash[1] ^ (high & on)];
            *next = [left[0], left[1], left[0] ^ node[0], left[1] ^ node[1]];
        }
    }
}

/// One or two output words of every leaf of one key.
struct Leaves<'a> {
    nodes: &'a [u64],
    hashes: &'a [u64],
    last: Node,
    low: &'a mut [u64],
    high: Option<&'a mut [u64]>,
}

impl pulp::WithSimd for Leaves<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let (nodes, hashes) = (self.nodes.as_chunks::<2>().0, self.hashes.as_chunks::<2>().0);
        let leaves = nodes.iter().zip(hashes);
        for (out, (node, hash)) in self.low.iter_mut().zip(leaves) {
            *out = hash[0].wrapping_add(self.last[0] & (node[0] & 1).wrapping_neg());
        }
        let Some(high) = self.high else { return };
        for (out, (node, hash)) in high.iter_mut().zip(nodes.iter().zip(hashes)) {
            *out = hash[1].wrapping_add(self.last[1] & (node[0] & 1).wrapping_neg());
        }
    }
}

/// Buffers of one expansion.
struct Hasher<'a> {
    permutation: &'a Permutation,
    input: Vec<u64>,
    output: Vec<u64>,
}

impl Hasher<'_> {
    /// Hashes of `nodes`, two words a node. Short runs are padded: single blocks are slower than a whole batch.
    fn hash(&mut self, nodes: &[u64], tweak: u128) -> &[u64] {
        let padded = nodes.len().next_multiple_of(2 * BATCH);
        self.input.resize(padded, 0);
        self.output.resize(padded, 0);
        let input = &mut self.input[..padded];
        pulp::Arch::new().dispatch(Inputs { nodes, tweak: split(tweak), input });
        self.permutation.hash(input, &mut self.output[..padded]);
        &self.output[..nodes.len()]
    }
}

/// Appends one chunk of keys for each party. `random` has four words a key: root and offset.
pub(crate) fn generate<const M: usize>(
    permutation: &Permutation,
    tweak: Tweak,
    bits: usize,
    alphas: &[u64],
    betas: &[[u64; M]],
    random: &[u64],
    out: [&mut [u8]; 2],
) {
    let count = alphas.len();
    let offset: Vec<Node> =
        (0..count).map(|k| [random[4 * k + 2] | 1, random[4 * k + 3]]).collect();
    // Two nodes a key, the server's first.
    let roots: Vec<u64> = (0..count)
        .flat_map(|k| {
            let root = [random[4 * k], random[4 * k + 1]];
            let other = xor(root, offset[k]);
            [root[0], root[1], other[0], other[1]]
        })
        .collect();
    let mut nodes = roots.clone();
    let mut words = Vec::with_capacity(count * (16 * bits + 8 * M));
    let mut hasher = Hasher { permutation, input: Vec::new(), output: Vec::new() };
    for level in 0..bits {
        let hashes = hasher.hash(&nodes, tweak.at(level, 0)).as_chunks::<4>().0;
        let keys = nodes.as_chunks_mut::<4>().0.iter_mut().zip(hashes);
        for ((node, hash), (alpha, offset)) in keys.zip(alphas.iter().zip(&offset)) {
            let right = (alpha >> (bits - 1 - level)) & 1;
            let halves = [[hash[0], hash[1]], [hash[2], hash[3]]];
            let correction = xor(xor(halves[0], halves[1]), masked(*offset, 1 - right));
            for (node, hash) in node.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
                *node = xor(xor(hash, masked(correction, node[0])), masked(*node, right));
            }
            words.extend(correction.iter().flat_map(|w| w.to_le_bytes()));
        }
    }
    let values: Vec<Vec<u64>> = (0..M.div_ceil(2))
        .map(|k| hasher.hash(&nodes, tweak.at(bits, 1 + k as u32)).to_vec())
        .collect();
    for (key, beta) in betas.iter().enumerate() {
        for (w, beta) in beta.iter().enumerate() {
            let word = |party: usize| values[w / 2][4 * key + 2 * party + w % 2];
            let last = beta.wrapping_sub(word(0)).wrapping_add(word(1));
            let negative = (nodes[4 * key + 2] & 1).wrapping_neg();
            let last = (last ^ negative).wrapping_sub(negative);
            words.extend_from_slice(&last.to_le_bytes());
        }
    }
    for (party, out) in out.into_iter().enumerate() {
        let (root, rest) = out.split_at_mut(16 * count);
        for (key, root) in root.chunks_exact_mut(8).enumerate() {
            let word = roots[4 * (key / 2) + 2 * party + key % 2];
            root.copy_from_slice(&word.to_le_bytes());
        }
        rest.copy_from_slice(&words);
    }
}

/// One chunk of keys, as a party holds it.
pub(crate) struct Keys<'a, const M: usize> {
    bits: usize,
    count: usize,
    roots: &'a [u8],
    levels: Vec<&'a [u8]>,
    last: &'a [u8],
}

/// Keys expanded together: enough blocks to fill batches early, few enough for the level-2 cache.
const GROUP: usize = 8;

impl<'a, const M: usize> Keys<'a, M> {
    /// Reads a chunk of `count` keys; `bytes` must be `count * key_bytes(bits, M)` long.
    pub(crate) fn new(bytes: &'a [u8], bits: usize, count: usize) -> Self {
        let mut sections = Sections(bytes);
        let roots = sections.take(16 * count);
        let levels = (0..bits).map(|_| sections.take(16 * count)).collect();
        Self { bits, count, roots, levels, last: sections.0 }
    }

    /// Expands every key over its whole domain and hands its `M` rows of 2^bits words, *without* the party's sign, to
    /// `consume(key, rows)`. Neither branches nor addresses depend on the key.
    pub(crate) fn expand(
        &self,
        permutation: &Permutation,
        tweak: Tweak,
        mut consume: impl FnMut(usize, [&[u64]; M]),
    ) {
        let leaves = 1usize << self.bits;
        let arch = pulp::Arch::new();
        let mut nodes: Vec<u64> = vec![0; 2 * GROUP * leaves];
        let mut next: Vec<u64> = vec![0; 2 * GROUP * leaves];
        let mut hasher = Hasher { permutation, input: Vec::new(), output: Vec::new() };
        let mut rows: [Vec<u64>; M] = std::array::from_fn(|_| vec![0; GROUP * leaves]);
        let pair = |bytes: &[u8], i: usize| [read_u64(bytes, 2 * i), read_u64(bytes, 2 * i + 1)];
        for first in (0..self.count).step_by(GROUP) {
            let group = GROUP.min(self.count - first);
            for (k, node) in nodes.as_chunks_mut::<2>().0.iter_mut().take(group).enumerate() {
                *node = pair(self.roots, first + k);
            }
            for (level, words) in self.levels.iter().enumerate() {
                let width = 2usize << level;
                let parents = &nodes[..width * group];
                let hashes = hasher.hash(parents, tweak.at(level, 0));
                let keys = parents.chunks_exact(width).zip(hashes.chunks_exact(width));
                for (key, ((nodes, hashes), next)) in
                    keys.zip(next.chunks_exact_mut(2 * width)).enumerate()
                {
                    let correction = pair(words, first + key);
                    arch.dispatch(Children { nodes, hashes, correction, next });
                }
                std::mem::swap(&mut nodes, &mut next);
            }
            let all = &nodes[..2 * leaves * group];
            for (k, rows) in rows.chunks_mut(2).enumerate() {
                let hashes = hasher.hash(all, tweak.at(self.bits, 1 + k as u32));
                let [low, high @ ..] = rows else { continue };
                let keys = all.chunks_exact(2 * leaves).zip(hashes.chunks_exact(2 * leaves));
                for (key, (nodes, hashes)) in keys.enumerate() {
                    let last = |w: usize| read_u64(self.last, (first + key) * M + 2 * k + w);
                    let span = key * leaves..(key + 1) * leaves;
                    let low = &mut low[span.clone()];
                    let high = high.first_mut().map(|row| &mut row[span]);
                    let last = [last(0), if high.is_some() { last(1) } else { 0 }];
                    arch.dispatch(Leaves { nodes, hashes, last, low, high });
                }
            }
            for key in 0..group {
                let span = key * leaves..(key + 1) * leaves;
                consume(first + key, std::array::from_fn(|w| &rows[w][span.clone()]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::Seed;

    fn check<const M: usize>(bits: usize, count: usize) {
        let permutation = Permutation::new(&[4; 32]);
        let tweak = Tweak::instruction(6);
        let alphas: Vec<u64> = (0..count as u64).map(|k| (k * 37 + 1) % (1 << bits)).collect();
        let betas: Vec<[u64; M]> = (0..count)
            .map(|k| {
                std::array::from_fn(|w| {
                    (k as u64 + 5).wrapping_mul(0x1234_5678_9ABC_DEF1 + w as u64)
                })
            })
            .collect();
        let random = Seed([8; 32]).stream().words(1, 1, 4 * count);
        let mut bytes =
            [vec![0u8; count * key_bytes(bits, M)], vec![0u8; count * key_bytes(bits, M)]];
        let [a, b] = &mut bytes;
        generate::<M>(&permutation, tweak, bits, &alphas, &betas, &random, [a, b]);
        let mut sums = vec![vec![[0u64; M]; 1 << bits]; count];
        for (party, bytes) in bytes.iter().enumerate() {
            Keys::<M>::new(bytes, bits, count).expand(&permutation, tweak, |key, rows| {
                for (x, sum) in sums[key].iter_mut().enumerate() {
                    for (sum, row) in sum.iter_mut().zip(rows) {
                        let word = if party == 1 { row[x].wrapping_neg() } else { row[x] };
                        *sum = sum.wrapping_add(word);
                    }
                }
            });
        }
        for (key, sums) in sums.iter().enumerate() {
            for (x, sum) in sums.iter().enumerate() {
                let want = if x as u64 == alphas[key] { betas[key] } else { [0; M] };
                assert_eq!(*sum, want, "key {key} at {x}");
            }
        }
    }

    #[test]
    fn every_point_and_input_of_small_domains() {
        check::<3>(6, 64);
        check::<1>(4, 16);
        check::<3>(9, 3);
        check::<1>(1, 2);
    }
}
