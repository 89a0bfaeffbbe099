//! Whole models in this layout on exact slots, against the clear executor with the same polynomials.

use super::layer::PairPass;
use super::tests::counted;
use super::{Pair, PairPacking};
use crate::embedding::{ClientWeights, client_embedding};
use crate::exec::{ClearExecutor, Progress, Slots, execute};
use crate::lower::approximations;
use crate::program::{Builder, Ladder, Program};
use crate::{Functions, Matrix, Model, RandomModel, random_input};
use num_complex::Complex64;
use std::ops::ControlFlow;

const TOP: usize = 200;
const ALPHA: f64 = 1.0 / 16.0;

fn pack(p: &PairPacking, x: &Matrix, factor: f64) -> Vec<Vec<Complex64>> {
    let of = |t: usize, f: Option<usize>| match f {
        Some(f) if t < x.rows() => x.at(t, f) * factor,
        _ => 0.0,
    };
    let slots = |features: Vec<Option<usize>>| {
        (0..p.slots)
            .map(|s| (s / p.columns, features[s % p.columns]))
            .map(|(t, f)| Complex64::new(of(t, f), of(t + p.rows, f)))
            .collect()
    };
    p.natural(x.columns()).into_iter().map(slots).collect()
}

fn program(model: &Model, p: PairPacking, sketch: bool) -> Program {
    let approximations = approximations(model).unwrap();
    let mut b =
        Builder::new(Ladder::Endless { log2_scale: 40.0, top: TOP, crosses: false }, sketch);
    b.step("input");
    let parts = p.natural(model.config.width).len();
    let inputs: Vec<_> = (0..2 * parts).map(|i| b.input(i, TOP)).collect();
    let (u, x) = inputs.split_at(parts);
    let pair = Pair { b: &mut b, p };
    let mut pass = PairPass { pair, model, approximations: &approximations, alpha: ALPHA };
    let out = pass.lower(u.to_vec(), x.to_vec()).unwrap();
    b.finish(vec![out])
}

fn check(random: &RandomModel, slots: usize) {
    let model = random.generate().unwrap();
    let p = PairPacking::new(model.config.tokens, slots).unwrap();
    let program = program(&model, p, false);
    let input = random_input(&model.config, 1, 0).unwrap();
    let want = ClearExecutor::new(&model, Functions::Polynomial).unwrap().run(&input).unwrap();
    let client = ClientWeights::from_model(&model).unwrap();
    let embedded = client_embedding(&model.config, &client, &input).unwrap();
    let packed = [pack(&p, &embedded.u, 1.0), pack(&p, &embedded.x, ALPHA)].concat();
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let out = execute(&program, &mut Slots::new(&program, packed), &[], &mut go_on).unwrap();
    for (slot, z) in out[0].iter().enumerate() {
        let want = want.get(slot).copied().unwrap_or_default();
        assert!((z.re - want).abs() < 1e-9 && z.im.abs() < 1e-9, "slot {slot}: {z}, not {want}");
    }
}

fn shape(tokens: usize, width: usize, heads: usize, ffn: usize) -> RandomModel {
    RandomModel { tokens, width, heads, ffn, seed: 3, ..RandomModel::default() }
}

#[test]
fn one_group() {
    // Both halves side by side; padding; a half a ciphertext and hidden features over several ciphertexts.
    check(&shape(16, 32, 2, 64), 1 << 10);
    check(&shape(13, 32, 2, 64), 1 << 10);
    check(&RandomModel { power: 4, ..shape(16, 32, 4, 72) }, 1 << 8);
}

#[test]
fn several_groups_and_layers() {
    // A stream of two ciphertexts, the second group with both halves; an encrypted first norm.
    check(&RandomModel { layers: 2, ..shape(16, 48, 3, 64) }, 1 << 8);
}

#[test]
fn forty_nine_tokens() {
    check(&shape(49, 64, 2, 64), 1 << 12);
}

#[test]
fn real_shapes() {
    // Widths, heads and tokens of BERT-tiny, MPCViT, Pythia-70M and MiniLM, one pre-norm layer, all slots of N = 2^16.
    for (tokens, width, heads, ffn) in
        [(128, 128, 2, 512), (65, 256, 4, 512), (128, 512, 8, 2048), (50, 384, 12, 1536)]
    {
        check(&RandomModel { power: 4, ..shape(tokens, width, heads, ffn) }, 1 << 15);
    }
}

/// Counts of an operator as [`counted`] gives them, and the levels below the top at which it ends.
fn operator(program: &Program, name: &str) -> ([usize; 5], usize) {
    let step = program.steps().iter().find(|s| s.operator == name).unwrap();
    (counted(&program.instructions()[step.instructions.clone()]), TOP - step.level_out)
}

#[test]
fn counts_and_levels() {
    // Trunk of the design: projections 1, skew 1, scores 1, power 2, values 1, then beside the reciprocal. Hoisted and moved
    // of the matrices as simulated there; scores and values with their skew (7 hoisted).
    let of = |tokens, width, heads, ffn| {
        let random = RandomModel { power: 4, ..shape(tokens, width, heads, ffn) };
        let model = random.generate().unwrap();
        program(&model, PairPacking::new(tokens, 1 << 15).unwrap(), true)
    };
    let pythia = of(128, 512, 8, 2048);
    for (name, counts, level) in [
        ("attention.qkv", [63, 45, 0, 3069, 0], Some(1)),
        ("attention.scores", [100, 21, 16, 191, 254], Some(3)),
        ("attention.power", [0, 6, 6, 0, 8], Some(5)),
        ("attention.values", [99, 22, 16, 318, 254], Some(6)),
        ("ffn.in", [63, 60, 0, 4092, 0], None),
        ("ffn.out", [60, 63, 0, 4092, 0], None),
    ] {
        let (got, at) = operator(&pythia, name);
        assert_eq!((name, got), (name, counts));
        // What follows the scalar functions depends on the ranges.
        assert!(level.is_none_or(|level| level == at), "{name} ends at {at}");
    }
    let bert = of(128, 768, 12, 3072);
    assert_eq!(operator(&bert, "attention.qkv").0, [126, 90, 0, 10724, 0]);
    assert_eq!(operator(&bert, "attention.output").0, [62, 54, 0, 3572, 0]);
    assert_eq!(operator(&bert, "ffn.in").0[..2], [126, 90]);
    assert_eq!(operator(&bert, "ffn.out").0[..2], [90, 110]);
    let mini = of(50, 384, 12, 1536);
    assert_eq!(operator(&mini, "attention.qkv").0[..2], [63, 51]);
    assert_eq!(operator(&mini, "attention.values").0, [29, 20, 16, 95, 63]);
    assert_eq!(operator(&mini, "attention.output").0[..2], [31, 35]);
}
