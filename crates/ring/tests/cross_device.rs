//! The same words on every device.
//!
//! | test | what |
//! | --- | --- |
//! | programs | random programs over all operations, N = 16 to 256 |
//! | extremes | every operation on 0, p - 1 and other extreme words |
//! | hoisted_sums | doubly hoisted sums of many digits and baby steps on random and extreme words |
//! | wide | digits and divisors of more primes than a kernel takes at once |
//! | extensions, one_extension | what a card extends in one kernel, N = 2^16 |
//! | batches | more members and polynomials than one launch takes, N = 2^13 |
//! | large_degree | one key switch and rescale at N = 2^12 (and 2^16 when asked for: slow) |
//! | degree_* | all operations on a CUDA card against the CPU, N = 2^10 to 2^17 |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ring::{
    Baby, Device, Digits, GaloisElement, Limbs, Ring, RingPoly, RnsBasis, SubringPoly,
};
use common::{cuda, devices, mixed_basis, primes_below, random, random_key, samples, words};
use proptest::prelude::*;
use std::sync::Arc;

/// One ring for every device, and the reference device's.
fn rings(basis: &RnsBasis) -> (Vec<Arc<Ring>>, Arc<Ring>) {
    let ring = |device: &Device| Ring::new(basis.clone(), device).unwrap();
    (devices().iter().map(ring).collect(), ring(&Device::reference()))
}

/// One step of a program on a pair of polynomials with limbs {q, 0}.
#[derive(Clone, Debug)]
enum Step {
    Add,
    Sub,
    Neg,
    Mul,
    Product,
    MulAdd,
    Tensor,
    Middle,
    Integer(i128),
    Multiple(i128),
    Constant(i128),
    Monomial(i64),
    Rotate(i64),
    Conjugate,
    Subring(Vec<i64>),
    SubringAdd(Vec<i64>),
    KeySwitch(u8),
    KeySwitchRescale(u8, usize),
    Rescale,
    RescaleBy(usize),
    Raise(usize),
    RoundTrip,
    Drop,
    Swap,
}

fn step() -> impl Strategy<Value = Step> {
    let small = (0usize..4).prop_flat_map(|b| prop::collection::vec(any::<i64>(), 1 << b));
    prop_oneof![
        Just(Step::Add),
        Just(Step::Sub),
        Just(Step::Neg),
        Just(Step::Mul),
        Just(Step::Product),
        Just(Step::MulAdd),
        Just(Step::Tensor),
        Just(Step::Middle),
        any::<i128>().prop_map(Step::Integer),
        any::<i128>().prop_map(Step::Multiple),
        any::<i128>().prop_map(Step::Constant),
        any::<i32>().prop_map(|e| Step::Monomial(e as i64)),
        any::<i16>().prop_map(|k| Step::Rotate(k as i64)),
        Just(Step::Conjugate),
        small.clone().prop_map(Step::Subring),
        small.prop_map(Step::SubringAdd),
        any::<u8>().prop_map(Step::KeySwitch),
        (any::<u8>(), 1usize..3).prop_map(|(seed, primes)| Step::KeySwitchRescale(seed, primes)),
        Just(Step::Rescale),
        (0usize..4).prop_map(Step::RescaleBy),
        (1usize..7).prop_map(Step::Raise),
        Just(Step::RoundTrip),
        Just(Step::Drop),
        Just(Step::Swap),
    ]
}

/// A key switch of the image of `a`, plus `P·c` in one half, before the division by P.
fn switch_lazy(a: &RingPoly, c: &RingPoly, key_seed: u8) -> [RingPoly; 2] {
    let ring = a.ring();
    let all = ring.basis().all_limbs();
    let key: Vec<[RingPoly; 2]> = (0..3)
        .map(|d| [0, 1].map(|h| random(ring, all, key_seed.wrapping_add(2 * d + h))))
        .collect();
    let g = GaloisElement::rotation(key_seed as i64, ring.n());
    let digits = a.decompose().unwrap().automorphism(g).unwrap();
    let mut halves = digits.inner_product(&key).unwrap();
    halves[0].add_special_multiple_assign(c).unwrap();
    let at_once = c.key_switch(&key, [None, Some(a)], Some(g)).unwrap();
    halves[1].add_assign(&at_once[1]).unwrap();
    halves
}

