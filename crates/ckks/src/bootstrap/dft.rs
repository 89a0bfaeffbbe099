//! The homomorphic embedding: butterfly layers merged into a few linear maps of few diagonals.
//!
//! The special FFT is U = F P, P the bit reversal and F the product of log m butterfly layers of spans 2, 4, .. m. Neither
//! direction applies P: slots-to-coefficients is F, its inverse F^-1, and what lies between them acts on every coefficient
//! alike. Layers of a stage are multiplied out: k layers from the one of span 2 d on have the diagonals -(2^k - 1) d, ..,
//! (2^k - 1) d in steps of d, of period 2^k d; the topmost stage wraps around and has 2^k.
//!
//! Baby-step giant-step wants diagonals from 0 on, so a stage also turns its result: to the left by (2^k - 1) d, the
//! lowest by 2^k. These add up to a multiple of the topmost stage's step, which takes them back.

use crate::fft::SpecialFft;
use num_complex::Complex64;
use std::collections::BTreeMap;

/// One merged stage: y\[j\] = sum over d of `diagonals[d][j mod period]` x\[j + d\].
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) diagonals: BTreeMap<i64, Vec<Complex64>>,
    /// Baby steps, in slots.
    pub(crate) baby: usize,
}

/// What a stage will be like, before its values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Index of its lowest layer, of span 2^(low + 1).
    pub(crate) low: u32,
    /// Number of layers.
    pub(crate) layers: u32,
    /// Whether it is the topmost one.
    pub(crate) top: bool,
}

impl Shape {
    /// Stages for vectors of length 2^log_slots, from the lowest layers on. Even sizes, the topmost takes the rest because
    /// its diagonals are half as many; with fewer layers than stages some are empty.
    pub(crate) fn split(log_slots: u32, stages: usize) -> Vec<Shape> {
        let stages = stages.max(1) as u32;
        let mut low = 0;
        (0..stages)
            .map(|i| {
                let layers = log_slots / stages + u32::from(stages - i <= log_slots % stages);
                let shape = Shape { low, layers, top: i + 1 == stages };
                low += layers;
                shape
            })
            .collect()
    }

    /// Distance of neighbouring diagonals.
    fn step(self) -> usize {
        1 << self.low
    }

    /// Number of diagonals.
    pub(crate) fn diagonals(self) -> usize {
        if self.top { 1 << self.layers } else { (2 << self.layers) - 1 }
    }

    /// Length after which diagonals repeat.
    pub(crate) fn period(self) -> usize {
        1 << (self.low + self.layers)
    }

    /// Baby steps in slots: a power of two a little above the square root, as giant steps are dearer.
    pub(crate) fn baby(self) -> usize {
        let log2 =
            if self.top { (self.layers + 1).div_ceil(2) } else { (self.layers + 2).div_ceil(2) };
        let steps = (1usize << log2).min(self.diagonals().next_power_of_two());
        steps * self.step()
    }

    /// Indices of its diagonals: those at and after zero, in slots.
    pub(crate) fn indices(self) -> impl Iterator<Item = usize> {
        // Only the lowest stage turns its result by one step more than its diagonals reach to the right.
        let first = usize::from(self.low == 0 && !self.top && self.layers > 0);
        (first..first + self.diagonals()).map(move |i| i * self.step())
    }

    /// How far to the left it turns its result, the topmost stage aside.
    fn turn(self) -> i64 {
        let reach = if self.low == 0 { 1i64 << self.layers } else { (1 << self.layers) - 1 };
        if self.layers == 0 { 0 } else { reach * self.step() as i64 }
    }
}

/// Slots to bit-reversed coefficients for vectors of length 2^log_slots, in order of application.
pub(crate) fn slots_to_coefficients(fft: &SpecialFft, log_slots: u32, stages: usize) -> Vec<Stage> {
    let shapes = Shape::split(log_slots, stages);
    build(&shapes, log_slots, |shape| {
        (shape.low..shape.low + shape.layers).map(|s| forward_layer(fft, s)).collect()
    })
}

/// Bit-reversed coefficients to slots, the inverse, in order of application: the topmost layers come first.
pub(crate) fn coefficients_to_slots(fft: &SpecialFft, log_slots: u32, stages: usize) -> Vec<Stage> {
    let mut shapes = Shape::split(log_slots, stages);
    shapes.reverse();
    build(&shapes, log_slots, |shape| {
        (shape.low..shape.low + shape.layers).rev().map(|s| inverse_layer(fft, s)).collect()
    })
}

