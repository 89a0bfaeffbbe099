//! `x^p` of a masked value after a drop, from one opening: no key, no AES.
//!
//! 1. Both add the bias 2^(n-2) to `c`, as in [lift](super::truncate).
//! 2. The dealer shares `rho^k`, k = 1..p, for the mask with and without wrap.
//! 3. `[x^p] = sum_k C(p,k) (c - 2^(n-2))^(p-k) (-1)^k [rho^k]`, with the candidate that the top
//!    bit of `c` selects. Exact on the dropped value.

use super::{Dealing, Evaluation, candidates, window};
use crate::fixed::low;

pub(crate) fn deal(mut d: Dealing<'_>, r: &[u64], drop: u32, bits: u32, power: u32) {
    let lists: Vec<Vec<u64>> = (0..2)
        .flat_map(|j| (1..=power).map(move |k| (j, k)))
        .map(|(j, k)| {
            r.iter().map(|r| candidates(window(*r, drop, bits), bits)[j].wrapping_pow(k)).collect()
        })
        .collect();
    let lists: Vec<&[u64]> = lists.iter().map(Vec::as_slice).collect();
    d.correct(0, &lists);
}

pub(crate) fn evaluate(e: Evaluation<'_>, c: &[u64], drop: u32, bits: u32, power: u32) -> Vec<u64> {
    let p = power as usize;
    let shares = e.shares(0, 2 * p * c.len());
    let bias = 1u64 << (bits - 2);
    let mut binomial = vec![1u64; p + 1];
    for k in 1..=p {
        binomial[k] = binomial[k - 1] * (p - k + 1) as u64 / k as u64;
    }
    c.iter()
        .enumerate()
        .map(|(i, c)| {
            let c = window(*c, drop, bits).wrapping_add(bias) & low(bits);
            let base = ((c >> (bits - 1)) as usize) * p;
            let c = c.wrapping_sub(bias);
            let mut powers = [1u64; 9];
            for k in 1..=p {
                powers[k] = powers[k - 1].wrapping_mul(c);
            }
            (1..=p).fold(e.public(powers[p]), |sum, k| {
                let rho = shares[(base + k - 1) * (shares.len() / (2 * p)) + i];
                let term = binomial[k].wrapping_mul(powers[p - k]).wrapping_mul(rho);
                if k % 2 == 0 { sum.wrapping_add(term) } else { sum.wrapping_sub(term) }
            })
        })
        .collect()
}
