//! Key switches limb by limb: a digit is converted, transformed and multiplied with the key while it is in the cache, and
//! never written to memory. Keys are read in the order in which they lie there. A batch is done one after the other: the
//! digits of two polynomials push more out of the caches than reading a key again costs, at N = 2^16 with 8 to 24 limbs.

use super::Cpu;
use super::kernels::{self, Plus};
use super::pool::Words;
use super::tables::{Converter, Prime};
use super::transform::PIECE;
use crate::automorphism::Permutation;
use crate::backend::{KeySwitch, Member, Source, View};
use crate::basis::Limbs;
use rayon::prelude::*;

/// Words of a block: a page, beyond which nothing is fetched ahead, of every row.
const BLOCK: usize = PIECE;

/// Both halves of one block of columns.
#[repr(align(64))]
struct Block([[u64; BLOCK]; 2]);

/// One row of a digit.
enum Digit<'a> {
    Whole(&'a [u64]),
    /// Its transform lacks the second pass.
    Begun(&'a mut [u64]),
}

/// One row of a member.
struct MemberRow<'a> {
    digits: Vec<Digit<'a>>,
    /// Times P modulo the prime of the row.
    plus: [Plus<'a>; 2],
}

/// Where each block of columns goes; `None` without an automorphism.
type Blocks<'a> = Option<(&'a Permutation, Vec<usize>)>;

impl Cpu {
    /// Memory for two halves over `limbs`.
    pub(super) fn pair(&self, limbs: Limbs) -> [Words; 2] {
        [self.pool.take(limbs.rows() * self.n), self.pool.take(limbs.rows() * self.n)]
    }

    pub(super) fn switched(
        &self,
        member: &Member<'_, Words>,
        switch: &KeySwitch<'_, Words>,
    ) -> [Words; 2] {
        let (n, limbs) = (self.n, switch.limbs);
        let converters = self.converters(limbs.q);
        let prepared = match &member.source {
            Source::Poly(a) => Some(self.prepared(a, limbs.q, &converters)),
            Source::Digits(_) => None,
        };
        let permutation = switch.galois.map(|g| self.permutation(g));
        let blocks: Blocks<'_> = permutation.as_deref().map(|p| (p, destinations(p, n)));
        let mut out = self.pair(limbs);
        let room = if prepared.is_some() { converters.len() * n } else { 0 };
        let rows = rows(n, limbs.rows(), std::slice::from_mut(&mut out));
        rows.into_par_iter().enumerate().for_each_init(
            || self.pool.take(room),
            |converted, (row, mut outs)| {
                if let Some(prepared) = &prepared {
                    self.convert_digits(prepared, &converters, limbs, row, converted);
                }
                let input = self.member_row(member, switch, &converters, row, converted);
                let keys = self.key_row(&switch.keys, limbs, row);
                multiply(self.prime(limbs, row), &keys, &mut [input], &blocks, &mut outs);
            },
        );
        out
    }

    /// The digits of a prepared polynomial at one row up to the second pass of their transforms, its own left out.
    fn convert_digits(
        &self,
        prepared: &Words,
        converters: &[&Converter],
        limbs: Limbs,
        row: usize,
        out: &mut Words,
    ) {
        let prepared: Vec<&[u64]> = prepared.chunks_exact(self.n).collect();
        for (converter, out) in converters.iter().zip(out.chunks_exact_mut(self.n)) {
            if !converter.source.contains(&row) {
                let sources = &prepared[converter.source.clone()];
                self.target(converter, limbs, row).convert(sources, out);
            }
        }
    }

