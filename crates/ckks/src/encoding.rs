//! Values to polynomials and back: the canonical embedding, scaled and rounded.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::fft::SpecialFft;
use crate::plaintext::{PlainPoly, Plaintext};
use cipherform_profile::primitive;
use cipherform_ring::{Coeff, Limbs, RingPoly, SubringPoly};
use num_complex::Complex64;
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

/// Coefficients of at least 2^126 do not fit the integers used between rounding and reduction.
const LOG2_COEFFICIENT_MAX: f64 = 126.0;

/// Rounded coefficients, in the narrower type that holds them.
enum Integers {
    Small(Vec<i64>),
    Large(Vec<i128>),
}

impl Integers {
    fn subring(self, ctx: &Context, limbs: Limbs) -> Result<SubringPoly> {
        Ok(match self {
            Self::Small(c) => SubringPoly::from_i64(ctx.ring(), limbs, &c)?,
            Self::Large(c) => SubringPoly::from_i128(ctx.ring(), limbs, &c)?,
        })
    }
}

/// Turns slot vectors into plaintexts and back.
///
/// Slot j is the value at zeta^(5^j), so that rotating by k moves slot j+k to slot j. A vector whose length m divides
/// the number of slots is *periodic*: it stands for its repetition, lies in the subring of X^(n/2m) and is held with
/// 2m words a limb instead of n.
#[derive(Debug)]
pub struct Encoder {
    ctx: Context,
    fft: SpecialFft,
}

impl Encoder {
    /// Precomputes the roots of unity.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { ctx: ctx.clone(), fft: SpecialFft::new(ctx.params().slots()) }
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Encodes real or complex values: coefficient = round(scale * c), error at most 1/2 a coefficient.
    ///
    /// The length must be a power of two, at most the number of slots; shorter vectors repeat. Any level, any scale
    /// that fits the level's modulus, 2^90 and more included (an f64 has 53 bits; beyond them scaled values are exact
    /// multiples of a power of two).
    ///
    /// # Errors
    /// [`Error::Length`] for other lengths; [`Error::NonFinite`]; [`Error::LevelTooHigh`]; [`Error::InvalidScale`];
    /// [`Error::ValueTooLarge`] if a scaled coefficient does not fit the modulus of the level.
    pub fn encode<T: Copy + Into<Complex64>>(
        &self,
        values: &[T],
        level: usize,
        scale: f64,
    ) -> Result<Plaintext> {
        const OP: &str = "encode";
        let _span = primitive(OP);
        let params = self.ctx.params();
        let (m, slots) = (values.len(), params.slots());
        params.require_level(OP, level)?;
        self.ctx.check_scale(OP, level, scale)?;
        let log2_modulus = params.log2_q_at(level);
        let (ring, limbs) = (self.ctx.ring(), self.ctx.limbs(level));
        let poly = match self.integers(OP, values, scale, log2_modulus)? {
            Integers::Small(c) if m == slots => {
                PlainPoly::Dense(RingPoly::<Coeff>::from_i64(ring, limbs, &c)?.into_ntt()?)
            }
            Integers::Large(c) if m == slots => {
                PlainPoly::Dense(RingPoly::<Coeff>::from_i128(ring, limbs, &c)?.into_ntt()?)
            }
            integers => PlainPoly::Periodic(integers.subring(&self.ctx, limbs)?),
        };
        Ok(Plaintext { params: params.clone(), level, scale, period: m, poly, decrypted: false })
    }

    /// The weights of a doubly hoisted sum: encoded modulo the primes of a level and all special primes.
    pub(crate) fn encode_weights(
        &self,
        values: &[Complex64],
        level: usize,
        scale: f64,
    ) -> Result<SubringPoly> {
        const OP: &str = "encode weights";
        let params = self.ctx.params();
        params.require_level(OP, level)?;
        self.ctx.check_scale(OP, level, scale)?;
        let integers = self.integers(OP, values, scale, params.log2_q_at(level))?;
        integers.subring(&self.ctx, self.ctx.key_limbs(level))
    }

    /// The rounded coefficients of values at a scale, all below half the modulus.
    fn integers<T: Copy + Into<Complex64>>(
        &self,
        op: &'static str,
        values: &[T],
        scale: f64,
        log2_modulus: f64,
    ) -> Result<Integers> {
        let (m, slots) = (values.len(), self.ctx.params().slots());
        if !m.is_power_of_two() || m > slots {
            let expected = format!("a power of two up to {slots}");
            return Err(Error::Length { what: "values to encode", expected, got: m });
        }
        let mut work: Vec<Complex64> = values.iter().map(|&v| v.into()).collect();
        if let Some(index) = work.iter().position(|v| !(v.re.is_finite() && v.im.is_finite())) {
            return Err(Error::NonFinite { index });
        }
        self.fft.inverse(&mut work);

        // Coefficient k is the real part of entry k, coefficient k + m its imaginary part.
        let coefficients: Vec<f64> = work
            .iter()
            .map(|v| v.re)
            .chain(work.iter().map(|v| v.im))
            .map(|c| (c * scale).round())
            .collect();
        let largest = coefficients.iter().fold(0f64, |max, c| max.max(c.abs()));
        let limit = (log2_modulus - 1.0).min(LOG2_COEFFICIENT_MAX);
        // NaN cannot occur: finite sums of finite values overflow to infinity at worst.
        if largest.log2() >= limit {
            let log2_value = largest.log2();
            return Err(Error::ValueTooLarge { op, log2_value, log2_modulus: limit });
        }
        Ok(if largest < 2f64.powi(62) {
            Integers::Small(coefficients.iter().map(|&c| c as i64).collect())
        } else {
            Integers::Large(coefficients.iter().map(|&c| c as i128).collect())
        })
    }

