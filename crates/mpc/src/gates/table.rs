//! Piecewise polynomials with uniform knots, from one opening and one point-function key an element.
//!
//! `x = c - r` modulo 2^n after a drop; the top `b` bits of `c` and `r` are `h_c`, `h_r`, the low ones `l_c`, `l_r`. Then `x = (h_c - h_r) 2^(n-b) + delta` with
//! `delta = l_c - l_r` a plain integer: the borrow is not taken, so knot `h_c - h_r` is `x` rounded to a knot at random, and polynomials
//! fitted on both sides of their knot need no comparison.
//! 1. Both evaluate a key with point `h_r` and payload `(1, l_r, l_r^2)` there, `(1, r mod 2^(n-b+4))` at its block of 16 points.
//! 2. Point `j` meets the polynomial of knot `(h_c - j) mod 2^b`. Where the polynomials that the points of a block meet lie on one line
//!    `o + s x`, which the public `h_c` decides, both take the line times the block's payload: with all but the top `b - 4` bits of `r`
//!    in the payload, `x` is affine in it.
//! 3. Of the other blocks both sum, over the points, the public coefficient times the payload's part of `delta^k`.
//! 4. The sums are shares of the result in the full ring.
//!
//! No corrections. GELU's table bends at 69 of 512 knots and leaves 7 of 32 blocks to be opened: a quarter of the AES of a whole tree.
//!
//! Source: look-up by point function as in Pika (Wagh, PoPETs 2022), splines as in Boyle et al. (ePrint 2020/1392).

#![expect(
    clippy::inline_always,
    reason = "inlined into the code compiled for the vector units found at run time"
)]

use super::{Dealing, Evaluation, window};
use crate::circuit::Table;
use crate::fixed::low;
use crate::fss::{CHUNK, dpf};
use rayon::prelude::*;

fn generate<const M: usize>(d: &mut Dealing<'_>, masks: &[u64], table: &Table) {
    let (b, l) = (table.index_bits as usize, table.input_bits - table.index_bits);
    let size = dpf::key_bytes(b, M);
    let below_block = low(table.input_bits - dpf::block_bits(b) as u32);
    let alphas: Vec<u64> = masks.iter().map(|r| r >> l).collect();
    let blocks: Vec<[u64; 2]> = masks.iter().map(|r| [1, r & below_block]).collect();
    let betas: Vec<[u64; M]> = masks
        .iter()
        .map(|r| std::array::from_fn(|k| (r & low(l)).wrapping_pow(k as u32)))
        .collect();
    let random = d.roots(4 * masks.len());
    let (permutation, tweak) = (d.permutation, d.tweak());
    d.server_out
        .par_chunks_mut(CHUNK * size)
        .zip(d.client_out.par_chunks_mut(CHUNK * size))
        .zip(alphas.par_chunks(CHUNK).zip(blocks.par_chunks(CHUNK)).zip(betas.par_chunks(CHUNK)))
        .zip(random.par_chunks(4 * CHUNK))
        .for_each(|(((server, client), ((alphas, blocks), betas)), random)| {
            let out = [server, client];
            dpf::generate(permutation, tweak, b, alphas, blocks, betas, random, out);
        });
}

pub(crate) fn deal(mut d: Dealing<'_>, r: &[u64], drop: u32, table: &Table) {
    let masks: Vec<u64> = r.iter().map(|r| window(*r, drop, table.input_bits)).collect();
    match table.degree() {
        0 => generate::<1>(&mut d, &masks, table),
        1 => generate::<2>(&mut d, &masks, table),
        _ => generate::<3>(&mut d, &masks, table),
    }
}

/// Points of a block.
const POINTS: usize = 1 << dpf::BLOCK;

/// `T_k[-i mod 2^b]`, and the first block again: the coefficients that the points of a block meet are a run of it, wherever it starts.
fn reversed(table: &Table) -> Vec<Vec<u64>> {
    let flip = |t: &Vec<u64>| {
        let n = t.len();
        (0..n + POINTS).map(|i| t[(2 * n - i) % n]).collect()
    };
    table.coefficients.iter().map(flip).collect()
}

/// By knot: whether a block whose first point meets it lies on one line. Its other points meet the knots before.
fn straight(table: &Table) -> Vec<bool> {
    let n = 1usize << table.index_bits;
    let fine = table.input_bits - table.index_bits;
    let at = |degree: usize, knot: usize| table.coefficients.get(degree).map_or(0, |t| t[knot]);
    let line = |knot: usize| (2..=table.degree()).all(|degree| at(degree, knot) == 0);
    let goes_on = |knot: usize| {
        let before = (knot + n - 1) % n;
        let rise = at(1, before) << fine;
        line(before)
            && at(1, knot) == at(1, before)
            && at(0, knot) == at(0, before).wrapping_add(rise)
    };
    (0..n).map(|k| line(k) && (0..POINTS - 1).all(|i| goes_on((k + n - i) % n))).collect()
}

/// What the points of one key's opened blocks add up to.
struct Opened<'a, const M: usize> {
    /// Reversed tables by degree.
    tables: &'a [Vec<u64>],
    /// Where each block starts in them.
    starts: &'a [usize],
    rows: [&'a [u64]; M],
    /// Low part of the masked value.
    low: u64,
}

