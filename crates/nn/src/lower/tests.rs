//! The packed program against the clear executor, on exact slots: packing, folds and levels of every supported shape.
//!
//! | test | shape | what it exercises |
//! | --- | --- | --- |
//! | `shipped_shape` | 49 tokens, 4 heads, one scaled | the demo's layout |
//! | `powers` | p = 4, 6, 8 | deeper power chains |
//! | `activations` | cubic, quartic, and a quadratic with a vanishing coefficient | one term a power |
//! | `all_scaled` | no power head | no division, mask instead of normaliser |
//! | `two_layers` | 2 layers | encrypted first norm, second feed-forward product, residual across levels |
//! | `wide_hidden` | BERT-tiny's: width 128, 512 hidden features, 64 tokens | copies of the stream that do not fit beside the hidden features |
//! | `refreshed` | 2 layers, every place to refresh | what a bootstrap sees is within its bound |
//! | `odd_sizes` | 20 tokens, width 48, 3 heads | padding in tokens, heads and features |
//! | `lengths` | inputs shorter than T, embedding norm, shift, no division | padding between data and copies |
//! | `shipped_text` | trained weights, sentences | ranges that are not random ones' |
//! | `many_tokens` | 128 tokens | several key tiles |
//! | `refusals` | too wide, too deep | typed errors |

use super::{Head, LayerSchedule, Lowered, RefreshPoint, Schedule, lower};
use crate::config::{NormOrder, Pooling, Structure};
use crate::embedding::{ClientWeights, client_embedding};
use crate::exec::{ClearExecutor, Progress, Slots, execute};
use crate::program::Ladder;
use crate::{
    Activation, Error, Functions, HeadKind, Layout, Matrix, Model, Packing, Plan, RandomModel,
    random_input,
};
use cipherform_ckks::presets;
use std::ops::ControlFlow;
use std::path::Path;

const SLOTS: usize = 1 << 15;

/// Level of inputs and refreshed ciphertexts where levels do not end.
const TOP: usize = 200;

/// Where a head for labels places the logits: some number.
const FACTOR: f64 = 3.5;

fn check(random: &RandomModel) {
    check_model(&random.generate().unwrap());
}

fn check_model(model: &Model) {
    check_refreshed(model, &[]);
}

/// With every layer's refreshes at these points.
fn check_refreshed(model: &Model, points: &[RefreshPoint]) {
    check_inputs(model, points, (0..2).map(|index| random_input(&model.config, 1, index).unwrap()));
}

fn check_inputs(model: &Model, points: &[RefreshPoint], inputs: impl Iterator<Item = Matrix>) {
    let packing = Packing::new(&model.config, SLOTS).unwrap();
    let whole = Layout::Tile(packing);
    // Slots are exact at any level, so depth is no object here.
    let mut layer = LayerSchedule::default();
    for &point in points {
        layer.refresh(point, TOP);
    }
    let schedule = Schedule { input: TOP, layers: vec![layer; model.config.layers.len()] };
    let ladder = Ladder::Endless { log2_scale: 40.0, top: TOP, crosses: false };
    let client = ClientWeights::from_model(model).unwrap();
    let clear = ClearExecutor::new(model, Functions::Polynomial).unwrap();
    for input in inputs {
        let want = clear.run(&input).unwrap();
        let layout = whole.with_tokens(input.rows()).unwrap();
        let lowered = lower(model, &layout, ladder.clone(), &schedule, Head::Logits).unwrap();
        let embedded = client_embedding(&model.config, &client, &input).unwrap();
        let run = |lowered: &Lowered| {
            let slots = lowered.inputs.iter().map(|i| layout.pack(i, &embedded));
            let mut machine = Slots::new(&lowered.program, slots.collect());
            let mut go_on = |_: &Progress| ControlFlow::Continue(());
            execute(&lowered.program, &mut machine, &[], &mut go_on).unwrap()
        };
        let out = run(&lowered);
        let got: Vec<f64> = layout.logits(&model.config, &out[0]).into_iter().flatten().collect();
        assert_eq!(got.len(), want.len());
        let error = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // f64 rounding through some hundred operations on values of order one.
        assert!(error < 1e-9, "error {error}: {want:?} {got:?}");
        // Nothing but the logits leaves the server.
        for (i, z) in out[0].iter().enumerate() {
            if i % packing.columns != 0 || i / packing.columns >= want.len() {
                assert!(z.norm() < 1e-12, "slot {i} holds {z}");
            }
        }
        // For a label: of each class the mean of the slots, less the mean of the classes; one level and all rotations less.
        let head = Head::Label { factor: FACTOR };
        let label = lower(model, &layout, ladder.clone(), &schedule, head).unwrap();
        let level = |lowered: &Lowered| lowered.program.meta(lowered.program.outputs()[0]).level;
        assert_eq!(level(&label), level(&lowered) + 1);
        let out = run(&label);
        assert_eq!(out.len(), want.len());
        let mean = want.iter().sum::<f64>() / want.len() as f64;
        for (slots, z) in out.iter().zip(&want) {
            let got = slots.iter().map(|v| v.re).sum::<f64>() / slots.len() as f64 / FACTOR;
            assert!((got - (z - mean)).abs() < 1e-9, "{got} for {z} - {mean}");
        }
    }
}

