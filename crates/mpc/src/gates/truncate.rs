//! Truncation of a masked value by `s` bits, two forms. Both round stochastically: the result is `x / 2^s` with an
//! error in (-1, 1) units, mean 0; neither has the large error of local truncation.
//!
//! *Shrink* (never fails): 1. both parties shift `c`; 2. the mask becomes `r >> s`, whose shares the dealer corrects. The ring
//! loses `s` bits.
//!
//! *Lift* (needs |x| < 2^(n-2), n the ring): 1. both add the public bias 2^(n-2), so that `x' = x + 2^(n-2) < 2^(n-1)`; 2. `c - r` wraps
//! exactly when the top bit of `r` is set and that of `c` is not; 3. the dealer shares `r >> s` for both cases, the parties
//! take the one that the public top bit selects; 4. `[y] = (c >> s) - 2^(n-2-s) - [rho]`, in the full ring.
//!
//! Source: the masked form is that of Escudero, Ghosh, Keller, Rachuri, Scholl (ePrint 2020/338) and Boyle et al. (ePrint 2020/1392);
//! known sign by bias as in SIRNN (ePrint 2021/459).

use super::{Dealing, Evaluation};
use crate::fixed::{low, shl};

/// The mask after a shrink, for the dealer.
pub(crate) fn deal_shrink(mut d: Dealing<'_>, r: &[u64], drop: u32) -> Vec<u64> {
    let shrunk: Vec<u64> = r.iter().map(|r| r >> drop).collect();
    d.correct(0, &[&shrunk]);
    shrunk
}

/// (c, [r]) after a shrink.
pub(crate) fn shrink(e: Evaluation<'_>, c: &[u64], drop: u32) -> (Vec<u64>, Vec<u64>) {
    (c.iter().map(|c| c >> drop).collect(), e.shares(0, c.len()))
}

pub(crate) fn deal_lift(mut d: Dealing<'_>, r: &[u64], drop: u32, ring: u32) {
    let plain: Vec<u64> = r.iter().map(|r| r >> drop).collect();
    let wrapped: Vec<u64> =
        r.iter().map(|r| (r >> drop).wrapping_sub(shl(r >> (ring - 1), ring - drop))).collect();
    d.correct(0, &[&plain, &wrapped]);
}

pub(crate) fn lift(e: Evaluation<'_>, c: &[u64], drop: u32, ring: u32) -> Vec<u64> {
    let mut rho = e.shares(0, 2 * c.len());
    let wrapped = rho.split_off(c.len());
    let (bias, back) = (1u64 << (ring - 2), 1u64 << (ring - 2 - drop));
    c.iter()
        .zip(rho.iter().zip(&wrapped))
        .map(|(c, (plain, wrapped))| {
            let c = c.wrapping_add(bias) & low(ring);
            let rho = if c >> (ring - 1) == 1 { plain } else { wrapped };
            e.public((c >> drop).wrapping_sub(back)).wrapping_sub(*rho)
        })
        .collect()
}
