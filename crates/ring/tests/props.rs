//! Algebraic laws and exact arithmetic, on every device. Those of key switching are in `key_switching.rs`.
//!
//! | test | law |
//! | --- | --- |
//! | ring_axioms | associativity, commutativity, distributivity, neutral and inverse elements, fused operations |
//! | transforms_invert | intt∘ntt = id on random and extreme words |
//! | automorphism_group | composition, inverse, compatibility with products, digits of an image |
//! | monomials | X^i · X^j = X^(i+j), X^n = -1, agreement with coefficient shifts |
//! | integers | constants act as the integers they are |
//! | subring | compressed products equal those with the embedded polynomial, m from 1 to n |
//! | division_rounds | exact rounding of whole integers by any run of top primes, with and without P |
//! | raise_lifts | the centred integer of one limb in all limbs |
//! | same_words_elsewhere | rings that share some primes |
//! | limbs_are_views | operands and keys with more limbs; dropped limbs |
//! | counts | limb transforms counted |
//! | misuse | typed errors |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "a device is passed as the library takes it"
)]

mod common;

use cipherform_profile::{Counter, record};
use cipherform_ring::{
    Coeff, Device, Error, GaloisElement, Limbs, Ring, RingPoly, RnsBasis, SubringPoly,
};
use common::{integers, mixed_ring, product, random, random_key, samples, sum, words};
use num_bigint::BigUint;
use std::sync::Arc;

on_devices! {
    ring_axioms transforms_invert automorphism_group monomials integers_act subring division_rounds
    raise_lifts same_words_elsewhere limbs_are_views counts misuse
}

fn ring_axioms(device: &Device) {
    let ring = mixed_ring(32, device);
    let all = ring.basis().all_limbs();
    let zero = RingPoly::zero(&ring, all).unwrap();
    let mut one = zero.clone();
    one.add_integer_assign(1).unwrap();
    let polys = samples(&ring, all);
    for a in &polys {
        assert_eq!(words(&sum(a, &zero)), words(a));
        assert_eq!(words(&product(a, &one)), words(a));
        let mut negative = a.clone();
        negative.neg_assign().unwrap();
        assert_eq!(words(&sum(a, &negative)), words(&zero));
        for b in &polys {
            assert_eq!(words(&sum(a, b)), words(&sum(b, a)));
            assert_eq!(words(&product(a, b)), words(&product(b, a)));
            let mut difference = sum(a, b);
            difference.sub_assign(b).unwrap();
            assert_eq!(words(&difference), words(a));
            let c = random(&ring, all, 9);
            assert_eq!(words(&product(&product(a, b), &c)), words(&product(a, &product(b, &c))));
            let distributed = sum(&product(a, &c), &product(b, &c));
            assert_eq!(words(&product(&sum(a, b), &c)), words(&distributed));
            let mut fused = c.clone();
            fused.mul_add_assign(a, b).unwrap();
            assert_eq!(words(&fused), words(&sum(&c, &product(a, b))));
            let [low, middle, high] = RingPoly::tensor([a, &c], [b, a]).unwrap();
            assert_eq!(words(&low), words(&product(a, b)));
            assert_eq!(words(&middle), words(&sum(&product(a, a), &product(&c, b))));
            assert_eq!(words(&high), words(&product(&c, a)));
        }
    }
}

fn transforms_invert(device: &Device) {
    for n in [16, 64, 1024] {
        let ring = mixed_ring(n, device);
        for a in samples(&ring, ring.basis().all_limbs()) {
            let there = a.clone().into_coeff().unwrap();
            assert_eq!(words(&there.into_ntt().unwrap()), words(&a));
        }
    }
}

