//! Paterson-Stockmeyer evaluation, written once over an arithmetic: ciphertexts, or a model that only counts.
//!
//! **Scales.** A value is *raw* at depth t if it lives at level L - t (L the input's level) and is not rescaled yet.
//! Everything that is summed there is brought to one and the same scale without spending anything: a term c b_i of a
//! leaf multiplies basis function b_i, of scale s_i, by the integer round(c * scale / s_i); a product q b_m asks its
//! left factor for the scale that, after that factor's own rescaling, gives `scale` when multiplied by that of b_m.
//! So every sum is exact, lands on any scale that is asked for, and costs one rescaling.
//!
//! **Depth.** b_m is at depth ceil(log2 m). A raw value at depth t has degree below 2^(t+1): leaves of degree d need
//! ceil(log2 d) <= t; a longer polynomial is split at m, the largest power of two in its degree, into a left factor
//! raw at depth t - 1 and a remainder at t, whose products are summed before one relinearization. A whole polynomial
//! is raw at depth D - 1 and rescaled once more: D = ceil(log2(degree + 1)) levels.
//!
//! Paterson and Stockmeyer (SIAM J. Comput. 2, 1973); depth as in ePrint 2020/552, section 5.

use crate::ciphertext::Ciphertext;
use crate::cost;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::params::Parameters;
use crate::polynomial::{Basis, Polynomial, ceil_log2, divide};
use crate::rlwe::EvaluationKeys;
use cipherform_profile::{Cost, Counter, count};
use std::collections::BTreeMap;

/// What an evaluation needs. Levels of operands may differ: the lower one counts.
pub(crate) trait Arithmetic {
    /// A ciphertext or its model.
    type Value: Clone;
    /// Its level.
    fn level(&self, v: &Self::Value) -> usize;
    /// Its scale.
    fn scale(&self, v: &Self::Value) -> f64;
    /// Declares the scale that an exact computation would have given.
    fn set_scale(&self, v: &mut Self::Value, scale: f64);
    /// The prime that rescaling from a level removes.
    fn prime(&self, level: usize) -> f64;
    /// Tensor product of values of degree 1.
    fn mul(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// Back to degree 1, if the degree is 2.
    fn relinearize(&mut self, v: Self::Value) -> Result<Self::Value>;
    /// One level down.
    fn rescale(&mut self, v: Self::Value) -> Result<Self::Value>;
    /// `acc + v`, at the level and scale of `acc`.
    fn add(&mut self, acc: Self::Value, v: &Self::Value) -> Result<Self::Value>;
    /// `acc + factor v` for an integer, at a level and scale; `acc` may be missing.
    fn add_multiple(
        &mut self,
        acc: Option<Self::Value>,
        v: &Self::Value,
        factor: f64,
        level: usize,
        scale: f64,
    ) -> Result<Self::Value>;
    /// Counts one product with a coefficient.
    fn count_coefficient(&mut self);
    /// `acc + constant`.
    fn add_constant(&mut self, acc: Self::Value, constant: f64) -> Result<Self::Value>;
}

/// Evaluates at `input`; the result is `depth` levels lower and has exactly the scale asked for.
///
/// `leaf` is the largest degree evaluated as a linear combination of basis functions.
pub(crate) fn evaluate<A: Arithmetic>(
    arithmetic: &mut A,
    polynomial: &Polynomial,
    input: &A::Value,
    leaf: usize,
    scale: f64,
) -> Result<A::Value> {
    let (level, depth) = (arithmetic.level(input), polynomial.depth());
    if level < depth {
        return Err(Error::LevelExhausted { op: "polynomial", level, needed: depth });
    }
    let coefficients = polynomial.coefficients().to_vec();
    if depth == 0 {
        let zero = arithmetic.add_multiple(None, input, 0.0, level, scale)?;
        return arithmetic.add_constant(zero, coefficients.first().copied().unwrap_or(0.0));
    }
    let functions = BTreeMap::from([(1, input.clone())]);
    let mut evaluation =
        Evaluation { arithmetic, basis: polynomial.basis(), level, leaf, functions };
    let scale_raw = scale * evaluation.arithmetic.prime(level + 1 - depth);
    let raw = evaluation.raw(coefficients, depth - 1, scale_raw)?;
    let mut result = arithmetic.rescale(raw)?;
    arithmetic.set_scale(&mut result, scale);
    Ok(result)
}

struct Evaluation<'a, A: Arithmetic> {
    arithmetic: &'a mut A,
    basis: Basis,
    /// Level of the input.
    level: usize,
    leaf: usize,
    /// Basis functions made so far, by degree.
    functions: BTreeMap<usize, A::Value>,
}

