//! Paterson-Stockmeyer evaluation, written once over an arithmetic: ciphertexts, or a model that only counts.
//!
//! **Scales.** A value is *raw* at depth t if it lives at level L - t (L the input's level) and is not rescaled yet.
//! Everything that is summed there is brought to one and the same scale without spending anything: a term c b_i of a
//! leaf multiplies basis function b_i, of scale s_i, by the integer round(c * scale / s_i); a product q b_m asks its
//! left factor for the scale that, after that factor's own rescaling, gives `scale` when multiplied by that of b_m.
//! So every sum is exact, lands on any scale that is asked for, and costs one rescaling.
//!
//! *Tapered* scales (bootstrapping's modular reduction starts above its later scales) need two repairs. In a product of
//! basis functions of different scales the smaller one is multiplied by an integer. And a function whose scale is above
//! what is usual at the depth where it meets a left factor would push that factor's scale below it, and precision with
//! it: such a function is lowered to the usual scale, with one rescaling.
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
use cipherform_ring::RingPoly;
use num_complex::Complex64;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How much above the usual scale of its depth a function must be to be lowered: two bits; scales that are meant to be
/// the same differ by far less, tapered ones by three bits a level.
const LOWERED_ABOVE: f64 = 4.0;

/// What an evaluation needs. Levels of operands may differ: the lower one counts.
pub(crate) trait Arithmetic {
    /// A ciphertext, a batch of them, or a model.
    type Value: Clone;
    /// Its level.
    fn level(&self, v: &Self::Value) -> usize;
    /// Its scale.
    fn scale(&self, v: &Self::Value) -> f64;
    /// Declares the scale that an exact computation would have given.
    fn set_scale(&self, v: &mut Self::Value, scale: f64);
    /// What rescaling from a level divides by.
    fn prime(&self, level: usize) -> f64;
    /// Tensor product of values of degree 1.
    fn mul(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// Back to degree 1, if the degree is 2, and one level down.
    fn deliver(&mut self, v: Self::Value) -> Result<Self::Value>;
    /// `acc + v`, at the level and scale of `acc`.
    fn add(&mut self, acc: Self::Value, v: &Self::Value) -> Result<Self::Value>;
    /// `acc` and the multiples of `terms` by integers, one term at least, at a level and scale; `acc` may be missing.
    fn add_multiples(
        &mut self,
        acc: Option<Self::Value>,
        terms: &[(&Self::Value, f64)],
        level: usize,
        scale: f64,
    ) -> Result<Self::Value>;
    /// `factor v` for an integer, at a level and scale.
    fn multiple(
        &mut self,
        v: &Self::Value,
        factor: f64,
        level: usize,
        scale: f64,
    ) -> Result<Self::Value> {
        self.add_multiples(None, &[(v, factor)], level, scale)
    }
    /// Twice a value, at its scale.
    fn double(&mut self, v: Self::Value) -> Result<Self::Value>;
    /// i times a value.
    fn mul_i(&mut self, v: &Self::Value) -> Result<Self::Value>;
    /// Counts one product of a value with a coefficient.
    fn count_coefficient(&mut self, v: &Self::Value);
    /// `acc + constant`.
    fn add_constant(&mut self, acc: Self::Value, constant: Complex64) -> Result<Self::Value>;
}

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule<'a> {
    pub(crate) basis: Basis,
    /// Constant first; the last is not zero.
    pub(crate) coefficients: &'a [Complex64],
    /// The largest degree evaluated as a linear combination of basis functions.
    pub(crate) leaf: usize,
    /// Whether scales fall from level to level.
    pub(crate) tapered: bool,
}

impl Schedule<'_> {
    /// Levels that an evaluation takes: ceil(log2(degree + 1)).
    pub(crate) fn depth(&self) -> usize {
        ceil_log2(self.coefficients.len())
    }
}

