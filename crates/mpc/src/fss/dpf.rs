//! Distributed point function in two layers: shares of `beta` at `alpha` and of 0 elsewhere, for the points of the blocks that are opened; shares
//! of a payload of its own for every *block* of 2^[`BLOCK`] points, opened or not. What needs no single points of a block stops there: the tree
//! below is most of the work.
//!
//! Source: the correlated tree of Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, *Half-Tree: Halving the Cost of Tree Expansion in COT
//! and DPF* (ePrint 2022/1431): a child is `H(s)` or `H(s) xor s`, one AES a node instead of two; on the special path the
//! parties' nodes differ by the secret offset, whose low bit is 1, so a node carries its control bit and keys need no bits
//! beside the seeds. Payloads of inner nodes as in Boneh, Boyle, Corrigan-Gibbs, Gilboa, Ishai, *Lightweight Techniques for Private Heavy Hitters*
//! (ePrint 2021/017). `H(x) = pi(y) xor y`, `y = sigma(x) xor tweak`, `sigma(l || r) = (l xor r) || l` (circular correlation
//! robust: Guo, Katz, Wang, Yu, ePrint 2019/074). Blocks and leaves are hashed under tweaks of their own before they are used as values.

#![expect(
    clippy::inline_always,
    reason = "inlined into the code compiled for the vector units found at run time"
)]

use super::{Sections, Tweak, read_u64, split};
use crate::prg::{BATCH, Permutation};

/// log2 of the points of a block.
pub(crate) const BLOCK: usize = 4;

/// log2 of the number of blocks of a domain of 2^`bits` points.
pub(crate) fn block_bits(bits: usize) -> usize {
    bits.saturating_sub(BLOCK)
}

/// Bytes of one key over 2^`bits` points with `words` output words: a root, a correction a level, one for blocks, one for points.
pub(crate) fn key_bytes(bits: usize, words: usize) -> usize {
    16 * bits + 32 + 8 * words
}

/// Uses of the permutation at a level: children, and values from here on.
const CHILDREN: u32 = 0;
const VALUES: u32 = 1;

/// A node of a tree: low word, high word; the control bit is the lowest.
pub(crate) type Node = [u64; 2];

/// The i-th node of a section.
fn pair(bytes: &[u8], i: usize) -> Node {
    [read_u64(bytes, 2 * i), read_u64(bytes, 2 * i + 1)]
}

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

/// One or two output words of every node of one key.
struct Values<'a> {
    nodes: &'a [u64],
    hashes: &'a [u64],
    last: Node,
    low: &'a mut [u64],
    high: Option<&'a mut [u64]>,
}