fn automorphism_group(device: &Device) {
    let n = 64;
    let ring = mixed_ring(n, device);
    let limbs = Limbs::q(6);
    let (a, b) = (random(&ring, limbs, 1), random(&ring, limbs, 2));
    let apply = |a: &RingPoly, g| a.automorphism(g).unwrap();
    for k in [-40, -1, 0, 1, 3, 31, 32, 100] {
        let g = GaloisElement::rotation(k, n);
        let back = GaloisElement::rotation(-k, n);
        assert_eq!(words(&apply(&apply(&a, g), back)), words(&a), "rotation {k}");
        let conjugation = GaloisElement::conjugation(n);
        let both = g.then(conjugation, n);
        assert_eq!(words(&apply(&apply(&a, g), conjugation)), words(&apply(&a, both)));
        assert_eq!(
            words(&apply(&product(&a, &b), g)),
            words(&product(&apply(&a, g), &apply(&b, g)))
        );
    }
    assert_eq!(GaloisElement::rotation(0, n), GaloisElement::rotation(n as i64 / 2, n));
    assert_eq!(GaloisElement::rotation(2, n).get(), 25);
    // Hoisting: automorphisms of digits are digits of the image.
    let g = GaloisElement::rotation(5, n);
    let permuted = a.decompose().unwrap().automorphism(g).unwrap();
    let direct = apply(&a, g).decompose().unwrap();
    for i in 0..direct.len() {
        assert_eq!(words(&permuted.digit(i).unwrap()), words(&direct.digit(i).unwrap()));
    }
}

fn monomials(device: &Device) {
    let n = 32;
    let ring = mixed_ring(n, device);
    let limbs = ring.basis().all_limbs();
    let a = random(&ring, limbs, 3);
    let shift = |e: i64| {
        let mut out = a.clone();
        out.mul_monomial_assign(e).unwrap();
        out
    };
    for e in [0i64, 1, 2, 7, 16, 31, 32, 40, 63, 64, -1, -5, 1_000_003] {
        let exponent = e.rem_euclid(2 * n as i64) as usize;
        let mut x = vec![0i64; n];
        x[exponent % n] = if exponent < n { 1 } else { -1 };
        let x = RingPoly::from_i64(&ring, limbs, &x).unwrap().into_ntt().unwrap();
        assert_eq!(words(&shift(e)), words(&product(&a, &x)), "X^{e}");
    }
}

fn integers_act(device: &Device) {
    let ring = mixed_ring(16, device);
    let limbs = ring.basis().all_limbs();
    let a = random(&ring, limbs, 4);
    for value in [0, 1, -1, 12345, -(1i128 << 100), i128::MAX, i128::MIN] {
        let mut constant = vec![0i128; 16];
        constant[0] = value;
        let constant = RingPoly::from_i128(&ring, limbs, &constant).unwrap().into_ntt().unwrap();
        let mut scaled = a.clone();
        scaled.mul_integer_assign(value).unwrap();
        assert_eq!(words(&scaled), words(&product(&a, &constant)));
        let mut raised = a.clone();
        raised.add_integer_assign(value).unwrap();
        assert_eq!(words(&raised), words(&sum(&a, &constant)));
    }
    let q = Limbs::q(3);
    let (a, b) = (a.with_limbs(q).unwrap(), random(&ring, limbs, 5));
    let mut expected = a.clone();
    expected.mul_integer_assign(-(1 << 80)).unwrap();
    expected.add_multiple_assign(&b, 77).unwrap();
    let terms = [(&a, -(1i128 << 80)), (&b, 77)];
    assert_eq!(words(&RingPoly::combination(3, &terms).unwrap()), words(&expected));
    expected.add_assign(&a).unwrap();
    assert_eq!(words(&a.clone().add_combination(&terms).unwrap()), words(&expected));
    assert_eq!(words(&a.clone().add_combination(&[]).unwrap()), words(&a));
    assert!(RingPoly::combination(3, &[]).is_err());
    assert!(b.clone().add_combination(&terms).is_err());
    let small = RingPoly::from_i64(&ring, limbs, &[i64::MIN; 16]).unwrap();
    let wide = RingPoly::<Coeff>::from_i128(&ring, limbs, &[i64::MIN as i128; 16]).unwrap();
    assert_eq!(words(&small), words(&wide));
}

