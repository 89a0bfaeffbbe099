//! Numbers per token: gathered into one real ciphertext, where a polynomial acts on all of them, and spread again.

use super::Pair;
use crate::error::Result;
use crate::program::Register;
use num_complex::Complex64;

/// Where numbers stand in a gathered ciphertext.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathered {
    /// The real ciphertext.
    pub(super) register: Register,
    /// Numbers of one source.
    pub(super) width: usize,
    /// First slot of those that came from imaginary parts.
    pub(super) imaginary: usize,
}

impl Pair {
    /// Puts the first `width` slots of each source side by side, real parts first and imaginary parts behind them, as
    /// `scale * value + add(source, slot)`; where `add` is none, and in every other slot, stands `idle`. One level.
    pub(super) fn gather(
        &mut self,
        sources: &[Register],
        width: usize,
        scale: f64,
        add: &dyn Fn(usize, usize) -> Option<f64>,
        idle: f64,
    ) -> Result<Gathered> {
        let total = width * sources.len();
        let imaginary = total.next_power_of_two();
        let mut terms = Vec::with_capacity(sources.len());
        for (k, &source) in sources.iter().enumerate() {
            // The split doubles.
            let taken = |f: usize| f < width && add(k, f).is_some();
            let mask = self.row(|f| if taken(f) { scale / 2.0 } else { 0.0 });
            let masked = self.b.mul_plain(source, mask)?;
            terms.push((masked, self.p.shift(-((k * width) as i64), 0)));
        }
        let all = self.b.sum_rotated(&terms)?;
        let (re, im) = self.b.split(all)?;
        let moved = self.b.rotate(im, self.p.shift(-(imaginary as i64), 0));
        let both = self.b.add(re, moved)?;
        let constant = self.row(|f| {
            let place = if f < imaginary { f } else { f - imaginary };
            let added = if place < total { add(place / width, place % width) } else { None };
            added.unwrap_or(idle)
        });
        Ok(Gathered { register: self.b.add_plain(both, constant), width, imaginary })
    }

    /// Source `k` of a gathered ciphertext again, as twice the real and twice the imaginary parts, each copied to `count`
    /// (a power of two) slots at distance `stride`; `factor(token, number)` is on each of them. One level.
    pub(super) fn scatter(
        &mut self,
        gathered: Gathered,
        k: usize,
        stride: usize,
        count: usize,
        factor: impl Fn(usize, usize) -> f64,
    ) -> Result<(Register, Register)> {
        let Gathered { register, width, imaginary } = gathered;
        let (rows, columns, slots) = (self.p.rows, self.p.columns, self.p.slots);
        let mut halves = Vec::with_capacity(2);
        for (start, first) in [(k * width, 0), (imaginary + k * width, rows)] {
            let value = |slot: usize| {
                let number = (slot % columns).checked_sub(start).filter(|&f| f < width);
                let token = slot / columns + first;
                Complex64::new(number.map_or(0.0, |f| factor(token, f)), 0.0)
            };
            let mask = self.b.plain(slots, || (0..slots).map(value).collect());
            let masked = self.b.dot_plain(&[register], vec![mask])?;
            halves.push((masked, self.p.shift(start as i64, 0)));
        }
        halves[1].0 = self.b.mul_i(halves[1].0);
        let sum = self.b.sum_rotated(&halves)?;
        let home = self.b.rescale(sum)?;
        let spread = self.b.replicate(home, stride, count)?;
        self.b.split(spread)
    }

    /// Sums of squares over the features of a token, from twice the halves of every ciphertext of a stream; valid in the
    /// first slot of each row. Four times the sums. One level.
    pub(super) fn square_sums(&mut self, halves: &[[Register; 2]]) -> Result<Register> {
        let mut sum = None;
        for &[re, im] in halves {
            self.accumulate(&mut sum, re, re)?;
            let turned = self.b.mul_i(im);
            self.accumulate(&mut sum, im, turned)?;
        }
        let squares = self.close_rotated(vec![(sum, 0)])?;
        self.b.window_sum(squares, 1, self.p.columns)
    }
}
