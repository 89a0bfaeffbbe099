//! The f64 reference of every operator on cases small enough to compute by hand.

#[cfg(test)]
mod common;

use cipherform_nn::config::Activation;
use cipherform_nn::exec::ScalarFunctions;
use cipherform_nn::op::{LinearRole, NormIndex, OpContext};
use cipherform_nn::weights::{LinearWeights, NormWeights};
use cipherform_nn::{Error, HeadKind, Matrix, Op, Shape, Weights};
use common::{matrix, max_difference, small_model};

#[cfg(test)]
fn run(op: &Op, args: &[&Matrix], weights: &Weights) -> Matrix {
    let context = OpContext { weights, functions: &ScalarFunctions::Exact };
    let value = op.reference(args, context, &mut ()).unwrap();
    let shapes: Vec<Shape> = args.iter().map(|a| a.shape()).collect();
    assert_eq!(op.shape(&shapes).unwrap(), value.shape());
    value
}

#[cfg(test)]
fn assert_close(got: &Matrix, want: &[f64]) {
    assert!(max_difference(got.data(), want) < 1e-14, "{got:?}");
}

#[cfg(test)]
fn mixing(heads: Vec<HeadKind>, shifted: bool, causal: bool) -> Op {
    Op::Attention { layer: 0, heads, power: 2, eps: 1., shifted, causal }
}

#[test]
fn patch_embedding_multiplies_and_adds_positions() {
    let mut weights = small_model().weights;
    weights.embedding.weight = matrix(&[&[1., 2.], &[0., -1.]]);
    weights.embedding.position = matrix(&[&[10., 20.]]);
    let op = Op::PatchEmbedding { tokens: 1, input_size: 2, width: 2 };
    assert_close(&run(&op, &[&matrix(&[&[3., 4.]])], &weights), &[13., 22.]);
}

#[test]
fn center_pool_and_add() {
    let weights = small_model().weights;
    let x = matrix(&[&[1., 2., 6.], &[0., 0., 3.]]);
    assert_close(&run(&Op::Center, &[&x], &weights), &[-2., -1., 3., -1., -1., 2.]);
    assert_close(&run(&Op::MeanPool, &[&x], &weights), &[0.5, 1., 4.5]);
    assert_close(&run(&Op::Add, &[&x, &x], &weights), &[2., 4., 12., 0., 0., 6.]);
}

#[test]
fn norm_divides_by_the_root_of_the_mean_square() {
    let mut weights = small_model().weights;
    weights.layers[1].norm2 = NormWeights { gain: vec![1., 10.], bias: vec![0., 5.] };
    // Mean square (9 + 9)/2 = 9, plus eps 7 makes 16.
    let op = Op::Norm { layer: 1, index: NormIndex::Second, eps: 7. };
    assert_close(&run(&op, &[&matrix(&[&[3., -3.]])], &weights), &[0.75, -2.5]);
}

#[test]
fn linear_and_classifier() {
    let mut weights = small_model().weights;
    let map =
        LinearWeights { weight: matrix(&[&[1., 0., 2.], &[3., -1., 0.]]), bias: vec![1., 1., 0.] };
    weights.layers[0].ffn_in = map.clone();
    weights.head = map;
    let x = matrix(&[&[2., 1.]]);
    let op = Op::Linear { layer: 0, role: LinearRole::FfnIn, inputs: 2, outputs: 3 };
    assert_close(&run(&op, &[&x], &weights), &[6., 0., 4.]);
    let op = Op::Classifier { inputs: 2, outputs: 3 };
    assert_close(&run(&op, &[&x], &weights), &[6., 0., 4.]);
}

#[test]
fn activation_evaluates_each_column_s_polynomial() {
    let mut weights = small_model().weights;
    weights.layers[0].activation = matrix(&[&[1., 0.], &[2., 0.], &[3., 0.], &[0., 1.]]);
    let op = Op::Activation { layer: 0, polynomial: Activation::Cubic };
    // 1 + 2h + 3h² and h³.
    let x = matrix(&[&[2., 2.], &[-1., -1.]]);
    assert_close(&run(&op, &[&x], &weights), &[17., 8., 2., -1.]);
}

