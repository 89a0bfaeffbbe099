//! A circuit without a dealer: how many low bits of every value anyone looks at, and what that costs.
//!
//! Truncation, comparison and tables read a known window of their operand, a product needs of its factors no more bits than its
//! result has, sums no more than their sum. One pass from the results backwards gives every value its *width*; everything is
//! computed, sent and transferred modulo 2^width. A product may first drop low bits of its factors, which is local here, and shift its
//! result back: the scales stay those of the circuit.

use super::tally::{NoDealerCost, Tally};
use crate::circuit::{Circuit, Id, Op};
use crate::error::{Error, Result};
use crate::role::Role;

/// Fraction bits that factors of element-wise products keep.
const FACTOR: u32 = 16;
/// The same for squares that are summed over a row: their errors average out.
const SQUARED: u32 = 12;

/// A circuit, prepared for two parties without a dealer. Public; both make the same from the same circuit.
#[derive(Debug)]
pub struct NoDealerPlan<'a> {
    pub(super) circuit: &'a Circuit,
    /// Low bits of every value that are needed; 0 for values that nobody needs.
    pub(super) width: Vec<u32>,
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
    /// [`Error::Unsupported`] for instructions that need a dealer.
    pub fn new(circuit: &'a Circuit) -> Result<Self> {
        let mut plan = Self {
            circuit,
            width: vec![0; circuit.instructions.len()],
            cost: NoDealerCost::default(),
        };
        plan.widths();
        let mut tally = Tally::default();
        for id in (0..circuit.instructions.len()).filter(|&id| plan.width[id] > 0) {
            plan.count(id, &mut tally)?;
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

    /// Low bits that a product drops from its factors.
    pub(super) fn drops(&self, id: Id) -> [u32; 2] {
        let scale = |of: Id| self.circuit.values[of].scale;
        match self.circuit.instructions[id].op {
            Op::Mul(x, y) => [x, y].map(|v| scale(v).saturating_sub(FACTOR)),
            Op::SumSquares(x) => [scale(x).saturating_sub(SQUARED); 2],
            _ => [0; 2],
        }
    }

    /// Width of a product of the shortened factors.
    pub(super) fn inner(&self, id: Id) -> u32 {
        let [a, b] = self.drops(id);
        self.width[id].saturating_sub(a + b).max(2)
    }

    fn widths(&mut self) {
        let circuit = self.circuit;
        for id in (0..circuit.instructions.len()).rev() {
            let op = &circuit.instructions[id].op;
            let w = self.width[id];
            let mut need: Vec<(Id, u32)> = Vec::new();
            match op {
                Op::Reveal { of, .. } => {
                    self.width[id] = self.bits(*of);
                    need.push((*of, self.bits(*of)));
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
                Op::SumSquares(x) => need.push((*x, self.inner(id) + self.drops(id)[0])),
                Op::Times(x, k) => need.push((*x, w.saturating_sub(k.trailing_zeros()).max(1))),
                Op::Diagonal { linear, .. } => {
                    need.extend(circuit.instructions[*linear].op.operands().first().map(|x| (*x, w)));
                }
                other => need.extend(other.operands().into_iter().map(|of| (of, w))),
            }
            for (of, bits) in need {
                self.width[of] = self.width[of].max(bits.min(circuit.values[of].ring));
            }
        }
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
                    of.iter_mut().for_each(|i| *i = places[*i] as usize);
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
    fn count(&self, id: Id, t: &mut Tally) -> Result<()> {
        let circuit = self.circuit;
        let (w, n) = (self.width[id], circuit.values[id].len());
        match &circuit.instructions[id].op {
            Op::Lift(of, drop) => t.extend(n, self.width_of_lift(*of, *drop) - drop, w),
            Op::Mul(_, y) => {
                let rows = self.rows(*y);
                t.multiply(rows.of.len(), rows.lanes, self.inner(id));
            }
            Op::SumSquares(x) => t.square(circuit.values[*x].len(), self.inner(id)),
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
            Op::Table { .. } | Op::Linear(..) | Op::Diagonal { .. } | Op::MatMul(..) => {
                return Err(Error::Unsupported {
                    op: "no dealer",
                    detail: "matrix products and tables need a dealer today".into(),
                });
            }
            _ => {}
        }
        Ok(())
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