fn shape(tokens: usize, width: usize, heads: usize, ffn: usize) -> RandomModel {
    RandomModel { tokens, width, heads, ffn, seed: 3, ..RandomModel::default() }
}

#[test]
fn shipped_shape() {
    check(&RandomModel { scaled_heads: vec![3], ..shape(49, 64, 4, 128) });
}

#[test]
fn powers() {
    for power in [4, 6, 8] {
        check(&RandomModel { power, ..shape(30, 32, 2, 64) });
    }
}

#[test]
fn activations() {
    for layers in [1, 2] {
        let quadratic = RandomModel { layers, ..shape(9, 16, 2, 24) }.generate().unwrap();
        // A quadratic that cannot be completed to a square in one of its channels.
        let mut flat = quadratic.clone();
        for layer in &mut flat.weights.layers {
            layer.activation.data_mut()[2 * 24 + 3] = 0.0;
        }
        check_model(&flat);
        for activation in [Activation::Cubic, Activation::Quartic] {
            let mut model = quadratic.clone();
            for (config, weights) in model.config.layers.iter_mut().zip(&mut model.weights.layers) {
                config.activation = activation;
                let mut rows = weights.activation.data().to_vec();
                rows.extend(
                    (0..24 * (activation.coefficients() - 3)).map(|i| 0.02 - 0.001 * i as f64),
                );
                weights.activation = Matrix::from_vec(activation.coefficients(), 24, rows).unwrap();
            }
            check_model(&model);
        }
    }
}

#[test]
fn all_scaled() {
    check(&RandomModel { scaled_heads: vec![0, 1, 2, 3], ..shape(64, 64, 4, 128) });
}

/// Hidden features that fill half of a row: the copies of the stream do not fit beside them.
#[test]
fn wide_hidden() {
    check(&RandomModel { layers: 2, ..shape(64, 128, 2, 512) });
}

#[test]
fn two_layers() {
    check(&RandomModel { layers: 2, scaled_heads: vec![0, 2], ..shape(49, 64, 4, 128) });
    check(&RandomModel { layers: 2, scaled_heads: vec![0, 1], ..shape(16, 32, 2, 32) });
}

#[test]
fn refreshed() {
    // Slots stay within the bootstrap's bound at every point, alone and together; the machine refuses others.
    let model = RandomModel { layers: 2, ..shape(20, 32, 2, 64) }.generate().unwrap();
    for point in RefreshPoint::ALL {
        check_refreshed(&model, &[point]);
    }
    check_refreshed(&model, &RefreshPoint::ALL);
}

#[test]
fn odd_sizes() {
    check(&RandomModel { scaled_heads: vec![1], classes: 7, ..shape(20, 48, 3, 96) });
    check(&RandomModel { classes: 2, ..shape(5, 12, 3, 20) });
    check(&RandomModel { classes: 3, ..shape(6, 4, 1, 4) });
}

