//! Negacyclic transforms of one row, in the order of [`crate::ntt`].
//!
//! A row of n = R · 256 words is worked on in two passes, so that either stays in the first cache: the layers that join
//! words 256 apart or more, on column blocks of one cache line through a scratch of R lines; then all others, on runs
//! of 256 words. A pass takes several layers through registers at once, and values stay lazily reduced from the first
//! to the last. The last layers join words of one vector: a square of vectors is transposed around them. Twiddle
//! factors rest in the order in which they are used.

mod layers;

use super::kernels::{self, Constants, Factor};
use super::lanes::{Butterflies, on_lanes};
use crate::automorphism::brv;
use crate::error::Result;
use crate::modulus::Modulus;
use layers::Layers;

/// Words of a run of the second pass.
const RUN: usize = 256;
const LOG_RUN: usize = 8;
/// Largest degree of the plain loops.
const PLAIN: usize = PIECE;
/// Words of a row that go through the second pass together: a page.
pub(super) const PIECE: usize = 512;
/// Some layers that are taken through registers together.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The first of them, counted from the outermost of the row or, for runs, of the run.
    first: usize,
    layers: usize,
    /// Whether the first layer normalises.
    norm: bool,
}

/// How the layers are cut into steps.
#[derive(Debug)]
struct Order {
    columns: Vec<Step>,
    runs: Vec<Step>,
    /// Whether the layers within vectors normalise first.
    norm: bool,
}

/// The transforms modulo one prime of one degree.
#[derive(Debug)]
pub(super) struct Transform {
    constants: Constants,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// ψ^brv(i) and ψ^-brv(i), i < n: one butterfly at a time.
    Plain {
        forward: Vec<Factor>,
        inverse: Vec<Factor>,
    },
    Blocked {
        order: Order,
        forward: Table,
        inverse: Table,
    },
}

/// Twiddle factors of one direction.
#[derive(Debug)]
struct Table {
    /// Of the first pass, for all column blocks.
    columns: Vec<u64>,
    /// Of the second pass, run by run.
    runs: Vec<u64>,
    per_run: usize,
    /// The only factor of the outermost layer.
    outermost: u64,
}

/// `root^brv(i)`, i < n.
fn powers(n: usize, root: u64, m: &Modulus) -> Vec<u64> {
    let mut out = vec![1; n];
    let mut power = 1;
    for i in 1..n {
        power = m.mul(power, root);
        out[brv(i, n.trailing_zeros())] = power;
    }
    out
}

/// Cuts `layers` layers into steps of nearly equal size. Values outgrow their range after four layers without
/// normalisation; `fresh` counts those behind, and canonical input counts as one.
fn steps(layers: usize, largest: usize, fresh: &mut usize) -> Vec<Step> {
    let count = layers.div_ceil(largest);
    let mut first = 0;
    (0..count)
        .map(|i| {
            let layers = (layers - first).div_ceil(count - i);
            let norm = needs_norm(layers, fresh);
            first += layers;
            Step { first: first - layers, layers, norm }
        })
        .collect()
}

/// Whether `layers` more layers need a normalisation first.
fn needs_norm(layers: usize, fresh: &mut usize) -> bool {
    let norm = *fresh + layers > 4;
    *fresh = if norm { layers } else { *fresh + layers };
    norm
}

impl Table {
    /// From `powers[i] = root^brv(i)`.
    fn new<L: Butterflies>(_: L, c: &Constants, powers: &[u64], order: &Order) -> Self {
        let n = powers.len();
        let rows = n / RUN;
        let (columns, runs) = (Vec::new(), Vec::new());
        let mut out = Self { columns, runs, per_run: 0, outermost: powers[1] };
        let put = |to: &mut Vec<u64>, factors: &[u64]| {
            let prepared: Vec<[u64; 2]> = factors.iter().map(|&f| L::twiddle(c, f)).collect();
            to.extend(prepared.iter().map(|t| t[0]));
            if L::TWIDDLE == 2 {
                to.extend(prepared.iter().map(|t| t[1]));
            }
        };
        // The factors of the blocks below `block` of layer `first`.
        let below = |to: &mut Vec<u64>, first: usize, block: usize, layers: usize| {
            for layer in 0..layers {
                for b in 0..1 << layer {
                    put(to, &[powers[(1 << (first + layer)) + (block << layer) + b]]);
                }
            }
        };
        for step in &order.columns {
            for block in 0..1 << step.first {
                below(&mut out.columns, step.first, block, step.layers);
            }
        }
        let width = 1 << L::LOG_WIDTH;
        for row in 0..rows {
            let above = rows.trailing_zeros() as usize;
            for step in &order.runs {
                for block in 0..1 << step.first {
                    let block = (row << step.first) + block;
                    below(&mut out.runs, above + step.first, block, step.layers);
                }
            }
            // Squares: blocks of one vector each, in the layers within vectors.
            for square in 0..RUN / (width * width) {
                let vector = row * (RUN / width) + square * width;
                if L::PAIRED {
                    for pair in 0..width / 2 {
                        put(&mut out.runs, &[powers[n / (2 * width) + vector / 2 + pair]]);
                    }
                }
                for layer in 0..L::LOG_WIDTH {
                    for b in 0..1 << layer {
                        let factor = |lane| powers[((n / width + vector + lane) << layer) + b];
                        let lanes: Vec<u64> = (0..width).map(factor).collect();
                        put(&mut out.runs, &lanes);
                    }
                }
            }
        }
        out.per_run = out.runs.len() / rows;
        out
    }

