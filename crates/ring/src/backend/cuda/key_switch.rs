//! Key switches: digits finished, multiplied with the key and forgotten, in one kernel.

use super::Cuda;
use super::abi::{KEY_DIGITS, Lazy, MAX_PRIMES, MEMBERS, Member as Operands, Switch};
use super::buffer::Buf;
use super::driver::Kernel;
use super::tables::SMALL;
use crate::backend::{KeySwitch, Member, Source, SwitchSum, View};
use crate::basis::Limbs;
use crate::error::Result;

impl Cuda {
    /// `Backend::key_switch_many`.
    pub(super) fn switches(
        &self,
        members: &[Member<'_, Buf>],
        switch: &KeySwitch<'_, Buf>,
    ) -> Result<Vec<[Buf; 2]>> {
        let mut out = Vec::with_capacity(members.len());
        let mut rest = members;
        while let Some(first) = rest.first() {
            let fused = self.n > SMALL && switch.keys.len() <= KEY_DIGITS;
            let polys = rest.iter().take(MEMBERS).map_while(|member| match &member.source {
                Source::Poly(a) if fused => Some(a),
                _ => None,
            });
            let polys: Vec<&View<'_, Buf>> = polys.collect();
            let taken = polys.len().max(1);
            let (now, later) = rest.split_at(taken);
            if polys.is_empty() {
                out.push(self.product(first, switch)?);
            } else {
                out.extend(self.fused(&polys, now, switch, None)?);
            }
            rest = later;
        }
        Ok(out)
    }

    /// `Backend::key_switch_sum`.
    pub(super) fn switch_sum(
        &self,
        member: &Member<'_, Buf>,
        switch: &KeySwitch<'_, Buf>,
        sum: &SwitchSum<'_, Buf>,
    ) -> Result<[Buf; 2]> {
        let Source::Poly(a) = &member.source else { return switch.compose_sum(self, member, sum) };
        if self.n <= SMALL || switch.keys.len() > KEY_DIGITS {
            return switch.compose_sum(self, member, sum);
        }
        let mut pairs = self.fused(&[a], std::slice::from_ref(member), switch, Some(sum))?;
        pairs.pop().map_or_else(|| Buf::pair(&self.gpu, switch.limbs.rows() * self.n), Ok)
    }

    /// Operands that do not depend on digits: members, results, automorphism.
    fn switch_operands(
        &self,
        members: &[Member<'_, Buf>],
        limbs: Limbs,
        special: &[u64],
        galois: u32,
    ) -> Result<(Switch, Vec<[Buf; 2]>)> {
        let words = limbs.rows() * self.n;
        let mut operands = [Operands::default(); MEMBERS];
        let mut out = Vec::with_capacity(members.len());
        for (to, member) in operands.iter_mut().zip(members) {
            for (to, plus) in to.plus.iter_mut().zip(&member.plus) {
                if let Some(plus) = plus {
                    *to = plus.buf.at(0, limbs.q * self.n)?;
                }
            }
            // One piece of memory, so that a division takes both halves at once.
            let halves: [Buf; 2] = Buf::pair(&self.gpu, words)?;
            to.out = [halves[0].at(0, words)?, halves[1].at(0, words)?];
            out.push(halves);
        }
        let special = if special.is_empty() {
            [Lazy::default(); MAX_PRIMES]
        } else {
            self.scalars(Limbs::q(limbs.q), special, true).of
        };
        let operands = Switch {
            keys: [[0; 2]; KEY_DIGITS],
            digits: [0; KEY_DIGITS],
            members: operands,
            key_q: [[0; 2]; KEY_DIGITS],
            own: [[0; 2]; KEY_DIGITS],
            count: 0,
            accumulate: 0,
            galois,
            log_n: self.n.trailing_zeros(),
            member_count: members.len() as u32,
            rows: limbs.rows() as u32,
            special,
        };
        Ok((operands, out))
    }

    fn set_keys(&self, operands: &mut Switch, keys: &[[View<'_, Buf>; 2]]) -> Result<()> {
        operands.count = keys.len() as u32;
        for (d, key) in keys.iter().enumerate() {
            for (h, half) in key.iter().enumerate() {
                operands.keys[d][h] = half.buf.at(0, half.limbs.rows() * self.n)?;
                operands.key_q[d][h] = half.limbs.q as u32;
            }
        }
        Ok(())
    }

    /// The exponent of the inverse of the automorphism, 0 for none.
    fn inverse_galois(&self, switch: &KeySwitch<'_, Buf>) -> u32 {
        let Some(galois) = switch.galois else { return 0 };
        // g^(n/2 - 1) inverts g modulo 2n: odd numbers have order n/2 at most.
        let mask = 2 * self.n as u64 - 1;
        let (mut inverse, mut square, mut e) = (1u64, galois.get(), self.n as u64 / 2 - 1);
        while e > 0 {
            if e & 1 == 1 {
                inverse = inverse.wrapping_mul(square) & mask;
            }
            square = square.wrapping_mul(square) & mask;
            e >>= 1;
        }
        inverse as u32
    }

    /// A key switch from digits, which are made first where there are none.
    pub(super) fn product(
        &self,
        member: &Member<'_, Buf>,
        switch: &KeySwitch<'_, Buf>,
    ) -> Result<[Buf; 2]> {
        let limbs = switch.limbs;
        let decomposed;
        let digits: Vec<&Buf> = match &member.source {
            Source::Digits(digits) => digits.clone(),
            Source::Poly(a) => {
                decomposed = self.digits(a, limbs.q)?;
                decomposed.iter().collect()
            }
        };
        let galois = self.inverse_galois(switch);
        let words = limbs.rows() * self.n;
        let one = std::slice::from_ref(member);
        let (operands, out) = self.switch_operands(one, limbs, &switch.special, galois)?;
        // Partial sums of many digits are read again, so they must be where they are written.
        let groups = digits.len().div_ceil(KEY_DIGITS);
        let chunks = digits.chunks(KEY_DIGITS).zip(switch.keys.chunks(KEY_DIGITS));
        for (index, (digits, keys)) in chunks.enumerate() {
            let mut operands = operands;
            operands.accumulate = u32::from(index > 0);
            if groups > 1 {
                operands.galois = 0;
            }
            if index + 1 < groups {
                operands.members[0].plus = [0; 2];
            }
            for (to, digit) in operands.digits.iter_mut().zip(digits) {
                *to = digit.at(0, words)?;
            }
            self.set_keys(&mut operands, keys)?;
            self.each(Kernel::KeyProduct, limbs, self.n / 2, &[&operands])?;
        }
        let pair = out.into_iter().next().map_or_else(|| Buf::pair(&self.gpu, words), Ok)?;
        match switch.galois {
            Some(galois) if groups > 1 => {
                let image = |buf| self.image(&View { buf, limbs }, limbs, galois);
                Ok([image(&pair[0])?, image(&pair[1])?])
            }
            _ => Ok(pair),
        }
    }

    /// Key switches of up to 8 polynomials, n > 4096; one if it is a step of a sum.
    fn fused(
        &self,
        polys: &[&View<'_, Buf>],
        members: &[Member<'_, Buf>],
        switch: &KeySwitch<'_, Buf>,
        sum: Option<&SwitchSum<'_, Buf>>,
    ) -> Result<Vec<[Buf; 2]>> {
        let (n, limbs, digits, count) = (self.n, switch.limbs, switch.keys.len(), polys.len());
        let plan = self.decomposition(limbs.q)?;
        let rows = digits * limbs.rows();
        let (prepared, scratch) = (self.words(count * limbs.q)?, self.words(count * rows)?);
        let sources: Vec<u64> =
            polys.iter().map(|a| a.buf.at(0, limbs.q * n)).collect::<Result<_>>()?;
        let galois = self.inverse_galois(switch);
        let (mut operands, out) = self.switch_operands(members, limbs, &switch.special, galois)?;
        self.set_keys(&mut operands, &switch.keys)?;
        for (to, &source) in operands.members.iter_mut().zip(&sources) {
            to.a = source;
        }
        for (to, own) in operands.own.iter_mut().zip(&plan.own) {
            *to = [own.start as u32, own.end as u32];
        }
        if let (Some(sum), [member, ..]) = (sum, &mut operands.members) {
            let words = limbs.rows() * n;
            member.lifted = sum.lifted.buf.at(0, words)?;
            if let Some([next0, next1]) = &sum.next {
                member.next = [next0.buf.at(0, words)?, next1.buf.at(0, words)?];
            }
        }
        let (prepared, halves) =
            (prepared.at(0, count * limbs.q * n)?, scratch.at(0, count * rows * n)?);
        self.extend(&sources, prepared, halves, rows * n, &plan.extension)?;
        self.rows_switch(limbs, halves, &operands)?;
        Ok(out)
    }
}
