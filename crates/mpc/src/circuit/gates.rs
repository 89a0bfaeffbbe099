//! Writing a circuit: the gates that take one masked value.

use super::builder::{Builder, Masked, Share};
use super::{Kind, Knots, Op, Table};
use crate::error::{Error, Result};

impl Builder {
    /// `max(x, 0)` of what is left after dropping `drop` low bits of a masked value, as shares in the full ring. No round, one
    /// comparison key of `bits - 1` bits an element. Exact on the dropped value.
    ///
    /// # Errors
    /// [`Error::Range`] unless the dropped value fits `bits` bits with its sign.
    pub fn relu(&mut self, x: Masked, drop: u32, bits: u32) -> Result<Share> {
        self.gate("relu", x, drop, bits)?;
        Ok(Share(self.derived(Op::Relu { of: x.0, drop, bits }, x.0, |v| {
            (v.kind, v.ring, v.scale) = (Kind::Share, 64, v.scale - drop);
        })))
    }

    /// 1 where `x >= 0`, else 0 (scale 0), of what is left after dropping `drop` low bits.
    ///
    /// # Errors
    /// [`Error::Range`] unless the dropped value fits `bits` bits with its sign.
    pub fn sign(&mut self, x: Masked, drop: u32, bits: u32) -> Result<Share> {
        self.gate("sign", x, drop, bits)?;
        Ok(Share(self.derived(Op::Sign { of: x.0, drop, bits }, x.0, |v| {
            (v.kind, v.ring, v.scale, v.bound) = (Kind::Share, 64, 0, 0.0);
        })))
    }

    /// A common check of the gates that drop bits.
    fn gate(&self, op: &'static str, x: Masked, drop: u32, bits: u32) -> Result<()> {
        let v = self.value(x.0);
        self.fits(op, x.0, drop, bits, v.ring)?;
        if drop + bits > v.ring || drop > v.scale || bits < 2 {
            return Err(Error::Range {
                op,
                bound: v.bound,
                scale: v.scale,
                needed: drop + bits,
                ring: v.ring,
            });
        }
        Ok(())
    }

    /// How many low bits to drop so that `x` has `scale` fraction bits.
    fn drop_to(&self, op: &'static str, x: Masked, scale: u32) -> Result<u32> {
        self.scale(x).checked_sub(scale).ok_or(Error::Scale { op, lhs: self.scale(x), rhs: scale })
    }

    /// A table of a masked value, as shares in the full ring at the table's output scale. No round, one point-function key an
    /// element.
    ///
    /// # Errors
    /// [`Error::Range`] when the value does not fit the table, [`Error::Scale`] when it is coarser than the table.
    pub fn table(&mut self, x: Masked, table: &Table) -> Result<Share> {
        let (drop, bits) = (self.drop_to("table", x, table.input_scale)?, table.input_bits);
        self.gate("table", x, drop, bits)?;
        let index = find_or_push(&mut self.tables, table);
        let (scale, bound) = (table.output_scale, table.bound as f64);
        Ok(Share(self.derived(Op::Table { of: x.0, drop, table: index }, x.0, |v| {
            (v.kind, v.ring, v.scale, v.bound) = (Kind::Share, 64, scale, bound);
        })))
    }

    /// Lines between knots of a masked value that is not negative, as shares in the full ring. No round, one comparison key
    /// an element.
    ///
    /// # Errors
    /// As [`Builder::table`].
    pub fn knots(&mut self, x: Masked, knots: &Knots) -> Result<Share> {
        let (drop, bits) = (self.drop_to("knots", x, knots.input_scale)?, knots.input_bits);
        self.gate("knots", x, drop, bits)?;
        let index = find_or_push(&mut self.knots, knots);
        let (scale, bound) = (knots.output_scale, knots.bound as f64);
        Ok(Share(self.derived(Op::Knots { of: x.0, drop, bits, knots: index }, x.0, |v| {
            (v.kind, v.ring, v.scale, v.bound) = (Kind::Share, 64, scale, bound);
        })))
    }

    /// `x^power` of what is left after dropping `drop` low bits. No round, no key, `2 power` corrections an element.
    ///
    /// # Errors
    /// [`Error::Range`] unless the dropped value fits `bits` bits with its sign and its power fits the ring;
    /// [`Error::Unsupported`] for powers outside 2..=8.
    pub fn power(&mut self, x: Masked, drop: u32, bits: u32, power: u32) -> Result<Share> {
        if !(2..=8).contains(&power) {
            let detail = format!("power {power} is outside 2..=8");
            return Err(Error::Unsupported { op: "power", detail });
        }
        self.gate("power", x, drop, bits)?;
        self.fits("power", x.0, drop, bits - 1, self.value(x.0).ring)?;
        let out = self.derived(Op::Power { of: x.0, drop, bits, power }, x.0, |v| {
            v.kind = Kind::Share;
            v.ring = 64;
            v.scale = (v.scale - drop) * power;
            v.bound *= power as f64;
        });
        self.fits("power", out, 0, 64, 64)?;
        Ok(Share(out))
    }
}

fn find_or_push<T: Clone + PartialEq>(list: &mut Vec<T>, item: &T) -> usize {
    list.iter().position(|other| other == item).unwrap_or_else(|| {
        list.push(item.clone());
        list.len() - 1
    })
}