/// The sum over all rotations by multiples of 2^low below 2^high, which keeps vectors of period 2^low (times their number)
/// and removes all else: in steps of at most eight rotations that share a digit decomposition.
pub(crate) fn repetition_sums(low: u32, high: u32) -> Vec<Stage> {
    let bits = high.saturating_sub(low);
    let steps = bits.div_ceil(3);
    let mut from = low;
    (0..steps)
        .map(|i| {
            let step = bits / steps + u32::from(i < bits % steps);
            let amounts = (0..1i64 << step).map(|k| (k << from, vec![Complex64::ONE]));
            let stage = Stage { diagonals: amounts.collect(), baby: 1 << (from + step) };
            from += step;
            stage
        })
        .collect()
}

type Diagonals = BTreeMap<i64, Vec<Complex64>>;

fn build(shapes: &[Shape], log_slots: u32, layers: impl Fn(Shape) -> Vec<Diagonals>) -> Vec<Stage> {
    let slots = 1i64 << log_slots;
    let total: i64 = shapes.iter().filter(|shape| !shape.top).map(|shape| shape.turn()).sum();
    let mut turned = 0;
    shapes
        .iter()
        .map(|&shape| {
            let merged = layers(shape)
                .into_iter()
                .fold(identity(), |product, layer| multiply(&layer, &product, slots));
            // The input is turned by `turned`, the result by `out`: y'[j] = y[j + out], x[j + d] = x'[j + d - turned].
            let out = if shape.top { turned - total } else { turned + shape.turn() };
            let diagonals = merged
                .into_iter()
                .map(|(d, mut values)| {
                    let length = values.len() as i64;
                    values.rotate_left(out.rem_euclid(length) as usize);
                    ((d + out - turned).rem_euclid(slots), values)
                })
                .collect();
            turned = out;
            Stage { diagonals, baby: shape.baby() }
        })
        .collect()
}

fn identity() -> Diagonals {
    BTreeMap::from([(0, vec![Complex64::ONE])])
}

/// a b, indices modulo the number of slots.
fn multiply(a: &Diagonals, b: &Diagonals, slots: i64) -> Diagonals {
    let mut product = Diagonals::new();
    for (&da, va) in a {
        for (&db, vb) in b {
            let length = va.len().max(vb.len());
            let sum = product
                .entry((da + db).rem_euclid(slots))
                .or_insert_with(|| vec![Complex64::ZERO; length]);
            let shift = da.rem_euclid(vb.len() as i64) as usize;
            let factors = va.iter().cycle().zip(vb.iter().cycle().skip(shift));
            for (s, (x, y)) in sum.iter_mut().zip(factors) {
                *s += x * y;
            }
        }
    }
    product
}

/// y\[j\] = x\[j\] + w_j x\[j+h\] in the lower half of every block of 2h = 2^(s+1), x\[j-h\] - w_(j-h) x\[j\] in the upper.
fn forward_layer(fft: &SpecialFft, s: u32) -> Diagonals {
    let roots = fft.stage(s as usize);
    layer(roots.len(), |low, i| {
        let root = roots.get(i).copied().unwrap_or_default();
        if low { (Complex64::ONE, root) } else { (-root, Complex64::ONE) }
    })
}

/// The inverse: (x\[j\] + x\[j+h\]) / 2 below, conj(w) (x\[j-h\] - x\[j\]) / 2 above.
fn inverse_layer(fft: &SpecialFft, s: u32) -> Diagonals {
    let roots = fft.stage(s as usize);
    layer(roots.len(), |low, i| {
        let half = roots.get(i).copied().unwrap_or_default().conj() / 2.0;
        if low { (Complex64::from(0.5), Complex64::from(0.5)) } else { (-half, half) }
    })
}