impl<A: Arithmetic> Evaluation<'_, A> {
    /// A polynomial of degree at least 1 as a raw value of degree 1 at depth t and a scale.
    fn raw(&mut self, mut coefficients: Vec<f64>, t: usize, scale: f64) -> Result<A::Value> {
        let level = self.level - t;
        let mut sum: Option<A::Value> = None;
        loop {
            let degree = coefficients.len().saturating_sub(1);
            if degree <= self.leaf && (degree == 0 || ceil_log2(degree) <= t) {
                break;
            }
            let m = 1 << degree.ilog2();
            let (q, r) = divide(self.basis, &coefficients, m);
            let function = self.function(m)?;
            if let [constant] = q.as_slice() {
                sum = Some(self.term(sum, m, *constant, level, scale)?);
            } else {
                let q_scale = scale / self.arithmetic.scale(&function);
                let q_raw = self.raw(q, t - 1, q_scale * self.arithmetic.prime(level + 1))?;
                let mut factor = self.arithmetic.rescale(q_raw)?;
                self.arithmetic.set_scale(&mut factor, q_scale);
                let mut product = self.arithmetic.mul(&factor, &function)?;
                self.arithmetic.set_scale(&mut product, scale);
                sum = Some(match sum {
                    Some(acc) => self.arithmetic.add(acc, &product)?,
                    None => product,
                });
            }
            coefficients = r;
        }
        for (i, &c) in coefficients.iter().enumerate().skip(1) {
            if c != 0.0 {
                sum = Some(self.term(sum, i, c, level, scale)?);
            }
        }
        let Some(sum) = sum else {
            let detail = "a factor without terms".to_owned();
            return Err(Error::InvalidArgument { op: "polynomial", detail });
        };
        let constant = coefficients.first().copied().unwrap_or(0.0);
        let sum = self.arithmetic.add_constant(sum, constant)?;
        self.arithmetic.relinearize(sum)
    }

    /// `acc + c b_i` at a level and scale.
    fn term(
        &mut self,
        acc: Option<A::Value>,
        i: usize,
        c: f64,
        level: usize,
        scale: f64,
    ) -> Result<A::Value> {
        let function = self.function(i)?;
        let factor = (c * scale / self.arithmetic.scale(&function)).round();
        self.arithmetic.count_coefficient();
        self.arithmetic.add_multiple(acc, &function, factor, level, scale)
    }

    /// The basis function of degree i >= 1, at depth ceil(log2 i).
    ///
    /// Split into the largest power of two below i and the rest, so that odd polynomials only make odd functions and
    /// powers of two: T_i = 2 T_a T_b - T_(a-b), a >= b; x^i = x^a x^b.
    fn function(&mut self, i: usize) -> Result<A::Value> {
        if let Some(known) = self.functions.get(&i) {
            return Ok(known.clone());
        }
        let a = i.next_power_of_two() / 2;
        let b = i - a;
        let (left, right) = (self.function(a)?, self.function(b)?);
        let mut product = self.arithmetic.mul(&left, &right)?;
        if self.basis == Basis::Chebyshev {
            let once = product.clone();
            product = self.arithmetic.add(product, &once)?;
            product = if a == b {
                self.arithmetic.add_constant(product, -1.0)?
            } else {
                let lower = self.function(a - b)?;
                let (level, scale) =
                    (self.arithmetic.level(&product), self.arithmetic.scale(&product));
                let factor = -(scale / self.arithmetic.scale(&lower)).round();
                self.arithmetic.add_multiple(Some(product), &lower, factor, level, scale)?
            };
        }
        let product = self.arithmetic.relinearize(product)?;
        let value = self.arithmetic.rescale(product)?;
        self.functions.insert(i, value.clone());
        Ok(value)
    }
}

