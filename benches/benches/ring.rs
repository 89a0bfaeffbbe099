//! The ring's primitives. Ids name the shape: `ntt/logN=16/l=20/cpu`; l is the number of q-limbs.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use cipherform_ring::{
    Baby, Device, GaloisElement, Limbs, Ring, RingPoly, RnsBasis, SubringPoly, primes, sample,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;

const LOG_N: u32 = 16;

fn primes_below(bits: u32, n: usize, count: usize) -> Vec<u64> {
    let step = 2 * n as u64;
    let top = ((1u64 << bits) - 1) / step * step + 1;
    let candidates = (0..).map(|i| top - i * step);
    candidates.filter(|&p| primes::is_ntt_friendly(p, n)).take(count).collect()
}

/// 21 q-primes of 42 bits in digits of 10 and 11, 8 special primes of 50 bits.
fn ring() -> Arc<Ring> {
    let n = 1 << LOG_N;
    let (q, p) = (primes_below(42, n, 21), primes_below(50, n, 8));
    Ring::new(RnsBasis::new(n, &q, &p, &[10, 11]).unwrap(), &Device::cpu()).unwrap()
}

fn random(ring: &Arc<Ring>, limbs: Limbs, domain: u64) -> RingPoly {
    sample::uniform(ring, limbs, &[1; 32], domain).unwrap()
}

fn benches(c: &mut Criterion) {
    let ring = ring();
    let all = ring.basis().all_limbs();
    let (l20, l21) = (Limbs::q(20), Limbs::q(21));
    let id = |name: &str, l: usize| format!("{name}/logN={LOG_N}/l={l}/cpu");
    let a = random(&ring, l20, 0);
    let b = random(&ring, l20, 1);
    let coeff = a.clone().into_coeff().unwrap();

    let fresh = BatchSize::PerIteration;
    c.bench_function(&id("ntt", 20), |x| {
        x.iter_batched(|| coeff.clone(), |a| a.into_ntt().unwrap(), fresh);
    });
    c.bench_function(&id("intt", 20), |x| {
        x.iter_batched(|| a.clone(), |a| a.into_coeff().unwrap(), fresh);
    });
    let mut acc = a.clone();
    c.bench_function(&id("add", 20), |x| x.iter(|| acc.add_assign(&b).unwrap()));
    c.bench_function(&id("mul", 20), |x| x.iter(|| acc.mul_assign(&b).unwrap()));
    c.bench_function(&id("mul_add", 20), |x| x.iter(|| acc.mul_add_assign(&a, &b).unwrap()));
    c.bench_function(&id("mul_integer", 20), |x| {
        x.iter(|| acc.mul_integer_assign(12345).unwrap());
    });
    c.bench_function(&id("mul_monomial", 20), |x| {
        x.iter(|| acc.mul_monomial_assign(1 << (LOG_N - 1)).unwrap());
    });
    let small: Vec<i64> = (0..1024).collect();
    let subring = SubringPoly::from_i64(&ring, l20, &small).unwrap();
    c.bench_function(&id("mul_subring_add", 20), |x| {
        x.iter(|| acc.mul_subring_add_assign(&a, &subring).unwrap());
    });
    c.bench_function(&id("subring_from_i64/m=1024", 20), |x| {
        x.iter(|| SubringPoly::from_i64(&ring, l20, &small).unwrap());
    });
    let g = GaloisElement::rotation(1, ring.n());
    c.bench_function(&id("automorphism", 20), |x| x.iter(|| a.automorphism(g).unwrap()));
    c.bench_function(&id("rescale", 20), |x| {
        x.iter_batched(|| a.clone(), |a| a.rescale().unwrap(), fresh);
    });

    let a = random(&ring, l21, 0);
    let digits = a.decompose().unwrap();
    let key: Vec<[RingPoly; 2]> =
        (0..2).map(|d| [0, 1].map(|h| random(&ring, all, 2 + 2 * d + h))).collect();
    let wide = random(&ring, all, 9);
    c.bench_function(&id("decompose", 21), |x| x.iter(|| a.decompose().unwrap()));
    c.bench_function(&id("inner_product", 21), |x| {
        x.iter(|| digits.inner_product(&key).unwrap());
    });
    c.bench_function(&id("mod_down", 21), |x| {
        x.iter_batched(|| wide.clone(), |a| a.mod_down().unwrap(), fresh);
    });
    c.bench_function(&id("mod_down_rescale", 21), |x| {
        x.iter_batched(|| wide.clone(), |a| a.mod_down_rescale(1).unwrap(), fresh);
    });
    c.bench_function(&id("key_switch", 21), |x| {
        x.iter(|| a.key_switch(&key, [Some(&wide), None], Some(g)).unwrap());
    });
    c.bench_function(&id("rotate", 21), |x| {
        x.iter(|| {
            let halves = a.key_switch(&key, [Some(&wide), None], Some(g)).unwrap();
            halves.map(|half| half.mod_down().unwrap())
        });
    });
    let b = random(&ring, l21, 1);
    c.bench_function(&id("tensor", 21), |x| {
        x.iter(|| RingPoly::tensor([&a, &b], [&b, &wide]).unwrap());
    });
    // 8 baby steps, the identity among them, and 4 giant steps; one key stands for all: none stays in a cache.
    let weight = SubringPoly::from_i64(&ring, all, &small).unwrap();
    let switched = |k| Baby::Switched { galois: GaloisElement::rotation(k, ring.n()), key: &key };
    let babies: Vec<Baby<'_>> =
        std::iter::once(Baby::Identity).chain((1..8).map(switched)).collect();
    let weights = vec![vec![Some(&weight); babies.len()]; 4];
    c.bench_function(&id("hoisted_sums/8x4/m=1024", 21), |x| {
        x.iter(|| digits.hoisted_sums([&b, &a], &babies, &weights).unwrap());
    });
}

criterion_group! {
    name = ring_benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(ring_benches);