fn switch(a: &RingPoly, key_seed: u8) -> [RingPoly; 2] {
    switch_lazy(a, a, key_seed).map(|half| half.mod_down().unwrap())
}

fn apply(step: &Step, [mut a, mut b]: [RingPoly; 2]) -> [RingPoly; 2] {
    let ring = a.ring().clone();
    let n = ring.n();
    let limbs = a.limbs();
    match step {
        Step::Add => a.add_assign(&b).unwrap(),
        Step::Sub => a.sub_assign(&b).unwrap(),
        Step::Neg => a.neg_assign().unwrap(),
        Step::Mul => a.mul_assign(&b).unwrap(),
        Step::Product => b = a.product(&b).unwrap(),
        Step::MulAdd => b.mul_add_assign(&a, &a).unwrap(),
        Step::Tensor => [a, _, b] = RingPoly::tensor([&a, &b], [&b, &a]).unwrap(),
        Step::Middle => [_, b, _] = RingPoly::tensor([&a, &b], [&b, &a]).unwrap(),
        Step::Integer(c) => a.mul_integer_assign(*c).unwrap(),
        Step::Multiple(c) => b.add_multiple_assign(&a, *c).unwrap(),
        Step::Constant(c) => a.add_integer_assign(*c).unwrap(),
        Step::Monomial(e) => a.mul_monomial_assign(*e).unwrap(),
        Step::Rotate(k) => a = a.automorphism(GaloisElement::rotation(*k, n)).unwrap(),
        Step::Conjugate => a = a.automorphism(GaloisElement::conjugation(n)).unwrap(),
        Step::Subring(c) => {
            a.mul_subring_assign(&SubringPoly::from_i64(&ring, limbs, c).unwrap()).unwrap();
        }
        Step::SubringAdd(c) => {
            let c = SubringPoly::from_i64(&ring, limbs, c).unwrap();
            b.mul_subring_add_assign(&a, &c).unwrap();
        }
        Step::KeySwitch(seed) => [a, b] = switch(&a, *seed),
        Step::KeySwitchRescale(seed, primes) if limbs.q > *primes => {
            let halves = switch_lazy(&a, &b, *seed);
            [a, b] = halves.map(|half| half.mod_down_rescale(*primes).unwrap());
        }
        Step::RescaleBy(primes) if limbs.q > *primes => {
            [a, b] = [a, b].map(|poly| poly.rescale_by(*primes).unwrap());
        }
        Step::Raise(q) => {
            [a, b] = [a, b].map(|mut poly| {
                poly.drop_limbs(1).unwrap();
                poly.mod_raise(*q).unwrap()
            });
        }
        Step::Rescale if limbs.q > 1 => {
            a = a.rescale().unwrap();
            b = b.rescale().unwrap();
        }
        Step::Drop if limbs.q > 1 => {
            a.drop_limbs(limbs.q - 1).unwrap();
            b.drop_limbs(limbs.q - 1).unwrap();
        }
        Step::RoundTrip => a = a.into_coeff().unwrap().into_ntt().unwrap(),
        Step::Swap => std::mem::swap(&mut a, &mut b),
        Step::Rescale | Step::RescaleBy(_) | Step::KeySwitchRescale(..) | Step::Drop => {}
    }
    [a, b]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn programs(log_n in 4u32..9, seed: u8, steps in prop::collection::vec(step(), 1..12)) {
        let (cpus, reference) = rings(&mixed_basis(1 << log_n));
        let operands = |r| [0, 1].map(|i| random(r, Limbs::q(6), seed.wrapping_add(i)));
        let mut cpus: Vec<_> = cpus.iter().map(operands).collect();
        let mut reference = operands(&reference);
        for step in &steps {
            reference = apply(step, reference);
            for cpu in &mut cpus {
                *cpu = apply(step, cpu.clone());
                for (c, r) in cpu.iter().zip(&reference) {
                    prop_assert_eq!(c.limbs(), r.limbs());
                    let device = c.ring().device();
                    prop_assert_eq!(words(c), words(r), "after {:?} on {}", step, device);
                }
            }
        }
    }
}

