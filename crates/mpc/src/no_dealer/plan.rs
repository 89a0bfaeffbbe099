//! A circuit without a dealer: how many low bits of every value anyone looks at, and what that costs.
//!
//! Truncation, comparison and tables read a known window of their operand, a product needs of its factors no more bits than its
//! result has, sums no more than their sum. One pass from the results backwards gives every value its *width*; everything is
//! computed, sent and transferred modulo 2^width. A product may first drop low bits of its factors, which is local here, and shift its
//! result back: the scales stay those of the circuit.

use super::bits::bytes;
use super::matrix::Layout;
use super::rlwe::{Set, key_bits};
use super::tally::{NoDealerCost, Tally};
use crate::circuit::{Circuit, Id, Op};
use crate::dealer::sizes;
use crate::error::{Error, Result};
use crate::gates::product::Sizes;
use crate::role::Role;
use std::collections::BTreeMap;

/// Fraction bits that factors of element-wise products keep.
const FACTOR: u32 = 15;
/// The same for squares that are summed over a row: their errors average out.
const SQUARED: u32 = 11;
/// Fraction bits that an input of the server's matrices keeps.
const INPUT: u32 = 13;
/// Fraction bits of a factor of a matrix product, below which the larger encryption is worth its bytes.
const PRECISE: u32 = 8;
/// log2 of the norm of the server's weights in one block of a product: 2^15 is a weight of 1, and a block has some thousand.
pub(super) const WEIGHTS: f64 = 23.0;
/// A vector of the server is below 2^(this - 1) as an integer.
pub(super) const VECTOR: u32 = 16;

/// A circuit, prepared for two parties without a dealer. Public; both make the same from the same circuit.
#[derive(Debug)]
pub struct NoDealerPlan<'a> {
    pub(super) circuit: &'a Circuit,
    /// Low bits of every value that are needed; 0 for values that nobody needs.
    pub(super) width: Vec<u32>,
    /// Low bits that a product drops from its factors.
    drops: BTreeMap<Id, [u32; 2]>,
    /// How matrix products are encrypted.
    pub(super) layouts: BTreeMap<Id, Layout>,
    cost: NoDealerCost,
}

/// The right factor of an element-wise product: `lanes` neighbours share a word of value `root`, the `of`-th for the i-th run.
pub(super) struct Rows {
    pub(super) root: Id,
    pub(super) lanes: usize,
    pub(super) of: Vec<usize>,
}

impl<'a> NoDealerPlan<'a> {
    /// Finds the widths and counts the transfers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a product wider than encryption holds.
    pub fn new(circuit: &'a Circuit) -> Result<Self> {
        let mut plan = Self {
            circuit,
            width: vec![0; circuit.instructions.len()],
            drops: BTreeMap::new(),
            layouts: BTreeMap::new(),
            cost: NoDealerCost::default(),
        };
        plan.widths()?;
        let mut tally = Tally::default();
        tally.step([0, plan.key_bytes()]);
        for id in (0..circuit.instructions.len()).filter(|&id| plan.width[id] > 0) {
            plan.count(id, &mut tally);
        }
        plan.cost = tally.cost();
        Ok(plan)
    }

    /// What one run costs, exactly.
    #[must_use]
    pub fn cost(&self) -> NoDealerCost {
        self.cost
    }

    /// Bits that hold a value with room for one more sign bit.
    pub(super) fn bits(&self, id: Id) -> u32 {
        let v = &self.circuit.values[id];
        ((v.bound + v.scale as f64).ceil().max(2.0) as u32 + 2).min(v.ring)
    }

    /// Low bits that product `id` drops from its factors.
    pub(super) fn drops(&self, id: Id) -> [u32; 2] {
        self.drops.get(&id).copied().unwrap_or_default()
    }

    /// Width that result `id` of a product or function is computed in, before it is extended: what is needed, or what it fills.
    pub(super) fn outer(&self, id: Id) -> u32 {
        self.width[id].min(self.bits(id))
    }

    /// The same for the product of the shortened factors.
    pub(super) fn inner(&self, id: Id) -> u32 {
        let [a, b] = self.drops(id);
        self.outer(id).saturating_sub(a + b).max(2)
    }

