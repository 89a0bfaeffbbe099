//! Laws of key switching, on every device.
//!
//! | test | law |
//! | --- | --- |
//! | special_multiples | P·c joins before the division by P |
//! | digits_are_congruent | every digit is one integer congruent to x modulo D, below size · D / 2 in absolute value |
//! | key_switch_shape | Σ digits · gadget recovers the input after mod_down |
//! | key_switches | one pass equals its parts, from polynomials, digits and in batches |
//! | batches | inner products of a batch are those of its members |
//! | hoisted_sums | equal weighted sums of separate key switches, exactly; keys and weights with more limbs |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "a device is passed as the library takes it"
)]

mod common;

use cipherform_ring::{
    Baby, Device, Digits, Error, GaloisElement, Limbs, Ring, RingPoly, RnsBasis, SubringPoly,
};
use common::{integers, mixed_ring, product, random, random_key, samples, sum, words};
use num_bigint::BigUint;
use std::sync::Arc;

on_devices! {
    special_multiples digits_are_congruent key_switch_shape key_switches batches hoisted_sums
}

fn special_multiples(device: &Device) {
    let ring = mixed_ring(16, device);
    for limbs in [Limbs { q: 4, p: 3 }, Limbs { q: 1, p: 3 }] {
        for c in samples(&ring, Limbs::q(5)) {
            let noise = random(&ring, limbs, 3);
            let mut joined = noise.clone();
            joined.add_special_multiple_assign(&c).unwrap();
            let mut apart = noise.mod_down().unwrap();
            apart.add_assign(&c).unwrap();
            assert_eq!(words(&joined.mod_down().unwrap()), words(&apart));
        }
    }
}

fn digits_are_congruent(device: &Device) {
    let ring = mixed_ring(32, device);
    let basis = ring.basis();
    for q in 1..=6 {
        for a in samples(&ring, Limbs::q(q)) {
            let (x, _) = integers(&a);
            let digits = a.decompose().unwrap();
            assert_eq!(digits.len(), basis.digits_at(q).count());
            assert_eq!(digits.limbs(), Limbs { q, p: 3 });
            for (i, range) in basis.digits_at(q).enumerate() {
                let (lifted, modulus) = integers(&digits.digit(i).unwrap());
                let d: BigUint =
                    basis.q()[range.clone()].iter().map(|m| BigUint::from(m.value())).product();
                for (x, lifted) in x.iter().zip(lifted) {
                    assert_eq!(x % &d, &lifted % &d);
                    // |lifted| <= Σ_i (q_i - 1)/2 · (D/q_i) < size · D / 2.
                    let magnitude =
                        if lifted > &modulus / 2u32 { &modulus - lifted } else { lifted };
                    assert!(2u32 * magnitude < &d * range.len(), "digit {i} at {q} limbs");
                }
            }
        }
    }
}

/// The gadget: for digit d, P · (Q/D)·[(Q/D)^-1]_D, i.e. P on the digit's own limbs and 0 on all others.
fn gadget(ring: &Arc<Ring>, digit: std::ops::Range<usize>) -> RingPoly {
    let basis = ring.basis();
    let all = basis.all_limbs();
    let residue = |row: usize, m: &cipherform_ring::Modulus| {
        if digit.contains(&row) {
            basis.p().iter().fold(1, |product, p| m.mul(product, m.reduce(p.value() as u128)))
        } else {
            0
        }
    };
    let rows = basis.row_moduli(all).enumerate();
    let words = rows.flat_map(|(row, m)| vec![residue(row, m); ring.n()]).collect();
    RingPoly::from_residues(ring, all, words).unwrap()
}

fn key_switch_shape(device: &Device) {
    let ring = mixed_ring(32, device);
    let all = ring.basis().all_limbs();
    for q in 1..=6 {
        let a = random(&ring, Limbs::q(q), 7);
        // Key halves P·g_d·1 and P·g_d·s with a known s: after mod_down they are a and a·s exactly, because
        // Σ digit·gadget is P·a modulo Q and 0 modulo P.
        let s = random(&ring, all, 8);
        let key: Vec<[RingPoly; 2]> = ring
            .basis()
            .digits()
            .iter()
            .map(|d| {
                let g = gadget(&ring, d.clone());
                [g.clone(), product(&g, &s)]
            })
            .collect();
        let digits = a.decompose().unwrap();
        let [b0, b1] = digits.inner_product(&key).unwrap();
        assert_eq!(b0.limbs(), Limbs { q, p: 3 });
        let by_hand = digits.digit(0).map(|d| product(&d, &key[0][1])).unwrap();
        let by_hand = (1..digits.len())
            .fold(by_hand, |acc, i| sum(&acc, &product(&digits.digit(i).unwrap(), &key[i][1])));
        assert_eq!(words(&b1), words(&by_hand));
        assert_eq!(words(&b0.mod_down().unwrap()), words(&a));
        assert_eq!(words(&b1.mod_down().unwrap()), words(&product(&a, &s)));
    }
}

