//! Rotations and conjugation, one at a time or hoisted.

use crate::ciphertext::Ciphertext;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::rlwe::{EvaluationKeys, KeyKind};
use cipherform_profile::{Counter, count, primitive};
use cipherform_ring::RingPoly;

impl Evaluator {
    /// Rotates the slots left by `k`: slot j of the result is slot j + k, cyclically. Negative amounts rotate right.
    ///
    /// Counts one `rotations` and one `key_switches`; nothing for a multiple of the number of slots.
    ///
    /// # Errors
    /// [`crate::Error::ParameterMismatch`]; [`crate::Error::DegreeMismatch`] unless the degree is 1;
    /// [`crate::Error::MissingKey`] names the rotation and the level.
    pub fn rotate(&self, a: &Ciphertext, k: i64, keys: &EvaluationKeys) -> Result<Ciphertext> {
        self.check("rotate", a)?;
        KeyKind::rotation(k, self.context().params().slots())
            .map_or_else(|| Ok(a.clone()), |kind| self.automorphism("rotate", a, kind, keys))
    }

    /// Conjugates every slot. Counts one `rotations` and one `key_switches`.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    pub fn conjugate(&self, a: &Ciphertext, keys: &EvaluationKeys) -> Result<Ciphertext> {
        self.automorphism("conjugate", a, KeyKind::Conjugation, keys)
    }

    fn automorphism(
        &self,
        op: &'static str,
        a: &Ciphertext,
        kind: KeyKind,
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        self.check(op, a)?;
        keys.check(op, a)?;
        Self::check_degree_1(op, a)?;
        let ([c0, c1], Some([g, _])) =
            (a.polys.as_slice(), kind.galois_elements(self.context().params().n()))
        else {
            return Err(Error::DegreeMismatch { op, degree: a.degree(), needed: 1 });
        };
        let key = keys.get(kind, a.level)?;
        let _span = primitive("key_switch");
        count(Counter::Rotations, 1);
        count(Counter::KeySwitches, 1);
        let [k0, k1] = c1.key_switch(&key, [Some(c0), None], Some(g))?;
        Ok(self.ciphertext(a.secret, a.level, a.scale, RingPoly::mod_down_many(vec![k0, k1], 0)?))
    }

    /// Sum of ciphertexts, each rotated by its own amount: the key switches share one division by P, which also leaves one
    /// rounding instead of one a term. `rotate` and `add` give the same up to that rounding.
    ///
    /// Counts one `rotations`, `key_switches` and `lazy` for each amount that is not the identity.
    ///
    /// # Errors
    /// As [`Self::rotate`], and of every term with the first as [`Self::add`]; [`Error::EmptySum`] without terms. All keys are
    /// looked up before any work is done.
    pub fn sum_rotated(
        &self,
        terms: &[(&Ciphertext, i64)],
        keys: &EvaluationKeys,
    ) -> Result<Ciphertext> {
        const OP: &str = "sum_rotated";
        let &[(first, _), ..] = terms else { return Err(Error::EmptySum { op: OP }) };
        let params = self.context().params();
        let mut plan = Vec::with_capacity(terms.len());
        for &(term, k) in terms {
            self.check_sum(OP, first, term)?;
            keys.check(OP, term)?;
            Self::check_degree_1(OP, term)?;
            let kind = KeyKind::rotation(k, params.slots());
            if let Some(kind) = kind {
                keys.require(kind, term.level)?;
            }
            plan.push((term, kind));
        }
        let mut still: Option<Ciphertext> = None;
        let mut moved: Option<[RingPoly; 2]> = None;
        for (term, kind) in plan {
            let galois = kind.and_then(|kind| Some((kind, kind.galois_elements(params.n())?[0])));
            let (Some((kind, g)), [c0, c1]) = (galois, term.polys.as_slice()) else {
                match &mut still {
                    Some(sum) => self.add_assign(sum, term)?,
                    None => still = Some(term.clone()),
                }
                continue;
            };
            let key = keys.get(kind, term.level)?;
            let _span = primitive("key_switch");
            count(Counter::Rotations, 1);
            count(Counter::KeySwitches, 1);
            count(Counter::Lazy, 1);
            let switched = c1.key_switch(&key, [Some(c0), None], Some(g))?;
            match &mut moved {
                Some(sum) => {
                    for (sum, half) in sum.iter_mut().zip(&switched) {
                        sum.add_assign(half)?;
                    }
                }
                None => moved = Some(switched),
            }
        }
        match (moved, still) {
            (None, Some(still)) => Ok(still),
            (None, None) => Err(Error::EmptySum { op: OP }),
            (Some(mut moved), still) => {
                if let Some(still) = still {
                    for (sum, half) in moved.iter_mut().zip(&still.polys) {
                        sum.add_special_multiple_assign(half)?;
                    }
                }
                let polys = RingPoly::mod_down_many(moved.into(), 0)?;
                Ok(self.ciphertext(first.secret, first.level, first.scale, polys))
            }
        }
    }

    /// Rotates by many amounts with one digit decomposition: each rotation costs an inner product and a mod-down.
    ///
    /// Counts one `rotations`, `key_switches` and `hoisted` for each amount that is not the identity.
    ///
    /// # Errors
    /// As [`Self::rotate`]; all keys are looked up before any work is done.
    ///
    /// Halevi and Shoup (ePrint 2018/244).
    pub fn hoisted_rotations(
        &self,
        a: &Ciphertext,
        amounts: &[i64],
        keys: &EvaluationKeys,
    ) -> Result<Vec<Ciphertext>> {
        const OP: &str = "hoisted_rotations";
        self.check(OP, a)?;
        let params = self.context().params();
        keys.check(OP, a)?;
        Self::check_degree_1(OP, a)?;
        let [c0, c1] = a.polys.as_slice() else {
            return Err(Error::DegreeMismatch { op: OP, degree: a.degree(), needed: 1 });
        };
        let plan = amounts
            .iter()
            .map(|&k| {
                let Some(kind) = KeyKind::rotation(k, params.slots()) else { return Ok(None) };
                let Some([g, _]) = kind.galois_elements(params.n()) else { return Ok(None) };
                keys.require(kind, a.level)?;
                Ok(Some((g, kind)))
            })
            .collect::<Result<Vec<_>>>()?;
        if plan.iter().all(Option::is_none) {
            return Ok(plan.iter().map(|_| a.clone()).collect());
        }
        let _span = primitive("key_switch");
        let digits = c1.decompose()?;
        plan.into_iter()
            .map(|step| {
                let Some((g, kind)) = step else { return Ok(a.clone()) };
                let key = keys.get(kind, a.level)?;
                count(Counter::Rotations, 1);
                count(Counter::KeySwitches, 1);
                count(Counter::Hoisted, 1);
                let [k0, k1] = digits.key_switch(&key, [Some(c0), None], Some(g))?;
                Ok(self.ciphertext(
                    a.secret,
                    a.level,
                    a.scale,
                    RingPoly::mod_down_many(vec![k0, k1], 0)?,
                ))
            })
            .collect()
    }
}
