//! Whole models in this layout on exact slots, against the clear executor with the same polynomials.
//!
//! | test | what it exercises |
//! | --- | --- |
//! | `one_group`, `several_groups_and_layers`, `forty_nine_tokens` | packing of heads, padding, streams of several ciphertexts |
//! | `heads` | undivided, scaled, shifted, mixed heads; every power |
//! | `structures` | norms after, parallel branches, causal masks, every pooling |
//! | `lengths` | shorter inputs run the same instructions |
//! | `refreshed` | every place to refresh, alone and together: what a bootstrap sees is within its bound |
//! | `real_shapes`, `counts_and_levels` | the shapes of the literature |

use super::tests::counted;
use crate::config::{NormOrder, Pooling, Structure};
use crate::embedding::{ClientWeights, client_embedding};
use crate::exec::{ClearExecutor, Progress, Slots, execute};
use crate::lower::{Head, LayerSchedule, RefreshPoint, Schedule, lower};
use crate::packing::PairPacking;
use crate::program::{Ladder, Opcode, Program};
use crate::{Functions, HeadKind, Layout, Model, RandomModel, random_input};
use std::ops::ControlFlow;

const TOP: usize = 200;

fn schedule(model: &Model, points: &[RefreshPoint]) -> Schedule {
    let mut layer = LayerSchedule::default();
    for &point in points {
        // Below the top, so that small values are refreshed enlarged.
        layer.refresh(point, TOP - 1);
    }
    Schedule { input: TOP, layers: vec![layer; model.config.layers.len()] }
}

fn endless() -> Ladder {
    Ladder::Endless { log2_scale: 40.0, top: TOP, crosses: false }
}

fn check(random: &RandomModel, slots: usize) {
    check_refreshed(&random.generate().unwrap(), slots, &[]);
}

