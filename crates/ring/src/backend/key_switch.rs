//! The operands of key switches and doubly hoisted sums, and both composed of other operations.

use super::{Backend, View};
use crate::automorphism::GaloisElement;
use crate::basis::Limbs;
use crate::error::Result;

/// What is multiplied with a key.
#[derive(Debug)]
pub(crate) enum Source<'a, B> {
    /// The digits of a polynomial with the q-limbs at least.
    Poly(View<'a, B>),
    /// Given digits.
    Digits(Vec<&'a B>),
}

/// One key switch of a batch.
#[derive(Debug)]
pub(crate) struct Member<'a, B> {
    pub(crate) source: Source<'a, B>,
    /// With the q-limbs at least; multiplied by P and added to the halves.
    pub(crate) plus: [Option<View<'a, B>>; 2],
}

/// What the members of a batch share, see [`Backend::key_switch`].
#[derive(Debug)]
pub(crate) struct KeySwitch<'a, B> {
    /// {q, all special}: of digits and results.
    pub(crate) limbs: Limbs,
    /// `P mod q_j` for the q-limbs.
    pub(crate) special: Vec<u64>,
    /// As many as there are digits.
    pub(crate) keys: Vec<[View<'a, B>; 2]>,
    /// Applied last.
    pub(crate) galois: Option<GaloisElement>,
}

impl<B> KeySwitch<'_, B> {
    /// The definition.
    pub(crate) fn compose<D: Backend<Buf = B>>(
        &self,
        device: &D,
        member: &Member<'_, B>,
    ) -> Result<[B; 2]> {
        let decomposed;
        let digits: Vec<&B> = match &member.source {
            Source::Poly(a) => {
                decomposed = device.decompose(a, self.limbs.q)?;
                decomposed.iter().collect()
            }
            Source::Digits(digits) => digits.clone(),
        };
        let plus = member.plus.each_ref().map(Option::as_ref);
        pair(device, &digits, self.limbs, &self.keys, plus, &self.special, self.galois)
    }
}

/// What goes into a sum kept times P besides a key switch, see [`Backend::key_switch_sum`]: views over exactly the limbs
/// of the switch.
#[derive(Debug)]
pub(crate) struct SwitchSum<'a, B> {
    /// Added to the first half before the automorphism.
    pub(crate) lifted: View<'a, B>,
    /// Added to the halves after it.
    pub(crate) next: Option<[View<'a, B>; 2]>,
}

impl<'a, B> KeySwitch<'a, B> {
    /// The definition of [`Backend::key_switch_sum`].
    pub(crate) fn compose_sum<D: Backend<Buf = B>>(
        &self,
        device: &D,
        member: &Member<'_, B>,
        sum: &SwitchSum<'_, B>,
    ) -> Result<[B; 2]> {
        let limbs = self.limbs;
        let halves = |key: &[View<'a, B>; 2]| {
            key.each_ref().map(|half| View { buf: half.buf, limbs: half.limbs })
        };
        let keys = self.keys.iter().map(halves).collect();
        let plain = KeySwitch { limbs, special: self.special.clone(), keys, galois: None };
        let mut halves = device.key_switch(member, &plain)?;
        device.add(&mut halves[0], limbs, &sum.lifted)?;
        if let Some(galois) = self.galois {
            let image = |buf| device.automorphism(&View { buf, limbs }, limbs, galois);
            halves = [image(&halves[0])?, image(&halves[1])?];
        }
        for (half, next) in halves.iter_mut().zip(sum.next.iter().flatten()) {
            device.add(half, limbs, next)?;
        }
        Ok(halves)
    }
}

/// `φ(P·plus[h] + Σ_d digits[d]·keys[d][h])`.
fn pair<D: Backend>(
    device: &D,
    digits: &[&D::Buf],
    limbs: Limbs,
    keys: &[[View<'_, D::Buf>; 2]],
    plus: [Option<&View<'_, D::Buf>>; 2],
    special: &[u64],
    galois: Option<GaloisElement>,
) -> Result<[D::Buf; 2]> {
    let mut halves = device.inner_product(digits, limbs, keys)?;
    for (half, plus) in halves.iter_mut().zip(plus) {
        if let Some(plus) = plus {
            device.mul_scalars_add(half, limbs, plus, special)?;
        }
    }
    let Some(galois) = galois else { return Ok(halves) };
    let image = |buf| device.automorphism(&View { buf, limbs }, limbs, galois);
    Ok([image(&halves[0])?, image(&halves[1])?])
}

/// `X -> X^g` after a key switch.
#[derive(Debug)]
pub(crate) struct BabyStep<'a, B> {
    pub(crate) galois: GaloisElement,
    /// As many as there are digits.
    pub(crate) keys: Vec<[View<'a, B>; 2]>,
}

/// A polynomial of `m` words a limb.
#[derive(Debug)]
pub(crate) struct Weight<'a, B> {
    pub(crate) words: View<'a, B>,
    pub(crate) m: usize,
}

/// The operands of [`Backend::hoisted_sums`]: pair_b is `(P·c0 + Σ_d digits[d]·keys[d][0], Σ_d digits[d]·keys[d][1])`,
/// φ_b its automorphism; a baby step `None` has the pair `(P·c0, P·c1)` and the identity.
#[derive(Debug)]
pub(crate) struct HoistedSums<'a, B> {
    pub(crate) n: usize,
    /// {q, all special}: of the digits and of the results.
    pub(crate) limbs: Limbs,
    pub(crate) digits: Vec<&'a B>,
    /// Over {q, 0} at least.
    pub(crate) c: [View<'a, B>; 2],
    /// `P mod q_j` for the q-limbs.
    pub(crate) special: Vec<u64>,
    pub(crate) babies: Vec<Option<BabyStep<'a, B>>>,
    /// `weights[g][b]`, `None` for 0.
    pub(crate) weights: Vec<Vec<Option<Weight<'a, B>>>>,
}

impl<B> HoistedSums<'_, B> {
    /// The definition, one baby step after the other.
    pub(crate) fn compose<D: Backend<Buf = B>>(&self, device: &D) -> Result<Vec<[B; 2]>> {
        let limbs = self.limbs;
        let zeros = || device.zeros(limbs.rows() * self.n);
        let mut sums =
            self.weights.iter().map(|_| Ok([zeros()?, zeros()?])).collect::<Result<Vec<_>>>()?;
        for (b, baby) in self.babies.iter().enumerate() {
            let pair = self.pair(device, baby.as_ref())?;
            for (sum, weights) in sums.iter_mut().zip(&self.weights) {
                let Some(Some(weight)) = weights.get(b) else { continue };
                for (sum, half) in sum.iter_mut().zip(&pair) {
                    let half = View { buf: half, limbs };
                    device.mul_subring_add(sum, limbs, &half, &weight.words, weight.m)?;
                }
            }
        }
        Ok(sums)
    }

    fn pair<D: Backend<Buf = B>>(
        &self,
        device: &D,
        baby: Option<&BabyStep<'_, B>>,
    ) -> Result<[B; 2]> {
        let limbs = self.limbs;
        let [c0, c1] = &self.c;
        let Some(BabyStep { galois, keys }) = baby else {
            let mut pair =
                [device.zeros(limbs.rows() * self.n)?, device.zeros(limbs.rows() * self.n)?];
            for (half, c) in pair.iter_mut().zip([c0, c1]) {
                device.mul_scalars_add(half, limbs, c, &self.special)?;
            }
            return Ok(pair);
        };
        pair(device, &self.digits, limbs, keys, [Some(c0), None], &self.special, Some(*galois))
    }
}