/// What every operation makes of the limbs of `a`, all that its ring has.
fn results(a: &RingPoly) -> Vec<(String, Vec<u64>)> {
    let all = a.limbs();
    let small = a.with_limbs(Limbs::q(all.q)).unwrap();
    let key = vec![[a.clone(), a.clone()]; a.ring().basis().digits().len()];
    let digits = small.decompose().unwrap();
    let [half, _] = digits.inner_product(&key).unwrap();
    let mut out = vec![
        ("digit".to_owned(), words(&digits.digit(1).unwrap())),
        ("key product".to_owned(), words(&half)),
    ];
    for primes in 0..all.q {
        let divided = a.clone().mod_down_rescale(primes).unwrap();
        out.push((format!("P and {primes} primes"), words(&divided)));
        let divided = small.clone().rescale_by(primes).unwrap();
        out.push((format!("{primes} primes"), words(&divided)));
    }
    let mut other = small.clone();
    other.add_integer_assign(12345).unwrap();
    let (g, third) = (GaloisElement::rotation(5, a.ring().n()), a.clone());
    let batch = [
        (&small, [Some(&other), None]),
        (&other, [Some(&small), Some(&third)]),
        (&third.with_limbs(Limbs::q(all.q)).unwrap(), [None, None]),
    ];
    for g in [None, Some(g)] {
        let pairs = RingPoly::key_switch_many(&batch, &key, g).unwrap();
        for (i, pair) in pairs.into_iter().enumerate() {
            out.extend(pair.iter().map(|half| (format!("switch {i}"), words(half))));
            let halves = RingPoly::mod_down_many(pair.into(), i).unwrap();
            out.extend(halves.iter().map(|half| (format!("switched {i}"), words(half))));
        }
        let pair = digits.key_switch(&key, [Some(&other), None], g).unwrap();
        out.extend(pair.iter().map(|half| ("digits switched".to_owned(), words(half))));
    }
    let image = digits.automorphism(GaloisElement::conjugation(a.ring().n())).unwrap();
    out.push(("digit's image".to_owned(), words(&image.digit(0).unwrap())));
    for pair in Digits::inner_products(&[&digits, &image, &digits], &key).unwrap() {
        out.extend(pair.iter().map(|half| ("key products".to_owned(), words(half))));
    }
    let coefficients = a.clone().into_coeff().unwrap();
    out.push(("coefficients".to_owned(), words(&coefficients)));
    out.push(("back".to_owned(), words(&coefficients.into_ntt().unwrap())));
    let g = GaloisElement::rotation(5, a.ring().n());
    for next in [None, Some([a.clone(), half.clone()])] {
        let pair = small.key_switch_sum(&key, &half, Some(g), next.as_ref()).unwrap();
        out.extend(pair.iter().map(|half| ("step of a sum".to_owned(), words(half))));
    }
    let terms: Vec<(&RingPoly, i128)> =
        (0..20).map(|i| ([&small, &other][i % 2], (i as i128 - 4) << (5 * i))).collect();
    out.push(("combination".to_owned(), words(&RingPoly::combination(2, &terms).unwrap())));
    let sum = other.clone().add_combination(&terms).unwrap();
    out.push(("sum".to_owned(), words(&sum)));
    let many = RingPoly::rescale_many(vec![small.clone(), other.clone(), small.clone()], 1);
    out.extend(many.unwrap().iter().map(|a| ("rescaled".to_owned(), words(a))));
    for factor in [0, -1, i128::MIN] {
        let mut sum = other.clone();
        sum.add_multiple_assign(&small, factor).unwrap();
        out.push(("multiple".to_owned(), words(&sum)));
    }
    let raised = a.with_limbs(Limbs::q(1)).unwrap().mod_raise(all.q).unwrap();
    out.push(("raised".to_owned(), words(&raised)));
    for step in [
        Step::Add,
        Step::Sub,
        Step::Neg,
        Step::Mul,
        Step::Product,
        Step::MulAdd,
        Step::Tensor,
        Step::Middle,
        Step::Integer(i128::MIN),
        Step::Constant(i128::MAX),
        Step::Monomial(-1),
        Step::Subring(vec![i64::MIN, -1]),
        Step::SubringAdd(vec![i64::MAX; 4]),
    ] {
        let both = apply(&step, [a.clone(), a.clone()]);
        out.extend(both.iter().map(|a| (format!("{step:?}"), words(a))));
    }
    out
}