    /// The roots of unity.
    pub(crate) fn fft(&self) -> &SpecialFft {
        &self.fft
    }

    /// All slots of a plaintext.
    ///
    /// Coefficients are lifted exactly from all limbs of the level to (-Q/2, Q/2), then rounded once to f64.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for a plaintext of another set.
    pub fn decode(&self, plaintext: &Plaintext) -> Result<Vec<Complex64>> {
        let _span = primitive("decode");
        let params = self.ctx.params();
        params.require_same("decode", &plaintext.params)?;
        let mut poly = plaintext.to_dense(&self.ctx)?;
        poly.drop_limbs(params.limbs_at(plaintext.level))?;
        let mut poly = poly.into_coeff()?;
        let lifted = Zeroizing::new(lift(&self.ctx, &poly, horner)?);
        poly.zeroize();
        let (low, high) = lifted.split_at(params.slots());
        let mut work: Vec<Complex64> =
            low.iter().zip(high).map(|(&re, &im)| Complex64::new(re, im)).collect();
        self.fft.forward(&mut work);
        let factor = 1.0 / plaintext.scale;
        for value in &mut work {
            *value *= factor;
        }
        Ok(work)
    }
}

/// Centred representatives of all coefficients, as `join` makes them of their mixed-radix digits and the moduli.
///
/// Garner's mixed radix with *centred* digits: x = d_0 + q_0 (d_1 + q_1 (d_2 + ..)), |d_i| < q_i / 2. As all
/// primes are odd, these sums are exactly the integers of (-Q/2, Q/2), so no comparison with Q/2 is needed, and
/// a small x has only zero digits beyond its size, where the loop stops.
pub(crate) fn lift<T: Send>(
    ctx: &Context,
    poly: &RingPoly<Coeff>,
    join: impl Fn(&[i64], &[u64]) -> T + Sync,
) -> Result<Vec<T>> {
    let n = ctx.params().n();
    let rows = poly.limbs().rows();
    let moduli = ctx.ring().basis().q();
    let moduli = moduli.get(..rows).unwrap_or(moduli);
    let values: Vec<u64> = moduli.iter().map(cipherform_ring::Modulus::value).collect();
    // inverses[j][i] = q_i^-1 mod q_j for i < j.
    let inverses = moduli
        .iter()
        .enumerate()
        .map(|(j, qj)| moduli.iter().take(j).map(|qi| qj.inv(qi.value() % qj.value())).collect())
        .collect::<Result<Vec<Vec<u64>>, _>>()?;
    let words = Zeroizing::new(poly.to_residues()?);
    let limbs: Vec<&[u64]> = words.chunks_exact(n).collect();
    let lift_one = |k: usize| {
        let mut residues: Vec<u64> =
            limbs.iter().map(|limb| limb.get(k).copied().unwrap_or(0)).collect();
        let mut digits = Vec::with_capacity(rows);
        for (i, modulus) in moduli.iter().enumerate() {
            let value = residues.get(i).copied().unwrap_or(0);
            let digit = if value > modulus.value() / 2 {
                value as i64 - modulus.value() as i64
            } else {
                value as i64
            };
            digits.push(digit);
            let mut rest = 0;
            let above = residues.iter_mut().zip(moduli).zip(&inverses).skip(i + 1);
            for ((residue, qj), inverse) in above {
                let factor = inverse.get(i).copied().unwrap_or(0);
                *residue = qj.mul(qj.sub(*residue, qj.reduce_i64(digit)), factor);
                rest |= *residue;
            }
            if rest == 0 {
                break;
            }
        }
        join(&digits, &values)
    };
    Ok((0..n).into_par_iter().with_min_len(1024).map(lift_one).collect())
}

/// d_0 + q_0 (d_1 + q_1 (..)): exact for two digits, else every step rounds once and no step cancels, because a
/// nonzero value above a digit is at least q while the digit is below q/2.
fn horner(digits: &[i64], moduli: &[u64]) -> f64 {
    match (digits, moduli) {
        ([d0], _) => *d0 as f64,
        ([d0, d1], [q0, ..]) => (i128::from(*d1) * i128::from(*q0) + i128::from(*d0)) as f64,
        _ => digits.iter().zip(moduli).rev().fold(0.0, |acc, (&d, &q)| acc * q as f64 + d as f64),
    }
}

impl Plaintext {
    /// The polynomial with all n words a limb, of the limbs of the plaintext's level.
    pub(crate) fn to_dense(&self, ctx: &Context) -> Result<RingPoly> {
        let limbs = ctx.limbs(self.level);
        match &self.poly {
            PlainPoly::Dense(poly) => Ok(poly.with_limbs(limbs)?),
            PlainPoly::Periodic(sub) => {
                let mut dense = RingPoly::zero(ctx.ring(), limbs)?;
                dense.add_integer_assign(1)?;
                dense.mul_subring_assign(sub)?;
                Ok(dense)
            }
        }
    }
}
