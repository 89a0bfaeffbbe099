//! Every emitter on exact slots, against loops over matrices written from the definitions.
//!
//! | test | shows |
//! | --- | --- |
//! | `products` | matrices of one and several ciphertexts, natural and interlaced, garbage in idle slots |
//! | `attention` | scores, weights times values, sums over keys: heads of one and of two halves, fewer and more features than rows |
//! | `numbers` | gather and scatter are inverse and clear what they should; idle slots |
//! | `squares` | sums of squares of a stream of several ciphertexts |
//! | `counts` | rotations and levels at the shapes of BERT-base, Pythia-70M and MiniLM |

use super::{Features, HeadGroup, Pair, PairPacking};
use crate::error::Result;
use crate::exec::{Progress, Slots, execute};
use crate::matrix::Matrix;
use crate::program::{Builder, Instruction, Ladder, Opcode, Program, Register};
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::ops::ControlFlow;

const TOP: usize = 30;

fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let unit = |word: u64| (word >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    let data = (0..rows * columns).map(|_| unit(rng.next_u64())).collect();
    Matrix::from_vec(rows, columns, data).unwrap()
}

/// Slots of `x` with its features at these places; idle slots hold `idle`.
fn pack(p: &PairPacking, x: &Matrix, features: &Features, idle: f64) -> Vec<Complex64> {
    let at = |t: usize, f: usize| match features[f] {
        Some(feature) if t < x.rows() => x.at(t, feature),
        Some(_) => 0.0,
        None => idle,
    };
    (0..p.slots)
        .map(|slot| (slot / p.columns, slot % p.columns))
        .map(|(t, f)| Complex64::new(at(t, f), at(t + p.rows, f)))
        .collect()
}

fn value(p: &PairPacking, slots: &[Complex64], t: usize, f: usize) -> f64 {
    let z = slots[(t % p.rows) * p.columns + f];
    if t < p.rows { z.re } else { z.im }
}

fn program(
    p: PairPacking,
    inputs: usize,
    sketch: bool,
    build: impl FnOnce(&mut Pair, &[Register]) -> Result<Vec<Register>>,
) -> Program {
    let mut b =
        Builder::new(Ladder::Endless { log2_scale: 40.0, top: TOP, crosses: false }, sketch);
    b.step("emitter");
    let registers: Vec<Register> = (0..inputs).map(|i| b.input(i, TOP)).collect();
    let mut pair = Pair { b, p };
    let out = build(&mut pair, &registers).unwrap();
    pair.b.finish(out)
}

fn run(
    p: PairPacking,
    inputs: Vec<Vec<Complex64>>,
    build: impl FnOnce(&mut Pair, &[Register]) -> Result<Vec<Register>>,
) -> Vec<Vec<Complex64>> {
    let program = program(p, inputs.len(), false, build);
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    execute(&program, &mut Slots::new(&program, inputs), &[], &mut go_on).unwrap()
}

fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() < 1e-9, "{what}: {got} instead of {want}");
}

#[test]
fn products() {
    for (tokens, slots, from, to) in [(8, 64, 13, 16), (8, 64, 40, 20), (5, 128, 24, 70)] {
        let p = PairPacking::of_tokens(tokens, slots).unwrap();
        let (x, w) = (random(tokens, from, 1), random(from, to, 2));
        let (inputs, outputs) = (p.natural(from), p.natural(to));
        // Whatever stands in idle slots is weighted with zero.
        let packed = inputs.iter().map(|features| pack(&p, &x, features, 1e3)).collect();
        let got = run(p, packed, |pair, xs| {
            pair.matrix(xs, &inputs, &outputs, &|row, column| w.at(row, column))
        });
        let want = x.multiply(&w).unwrap();
        for t in 0..tokens {
            for column in 0..to {
                let slots = &got[column / p.columns];
                close(value(&p, slots, t, column % p.columns), want.at(t, column), "product");
            }
        }
    }
}