/// Counts instead of computing.
pub(crate) struct Symbolic<'a> {
    /// Without parameters, transforms are not counted.
    params: Option<&'a Parameters>,
    cost: Cost,
}

/// Level, and whether the degree is 2.
#[derive(Clone)]
pub(crate) struct SymbolicValue {
    level: usize,
    product: bool,
}

impl<'a> Symbolic<'a> {
    pub(crate) fn new(params: Option<&'a Parameters>) -> Self {
        Self { params, cost: Cost::default() }
    }

    /// A fresh input at a level.
    pub(crate) fn input(level: usize) -> SymbolicValue {
        SymbolicValue { level, product: false }
    }

    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }

    /// A rough price, in hundredths of a key switch, by which ways of evaluating are compared.
    pub(crate) fn weight(&self) -> u64 {
        let n = |counter| self.cost.get(counter);
        100 * n(Counter::Relinearizations)
            + 10 * n(Counter::Rescales)
            + 4 * n(Counter::CtCt)
            + 2 * n(Counter::CtPt)
    }
}

impl Arithmetic for Symbolic<'_> {
    type Value = SymbolicValue;

    fn level(&self, v: &SymbolicValue) -> usize {
        v.level
    }
    fn scale(&self, _: &SymbolicValue) -> f64 {
        1.0
    }
    fn set_scale(&self, _: &mut SymbolicValue, _: f64) {}
    fn prime(&self, _: usize) -> f64 {
        1.0
    }
    fn mul(&mut self, a: &SymbolicValue, b: &SymbolicValue) -> Result<SymbolicValue> {
        self.cost.count(Counter::CtCt, 1);
        Ok(SymbolicValue { level: a.level.min(b.level), product: true })
    }
    fn relinearize(&mut self, v: SymbolicValue) -> Result<SymbolicValue> {
        if v.product {
            self.cost += match self.params {
                Some(params) => cost::relinearize(params, v.level),
                None => Cost::of(Counter::Relinearizations, 1) + Cost::of(Counter::KeySwitches, 1),
            };
        }
        Ok(SymbolicValue { level: v.level, product: false })
    }
    fn rescale(&mut self, v: SymbolicValue) -> Result<SymbolicValue> {
        self.cost += match self.params {
            Some(params) => cost::rescale(params, v.level, 1 + usize::from(v.product)),
            None => Cost::of(Counter::Rescales, 1),
        };
        Ok(SymbolicValue { level: v.level.saturating_sub(1), product: v.product })
    }
    fn add(&mut self, acc: SymbolicValue, v: &SymbolicValue) -> Result<SymbolicValue> {
        Ok(SymbolicValue { level: acc.level, product: acc.product || v.product })
    }
    fn add_multiple(
        &mut self,
        acc: Option<SymbolicValue>,
        v: &SymbolicValue,
        _: f64,
        level: usize,
        _: f64,
    ) -> Result<SymbolicValue> {
        Ok(SymbolicValue { level, product: v.product || acc.is_some_and(|acc| acc.product) })
    }
    fn count_coefficient(&mut self) {
        self.cost.count(Counter::CtPt, 1);
    }
    fn add_constant(&mut self, acc: SymbolicValue, _: f64) -> Result<SymbolicValue> {
        Ok(acc)
    }
}

/// Ciphertexts.
struct Encrypted<'a> {
    evaluator: &'a Evaluator,
    keys: &'a EvaluationKeys,
}