#[test]
fn extremes() {
    // The largest primes that are allowed, all of Q and P.
    let n = 64;
    let primes = primes_below(50, n, 14);
    let basis = RnsBasis::new(n, &primes[..9], &primes[9..], &[5, 4]).unwrap();
    for basis in [basis, mixed_basis(n)] {
        let (cpus, reference) = rings(&basis);
        let all = basis.all_limbs();
        let expected: Vec<_> = samples(&reference, all).iter().map(results).collect();
        for cpu in cpus {
            assert_eq!(cpu.psi(), reference.psi());
            for (sample, expected) in samples(&cpu, all).iter().zip(&expected) {
                for (got, expected) in results(sample).iter().zip(expected) {
                    assert!(got == expected, "{} on {}", got.0, cpu.device());
                }
            }
        }
    }
}

/// Outputs of a doubly hoisted sum with `digits` digits, dense and periodic weights, words from `samples`.
fn hoisted(ring: &Arc<Ring>, which: usize) -> Vec<Vec<u64>> {
    let (n, all) = (ring.n(), ring.basis().all_limbs());
    let extreme = samples(ring, all).swap_remove(which);
    let c = extreme.with_limbs(Limbs::q(all.q)).unwrap();
    let key = vec![[extreme.clone(), extreme.clone()]; ring.basis().digits().len()];
    let switched = |k| Baby::Switched { galois: GaloisElement::rotation(k, n), key: &key };
    let mut babies = vec![Baby::Identity];
    babies.extend((1..20).map(switched));
    let weights = [n, 16, 2].map(|m| {
        let words: Vec<i64> = (0..m as i64).map(|i| -i * i - 1).collect();
        SubringPoly::from_i64(ring, all, &words).unwrap()
    });
    let rows: Vec<Vec<Option<&SubringPoly>>> =
        (0..3).map(|g| (0..babies.len()).map(|b| weights.get((b + g) % 4)).collect()).collect();
    let sums = c.decompose().unwrap().hoisted_sums([&c, &c], &babies, &rows).unwrap();
    sums.iter().flatten().map(words).collect()
}

#[test]
fn hoisted_sums() {
    // Twenty baby steps and 18 digits: more than one group of lazily added products in either sum.
    let n = 64;
    let primes = primes_below(50, n, 20);
    let many = RnsBasis::new(n, &primes[..18], &primes[18..], &[1; 18]).unwrap();
    for basis in [many, mixed_basis(n), mixed_basis(16), mixed_basis(1024)] {
        let (cpus, reference) = rings(&basis);
        for which in 0..4 {
            let expected = hoisted(&reference, which);
            for cpu in &cpus {
                assert!(hoisted(cpu, which) == expected, "{}", cpu.device());
            }
        }
    }
}

#[test]
fn wide() {
    let n = 64;
    let primes = primes_below(50, n, 60);
    let basis = RnsBasis::new(n, &primes[..41], &primes[41..], &[2, 34, 5]).unwrap();
    let (devices, reference) = rings(&basis);
    let run = |ring: &Arc<Ring>, which: usize| {
        let a = samples(ring, ring.basis().all_limbs()).swap_remove(which);
        let small = a.with_limbs(Limbs::q(41)).unwrap();
        let digits = small.decompose().unwrap();
        let mut out: Vec<_> = (0..3).map(|d| words(&digits.digit(d).unwrap())).collect();
        out.push(words(&a.clone().mod_down().unwrap()));
        out.push(words(&a.mod_down_rescale(30).unwrap()));
        out.push(words(&small.rescale_by(20).unwrap()));
        out
    };
    for which in 0..4 {
        let expected = run(&reference, which);
        for device in &devices {
            assert!(run(device, which) == expected, "{}", device.device());
        }
    }
}

