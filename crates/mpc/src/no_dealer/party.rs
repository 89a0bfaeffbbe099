//! One party's run without a dealer: the circuit's instructions in order, each by its protocol.

use super::arithmetic::shrink;
use super::bits::{bytes, pack, unpack};
use super::engine::Engine;
use super::matrix::{Keys, Layout, matrix_norm};
use super::plan::{NoDealerPlan, VECTOR, WEIGHTS};
use crate::circuit::{Id, Op};
use crate::error::{Error, Result};
use crate::fixed::{low, signed};
use crate::party::ServerModel;
use crate::role::Role;
use cipherform_profile::{Operator, operator};
use zeroize::{Zeroize, Zeroizing};

pub(super) struct Party<'a, 'e, 'l> {
    pub(super) plan: &'a NoDealerPlan<'a>,
    pub(super) engine: Engine<'e, 'l>,
    pub(super) keys: Keys,
    pub(super) model: Option<&'a ServerModel>,
    pub(super) inputs: &'a [Vec<u64>],
    /// This party's share of every value, valid in its width.
    pub(super) cells: Vec<Zeroizing<Vec<u64>>>,
    pub(super) outputs: Vec<Vec<u64>>,
}

impl Party<'_, '_, '_> {
    pub(super) fn run(mut self) -> Result<Vec<Vec<u64>>> {
        let circuit = self.plan.circuit;
        for id in (0..circuit.instructions.len()).filter(|&id| self.plan.width[id] > 0) {
            let tag = &circuit.operators[circuit.instructions[id].tag];
            let _span = operator(Operator {
                layer: tag.layer.clone(),
                shape: format!("{:?}", circuit.values[id].shape),
                ..Operator::new(&tag.name)
            });
            let mut share = self.instruction(id)?;
            if self.plan.filled(id) {
                let (from, to) = (self.plan.outer(id), self.plan.width[id]);
                share = self.engine.extend(&share, from, to, true)?;
            }
            self.cells[id] = Zeroizing::new(share);
        }
        Ok(std::mem::take(&mut self.outputs))
    }

    fn share(&self, id: Id) -> &[u64] {
        &self.cells[id]
    }

    fn input(&self, id: Id, owner: Role, index: usize) -> Result<Vec<u64>> {
        let circuit = self.plan.circuit;
        if owner != self.engine.role() {
            return Ok(vec![0; circuit.values[id].len()]);
        }
        let error = |detail| Error::Input { what: "input", index, detail };
        let own = circuit.inputs.iter().take(index).filter(|(o, _)| *o == owner).count();
        let x = self.inputs.get(own).ok_or_else(|| error("is missing".into()))?;
        let expected = circuit.values[id].len();
        if x.len() != expected {
            return Err(error(format!("{} values, expected {expected}", x.len())));
        }
        Ok(x.clone())
    }

    /// The window of a gate's operand, in a ring of `bits` bits.
    fn window(&self, of: Id, drop: u32, bits: u32) -> Vec<u64> {
        shrink(self.engine.role(), self.share(of), drop, drop + bits)
    }

    /// A factor of product `id`, shortened.
    fn factor(&self, of: Id, drop: u32, inner: u32) -> Vec<u64> {
        self.window(of, drop, inner)
    }

    /// An instruction without a message.
    fn local(&self, id: Id) -> Result<Vec<u64>> {
        let circuit = self.plan.circuit;
        let value = &circuit.values[id];
        let map = |x: &[u64], f: &dyn Fn(u64) -> u64| x.iter().map(|&x| f(x)).collect::<Vec<_>>();
        let zip = |a: &[u64], b: &[u64], f: fn(u64, u64) -> u64| {
            a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>()
        };
        Ok(match &circuit.instructions[id].op {
            Op::Input { owner, index } => self.input(id, *owner, *index)?,
            Op::View { of, view } => view.gather(self.share(*of)),
            Op::Concat { parts, axis } => self.concat(parts, *axis, value.len()),
            Op::Add(a, b) => zip(self.share(*a), self.share(*b), u64::wrapping_add),
            Op::Sub(a, b) => zip(self.share(*a), self.share(*b), u64::wrapping_sub),
            Op::Times(a, k) => map(self.share(*a), &|x| x.wrapping_mul(*k as u64)),
            Op::Relabel(a) | Op::Open(a) => self.share(*a).to_vec(),
            Op::SumLast(a) => sum_rows(self.share(*a), circuit.values[*a].last()),
            Op::AddPublic(a, word) => {
                let word = self.engine.public(*word);
                map(self.share(*a), &|x| x.wrapping_add(word))
            }
            Op::AddServer(a, p) => match self.model {
                None => self.share(*a).to_vec(),
                Some(model) => {
                    let vector = model.parameters[*p].iter().cycle();
                    self.share(*a).iter().zip(vector).map(|(x, v)| x.wrapping_add(*v)).collect()
                }
            },
            Op::Shrink(of, drop) => {
                shrink(self.engine.role(), self.share(*of), *drop, self.plan.width[id] + drop)
            }
            other => {
                let detail = format!("{other:?} has no protocol");
                return Err(Error::Malformed { what: "plan", detail });
            }
        })
    }

    fn instruction(&mut self, id: Id) -> Result<Vec<u64>> {
        let plan = self.plan;
        let circuit = plan.circuit;
        let value = &circuit.values[id];
        let w = if plan.filled(id) { plan.outer(id) } else { plan.width[id] };
        Ok(match &circuit.instructions[id].op {
            Op::Lift(of, drop) => {
                let from = plan.width_of_lift(*of, *drop) - drop;
                let x = self.window(*of, *drop, from);
                self.engine.extend(&x, from, w, true)?
            }
            Op::Mul(x, y) => {
                let ([a, b], inner) = (plan.drops(id), plan.inner(id));
                let rows = plan.rows(*y);
                let x = self.factor(*x, a, inner);
                let y = self.factor(rows.root, b, inner);
                let y: Vec<u64> = rows.of.iter().map(|i| y[*i]).collect();
                let z = self.engine.multiply(&x, &y, rows.lanes, inner)?;
                self.widened(id, &z)?
            }
            Op::MatMul(x, y) => {
                let ([a, b], inner) = (plan.drops(id), plan.inner(id));
                let (x, y) = (self.factor(*x, a, inner), self.factor(*y, b, inner));
                let layout = self.layout(id)?;
                let z = self.engine.matrices(layout, &mut self.keys, &x, &y)?;
                self.widened(id, &z)?
            }
            Op::Linear(x, p) => {
                let x = self.factor(*x, plan.drops(id)[0], plan.inner(id));
                let layout = self.layout(id)?;
                let w: &[u64] = self.model.map_or(&[], |m| &m.parameters[*p]);
                if !w.is_empty() && matrix_norm(&layout, w) > WEIGHTS {
                    return Err(self.too_large(*p));
                }
                let z = self.engine.matrices(layout, &mut self.keys, &x, w)?;
                self.widened(id, &z)?
            }
            Op::Diagonal { linear, parameter } => {
                let of = circuit.instructions[*linear].op.operands()[0];
                let inner = plan.inner(id);
                let x = self.factor(of, plan.drops(id)[0], inner);
                let g: &[u64] = self.model.map_or(&[], |m| &m.parameters[*parameter]);
                if g.iter().any(|g| (*g as i64).unsigned_abs() >= 1 << (VECTOR - 1)) {
                    return Err(self.too_large(*parameter));
                }
                let z = self.engine.scale_columns(&x, g, value.last(), inner, VECTOR)?;
                self.widened(id, &z)?
            }
            Op::SumSquares(of) => {
                let inner = plan.inner(id);
                let x = self.factor(*of, plan.drops(id)[0], inner);
                let squares = self.engine.square(&x, inner)?;
                self.widened(id, &sum_rows(&squares, circuit.values[*of].last()))?
            }
            Op::Relu { of, drop, bits } => {
                let x = self.window(*of, *drop, *bits);
                let positive = self.reached(&x, *bits, &[0])?;
                let x = self.engine.select(&positive, &x, 1, *bits)?;
                self.engine.extend(&x, *bits, w, false)?
            }
            Op::Sign { of, drop, bits } => {
                let x = self.window(*of, *drop, *bits);
                let positive = self.reached(&x, *bits, &[0])?;
                self.engine.number(&positive, w)?
            }
            Op::Knots { of, drop, bits, knots } => self.knots(*of, *drop, *bits, *knots, w)?,
            Op::Power { of, drop, bits, power } => {
                let x = self.window(*of, *drop, *bits);
                let x = self.engine.extend(&x, *bits, w, true)?;
                let mut y = x.clone();
                for i in (0..power.ilog2()).rev() {
                    y = self.engine.square(&y, w)?;
                    if power >> i & 1 == 1 {
                        y = self.engine.multiply(&y, &x, 1, w)?;
                    }
                }
                y
            }
            Op::Reveal { of, to } => self.reveal(*of, *to, w)?,
            Op::Keep(of) => {
                let kept = self.share(*of).to_vec();
                self.outputs.push(kept);
                Vec::new()
            }
            Op::Table { of, drop, table } => {
                let table = &circuit.tables[*table];
                let x = self.window(*of, *drop, table.input_bits);
                self.engine.look_up(&x, table, w)?
            }
            _ => self.local(id)?,
        })
    }

    /// A product of shortened factors, extended to the width that is needed, at the scale of the circuit.
    fn widened(&mut self, id: Id, z: &[u64]) -> Result<Vec<u64>> {
        let [a, b] = self.plan.drops(id);
        let to = self.plan.width[id].saturating_sub(a + b);
        let mut z = self.engine.extend(z, self.plan.inner(id), to, true)?;
        for z in &mut z {
            *z <<= a + b;
        }
        Ok(z)
    }

    fn layout(&self, id: Id) -> Result<Layout> {
        let detail = || format!("product {id} has no layout");
        let layout = self.plan.layouts.get(&id).copied();
        layout.ok_or_else(|| Error::Malformed { what: "plan", detail: detail() })
    }

    fn too_large(&self, index: usize) -> Error {
        let name = &self.plan.circuit.parameters[index].name;
        let detail =
            format!("{name} has values too large for its scale without a dealer; shrink them");
        Error::Input { what: "weight", index, detail }
    }

    /// Shared bits `x >= p` for every point.
    fn reached(&mut self, x: &[u64], bits: u32, points: &[u64]) -> Result<Vec<u8>> {
        let mut out = self.engine.below(x, bits, points)?;
        let flip = self.engine.public(1) as u8;
        for b in &mut out {
            *b ^= flip;
        }
        Ok(out)
    }

    /// `f(x) = L_0(x) + sum_p 1[x >= p] (L_p(x) - L_(p-1)(x))`: one comparison a knot, offset and slope as sums of their bits, one product.
    fn knots(&mut self, of: Id, drop: u32, bits: u32, knots: usize, w: u32) -> Result<Vec<u64>> {
        let table = &self.plan.circuit.knots[knots];
        let x = self.window(of, drop, bits);
        let reached = self.reached(&x, bits, &table.inner)?;
        let reached = self.engine.number(&reached, w)?;
        let sum = |coefficients: &[u64]| -> Vec<u64> {
            let first = self.engine.public(coefficients[0]);
            let one = |row: &[u64]| {
                let steps = coefficients.windows(2).map(|c| c[1].wrapping_sub(c[0]));
                row.iter().zip(steps).fold(first, |s, (b, c)| s.wrapping_add(b.wrapping_mul(c)))
            };
            reached.chunks_exact(table.inner.len()).map(one).collect()
        };
        let (offset, slope) = (sum(&table.offset), sum(&table.slope));
        let x = self.engine.extend(&x, bits, w, false)?;
        let product = self.engine.multiply(&slope, &x, 1, w)?;
        Ok(offset.iter().zip(&product).map(|(o, p)| o.wrapping_add(*p)).collect())
    }

    fn reveal(&mut self, of: Id, to: Role, w: u32) -> Result<Vec<u64>> {
        let n = self.plan.circuit.values[of].len();
        if to == self.engine.role() {
            let theirs = self.engine.wire.exchange(&[], bytes(n * w as usize))?;
            let theirs = unpack(&theirs, w, n);
            let sum = |(a, b): (&u64, &u64)| signed(a.wrapping_add(*b) & low(w), w) as u64;
            let out = self.share(of).iter().zip(&theirs).map(sum).collect();
            self.outputs.push(out);
        } else {
            let mut message = pack(self.share(of), w);
            self.engine.wire.exchange(&message, 0)?;
            message.zeroize();
        }
        Ok(Vec::new())
    }

    fn concat(&self, parts: &[Id], axis: usize, len: usize) -> Vec<u64> {
        let run = |p: Id| self.plan.circuit.values[p].shape.iter().skip(axis).product::<usize>();
        let total: usize = parts.iter().map(|&p| run(p)).sum();
        let mut out = Vec::with_capacity(len);
        for outer in 0..len.checked_div(total).unwrap_or(0) {
            for &p in parts {
                out.extend_from_slice(&self.share(p)[outer * run(p)..(outer + 1) * run(p)]);
            }
        }
        out
    }
}

fn sum_rows(x: &[u64], row: usize) -> Vec<u64> {
    x.chunks(row.max(1)).map(|r| r.iter().fold(0u64, |s, x| s.wrapping_add(*x))).collect()
}