impl Arithmetic for Encrypted<'_> {
    type Value = Ciphertext;

    fn level(&self, v: &Ciphertext) -> usize {
        v.level
    }
    fn scale(&self, v: &Ciphertext) -> f64 {
        v.scale
    }
    fn set_scale(&self, v: &mut Ciphertext, scale: f64) {
        v.scale = scale;
    }
    fn prime(&self, level: usize) -> f64 {
        self.evaluator.context().params().modulus_at(level) as f64
    }
    fn mul(&mut self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        let level = a.level.min(b.level);
        let dropped;
        let (a, b) = if a.level > level {
            dropped = self.evaluator.drop_level(a, level)?;
            (&dropped, b)
        } else if b.level > level {
            dropped = self.evaluator.drop_level(b, level)?;
            (a, &dropped)
        } else {
            (a, b)
        };
        self.evaluator.mul(a, b)
    }
    fn relinearize(&mut self, v: Ciphertext) -> Result<Ciphertext> {
        if v.degree() == 2 { self.evaluator.relinearize(&v, self.keys) } else { Ok(v) }
    }
    fn rescale(&mut self, v: Ciphertext) -> Result<Ciphertext> {
        self.evaluator.rescale(v)
    }
    fn add(&mut self, mut acc: Ciphertext, v: &Ciphertext) -> Result<Ciphertext> {
        self.evaluator.add_assign(&mut acc, v)?;
        Ok(acc)
    }
    fn add_multiple(
        &mut self,
        acc: Option<Ciphertext>,
        v: &Ciphertext,
        factor: f64,
        level: usize,
        scale: f64,
    ) -> Result<Ciphertext> {
        const OP: &str = "polynomial";
        let limit = self.evaluator.context().params().log2_q_at(level).min(126.0);
        if factor.abs().log2() >= limit {
            let log2_value = factor.abs().log2();
            return Err(Error::ValueTooLarge { op: OP, log2_value, log2_modulus: limit });
        }
        let mut multiple = self.evaluator.drop_level(v, level)?;
        multiple.seed = None;
        for poly in &mut multiple.polys {
            poly.mul_integer_assign(factor as i128)?;
        }
        multiple.scale = scale;
        match acc {
            None => Ok(multiple),
            Some(acc) => self.add(acc, &multiple),
        }
    }
    fn count_coefficient(&mut self) {
        count(Counter::CtPt, 1);
    }
    fn add_constant(&mut self, acc: Ciphertext, constant: f64) -> Result<Ciphertext> {
        if constant == 0.0 { Ok(acc) } else { self.evaluator.add_constant(&acc, constant) }
    }
}

impl Evaluator {
    /// Evaluates a polynomial slot by slot; the result is [`Polynomial::depth`] levels lower, at its nominal scale.
    ///
    /// For the Chebyshev basis the slots must lie in [-1, 1] (outside, values explode with the degree). Any input
    /// scale; nothing is lost to aligning it. Cost: [`Polynomial::cost_at`].
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`]; [`Error::DegreeMismatch`]; [`Error::LevelExhausted`] below the depth;
    /// [`Error::MissingKey`]; [`Error::ValueTooLarge`] for coefficients that do not fit the modulus.
    pub fn polynomial(
        &self,
        a: &Ciphertext,
        polynomial: &Polynomial,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        let level = a.level.saturating_sub(polynomial.depth());
        self.polynomial_to_scale(a, polynomial, self.context().params().scale_at(level), keys)
    }

    /// As [`Self::polynomial`], with any scale for the result.
    ///
    /// # Errors
    /// As [`Self::polynomial`]; [`Error::InvalidScale`].
    pub fn polynomial_to_scale(
        &self,
        a: &Ciphertext,
        polynomial: &Polynomial,
        scale: f64,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        const OP: &str = "polynomial";
        self.check(OP, a)?;
        Self::check_degree_1(OP, a)?;
        let level = a.level.saturating_sub(polynomial.depth());
        self.context().check_scale(OP, level, scale)?;
        let mut arithmetic = Encrypted { evaluator: self, keys };
        evaluate(&mut arithmetic, polynomial, a, polynomial.leaf_degree(), scale)
    }
}
