//! Matrix products of shares by encryption of the client's half.
//!
//! A block of `m_w` rows of `x`, `k_w` columns, and `n_w` columns of `y` is one product of polynomials (Huang, Lu, Hong, Ding, *Cheetah*, ePrint 2022/207,
//! section 3):
//! `a = sum x[i,j] X^(i k_w n_w + k_w - 1 - j)`, `b = sum y[j,l] X^(l k_w + j)`, and `(x y)[i,l]` is the coefficient of `X^(i k_w n_w + l k_w + k_w - 1)`; needs
//! `m_w k_w n_w <= N`.
//! 1. The client sends its half of `x`, and of `y` unless the server knows `y`, encrypted.
//! 2. The server multiplies with its half (with `y`), adds what belongs to one block of the result, and returns it minus a random
//!    mask, its share.
//!
//! 2 rounds. The size of blocks is the one with the fewest bytes, found by trying.

use super::bits::{Packer, Unpacker, bytes};
use super::engine::Engine;
use super::rlwe::{Ciphertext, Public, Secret, Set};
use crate::error::{Error, Result};
use crate::fixed::signed;
use crate::gates::product::Sizes;
use crate::matmul::add_matmul;
use cipherform_ring::RingPoly;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rayon::prelude::*;

/// How a batch of products is cut into polynomials. Public.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) set: Set,
    /// Results are modulo 2^width.
    pub(super) width: u32,
    /// Products of one shape.
    batch: usize,
    size: [usize; 3],
    block: [usize; 3],
    blocks: [usize; 3],
    /// Whether `y` is shared too.
    both: bool,
}

impl Layout {
    /// The cheapest cut of `batch` products of these sizes.
    pub(super) fn new(set: Set, width: u32, batch: usize, z: Sizes, both: bool) -> Self {
        let size = [z.m, z.k, z.n].map(|n| n.max(1));
        let mut best =
            (usize::MAX, Self { set, width, batch, size, block: [1; 3], blocks: size, both });
        for m_blocks in 1..=size[0] {
            for k_blocks in 1..=size[1] {
                let (m, k) = (size[0].div_ceil(m_blocks), size[1].div_ceil(k_blocks));
                let room = set.degree() / (m * k).max(1);
                if room == 0 || size[0].div_ceil(m) != m_blocks || size[1].div_ceil(k) != k_blocks {
                    continue;
                }
                let n_blocks = size[2].div_ceil(room);
                let block = [m, k, size[2].div_ceil(n_blocks)];
                let blocks = [m_blocks, k_blocks, n_blocks];
                let layout = Self { block, blocks, ..best.1 };
                let bytes = layout.up() + layout.down();
                if bytes < best.0 {
                    best = (bytes, layout);
                }
            }
        }
        best.1
    }

    /// The same cut, results modulo 2^width.
    pub(super) fn with_width(self, width: u32) -> Self {
        Self { width, ..self }
    }

    /// Ciphertexts of `x` and of `y`, of one product.
    fn ciphertexts(&self) -> [usize; 2] {
        let [m, k, n] = self.blocks;
        [m * k, if self.both { k * n } else { 0 }]
    }

    /// Bytes from the client.
    pub(super) fn up(&self) -> usize {
        let [x, y] = self.ciphertexts();
        bytes(self.batch * (x + y) * self.set.degree() * self.set.bits().0)
    }

    /// Bytes of one block of the result.
    fn reply(&self) -> usize {
        bytes((self.set.degree() + self.block[0] * self.block[2]) * self.set.bits().1)
    }

    /// Bytes from the server.
    pub(super) fn down(&self) -> usize {
        self.batch * self.blocks[0] * self.blocks[2] * self.reply()
    }

    /// Coefficients of all replies.
    pub(super) fn replied(&self) -> usize {
        self.batch * self.blocks[0] * self.blocks[2] * self.block[0] * self.block[2]
    }

    /// log2 of the norm of uniform multipliers: of both kinds, in all products that end in one block. Half more than the mean of its
    /// square. A sum of hundreds of terms exceeds that with a probability below 2^-40; small products may, by a bit of the flooding: the largest
    /// square is three times the mean.
    pub(super) fn uniform_norm(&self) -> f64 {
        let [m, _, n] = self.block;
        let terms = self.blocks[1] * self.block[1] * (m + n);
        self.width as f64 + (1.5 * terms as f64 / 12.0).log2() / 2.0
    }

    fn left(&self, x: &[u64], i: usize, j: usize) -> Vec<u64> {
        let ([m, k, n], [rows, columns, _]) = (self.block, self.size);
        let mut out = vec![0; self.set.degree()];
        for r in (i * m..rows.min((i + 1) * m)).map(|r| (r, r - i * m)) {
            for c in (j * k..columns.min((j + 1) * k)).map(|c| (c, c - j * k)) {
                out[r.1 * k * n + k - 1 - c.1] = x[r.0 * columns + c.0];
            }
        }
        out
    }