fn subring(device: &Device) {
    let n = 128;
    let ring = mixed_ring(n, device);
    let limbs = ring.basis().all_limbs();
    let (a, c) = (random(&ring, limbs, 5), random(&ring, limbs, 6));
    for m in (0..=7).map(|b| 1usize << b) {
        let small: Vec<i128> =
            (0..m).map(|i| (i as i128 * 0x1234_5678_9abc_def0_1357) - (7i128 << 70)).collect();
        let mut full = vec![0; n];
        small.iter().enumerate().for_each(|(i, &s)| full[i * n / m] = s);
        let compressed = SubringPoly::from_i128(&ring, limbs, &small).unwrap();
        let embedded = RingPoly::from_i128(&ring, limbs, &full).unwrap().into_ntt().unwrap();
        let runs: Vec<u64> = compressed
            .to_residues()
            .unwrap()
            .iter()
            .flat_map(|&w| std::iter::repeat_n(w, n / m))
            .collect();
        assert_eq!(runs, words(&embedded), "m = {m}");

        let mut multiplied = a.clone();
        multiplied.mul_subring_assign(&compressed).unwrap();
        assert_eq!(words(&multiplied), words(&product(&a, &embedded)));
        let mut accumulated = c.clone();
        accumulated.mul_subring_add_assign(&a, &compressed).unwrap();
        assert_eq!(words(&accumulated), words(&sum(&c, &multiplied)));
    }
    let same = SubringPoly::from_i64(&ring, limbs, &[3, -4]).unwrap();
    let wide = SubringPoly::from_i128(&ring, limbs, &[3, -4]).unwrap();
    assert_eq!(same.to_residues().unwrap(), wide.to_residues().unwrap());
}

fn division_rounds(device: &Device) {
    let ring = mixed_ring(32, device);
    let basis = ring.basis();
    for (q, p) in [(1, 3), (2, 0), (2, 3), (4, 0), (4, 3), (6, 0), (6, 3)] {
        for primes in usize::from(p == 0)..q {
            for a in samples(&ring, Limbs { q, p }) {
                let (x, _) = integers(&a);
                let divisors = basis.row_moduli(a.limbs()).skip(q - primes);
                let d: BigUint = divisors.map(|m| BigUint::from(m.value())).product();
                let result = match (p, primes) {
                    (0, 1) => a.rescale(),
                    (0, _) => a.rescale_by(primes),
                    (_, 0) => a.mod_down(),
                    _ => a.mod_down_rescale(primes),
                };
                let (got, modulus) = integers(&result.unwrap());
                for (x, got) in x.iter().zip(got) {
                    // The integer nearest to x / D. The estimate of the quotient is exact unless x / D is within
                    // 2^-45 of a half integer; random and extreme words here are not.
                    assert_eq!(got, (x + (&d >> 1)) / &d % &modulus, "{q}+{p}, {primes}");
                }
            }
        }
    }
    let a = random(&ring, Limbs::q(3), 1);
    assert_eq!(words(&a.clone().rescale_by(0).unwrap()), words(&a));
}

fn raise_lifts(device: &Device) {
    // The smallest prime first: it is lifted to larger ones, and the largest first to smaller ones.
    let n = 32;
    let (small, large) = (common::primes_below(28, n, 2), common::primes_below(50, n, 2));
    for q in [[small[0], large[0], small[1], large[1]], [large[0], small[0], large[1], small[1]]] {
        let ring = Ring::new(RnsBasis::new(n, &q, &[], &[]).unwrap(), device).unwrap();
        for a in samples(&ring, Limbs::q(1)) {
            let (x, q0) = integers(&a);
            for q in 1..=4 {
                let raised = a.clone().mod_raise(q).unwrap();
                assert_eq!(raised.limbs(), Limbs::q(q));
                let (got, modulus) = integers(&raised);
                for (x, got) in x.iter().zip(got) {
                    let centred = if x > &(&q0 >> 1) { &modulus - (&q0 - x) } else { x.clone() };
                    assert_eq!(got, centred % &modulus);
                }
            }
        }
    }
}