fn key_switches(device: &Device) {
    for n in [16, 64, 1024] {
        let ring = mixed_ring(n, device);
        let key = random_key(&ring, 20);
        let other = random(&ring, Limbs::q(6), 15);
        for q in [1, 3, 4, 6] {
            let a = random(&ring, Limbs::q(q), 1);
            let b = random(&ring, Limbs::q(q), 2);
            let digits = a.decompose().unwrap();
            let galois = [None, Some(GaloisElement::rotation(5, n))];
            for (galois, plus) in galois.iter().flat_map(|g| {
                let plus = [[None, None], [Some(&other), None], [Some(&b), Some(&other)]];
                plus.map(|plus| (*g, plus))
            }) {
                let mut want = digits.inner_product(&key).unwrap();
                for (half, plus) in want.iter_mut().zip(plus) {
                    if let Some(plus) = plus {
                        half.add_special_multiple_assign(plus).unwrap();
                    }
                    if let Some(galois) = galois {
                        *half = half.automorphism(galois).unwrap();
                    }
                }
                let want = want.each_ref().map(words);
                let same = |pair: &[RingPoly; 2]| assert_eq!(pair.each_ref().map(words), want);
                same(&a.key_switch(&key, plus, galois).unwrap());
                same(&digits.key_switch(&key, plus, galois).unwrap());
                let batch = [(&a, plus), (&b, [None, None]), (&a, plus)];
                let pairs = RingPoly::key_switch_many(&batch, &key, galois).unwrap();
                same(&pairs[0]);
                same(&pairs[2]);
                let alone = b.key_switch(&key, [None, None], galois).unwrap();
                assert_eq!(pairs[1].each_ref().map(words), alone.each_ref().map(words));
            }
        }
    }
    let ring = mixed_ring(16, device);
    let key = random_key(&ring, 20);
    let at = |q| random(&ring, Limbs::q(q), 1);
    let (low, high) = (at(3), at(4));
    assert!(RingPoly::key_switch_many(&[], &key, None).unwrap().is_empty());
    let none = [None, None];
    let mixed = RingPoly::key_switch_many(&[(&high, none), (&low, none)], &key, None);
    assert!(matches!(mixed, Err(Error::LimbMismatch { op: "key_switch", .. })));
    let short = high.key_switch(&key, [Some(&low), None], None);
    assert!(matches!(short, Err(Error::LimbMismatch { op: "key_switch", .. })));
    let short = high.key_switch(&key[..1], none, None);
    assert!(matches!(short, Err(Error::MissingDigits { needed: 2, got: 1 })));
    let large = high.key_switch(&key, none, Some(GaloisElement::conjugation(32)));
    assert!(matches!(large, Err(Error::InvalidGaloisElement { .. })));
    let wide = random(&mixed_ring(32, device), Limbs::q(4), 1);
    let foreign = high.key_switch(&key, [None, Some(&wide)], None);
    assert!(matches!(foreign, Err(Error::RingMismatch { .. })));
    let plain = RnsBasis::new(16, &[ring.basis().q()[0].value()], &[], &[]).unwrap();
    let plain = random(&Ring::new(plain, device).unwrap(), Limbs::q(1), 1);
    assert!(matches!(plain.key_switch(&key, none, None), Err(Error::InvalidBasis { .. })));
}

fn batches(device: &Device) {
    let ring = mixed_ring(16, device);
    let key = random_key(&ring, 20);
    for q in [1, 4, 6] {
        let members: Vec<_> =
            (0..3).map(|seed| random(&ring, Limbs::q(q), seed).decompose().unwrap()).collect();
        for size in 0..=members.len() {
            let batch: Vec<_> = members.iter().take(size).collect();
            let together = Digits::inner_products(&batch, &key).unwrap();
            assert_eq!(together.len(), size);
            for (pair, member) in together.iter().zip(batch) {
                let alone = member.inner_product(&key).unwrap();
                assert_eq!(pair.each_ref().map(words), alone.each_ref().map(words));
            }
        }
    }
    let at = |q| random(&ring, Limbs::q(q), 1).decompose().unwrap();
    let (low, high) = (at(4), at(6));
    let mixed = Digits::inner_products(&[&high, &low], &key);
    assert!(matches!(mixed, Err(Error::LimbMismatch { op: "inner_products", .. })));
    let other = random(&mixed_ring(32, device), Limbs::q(4), 1).decompose().unwrap();
    let foreign = Digits::inner_products(&[&low, &other], &key);
    assert!(matches!(foreign, Err(Error::RingMismatch { .. })));
    let short = Digits::inner_products(&[&high], &key[..2]);
    assert!(matches!(short, Err(Error::MissingDigits { needed: 3, got: 2 })));
}