    fn right(&self, y: &[u64], j: usize, l: usize) -> Vec<u64> {
        let ([_, k, n], [_, rows, columns]) = (self.block, self.size);
        let mut out = vec![0; self.set.degree()];
        for r in (j * k..rows.min((j + 1) * k)).map(|r| (r, r - j * k)) {
            for c in (l * n..columns.min((l + 1) * n)).map(|c| (c, c - l * n)) {
                out[c.1 * k + r.1] = y[r.0 * columns + c.0];
            }
        }
        out
    }

    /// Coefficients of a block's results, row by row.
    fn places(&self) -> Vec<usize> {
        let [m, k, n] = self.block;
        (0..m).flat_map(|i| (0..n).map(move |l| i * k * n + l * k + k - 1)).collect()
    }

    /// Writes block (i, l) of one product.
    fn put(&self, out: &mut [u64], i: usize, l: usize, block: &[u64]) {
        let ([m, _, n], [rows, _, columns]) = (self.block, self.size);
        for r in i * m..rows.min((i + 1) * m) {
            for c in l * n..columns.min((l + 1) * n) {
                out[r * columns + c] = block[(r - i * m) * n + c - l * n];
            }
        }
    }
}

/// Keys of one run, by set.
#[expect(clippy::large_enum_variant, reason = "one a run")]
pub(super) enum Keys {
    Client([Option<Secret>; 2]),
    Server([Option<Public>; 2]),
}

fn missing() -> Error {
    Error::Malformed { what: "plan", detail: "a product without keys".into() }
}

impl Engine<'_, '_> {
    fn chacha(&mut self) -> ChaCha20Rng {
        let mut seed = [0; 32];
        let words = self.transfers.random(4);
        seed.as_chunks_mut::<8>().0.iter_mut().zip(&*words).for_each(|(b, w)| *b = w.to_le_bytes());
        ChaCha20Rng::from_seed(seed)
    }

    /// Makes the client's keys of the sets in use and sends the public ones.
    pub(super) fn keys(&mut self, used: [bool; 2], message: usize) -> Result<Keys> {
        if self.role() == crate::Role::Client {
            let mut out = Packer::default();
            let mut keys = [None, None];
            for ((key, set), used) in keys.iter_mut().zip(Set::BOTH).zip(used) {
                if used {
                    let mut secret = Secret::new(set, self.chacha())?;
                    secret.publish(&mut out)?;
                    *key = Some(secret);
                }
            }
            self.wire.exchange(&out.finish(), 0)?;
            return Ok(Keys::Client(keys));
        }
        let theirs = self.wire.exchange(&[], message)?;
        let mut bits = Unpacker::new(&theirs);
        let mut keys = [None, None];
        for ((key, set), used) in keys.iter_mut().zip(Set::BOTH).zip(used) {
            if used {
                *key = Some(Public::read(set, &mut bits)?);
            }
        }
        Ok(Keys::Server(keys))
    }

    /// Shares of a batch of products, modulo 2^width. At the server `y` is its half, or all of `y`.
    pub(super) fn matrices(
        &mut self,
        layout: Layout,
        keys: &mut Keys,
        x: &[u64],
        y: &[u64],
    ) -> Result<Vec<u64>> {
        let [m, k, n] = layout.size;
        let mut out = vec![0; layout.batch * m * n];
        if !y.is_empty() {
            for ((out, x), y) in
                out.chunks_mut(m * n).zip(x.chunks(m * k)).zip(y.chunks(k * n).cycle())
            {
                add_matmul(out, x, y, k, n);
            }
        }
        let slot = layout.set as usize;
        match keys {
            Keys::Client(keys) => {
                let key = keys[slot].as_mut().ok_or_else(missing)?;
                self.ask(layout, key, x, y, &mut out)?;
            }
            Keys::Server(keys) => {
                let key = keys[slot].as_mut().ok_or_else(missing)?;
                self.answer(layout, key, x, y, &mut out)?;
            }
        }
        Ok(out)
    }

    fn ask(
        &mut self,
        layout: Layout,
        key: &mut Secret,
        x: &[u64],
        y: &[u64],
        out: &mut [u64],
    ) -> Result<()> {
        let ([m, k, n], [bm, bk, bn]) = (layout.size, layout.blocks);
        let mut message = Packer::with_bits(8 * layout.up());
        for batch in 0..layout.batch {
            let x = &x[batch * m * k..(batch + 1) * m * k];
            let mut polys: Vec<Vec<u64>> = (0..bm)
                .flat_map(|i| (0..bk).map(move |j| (i, j)))
                .map(|(i, j)| layout.left(x, i, j))
                .collect();
            if layout.both {
                let y = &y[batch * k * n..(batch + 1) * k * n];
                let pairs = (0..bk).flat_map(|j| (0..bn).map(move |l| (j, l)));
                polys.extend(pairs.map(|(j, l)| layout.right(y, j, l)));
            }
            key.encrypt(&polys, layout.width, &mut message)?;
        }
        self.wire.exchange(&message.finish(), 0)?;
        let theirs = self.wire.exchange(&[], layout.down())?;
        let places = layout.places();
        let blocks: Vec<Vec<u64>> = theirs
            .par_chunks(layout.reply())
            .map(|reply| key.decrypt(&places, layout.width, &mut Unpacker::new(reply)))
            .collect::<Result<_>>()?;
        add_blocks(layout, &blocks, out);
        Ok(())
    }