    /// Decides what product `id` drops and how it is encrypted.
    fn settle(&mut self, id: Id) -> Result<()> {
        let circuit = self.circuit;
        let value = |of: Id| &circuit.values[of];
        let w = self.outer(id);
        let drops = match circuit.instructions[id].op {
            Op::Mul(x, y) => [x, y].map(|v| value(v).scale.saturating_sub(FACTOR)),
            Op::SumSquares(x) => [value(x).scale.saturating_sub(SQUARED); 2],
            Op::Linear(x, p) => {
                let p = &circuit.parameters[p];
                let size =
                    Sizes { m: value(x).len() / p.rows.max(1), k: p.rows, n: p.stored_columns() };
                let widest = |w: &u32| Set::Small.fits(*w, WEIGHTS);
                let limit = (1..=w).rev().find(widest).unwrap_or_default();
                let drop = value(x).scale.saturating_sub(INPUT).max(w - limit);
                if drop >= w.min(value(x).scale + 1) {
                    return Err(too_wide(w));
                }
                self.layouts.insert(id, Layout::new(Set::Small, w - drop, 1, size, false));
                [drop, 0]
            }
            Op::Diagonal { linear, .. } => {
                let x = circuit.instructions[linear].op.operands()[0];
                [value(x).scale.saturating_sub(INPUT), 0]
            }
            Op::MatMul(x, y) => {
                let size = sizes(circuit, x, y);
                let batch = value(id).len() / (size.m * size.n).max(1);
                let [left, right] = [x, y].map(|v| self.bits(v));
                let fit = |set: Set| {
                    let layout = Layout::new(set, w, batch, size, true);
                    let at = |width| layout.with_width(width);
                    (1..=w).rev().map(at).find(|l| set.fits(l.width, l.uniform_norm()))
                };
                // Factors of equal length.
                let split = |l: &Layout| {
                    let drop = w - l.width;
                    let a = ((drop + left).saturating_sub(right) / 2).min(drop);
                    [a, drop - a]
                };
                let precise = |l: &Layout| {
                    let scales = [x, y].map(|v| value(v).scale);
                    split(l).iter().zip(scales).all(|(drop, s)| s >= PRECISE + drop || *drop == 0)
                };
                let layout = fit(Set::Small).filter(precise).or_else(|| fit(Set::Large));
                let Some(layout) = layout else { return Err(too_wide(w)) };
                self.layouts.insert(id, layout);
                split(&layout)
            }
            _ => return Ok(()),
        };
        self.drops.insert(id, drops);
        Ok(())
    }

    fn widths(&mut self) -> Result<()> {
        let circuit = self.circuit;
        for id in (0..circuit.instructions.len()).rev() {
            let op = &circuit.instructions[id].op;
            let w = self.width[id];
            if w > 0 {
                self.settle(id)?;
            }
            let mut need: Vec<(Id, u32)> = Vec::new();
            match op {
                Op::Reveal { of, .. } => {
                    self.width[id] = self.bits(*of);
                    need.push((*of, self.bits(*of)));
                }
                Op::Keep(of) => {
                    self.width[id] = circuit.values[*of].ring;
                    need.push((*of, circuit.values[*of].ring));
                }
                _ if w == 0 => {}
                Op::Lift(of, drop) => need.push((*of, self.bits(*of).max(drop + 3))),
                Op::Shrink(of, drop) => need.push((*of, w + drop)),
                Op::Relu { of, drop, bits }
                | Op::Sign { of, drop, bits }
                | Op::Knots { of, drop, bits, .. }
                | Op::Power { of, drop, bits, .. } => need.push((*of, drop + bits)),
                Op::Table { of, drop, table } => {
                    need.push((*of, drop + circuit.tables[*table].input_bits));
                }
                Op::Mul(x, y) | Op::MatMul(x, y) => {
                    let ([a, b], inner) = (self.drops(id), self.inner(id));
                    need.extend([(*x, inner + a), (*y, inner + b)]);
                }
                Op::Linear(x, _) | Op::SumSquares(x) => {
                    need.push((*x, self.inner(id) + self.drops(id)[0]));
                }
                Op::Times(x, k) => need.push((*x, w.saturating_sub(k.trailing_zeros()).max(1))),
                Op::Diagonal { linear, .. } => {
                    let bits = self.inner(id) + self.drops(id)[0];
                    let x = circuit.instructions[*linear].op.operands();
                    need.extend(x.into_iter().map(|x| (x, bits)));
                }
                other => need.extend(other.operands().into_iter().map(|of| (of, w))),
            }
            for (of, bits) in need {
                self.width[of] = self.width[of].max(bits.min(circuit.values[of].ring));
            }
        }
        Ok(())
    }

    /// Statistical distance, at most, between the replies of one run for any two choices of the server's matrices: what the client
    /// could tell of them from the flooded errors. It adds up over runs with the same weights, whatever the connection. Products
    /// of two shared values count as well: to a client that knows its own share, the server's is as good as the value, which
    /// depends on the weights.
    #[must_use]
    pub fn told_by_replies(&self) -> f64 {
        let of = |(id, layout): (&Id, &Layout)| {
            let norm = match self.circuit.instructions[*id].op {
                Op::Linear(..) => WEIGHTS,
                // Small products may exceed it by a bit.
                _ => layout.uniform_norm() + 1.0,
            };
            layout.replied() as f64 * layout.set.told(layout.width, norm)
        };
        self.layouts.iter().map(of).sum()
    }

    /// The sets of encryption in use.
    pub(super) fn sets(&self) -> [bool; 2] {
        Set::BOTH.map(|set| self.layouts.values().any(|l| l.set == set))
    }