    /// The factors of the second pass, run by run.
    fn runs(&self) -> std::slice::ChunksExact<'_, u64> {
        self.runs.chunks_exact(self.per_run)
    }
}

impl Transform {
    /// Transforms of degree n, a power of two up to 2^17, with this primitive 2n-th root of unity.
    pub(super) fn new(n: usize, constants: &Constants, psi: u64) -> Result<Self> {
        let m = &constants.modulus;
        let forward = powers(n, psi, m);
        let inverse = powers(n, m.inv(psi)?, m);
        let kind = if n <= PLAIN {
            let factors = |powers: &[u64]| powers.iter().map(|&f| Factor::new(f, m)).collect();
            Kind::Plain { forward: factors(&forward), inverse: factors(&inverse) }
        } else {
            on_lanes!(constants.isa, RUN, |s| Kind::blocked(s, constants, &forward, &inverse))
        };
        Ok(Self { constants: *constants, kind })
    }

    /// Coefficients to NTT order.
    pub(super) fn forward(&self, words: &mut [u64]) {
        self.first_pass(words);
        self.second_pass(0, words);
    }

    /// The first pass of a row. The second may go piece by piece, with whatever follows it.
    pub(super) fn first_pass(&self, words: &mut [u64]) {
        if let Kind::Blocked { order, forward, .. } = &self.kind {
            on_lanes!(self.constants.isa, RUN, |s| {
                Layers::new(s, &self.constants, order, forward).columns_forward(words);
            });
        }
    }

    /// The second pass of words from `start` on: multiples of [`PIECE`], all of a shorter row.
    pub(super) fn second_pass(&self, start: usize, piece: &mut [u64]) {
        match &self.kind {
            Kind::Plain { forward, .. } => plain_forward(&self.constants, piece, forward),
            Kind::Blocked { order, forward, .. } => on_lanes!(self.constants.isa, RUN, |s| {
                let layers = Layers::new(s, &self.constants, order, forward);
                layers.runs_forward(start / RUN, piece);
            }),
        }
    }

    /// NTT order to n times the coefficients, times `factor`, plus `constant`.
    pub(super) fn inverse(&self, words: &mut [u64], factor: Factor, constant: u64) {
        self.inverse_with(None, words, factor, constant);
    }

    /// As [`Transform::inverse`], out of another row.
    pub(super) fn inverse_of(&self, from: &[u64], to: &mut [u64], factor: Factor, constant: u64) {
        self.inverse_with(Some(from), to, factor, constant);
    }

    fn inverse_with(&self, from: Option<&[u64]>, words: &mut [u64], factor: Factor, constant: u64) {
        let c = &self.constants;
        match &self.kind {
            Kind::Plain { inverse, .. } => {
                if let Some(from) = from {
                    words.copy_from_slice(from);
                }
                plain_inverse(c, words, inverse);
                kernels::scale_add(c, words, factor, constant);
            }
            Kind::Blocked { order, inverse, .. } => on_lanes!(c.isa, RUN, |s| {
                let layers = Layers::new(s, c, order, inverse);
                layers.inverse(c, from, words, factor.value, constant);
            }),
        }
    }
}

impl Kind {
    fn blocked<L: Butterflies>(s: L, c: &Constants, forward: &[u64], inverse: &[u64]) -> Self {
        let outer = forward.len().trailing_zeros() as usize - LOG_RUN;
        let inner = LOG_RUN - L::LOG_WIDTH - usize::from(L::PAIRED);
        let mut fresh = 1;
        let columns = steps(outer, L::STEP.min(outer.div_ceil(2)), &mut fresh);
        let runs = steps(inner, L::STEP, &mut fresh);
        let norm = needs_norm(L::LOG_WIDTH + usize::from(L::PAIRED), &mut fresh);
        let order = Order { columns, runs, norm };
        let [forward, inverse] = [forward, inverse].map(|powers| Table::new(s, c, powers, &order));
        Self::Blocked { order, forward, inverse }
    }
}

/// Longa–Naehrig, ePrint 2016/504, algorithm 1.
fn plain_forward(c: &Constants, a: &mut [u64], factors: &[Factor]) {
    let m = &c.modulus;
    let (mut half, mut blocks) = (a.len() / 2, 1);
    while half >= 1 {
        for (pair, &f) in a.chunks_exact_mut(2 * half).zip(&factors[blocks..]) {
            let (low, high) = pair.split_at_mut(half);
            for (u, v) in low.iter_mut().zip(high) {
                let t = f.mul(*v, c.p);
                (*u, *v) = (m.add(*u, t), m.sub(*u, t));
            }
        }
        half /= 2;
        blocks *= 2;
    }
}

/// Undoes [`plain_forward`] but for a factor of two a layer.
fn plain_inverse(c: &Constants, a: &mut [u64], factors: &[Factor]) {
    let m = &c.modulus;
    let (mut half, mut blocks) = (1, a.len() / 2);
    while blocks >= 1 {
        for (pair, &f) in a.chunks_exact_mut(2 * half).zip(&factors[blocks..]) {
            let (low, high) = pair.split_at_mut(half);
            for (u, v) in low.iter_mut().zip(high) {
                (*u, *v) = (m.add(*u, *v), f.mul(m.sub(*u, *v), c.p));
            }
        }
        half *= 2;
        blocks /= 2;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
