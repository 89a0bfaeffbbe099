//! Arithmetic on shares modulo 2^w, w the bits that someone looks at.

use super::engine::{Batch, Engine};
use crate::error::Result;
use crate::fixed::{low, shl};
use crate::role::Role;

/// `x / 2^drop` in a ring of `drop` bits less, local: one share is rounded down, the other up, so that the error is in (-1, 1) units with
/// mean 0. Modulo 2^(w - drop) the wrap of the shares vanishes: nothing can fail.
pub(super) fn shrink(role: Role, x: &[u64], drop: u32, width: u32) -> Vec<u64> {
    let one = |x: &u64| match role {
        Role::Server => (x & low(width)) >> drop,
        Role::Client => ((x.wrapping_neg() & low(width)) >> drop).wrapping_neg(),
    };
    x.iter().map(one).collect()
}

/// Transfers of [`Engine::extend`].
pub(super) fn extension(items: usize, from: u32, to: u32) -> Batch {
    Batch::single(if to > from { items } else { 0 }, to.saturating_sub(from))
}

/// Transfers of [`Engine::multiply`]: for every item one transfer a bit of its right factor.
pub(super) fn multiplication(items: usize, lanes: usize, width: u32) -> Batch {
    Batch { items, widths: (0..width).map(|i| width - i).collect(), lanes }
}

/// Transfers of [`Engine::scale_columns`].
pub(super) fn known_vector(items: usize, lanes: usize, width: u32, bits: u32) -> Batch {
    Batch { items, widths: (0..bits).map(|i| width.saturating_sub(i)).collect(), lanes }
}

impl Engine<'_, '_> {
    /// The same number in a larger ring. Needs |x| < 2^(from - 2); without `signed`, 0 <= x < 2^(from - 1).
    ///
    /// `x' = x + 2^(from - 2)` has top bit 0, so its shares wrap exactly when one of their top bits is set: `m_S + m_C - m_S m_C`, one
    /// transfer. Source: SIRNN (ePrint 2021/459), extension of a value whose sign is known.
    pub(super) fn extend(
        &mut self,
        x: &[u64],
        from: u32,
        to: u32,
        signed: bool,
    ) -> Result<Vec<u64>> {
        if to <= from {
            return Ok(x.to_vec());
        }
        let bias = u64::from(signed) << (from - 2);
        let x: Vec<u64> = x.iter().map(|x| x.wrapping_add(self.public(bias)) & low(from)).collect();
        let tops = x.iter().map(|x| x >> (from - 1));
        let batch = extension(x.len(), from, to);
        let none = Batch::default();
        let wraps: Vec<u64> = if self.role() == Role::Server {
            let missing: Vec<u64> = tops.clone().map(|m| 1 - m).collect();
            let [shares, _] = self.products(&batch, &missing, &none, &[])?;
            shares.iter().zip(tops).map(|(s, m)| s.wrapping_add(m)).collect()
        } else {
            let bits: Vec<u8> = tops.map(|m| m as u8).collect();
            let [_, shares] = self.products(&none, &[], &batch, &bits)?;
            shares
        };
        let back = self.public(bias);
        let whole = |(x, w): (&u64, &u64)| x.wrapping_sub(shl(*w, from)).wrapping_sub(back);
        Ok(x.iter().zip(&wraps).map(whole).collect())
    }

    /// Shares modulo 2^width of a shared bit.
    pub(super) fn number(&mut self, bits: &[u8], width: u32) -> Result<Vec<u64>> {
        let batch = Batch::single(bits.len(), width - 1);
        let none = Batch::default();
        let words: Vec<u64> = bits.iter().map(|b| *b as u64).collect();
        let both = if self.role() == Role::Server {
            let [both, _] = self.products(&batch, &words, &none, &[])?;
            both
        } else {
            let [_, both] = self.products(&none, &[], &batch, bits)?;
            both
        };
        Ok(words.iter().zip(&both).map(|(b, both)| b.wrapping_sub(both << 1)).collect())
    }

    /// Shares of `b x` modulo 2^width for shared bits and rows of `lanes` shared words a bit.
    pub(super) fn select(
        &mut self,
        bits: &[u8],
        x: &[u64],
        lanes: usize,
        width: u32,
    ) -> Result<Vec<u64>> {
        let batch = Batch { items: bits.len(), widths: vec![width], lanes };
        let own = |i: usize| bits[i / lanes] as u64;
        // Where this party's bit is set, the peer's bit turns the product off.
        let values: Vec<u64> = x
            .iter()
            .enumerate()
            .map(|(i, x)| x.wrapping_mul(1u64.wrapping_sub(2 * own(i))))
            .collect();
        let [mine, theirs] = self.products(&batch, &values, &batch, bits)?;
        let sum = |(i, x): (usize, &u64)| {
            (x & own(i).wrapping_neg()).wrapping_add(mine[i]).wrapping_add(theirs[i])
        };
        Ok(x.iter().enumerate().map(sum).collect())
    }

