//! Products with plaintext matrices.

use super::{Features, Pair};
use crate::error::Result;
use crate::program::Register;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// What a hoisted rotation costs, and one whose division by P is shared, of a rotation alone: measured ratios of the
/// engine's key switches, which decide between baby and giant steps.
const HOISTED: f64 = 0.45;
const LAZY: f64 = 0.65;

/// The diagonals `d` with an output at some slot `f` and an input at `f + d`; the ends of the range.
fn diagonals(input: &Features, output: &Features) -> Option<RangeInclusive<i64>> {
    let ends = |features: &Features| {
        let first = features.iter().position(Option::is_some)? as i64;
        let last = features.iter().rposition(Option::is_some)? as i64;
        Some((first, last))
    };
    let ((i0, i1), (o0, o1)) = (ends(input)?, ends(output)?);
    Some(i0 - o1..=i1 - o0)
}

/// The number of baby steps, a power of two, with the least cost of rotations.
fn baby_steps(ranges: &[Vec<Option<RangeInclusive<i64>>>], columns: usize) -> i64 {
    let cost = |steps: i64| {
        let mut babies = BTreeSet::new();
        let mut giants = BTreeSet::new();
        for (o, row) in ranges.iter().enumerate() {
            for (i, range) in row.iter().enumerate() {
                let Some(range) = range else { continue };
                let (first, last) = (*range.start(), *range.end());
                // As many in a row as there are residues reach them all.
                babies.extend(
                    (first..=last.min(first + steps - 1)).map(|d| (i, d.rem_euclid(steps))),
                );
                giants.extend((first.div_euclid(steps)..=last.div_euclid(steps)).map(|g| (o, g)));
            }
        }
        let babies = babies.iter().filter(|(_, b)| *b != 0).count();
        let giants = giants.iter().filter(|(_, g)| *g != 0).count();
        HOISTED * babies as f64 + LAZY * giants as f64
    };
    let candidates = (0..=columns.trailing_zeros()).map(|k| 1i64 << k);
    candidates.min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(1)
}

/// The slots of a row that are used, a bit each.
struct Used(Vec<u64>);

impl Used {
    fn of(features: &Features) -> Self {
        let word = |chunk: &[Option<usize>]| {
            chunk.iter().rev().fold(0, |word, f| word << 1 | u64::from(f.is_some()))
        };
        Self(features.chunks(64).map(word).collect())
    }

    /// Whether any of its slots is used that lies `d` before one of `input`'s.
    fn meets(&self, input: &Self, d: i64) -> bool {
        let (words, bits) = (d.div_euclid(64), d.rem_euclid(64));
        let word = |k: i64| {
            usize::try_from(k).ok().and_then(|k| input.0.get(k)).copied().unwrap_or_default()
        };
        self.0.iter().zip(words..).any(|(&mine, k)| {
            let high = if bits == 0 { 0 } else { word(k + 1) << (64 - bits) };
            mine & (word(k) >> bits | high) != 0
        })
    }
}

impl Pair {
    /// `y = x W`, one level. `inputs[k]` says which row of `W` each slot of `xs[k]` meets, `outputs[k]` which column each
    /// slot of the k-th result is.
    ///
    /// `y[f] = sum_d x[f + d] w_d[f]` over the diagonals d from 1 - c to c - 1, with `w_d[f] = 0` where f + d leaves the row:
    /// what spills in from a neighbouring token meets a zero. Baby-step giant-step: rotations by less than the baby steps
    /// are hoisted, one a giant step and output follows.
    pub(super) fn matrix(
        &mut self,
        xs: &[Register],
        inputs: &[Features],
        outputs: &[Features],
        weight: &dyn Fn(usize, usize) -> f64,
    ) -> Result<Vec<Register>> {
        let columns = self.p.columns as i64;
        let ranges: Vec<Vec<_>> = outputs
            .iter()
            .map(|output| inputs.iter().map(|input| diagonals(input, output)).collect())
            .collect();
        let used: Vec<Used> = inputs.iter().map(Used::of).collect();
        let steps = baby_steps(&ranges, self.p.columns);
        let mut babies: Vec<Vec<Option<Register>>> = Vec::with_capacity(xs.len());
        for (i, &x) in xs.iter().enumerate() {
            let needed: BTreeSet<i64> = ranges
                .iter()
                .flat_map(|row| row[i].clone().into_iter().flatten())
                .map(|d| d.rem_euclid(steps))
                .collect();
            let needed: Vec<i64> = needed.into_iter().collect();
            let mut versions = vec![None; steps as usize];
            for (&b, version) in needed.iter().zip(self.versions(x, &needed)) {
                versions[b as usize] = Some(version);
            }
            babies.push(versions);
        }
        let mut results = Vec::with_capacity(outputs.len());
        for (output, row) in outputs.iter().zip(&ranges) {
            let giants: BTreeSet<i64> = row
                .iter()
                .flat_map(|range| range.clone().into_iter().flatten())
                .map(|d| d.div_euclid(steps))
                .collect();
            let written = Used::of(output);
            let mut terms = Vec::with_capacity(giants.len());
            for giant in giants {
                let shift = giant * steps;
                let (mut registers, mut plains) = (Vec::new(), Vec::new());
                let sources = inputs.iter().zip(&used).zip(&babies).zip(row);
                for (((input, used), versions), range) in sources {
                    for b in 0..steps {
                        let d = shift + b;
                        let Some(version) = versions[b as usize] else { continue };
                        let reads = |f: i64| {
                            let source = usize::try_from(f + d).ok()?;
                            Some((*input.get(source)?.as_ref()?, output[f as usize]?))
                        };
                        let inside = range.as_ref().is_some_and(|range| range.contains(&d));
                        if !inside || !written.meets(used, d) {
                            continue;
                        }
                        registers.push(version);
                        // Rotated back by the giant step that the sum will be rotated by.
                        plains.push(self.row(|slot| {
                            let f = (slot as i64 - shift).rem_euclid(columns);
                            reads(f).map_or(0.0, |(row, column)| weight(row, column))
                        }));
                    }
                }
                if !registers.is_empty() {
                    terms.push((self.b.dot_plain(&registers, plains)?, shift));
                }
            }
            let shifted: Vec<_> =
                terms.into_iter().map(|(r, by)| (r, self.p.shift(by, 0))).collect();
            let sum = self.b.sum_rotated(&shifted)?;
            results.push(self.b.rescale(sum)?);
        }
        Ok(results)
    }
}
