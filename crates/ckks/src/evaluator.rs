//! Arithmetic on ciphertexts.

use crate::alignment::{alignment, check_levels, check_scales};
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::plaintext::{PlainPoly, Plaintext};
use crate::rlwe::{EvaluationKeys, KeyKind, SecretId};
use cipherform_profile::{Counter, count, primitive};
use cipherform_ring::RingPoly;
use num_complex::Complex64;

/// Computes on ciphertexts of one context.
///
/// It checks levels and scales exactly and **never rescales, drops levels or aligns scales on its own**: whoever plans
/// the computation sees and pays every level. Counters ([`cipherform_profile::Counter`]): `ct_ct` one a tensor product;
/// `ct_pt` one a product with a plaintext or with a real or complex constant, including the terms of a polynomial's
/// leaves; integer factors ([`Self::mul_integer`], [`Self::set_level`]) and powers of i are not counted; `rescales` one
/// a ciphertext; `rotations` rotations and conjugations; `key_switches` rotations and relinearizations; `hoisted` the
/// rotations that shared a decomposition. The identity rotation is free.
#[derive(Clone, Debug)]
pub struct Evaluator {
    ctx: Context,
}

impl Evaluator {
    /// An evaluator for a context.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { ctx: ctx.clone() }
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    pub(crate) fn check(&self, op: &'static str, ct: &Ciphertext) -> Result<()> {
        self.ctx.params().require_same(op, &ct.params)
    }

    fn check_pair(&self, op: &'static str, a: &Ciphertext, b: &Ciphertext) -> Result<()> {
        self.check(op, a)?;
        self.check(op, b)?;
        a.secret.require_same(op, b.secret)?;
        check_levels(op, a.level, b.level)
    }

    /// What a sum asks of two operands.
    pub(crate) fn check_sum(&self, op: &'static str, a: &Ciphertext, b: &Ciphertext) -> Result<()> {
        self.check_pair(op, a, b)?;
        check_scales(op, a.scale, b.scale)
    }

    fn check_plain(&self, op: &'static str, a: &Ciphertext, b: &Plaintext) -> Result<()> {
        self.check(op, a)?;
        self.ctx.params().require_same(op, &b.params)?;
        check_levels(op, a.level, b.level)
    }

    pub(crate) fn check_degree_1(op: &'static str, ct: &Ciphertext) -> Result<()> {
        if ct.degree() == 1 {
            Ok(())
        } else {
            Err(Error::DegreeMismatch { op, degree: ct.degree(), needed: 1 })
        }
    }

