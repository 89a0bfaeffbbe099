//! Doubly hoisted sums in one pass: limb by limb and by blocks of columns, no baby step is ever written to memory.
//!
//! For one block of columns the pairs of all baby steps are computed into the cache, from the digits and keys where the
//! automorphism takes the block from: it maps aligned blocks of a power of two of words to such blocks. Then every giant
//! step adds its weighted sum in registers. Keys and weights are read from memory once.

use super::Cpu;
use super::kernels::{self, Factor, Weights};
use super::pool::Words;
use crate::automorphism::{BLOCK as LANE_BLOCK, Permutation};
use crate::backend::HoistedSums;
use crate::basis::Limbs;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Words of a block: a page of every key, beyond which nothing is fetched ahead; the pairs of 16 steps fit the second cache.
const COLUMNS: usize = 512;
/// Words of a row that one task of the thread pool works on.
const TASK: usize = 16 * COLUMNS;

/// A piece of a row for all giant steps.
struct Task<'a> {
    row: usize,
    start: usize,
    outs: Vec<[&'a mut [u64]; 2]>,
}

/// Cuts both halves of every output into tasks.
fn tasks<'a>(n: usize, rows: usize, out: &'a mut [[Words; 2]]) -> Vec<Task<'a>> {
    let length = n.min(TASK);
    let starts = (0..rows).flat_map(|row| (0..n).step_by(length).map(move |start| (row, start)));
    let mut tasks: Vec<Task<'a>> = starts
        .map(|(row, start)| Task { row, start, outs: Vec::with_capacity(out.len()) })
        .collect();
    for [half0, half1] in out {
        let pieces = half0.chunks_exact_mut(length).zip(half1.chunks_exact_mut(length));
        tasks.iter_mut().zip(pieces).for_each(|(task, (h0, h1))| task.outs.push([h0, h1]));
    }
    tasks
}

/// What one baby step reads of one row.
struct Step<'a> {
    permutation: &'a Permutation,
    keys: Vec<[&'a [u64]; 2]>,
}

/// What all blocks of one row read.
struct Row<'a> {
    digits: Vec<&'a [u64]>,
    /// c and P, which is 0 modulo a special prime.
    c: Option<([&'a [u64]; 2], u64)>,
    steps: Vec<Option<Step<'a>>>,
}

impl Cpu {
    pub(super) fn fused_sums(&self, sums: &HoistedSums<'_, Words>) -> Vec<[Words; 2]> {
        let (n, limbs) = (self.n, sums.limbs);
        let permutations: Vec<Option<Arc<Permutation>>> = sums
            .babies
            .iter()
            .map(|baby| baby.as_ref().map(|step| self.permutation(step.galois)))
            .collect();
        let mut out: Vec<_> = sums.weights.iter().map(|_| self.pair(limbs)).collect();
        tasks(n, limbs.rows(), &mut out).into_par_iter().for_each_init(
            || self.pool.take(((2 + sums.weights.len()) * sums.babies.len() + 2) * COLUMNS),
            |scratch, task| {
                let row = Row {
                    digits: sums.digits.iter().map(|d| &d[task.row * n..][..n]).collect(),
                    c: sums.special.get(task.row).map(|&special| {
                        let q = Limbs::q(limbs.q);
                        (sums.c.each_ref().map(|c| Self::row(c, q, task.row, n)), special)
                    }),
                    steps: self.steps(sums, &permutations, task.row),
                };
                self.columns(sums, &row, task, scratch);
            },
        );
        out
    }

    fn steps<'a>(
        &self,
        sums: &'a HoistedSums<'_, Words>,
        permutations: &'a [Option<Arc<Permutation>>],
        row: usize,
    ) -> Vec<Option<Step<'a>>> {
        let steps = sums.babies.iter().zip(permutations).map(|(baby, permutation)| {
            let (baby, permutation) = (baby.as_ref()?, permutation.as_deref()?);
            let half = |half| Self::row(half, sums.limbs, row, self.n);
            let keys = baby.keys.iter().map(|[k0, k1]| [half(k0), half(k1)]).collect();
            Some(Step { permutation, keys })
        });
        steps.collect()
    }

    /// All columns of one task.
    fn columns(
        &self,
        sums: &HoistedSums<'_, Words>,
        row: &Row<'_>,
        mut task: Task<'_>,
        scratch: &mut [u64],
    ) {
        let constants = &self.prime(sums.limbs, task.row).constants;
        let width = self.n.min(COLUMNS);
        let (pairs, rest) = scratch.split_at_mut(2 * row.steps.len() * width);
        let (image, expanded) = rest.split_at_mut(2 * width);
        let length = task.outs.first().map_or(0, |[half, _]| half.len());
        for at in (0..length).step_by(width) {
            let columns = task.start + at..task.start + at + width;
            for (pair, step) in pairs.chunks_exact_mut(2 * width).zip(&row.steps) {
                let pair = pair.split_at_mut(width);
                row.pair(constants, step.as_ref(), columns.clone(), pair.into(), image);
            }
            let pairs: Vec<[&[u64]; 2]> =
                pairs.chunks_exact(2 * width).map(|pair| pair.split_at(width).into()).collect();
            let rooms = expanded.chunks_exact_mut(row.steps.len() * width);
            let weights: Vec<Vec<Weights<'_>>> = (sums.weights.iter().zip(rooms))
                .map(|(giant, room)| {
                    let weights = giant.iter().zip(room.chunks_exact_mut(width));
                    let pieces = weights.map(|(weight, room)| {
                        let Some(weight) = weight else { return Weights::None };
                        let words = Self::row(&weight.words, sums.limbs, task.row, weight.m);
                        piece(words, self.n / weight.m, columns.clone(), room)
                    });
                    pieces.collect()
                })
                .collect();
            let outs = task.outs.iter_mut();
            let mut outs: Vec<[&mut [u64]; 2]> =
                outs.map(|pair| pair.each_mut().map(|half| &mut half[at..at + width])).collect();
            kernels::weighted_sums(constants, &mut outs, &pairs, &weights);
        }
    }
}