/// All operations at N = 2^bits on a CUDA card, which has kernels of its own for most degrees, against the CPU.
fn degree(bits: u32) {
    let Some(card) = cuda() else { return };
    let n = 1 << bits;
    let basis = mixed_basis(n);
    eprintln!("{}", card.description());
    let [cpu, card] = [Device::cpu(), card].map(|d| Ring::new(basis.clone(), &d).unwrap());
    let all = basis.all_limbs();
    for (on_cpu, on_card) in samples(&cpu, all).iter().zip(&samples(&card, all)) {
        for (got, expected) in results(on_card).iter().zip(results(on_cpu)) {
            assert!(*got == expected, "{} at n = {n}", got.0);
        }
        let program = |a: &RingPoly| {
            let a = a.with_limbs(Limbs::q(6)).unwrap();
            let coefficients = |m: usize| (0..m as i64).map(|i| i * i - 7).collect();
            let mut steps = vec![
                Step::Monomial(3 * n as i64 / 2 + 5),
                Step::Rotate(3),
                Step::Conjugate,
                Step::RoundTrip,
                Step::Integer(-(1 << 90)),
                Step::Constant(1 << 90),
                Step::KeySwitchRescale(5, 2),
                Step::Subring(coefficients(n / 16)),
                Step::SubringAdd(coefficients(n / 4)),
                Step::Raise(4),
            ];
            steps.push(Step::Subring(coefficients(n)));
            let pair = steps.iter().fold([a.clone(), a], |pair, step| apply(step, pair));
            pair.map(|a| words(&a))
        };
        assert!(program(on_card) == program(on_cpu), "program at n = {n}");
    }
}

/// A test for each degree, by name, so that slow tools can be given some of them.
macro_rules! every_degree {
    ($($name:ident = $bits:literal,)*) => { $(
        #[test]
        fn $name() {
            degree($bits);
        }
    )* };
}
every_degree! {
    degree_10 = 10,
    degree_11 = 11,
    degree_12 = 12,
    degree_13 = 13,
    degree_14 = 14,
    degree_15 = 15,
    degree_16 = 16,
    degree_17 = 17,
}

/// At the degree of the kernels that extend in one launch: primes of 50 and of 29 bits, targets of more than one tile.
fn extending(digits: &[usize]) -> RnsBasis {
    let n = 1 << 16;
    let (large, small) = (primes_below(50, n, 22), primes_below(29, n, 4));
    let q: Vec<u64> = large[..11].iter().chain(&small).copied().collect();
    RnsBasis::new(n, &q, &large[11..19], digits).unwrap()
}

/// The same from a card and the CPU for samples of all limbs, the first `count` of them.
fn same_on_a_card(basis: &RnsBasis, count: usize, run: impl Fn(&RingPoly) -> Vec<Vec<u64>>) {
    let Some(card) = cuda() else { return };
    let [cpu, card] = [Device::cpu(), card].map(|d| Ring::new(basis.clone(), &d).unwrap());
    let all = basis.all_limbs();
    for (on_cpu, on_card) in samples(&cpu, all).iter().zip(&samples(&card, all)).take(count) {
        let (expected, got) = (run(on_cpu), run(on_card));
        let wrong = expected.iter().zip(&got).position(|(x, y)| x != y);
        assert_eq!((wrong, got.len()), (None, expected.len()));
    }
}

fn all_digits(a: &RingPoly) -> Vec<Vec<u64>> {
    let digits = a.with_limbs(Limbs::q(a.limbs().q)).unwrap().decompose().unwrap();
    (0..digits.len()).map(|d| words(&digits.digit(d).unwrap())).collect()
}