    /// What one member brings to one row; `converted` has the row of every digit that is not its own.
    fn member_row<'a>(
        &self,
        member: &'a Member<'_, Words>,
        switch: &KeySwitch<'_, Words>,
        converters: &[&Converter],
        row: usize,
        converted: &'a mut Words,
    ) -> MemberRow<'a> {
        let (n, limbs) = (self.n, switch.limbs);
        let digits = match &member.source {
            Source::Digits(digits) => {
                digits.iter().map(|d| Digit::Whole(&d[row * n..][..n])).collect()
            }
            Source::Poly(a) => (converters.iter().zip(converted.chunks_exact_mut(n)))
                .map(|(converter, converted)| {
                    if converter.source.contains(&row) {
                        Digit::Whole(Self::row(a, limbs, row, n))
                    } else {
                        Digit::Begun(converted)
                    }
                })
                .collect(),
        };
        let plus = member.plus.each_ref().map(|plus| {
            let special = switch.special.get(row)?;
            Some((Self::row(plus.as_ref()?, Limbs::q(limbs.q), row, n), *special))
        });
        MemberRow { digits, plus }
    }

    fn key_row<'a>(
        &self,
        keys: &'a [[View<'_, Words>; 2]],
        limbs: Limbs,
        row: usize,
    ) -> Vec<[&'a [u64]; 2]> {
        keys.iter()
            .map(|key| key.each_ref().map(|half| Self::row(half, limbs, row, self.n)))
            .collect()
    }

    /// Inner products of a batch of digits.
    pub(super) fn inner_products_into(
        &self,
        batch: &[&[&Words]],
        limbs: Limbs,
        keys: &[[View<'_, Words>; 2]],
        out: &mut [[Words; 2]],
    ) {
        let n = self.n;
        rows(n, limbs.rows(), out).into_par_iter().enumerate().for_each(|(row, mut outs)| {
            let mut inputs: Vec<MemberRow<'_>> = batch
                .iter()
                .map(|digits| MemberRow {
                    digits: digits.iter().map(|d| Digit::Whole(&d[row * n..][..n])).collect(),
                    plus: [None, None],
                })
                .collect();
            let keys = self.key_row(keys, limbs, row);
            multiply(self.prime(limbs, row), &keys, &mut inputs, &None, &mut outs);
        });
    }
}

/// The pairs of outputs of every row.
fn rows(n: usize, count: usize, out: &mut [[Words; 2]]) -> Vec<Vec<[&mut [u64]; 2]>> {
    let mut rows: Vec<Vec<_>> = (0..count).map(|_| Vec::with_capacity(out.len())).collect();
    for [half0, half1] in out {
        let pairs = half0.chunks_exact_mut(n).zip(half1.chunks_exact_mut(n));
        rows.iter_mut().zip(pairs).for_each(|(row, (h0, h1))| row.push([h0, h1]));
    }
    rows
}

/// For every block of a row, where the image has it.
fn destinations(permutation: &Permutation, n: usize) -> Vec<usize> {
    let width = n.min(BLOCK);
    let mut destinations = vec![0; n / width];
    for start in (0..n).step_by(width) {
        let source = permutation.piece(start..start + width).from.start;
        destinations[source / width] = start;
    }
    destinations
}

/// One row of all members, by blocks of columns; the second pass of a transform just before its block is multiplied.
fn multiply(
    prime: &Prime,
    keys: &[[&[u64]; 2]],
    members: &mut [MemberRow<'_>],
    blocks: &Blocks<'_>,
    outs: &mut [[&mut [u64]; 2]],
) {
    let n = outs.first().map_or(0, |[half, _]| half.len());
    let width = n.min(BLOCK);
    let mut image = Block([[0; BLOCK]; 2]);
    let mut key_block: Vec<[&[u64]; 2]> = Vec::with_capacity(keys.len());
    for from in (0..n).step_by(width) {
        let columns = from..from + width;
        key_block.clear();
        key_block.extend(keys.iter().map(|key| key.map(|half| &half[columns.clone()])));
        for (member, out) in members.iter_mut().zip(&mut *outs) {
            let digits = member.digits.iter_mut().map(|digit| match digit {
                Digit::Whole(row) => &row[columns.clone()],
                Digit::Begun(row) => {
                    let piece = &mut row[columns.clone()];
                    prime.transform.second_pass(from, piece);
                    &*piece
                }
            });
            let digits: Vec<&[u64]> = digits.collect();
            let to = blocks.as_ref().map_or(from, |(_, to)| to[from / width]);
            let mut out = out.each_mut().map(|half| &mut half[to..to + width]);
            let mut image = image.0.each_mut().map(|half| &mut half[..width]);
            let plus = member.plus.map(|plus| plus.map(|(row, p)| (&row[columns.clone()], p)));
            let [half0, half1] = if blocks.is_some() { &mut image } else { &mut out };
            kernels::inner_product(&prime.constants, [half0, half1], &digits, &key_block, &plus);
            if let Some((permutation, _)) = blocks {
                let piece = permutation.piece(to..to + width);
                for (out, image) in out.iter_mut().zip(&image) {
                    kernels::permute(prime.constants.isa, out, image, &piece);
                }
            }
        }
    }
}
