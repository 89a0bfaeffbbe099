//! The circuit itself, applied to ciphertexts.

use super::{BootstrapKind, Bootstrapper};
use crate::alignment::check_scales;
use crate::ciphertext::Ciphertext;
use crate::error::{Error, Result};
use crate::linear::LinearTransform;
use crate::paterson_stockmeyer::Encrypted;
use crate::rlwe::{EvaluationKeys, KeyKind};
use cipherform_profile::{Counter, count, primitive};
use cipherform_ring::RingPoly;

const OP: &str = "bootstrap";

/// What one bootstrap takes: one ciphertext, or two of real slots.
pub(super) type Inputs<'a> = [Option<&'a Ciphertext>; 2];

impl Bootstrapper {
    pub(super) fn run(
        &self,
        kind: BootstrapKind,
        batch: &[Inputs<'_>],
        keys: &EvaluationKeys,
    ) -> Result<Vec<[Option<Ciphertext>; 2]>> {
        for ct in batch.iter().flatten().flatten() {
            self.check_input(ct)?;
            keys.check(OP, ct)?;
        }
        if let Some(&spec) = keys.missing(&self.keys()).first() {
            return Err(Error::MissingKey { spec });
        }
        let _span = primitive(OP);
        count(Counter::Bootstraps, batch.len() as u64);
        let mut halves = Vec::new();
        for inputs in batch {
            let inputs: Vec<&Ciphertext> = inputs.iter().flatten().copied().collect();
            let z = self.embed(kind, &inputs, keys)?;
            let z =
                self.transform(z, &self.slots_to_coefficients, "slots_to_coefficients", keys)?;
            let x = self.raise(&z, keys)?;
            let w =
                self.transform(x, &self.coefficients_to_slots, "coefficients_to_slots", keys)?;
            halves.extend(self.split(kind, &w, keys)?);
        }
        let exponentials = {
            let _span = primitive("eval_mod");
            let mut arithmetic = Encrypted { evaluator: &self.evaluator, keys };
            self.eval_mod.apply(&mut arithmetic, &halves)?
        };
        let parts = if kind == BootstrapKind::Real { 1 } else { 2 };
        exponentials.chunks(parts).map(|parts| self.sines(kind, parts, keys)).collect()
    }

    fn check_input(&self, ct: &Ciphertext) -> Result<()> {
        let params = self.ctx.params();
        params.require_same(OP, ct.params())?;
        if ct.degree() != 1 {
            return Err(Error::DegreeMismatch { op: OP, degree: ct.degree(), needed: 1 });
        }
        let level = self.input_level();
        if ct.level() != level {
            return Err(Error::LevelMismatch { op: OP, lhs: ct.level(), rhs: level });
        }
        check_scales(OP, ct.scale(), params.scale_at(level))
    }

    /// Corrects the sine, if that is asked for, part by part, and joins two parts to one complex ciphertext.
    fn embed(
        &self,
        kind: BootstrapKind,
        inputs: &[&Ciphertext],
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        let e = &self.evaluator;
        let first = inputs.first().ok_or_else(super::nothing)?;
        let parts = match (&self.correction, kind) {
            (None, BootstrapKind::RealPair) => inputs.iter().map(|&ct| ct.clone()).collect(),
            (None, _) => return Ok((*first).clone()),
            (Some(_), BootstrapKind::Complex) => self.parts(first, keys)?,
            (Some(_), _) => inputs.iter().map(|&ct| ct.clone()).collect::<Vec<_>>(),
        };
        let parts = match &self.correction {
            None => parts,
            Some(polynomial) => {
                let _span = primitive("correction");
                // Slots over their bound, by declaration.
                let mut parts = parts;
                let bound = f64::from(self.options.log2_bound).exp2();
                for part in &mut parts {
                    part.scale *= bound;
                }
                let level = self.input_level() - polynomial.depth();
                let scale = self.ctx.params().scale_at(level) * super::plan::CORRECTION_GAIN;
                e.polynomial_batch(&parts, polynomial, scale, keys)?
            }
        };
        let [real, rest @ ..] = parts.as_slice() else { return Err(super::nothing()) };
        match rest.first() {
            None => Ok(real.clone()),
            Some(imaginary) => e.add(real, &e.mul_i(imaginary)?),
        }
    }

    /// Real and imaginary part of the slots: (z + conj z) / 2 and (z - conj z) / 2i.
    fn parts(&self, z: &Ciphertext, keys: &EvaluationKeys) -> Result<Vec<Ciphertext>> {
        let e = &self.evaluator;
        let conjugate = e.conjugate(z, keys)?;
        let mut parts = vec![e.add(z, &conjugate)?, times_minus_i(e.sub(z, &conjugate)?)?];
        parts.iter_mut().try_for_each(|part| part.reinterpret_scale(2.0 * z.scale()))?;
        Ok(parts)
    }

    fn transform(
        &self,
        mut ct: Ciphertext,
        stages: &[LinearTransform],
        name: &'static str,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        let _span = primitive(name);
        for stage in stages {
            ct = self.evaluator.linear_transform_rescale(&ct, stage, keys)?;
        }
        Ok(ct)
    }

    /// From q_0 to all primes: the coefficients x q_0, x = I + z / R, at scale q_0 times the number of repetitions.
    fn raise(&self, ct: &Ciphertext, keys: &EvaluationKeys) -> Result<Ciphertext> {
        let _span = primitive("raise");
        let (params, ring) = (self.ctx.params(), self.ctx.ring());
        let [c0, c1] = ct.polys.as_slice() else {
            return Err(Error::DegreeMismatch { op: OP, degree: ct.degree(), needed: 1 });
        };
        let top = params.max_level();
        let limbs = params.limbs_at(top);
        let switch = |c0: &RingPoly, c1: &RingPoly, kind, level| -> Result<Vec<RingPoly>> {
            count(Counter::KeySwitches, 1);
            let pair = c1.key_switch(&keys.get(kind, level)?, [Some(c0), None], None)?;
            Ok(RingPoly::mod_down_many(pair.into(), 0)?)
        };
        let small = self.ctx.key_ring(KeyKind::DenseToSparse)?;
        let (c0, c1) = (c0.rebase(small)?, c1.rebase(small)?);
        let raise = |c: RingPoly| c.rebase(ring)?.mod_raise(limbs);
        let sparse = switch(&c0, &c1, KeyKind::DenseToSparse, 0)?;
        let raised = sparse.into_iter().map(raise).collect::<Result<Vec<_>, _>>()?;
        let [c0, c1] = raised.as_slice() else { return Err(super::nothing()) };
        let polys = switch(c0, c1, KeyKind::SparseToDense, top)?;
        let base = params.modulus_at(0) as f64;
        let mut x = self.evaluator.ciphertext(ct.secret, top, base, polys);
        // What raising adds fills all coefficients: sum over the rotations that leave the slots alone.
        for sum in &self.repetition_sums {
            let terms = sum.terms() as f64;
            x = self.evaluator.linear_transform(&x, sum, keys)?;
            x.scale *= terms;
        }
        Ok(x)
    }

    /// w + conj(w) and (w - conj(w)) / i: x / L for the real and for the imaginary parts, all slots real.
    fn split(
        &self,
        kind: BootstrapKind,
        w: &Ciphertext,
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>> {
        let _span = primitive("split");
        let e = &self.evaluator;
        let conjugate = e.conjugate(w, keys)?;
        let mut halves = vec![e.add(w, &conjugate)?];
        if kind != BootstrapKind::Real {
            halves.push(times_minus_i(e.sub(w, &conjugate)?)?);
        }
        // Exact by construction of the diagonals; f64 has rounded a few times on the way.
        for half in &mut halves {
            half.scale = self.eval_mod.input_scale();
        }
        Ok(halves)
    }

    /// From E = exp(2 pi i x) to (E - conj E) / i = 2 sin(2 pi x), which at the output's scale reads as z.
    fn sines(
        &self,
        kind: BootstrapKind,
        exponentials: &[Ciphertext],
        keys: &EvaluationKeys,
    ) -> Result<[Option<Ciphertext>; 2]> {
        let _span = primitive("sines");
        let e = &self.evaluator;
        let scale = self.ctx.params().scale_at(self.output_level());
        let sine = |a: &Ciphertext, b: &Ciphertext| -> Result<Ciphertext> {
            let mut y = times_minus_i(e.sub(a, &e.conjugate(b, keys)?)?)?;
            y.reinterpret_scale(scale)?;
            Ok(y)
        };
        let [re, rest @ ..] = exponentials else { return Err(super::nothing()) };
        match (kind, rest) {
            (BootstrapKind::RealPair, [im]) => Ok([Some(sine(re, re)?), Some(sine(im, im)?)]),
            (BootstrapKind::Complex, [im]) => {
                // (E - conj E) + i (E' - conj E') = (E + i E') - conj(E - i E').
                let turned = e.mul_i(im)?;
                Ok([Some(sine(&e.add(re, &turned)?, &e.sub(re, &turned)?)?), None])
            }
            _ => Ok([Some(sine(re, re)?), None]),
        }
    }
}

/// Division by i: a monomial.
fn times_minus_i(mut a: Ciphertext) -> Result<Ciphertext> {
    let quarter = a.params.n() as i64 / 2;
    a.seed = None;
    a.polys.iter_mut().try_for_each(|p| p.mul_monomial_assign(-quarter))?;
    Ok(a)
}
