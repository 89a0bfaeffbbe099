//! Doubly hoisted sums by the fused kernel.

use super::Cuda;
use super::abi::{BABIES, GIANTS, HOISTED_DIGITS, Hoisted};
use super::buffer::Buf;
use super::driver::Kernel;
use crate::backend::{HoistedSums, View};
use crate::error::Result;

impl Cuda {
    /// [`HoistedSums::compose`] in one launch for every 16 baby and 8 giant steps. Up to 8 digits.
    pub(super) fn fused_sums(&self, sums: &HoistedSums<'_, Buf>) -> Result<Vec<[Buf; 2]>> {
        let (n, limbs) = (self.n, sums.limbs);
        let words = limbs.rows() * n;
        let start = |view: &View<'_, Buf>, width: usize| -> Result<(u64, u32)> {
            Ok((view.buf.at(0, view.limbs.rows() * width)?, view.limbs.q as u32))
        };
        let mut out = Vec::with_capacity(sums.weights.len());
        for rows in sums.weights.chunks(GIANTS) {
            let pairs: Vec<[Buf; 2]> = rows
                .iter()
                .map(|_| Ok([self.words(limbs.rows())?, self.words(limbs.rows())?]))
                .collect::<Result<_>>()?;
            // At least one launch, so that sums of nothing are zeros.
            let chunks = sums.babies.len().div_ceil(BABIES).max(1);
            for chunk in 0..chunks {
                let first = chunk * BABIES;
                let mut args = self.operands(sums)?;
                let babies = sums.babies.iter().skip(first).take(BABIES);
                for (b, baby) in babies.enumerate() {
                    args.babies += 1;
                    let Some(baby) = baby else { continue };
                    args.galois[b] = baby.galois.get() as u32;
                    for (d, key) in baby.keys.iter().enumerate().take(HOISTED_DIGITS) {
                        for (h, half) in key.iter().enumerate() {
                            (args.keys[b][d][h], args.key_q[b][d][h]) = start(half, n)?;
                        }
                    }
                }
                for (g, (row, pair)) in rows.iter().zip(&pairs).enumerate() {
                    args.giants += 1;
                    args.out[g] = [pair[0].at(0, words)?, pair[1].at(0, words)?];
                    for (b, weight) in row.iter().skip(first).take(BABIES).enumerate() {
                        let Some(weight) = weight else { continue };
                        (args.weights[g][b], args.weight_q[g][b]) = start(&weight.words, weight.m)?;
                        args.weight_shift[g][b] = (n / weight.m).trailing_zeros();
                    }
                }
                args.accumulate = u32::from(chunk > 0);
                let kernel = if rows.len() <= 4 { Kernel::Hoisted4 } else { Kernel::Hoisted8 };
                self.each(kernel, limbs, n, &[&args])?;
            }
            out.extend(pairs);
        }
        Ok(out)
    }

    /// What all launches of a sum share.
    fn operands(&self, sums: &HoistedSums<'_, Buf>) -> Result<Hoisted> {
        let words = sums.limbs.rows() * self.n;
        let lower = crate::basis::Limbs::q(sums.limbs.q);
        let mut digits = [0; HOISTED_DIGITS];
        for (address, digit) in digits.iter_mut().zip(&sums.digits) {
            *address = digit.at(0, words)?;
        }
        let c = |h: usize| sums.c[h].buf.at(0, sums.c[h].limbs.rows() * self.n);
        let special = self.scalars(lower, &sums.special, true);
        Ok(Hoisted {
            digits,
            c: [c(0)?, c(1)?],
            keys: [[[0; 2]; HOISTED_DIGITS]; BABIES],
            weights: [[0; BABIES]; GIANTS],
            out: [[0; 2]; GIANTS],
            key_q: [[[0; 2]; HOISTED_DIGITS]; BABIES],
            weight_q: [[0; BABIES]; GIANTS],
            weight_shift: [[0; BABIES]; GIANTS],
            galois: [0; BABIES],
            digit_count: sums.digits.len() as u32,
            babies: 0,
            giants: 0,
            log_n: self.n.trailing_zeros(),
            accumulate: 0,
            unused: 0,
            special: special.of,
        })
    }
}