    fn answer(
        &mut self,
        layout: Layout,
        key: &mut Public,
        x: &[u64],
        y: &[u64],
        out: &mut [u64],
    ) -> Result<()> {
        let ([m, k, n], [bm, bk, bn]) = (layout.size, layout.blocks);
        let theirs = self.wire.exchange(&[], layout.up())?;
        let mut bits = Unpacker::new(&theirs);
        let places = layout.places();
        let count = layout.batch * bm * bn;
        let masks = self.transfers.random(count * places.len());
        let seeds: Vec<ChaCha20Rng> = (0..count).map(|_| self.chacha()).collect();
        let center = |poly: Vec<u64>| -> Vec<i64> {
            poly.into_iter().map(|c| signed(c, layout.width)).collect()
        };
        let mut message = Vec::with_capacity(layout.down());
        for batch in 0..layout.batch {
            let [of_x, of_y] = layout.ciphertexts();
            let theirs_x = key.ciphertexts(of_x, &mut bits)?;
            let theirs_y = key.ciphertexts(of_y, &mut bits)?;
            let key = &*key;
            let x = &x[batch * m * k..(batch + 1) * m * k];
            // A matrix that the server knows is the same for all products, and small without centring.
            let y = &y[if layout.both { batch * k * n..(batch + 1) * k * n } else { 0..k * n }];
            let left: Vec<RingPoly> = (0..if layout.both { bm * bk } else { 0 })
                .into_par_iter()
                .map(|at| key.multiplier(&center(layout.left(x, at / bk, at % bk))))
                .collect::<Result<_>>()?;
            let columns: Vec<Vec<Packer>> = (0..bn)
                .into_par_iter()
                .map(|l| {
                    let right: Vec<RingPoly> = (0..bk)
                        .map(|j| {
                            let poly = layout.right(y, j, l);
                            key.multiplier(&if layout.both {
                                center(poly)
                            } else {
                                poly.into_iter().map(|c| c as i64).collect()
                            })
                        })
                        .collect::<Result<_>>()?;
                    let block = |i: usize| {
                        let mut pairs: Vec<(&Ciphertext, &RingPoly)> =
                            (0..bk).map(|j| (&theirs_x[i * bk + j], &right[j])).collect();
                        if layout.both {
                            pairs.extend(
                                (0..bk).map(|j| (&theirs_y[j * bn + l], &left[i * bk + j])),
                            );
                        }
                        let at = (batch * bm + i) * bn + l;
                        let mask = &masks[at * places.len()..(at + 1) * places.len()];
                        let (pairs, width) = (pairs.into_iter(), layout.width);
                        key.reply(pairs, mask, width, &places, &mut seeds[at].clone())
                    };
                    (0..bm).map(block).collect()
                })
                .collect::<Result<_>>()?;
            let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
            for _ in 0..bm {
                for column in &mut columns {
                    message.extend(column.next().unwrap_or_default().finish());
                }
            }
        }
        self.wire.exchange(&message, 0)?;
        let blocks: Vec<Vec<u64>> = masks.chunks(places.len()).map(<[u64]>::to_vec).collect();
        add_blocks(layout, &blocks, out);
        Ok(())
    }
}

/// Adds the blocks of the results, in the order product, row, column.
fn add_blocks(layout: Layout, blocks: &[Vec<u64>], out: &mut [u64]) {
    let ([m, _, n], [bm, _, bn]) = (layout.size, layout.blocks);
    let mut whole = vec![0; m * n];
    for (out, blocks) in out.chunks_mut(m * n).zip(blocks.chunks(bm * bn)) {
        for (at, block) in blocks.iter().enumerate() {
            layout.put(&mut whole, at / bn, at % bn, block);
        }
        out.iter_mut().zip(&whole).for_each(|(o, w)| *o = o.wrapping_add(*w));
    }
}

/// The norm of a known matrix as multipliers of one block, at most; log2.
pub(super) fn matrix_norm(layout: &Layout, y: &[u64]) -> f64 {
    let ([_, _, n], [_, k, columns]) = (layout.block, layout.size);
    let square = |l: usize| -> f64 {
        let row = |j: usize| &y[j * columns + l * n..j * columns + columns.min((l + 1) * n)];
        (0..k).flat_map(row).map(|w| (*w as i64 as f64).powi(2)).sum()
    };
    (0..layout.blocks[2]).map(square).fold(1.0, f64::max).log2() / 2.0
}