impl Row<'_> {
    /// The pair of one step in some columns; `image` is room for both halves before the automorphism.
    fn pair(
        &self,
        constants: &kernels::Constants,
        step: Option<&Step<'_>>,
        columns: Range<usize>,
        [pair0, pair1]: [&mut [u64]; 2],
        image: &mut [u64],
    ) {
        let Some(Step { permutation, keys }) = step else {
            for (half, out) in [pair0, pair1].into_iter().enumerate() {
                match self.c {
                    Some((c, special)) => {
                        out.copy_from_slice(&c[half][columns.clone()]);
                        kernels::scale(constants, out, Factor::new(special, &constants.modulus));
                    }
                    None => out.fill(0),
                }
            }
            return;
        };
        let piece = permutation.piece(columns.clone());
        let from = piece.from.clone();
        let digits: Vec<&[u64]> = self.digits.iter().map(|d| &d[from.clone()]).collect();
        let keys: Vec<[&[u64]; 2]> =
            keys.iter().map(|key| key.map(|half| &half[from.clone()])).collect();
        let (image0, image1) = image.split_at_mut(columns.len());
        let plus = self.c.map(|([c0, _], special)| (&c0[from], special));
        kernels::inner_product(constants, [image0, image1], &digits, &keys, &[plus, None]);
        for (out, image) in [(pair0, image0), (pair1, image1)] {
            kernels::permute(constants.isa, out, image, &piece);
        }
    }
}

/// Some columns of a weight whose words stand for runs of `run`; runs below a vector are written out into `expanded`.
fn piece<'a>(
    words: &'a [u64],
    run: usize,
    columns: Range<usize>,
    expanded: &'a mut [u64],
) -> Weights<'a> {
    let words = &words[columns.start / run..columns.end.div_ceil(run)];
    match run {
        1 => Weights::Dense(words),
        run if run < LANE_BLOCK => {
            for (run, &word) in expanded.chunks_exact_mut(run).zip(words) {
                run.fill(word);
            }
            Weights::Dense(expanded)
        }
        run => Weights::Runs { words, log_run: run.trailing_zeros() },
    }
}