/// Evaluates at `input`; the result is `depth` levels lower and has exactly the scale asked for.
pub(crate) fn evaluate<A: Arithmetic>(
    arithmetic: &mut A,
    schedule: Schedule<'_>,
    input: &A::Value,
    scale: f64,
) -> Result<A::Value> {
    let (level, depth) = (arithmetic.level(input), schedule.depth());
    if level < depth {
        return Err(Error::LevelExhausted { op: "polynomial", level, needed: depth });
    }
    let coefficients = schedule.coefficients.to_vec();
    if depth == 0 {
        let zero = arithmetic.multiple(input, 0.0, level, scale)?;
        return arithmetic.add_constant(zero, coefficients.first().copied().unwrap_or_default());
    }
    let functions = BTreeMap::from([(1, Rc::new(input.clone()))]);
    let (turned, lowered) = (BTreeMap::new(), BTreeMap::new());
    let mut evaluation = Evaluation { arithmetic, schedule, level, functions, turned, lowered };
    let scale_raw = scale * evaluation.arithmetic.prime(level + 1 - depth);
    let raw = evaluation.raw(coefficients, depth - 1, scale_raw)?;
    let mut result = arithmetic.deliver(raw)?;
    arithmetic.set_scale(&mut result, scale);
    Ok(result)
}

fn no_terms() -> Error {
    Error::InvalidArgument { op: "polynomial", detail: "a factor without terms".to_owned() }
}

struct Evaluation<'a, A: Arithmetic> {
    arithmetic: &'a mut A,
    schedule: Schedule<'a>,
    /// Level of the input.
    level: usize,
    /// Basis functions made so far, by degree.
    functions: BTreeMap<usize, Rc<A::Value>>,
    /// i times some of them: imaginary coefficients are then real ones of these.
    turned: BTreeMap<usize, Rc<A::Value>>,
    /// Copies of some at a lower scale and level.
    lowered: BTreeMap<usize, Rc<A::Value>>,
}

/// A multiple of a basis function, or of i times it.
struct Term {
    function: usize,
    turned: bool,
    factor: f64,
}