fn attention_case(tokens: usize, slots: usize, heads: usize, width: usize) {
    let p = PairPacking::of_tokens(tokens, slots).unwrap();
    let d = heads * width;
    let [q, k, v] = [1, 2, 3].map(|seed| random(2 * p.rows, d, seed));
    for group in p.groups(heads, width) {
        let copied = group.features(p.columns, true);
        let single = group.features(p.columns, false);
        let packed = vec![
            pack(&p, &q, &copied, 9.0),
            pack(&p, &k, &single, 7.0),
            pack(&p, &v, &single, 5.0),
        ];
        let got = run(p, packed, |pair, xs| {
            let keys = pair.skew(xs[1], &group)?;
            let keys = pair.halves(keys, &group)?;
            let scores = pair.scores(xs[0], &keys, &group)?;
            let values = pair.skew(xs[2], &group)?;
            let values = pair.halves(values, &group)?;
            let sources = [(scores.clone(), vec![1.0; group.heads])];
            let mixed = pair.values(&sources, &values, &group)?;
            let sums = pair.key_sums(&scores, &group)?;
            Ok([scores, vec![mixed, sums]].concat())
        });
        let (scores, rest) = got.split_at(got.len() - 2);
        let score = |h: usize, t: usize, u: usize| -> f64 {
            let at = |m: &Matrix, t: usize, i: usize| m.at(t, (group.first + h) * width + i);
            (0..width).map(|i| at(&q, t, i) * at(&k, u, i)).sum()
        };
        for h in 0..group.heads {
            for t in 0..2 * p.rows {
                for u in 0..2 * p.rows {
                    let j = (u % p.rows + p.rows - t % p.rows) % p.rows;
                    let half = u / p.rows;
                    let slots = &scores[half % scores.len()];
                    let copy = if group.halves == 2 { half * group.heads } else { 0 };
                    // Halves are twice the parts.
                    let got = value(&p, slots, t, group.slot(j, h + copy)) / 2.0;
                    close(got, score(h, t, u), "score");
                }
                let all = 0..2 * p.rows;
                let total: f64 = all.clone().map(|u| score(h, t, u)).sum();
                close(value(&p, &rest[1], t, group.slot(0, h)) / 2.0, total, "sum over keys");
                for i in 0..width {
                    let feature = (group.first + h) * width + i;
                    let want: f64 = all.clone().map(|u| score(h, t, u) * v.at(u, feature)).sum();
                    let got = value(&p, &rest[0], t, group.slot(i, h)) / 4.0;
                    close(got, want, "value");
                }
            }
        }
    }
}

#[test]
fn attention() {
    // Both halves side by side; a half a ciphertext; two groups, the second with both halves.
    attention_case(32, 2048, 2, 16);
    attention_case(32, 512, 2, 16);
    attention_case(32, 1024, 6, 16);
    // Fewer and more features than rows.
    attention_case(32, 2048, 3, 8);
    attention_case(16, 1024, 2, 32);
}

#[test]
fn numbers() {
    let p = PairPacking::of_tokens(8, 128).unwrap();
    let x = random(8, 3, 4);
    let y = random(8, 3, 5);
    let features = &p.natural(3)[0];
    let packed = vec![pack(&p, &x, features, 11.0), pack(&p, &y, features, 13.0)];
    let live = |t: usize, _: usize| if t == 6 { 0.0 } else { 1.0 };
    let got = run(p, packed, |pair, xs| {
        let gathered = pair.gather(xs, 3, 0.25, &|_, _| Some(2.0), 0.5)?;
        let (re, im) = pair.scatter(gathered, 1, 3, 4, live)?;
        Ok(vec![gathered.register, re, im])
    });
    for t in 0..4 {
        let row = &got[0][t * p.columns..][..p.columns];
        for (f, z) in row.iter().enumerate() {
            let want = match f {
                0..3 => x.at(t, f) / 4.0 + 2.0,
                3..6 => y.at(t, f - 3) / 4.0 + 2.0,
                8..11 => x.at(t + 4, f - 8) / 4.0 + 2.0,
                11..14 => y.at(t + 4, f - 11) / 4.0 + 2.0,
                _ => 0.5,
            };
            close(z.re, want, "gathered");
            close(z.im, 0.0, "gathered");
        }
        for f in 0..p.columns {
            for (half, slots) in got[1..].iter().enumerate() {
                let token = t + 4 * half;
                let number = (y.at(token, f % 3) / 4.0 + 2.0) * live(token, 0);
                let want = if f < 12 { 2.0 * number } else { 0.0 };
                close(slots[t * p.columns + f].re, want, "scattered");
                close(slots[t * p.columns + f].im, 0.0, "scattered");
            }
        }
    }
}