/// The diagonals 0, h and -h of a layer; `entry(low, i)` gives the factors of the value in place and of its partner.
fn layer(h: usize, entry: impl Fn(bool, usize) -> (Complex64, Complex64)) -> Diagonals {
    let zeros = vec![Complex64::ZERO; h];
    let half = |low| (0..h).map(|i| entry(low, i)).unzip::<_, _, Vec<_>, Vec<_>>();
    let ((low_own, low_other), (high_own, high_other)) = (half(true), half(false));
    let mut diagonals = BTreeMap::from([
        (0, [low_own, high_own].concat()),
        (h as i64, [low_other, zeros.clone()].concat()),
    ]);
    diagonals.insert(-(h as i64), [zeros, high_other].concat());
    diagonals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(stages: &[Stage], mut x: Vec<Complex64>) -> Vec<Complex64> {
        let slots = x.len();
        for stage in stages {
            x = (0..slots)
                .map(|j| {
                    let term = |(&d, w): (&i64, &Vec<Complex64>)| {
                        w[j % w.len()] * x[(j + d as usize) % slots]
                    };
                    stage.diagonals.iter().map(term).sum()
                })
                .collect();
        }
        x
    }

    #[test]
    fn the_stages_are_the_embedding_up_to_bit_reversal() {
        let fft = SpecialFft::new(1 << 9);
        for log_slots in [0, 1, 2, 5, 9] {
            let slots = 1usize << log_slots;
            let x: Vec<Complex64> = (0..slots)
                .map(|j| Complex64::new((j as f64).sin(), (3.0 * j as f64).cos()))
                .collect();
            let reversed: Vec<Complex64> = (0..slots)
                .map(|j| x[if log_slots == 0 { 0 } else { j.reverse_bits() >> (64 - log_slots) }])
                .collect();
            for stages in 1..=4 {
                // F x = U P x: `forward` is U, and P undoes itself.
                let mut want = reversed.clone();
                fft.forward(&mut want);
                let forward = slots_to_coefficients(&fft, log_slots, stages);
                let got = apply(&forward, x.clone());
                let close = |a: &[Complex64], b: &[Complex64]| {
                    a.iter().zip(b).all(|(a, b)| (a - b).norm() < 1e-10)
                };
                assert!(close(&got, &want), "2^{log_slots} slots in {stages} stages");
                let back = coefficients_to_slots(&fft, log_slots, stages);
                assert!(
                    close(&apply(&back, got), &x),
                    "2^{log_slots} slots in {stages} stages back"
                );
            }
        }
    }

    #[test]
    fn sums_over_repetitions_keep_what_repeats() {
        for (low, high) in [(0, 0), (3, 3), (2, 5), (0, 7)] {
            let x: Vec<Complex64> =
                (0..1 << high).map(|j| Complex64::from((j as f64).sin())).collect();
            let got = apply(&repetition_sums(low, high), x.clone());
            for (j, got) in got.iter().enumerate() {
                let want: Complex64 = x.iter().skip(j % (1 << low)).step_by(1 << low).sum();
                assert!((got - want).norm() < 1e-12);
            }
        }
    }

    #[test]
    fn diagonals_start_at_zero_and_are_as_few_as_stated() {
        let fft = SpecialFft::new(1 << 9);
        let shapes = Shape::split(9, 3);
        let stages = slots_to_coefficients(&fft, 9, 3);
        let back = coefficients_to_slots(&fft, 9, 3);
        for (shape, stage) in shapes.iter().zip(&stages).chain(shapes.iter().rev().zip(&back)) {
            assert_eq!(stage.diagonals.len(), shape.diagonals());
            let span = (shape.diagonals() + 1).next_power_of_two() << shape.low;
            for (&d, values) in &stage.diagonals {
                assert!(
                    d >= 0 && (d as usize).is_multiple_of(1 << shape.low) && (d as usize) < span
                );
                assert_eq!(values.len(), shape.period());
            }
            let indices: Vec<i64> = shape.indices().map(|d| d as i64).collect();
            assert!(stage.diagonals.keys().eq(&indices), "{shape:?}");
        }
        // boot16: 63, 63 and 32 diagonals of periods 32, 1024 and 32768 by 16, 16 and 8 babies.
        let shapes = Shape::split(15, 3);
        let row = |s: &Shape| (s.diagonals(), s.period(), s.baby() >> s.low);
        let rows: Vec<_> = shapes.iter().map(row).collect();
        assert_eq!(rows, [(63, 32, 16), (63, 1024, 16), (32, 32768, 8)]);
    }
}
