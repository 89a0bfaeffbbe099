//! Loops over the words of one row, each written once over [`Lanes`].
#![expect(clippy::inline_always, reason = "one instruction or two in the innermost loops")]

use super::lanes::{BLOCK as LANE_BLOCK, Isa, Lanes, QUOTIENT_BITS, on_lanes};
use crate::automorphism::Piece;
use crate::modulus::Modulus;

/// A constant factor with its precomputed quotient (Shoup): `floor(value · 2^64 / p)`.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Factor {
    pub(in crate::backend) value: u64,
    quotient: u64,
}

impl Factor {
    pub(super) fn new(value: u64, m: &Modulus) -> Self {
        Self { value, quotient: (((value as u128) << 64) / m.value() as u128) as u64 }
    }

    /// `floor(value · 2^52 / p)`.
    #[inline(always)]
    pub(super) fn quotient52(self) -> u64 {
        self.quotient >> 12
    }

    /// `floor(value · 2^64 / p)`.
    pub(super) fn quotient64(self) -> u64 {
        self.quotient
    }

    /// `x · value mod p` for any word x.
    #[inline(always)]
    pub(super) fn mul(self, x: u64, p: u64) -> u64 {
        let q = ((x as u128 * self.quotient as u128) >> 64) as u64;
        let r = x.wrapping_mul(self.value).wrapping_sub(q.wrapping_mul(p));
        r.min(r.wrapping_sub(p))
    }
}

/// What the loops need to know about a prime, and the instructions to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    pub(super) isa: Isa,
    pub(super) modulus: Modulus,
    pub(super) p: u64,
    /// 2^52 mod p.
    pub(super) fold: Factor,
    /// 1, as a factor: reduces words.
    pub(super) one: Factor,
    /// `floor(2^(bits + 50) / p)`: see [`quotients`].
    pub(super) ratio: u64,
}

impl Constants {
    pub(super) fn new(m: &Modulus, isa: Isa) -> Self {
        Self {
            isa,
            modulus: *m,
            p: m.value(),
            fold: Factor::new(m.reduce(1 << 52), m),
            one: Factor::new(1, m),
            ratio: ((1u128 << (m.bits() + QUOTIENT_BITS)) / m.value() as u128) as u64,
        }
    }
}

/// `a = f(a)`.
#[inline(always)]
fn each<L: Lanes>(s: L, a: &mut [u64], f: impl Fn(L::Vector) -> L::Vector) {
    for a in s.split_mut(a) {
        *a = s.store(f(s.load(*a)));
    }
}

/// `a = f(a, b)`.
#[inline(always)]
fn each2<L: Lanes>(s: L, a: &mut [u64], b: &[u64], f: impl Fn(L::Vector, L::Vector) -> L::Vector) {
    for (a, b) in s.split_mut(a).iter_mut().zip(s.split(b)) {
        *a = s.store(f(s.load(*a), s.load(*b)));
    }
}

/// `a - b mod p` for residues, not reduced: in [1, 2p).
#[inline(always)]
fn difference<L: Lanes>(s: L, w: &L::Prime, a: L::Vector, b: L::Vector) -> L::Vector {
    s.add(a, s.sub(s.modulus(w), b))
}

pub(super) fn add(c: &Constants, a: &mut [u64], b: &[u64]) {
    on_lanes!(c.isa, a.len(), |s| {
        let p = s.splat(c.p);
        each2(s, a, b, |a, b| s.fold(s.add(a, b), p));
    });
}

pub(super) fn sub(c: &Constants, a: &mut [u64], b: &[u64]) {
    on_lanes!(c.isa, a.len(), |s| {
        let w = s.prime(c);
        let p = s.splat(c.p);
        each2(s, a, b, |a, b| s.fold(difference(s, &w, a, b), p));
    });
}

pub(super) fn neg(c: &Constants, a: &mut [u64]) {
    on_lanes!(c.isa, a.len(), |s| {
        let p = s.splat(c.p);
        each(s, a, |a| s.fold(s.sub(p, a), p));
    });
}