    /// Shares of `x y` modulo 2^width, row by row: `lanes` words of `x` for each of `y`.
    ///
    /// `x_S y_C` is the sum over the bits of `y_C` of `2^i b_i x_S`, one transfer each of `width - i` bits; likewise `x_C y_S`. Source: Gilboa
    /// (CRYPTO 1999).
    pub(super) fn multiply(
        &mut self,
        x: &[u64],
        y: &[u64],
        lanes: usize,
        width: u32,
    ) -> Result<Vec<u64>> {
        let batch = multiplication(y.len(), lanes, width);
        let values: Vec<u64> = x
            .chunks_exact(lanes.max(1))
            .flat_map(|row| std::iter::repeat_n(row, width as usize).flatten().copied())
            .collect();
        let bits: Vec<u8> =
            y.iter().flat_map(|y| (0..width).map(move |i| (y >> i & 1) as u8)).collect();
        let cross = self.products(&batch, &values, &batch, &bits)?;
        let mut out: Vec<u64> =
            x.iter().enumerate().map(|(i, x)| x.wrapping_mul(y[i / lanes])).collect();
        for cross in cross {
            gather(&mut out, &cross, lanes, width as usize, 0);
        }
        Ok(out)
    }

    /// Shares of `x_ij g_j` modulo 2^width for a vector that the server knows as integers below 2^(bits - 1): the client sends one transfer a bit of
    /// `g_j + 2^(bits - 1)`, with a column of its half of `x`. The client passes an empty vector.
    pub(super) fn scale_columns(
        &mut self,
        x: &[u64],
        vector: &[u64],
        columns: usize,
        width: u32,
        bits: u32,
    ) -> Result<Vec<u64>> {
        let rows = x.len() / columns.max(1);
        let batch = known_vector(columns, rows, width, bits);
        let offset = 1u64 << (bits - 1);
        let none = Batch::default();
        let cross = if self.role() == Role::Server {
            let choices: Vec<u8> = vector
                .iter()
                .map(|g| g.wrapping_add(offset))
                .flat_map(|g| (0..bits).map(move |i| (g >> i & 1) as u8))
                .collect();
            let [_, cross] = self.products(&none, &[], &batch, &choices)?;
            cross
        } else {
            let column = |j: usize| (0..rows).map(move |i| x[i * columns + j]);
            let values: Vec<u64> =
                (0..columns).flat_map(|j| (0..bits).flat_map(move |_| column(j))).collect();
            let [cross, _] = self.products(&batch, &values, &none, &[])?;
            cross
        };
        let mut by_column = vec![0; x.len()];
        gather(&mut by_column, &cross, rows, bits as usize, 0);
        let own = |i: usize| match vector.get(i % columns) {
            Some(g) => x[i].wrapping_mul(*g),
            None => x[i].wrapping_mul(offset).wrapping_neg(),
        };
        let cross = |i: usize| by_column[i % columns * rows + i / columns];
        Ok((0..x.len()).map(|i| own(i).wrapping_add(cross(i))).collect())
    }

    /// Shares of `x^2` modulo 2^width: one direction of [`Engine::multiply`], doubled.
    pub(super) fn square(&mut self, x: &[u64], width: u32) -> Result<Vec<u64>> {
        let batch = multiplication(x.len(), 1, width - 1);
        let none = Batch::default();
        let cross = if self.role() == Role::Server {
            let values: Vec<u64> =
                x.iter().flat_map(|x| std::iter::repeat_n(*x, width as usize - 1)).collect();
            let [cross, _] = self.products(&batch, &values, &none, &[])?;
            cross
        } else {
            let bits: Vec<u8> =
                x.iter().flat_map(|x| (0..width - 1).map(move |i| (x >> i & 1) as u8)).collect();
            let [_, cross] = self.products(&none, &[], &batch, &bits)?;
            cross
        };
        let mut out: Vec<u64> = x.iter().map(|x| x.wrapping_mul(*x)).collect();
        gather(&mut out, &cross, 1, width as usize - 1, 1);
        Ok(out)
    }
}

/// Adds `2^(i + shift)` times the i-th product of every item.
fn gather(out: &mut [u64], products: &[u64], lanes: usize, bits: usize, shift: usize) {
    for (out, products) in out.chunks_exact_mut(lanes).zip(products.chunks_exact(bits * lanes)) {
        for (i, row) in products.chunks_exact(lanes).enumerate() {
            for (out, product) in out.iter_mut().zip(row) {
                *out = out.wrapping_add(product << (i + shift));
            }
        }
    }
}
