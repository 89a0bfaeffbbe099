//! Piecewise polynomials with uniform knots, from one opening and one point-function key an element.
//!
//! `x = c - r` modulo 2^n after a drop; the top `b` bits of `c` and `r` are `h_c`, `h_r`, the low ones `l_c`, `l_r`. Then `x = (h_c - h_r) 2^(n-b) + delta` with
//! `delta = l_c - l_r` a plain integer: the borrow is not taken, so knot `h_c - h_r` is `x` rounded to a knot at random, and polynomials
//! fitted on both sides of their knot need no comparison.
//! 1. Both expand a key with point `h_r` and payload `(1, l_r, l_r^2)`.
//! 2. Both sum, over all 2^b leaves `j`, the public coefficient `T_k[(h_c - j) mod 2^b]` times the
//!    payload's part of `delta^k`.
//! 3. The sums are shares of the result in the full ring.
//!
//! No corrections.
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
use crate::matmul::dot;
use rayon::prelude::*;

fn generate<const M: usize>(d: &mut Dealing<'_>, masks: &[u64], index_bits: u32, low_bits: u32) {
    let size = dpf::key_bytes(index_bits as usize, M);
    let alphas: Vec<u64> = masks.iter().map(|r| r >> low_bits).collect();
    let betas: Vec<[u64; M]> = masks
        .iter()
        .map(|r| std::array::from_fn(|k| (r & low(low_bits)).wrapping_pow(k as u32)))
        .collect();
    let random = d.roots(4 * masks.len());
    let (permutation, tweak) = (d.permutation, d.tweak());
    d.server_out
        .par_chunks_mut(CHUNK * size)
        .zip(d.client_out.par_chunks_mut(CHUNK * size))
        .zip(alphas.par_chunks(CHUNK).zip(betas.par_chunks(CHUNK)))
        .zip(random.par_chunks(4 * CHUNK))
        .for_each(|(((server, client), (alphas, betas)), random)| {
            dpf::generate(
                permutation,
                tweak,
                index_bits as usize,
                alphas,
                betas,
                random,
                [server, client],
            );
        });
}

pub(crate) fn deal(mut d: Dealing<'_>, r: &[u64], drop: u32, table: &Table) {
    let masks: Vec<u64> = r.iter().map(|r| window(*r, drop, table.input_bits)).collect();
    let (b, l) = (table.index_bits, table.input_bits - table.index_bits);
    match table.degree() {
        0 => generate::<1>(&mut d, &masks, b, l),
        1 => generate::<2>(&mut d, &masks, b, l),
        _ => generate::<3>(&mut d, &masks, b, l),
    }
}

/// `T_k[-i mod 2^b]`, twice over: the coefficients that leaves 0, 1, .. meet are a run of it, wherever they start.
fn reversed(table: &Table) -> Vec<Vec<u64>> {
    let flip = |t: &Vec<u64>| {
        let n = t.len();
        (0..2 * n).map(|i| t[(2 * n - i) % n]).collect()
    };
    table.coefficients.iter().map(flip).collect()
}

struct Sum<'a, const M: usize> {
    /// Coefficients by degree, starting at the first leaf.
    tables: [&'a [u64]; M],
    rows: [&'a [u64]; M],
    /// Low part of the masked value.
    low: u64,
}

impl<const M: usize> pulp::WithSimd for Sum<'_, M> {
    type Output = u64;

    /// `sum_k sum_j T_k[j] (l_c - l_r)^k`, by powers of `l_r`.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> u64 {
        let mut total = 0u64;
        for (k, table) in self.tables.iter().enumerate() {
            let mut binomial = 1;
            for (i, row) in self.rows.iter().enumerate().take(k + 1) {
                let power = self.low.wrapping_pow((k - i) as u32);
                let term = dot(table, row).wrapping_mul(power).wrapping_mul(binomial);
                total =
                    if i % 2 == 0 { total.wrapping_add(term) } else { total.wrapping_sub(term) };
                binomial = binomial * (k - i) as u64 / (i + 1) as u64;
            }
        }
        total
    }
}

fn expand<const M: usize>(e: Evaluation<'_>, c: &[u64], table: &Table) -> Vec<u64> {
    let (b, l) = (table.index_bits as usize, table.input_bits - table.index_bits);
    let (size, leaves) = (dpf::key_bytes(b, M), 1usize << b);
    let tables = reversed(table);
    let arch = pulp::Arch::new();
    let mut out = vec![0; c.len()];
    out.par_chunks_mut(CHUNK)
        .zip(c.par_chunks(CHUNK))
        .zip(e.bytes.par_chunks(CHUNK * size))
        .for_each(|((out, c), bytes)| {
            let keys = dpf::Keys::<M>::new(bytes, b, c.len());
            keys.expand(e.permutation, e.tweak(), |key, rows| {
                let c = c[key];
                let start = (leaves - (c >> l) as usize) % leaves;
                let tables = std::array::from_fn(|k| &tables[k][start..start + leaves]);
                let sum = arch.dispatch(Sum { tables, rows, low: c & low(l) });
                out[key] = if e.role.index() == 1 { sum.wrapping_neg() } else { sum };
            });
        });
    out
}

pub(crate) fn evaluate(e: Evaluation<'_>, c: &[u64], drop: u32, table: &Table) -> Vec<u64> {
    let c: Vec<u64> = c.iter().map(|c| window(*c, drop, table.input_bits)).collect();
    match table.degree() {
        0 => expand::<1>(e, &c, table),
        1 => expand::<2>(e, &c, table),
        _ => expand::<3>(e, &c, table),
    }
}