fn same_words_elsewhere(device: &Device) {
    let ring = mixed_ring(16, device);
    let values = |m: &[cipherform_ring::Modulus]| {
        m.iter().map(cipherform_ring::Modulus::value).collect::<Vec<_>>()
    };
    let (q, p) = (values(ring.basis().q()), values(ring.basis().p()));
    // q_0 and two of the special primes: what a key switch modulo q_0 needs.
    let small = Ring::new(RnsBasis::new(16, &q[..1], &p[..2], &[1]).unwrap(), device).unwrap();
    let a = random(&ring, Limbs::q(1), 1);
    let there = a.rebase(&small).unwrap();
    assert!(Arc::ptr_eq(there.ring(), &small));
    assert_eq!(words(&there), words(&a));
    assert_eq!(there.decompose().unwrap().limbs(), Limbs { q: 1, p: 2 });
    assert_eq!(words(&there.rebase(&ring).unwrap()), words(&a));
    // Other primes in the rows, another degree, another device, rows that do not exist there.
    let swapped = RnsBasis::new(16, &[q[1], q[0]], &[], &[]).unwrap();
    let swapped = Ring::new(swapped, device).unwrap();
    assert!(matches!(a.rebase(&swapped), Err(Error::RingMismatch { op: "rebase" })));
    assert!(matches!(a.rebase(&mixed_ring(32, device)), Err(Error::RingMismatch { .. })));
    let other = if *device == Device::cpu() { Device::reference() } else { Device::cpu() };
    assert!(matches!(a.rebase(&mixed_ring(16, &other)), Err(Error::DeviceMismatch { .. })));
    let two = random(&ring, Limbs::q(2), 1);
    assert!(matches!(two.rebase(&small), Err(Error::LimbMismatch { .. })));
    let with_special = random(&ring, Limbs { q: 1, p: 3 }, 1);
    assert!(matches!(with_special.rebase(&small), Err(Error::LimbMismatch { .. })));
}

fn limbs_are_views(device: &Device) {
    let ring = mixed_ring(16, device);
    let all = ring.basis().all_limbs();
    let big = random(&ring, all, 1);
    for limbs in [Limbs::q(1), Limbs::q(4), Limbs { q: 3, p: 3 }, all] {
        let part = big.with_limbs(limbs).unwrap();
        // The sampler is limb-addressable: the same words without the other limbs.
        assert_eq!(words(&part), words(&random(&ring, limbs, 1)));
        let mut left = random(&ring, limbs, 2);
        let mut right = left.clone();
        assert_eq!(words(&left.product(&big).unwrap()), words(&left.product(&part).unwrap()));
        left.mul_assign(&big).unwrap();
        right.mul_assign(&part).unwrap();
        assert_eq!(words(&left), words(&right));
        left.mul_add_assign(&big, &part).unwrap();
        right.mul_add_assign(&part, &part).unwrap();
        assert_eq!(words(&left), words(&right));
        let [low, middle, high] = RingPoly::tensor([&part, &big], [&big, &part]).unwrap();
        let [low2, middle2, high2] = RingPoly::tensor([&part, &part], [&part, &part]).unwrap();
        for (wide, narrow) in [(low, low2), (middle, middle2), (high, high2)] {
            assert_eq!(words(&wide), words(&narrow));
        }
        left.add_assign(&big).unwrap();
        left.sub_assign(&part).unwrap();
        assert_eq!(words(&left), words(&right));
        let mut dropped = part;
        dropped.drop_limbs(1).unwrap();
        assert_eq!(words(&dropped), words(&big.with_limbs(Limbs::q(1)).unwrap()));
    }
}