pub(super) fn add_scalar(c: &Constants, a: &mut [u64], constant: u64) {
    on_lanes!(c.isa, a.len(), |s| {
        let (p, constant) = (s.splat(c.p), s.splat(constant));
        each(s, a, |a| s.fold(s.add(a, constant), p));
    });
}

pub(super) fn mul(c: &Constants, a: &mut [u64], b: &[u64]) {
    on_lanes!(c.isa, a.len(), |s| {
        let (w, zero) = (s.prime(c), s.splat(0));
        each2(s, a, b, |a, b| s.mul_add(&w, zero, a, b));
    });
}

/// `out = a · b`.
pub(super) fn product(c: &Constants, out: &mut [u64], a: &[u64], b: &[u64]) {
    on_lanes!(c.isa, out.len(), |s| {
        let (w, zero) = (s.prime(c), s.splat(0));
        let pairs = s.split(a).iter().zip(s.split(b));
        for (out, (a, b)) in s.split_mut(out).iter_mut().zip(pairs) {
            *out = s.store(s.mul_add(&w, zero, s.load(*a), s.load(*b)));
        }
    });
}

pub(super) fn mul_add(c: &Constants, acc: &mut [u64], a: &[u64], b: &[u64]) {
    on_lanes!(c.isa, acc.len(), |s| {
        let w = s.prime(c);
        let pairs = s.split(a).iter().zip(s.split(b));
        for (acc, (a, b)) in s.split_mut(acc).iter_mut().zip(pairs) {
            *acc = s.store(s.mul_add(&w, s.load(*acc), s.load(*a), s.load(*b)));
        }
    });
}

/// `out = [a0·b0, a0·b1 + a1·b0, a1·b1]`.
pub(super) fn tensor(c: &Constants, out: [&mut [u64]; 3], a: [&[u64]; 2], b: [&[u64]; 2]) {
    let [out0, out1, out2] = out;
    on_lanes!(c.isa, out0.len(), |s| {
        let (w, zero) = (s.prime(c), s.splat(0));
        let ([a0, a1], [b0, b1]) = (a.map(|a| s.split(a)), b.map(|b| s.split(b)));
        let inputs = a0.iter().zip(a1).zip(b0.iter().zip(b1));
        let outs = s.split_mut(out0).iter_mut().zip(s.split_mut(out1)).zip(s.split_mut(out2));
        for (((out0, out1), out2), ((a0, a1), (b0, b1))) in outs.zip(inputs) {
            let (a0, a1) = (s.operand(s.load(*a0)), s.operand(s.load(*a1)));
            let (b0, b1) = (s.operand(s.load(*b0)), s.operand(s.load(*b1)));
            let product = |a, b| s.accumulate(s.zero(), a, b);
            *out0 = s.store(s.reduce(&w, product(a0, b0), zero));
            *out1 = s.store(s.reduce(&w, s.accumulate(product(a0, b1), a1, b0), zero));
            *out2 = s.store(s.reduce(&w, product(a1, b1), zero));
        }
    });
}

/// `a = a · f`.
pub(super) fn scale(c: &Constants, a: &mut [u64], f: Factor) {
    on_lanes!(c.isa, a.len(), |s| {
        let w = s.prime(c);
        let f = s.multiplier(&w, f);
        each(s, a, |a| s.times(&w, a, f));
    });
}

/// `sum = Σ_i a_i · f_i`, added to what `sum` holds if it has been `started`.
pub(super) fn combine(c: &Constants, sum: &mut [u64], started: bool, terms: &[(&[u64], u64)]) {
    on_lanes!(c.isa, sum.len(), |s| {
        let w = s.prime(c);
        for (at, sum) in s.split_mut(sum).iter_mut().enumerate() {
            let start = if started { s.load(*sum) } else { s.splat(0) };
            *sum = s.store(combination_at(s, &w, at, start, terms));
        }
    });
}

/// One vector of [`combine`], at `at`.
#[inline(always)]
fn combination_at<L: Lanes>(
    s: L,
    w: &L::Prime,
    at: usize,
    start: L::Vector,
    terms: &[(&[u64], u64)],
) -> L::Vector {
    terms.chunks(L::TERMS).fold(start, |total, terms| {
        let product = |sum, (a, f): &(&[u64], u64)| {
            s.accumulate(sum, operand_at(s, a, at), s.operand(s.splat(*f)))
        };
        s.reduce(w, terms.iter().fold(s.zero(), product), total)
    })
}