    /// Bytes of the client's public keys.
    pub(super) fn key_bytes(&self) -> usize {
        let used = Set::BOTH.into_iter().zip(self.sets()).filter(|(_, used)| *used);
        bytes(used.map(|(set, _)| key_bits(set)).sum())
    }

    /// The right factor of product `id`, with the repetition that views made taken back.
    pub(super) fn rows(&self, y: Id) -> Rows {
        let circuit = self.circuit;
        let mut of: Vec<usize> = (0..circuit.values[y].len()).collect();
        let mut root = y;
        loop {
            match &circuit.instructions[root].op {
                Op::View { of: next, view } => {
                    let places: Vec<u64> = (0..circuit.values[*next].len() as u64).collect();
                    let places = view.gather(&places);
                    for i in &mut of {
                        *i = places[*i] as usize;
                    }
                    root = *next;
                }
                Op::Open(next) | Op::Relabel(next) => root = *next,
                _ => break,
            }
        }
        let lanes = of.iter().take_while(|i| Some(*i) == of.first()).count().max(1);
        let regular = of.len().is_multiple_of(lanes)
            && of.chunks(lanes).all(|run| run.iter().all(|i| Some(i) == run.first()));
        let lanes = if regular { lanes } else { 1 };
        Rows { root, lanes, of: of.into_iter().step_by(lanes).collect() }
    }

    /// The steps of instruction `id`, as [`super::party`] takes them.
    fn count(&self, id: Id, t: &mut Tally) {
        let circuit = self.circuit;
        let (n, out) = (circuit.values[id].len(), self.width[id]);
        let w = if self.filled(id) { self.outer(id) } else { out };
        match &circuit.instructions[id].op {
            Op::Lift(of, drop) => t.extend(n, self.width_of_lift(*of, *drop) - drop, w),
            Op::Mul(_, y) => {
                let rows = self.rows(*y);
                t.multiply(rows.of.len(), rows.lanes, self.inner(id));
                self.widened(id, t);
            }
            Op::SumSquares(x) => {
                t.square(circuit.values[*x].len(), self.inner(id));
                self.widened(id, t);
            }
            Op::Linear(..) | Op::MatMul(..) => {
                if let Some(layout) = self.layouts.get(&id) {
                    t.step([0, layout.up()]);
                    t.step([layout.down(), 0]);
                }
                self.widened(id, t);
            }
            Op::Diagonal { .. } => {
                let columns = circuit.values[id].last();
                t.vector(columns, n / columns.max(1), self.inner(id), VECTOR);
                self.widened(id, t);
            }
            Op::Relu { bits, .. } => {
                t.below(n, *bits, 1);
                t.select(n, 1, *bits);
                t.extend(n, *bits, w);
            }
            Op::Sign { bits, .. } => {
                t.below(n, *bits, 1);
                t.number(n, w);
            }
            Op::Knots { bits, knots, .. } => {
                let points = circuit.knots[*knots].inner.len();
                t.below(n, *bits, points);
                t.number(n * points, w);
                t.extend(n, *bits, w);
                t.multiply(n, 1, w);
            }
            Op::Power { bits, power, .. } => {
                t.extend(n, *bits, w);
                for i in (0..power.ilog2()).rev() {
                    t.square(n, w);
                    if power >> i & 1 == 1 {
                        t.multiply(n, 1, w);
                    }
                }
            }
            Op::Reveal { of, to } => {
                t.reveal(circuit.values[*of].len(), w, *to);
            }
            Op::Table { table, .. } => {
                let table = &circuit.tables[*table];
                t.table(n, table.input_bits, table.index_bits, table.degree() + 1, w);
            }
            _ => {}
        }
        t.extend(n, w, out);
    }

    /// Whether `id` is a function whose result is computed in the width it fills.
    pub(super) fn filled(&self, id: Id) -> bool {
        let op = &self.circuit.instructions[id].op;
        matches!(op, Op::Table { .. } | Op::Knots { .. } | Op::Power { .. })
    }

    /// The extension of a product to the width that is needed.
    fn widened(&self, id: Id, t: &mut Tally) {
        let ([a, b], inner) = (self.drops(id), self.inner(id));
        t.extend(self.circuit.values[id].len(), inner, self.width[id].saturating_sub(a + b));
    }

    /// Bits of the operand that a lift starts from.
    pub(super) fn width_of_lift(&self, of: Id, drop: u32) -> u32 {
        self.bits(of).max(drop + 3).min(self.circuit.values[of].ring)
    }

    /// Transfers that `role` sends.
    pub(super) fn transfers(&self, role: Role) -> u64 {
        self.cost.transfers[role.index()]
    }
}

fn too_wide(width: u32) -> Error {
    let detail =
        format!("no encryption holds a product of {width} bits; truncate its factors first");
    Error::Unsupported { op: "lattice product", detail }
}