fn counts(device: &Device) {
    let ring = mixed_ring(16, device);
    let count = |f: &dyn Fn()| record(f).1.total().get(Counter::LimbNtts);
    let at = |q| random(&ring, Limbs::q(q), 1);
    assert_eq!(count(&|| drop(at(4).into_coeff().unwrap())), 4);
    assert_eq!(count(&|| drop(at(4).rescale().unwrap())), 4);
    // q = 4: digits of 2 and 2 primes; 4 inverse, then 7 - 2 forward each.
    assert_eq!(count(&|| drop(at(4).decompose().unwrap())), 4 + 5 + 5);
    let big = random(&ring, Limbs { q: 4, p: 3 }, 1);
    assert_eq!(count(&|| drop(big.clone().mod_down().unwrap())), 3 + 4);
    assert_eq!(count(&|| drop(big.clone().mod_down_rescale(2).unwrap())), 5 + 2);
    assert_eq!(count(&|| drop(at(4).rescale_by(3).unwrap())), 3 + 1);
    assert_eq!(count(&|| drop(at(1).mod_raise(5).unwrap())), 1 + 4);
    assert_eq!(count(&|| drop(at(1).mod_raise(1).unwrap())), 0);
    let raised = || big.clone().add_special_multiple_assign(&at(4)).unwrap();
    assert_eq!(count(&raised), 0);
    let (key, none) = (random_key(&ring, 20), [None, None]);
    let a = at(4);
    assert_eq!(count(&|| drop(a.key_switch(&key, none, None).unwrap())), 14);
    let batch = [(&a, none), (&a, none)];
    assert_eq!(count(&|| drop(RingPoly::key_switch_many(&batch, &key, None).unwrap())), 28);
    let digits = a.decompose().unwrap();
    assert_eq!(count(&|| drop(digits.key_switch(&key, none, None).unwrap())), 0);
    assert_eq!(count(&|| drop(at(4).rebase(&ring).unwrap())), 0);
}

fn misuse(device: &Device) {
    let n = 16;
    let ring = mixed_ring(n, device);
    let q4 = Limbs::q(4);
    let mut a = random(&ring, q4, 1);
    let before = words(&a);
    let low = random(&ring, Limbs::q(3), 2);
    assert!(matches!(a.add_assign(&low), Err(Error::LimbMismatch { op: "add", .. })));
    assert!(matches!(RingPoly::tensor([&a, &a], [&a, &low]), Err(Error::LimbMismatch { .. })));
    let other = if *device == Device::cpu() { Device::reference() } else { Device::cpu() };
    let foreign = random(&mixed_ring(n, &other), q4, 1);
    assert!(matches!(a.mul_assign(&foreign), Err(Error::DeviceMismatch { .. })));
    let wide = random(&mixed_ring(32, device), q4, 1);
    assert!(matches!(a.sub_assign(&wide), Err(Error::RingMismatch { .. })));
    let twin = random(&mixed_ring(n, device), q4, 1);
    let mut twice = a.clone();
    twice.add_assign(&twin).unwrap();
    assert_eq!(words(&a), before);

    let bad = |limbs| RingPoly::<Coeff>::zero(&ring, limbs).unwrap_err();
    for limbs in [Limbs::q(0), Limbs::q(7), Limbs { q: 2, p: 1 }] {
        assert!(matches!(bad(limbs), Error::LimbMismatch { .. }));
    }
    assert!(matches!(a.clone().mod_down(), Err(Error::LimbMismatch { .. })));
    assert!(matches!(random(&ring, Limbs::q(1), 1).rescale(), Err(Error::LimbMismatch { .. })));
    assert!(matches!(a.clone().rescale_by(4), Err(Error::LimbMismatch { op: "rescale", .. })));
    assert!(matches!(a.clone().mod_raise(5), Err(Error::LimbMismatch { op: "mod_raise", .. })));
    let one = random(&ring, Limbs::q(1), 1);
    assert!(matches!(one.mod_raise(7), Err(Error::LimbMismatch { .. })));
    let mut big = random(&ring, Limbs { q: 4, p: 3 }, 1);
    for primes in [4, usize::MAX] {
        let result = big.clone().mod_down_rescale(primes);
        assert!(matches!(result, Err(Error::LimbMismatch { op: "mod_down", .. })));
        assert!(matches!(big.clone().rescale_by(primes), Err(Error::LimbMismatch { .. })));
    }
    assert!(matches!(big.clone().rescale_by(1), Err(Error::LimbMismatch { .. })));
    assert!(matches!(big.clone().rescale_by(0), Err(Error::LimbMismatch { .. })));
    assert!(matches!(big.add_special_multiple_assign(&low), Err(Error::LimbMismatch { .. })));
    let mut without = a.clone();
    assert!(matches!(without.add_special_multiple_assign(&a), Err(Error::LimbMismatch { .. })));
    let digits = a.decompose().unwrap();
    assert!(matches!(digits.inner_product(&[]), Err(Error::MissingDigits { needed: 2, got: 0 })));
    let short = [[low.clone(), low.clone()], [low.clone(), low]];
    assert!(matches!(digits.inner_product(&short), Err(Error::LimbMismatch { .. })));
    let g = GaloisElement::conjugation(64);
    assert!(matches!(a.automorphism(g), Err(Error::InvalidGaloisElement { .. })));
    assert!(matches!(
        RingPoly::<Coeff>::from_residues(&ring, Limbs::q(1), vec![0; 15]),
        Err(Error::LengthMismatch { expected: 16, got: 15, .. })
    ));
    let p = ring.basis().q()[0].value();
    let mut large = vec![0; 16];
    large[3] = p;
    assert!(matches!(
        RingPoly::<Coeff>::from_residues(&ring, Limbs::q(1), large),
        Err(Error::NotCanonical { limb: 0, index: 3, .. })
    ));
    assert!(SubringPoly::from_i64(&ring, q4, &[1, 2, 3]).is_err());
    assert!(SubringPoly::from_i64(&ring, q4, &[0; 32]).is_err());
    let no_specials = RnsBasis::new(n, &[p], &[], &[]).unwrap();
    let plain = Ring::new(no_specials, device).unwrap();
    assert!(matches!(random(&plain, Limbs::q(1), 1).decompose(), Err(Error::InvalidBasis { .. })));
}

