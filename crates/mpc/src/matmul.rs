//! Matrix products modulo 2^64.
//!
//! Register tiles of 4 rows by 4 vectors: 16 accumulators, every element of B loaded once a tile. The products are `pulp`'s, for the vector
//! units found at run time: of the same loops over plain integers the compiler makes scalar code.

#![expect(
    clippy::inline_always,
    reason = "inlined into the code compiled for the vector units found at run time"
)]

use rayon::prelude::*;
use std::ops::Range;

/// Of a tile: rows, and vectors of columns.
const ROWS: usize = 4;
const VECTORS: usize = 4;
/// Multiplications below which a product stays on the calling thread.
const PARALLEL: usize = 1 << 20;

/// `c += a b` with a (m x k), b (k x n), c (m x n), all row-major, modulo 2^64. Slices of other lengths are cut to the
/// shortest that fits.
pub(crate) fn add_matmul(c: &mut [u64], a: &[u64], b: &[u64], k: usize, n: usize) {
    if n == 0 || k == 0 {
        return;
    }
    let m = c.len() / n;
    let strip = |(c, a): (&mut [u64], &[u64])| {
        pulp::Arch::new().dispatch(Tiles { a, b, k, n, c });
    };
    if m * k * n < PARALLEL {
        strip((c, a));
    } else {
        let rows = m.div_ceil(rayon::current_num_threads()).next_multiple_of(ROWS);
        c.par_chunks_mut(rows * n).zip(a.par_chunks(rows * k)).for_each(strip);
    }
}

/// `c -= a b`; see [`add_matmul`].
pub(crate) fn sub_matmul(c: &mut [u64], a: &[u64], b: &[u64], k: usize, n: usize) {
    negate(c);
    add_matmul(c, a, b, k, n);
    negate(c);
}

fn negate(c: &mut [u64]) {
    for c in c {
        *c = c.wrapping_neg();
    }
}

struct Tiles<'a> {
    a: &'a [u64],
    b: &'a [u64],
    k: usize,
    n: usize,
    c: &'a mut [u64],
}

impl pulp::WithSimd for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let Tiles { a, b, k, n, c } = self;
        let columns = VECTORS * S::U64_LANES;
        for (c, a) in c.chunks_mut(ROWS * n).zip(a.chunks(ROWS * k)) {
            for from in (0..n).step_by(columns) {
                let span = from..n.min(from + columns);
                if c.len() == ROWS * n && span.len() == columns {
                    full_tile(simd, c, a, b, (k, n), span);
                } else {
                    edge_tile(c, a, b, (k, n), span);
                }
            }
        }
    }
}

#[inline(always)]
fn full_tile<S: pulp::Simd>(
    simd: S,
    c: &mut [u64],
    a: &[u64],
    b: &[u64],
    (k, n): (usize, usize),
    span: Range<usize>,
) {
    let mut acc = [[simd.splat_u64s(0); VECTORS]; ROWS];
    let (a0, rest) = a.split_at(k);
    let (a1, rest) = rest.split_at(k);
    let (a2, a3) = rest.split_at(k);
    for ((((x0, x1), x2), x3), row) in a0.iter().zip(a1).zip(a2).zip(a3).zip(b.chunks_exact(n)) {
        let Some(row) = S::as_simd_u64s(&row[span.clone()]).0.first_chunk::<VECTORS>() else {
            return;
        };
        for (acc, x) in acc.iter_mut().zip([x0, x1, x2, x3]) {
            let x = simd.splat_u64s(*x);
            for (acc, y) in acc.iter_mut().zip(row) {
                *acc = simd.add_u64s(*acc, simd.mul_u64s(x, *y));
            }
        }
    }
    for (c, acc) in c.chunks_exact_mut(n).zip(acc) {
        for (c, acc) in S::as_mut_simd_u64s(&mut c[span.clone()]).0.iter_mut().zip(acc) {
            *c = simd.add_u64s(*c, acc);
        }
    }
}

#[inline(always)]
fn edge_tile(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize), span: Range<usize>) {
    for (c, a) in c.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        let c = &mut c[span.clone()];
        for (x, row) in a.iter().zip(b.chunks_exact(n)) {
            for (c, y) in c.iter_mut().zip(&row[span.clone()]) {
                *c = c.wrapping_add(x.wrapping_mul(*y));
            }
        }
    }
}

/// `sum_i a_i b_i`, vectorised.
#[inline(always)]
pub(crate) fn dot(a: &[u64], b: &[u64]) -> u64 {
    a.iter().zip(b).fold(0u64, |acc, (a, b)| acc.wrapping_add(a.wrapping_mul(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_and_edges_equal_the_definition() {
        for (m, k, n) in [(1, 1, 1), (4, 3, 32), (5, 7, 33), (9, 64, 65), (130, 70, 130)] {
            let word = |i: usize| (i as u64 + 7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let a: Vec<u64> = (0..m * k).map(word).collect();
            let b: Vec<u64> = (0..k * n).map(|i| word(i + 99)).collect();
            let mut c: Vec<u64> = (0..m * n).map(|i| word(i + 5)).collect();
            let want: Vec<u64> = (0..m * n)
                .map(|i| {
                    (0..k).fold(word(i + 5), |s, p| {
                        s.wrapping_add(a[i / n * k + p].wrapping_mul(b[p * n + i % n]))
                    })
                })
                .collect();
            let start = c.clone();
            add_matmul(&mut c, &a, &b, k, n);
            assert_eq!(c, want, "{m} {k} {n}");
            sub_matmul(&mut c, &a, &b, k, n);
            assert_eq!(c, start);
        }
    }
}
