//! Numbers of about 106 bits as sums of two f64, for shares whose size is that of a ciphertext modulus.
//!
//! Dekker's and Knuth's error-free sums and products (Hida, Li and Bailey, "Library for double-double and quad-double
//! arithmetic", 2007); relative error of an operation below 2^-100.

use crate::fft::{Number, SpecialFft};
use std::ops::{Add, Mul, Sub};

/// `high + low`, `|low|` at most half a unit of `high`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Double {
    high: f64,
    low: f64,
}

/// The sum of two numbers and what it lost.
fn two_sum(a: f64, b: f64) -> Double {
    let high = a + b;
    let other = high - a;
    Double { high, low: (a - (high - other)) + (b - other) }
}

impl Double {
    fn renormalised(high: f64, low: f64) -> Self {
        let sum = high + low;
        Self { high: sum, low: low - (sum - high) }
    }

    /// An integer below 2^106, exactly.
    pub(crate) fn from_integer(x: i128) -> Self {
        let high = x as f64;
        Self::renormalised(high, (x - high as i128) as f64)
    }

    /// The nearest integer; below 2^126.
    pub(crate) fn round(self) -> i128 {
        let whole = self.high.floor();
        whole as i128 + ((self.high - whole) + self.low).round() as i128
    }

    /// `1 / x`.
    pub(crate) fn inverse_of(x: f64) -> Self {
        let high = 1.0 / x;
        Self::renormalised(high, high.mul_add(-x, 1.0) / x)
    }

    /// Its square root, by one step of Newton's from f64.
    fn sqrt(self) -> Self {
        let root = self.high.sqrt();
        let rest = self - Self { high: root, low: 0.0 } * Self { high: root, low: 0.0 };
        Self::renormalised(root, rest.high / (2.0 * root))
    }

    /// `self / x`.
    fn over(self, x: Self) -> Self {
        let first = self.high / x.high;
        let rest = self - x * Self { high: first, low: 0.0 };
        Self::renormalised(first, rest.high / x.high)
    }
}

impl Add for Double {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sum, low) = (two_sum(self.high, other.high), two_sum(self.low, other.low));
        let sum = Self::renormalised(sum.high, sum.low + low.high);
        Self::renormalised(sum.high, sum.low + low.low)
    }
}

impl Sub for Double {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { high: -other.high, low: -other.low }
    }
}

impl Mul for Double {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let high = self.high * other.high;
        let lost = self.high.mul_add(other.high, -high);
        Self::renormalised(high, lost + (self.high * other.low + self.low * other.high))
    }
}

/// A complex number of two of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wide {
    pub(crate) re: Double,
    pub(crate) im: Double,
}

impl Add for Wide {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }
}

impl Sub for Wide {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { re: self.re - other.re, im: self.im - other.im }
    }
}

impl Mul for Wide {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }
}

impl Number for Wide {
    fn conjugate(self) -> Self {
        Self { im: Double::default() - self.im, ..self }
    }

    fn times(self, factor: f64) -> Self {
        let factor = Double { high: factor, low: 0.0 };
        Self { re: self.re * factor, im: self.im * factor }
    }
}

/// The transform of [`crate::Encoder`] at this precision.
pub(crate) fn wide_fft(slots: usize) -> SpecialFft<Wide> {
    let (zero, one) = (Double::default(), Double { high: 1.0, low: 0.0 });
    // exp(2 pi i / 2^b), from b = 2 on by halving the angle; b = 0 and 1 are 1 and -1.
    let mut halves = vec![
        Wide { re: one, im: zero },
        Wide { re: zero - one, im: zero },
        Wide { re: zero, im: one },
    ];
    for b in 3..=slots.trailing_zeros() as usize + 2 {
        let above: Wide = halves[b - 1];
        let half = Double { high: 0.5, low: 0.0 };
        let re = ((one + above.re) * half).sqrt();
        halves.push(Wide { re, im: above.im.over(re) * half });
    }
    SpecialFft::with_roots(slots, |power, order| {
        let depth = order.trailing_zeros() as usize;
        (1..=depth)
            .filter(|b| power >> (depth - b) & 1 == 1)
            .fold(halves[0], |root, b| root * halves[b])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_pass_through() {
        for x in [0, 1, -1, (1 << 100) + 12_345, -(1 << 105) + 1, i128::from(i64::MIN)] {
            assert_eq!(Double::from_integer(x).round(), x);
        }
    }

    /// Integers of 90 bits come back from slots to the unit, and the slots are those of f64.
    #[test]
    fn transforms_keep_ninety_bits() {
        let m = 1 << 12;
        let mut state = 1u128;
        let mut next = || {
            state =
                state.wrapping_mul(0xda94_2042_e4dd_58b5_0000_0000_0000_0001 | 5).wrapping_add(77);
            ((state >> 38) as i128) - (1 << 89)
        };
        let integers: Vec<[i128; 2]> = (0..m).map(|_| [next(), next()]).collect();
        let mut values: Vec<Wide> = integers
            .iter()
            .map(|[re, im]| Wide { re: Double::from_integer(*re), im: Double::from_integer(*im) })
            .collect();
        let fft = wide_fft(m);
        fft.forward(&mut values);
        let mut near: Vec<num_complex::Complex64> = integers
            .iter()
            .map(|[re, im]| num_complex::Complex64::new(*re as f64, *im as f64))
            .collect();
        SpecialFft::new(m).forward(&mut near);
        for (wide, near) in values.iter().zip(&near) {
            assert!((wide.re.high - near.re).abs() < 2f64.powi(89 + 6 + 4 - 52));
        }
        fft.inverse(&mut values);
        for (value, [re, im]) in values.iter().zip(&integers) {
            assert_eq!((value.re.round(), value.im.round()), (*re, *im));
        }
    }
}