fn check_refreshed(model: &Model, slots: usize, points: &[RefreshPoint]) {
    let whole = Layout::Pair(PairPacking::new(&model.config, slots).unwrap());
    let client = ClientWeights::from_model(model).unwrap();
    let clear = ClearExecutor::new(model, Functions::Polynomial).unwrap();
    for index in 0..if model.config.input.is_variable() { 3 } else { 1 } {
        let input = random_input(&model.config, 1, index).unwrap();
        let want = clear.run(&input).unwrap();
        let layout = whole.with_tokens(input.rows()).unwrap();
        let lowered =
            lower(model, &layout, endless(), &schedule(model, points), Head::Logits).unwrap();
        let embedded = client_embedding(&model.config, &client, &input).unwrap();
        let packed = lowered.inputs.iter().map(|i| layout.pack(i, &embedded)).collect();
        let mut go_on = |_: &Progress| ControlFlow::Continue(());
        let mut machine = Slots::new(&lowered.program, packed);
        let out = execute(&lowered.program, &mut machine, &[], &mut go_on).unwrap();
        let got = layout.logits(&model.config, &out[0]);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            // f64 rounding through some thousand operations on values of order one. A random input may leave the ranges, where
            // polynomials are large, and equal all the same.
            let bound = 1e-8 * (1.0 + want.abs());
            assert!((got.unwrap() - want).abs() < bound, "{got:?} instead of {want}");
        }
        // Nothing but the logits leaves the server.
        let total: f64 = out[0].iter().map(|z| z.re.abs() + z.im.abs()).sum();
        let logits: f64 = want.iter().map(|v| v.abs()).sum();
        assert!(
            (total - logits).abs() < 1e-6 * (1.0 + logits),
            "{total} in all slots, {logits} in logits"
        );
        let refreshes = |i: &&crate::program::Instruction| matches!(i.op, Opcode::Refresh(_));
        let count = lowered.program.instructions().iter().filter(refreshes).count();
        assert!(count >= points.len());
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
fn heads() {
    let base = shape(16, 32, 4, 64);
    for random in [
        RandomModel { undivided: true, ..base.clone() },
        RandomModel { undivided: true, shifted: true, power: 4, ..base.clone() },
        RandomModel { shifted: true, power: 6, ..base.clone() },
        RandomModel { scaled_heads: vec![1], power: 8, ..base.clone() },
        RandomModel { scaled_heads: vec![0, 1, 2, 3], ..base.clone() },
        RandomModel { scaled_heads: vec![3], undivided: true, shifted: true, ..base.clone() },
    ] {
        check(&random, 1 << 8);
        check(&random, 1 << 10);
    }
    // One head of each kind in one layer, several groups.
    let mut mixed = RandomModel { scaled_heads: vec![2], undivided: true, shifted: true, ..base };
    mixed.layers = 2;
    let mut mixed = mixed.generate().unwrap();
    for layer in &mut mixed.config.layers {
        layer.heads[1] = HeadKind::Power;
    }
    check_refreshed(&mixed, 1 << 8, &[]);
    check_refreshed(&mixed, 1 << 10, &[]);
}

/// Structures that a checkpoint may have, with their names.
fn structures_of_the_literature() -> [(&'static str, Structure); 4] {
    let plain = Structure::default();
    let post = Structure { embedding_norm: true, norm: NormOrder::Post, ..plain };
    let pythia = Structure { parallel: true, causal: true, pooling: Pooling::Tokens, ..plain };
    [
        ("bert", post),
        ("pythia", pythia),
        ("class token", Structure { pooling: Pooling::First, ..plain }),
        ("characters", Structure { causal: true, pooling: Pooling::Tokens, ..plain }),
    ]
}

#[test]
fn structures() {
    for (name, structure) in structures_of_the_literature() {
        println!("{name}");
        let random = RandomModel { structure, layers: 2, classes: 3, ..shape(16, 48, 3, 64) };
        for undivided in [false, true] {
            check(&RandomModel { undivided, ..random.clone() }, 1 << 8);
            check(&RandomModel { undivided, shifted: true, power: 4, ..random.clone() }, 1 << 10);
        }
    }
}

#[test]
fn lengths() {
    for (name, structure) in structures_of_the_literature() {
        println!("{name}");
        let random = RandomModel {
            structure,
            layers: 2,
            variable: true,
            shifted: true,
            ..shape(16, 48, 3, 64)
        };
        for random in [random.clone(), RandomModel { undivided: true, ..random }] {
            check(&random, 1 << 10);
            let model = random.generate().unwrap();
            let whole = Layout::Pair(PairPacking::new(&model.config, 1 << 10).unwrap());
            let [long, short] = [16, 3].map(|tokens| {
                let layout = whole.with_tokens(tokens).unwrap();
                lower(&model, &layout, endless(), &schedule(&model, &[]), Head::Logits)
                    .unwrap()
                    .program
            });
            let same = |(a, b): (&crate::program::Instruction, &crate::program::Instruction)| {
                (&a.op, &a.args) == (&b.op, &b.args)
            };
            assert!(long.instructions().iter().zip(short.instructions()).all(same));
        }
    }
}

#[test]
fn refreshed() {
    for (name, structure) in structures_of_the_literature() {
        println!("{name}");
        let model = RandomModel { structure, layers: 2, ..shape(16, 48, 3, 64) };
        let model = model.generate().unwrap();
        for point in RefreshPoint::ALL {
            // A parallel layer does not refresh between its branches, and nothing is left to do at its second norm.
            let missing = [RefreshPoint::Attended, RefreshPoint::SecondNormSums].contains(&point);
            if !(structure.parallel && missing) {
                check_refreshed(&model, 1 << 8, &[point]);
            }
        }
        let all = if structure.parallel { &RefreshPoint::ALL[..3] } else { &RefreshPoint::ALL };
        check_refreshed(&model, 1 << 8, all);
    }
}

#[test]
fn real_shapes() {
    // Widths, heads and tokens of BERT-tiny, MPCViT, Pythia-70M and MiniLM, one layer, all slots of N = 2^16.
    let [(_, bert), (_, pythia), (_, vit), _] = structures_of_the_literature();
    for (tokens, width, heads, ffn, structure) in [
        (128, 128, 2, 512, Structure::default()),
        (65, 256, 4, 512, vit),
        (128, 512, 8, 2048, pythia),
        (50, 384, 12, 1536, bert),
    ] {
        check(&RandomModel { power: 4, structure, ..shape(tokens, width, heads, ffn) }, 1 << 15);
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
        let layout = Layout::Pair(PairPacking::new(&model.config, 1 << 15).unwrap());
        lower(&model, &layout, endless(), &schedule(&model, &[]), Head::Logits).unwrap().program
    };
    let pythia = of(128, 512, 8, 2048);
    for (name, counts, level) in [
        ("attention.qkv", [63, 45, 0, 3069, 0], Some(1)),
        ("attention.scores", [100, 21, 16, 191, 254], Some(3)),
        ("attention.power", [0, 0, 6, 0, 8], Some(5)),
        ("attention.row_sums", [0, 7, 0, 1, 0], None),
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