#[test]
fn attention_of_two_tokens_and_two_heads() {
    let weights = small_model().weights;
    // Head 0 is a power head on column 0, head 1 a scaled head on column 1; head size 1, so s = q k.
    let q = matrix(&[&[1., 1.], &[2., -1.]]);
    let k = matrix(&[&[1., 2.], &[3., 4.]]);
    let v = matrix(&[&[10., 1.], &[20., 3.]]);
    let heads = vec![HeadKind::Power, HeadKind::Scaled];
    let op = mixing(heads, false, false);
    // Head 0: token 0 has s = 1, 3, squares 1, 9, mean 5, den 6: (1·10 + 9·20)/(2·6) = 190/12.
    //         token 1 has s = 2, 6, squares 4, 36, mean 20, den 21: (40 + 720)/42.
    // Head 1: token 0 has s = 2, 4: (2·1 + 4·3)/2 = 7; token 1 has s = -2, -4: -7.
    let want = [190. / 12., 7., 760. / 42., -7.];
    assert_close(&run(&op, &[&q, &k, &v], &weights), &want);
}

#[test]
fn causal_shifted_and_undivided_heads() {
    let mut weights = small_model().weights;
    weights.layers[0].shift = vec![1., 7.];
    // As above: head 0 undivided with c = 1, head 1 scaled, whose shift does not matter.
    let q = matrix(&[&[1., 1.], &[2., -1.]]);
    let k = matrix(&[&[1., 2.], &[3., 4.]]);
    let v = matrix(&[&[10., 1.], &[20., 3.]]);
    let op = mixing(vec![HeadKind::Undivided, HeadKind::Scaled], true, true);
    // Head 0: token 0 sees itself, (1/2 + 1)^2 · 10 = 22.5; token 1 has s = 2, 6: (4·10 + 16·20)/2 = 180.
    // Head 1: token 0 sees itself, 2·1; token 1 as above.
    assert_close(&run(&op, &[&q, &k, &v], &weights), &[22.5, 2., 180., -7.]);
    // Head 0 divided by eps + its mean: 1 + 2.25, and 1 + (4 + 16)/2.
    let op = mixing(vec![HeadKind::Power, HeadKind::Scaled], true, true);
    assert_close(&run(&op, &[&q, &k, &v], &weights), &[22.5 / 3.25, 2., 180. / 11., -7.]);
}

#[test]
fn head_size_scales_the_scores() {
    let weights = small_model().weights;
    // One head of four columns: s = 4 a b / 2 for constant rows a and b.
    let x = matrix(&[&[3., 3., 3., 3.]]);
    let op = mixing(vec![HeadKind::Scaled], false, false);
    assert_close(&run(&op, &[&x, &x, &x], &weights), &[54.; 4]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let weights = small_model().weights;
    let context = OpContext { weights: &weights, functions: &ScalarFunctions::Exact };
    let x = Matrix::zeros(9, 8);
    let odd = mixing(vec![HeadKind::Power; 3], false, false);
    let refused = odd.reference(&[&x, &x, &x], context, &mut ());
    assert!(matches!(refused, Err(Error::InvalidGraph { .. })));
    let no_layer = Op::Norm { layer: 7, index: NormIndex::First, eps: 1. };
    let refused = no_layer.reference(&[&x], context, &mut ());
    assert!(matches!(refused, Err(Error::InvalidGraph { .. })));
    let y = Matrix::zeros(9, 7);
    for (op, args) in [
        (Op::Add, vec![&x, &y]),
        (Op::Norm { layer: 0, index: NormIndex::First, eps: 1. }, vec![&y]),
        (Op::Activation { layer: 0, polynomial: Activation::Quadratic }, vec![&x]),
        (Op::Linear { layer: 0, role: LinearRole::Query, inputs: 8, outputs: 8 }, vec![&y]),
        (Op::Classifier { inputs: 8, outputs: 3 }, vec![&y]),
    ] {
        let refused = op.reference(&args, context, &mut ());
        assert!(matches!(refused, Err(Error::ShapeMismatch { .. })), "{op:?}");
    }
    let input = Op::Input { shape: x.shape() };
    assert!(matches!(input.reference(&[], context, &mut ()), Err(Error::InvalidGraph { .. })));
}