#[test]
fn lengths() {
    let structure = Structure { embedding_norm: true, ..Structure::default() };
    let base = RandomModel { variable: true, structure, ..shape(20, 32, 2, 48) };
    let undivided = RandomModel { undivided: true, shifted: true, ..base.clone() };
    for random in [
        base.clone(),
        RandomModel { shifted: true, scaled_heads: vec![1], ..base.clone() },
        RandomModel { shifted: true, power: 4, ..base },
        undivided.clone(),
        RandomModel { scaled_heads: vec![0], shifted: false, power: 4, ..undivided.clone() },
        RandomModel { layers: 2, tokens: 64, ..undivided.clone() },
    ] {
        check(&random);
    }
    // One head of each kind in one layer.
    let mut mixed =
        RandomModel { heads: 4, scaled_heads: vec![2], ..undivided }.generate().unwrap();
    mixed.config.layers[0].heads[1] = HeadKind::Power;
    check_model(&mixed);
}

/// The trained model on sentences of the development set, of 10 to 28 word pieces: its ranges, signs and small coefficients are
/// not those of random weights.
#[test]
fn shipped_text() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bert-tiny-he");
    let model = Model::load(&path).unwrap();
    let reference = std::fs::read_to_string(path.join("reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
    let ids: Vec<Vec<f64>> = serde_json::from_value(reference["ids"].clone()).unwrap();
    let inputs = ids.into_iter().take(4).map(|ids| Matrix::from_vec(ids.len(), 1, ids).unwrap());
    check_inputs(&model, &[RefreshPoint::Attended, RefreshPoint::Normalized], inputs);
}

#[test]
fn many_tokens() {
    check(&RandomModel { scaled_heads: vec![3], ..shape(128, 64, 4, 128) });
}

fn refusal(model: &Model) -> Error {
    Plan::build(model, &presets::get("lev16_36").unwrap()).unwrap_err()
}

#[test]
fn refusals() {
    // Too wide for one layout, which the other has no levels for here.
    let wide = RandomModel { layers: 3, ..shape(128, 256, 4, 256) }.generate().unwrap();
    assert!(matches!(Packing::new(&wide.config, SLOTS), Err(Error::DoesNotFit { .. })));
    assert!(matches!(refusal(&wide), Error::LevelsInsufficient { .. }), "{}", refusal(&wide));
    let scaled = RandomModel { scaled_heads: vec![0], ..shape(128, 256, 4, 256) };
    let structure = Structure { causal: true, ..Structure::default() };
    let scaled = RandomModel { structure, ..scaled }.generate().unwrap();
    assert!(matches!(refusal(&scaled), Error::Unsupported { .. }), "{}", refusal(&scaled));
    let mut mixed = RandomModel { layers: 2, ..shape(16, 16, 2, 16) }.generate().unwrap();
    mixed.config.layers[1].heads.truncate(1);
    assert!(matches!(Packing::new(&mixed.config, SLOTS), Err(Error::Unsupported { .. })));
    let structures = [
        Structure { embedding_norm: true, norm: NormOrder::Post, ..Structure::default() },
        Structure { parallel: true, ..Structure::default() },
        Structure { causal: true, ..Structure::default() },
        Structure { pooling: Pooling::First, ..Structure::default() },
        Structure { pooling: Pooling::Tokens, ..Structure::default() },
    ];
    for structure in structures {
        let model = RandomModel { structure, ..shape(16, 16, 2, 16) }.generate().unwrap();
        let [tile, pair] = Layout::all(&model.config, SLOTS);
        assert!(matches!(tile, Err(Error::Unsupported { .. })), "{tile:?}");
        assert!(pair.is_ok(), "{pair:?}");
    }
    let deep = RandomModel { layers: 3, ..shape(16, 16, 2, 16) }.generate().unwrap();
    let error = refusal(&deep);
    let Error::LevelsInsufficient { available: 35, needed, .. } = error else { panic!("{error}") };
    assert!(needed > 35);
    assert!(Packing::new(&deep.config, SLOTS).is_ok(), "width and tokens are not the reason");
}