impl<A: Arithmetic> Evaluation<'_, A> {
    /// A polynomial of degree at least 1 as a raw value, of degree 2 possibly, at depth t and a scale.
    fn raw(&mut self, mut coefficients: Vec<Complex64>, t: usize, scale: f64) -> Result<A::Value> {
        let level = self.level - t;
        let mut sum: Option<A::Value> = None;
        let mut terms = Vec::new();
        loop {
            let degree = coefficients.len().saturating_sub(1);
            if degree <= self.schedule.leaf && (degree == 0 || ceil_log2(degree) <= t) {
                break;
            }
            let m = 1 << degree.ilog2();
            let (q, r) = divide(self.schedule.basis, &coefficients, m);
            if let [constant] = q.as_slice() {
                self.term(&mut terms, m, *constant, scale)?;
            } else {
                let function = self.factor(m, t, scale)?;
                let q_scale = scale / self.arithmetic.scale(&function);
                let q_raw = self.raw(q, t - 1, q_scale * self.arithmetic.prime(level + 1))?;
                let mut factor = self.arithmetic.deliver(q_raw)?;
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
            if c != Complex64::ZERO {
                self.term(&mut terms, i, c, scale)?;
            }
        }
        let functions = terms.iter().filter_map(|&Term { function, turned, factor }| {
            let known = if turned { &self.turned } else { &self.functions };
            Some((&**known.get(&function)?, factor))
        });
        let functions: Vec<(&A::Value, f64)> = functions.collect();
        if !functions.is_empty() {
            sum = Some(self.arithmetic.add_multiples(sum, &functions, level, scale)?);
        }
        let sum = sum.ok_or_else(no_terms)?;
        self.arithmetic.add_constant(sum, coefficients.first().copied().unwrap_or_default())
    }

    /// Adds `c b_i` at a scale to the terms of a sum.
    fn term(&mut self, terms: &mut Vec<Term>, i: usize, c: Complex64, scale: f64) -> Result<()> {
        let function = self.function(i)?;
        let unit = scale / self.arithmetic.scale(&function);
        self.arithmetic.count_coefficient(&function);
        if c.im != 0.0 {
            if !self.turned.contains_key(&i) {
                let turned = Rc::new(self.arithmetic.mul_i(&function)?);
                self.turned.insert(i, turned);
            }
            terms.push(Term { function: i, turned: true, factor: (c.im * unit).round() });
        }
        if c.re != 0.0 || c.im == 0.0 {
            terms.push(Term { function: i, turned: false, factor: (c.re * unit).round() });
        }
        Ok(())
    }

    /// The basis function of degree m as the right factor of a product that is raw at depth t and a scale.
    fn factor(&mut self, m: usize, t: usize, scale: f64) -> Result<Rc<A::Value>> {
        let function = self.function(m)?;
        // Two factors of equal scales would have this one.
        let usual = scale.sqrt();
        let have = self.arithmetic.scale(&function);
        let level = self.level - t;
        if !self.schedule.tapered
            || have <= LOWERED_ABOVE * usual
            || self.arithmetic.level(&function) <= level
        {
            return Ok(function);
        }
        if let Some(known) = self.lowered.get(&m)
            && self.arithmetic.level(known) >= level
        {
            return Ok(known.clone());
        }
        let prime = self.arithmetic.prime(level + 1);
        let integer = (usual * prime / have).round();
        let raw_scale = have * integer;
        let raw = self.arithmetic.multiple(&function, integer, level + 1, raw_scale)?;
        let mut low = self.arithmetic.deliver(raw)?;
        self.arithmetic.set_scale(&mut low, raw_scale / prime);
        let low = Rc::new(low);
        self.lowered.insert(m, low.clone());
        Ok(low)
    }

    /// The basis function of degree i >= 1, at depth ceil(log2 i).
    ///
    /// Split into the largest power of two below i and the rest, so that odd polynomials only make odd functions and
    /// powers of two: T_i = 2 T_a T_b - T_(a-b), a >= b; x^i = x^a x^b.
    fn function(&mut self, i: usize) -> Result<Rc<A::Value>> {
        if let Some(known) = self.functions.get(&i) {
            return Ok(known.clone());
        }
        let a = i.next_power_of_two() / 2;
        let b = i - a;
        let (left, mut right) = (self.function(a)?, self.function(b)?);
        let lift = (self.arithmetic.scale(&left) / self.arithmetic.scale(&right)).round();
        if self.schedule.tapered && lift > 1.0 {
            let (level, scale) =
                (self.arithmetic.level(&right), self.arithmetic.scale(&right) * lift);
            right = Rc::new(self.arithmetic.multiple(&right, lift, level, scale)?);
        }
        let mut product = self.arithmetic.mul(&left, &right)?;
        if self.schedule.basis == Basis::Chebyshev {
            product = self.arithmetic.double(product)?;
            product = if a == b {
                self.arithmetic.add_constant(product, -Complex64::ONE)?
            } else {
                let lower = self.function(a - b)?;
                let (level, scale) =
                    (self.arithmetic.level(&product), self.arithmetic.scale(&product));
                let factor = -(scale / self.arithmetic.scale(&lower)).round();
                self.arithmetic.add_multiples(Some(product), &[(&lower, factor)], level, scale)?
            };
        }
        let value = Rc::new(self.arithmetic.deliver(product)?);
        self.functions.insert(i, value.clone());
        Ok(value)
    }
}

/// Counts instead of computing.
pub(crate) struct Symbolic<'a> {
    /// Without parameters, transforms are not counted and scales are all 1.
    params: Option<&'a Parameters>,
    /// Values that go through together.
    batch: u64,
    cost: Cost,
}

/// Level, scale, and whether the degree is 2.
#[derive(Clone)]
pub(crate) struct SymbolicValue {
    pub(crate) level: usize,
    pub(crate) scale: f64,
    pub(crate) product: bool,
}

