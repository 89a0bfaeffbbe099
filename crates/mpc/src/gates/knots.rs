//! Lines between knots of any spacing, from one opening and one comparison key an element.
//!
//! For a knot `p`: `1[x < p] = 1[c < p] + 1[c - p < r] - 1[c < r]`, all modulo 2^n, and each of the last two is one evaluation of the same key with
//! point `r` and payload `(1, rho_0, rho_1)`, `rho_j` the signed mask for either wrap.
//! 1. Both evaluate the key at 0, at `c` and at `c - p` for every inner knot. The evaluation at 0
//!    is a share of the payload itself (both are zero for `r = 0`).
//! 2. They assemble shares of `1[x < p]` and of `1[x < p] rho`.
//! 3. `f(x) = L_0(x) + sum_p 1[x >= p] (L_p(x) - L_(p-1)(x))` with `x = c - rho` is affine in
//!    those.
//!
//! No corrections.
//!
//! Source: Boyle et al. (ePrint 2020/1392, sections 4 and 5: intervals and splines), with the mask in the payload.

use super::compare::deal_keys;
use super::{Dealing, Evaluation, candidates, window};
use crate::circuit::Knots;
use crate::fixed::low;
use crate::fss::{CHUNK, dcf};
use rayon::prelude::*;

pub(crate) fn deal(mut d: Dealing<'_>, r: &[u64], drop: u32, knots: &Knots) {
    let bits = knots.input_bits;
    let alphas: Vec<u64> = r.iter().map(|r| window(*r, drop, bits)).collect();
    let betas: Vec<[u64; 3]> = alphas
        .iter()
        .map(|r| {
            let [wrapped, plain] = candidates(*r, bits);
            [1, wrapped, plain]
        })
        .collect();
    deal_keys(&mut d, bits as usize, &alphas, &betas);
}

/// Elements a task; a power of two below the chunk, so that a task stays inside one chunk.
const TASK: usize = 8;

pub(crate) fn evaluate(e: Evaluation<'_>, c: &[u64], drop: u32, knots: &Knots) -> Vec<u64> {
    let bits = knots.input_bits;
    let size = dcf::key_bytes(bits as usize, 3);
    let mut out = vec![0; c.len()];
    out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| {
        let first = task * TASK;
        let chunk = first / CHUNK * CHUNK;
        let count = CHUNK.min(c.len() - chunk);
        let bytes = &e.bytes[chunk * size..(chunk + count) * size];
        let keys = dcf::Keys::<3>::new(bytes, bits as usize, count);
        let masked: Vec<u64> =
            c[first..first + out.len()].iter().map(|c| window(*c, drop, bits)).collect();
        let points = |c: u64| {
            let shifted = knots.inner.iter().map(move |p| c.wrapping_sub(*p) & low(bits));
            [0, c].into_iter().chain(shifted)
        };
        let lanes: Vec<(usize, u64)> = masked
            .iter()
            .enumerate()
            .flat_map(|(i, &c)| points(c).map(move |z| (first - chunk + i, z)))
            .collect();
        let mut payload = vec![[0; 3]; lanes.len()];
        keys.evaluate(e.permutation, e.tweak(), e.role.index(), &lanes, &mut payload);
        let per_element = knots.inner.len() + 2;
        for ((out, &c), payload) in out.iter_mut().zip(&masked).zip(payload.chunks(per_element)) {
            *out = lines(e, c, c >> (bits - 1), knots, payload);
        }
    });
    out
}

fn lines(e: Evaluation<'_>, c: u64, top: u64, knots: &Knots, payload: &[[u64; 3]]) -> u64 {
    let j = 1 + top as usize;
    let rho = payload[0][j];
    let (below, below_rho) = (payload[1][0], payload[1][j]);
    let at = |i: usize| (knots.offset[i], knots.slope[i]);
    let (offset, slope) = at(0);
    let x = |weight: u64, rho: u64| c.wrapping_mul(weight).wrapping_sub(rho);
    let mut sum = e.public(offset).wrapping_add(slope.wrapping_mul(x(e.public(1), rho)));
    for (i, (p, z)) in knots.inner.iter().zip(&payload[2..]).enumerate() {
        let less = u64::from(c < *p);
        let is_less = e.public(less).wrapping_add(z[0]).wrapping_sub(below);
        let less_rho = less.wrapping_mul(rho).wrapping_add(z[j]).wrapping_sub(below_rho);
        let (reached, reached_rho) =
            (e.public(1).wrapping_sub(is_less), rho.wrapping_sub(less_rho));
        let ((o0, s0), (o1, s1)) = (at(i), at(i + 1));
        sum = sum
            .wrapping_add(o1.wrapping_sub(o0).wrapping_mul(reached))
            .wrapping_add(s1.wrapping_sub(s0).wrapping_mul(x(reached, reached_rho)));
    }
    sum
}