#[test]
fn squares() {
    let p = PairPacking::of_tokens(8, 64).unwrap();
    let x = random(8, 27, 6);
    let packed = p.natural(27).iter().map(|features| pack(&p, &x, features, 0.0)).collect();
    let got = run(p, packed, |pair, xs| {
        let mut halves = Vec::new();
        for &x in xs {
            let (re, im) = pair.b.split(x)?;
            halves.push([re, im]);
        }
        Ok(vec![pair.square_sums(&halves)?])
    });
    for t in 0..8 {
        let want: f64 = x.row(t).iter().map(|v| 4.0 * v * v).sum();
        close(value(&p, &got[0], t, 0), want, "sum of squares");
    }
}

/// Hoisted rotations, other rotations, relinearizations, products with plaintexts and of ciphertexts.
pub(super) fn counted(instructions: &[Instruction]) -> [usize; 5] {
    let mut counts = [0; 5];
    for instruction in instructions {
        match &instruction.op {
            Opcode::HoistedRotations(amounts) => counts[0] += amounts.len(),
            Opcode::Rotate(_) => counts[1] += 1,
            Opcode::SumRotated(amounts) => {
                counts[1] += amounts.iter().filter(|&&by| by != 0).count();
            }
            Opcode::Relinearize => counts[2] += 1,
            Opcode::DotPlain(ids) => counts[3] += ids.len(),
            Opcode::Tensor => counts[4] += 1,
            _ => {}
        }
    }
    counts
}

fn product_counts(tokens: usize, from: usize, to: usize) -> [usize; 5] {
    let p = PairPacking::of_tokens(tokens, 1 << 15).unwrap();
    let (inputs, outputs) = (p.natural(from), p.natural(to));
    let program =
        program(p, inputs.len(), true, |pair, xs| pair.matrix(xs, &inputs, &outputs, &|_, _| 0.0));
    assert_eq!(program.meta(program.outputs()[0]).level, TOP - 1);
    counted(program.instructions())
}

fn score_counts(tokens: usize, group: &HeadGroup) -> [usize; 5] {
    let p = PairPacking::of_tokens(tokens, 1 << 15).unwrap();
    let program =
        program(p, 3, true, |pair, xs| pair.scores(xs[0], &xs[1..=2 / group.halves], group));
    assert_eq!(program.meta(program.outputs()[0]).level, TOP - 2);
    counted(program.instructions())
}

#[test]
fn counts() {
    // The design's simulation at these shapes: hoisted, moved, plaintexts.
    assert_eq!(product_counts(128, 512, 512), [31, 31, 0, 1023, 0]);
    assert_eq!(product_counts(128, 768, 768)[..2], [62, 54]);
    assert_eq!(product_counts(128, 128, 128)[3], 255);
    let p = PairPacking::of_tokens(128, 1 << 15).unwrap();
    let pythia = p.groups(8, 64);
    assert_eq!(pythia, [HeadGroup { first: 0, heads: 8, head_width: 64, halves: 1 }]);
    assert_eq!(score_counts(128, &pythia[0])[0], 93);
    assert_eq!(score_counts(128, &pythia[0])[4], 254);
    let bert = p.groups(12, 64);
    assert_eq!(bert.iter().map(|g| (g.heads, g.halves)).collect::<Vec<_>>(), [(8, 1), (4, 2)]);
    assert_eq!(score_counts(128, &bert[1])[0], 78);
    assert_eq!(score_counts(128, &bert[1])[4], 127);
    // Heads of 32 features, as many as rows.
    let p = PairPacking::of_tokens(64, 1 << 15).unwrap();
    let mini = p.groups(12, 32);
    assert_eq!(mini, [HeadGroup { first: 0, heads: 12, head_width: 32, halves: 2 }]);
    assert_eq!(score_counts(64, &mini[0])[..], [46, 3, 4, 63, 63]);
}
