//! Sign and ReLU of a masked value after a drop of `s` bits, `n` bits left, no round after the opening.
//!
//! 1. `c <- (c >> s) mod 2^n`, likewise `r`.
//! 2. Both evaluate one comparison key at the low `n-1` bits of `c`: point the low bits of `r`,
//!    payload `s_r (1, rho_0, rho_1)` with `s_r = 1 - 2 msb(r)` and `rho_j` the signed mask for
//!    either wrap.
//! 3. With `t = msb(r) + s_r [borrow]` (the exclusive or), `b = 1[x >= 0] = (1 - msb c) - (1 - 2
//!    msb c) t` is affine in the payload; likewise `b rho_j`.
//! 4. ReLU is `b c - b rho_(msb c)`, in the full ring; the sign is `b`.
//!
//! Source: comparison by the masked most significant bit, Boyle et al. (ePrint 2020/1392, section 4); carrying `r` in the payload makes
//! the selection free of a second round. Corrections: msb(r), msb(r) rho_j, rho_j. Exact on the dropped value.

use super::{Dealing, Evaluation, candidates, window};
use crate::fixed::low;
use crate::fss::{CHUNK, dcf};
use rayon::prelude::*;

/// Generates keys in chunks, in parallel.
pub(super) fn deal_keys<const M: usize>(
    d: &mut Dealing<'_>,
    bits: usize,
    alphas: &[u64],
    betas: &[[u64; M]],
) -> usize {
    let size = dcf::key_bytes(bits, M);
    let total = size * alphas.len();
    let roots = d.roots(4 * alphas.len());
    let (permutation, tweak) = (d.permutation, d.tweak());
    d.server_out[..total]
        .par_chunks_mut(CHUNK * size)
        .zip(d.client_out[..total].par_chunks_mut(CHUNK * size))
        .zip(alphas.par_chunks(CHUNK).zip(betas.par_chunks(CHUNK)))
        .zip(roots.par_chunks(4 * CHUNK))
        .for_each(|(((server, client), (alphas, betas)), roots)| {
            dcf::generate(permutation, tweak, bits, alphas, betas, roots, [server, client]);
        });
    total
}

pub(crate) fn deal_relu(mut d: Dealing<'_>, r: &[u64], drop: u32, bits: u32) {
    let masks: Vec<u64> = r.iter().map(|r| window(*r, drop, bits)).collect();
    let top: Vec<u64> = masks.iter().map(|r| r >> (bits - 1)).collect();
    let rho = |j: usize| -> Vec<u64> { masks.iter().map(|r| candidates(*r, bits)[j]).collect() };
    let rhos = [rho(0), rho(1)];
    let alphas: Vec<u64> = masks.iter().map(|r| r & low(bits - 1)).collect();
    let betas: Vec<[u64; 3]> = (0..masks.len())
        .map(|i| {
            let sign = 1u64.wrapping_sub(2 * top[i]);
            [sign, sign.wrapping_mul(rhos[0][i]), sign.wrapping_mul(rhos[1][i])]
        })
        .collect();
    let keys = deal_keys(&mut d, bits as usize - 1, &alphas, &betas);
    let times = |j: usize| -> Vec<u64> {
        top.iter().zip(&rhos[j]).map(|(t, r)| t.wrapping_mul(*r)).collect()
    };
    d.correct(keys, &[&top, &times(0), &times(1), &rhos[0], &rhos[1]]);
}

pub(crate) fn relu(e: Evaluation<'_>, c: &[u64], drop: u32, bits: u32) -> Vec<u64> {
    let n = c.len();
    let size = dcf::key_bytes(bits as usize - 1, 3);
    let shares = e.shares(size * n, 5 * n);
    let list = |j: usize, i: usize| shares[j * n + i];
    let mut out = vec![0; n];
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let first = chunk * CHUNK;
        let lanes: Vec<(usize, u64)> =
            (0..out.len()).map(|i| (i, window(c[first + i], drop, bits) & low(bits - 1))).collect();
        let bytes = &e.bytes[first * size..(first + out.len()) * size];
        let keys = dcf::Keys::<3>::new(bytes, bits as usize - 1, out.len());
        let mut payload = vec![[0; 3]; out.len()];
        keys.evaluate(e.permutation, e.tweak(), e.role.index(), &lanes, &mut payload);
        for (i, (out, payload)) in out.iter_mut().zip(payload).enumerate() {
            let at = first + i;
            let c = window(c[at], drop, bits);
            let top = c >> (bits - 1);
            let j = top as usize;
            let flip = 1u64.wrapping_sub(2 * top);
            let t = list(0, at).wrapping_add(payload[0]);
            let t_rho = list(1 + j, at).wrapping_add(payload[1 + j]);
            let b = e.public(1 - top).wrapping_sub(flip.wrapping_mul(t));
            let b_rho =
                (1 - top).wrapping_mul(list(3 + j, at)).wrapping_sub(flip.wrapping_mul(t_rho));
            *out = b.wrapping_mul(c).wrapping_sub(b_rho);
        }
    });
    out
}

pub(crate) fn deal_sign(mut d: Dealing<'_>, r: &[u64], drop: u32, bits: u32) {
    let masks: Vec<u64> = r.iter().map(|r| window(*r, drop, bits)).collect();
    let top: Vec<u64> = masks.iter().map(|r| r >> (bits - 1)).collect();
    let alphas: Vec<u64> = masks.iter().map(|r| r & low(bits - 1)).collect();
    let betas: Vec<[u64; 1]> = top.iter().map(|t| [1u64.wrapping_sub(2 * t)]).collect();
    let keys = deal_keys(&mut d, bits as usize - 1, &alphas, &betas);
    d.correct(keys, &[&top]);
}

pub(crate) fn sign(e: Evaluation<'_>, c: &[u64], drop: u32, bits: u32) -> Vec<u64> {
    let size = dcf::key_bytes(bits as usize - 1, 1);
    let tops = e.shares(size * c.len(), c.len());
    let mut out = vec![0; c.len()];
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let first = chunk * CHUNK;
        let masked: Vec<u64> = (0..out.len()).map(|i| window(c[first + i], drop, bits)).collect();
        let lanes: Vec<(usize, u64)> =
            masked.iter().enumerate().map(|(i, c)| (i, c & low(bits - 1))).collect();
        let bytes = &e.bytes[first * size..(first + out.len()) * size];
        let keys = dcf::Keys::<1>::new(bytes, bits as usize - 1, out.len());
        let mut payload = vec![[0; 1]; out.len()];
        keys.evaluate(e.permutation, e.tweak(), e.role.index(), &lanes, &mut payload);
        for (i, (out, payload)) in out.iter_mut().zip(payload).enumerate() {
            let top = masked[i] >> (bits - 1);
            let flip = 1u64.wrapping_sub(2 * top);
            let t = tops[first + i].wrapping_add(payload[0]);
            *out = e.public(1 - top).wrapping_sub(flip.wrapping_mul(t));
        }
    });
    out
}