#[test]
fn bases_are_checked() {
    let q = common::primes_below(50, 16, 3);
    let p = common::primes_below(40, 16, 1);
    assert!(RnsBasis::new(16, &q, &p, &[2, 1]).is_ok());
    for digits in [&[2usize][..], &[2, 2], &[3, 0], &[]] {
        assert!(matches!(RnsBasis::new(16, &q, &p, digits), Err(Error::InvalidBasis { .. })));
    }
    for n in [0, 8, 24, 1 << 18] {
        assert!(matches!(RnsBasis::new(n, &q, &p, &[3]), Err(Error::InvalidBasis { .. })));
    }
    assert!(RnsBasis::new(16, &[], &p, &[]).is_err());
    let twice = [q[0], q[0], q[1]];
    assert!(matches!(RnsBasis::new(16, &twice, &p, &[3]), Err(Error::InvalidModulus { .. })));
    assert!(matches!(RnsBasis::new(16, &q, &[q[0]], &[3]), Err(Error::InvalidModulus { .. })));
    assert!(matches!(RnsBasis::new(16, &[7], &[], &[]), Err(Error::InvalidModulus { .. })));
}

#[test]
fn devices_have_names() {
    let cpus = Device::cpus();
    for device in common::devices().into_iter().chain([Device::reference()]) {
        assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        assert!(device.description().starts_with(&device.to_string()));
    }
    assert_eq!("cpu".parse::<Device>().unwrap(), Device::cpu());
    for name in ["cpu:avx512ifma", "cpu:avx2", "cpu:scalar"] {
        match name.parse::<Device>() {
            Ok(device) => assert!(cpus.contains(&device)),
            Err(Error::DeviceUnavailable { name: refused, .. }) => {
                assert_eq!(refused, name);
                assert!(cpus.iter().all(|device| device.to_string() != name));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!("cpu:neon".parse::<Device>(), Err(Error::DeviceUnavailable { .. })));
    assert!(matches!("cuda:4096".parse::<Device>(), Err(Error::DeviceUnavailable { .. })));
    // Without a number: the first card, or the error that there is none.
    let name = |device: Result<Device, Error>| device.map(|device| device.to_string());
    assert_eq!(name("cuda".parse()), name("cuda:0".parse()));
    assert!(matches!("cuda:x".parse::<Device>(), Err(Error::DeviceUnavailable { .. })));
}