    /// `a += b`. Levels and scales must agree; degrees may differ.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn add_assign(&self, a: &mut Ciphertext, b: &Ciphertext) -> Result<()> {
        self.check_sum("add", a, b)?;
        a.seed = None;
        for (x, y) in a.polys.iter_mut().zip(&b.polys) {
            x.add_assign(y)?;
        }
        let have = a.polys.len();
        a.polys.extend(b.polys.iter().skip(have).cloned());
        Ok(())
    }

    /// `a + b`; see [`Self::add_assign`].
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn add(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        let mut out = a.clone();
        self.add_assign(&mut out, b)?;
        Ok(out)
    }

    /// `a -= b`. Levels and scales must agree; degrees may differ.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn sub_assign(&self, a: &mut Ciphertext, b: &Ciphertext) -> Result<()> {
        self.check_pair("sub", a, b)?;
        check_scales("sub", a.scale, b.scale)?;
        a.seed = None;
        for (x, y) in a.polys.iter_mut().zip(&b.polys) {
            x.sub_assign(y)?;
        }
        for y in b.polys.iter().skip(a.polys.len()) {
            let mut negative = y.clone();
            negative.neg_assign()?;
            a.polys.push(negative);
        }
        Ok(())
    }

    /// `a - b`; see [`Self::sub_assign`].
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn sub(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        let mut out = a.clone();
        self.sub_assign(&mut out, b)?;
        Ok(out)
    }

    /// `a = -a`.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`].
    pub fn neg_assign(&self, a: &mut Ciphertext) -> Result<()> {
        self.check("neg", a)?;
        a.seed = None;
        a.polys.iter_mut().try_for_each(RingPoly::neg_assign)?;
        Ok(())
    }

    /// `-a`.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`].
    pub fn neg(&self, a: &Ciphertext) -> Result<Ciphertext> {
        let mut out = a.clone();
        self.neg_assign(&mut out)?;
        Ok(out)
    }

    /// `a + b` for a plaintext of the same level and scale.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn add_plain(&self, a: &Ciphertext, b: &Plaintext) -> Result<Ciphertext> {
        let mut out = a.clone();
        self.add_plain_assign(&mut out, b)?;
        Ok(out)
    }

    /// `a += b` for a plaintext of the same level and scale.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn add_plain_assign(&self, a: &mut Ciphertext, b: &Plaintext) -> Result<()> {
        self.check_plain("add_plain", a, b)?;
        check_scales("add_plain", a.scale, b.scale)?;
        a.seed = None;
        if let Some(c0) = a.polys.first_mut() {
            match &b.poly {
                PlainPoly::Dense(poly) => c0.add_assign(poly)?,
                PlainPoly::Periodic(_) => c0.add_assign(&b.to_dense(&self.ctx)?)?,
            }
        }
        Ok(())
    }

    /// `a - b` for a plaintext of the same level and scale.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`], [`Error::ScaleMismatch`].
    pub fn sub_plain(&self, a: &Ciphertext, b: &Plaintext) -> Result<Ciphertext> {
        self.check_plain("sub_plain", a, b)?;
        check_scales("sub_plain", a.scale, b.scale)?;
        let mut out = a.clone();
        out.seed = None;
        if let Some(c0) = out.polys.first_mut() {
            match &b.poly {
                PlainPoly::Dense(poly) => c0.sub_assign(poly)?,
                PlainPoly::Periodic(_) => c0.sub_assign(&b.to_dense(&self.ctx)?)?,
            }
        }
        Ok(out)
    }

    /// Adds a real or complex constant to every slot, rounded to a multiple of 1 / scale in each part. Not counted.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::NonFinite`]; [`Error::ValueTooLarge`].
    pub fn add_constant<T: Into<Complex64>>(&self, a: &Ciphertext, value: T) -> Result<Ciphertext> {
        let mut out = a.clone();
        self.add_constant_assign(&mut out, value)?;
        Ok(out)
    }

    /// As [`Self::add_constant`], in place.
    ///
    /// # Errors
    /// As [`Self::add_constant`].
    pub fn add_constant_assign<T: Into<Complex64>>(
        &self,
        a: &mut Ciphertext,
        value: T,
    ) -> Result<()> {
        self.check("add_constant", a)?;
        let (re, im) = self.constant("add_constant", value.into(), a.scale, a.level)?;
        a.seed = None;
        let quarter = self.ctx.params().n() as i64 / 2;
        if let Some(c0) = a.polys.first_mut() {
            c0.add_integer_assign(re)?;
            if im != 0 {
                // i is the monomial X^(n/2): turn it to the front, add, turn it back.
                c0.mul_monomial_assign(-quarter)?;
                c0.add_integer_assign(im)?;
                c0.mul_monomial_assign(quarter)?;
            }
        }
        Ok(())
    }

    /// Multiplies every slot by a real or complex constant encoded at `scale`: the result's scale is the product of
    /// both. Counts one `ct_pt`. The caller rescales.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::NonFinite`]; [`Error::InvalidScale`]; [`Error::ValueTooLarge`].
    pub fn mul_constant<T: Into<Complex64>>(
        &self,
        a: &Ciphertext,
        value: T,
        scale: f64,
    ) -> Result<Ciphertext> {
        const OP: &str = "mul_constant";
        self.check(OP, a)?;
        self.ctx.check_scale(OP, a.level, scale)?;
        self.ctx.check_scale(OP, a.level, a.scale * scale)?;
        let (re, im) = self.constant(OP, value.into(), scale, a.level)?;
        count(Counter::CtPt, 1);
        let mut out = a.clone();
        out.seed = None;
        out.scale = a.scale * scale;
        for (poly, x) in out.polys.iter_mut().zip(&a.polys) {
            if im == 0 {
                poly.mul_integer_assign(re)?;
            } else {
                poly.mul_monomial_assign(self.ctx.params().n() as i64 / 2)?;
                poly.mul_integer_assign(im)?;
                poly.add_multiple_assign(x, re)?;
            }
        }
        Ok(out)
    }

    /// Real and imaginary part of round(value * scale), checked against the modulus.
    fn constant(
        &self,
        op: &'static str,
        value: Complex64,
        scale: f64,
        level: usize,
    ) -> Result<(i128, i128)> {
        if !value.is_finite() {
            return Err(Error::NonFinite { index: 0 });
        }
        let part = |x: f64| self.integer(op, x * scale, level);
        Ok((part(value.re)?, part(value.im)?))
    }

    /// The nearest integer, checked against the modulus.
    pub(crate) fn integer(&self, op: &'static str, x: f64, level: usize) -> Result<i128> {
        let limit = self.ctx.params().log2_q_at(level).min(126.0);
        let rounded = x.round();
        if x.is_nan() {
            Err(Error::NonFinite { index: 0 })
        } else if rounded.abs().log2() >= limit {
            let log2_value = rounded.abs().log2();
            Err(Error::ValueTooLarge { op, log2_value, log2_modulus: limit })
        } else {
            Ok(rounded as i128)
        }
    }

    /// The tensor product: a ciphertext of degree 2 and of the product of both scales. Counts one `ct_ct`.
    ///
    /// Relinearize and rescale it, in either order, or first add others of the same level and scale.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`]; [`Error::DegreeMismatch`] unless both have degree 1;
    /// [`Error::ValueTooLarge`] if the product of the scales exceeds the modulus (always so at level 0).
    pub fn mul(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        self.check_pair("mul", a, b)?;
        self.mul_at_lower(a, b)
    }

    /// [`Self::mul`] at the lower of both levels: the other operand's higher limbs are not looked at.
    pub(crate) fn mul_at_lower(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        const OP: &str = "mul";
        let (a, b) = if a.level <= b.level { (a, b) } else { (b, a) };
        self.check(OP, a)?;
        self.check(OP, b)?;
        a.secret.require_same(OP, b.secret)?;
        Self::check_degree_1(OP, a)?;
        Self::check_degree_1(OP, b)?;
        let scale = a.scale * b.scale;
        self.ctx.check_scale(OP, a.level, scale)?;
        let ([a0, a1], [b0, b1]) = (a.polys.as_slice(), b.polys.as_slice()) else {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 1 });
        };
        let _span = primitive("tensor");
        count(Counter::CtCt, 1);
        let polys = RingPoly::tensor([a0, a1], [b0, b1])?;
        Ok(self.ciphertext(a.secret, a.level, scale, polys.into()))
    }

    /// The tensor product of a ciphertext with itself; see [`Self::mul`].
    ///
    /// # Errors
    /// As [`Self::mul`].
    pub fn square(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.mul(a, a)
    }

    /// Brings a product back to degree 1. Counts one `relinearizations` and one `key_switches`.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::DegreeMismatch`] unless the degree is 2; [`Error::MissingKey`].
    pub fn relinearize(&self, a: &Ciphertext, keys: &EvaluationKeys) -> Result<Ciphertext> {
        const OP: &str = "relinearize";
        self.check(OP, a)?;
        keys.check(OP, a)?;
        let [c0, c1, c2] = a.polys.as_slice() else {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 2 });
        };
        let key = keys.get(KeyKind::Relinearization, a.level)?;
        let _span = primitive("key_switch");
        count(Counter::Relinearizations, 1);
        count(Counter::KeySwitches, 1);
        let [k0, k1] = c2.key_switch(&key, [Some(c0), Some(c1)], None)?;
        Ok(self.ciphertext(a.secret, a.level, a.scale, RingPoly::mod_down_many(vec![k0, k1], 0)?))
    }

    /// [`Self::relinearize`] and [`Self::rescale`] of products of one level, with one division and one rounding each, and
    /// at most one pass over the key each. Counts one `relinearizations`, `key_switches` and `rescales` each.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::DegreeMismatch`] unless the degrees are 2; [`Error::LevelMismatch`];
    /// [`Error::LevelExhausted`] at level 0; [`Error::MissingKey`].
    pub fn relinearize_rescale(
        &self,
        products: &[Ciphertext],
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>> {
        const OP: &str = "relinearize_rescale";
        let params = self.ctx.params();
        params.require_same(OP, keys.params())?;
        let Some(first) = products.first() else { return Ok(Vec::new()) };
        let from = first.level;
        let Some(level) = from.checked_sub(1) else {
            return Err(Error::LevelExhausted { op: OP, level: 0, needed: 1 });
        };
        let key = keys.get(KeyKind::Relinearization, from)?;
        let _span = primitive("key_switch");
        let mut batch = Vec::with_capacity(products.len());
        for a in products {
            self.check(OP, a)?;
            keys.check(OP, a)?;
            check_levels(OP, from, a.level)?;
            let [c0, c1, c2] = a.polys.as_slice() else {
                return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 2 });
            };
            batch.push((c2, [Some(c0), Some(c1)]));
        }
        count(Counter::Relinearizations, products.len() as u64);
        count(Counter::KeySwitches, products.len() as u64);
        count(Counter::Rescales, products.len() as u64);
        let (primes, divisor) = (params.primes_at(from), params.modulus_at(from) as f64);
        let switched = RingPoly::key_switch_many(&batch, &key, None)?;
        let halves = switched.into_iter().flatten().collect();
        let mut halves = RingPoly::mod_down_many(halves, primes)?.into_iter();
        let finish = |a: &Ciphertext| {
            self.ciphertext(a.secret, level, a.scale / divisor, halves.by_ref().take(2).collect())
        };
        Ok(products.iter().map(finish).collect())
    }

    /// `a * b` slot by slot for a plaintext of the same level; scales multiply. Counts one `ct_pt`.
    ///
    /// A periodic plaintext multiplies in its subring: it is read at 2 * period words a limb.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`], [`Error::LevelMismatch`]; [`Error::ValueTooLarge`] if the product of the scales
    /// exceeds the modulus.
    pub fn mul_plain(&self, a: &Ciphertext, b: &Plaintext) -> Result<Ciphertext> {
        let scale = self.check_product("mul_plain", a, b)?;
        let _span = primitive("mul_plain");
        count(Counter::CtPt, 1);
        let product = |poly: &RingPoly| match &b.poly {
            PlainPoly::Dense(plain) => poly.product(plain),
            PlainPoly::Periodic(plain) => {
                let mut out = poly.clone();
                out.mul_subring_assign(plain)?;
                Ok(out)
            }
        };
        let polys = a.polys.iter().map(product).collect::<Result<_, _>>()?;
        Ok(self.ciphertext(a.secret, a.level, scale, polys))
    }

    /// `acc += a * b` for a plaintext, without an intermediate ciphertext. Counts one `ct_pt`.
    ///
    /// # Errors
    /// As [`Self::mul_plain`]; [`Error::ScaleMismatch`] unless the accumulator's scale is the product of both scales;
    /// [`Error::DegreeMismatch`] unless accumulator and `a` have the same degree.
    pub fn mul_plain_add_assign(
        &self,
        acc: &mut Ciphertext,
        a: &Ciphertext,
        b: &Plaintext,
    ) -> Result<()> {
        const OP: &str = "mul_plain_add";
        let scale = self.check_product(OP, a, b)?;
        self.check_pair(OP, acc, a)?;
        check_scales(OP, acc.scale, scale)?;
        if acc.degree() != a.degree() {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: acc.degree() });
        }
        let _span = primitive("mul_plain");
        count(Counter::CtPt, 1);
        acc.seed = None;
        for (out, poly) in acc.polys.iter_mut().zip(&a.polys) {
            match &b.poly {
                PlainPoly::Dense(plain) => out.mul_add_assign(poly, plain)?,
                PlainPoly::Periodic(plain) => out.mul_subring_add_assign(poly, plain)?,
            }
        }
        Ok(())
    }

    /// The scale of a product, if it is possible.
    fn check_product(&self, op: &'static str, a: &Ciphertext, b: &Plaintext) -> Result<f64> {
        self.check_plain(op, a, b)?;
        self.ctx.check_scale(op, a.level, a.scale * b.scale)?;
        Ok(a.scale * b.scale)
    }

    /// Multiplies by an integer: exact, same scale, not counted. The noise grows by the same factor.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`].
    pub fn mul_integer(&self, a: &Ciphertext, factor: i64) -> Result<Ciphertext> {
        self.check("mul_integer", a)?;
        let mut out = a.clone();
        self.mul_integer_assign(&mut out, factor)?;
        Ok(out)
    }

    /// As [`Self::mul_integer`], in place.
    ///
    /// # Errors
    /// As [`Self::mul_integer`].
    pub fn mul_integer_assign(&self, a: &mut Ciphertext, factor: i64) -> Result<()> {
        self.check("mul_integer", a)?;
        a.seed = None;
        a.polys.iter_mut().try_for_each(|p| p.mul_integer_assign(i128::from(factor)))?;
        Ok(())
    }

    /// Multiplies every slot by i: the monomial X^(n/2), exact and free of noise, scale and level.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`].
    pub fn mul_i(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.check("mul_i", a)?;
        let quarter = self.ctx.params().n() as i64 / 2;
        let mut out = a.clone();
        out.seed = None;
        out.polys.iter_mut().try_for_each(|p| p.mul_monomial_assign(quarter))?;
        Ok(out)
    }

    /// Divides by the prime of the level, or by its pair of primes with one rounding: level - 1, scale / q_level. Counts
    /// one `rescales`.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::LevelExhausted`] at level 0.
    pub fn rescale(&self, a: Ciphertext) -> Result<Ciphertext> {
        let none = Error::LevelExhausted { op: "rescale", level: 0, needed: 1 };
        self.rescale_batch(vec![a])?.pop().ok_or(none)
    }

    /// [`Self::rescale`] of ciphertexts of one level, with one division for all of them.
    pub(crate) fn rescale_batch(&self, batch: Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        let Some(from) = batch.first().map(Ciphertext::level) else { return Ok(batch) };
        let exhausted = Error::LevelExhausted { op: "rescale", level: from, needed: 1 };
        let level = from.checked_sub(1).ok_or(exhausted)?;
        let check =
            |a: &Ciphertext| check_levels("rescale", from, a.level).and(self.check("rescale", a));
        batch.iter().try_for_each(check)?;
        count(Counter::Rescales, batch.len() as u64);
        let params = self.ctx.params();
        let (primes, divisor) = (params.primes_at(from), params.modulus_at(from) as f64);
        let kinds: Vec<_> = batch.iter().map(|a| (a.secret, a.scale, a.polys.len())).collect();
        let polys = batch.into_iter().flat_map(|a| a.polys).collect();
        let mut polys = RingPoly::rescale_many(polys, primes)?.into_iter();
        let finish = |(secret, scale, count): (_, f64, usize)| {
            self.ciphertext(secret, level, scale / divisor, polys.by_ref().take(count).collect())
        };
        Ok(kinds.into_iter().map(finish).collect())
    }

    /// Forgets limbs down to a level; the scale stays. Free. The product of two ciphertexts whose scales are not the
    /// nominal ones of their level is fine; sums need [`Self::set_level`].
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::LevelTooHigh`] above the ciphertext's level.
    pub fn drop_level(&self, a: &Ciphertext, level: usize) -> Result<Ciphertext> {
        self.check("drop_level", a)?;
        if level > a.level {
            return Err(Error::LevelTooHigh { op: "drop_level", level, max: a.level });
        }
        if level == a.level {
            return Ok(a.clone());
        }
        let limbs = self.ctx.limbs(level);
        let polys = a.polys.iter().map(|p| p.with_limbs(limbs)).collect::<Result<_, _>>()?;
        Ok(self.ciphertext(a.secret, level, a.scale, polys))
    }

    /// Brings a ciphertext to a level *and its exact nominal scale*, so that it can be added to others there.
    ///
    /// Drops to `level + 1`, multiplies by the integer k = round(S_level q_(level+1) / scale), rescales. Counts one
    /// `rescales`. The relative error is 1 / 2k, about 2^-log2_scale. At the target level with the nominal scale
    /// already, it is a free copy.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::LevelTooHigh`] above the ciphertext's level; [`Error::ScaleMismatch`] at
    /// its level with another scale; [`Error::InvalidScale`] if the scale is so large that k would be below 2^16.
    pub fn set_level(&self, a: &Ciphertext, level: usize) -> Result<Ciphertext> {
        self.check("set_level", a)?;
        let Some(factor) = alignment(self.ctx.params(), a.level, a.scale, level)? else {
            return Ok(a.clone());
        };
        let mut dropped = self.drop_level(a, level + 1)?;
        dropped.polys.iter_mut().try_for_each(|p| p.mul_integer_assign(factor as i128))?;
        let mut out = self.rescale(dropped)?;
        out.scale = self.ctx.params().scale_at(level);
        Ok(out)
    }

    pub(crate) fn ciphertext(
        &self,
        secret: SecretId,
        level: usize,
        scale: f64,
        polys: Vec<RingPoly>,
    ) -> Ciphertext {
        Ciphertext { params: self.ctx.params().clone(), secret, level, scale, polys, seed: None }
    }
}