/// Digits and divisors of all widths that are extended in one kernel, and one wider.
#[test]
fn extensions() {
    same_on_a_card(&extending(&[9, 2, 4]), usize::MAX, all_digits);
    same_on_a_card(&extending(&[8, 3, 4]), usize::MAX, |a| {
        let all = a.limbs();
        let small = a.with_limbs(Limbs::q(all.q)).unwrap();
        let mut out = all_digits(a);
        for primes in 0..4 {
            let halves = RingPoly::mod_down_many(vec![a.clone(), a.clone(), a.clone()], primes);
            out.extend(halves.unwrap().iter().map(words));
        }
        for primes in [1, 2, 4, 9] {
            let polys = RingPoly::rescale_many(vec![small.clone(), small.clone()], primes);
            out.extend(polys.unwrap().iter().map(words));
        }
        out.push(words(&a.with_limbs(Limbs::q(1)).unwrap().mod_raise(all.q).unwrap()));
        out
    });
}

/// For tools that slow kernels down a thousand times: one key switch and division by way of these kernels.
#[test]
fn one_extension() {
    same_on_a_card(&extending(&[9, 2, 4]), 1, |a| {
        let small = a.with_limbs(Limbs::q(a.limbs().q)).unwrap();
        let key = vec![[a.clone(), a.clone()]; 3];
        let pair = small.key_switch(&key, [Some(&small), None], None).unwrap();
        RingPoly::mod_down_many(pair.into(), 1).unwrap().iter().map(words).collect()
    });
}

/// Batches of more members and polynomials than one launch takes, at a degree of the kernels that take several.
#[test]
fn batches() {
    let Some(card) = cuda() else { return };
    let basis = mixed_basis(1 << 13);
    let run = |device: Device, size: usize| {
        let ring = Ring::new(basis.clone(), &device).unwrap();
        let all = basis.all_limbs();
        let members: Vec<RingPoly> =
            (0..size).map(|i| random(&ring, Limbs::q(all.q), i as u8)).collect();
        let key = random_key(&ring, 100);
        let batch: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(i, member)| {
                (member, [(i % 2 == 0).then_some(&members[0]), (i % 3 == 0).then_some(member)])
            })
            .collect();
        let g = GaloisElement::rotation(3, ring.n());
        let pairs = RingPoly::key_switch_many(&batch, &key, Some(g)).unwrap();
        let halves: Vec<RingPoly> = pairs.into_iter().flatten().collect();
        let mut out: Vec<_> = halves.iter().map(words).collect();
        out.extend(RingPoly::mod_down_many(halves, 2).unwrap().iter().map(words));
        out.extend(RingPoly::rescale_many(members, 1).unwrap().iter().map(words));
        out
    };
    for size in [9, 17] {
        assert!(run(Device::cpu(), size) == run(card, size), "{size} members");
    }
}

fn compare_at(n: usize) {
    let (cpus, reference) = rings(&mixed_basis(n));
    let run = |ring: &Arc<Ring>| {
        let a = random(ring, Limbs::q(6), 1);
        let [b, c] = switch(&a, 3);
        [b, c.rescale().unwrap()].map(|p| words(&p))
    };
    let expected = run(&reference);
    for cpu in cpus {
        assert!(run(&cpu) == expected, "{}", cpu.device());
    }
}

#[test]
fn large_degree() {
    compare_at(1 << 12);
}

#[test]
#[ignore = "slow: N = 2^16 on the reference device"]
fn largest_degree() {
    compare_at(1 << 16);
}

/// What lets a run of the suite with the variable set count as a run on that instruction set.
#[test]
fn the_variable_picks_the_cpu() {
    let picked = Device::cpu().to_string();
    match std::env::var(cipherform_ring::CPU_VARIABLE) {
        Ok(wanted) => assert_eq!(picked, wanted, "this machine has no {wanted}"),
        Err(_) => assert_eq!(Some(picked), Device::cpus().first().map(ToString::to_string)),
    }
}

#[test]
fn sums_of_no_baby_steps_are_zero() {
    for device in devices() {
        let ring = common::mixed_ring(64, &device);
        let a = RingPoly::zero(&ring, Limbs::q(ring.basis().q().len())).unwrap();
        let sums = a.decompose().unwrap().hoisted_sums([&a, &a], &[], &[vec![], vec![]]).unwrap();
        assert_eq!(sums.len(), 2);
        assert!(
            sums.iter().flatten().all(|half| half.to_residues().unwrap().iter().all(|&w| w == 0))
        );
    }
}
