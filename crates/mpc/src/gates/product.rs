//! Products of two masked values, no round: `x y = c c' - c r' - r c' + r r'`.
//!
//! 1. Both hold `c`, `c'` and shares of `r`, `r'`.
//! 2. The server takes `c c'`; both subtract `c [r']` and `[r] c'`;
//! 3. both add their share of `r r'`, one correction a result. The server folds `c c' - c [r']`
//!    into one product.
//!
//! Source: Beaver's triple with the masks of the operands as the triple (Ben-Efraim, Nielsen, Omri,
//! ePrint 2019/1390).

use super::{Dealing, Evaluation};
use crate::matmul::{add_matmul, dot, sub_matmul};
use crate::role::Role;
use rayon::prelude::*;

/// Shape of a batched matrix product.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

pub(crate) fn deal_matmul(mut d: Dealing<'_>, r: &[u64], s: &[u64], z: Sizes, results: usize) {
    let mut rr = vec![0; results];
    rr.par_chunks_mut(z.m * z.n)
        .zip(r.par_chunks(z.m * z.k).zip(s.par_chunks(z.k * z.n)))
        .for_each(|(rr, (r, s))| add_matmul(rr, r, s, z.k, z.n));
    d.correct(0, &[&rr]);
}

pub(crate) fn matmul(
    e: Evaluation<'_>,
    x: (&[u64], &[u64]),
    y: (&[u64], &[u64]),
    z: Sizes,
    results: usize,
) -> Vec<u64> {
    let mut out = e.shares(0, results);
    // c (c' - [r']) at the server, c (-[r']) at the client.
    let right: Vec<u64> = y.0.iter().zip(y.1).map(|(c, r)| e.public(*c).wrapping_sub(*r)).collect();
    out.par_chunks_mut(z.m * z.n).enumerate().for_each(|(i, out)| {
        let (a, b) = (i * z.m * z.k..(i + 1) * z.m * z.k, i * z.k * z.n..(i + 1) * z.k * z.n);
        add_matmul(out, &x.0[a.clone()], &right[b.clone()], z.k, z.n);
        sub_matmul(out, &x.1[a], &y.0[b], z.k, z.n);
    });
    out
}

pub(crate) fn deal_mul(mut d: Dealing<'_>, r: &[u64], s: &[u64]) {
    let rr: Vec<u64> = r.iter().zip(s).map(|(r, s)| r.wrapping_mul(*s)).collect();
    d.correct(0, &[&rr]);
}

pub(crate) fn mul(e: Evaluation<'_>, x: (&[u64], &[u64]), y: (&[u64], &[u64])) -> Vec<u64> {
    let mut out = e.shares(0, x.0.len());
    let server = e.role == Role::Server;
    for (out, ((c, r), (c2, r2))) in
        out.iter_mut().zip(x.0.iter().zip(x.1).zip(y.0.iter().zip(y.1)))
    {
        let right = if server { c2.wrapping_sub(*r2) } else { r2.wrapping_neg() };
        *out = out.wrapping_add(c.wrapping_mul(right)).wrapping_sub(r.wrapping_mul(*c2));
    }
    out
}

pub(crate) fn deal_sum_squares(mut d: Dealing<'_>, r: &[u64], row: usize) {
    let rr: Vec<u64> = r.chunks(row).map(|r| dot(r, r)).collect();
    d.correct(0, &[&rr]);
}

pub(crate) fn sum_squares(e: Evaluation<'_>, x: (&[u64], &[u64]), row: usize) -> Vec<u64> {
    let mut out = e.shares(0, x.0.len() / row.max(1));
    for (out, (c, r)) in out.iter_mut().zip(x.0.chunks(row).zip(x.1.chunks(row))) {
        let cross = dot(c, r).wrapping_mul(2);
        *out = out.wrapping_add(e.public(dot(c, c))).wrapping_sub(cross);
    }
    out
}