/// `a = a · f + constant`.
pub(super) fn scale_add(c: &Constants, a: &mut [u64], f: Factor, constant: u64) {
    on_lanes!(c.isa, a.len(), |s| {
        let w = s.prime(c);
        let (p, f, constant) = (s.splat(c.p), s.multiplier(&w, f), s.splat(constant));
        each(s, a, |a| s.fold(s.add(s.times(&w, a, f), constant), p));
    });
}

/// `a = (a - b) · f`.
pub(super) fn sub_scale(c: &Constants, a: &mut [u64], b: &[u64], f: Factor) {
    on_lanes!(c.isa, a.len(), |s| {
        let w = s.prime(c);
        let f = s.multiplier(&w, f);
        each2(s, a, b, |a, b| s.times(&w, difference(s, &w, a, b), f));
    });
}

/// `out = (a mod p) + constant` for words of another prime.
pub(super) fn reduce_add(c: &Constants, out: &mut [u64], a: &[u64], constant: u64) {
    on_lanes!(c.isa, out.len(), |s| {
        let w = s.prime(c);
        let (p, one, constant) = (s.splat(c.p), s.multiplier(&w, c.one), s.splat(constant));
        each2(s, out, a, |_, a| s.fold(s.add(s.times(&w, a, one), constant), p));
    });
}

/// Words of a row that are worked on together, so that 16 rows of them stay in the first cache.
pub(super) const BLOCK: usize = 256;
/// Vectors that are in flight together: a product has a latency of four cycles.
const UNROLL: usize = 4;

/// `V` vectors of [`convert`], from `at`.
#[inline(always)]
fn convert_vectors<L: Lanes, const V: usize>(
    s: L,
    w: &L::Prime,
    out: &mut [L::Words],
    at: usize,
    sources: &[&[u64]],
    factors: &[u64],
    init: L::Vector,
) {
    let mut totals = [init; V];
    for (sources, factors) in sources.chunks(L::TERMS).zip(factors.chunks(L::TERMS)) {
        let mut sums = [s.zero(); V];
        for (source, &f) in sources.iter().zip(factors) {
            let f = s.operand(s.splat(f));
            let source = &s.split(source)[at..at + V];
            for v in 0..V {
                sums[v] = s.accumulate(sums[v], s.operand(s.load(source[v])), f);
            }
        }
        for v in 0..V {
            totals[v] = s.reduce(w, sums[v], totals[v]);
        }
    }
    for v in 0..V {
        out[at + v] = s.store(totals[v]);
    }
}

/// `out = init + Σ_i sources[i] · factors[i] mod p` for at most [`BLOCK`] words; sources are words below 2^50 of other
/// primes.
pub(super) fn convert(
    c: &Constants,
    out: &mut [u64],
    sources: &[&[u64]],
    factors: &[u64],
    init: u64,
) {
    on_lanes!(c.isa, out.len(), |s| {
        let (w, init) = (s.prime(c), s.splat(init));
        let out = s.split_mut(out);
        let unrolled = out.len() / UNROLL * UNROLL;
        for at in (0..unrolled).step_by(UNROLL) {
            convert_vectors::<_, UNROLL>(s, &w, out, at, sources, factors, init);
        }
        for at in unrolled..out.len() {
            convert_vectors::<_, 1>(s, &w, out, at, sources, factors, init);
        }
    });
}

/// A row that is multiplied by a residue and added to a half.
pub(super) type Plus<'a> = Option<(&'a [u64], u64)>;

/// One vector of a row, at `at`.
#[inline(always)]
fn operand_at<L: Lanes>(s: L, row: &[u64], at: usize) -> L::Operand {
    s.operand(s.load(s.split(row)[at]))
}