impl<'a> Symbolic<'a> {
    pub(crate) fn new(params: Option<&'a Parameters>, batch: u64) -> Self {
        Self { params, batch, cost: Cost::default() }
    }

    /// A fresh input at a level and scale.
    pub(crate) fn input(level: usize, scale: f64) -> SymbolicValue {
        SymbolicValue { level, scale, product: false }
    }

    pub(crate) fn cost(&self) -> Cost {
        self.cost * self.batch
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
    fn scale(&self, v: &SymbolicValue) -> f64 {
        v.scale
    }
    fn set_scale(&self, v: &mut SymbolicValue, scale: f64) {
        v.scale = scale;
    }
    fn prime(&self, level: usize) -> f64 {
        self.params.map_or(1.0, |params| params.modulus_at(level) as f64)
    }
    fn mul(&mut self, a: &SymbolicValue, b: &SymbolicValue) -> Result<SymbolicValue> {
        self.cost.count(Counter::CtCt, 1);
        let (level, scale) = (a.level.min(b.level), a.scale * b.scale);
        Ok(SymbolicValue { level, scale, product: true })
    }
    fn deliver(&mut self, v: SymbolicValue) -> Result<SymbolicValue> {
        let relinearize =
            || Cost::of(Counter::Relinearizations, 1) + Cost::of(Counter::KeySwitches, 1);
        self.cost += match (self.params, v.product) {
            (Some(params), true) => cost::relinearize_rescale(params, v.level),
            (Some(params), false) => cost::rescale(params, v.level, 1),
            (None, true) => relinearize() + Cost::of(Counter::Rescales, 1),
            (None, false) => Cost::of(Counter::Rescales, 1),
        };
        let scale = v.scale / self.prime(v.level);
        Ok(SymbolicValue { level: v.level.saturating_sub(1), scale, product: false })
    }
    fn add(&mut self, acc: SymbolicValue, v: &SymbolicValue) -> Result<SymbolicValue> {
        Ok(SymbolicValue { product: acc.product || v.product, ..acc })
    }
    fn add_multiples(
        &mut self,
        acc: Option<SymbolicValue>,
        terms: &[(&SymbolicValue, f64)],
        level: usize,
        scale: f64,
    ) -> Result<SymbolicValue> {
        let product = terms.iter().any(|(v, _)| v.product) || acc.is_some_and(|acc| acc.product);
        Ok(SymbolicValue { level, scale, product })
    }
    fn double(&mut self, v: SymbolicValue) -> Result<SymbolicValue> {
        Ok(v)
    }
    fn mul_i(&mut self, v: &SymbolicValue) -> Result<SymbolicValue> {
        Ok(v.clone())
    }
    fn count_coefficient(&mut self, _: &SymbolicValue) {
        self.cost.count(Counter::CtPt, 1);
    }
    fn add_constant(&mut self, acc: SymbolicValue, _: Complex64) -> Result<SymbolicValue> {
        Ok(acc)
    }
}

/// Ciphertexts, a batch of one level and scale: they share every pass over the key.
pub(crate) struct Encrypted<'a> {
    pub(crate) evaluator: &'a Evaluator,
    pub(crate) keys: &'a EvaluationKeys,
}