impl pulp::WithSimd for Values<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let (nodes, hashes) = (self.nodes.as_chunks::<2>().0, self.hashes.as_chunks::<2>().0);
        for (out, (node, hash)) in self.low.iter_mut().zip(nodes.iter().zip(hashes)) {
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

/// What makes the parties' words at their nodes of the special path differ by `payload`: the words of one key, `hashes` and `nodes` being
/// those of the server's node and the client's.
fn correction(
    payload: &[u64],
    hashes: [&[u64]; 2],
    client_control: u64,
) -> impl Iterator<Item = u64> {
    let negative = (client_control & 1).wrapping_neg();
    payload.iter().zip(hashes[0].iter().zip(hashes[1])).map(move |(payload, (server, client))| {
        let word = payload.wrapping_sub(*server).wrapping_add(*client);
        (word ^ negative).wrapping_sub(negative)
    })
}

/// Appends one chunk of keys for each party: `blocks` at the block of a point, `betas` at the point. `random` has four words a key: root and
/// offset.
#[expect(clippy::too_many_arguments, reason = "a key's parts, by chunk")]
pub(crate) fn generate<const M: usize>(
    permutation: &Permutation,
    tweak: Tweak,
    bits: usize,
    alphas: &[u64],
    blocks: &[[u64; 2]],
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
    let mut words = Vec::with_capacity(count * (key_bytes(bits, M) - 16));
    let mut of_blocks = Vec::with_capacity(16 * count);
    let mut hasher = Hasher { permutation, input: Vec::new(), output: Vec::new() };
    for level in 0..bits {
        if level == block_bits(bits) {
            let hashes = hasher.hash(&nodes, tweak.at(level, VALUES)).as_chunks::<4>().0;
            for ((block, hash), node) in blocks.iter().zip(hashes).zip(nodes.as_chunks::<4>().0) {
                let words = correction(block, [&hash[..2], &hash[2..]], node[2]);
                of_blocks.extend(words.flat_map(u64::to_le_bytes));
            }
        }
        let hashes = hasher.hash(&nodes, tweak.at(level, CHILDREN)).as_chunks::<4>().0;
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
    words.extend(of_blocks);
    let values: Vec<Vec<u64>> = (0..M.div_ceil(2))
        .map(|k| hasher.hash(&nodes, tweak.at(bits, VALUES + k as u32)).to_vec())
        .collect();
    for (key, beta) in betas.iter().enumerate() {
        for (values, beta) in values.iter().zip(beta.chunks(2)) {
            let hash = &values[4 * key..4 * key + 4];
            let last = correction(beta, [&hash[..2], &hash[2..]], nodes[4 * key + 2]);
            words.extend(last.flat_map(u64::to_le_bytes));
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

/// The trees of a group of keys, one level at a time; `widths` says how many nodes each key has.
struct Forest<'a> {
    hasher: Hasher<'a>,
    arch: pulp::Arch,
    nodes: Vec<u64>,
    next: Vec<u64>,
}

impl<'a> Forest<'a> {
    fn new(permutation: &'a Permutation, most: usize) -> Self {
        let hasher = Hasher { permutation, input: Vec::new(), output: Vec::new() };
        let nodes = vec![0; 2 * most];
        Self { hasher, arch: pulp::Arch::new(), next: nodes.clone(), nodes }
    }

    /// Replaces every node by its children.
    fn grow(&mut self, widths: &mut [usize], tweak: u128, corrections: impl Fn(usize) -> Node) {
        let nodes = &self.nodes[..2 * widths.iter().sum::<usize>()];
        let hashes = self.hasher.hash(nodes, tweak);
        let mut at = 0;
        for (key, width) in widths.iter_mut().enumerate() {
            let span = 2 * at..2 * (at + *width);
            self.arch.dispatch(Children {
                nodes: &nodes[span.clone()],
                hashes: &hashes[span],
                correction: corrections(key),
                next: &mut self.next[4 * at..4 * (at + *width)],
            });
            at += *width;
            *width *= 2;
        }
        std::mem::swap(&mut self.nodes, &mut self.next);
    }

    /// One or two words of every node, without the party's sign.
    fn values(
        &mut self,
        widths: &[usize],
        tweak: u128,
        corrections: impl Fn(usize) -> Node,
        low: &mut [u64],
        mut high: Option<&mut [u64]>,
    ) {
        let nodes = &self.nodes[..2 * widths.iter().sum::<usize>()];
        let hashes = self.hasher.hash(nodes, tweak);
        let mut at = 0;
        for (key, width) in widths.iter().enumerate() {
            let (words, span) = (at..at + width, 2 * at..2 * (at + width));
            self.arch.dispatch(Values {
                nodes: &nodes[span.clone()],
                hashes: &hashes[span],
                last: corrections(key),
                low: &mut low[words.clone()],
                high: high.as_deref_mut().map(|high| &mut high[words]),
            });
            at += width;
        }
    }

    /// Drops all nodes but those that `keep(key, node)` wants.
    fn prune(&mut self, widths: &mut [usize], keep: impl Fn(usize, usize) -> bool) {
        let (mut from, mut to) = (0, 0);
        for (key, width) in widths.iter_mut().enumerate() {
            let before = to;
            for node in 0..*width {
                if keep(key, node) {
                    self.nodes.copy_within(2 * (from + node)..2 * (from + node + 1), 2 * to);
                    to += 1;
                }
            }
            from += *width;
            *width = to - before;
        }
    }
}

/// One chunk of keys, as a party holds it.
pub(crate) struct Keys<'a, const M: usize> {
    bits: usize,
    count: usize,
    roots: &'a [u8],
    levels: Vec<&'a [u8]>,
    blocks: &'a [u8],
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
        let blocks = sections.take(16 * count);
        Self { bits, count, roots, levels, blocks, last: sections.0 }
    }

    /// Keys that two parties are making: their roots and the corrections so far, 16 bytes a key each.
    pub(crate) fn partial(roots: &'a [u8], levels: Vec<&'a [u8]>, count: usize) -> Self {
        Self { bits: levels.len(), count, roots, levels, blocks: &[], last: &[] }
    }

    /// Starts the trees of `count` keys from `first` on.
    fn plant(&self, forest: &mut Forest<'_>, first: usize, count: usize) {
        let nodes = forest.nodes.as_chunks_mut::<2>().0.iter_mut();
        for (key, node) in nodes.enumerate().take(count) {
            *node = pair(self.roots, first + key);
        }
    }

    /// For every key, over all nodes as deep as there are corrections: the exclusive or of the hashes that its children are made
    /// of, and the number of control bits that are set. What two parties make the next correction from.
    pub(crate) fn totals(&self, permutation: &Permutation, tweak: Tweak) -> Vec<(Node, u64)> {
        let depth = self.levels.len();
        let mut forest = Forest::new(permutation, GROUP << depth);
        let mut out = Vec::with_capacity(self.count);
        for first in (0..self.count).step_by(GROUP) {
            let mut widths = [1; GROUP];
            let widths = &mut widths[..GROUP.min(self.count - first)];
            self.plant(&mut forest, first, widths.len());
            for (level, words) in self.levels.iter().enumerate() {
                forest.grow(widths, tweak.at(level, CHILDREN), |key| pair(words, first + key));
            }
            let Forest { hasher, nodes, .. } = &mut forest;
            let nodes = &nodes[..(2 * widths.len()) << depth];
            let hashes = hasher.hash(nodes, tweak.at(depth, CHILDREN));
            let keys = nodes.chunks_exact(2 << depth).zip(hashes.chunks_exact(2 << depth));
            out.extend(keys.map(|(nodes, hashes)| {
                let sum = hashes.as_chunks::<2>().0.iter().fold([0; 2], |sum, h| xor(sum, *h));
                (sum, nodes.iter().step_by(2).map(|low| low & 1).sum())
            }));
        }
        out
    }

    /// Evaluates every key on all its blocks and on the points of the blocks for which `open(key, block)`, which must not depend on a secret, and
    /// hands `consume(key, blocks, points)` two rows of a word a block and `M` rows of a word a point of the opened blocks, in their order, all
    /// *without* the party's sign. Neither branches nor addresses depend on the key.
    pub(crate) fn expand(
        &self,
        permutation: &Permutation,
        tweak: Tweak,
        open: impl Fn(usize, usize) -> bool,
        mut consume: impl FnMut(usize, [&[u64]; 2], [&[u64]; M]),
    ) {
        let (points, top) = (1usize << self.bits, block_bits(self.bits));
        let mut forest = Forest::new(permutation, GROUP * points);
        let mut blocks: [Vec<u64>; 2] = std::array::from_fn(|_| vec![0; GROUP << top]);
        let mut rows: [Vec<u64>; M] = std::array::from_fn(|_| vec![0; GROUP * points]);
        for first in (0..self.count).step_by(GROUP) {
            let mut widths = [1; GROUP];
            let widths = &mut widths[..GROUP.min(self.count - first)];
            self.plant(&mut forest, first, widths.len());
            for (level, words) in self.levels.iter().enumerate() {
                if level == top {
                    let [low, high] = &mut blocks;
                    let corrections = |key| pair(self.blocks, first + key);
                    forest.values(widths, tweak.at(top, VALUES), corrections, low, Some(high));
                    forest.prune(widths, |key, block| open(first + key, block));
                }
                forest.grow(widths, tweak.at(level, CHILDREN), |key| pair(words, first + key));
            }
            for (k, rows) in rows.chunks_mut(2).enumerate() {
                let [low, high @ ..] = rows else { continue };
                let high = high.first_mut().map(Vec::as_mut_slice);
                let words = if high.is_some() { 2 } else { 1 };
                let corrections = |key: usize| {
                    let word = |w| read_u64(self.last, (first + key) * M + 2 * k + w);
                    [word(0), if words == 2 { word(1) } else { 0 }]
                };
                forest.values(
                    widths,
                    tweak.at(self.bits, VALUES + k as u32),
                    corrections,
                    low,
                    high,
                );
            }
            let mut at = 0;
            for (key, width) in widths.iter().enumerate() {
                consume(
                    first + key,
                    blocks.each_ref().map(|row| &row[key << top..(key + 1) << top]),
                    rows.each_ref().map(|row| &row[at..at + width]),
                );
                at += width;
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
        let word =
            |k: usize, w: usize| (k as u64 + 5).wrapping_mul(0x1234_5678_9ABC_DEF1 + w as u64);
        let betas: Vec<[u64; M]> =
            (0..count).map(|k| std::array::from_fn(|w| word(k, w))).collect();
        let payloads: Vec<[u64; 2]> = (0..count).map(|k| [word(k, 8), word(k, 9)]).collect();
        let random = Seed([8; 32]).stream().words(1, 1, 4 * count);
        let mut bytes =
            [vec![0u8; count * key_bytes(bits, M)], vec![0u8; count * key_bytes(bits, M)]];
        let [a, b] = &mut bytes;
        generate::<M>(&permutation, tweak, bits, &alphas, &payloads, &betas, &random, [a, b]);
        let block = 1 << (bits - block_bits(bits));
        let opened = |key: usize, j: usize| !(key + j).is_multiple_of(3);
        let mut sums = vec![vec![[0u64; M]; 1 << bits]; count];
        let mut block_sums = vec![vec![[0u64; 2]; 1 << block_bits(bits)]; count];
        for (party, bytes) in bytes.iter().enumerate() {
            let sign = |word: u64| if party == 1 { word.wrapping_neg() } else { word };
            let keys = Keys::<M>::new(bytes, bits, count);
            keys.expand(&permutation, tweak, opened, |key, blocks, rows| {
                for (j, sum) in block_sums[key].iter_mut().enumerate() {
                    *sum = std::array::from_fn(|w| sum[w].wrapping_add(sign(blocks[w][j])));
                }
                let points = (0..1usize << bits).filter(|x| opened(key, x / block));
                for (at, x) in points.enumerate() {
                    for (sum, row) in sums[key][x].iter_mut().zip(rows) {
                        *sum = sum.wrapping_add(sign(row[at]));
                    }
                }
            });
        }
        for (key, (sums, block_sums)) in sums.iter().zip(&block_sums).enumerate() {
            let alpha = alphas[key] as usize;
            for (x, sum) in sums.iter().enumerate() {
                let here = x == alpha && opened(key, x / block);
                assert_eq!(*sum, if here { betas[key] } else { [0; M] }, "key {key} at {x}");
            }
            for (j, sum) in block_sums.iter().enumerate() {
                let want = if j == alpha / block { payloads[key] } else { [0; 2] };
                assert_eq!(*sum, want, "key {key}, block {j}");
            }
        }
    }

    #[test]
    fn every_point_and_block_of_small_domains() {
        check::<3>(6, 64);
        check::<1>(4, 16);
        check::<3>(9, 3);
        check::<2>(7, 9);
        check::<1>(1, 2);
    }
}