/// The sum that a half of [`inner_product`] starts from, at `at`.
#[inline(always)]
fn start_at<L: Lanes>(s: L, plus: &Plus<'_>, at: usize) -> L::Sum {
    match plus {
        Some((row, factor)) => {
            s.accumulate(s.zero(), operand_at(s, row, at), s.operand(s.splat(*factor)))
        }
        None => s.zero(),
    }
}

/// One vector of [`inner_product`], at `at`.
#[inline(always)]
fn inner_product_at<L: Lanes>(
    s: L,
    w: &L::Prime,
    at: usize,
    digits: &[&[u64]],
    keys: &[[&[u64]; 2]],
    plus: &[Plus<'_>; 2],
) -> [L::Words; 2] {
    let load = |row: &[u64]| operand_at(s, row, at);
    let mut totals = [s.splat(0); 2];
    let [mut sum0, mut sum1] = [start_at(s, &plus[0], at), start_at(s, &plus[1], at)];
    // One term less than fit: the first sums have started.
    for (digits, keys) in digits.chunks(L::TERMS - 1).zip(keys.chunks(L::TERMS - 1)) {
        for (digit, [key0, key1]) in digits.iter().zip(keys) {
            let x = load(digit);
            sum0 = s.accumulate(sum0, x, load(key0));
            sum1 = s.accumulate(sum1, x, load(key1));
        }
        totals = [s.reduce(w, sum0, totals[0]), s.reduce(w, sum1, totals[1])];
        [sum0, sum1] = [s.zero(); 2];
    }
    [s.store(totals[0]), s.store(totals[1])]
}

/// `out[h] = plus[h] + Σ_d digits[d] · keys[d][h]` for one digit at least.
pub(super) fn inner_product(
    c: &Constants,
    out: [&mut [u64]; 2],
    digits: &[&[u64]],
    keys: &[[&[u64]; 2]],
    plus: &[Plus<'_>; 2],
) {
    let [out0, out1] = out;
    on_lanes!(c.isa, out0.len(), |s| {
        let w = s.prime(c);
        let outs = s.split_mut(out0).iter_mut().zip(s.split_mut(out1));
        for (at, (out0, out1)) in outs.enumerate() {
            [*out0, *out1] = inner_product_at(s, &w, at, digits, keys, plus);
        }
    });
}

/// `out = floor(Σ_i floor(y_i · ratio_i / 2^bits_i) / 2^50)`: how often P goes into `Σ_i y_i · (P/p_i)`.
pub(super) fn quotients(isa: Isa, out: &mut [u64], sources: &[&[u64]], primes: &[Constants]) {
    on_lanes!(isa, out.len(), |s| {
        out.fill(0);
        for (source, c) in sources.iter().zip(primes) {
            each2(s, out, source, |out, y| s.add(out, s.quotient(c, y)));
        }
        each(s, out, |out| s.shift_quotient(out));
    });
}

/// `a = a · f` where each word of `factors` stands for a run of words.
pub(super) fn mul_runs(c: &Constants, a: &mut [u64], factors: &[u64]) {
    let run = a.len() / factors.len();
    on_lanes!(c.isa, run, |s| {
        let (w, zero) = (s.prime(c), s.splat(0));
        for (a, &f) in a.chunks_exact_mut(run).zip(factors) {
            let f = s.splat(f);
            each(s, a, |a| s.mul_add(&w, zero, a, f));
        }
    });
}

/// `acc = acc + a · f` where each word of `factors` stands for a run of words.
pub(super) fn mul_add_runs(c: &Constants, acc: &mut [u64], a: &[u64], factors: &[u64]) {
    let run = acc.len() / factors.len();
    on_lanes!(c.isa, run, |s| {
        let w = s.prime(c);
        for ((acc, a), &f) in acc.chunks_exact_mut(run).zip(a.chunks_exact(run)).zip(factors) {
            let f = s.splat(f);
            each2(s, acc, a, |acc, a| s.mul_add(&w, acc, a, f));
        }
    });
}

/// Some columns of a factor.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// The factor is 0.
    None,
    /// A word a column.
    Dense(&'a [u64]),
    /// Each word stands for a run of 2^log_run columns, at least a vector.
    Runs { words: &'a [u64], log_run: u32 },
}

/// `outs[g][h] = Σ_b weights[g][b] · pairs[b][h]`.
pub(super) fn weighted_sums(
    c: &Constants,
    outs: &mut [[&mut [u64]; 2]],
    pairs: &[[&[u64]; 2]],
    weights: &[Vec<Weights<'_>>],
) {
    let length = outs.first().map_or(0, |[half, _]| half.len());
    on_lanes!(c.isa, length, |s| {
        let w = s.prime(c);
        // Two sums share what they load of a pair: loads, not products, are what a single one waits for.
        let (twos, rest) = outs.as_chunks_mut::<2>();
        let (weights_of_twos, weights_of_rest) = weights.as_chunks::<2>();
        for (outs, weights) in twos.iter_mut().zip(weights_of_twos) {
            weighted_group(s, &w, outs, pairs, weights);
        }
        let ones = rest.as_chunks_mut::<1>().0.iter_mut();
        for (outs, weights) in ones.zip(weights_of_rest.as_chunks::<1>().0) {
            weighted_group(s, &w, outs, pairs, weights);
        }
    });
}

/// [`weighted_sums`] of `G` sums.
#[inline(always)]
fn weighted_group<L: Lanes, const G: usize>(
    s: L,
    w: &L::Prime,
    outs: &mut [[&mut [u64]; 2]; G],
    pairs: &[[&[u64]; 2]],
    weights: &[Vec<Weights<'_>>; G],
) {
    let outs = outs.each_mut().map(
        #[inline(always)]
        |[half0, half1]| [s.split_mut(half0), s.split_mut(half1)],
    );
    for at in 0..outs[0][0].len() {
        let sums = weighted_sums_at(s, w, at, pairs, weights);
        for g in 0..G {
            for h in 0..2 {
                outs[g][h][at] = sums[g][h];
            }
        }
    }
}

/// One vector of [`weighted_group`], at `at`.
#[inline(always)]
fn weighted_sums_at<L: Lanes, const G: usize>(
    s: L,
    w: &L::Prime,
    at: usize,
    pairs: &[[&[u64]; 2]],
    weights: &[Vec<Weights<'_>>; G],
) -> [[L::Words; 2]; G] {
    let column = at * (size_of::<L::Words>() / size_of::<u64>());
    let load = |row: &[u64]| s.operand(s.load(s.split(row)[at]));
    let mut totals = [[s.splat(0); 2]; G];
    for (group, pairs) in pairs.chunks(L::TERMS).enumerate() {
        let mut sums = [[s.zero(); 2]; G];
        for (b, pair) in (group * L::TERMS..).zip(pairs) {
            let pair = [load(pair[0]), load(pair[1])];
            for g in 0..G {
                let f = match weights[g][b] {
                    Weights::None => continue,
                    Weights::Dense(words) => load(words),
                    Weights::Runs { words, log_run } => {
                        s.operand(s.splat(words[column >> log_run]))
                    }
                };
                for h in 0..2 {
                    sums[g][h] = s.accumulate(sums[g][h], pair[h], f);
                }
            }
        }
        for g in 0..G {
            for h in 0..2 {
                totals[g][h] = s.reduce(w, sums[g][h], totals[g][h]);
            }
        }
    }
    totals.map(
        #[inline(always)]
        |total| [s.store(total[0]), s.store(total[1])],
    )
}

/// `out` = `from` permuted: an aligned block of a row, all of it included, and the block that it comes from.
pub(super) fn permute(isa: Isa, out: &mut [u64], from: &[u64], piece: &Piece<'_>) {
    on_lanes!(isa, out.len(), |s| {
        let blocks = from.as_chunks::<LANE_BLOCK>().0;
        let outs = out.as_chunks_mut::<LANE_BLOCK>().0;
        for (out, &source) in outs.iter_mut().zip(piece.sources) {
            let block = &blocks[(source as usize / LANE_BLOCK) & (blocks.len() - 1)];
            *out = s.permute(block, &piece.lanes[source as usize % LANE_BLOCK]);
        }
    });
}

#[cfg(test)]
#[path = "kernels_tests.rs"]
mod tests;
