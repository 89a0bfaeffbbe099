//! Operators in layout P-pair ([`crate::packing::PairPacking`]).
//!
//! The emitters (`matrix`, `attention`, `scalars`) know no model; `layer`, `heads` and `feed_forward` compose them into models.

mod attention;
mod feed_forward;
mod heads;
mod layer;
mod matrix;
#[cfg(test)]
mod model_tests;
mod scalars;
#[cfg(test)]
mod tests;

pub(super) use self::layer::{PairPass, check_structure};
use crate::error::Result;
use crate::packing::{Features, HeadGroup, PairPacking};
use crate::program::{Builder, Plain, Register};
use num_complex::Complex64;

/// Writes the layout's operations into a program.
pub(super) struct Pair {
    pub(super) b: Builder,
    pub(super) p: PairPacking,
}

impl Pair {
    /// One row that repeats for every token.
    fn row(&self, value: impl Fn(usize) -> f64) -> Plain {
        let columns = self.p.columns;
        self.b.plain(columns, || (0..columns).map(|f| Complex64::new(value(f), 0.0)).collect())
    }

    /// One at the slots of a row that `at` names, modulo its length.
    fn mask(&self, at: impl IntoIterator<Item = i64>) -> Plain {
        self.weighted_mask(at.into_iter().map(|f| (f, 1.0)))
    }

    /// As [`Self::mask`] with these values.
    fn weighted_mask(&self, at: impl IntoIterator<Item = (i64, f64)>) -> Plain {
        let columns = self.p.columns;
        self.b.plain(columns, || {
            let mut row = vec![Complex64::default(); columns];
            for (f, value) in at {
                row[f.rem_euclid(columns as i64) as usize].re = value;
            }
            row
        })
    }

    /// `x` and its rotations by each of `amounts`, which share one decomposition; zero among them is free.
    fn versions(&mut self, x: Register, amounts: &[i64]) -> Vec<Register> {
        let moving: Vec<i64> = amounts.iter().copied().filter(|&a| a != 0).collect();
        let moved = if moving.is_empty() { Vec::new() } else { self.b.hoisted(x, moving) };
        let mut moved = moved.into_iter();
        amounts.iter().map(|&a| if a == 0 { x } else { moved.next().unwrap_or(x) }).collect()
    }

    /// Twice the parts of each.
    fn split_all(&mut self, xs: &[Register]) -> Result<Vec<[Register; 2]>> {
        xs.iter().map(|&x| Ok(self.b.split(x)?.into())).collect()
    }

    /// Brings all down to the lowest level among them.
    fn align_all(&mut self, xs: &[Register]) -> Result<Vec<Register>> {
        let level = xs.iter().map(|&x| self.b.level(x)).min().unwrap_or(0);
        xs.iter().map(|&x| self.b.set_level(x, level, 1.0)).collect()
    }

    /// `acc += a * b`, degree 2.
    fn accumulate(&mut self, acc: &mut Option<Register>, a: Register, b: Register) -> Result<()> {
        let product = self.b.tensor(a, b)?;
        *acc = Some(match *acc {
            None => product,
            Some(sum) => self.b.add(sum, product)?,
        });
        Ok(())
    }

    /// Relinearizes sums of products, rotates each by its amount, adds them and rescales.
    fn close_rotated(&mut self, terms: Vec<(Option<Register>, i64)>) -> Result<Register> {
        let mut linear = Vec::with_capacity(terms.len());
        for (sum, by) in terms {
            if let Some(sum) = sum {
                linear.push((self.b.relinearize(sum), by));
            }
        }
        let sum = self.b.sum_rotated(&linear)?;
        self.b.rescale(sum)
    }
}
