//! Every instruction set and degree against `tfhe-ntt`, whose order and root the crate promises.

use super::*;
use crate::backend::cpu::lanes::Isa;
use crate::device::InstructionSet;
use crate::{ntt, primes::is_ntt_friendly};
use tfhe_ntt::prime64::Plan;

fn isas() -> impl Iterator<Item = Isa> {
    [InstructionSet::Avx512Ifma, InstructionSet::Avx2, InstructionSet::Scalar]
        .into_iter()
        .flat_map(Isa::new)
}

/// The largest friendly prime below `2^bits`.
fn prime(bits: u32, n: usize) -> Modulus {
    let step = 2 * n as u64;
    let top = ((1u64 << bits) - 1) / step * step + 1;
    let mut candidates = (0..).map(|i| top - i * step);
    Modulus::new(candidates.find(|&p| p < 1 << bits && is_ntt_friendly(p, n)).unwrap()).unwrap()
}

/// Pseudo-random residues, all zero, all p - 1, and extremes that alternate with different periods.
fn rows(n: usize, p: u64) -> Vec<Vec<u64>> {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 14) % p
    };
    let random = (0..n).map(|_| random()).collect();
    let alternating = |period: usize| {
        (0..n).map(|i| if (i / period).is_multiple_of(2) { p - 1 } else { p / 2 }).collect()
    };
    let mut rows = vec![random, vec![0; n], vec![p - 1; n], vec![p / 2; n]];
    rows.extend([1, 3, 8, 256, n / 2].map(alternating));
    rows
}

fn agrees(n: usize, bits: u32) {
    let modulus = prime(bits, n);
    let p = modulus.value();
    let plan = Plan::try_new(n, p).unwrap();
    let psi = ntt::root(n, &modulus).unwrap();
    for isa in isas() {
        let constants = Constants::new(&modulus, isa);
        let transform = Transform::new(n, &constants, psi).unwrap();
        for row in rows(n, p) {
            let (mut got, mut expected) = (row.clone(), row.clone());
            transform.forward(&mut got);
            plan.fwd(&mut expected);
            assert!(got == expected, "forward, n = {n}, p = {p}, {isa:?}");

            let mut expected = row.clone();
            plan.inv(&mut expected);
            for (factor, constant) in [(1, 0), (p - 1, p - 1), (p / 2, 5)] {
                let expected: Vec<u64> = expected
                    .iter()
                    .map(|&x| modulus.add(modulus.mul(x, factor), constant))
                    .collect();
                let factor = Factor::new(factor, &modulus);
                got.fill(7);
                transform.inverse_of(&row, &mut got, factor, constant);
                assert!(got == expected, "inverse, n = {n}, p = {p}, {isa:?}");
                got.copy_from_slice(&row);
                transform.inverse(&mut got, factor, constant);
                assert!(got == expected, "inverse in place, n = {n}, p = {p}, {isa:?}");
            }
        }
    }
}

#[test]
fn every_degree_agrees() {
    for log_n in 4..=17 {
        agrees(1 << log_n, 50);
    }
}

#[test]
fn small_primes_agree() {
    for (log_n, bits) in [(10, 15), (11, 28), (13, 30), (16, 28), (16, 40)] {
        agrees(1 << log_n, bits);
    }
}
