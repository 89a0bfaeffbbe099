//! The oracle: what a circuit computes, from the definition of each gate on plain integers, with the coins that the masks toss.

use crate::circuit::{Circuit, Id, Op};
use crate::dealer::masks;
use crate::fixed::{low, signed};
use crate::{Correlations, ServerModel};

/// Runs `circuit` on plain integers. Returns every value, as signed integers of its ring.
pub(crate) fn clear(
    circuit: &Circuit,
    model: &ServerModel,
    pair: &[Correlations; 2],
    inputs: &[Vec<u64>],
) -> Vec<Vec<i64>> {
    let mut values: Vec<Vec<i64>> = Vec::new();
    let mut rs: Vec<Vec<u64>> = Vec::new();
    for (id, instruction) in circuit.instructions.iter().enumerate() {
        let meta = &circuit.values[id];
        let (x, r) = step(circuit, model, pair, inputs, &values, &rs, id, &instruction.op);
        values.push(x.iter().map(|&x| signed(x as u64, meta.ring)).collect());
        rs.push(r);
    }
    values
}

/// floor(x / 2^drop), plus one when the low bits of x and r carry: what a masked truncation gives.
fn truncated(x: i64, r: u64, drop: u32) -> i64 {
    let carry = (x as u64 & low(drop)) as u128 + (r & low(drop)) as u128 >= 1 << drop;
    (x >> drop) + i64::from(carry)
}

#[expect(clippy::too_many_arguments, reason = "an interpreter's state")]
fn step(
    circuit: &Circuit,
    model: &ServerModel,
    pair: &[Correlations; 2],
    inputs: &[Vec<u64>],
    values: &[Vec<i64>],
    rs: &[Vec<u64>],
    id: Id,
    op: &Op,
) -> (Vec<i64>, Vec<u64>) {
    let none = Vec::new();
    let v = |id: &Id| &values[*id];
    let each = |of: &Id, f: &dyn Fn(i64, u64) -> i64| -> Vec<i64> {
        values[*of].iter().zip(&rs[*of]).map(|(x, r)| f(*x, *r)).collect()
    };
    let zip = |a: &Id, b: &Id, f: fn(i64, i64) -> i64| -> Vec<i64> {
        values[*a].iter().zip(&values[*b]).map(|(a, b)| f(*a, *b)).collect()
    };
    let words = |x: &[i64]| x.iter().map(|x| *x as u64).collect::<Vec<u64>>();
    let ints = |x: Vec<u64>| x.iter().map(|x| *x as i64).collect::<Vec<i64>>();
    let x = match op {
        Op::Input { index, .. } => ints(inputs[*index].clone()),
        Op::View { of, view } => {
            let r = if rs[*of].is_empty() { none } else { view.gather(&rs[*of]) };
            return (ints(view.gather(&words(v(of)))), r);
        }
        Op::Concat { parts, axis } => {
            let runs: Vec<(&Vec<i64>, usize)> = parts
                .iter()
                .map(|p| (v(p), circuit.values[*p].shape[*axis..].iter().product()))
                .collect();
            let outer = runs[0].0.len() / runs[0].1;
            (0..outer)
                .flat_map(|o| {
                    runs.iter().flat_map(move |(d, run)| d[o * run..(o + 1) * run].to_vec())
                })
                .collect()
        }
        Op::Add(a, b) => zip(a, b, i64::wrapping_add),
        Op::Sub(a, b) => zip(a, b, i64::wrapping_sub),
        Op::Times(a, k) => v(a).iter().map(|x| x.wrapping_mul(*k)).collect(),
        Op::Relabel(a) => return (v(a).clone(), rs[*a].clone()),
        Op::SumLast(a) => v(a).chunks(circuit.values[*a].last()).map(|r| r.iter().sum()).collect(),
        Op::AddPublic(a, w) => v(a).iter().map(|x| x.wrapping_add(*w as i64)).collect(),
        Op::AddServer(a, p) => {
            let vector = model.parameters[*p].iter().cycle();
            v(a).iter().zip(vector).map(|(x, w)| x.wrapping_add(*w as i64)).collect()
        }
        Op::Open(a) => return (v(a).clone(), masks(circuit, pair, id)),
        Op::Shrink(a, drop) => {
            let r = rs[*a].iter().map(|r| r >> drop).collect();
            return (each(a, &|x, r| truncated(x, r, *drop)), r);
        }
        Op::Lift(a, drop) => each(a, &|x, r| truncated(x, r, *drop)),
        Op::MatMul(a, b) => {
            let (k, n) = (circuit.values[*a].last(), circuit.values[*b].last());
            let m = circuit.values[*a].shape[circuit.values[*a].shape.len() - 2];
            product(v(a), v(b), m, k, n)
        }
        Op::Mul(a, b) => zip(a, b, i64::wrapping_mul),
        Op::SumSquares(a) => v(a)
            .chunks(circuit.values[*a].last())
            .map(|r| r.iter().fold(0i64, |s, x| s.wrapping_add(x.wrapping_mul(*x))))
            .collect(),
        Op::Linear(a, p) => {
            let p_meta = &circuit.parameters[*p];
            let w = ints(model.parameters[*p].clone());
            product(v(a), &w, v(a).len() / p_meta.rows, p_meta.rows, p_meta.stored_columns())
        }
        Op::Diagonal { linear, parameter } => {
            let Op::Linear(x, _) = circuit.instructions[*linear].op else { panic!("{linear}") };
            let vector = model.parameters[*parameter].iter().cycle();
            v(&x).iter().zip(vector).map(|(x, g)| x.wrapping_mul(*g as i64)).collect()
        }
        Op::Relu { of, drop, .. } => each(of, &|x, r| truncated(x, r, *drop).max(0)),
        Op::Sign { of, drop, .. } => each(of, &|x, r| i64::from(truncated(x, r, *drop) >= 0)),
        Op::Power { of, drop, power, .. } => {
            each(of, &|x, r| truncated(x, r, *drop).wrapping_pow(*power))
        }
        Op::Table { of, drop, table } => {
            let t = &circuit.tables[*table];
            let fine = t.input_bits - t.index_bits;
            each(of, &|x, r| {
                let y = truncated(x, r, *drop);
                let knot = truncated(y, r >> drop, fine);
                let delta = y - (knot << fine);
                let row = knot.rem_euclid(1 << t.index_bits) as usize;
                (0..=t.degree()).fold(0i64, |s, k| {
                    let term =
                        (t.coefficients[k][row] as i64).wrapping_mul(delta.wrapping_pow(k as u32));
                    s.wrapping_add(term)
                })
            })
        }
        Op::Knots { of, drop, knots, .. } => {
            let k = &circuit.knots[*knots];
            each(of, &|x, r| {
                let y = truncated(x, r, *drop);
                let line = k.inner.iter().filter(|p| y >= **p as i64).count();
                (k.offset[line] as i64).wrapping_add((k.slope[line] as i64).wrapping_mul(y))
            })
        }
        Op::Reveal { of, .. } | Op::Keep(of) => v(of).clone(),
    };
    (x, none)
}

fn product(a: &[i64], b: &[i64], m: usize, k: usize, n: usize) -> Vec<i64> {
    let batches = a.len() / (m * k);
    let mut out = Vec::new();
    for batch in 0..batches {
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            out.push((0..k).fold(0i64, |s, p| {
                let (x, y) = (a[(batch * m + i) * k + p], b[(batch * k + p) * n + j]);
                s.wrapping_add(x.wrapping_mul(y))
            }));
        }
    }
    out
}