impl Arithmetic for Encrypted<'_> {
    type Value = Vec<Ciphertext>;

    fn level(&self, v: &Vec<Ciphertext>) -> usize {
        v.first().map_or(0, Ciphertext::level)
    }
    fn scale(&self, v: &Vec<Ciphertext>) -> f64 {
        v.first().map_or(1.0, Ciphertext::scale)
    }
    fn set_scale(&self, v: &mut Vec<Ciphertext>, scale: f64) {
        for ct in v {
            ct.scale = scale;
        }
    }
    fn prime(&self, level: usize) -> f64 {
        self.evaluator.context().params().modulus_at(level) as f64
    }
    fn mul(&mut self, a: &Vec<Ciphertext>, b: &Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        a.iter().zip(b).map(|(a, b)| self.evaluator.mul_at_lower(a, b)).collect()
    }
    fn deliver(&mut self, v: Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        if v.iter().any(|ct| ct.degree() == 2) {
            self.evaluator.relinearize_rescale(&v, self.keys)
        } else {
            self.evaluator.rescale_batch(v)
        }
    }
    fn add(&mut self, mut acc: Vec<Ciphertext>, v: &Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        for (acc, v) in acc.iter_mut().zip(v) {
            self.evaluator.add_assign(acc, v)?;
        }
        Ok(acc)
    }
    fn add_multiples(
        &mut self,
        acc: Option<Vec<Ciphertext>>,
        terms: &[(&Vec<Ciphertext>, f64)],
        level: usize,
        scale: f64,
    ) -> Result<Vec<Ciphertext>> {
        const OP: &str = "polynomial";
        let e = self.evaluator;
        let limbs = e.context().params().limbs_at(level);
        let factors = terms.iter().map(|(_, factor)| e.integer(OP, *factor, level));
        let factors = factors.collect::<Result<Vec<_>>>()?;
        // Polynomial h of member j of the batch, of every term.
        let multiples = |j: usize, h: usize| -> Vec<(&RingPoly, i128)> {
            let terms = terms.iter().zip(&factors);
            terms.filter_map(|((v, _), &factor)| Some((v.get(j)?.polys.get(h)?, factor))).collect()
        };
        let Some(acc) = acc else {
            let first: &[Ciphertext] = terms.first().map_or(&[], |(v, _)| v);
            let sum = |(j, ct): (usize, &Ciphertext)| {
                let polys =
                    (0..ct.polys.len()).map(|h| RingPoly::combination(limbs, &multiples(j, h)));
                Ok(e.ciphertext(ct.secret, level, scale, polys.collect::<Result<_, _>>()?))
            };
            return first.iter().enumerate().map(sum).collect();
        };
        let add = |(j, mut ct): (usize, Ciphertext)| {
            let polys = ct.polys.into_iter().enumerate();
            let polys = polys.map(|(h, poly)| poly.add_combination(&multiples(j, h)));
            ct.polys = polys.collect::<Result<_, _>>()?;
            ct.seed = None;
            Ok(ct)
        };
        acc.into_iter().enumerate().map(add).collect()
    }
    fn double(&mut self, mut v: Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        v.iter_mut().try_for_each(|ct| self.evaluator.mul_integer_assign(ct, 2))?;
        Ok(v)
    }
    fn mul_i(&mut self, v: &Vec<Ciphertext>) -> Result<Vec<Ciphertext>> {
        v.iter().map(|ct| self.evaluator.mul_i(ct)).collect()
    }
    fn count_coefficient(&mut self, v: &Vec<Ciphertext>) {
        count(Counter::CtPt, v.len() as u64);
    }
    fn add_constant(
        &mut self,
        mut acc: Vec<Ciphertext>,
        constant: Complex64,
    ) -> Result<Vec<Ciphertext>> {
        if constant != Complex64::ZERO {
            let add = |ct| self.evaluator.add_constant_assign(ct, constant);
            acc.iter_mut().try_for_each(add)?;
        }
        Ok(acc)
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
        let mut out = self.polynomial_batch(std::slice::from_ref(a), polynomial, scale, keys)?;
        out.pop().ok_or(Error::LevelExhausted { op: OP, level: a.level, needed: level })
    }

    /// Evaluates a polynomial on a batch of ciphertexts of degree 1 and of one level and scale.
    pub(crate) fn polynomial_batch(
        &self,
        batch: &[Ciphertext],
        polynomial: &Polynomial,
        scale: f64,
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>> {
        let mut arithmetic = Encrypted { evaluator: self, keys };
        let coefficients = polynomial.complex_coefficients();
        evaluate(&mut arithmetic, polynomial.schedule(&coefficients), &batch.to_vec(), scale)
    }
}
