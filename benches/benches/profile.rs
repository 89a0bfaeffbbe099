//! What recording costs: the time of a span and of a count, with and without a recorder on the thread.
//!
//! Without a recorder both must cost one thread-local read: the calls stay in production code.

use cipherform_profile::{Counter, Operator, count, operator, primitive, record};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Times `iterations` of `f` inside recordings; a fresh one every 4096 bounds the span list.
fn recorded(iterations: u64, f: impl Fn()) -> Duration {
    let mut left = iterations;
    let mut elapsed = Duration::ZERO;
    while left > 0 {
        let chunk = left.min(4096);
        let (took, recording) = record(|| {
            let start = Instant::now();
            for _ in 0..chunk {
                f();
            }
            start.elapsed()
        });
        black_box(recording);
        elapsed += took;
        left -= chunk;
    }
    elapsed
}

fn spans(c: &mut Criterion) {
    let span = || drop(black_box(primitive("ntt")));
    let tick = || count(Counter::LimbNtts, black_box(21));
    let op = || drop(black_box(operator(Operator::new("attention.scores"))));
    c.bench_function("primitive/recorder=off", |b| b.iter(span));
    c.bench_function("primitive/recorder=on", |b| b.iter_custom(|n| recorded(n, span)));
    c.bench_function("operator/recorder=on", |b| b.iter_custom(|n| recorded(n, op)));
    c.bench_function("count/recorder=off", |b| b.iter(tick));
    c.bench_function("count/recorder=on", |b| b.iter_custom(|n| recorded(n, tick)));
}

criterion_group!(benches, spans);
criterion_main!(benches);