impl<const M: usize> pulp::WithSimd for Opened<'_, M> {
    type Output = u64;

    /// `sum_j sum_k T_k[j] (l_c - l_r)^k`: the polynomial in `delta` becomes one in `l_r` by Horner's shift.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> u64 {
        let mut sums = [0u64; POINTS];
        for (block, start) in self.starts.iter().enumerate() {
            let mut t = [[0u64; POINTS]; M];
            for (t, table) in t.iter_mut().zip(self.tables) {
                let Some(run) = table.get(*start..).and_then(|run| run.first_chunk()) else {
                    return 0;
                };
                *t = *run;
            }
            for i in 0..M {
                for k in (i..M - 1).rev() {
                    let higher = t[k + 1];
                    for (t, higher) in t[k].iter_mut().zip(higher) {
                        *t = t.wrapping_add(self.low.wrapping_mul(higher));
                    }
                }
            }
            for (k, (t, row)) in t.iter().zip(self.rows).enumerate() {
                let Some(row) =
                    row.get(POINTS * block..).and_then(|row| row.first_chunk::<POINTS>())
                else {
                    return 0;
                };
                for (sum, (t, word)) in sums.iter_mut().zip(t.iter().zip(row)) {
                    let term = t.wrapping_mul(*word);
                    *sum = if k % 2 == 0 { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
                }
            }
        }
        sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
    }
}

/// `straight` says which blocks need no points.
fn expand<const M: usize>(
    e: Evaluation<'_>,
    c: &[u64],
    table: &Table,
    straight: &[bool],
) -> Vec<u64> {
    let (b, l) = (table.index_bits as usize, table.input_bits - table.index_bits);
    let (size, n) = (dpf::key_bytes(b, M), 1usize << b);
    let tables = reversed(table);
    let slope = |knot: usize| table.coefficients.get(1).map_or(0, |t| t[knot]);
    // The knot that the first point of a block meets.
    let knot = |c: u64, block: usize| ((c >> l) as usize + n - block * POINTS) & (n - 1);
    let arch = pulp::Arch::new();
    let mut out = vec![0; c.len()];
    out.par_chunks_mut(CHUNK)
        .zip(c.par_chunks(CHUNK))
        .zip(e.bytes.par_chunks(CHUNK * size))
        .for_each(|((out, c), bytes)| {
            let mut starts = Vec::with_capacity(n / POINTS);
            let keys = dpf::Keys::<M>::new(bytes, b, c.len());
            let open = |key: usize, block: usize| !straight[knot(c[key], block)];
            keys.expand(e.permutation, e.tweak(), open, |key, blocks, rows| {
                let (c, low) = (c[key], c[key] & low(l));
                let mut sum = 0u64;
                starts.clear();
                for (block, (one, r)) in blocks[0].iter().zip(blocks[1]).enumerate() {
                    let knot = knot(c, block);
                    if straight[knot] {
                        let x = low.wrapping_mul(*one).wrapping_sub(*r);
                        let line = table.coefficients[0][knot].wrapping_mul(*one);
                        sum = sum.wrapping_add(line).wrapping_add(slope(knot).wrapping_mul(x));
                    } else {
                        starts.push((n - knot) & (n - 1));
                    }
                }
                let opened = Opened { tables: &tables, starts: &starts, rows, low };
                let sum = sum.wrapping_add(arch.dispatch(opened));
                out[key] = if e.role.index() == 1 { sum.wrapping_neg() } else { sum };
            });
        });
    out
}

pub(crate) fn evaluate(e: Evaluation<'_>, c: &[u64], drop: u32, table: &Table) -> Vec<u64> {
    let c: Vec<u64> = c.iter().map(|c| window(*c, drop, table.input_bits)).collect();
    by_degree(e, &c, table, &straight(table))
}

/// The same for keys without payloads of blocks: every block is opened.
pub(crate) fn evaluate_points(e: Evaluation<'_>, c: &[u64], table: &Table) -> Vec<u64> {
    by_degree(e, c, table, &vec![false; 1 << table.index_bits])
}

fn by_degree(e: Evaluation<'_>, c: &[u64], table: &Table, straight: &[bool]) -> Vec<u64> {
    match table.degree() {
        0 => expand::<1>(e, c, table, straight),
        1 => expand::<2>(e, c, table, straight),
        _ => expand::<3>(e, c, table, straight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that are opened, by the knot that their first point meets.
    fn opened(table: &Table, start: usize) -> usize {
        let (n, straight) = (1usize << table.index_bits, straight(table));
        (0..n / POINTS).filter(|block| !straight[(start + n - block * POINTS) % n]).count()
    }

    #[test]
    fn a_table_is_opened_where_it_bends() {
        let gelu = crate::ops::gelu_table().unwrap();
        // 69 knots bend; 15 more may share a block with one of them, and one block holds the jump from 32 to -32.
        assert_eq!((0..512).map(|start| opened(&gelu, start)).max(), Some(7));
        let equals = Table::equals(9, 5).unwrap();
        assert!((0..32).all(|start| opened(&equals, start) == 1));
        let sine = Table::fit(f64::sin, (18, 15), 7, 2, 38).unwrap();
        assert_eq!(opened(&sine, 3), 8);
    }
}