fn hoisted_sums(device: &Device) {
    let n = 64;
    let ring = mixed_ring(n, device);
    let all = ring.basis().all_limbs();
    let keys: Vec<_> = (0..3).map(|i| random_key(&ring, 30 + 10 * i)).collect();
    let rotated = |k: i64, key: usize| Baby::Switched {
        galois: GaloisElement::rotation(k, n),
        key: &keys[key],
    };
    let conjugated = Baby::Switched { galois: GaloisElement::conjugation(n), key: &keys[2] };
    let babies = [rotated(1, 0), Baby::Identity, rotated(-7, 1), conjugated];
    // Dense, periodic and constant weights; one giant step with a single weight, one with none.
    let weight = |m: usize, seed: i64| {
        let words: Vec<i64> = (0..m as i64).map(|i| (i + 3).pow(5) * seed - 77).collect();
        SubringPoly::from_i64(&ring, all, &words).unwrap()
    };
    let pool: Vec<SubringPoly> =
        [(n, 5), (4, -9), (1, 1 << 40), (32, 3), (8, 1)].map(|(m, s)| weight(m, s)).into();
    let weights = vec![
        vec![Some(&pool[0]), Some(&pool[1]), Some(&pool[2]), Some(&pool[3])],
        vec![None, None, Some(&pool[4]), None],
        vec![None; 4],
        vec![Some(&pool[1]), Some(&pool[0]), None, Some(&pool[0])],
    ];
    for q in [1, 3, 6] {
        let limbs = Limbs { q, p: 3 };
        for c1 in samples(&ring, Limbs::q(q)) {
            let c = [random(&ring, Limbs::q(6), 9), c1.clone()];
            let digits = c1.decompose().unwrap();
            let sums = digits.hoisted_sums([&c[0], &c[1]], &babies, &weights).unwrap();
            assert_eq!(sums.len(), 4);
            let pairs = babies.map(|baby| {
                let mut pair = [0, 1].map(|_| RingPoly::zero(&ring, limbs).unwrap());
                let Baby::Switched { galois, key } = baby else {
                    pair[0].add_special_multiple_assign(&c[0]).unwrap();
                    pair[1].add_special_multiple_assign(&c[1]).unwrap();
                    return pair;
                };
                let mut pair = digits.inner_product(key).unwrap();
                pair[0].add_special_multiple_assign(&c[0]).unwrap();
                pair.map(|half| half.automorphism(galois).unwrap())
            });
            for (sum, weights) in sums.iter().zip(&weights) {
                for half in 0..2 {
                    let mut want = RingPoly::zero(&ring, limbs).unwrap();
                    for (pair, weight) in pairs.iter().zip(weights) {
                        if let Some(weight) = weight {
                            want.mul_subring_add_assign(&pair[half], weight).unwrap();
                        }
                    }
                    assert_eq!(words(&sum[half]), words(&want));
                }
            }
        }
    }
    let low = random(&ring, Limbs::q(2), 1);
    let wide = random(&ring, Limbs::q(4), 2);
    let digits = wide.decompose().unwrap();
    let sums = |c, babies: &[Baby<'_>], weights: &[Vec<_>]| {
        digits.hoisted_sums(c, babies, weights).unwrap_err()
    };
    let c = [&wide, &wide];
    assert!(matches!(sums([&low, &wide], &babies, &weights), Error::LimbMismatch { .. }));
    assert!(matches!(sums(c, &babies[..3], &weights), Error::LengthMismatch { .. }));
    let short = [Baby::Switched { galois: GaloisElement::rotation(1, n), key: &keys[0][..1] }];
    let no_special = SubringPoly::from_i64(&ring, Limbs::q(6), &[1]).unwrap();
    let unit = SubringPoly::from_i64(&ring, all, &[1]).unwrap();
    assert!(matches!(sums(c, &short, &[vec![Some(&unit)]]), Error::MissingDigits { .. }));
    let identity = [Baby::Identity];
    let error = sums(c, &identity, &[vec![Some(&no_special)]]);
    assert!(matches!(error, Error::LimbMismatch { op: "hoisted_sums", .. }));
    let large = [Baby::Switched { galois: GaloisElement::conjugation(2 * n), key: &keys[0] }];
    let error = sums(c, &large, &[vec![Some(&unit)]]);
    assert!(matches!(error, Error::InvalidGaloisElement { .. }));
}
