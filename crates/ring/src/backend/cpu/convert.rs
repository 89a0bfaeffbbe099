//! Base conversion of whole rows, by columns: the source rows are read from memory once for all target rows.

use super::kernels::{self, BLOCK, Constants};
use super::lanes::Isa;
use rayon::prelude::*;

/// Words of a row that one task of the thread pool converts.
const TASK: usize = 4 * BLOCK;

/// One row to be written: `init + Σ_i source_i · factors[i]` modulo its prime.
pub(super) struct Target<'a> {
    pub(super) constants: &'a Constants,
    pub(super) factors: &'a [u64],
    pub(super) init: u64,
    pub(super) words: &'a mut [u64],
}

/// Converts the `sources` (words below 2^50, rows of equal length) to every target. With `divisor` not empty, the
/// primes of the sources, the row of [`kernels::quotients`] is appended to the sources.
pub(super) fn convert_rows(
    isa: Isa,
    sources: &[&[u64]],
    targets: Vec<Target<'_>>,
    divisor: &[Constants],
) {
    let n = sources.first().map_or(0, |row| row.len());
    let mut columns: Vec<Vec<&mut [u64]>> =
        (0..n.div_ceil(TASK)).map(|_| Vec::with_capacity(targets.len())).collect();
    let mut formulas = Vec::with_capacity(targets.len());
    for Target { constants, factors, init, words } in targets {
        formulas.push((constants, factors, init));
        for (column, piece) in columns.iter_mut().zip(words.chunks_mut(TASK)) {
            column.push(piece);
        }
    }
    columns.into_par_iter().enumerate().for_each(|(column, mut pieces)| {
        let end = n.min((column + 1) * TASK);
        for start in (column * TASK..end).step_by(BLOCK) {
            let range = start..end.min(start + BLOCK);
            let mut quotients = [0; BLOCK];
            let quotients = &mut quotients[..range.len()];
            let mut inputs: Vec<&[u64]> = sources.iter().map(|row| &row[range.clone()]).collect();
            if !divisor.is_empty() {
                kernels::quotients(isa, quotients, &inputs, divisor);
                inputs.push(quotients);
            }
            let local = start - column * TASK;
            for (&(constants, factors, init), piece) in formulas.iter().zip(&mut pieces) {
                let words = &mut piece[local..local + range.len()];
                kernels::convert(constants, words, &inputs, factors, init);
            }
        }
    });
}
