//! The clear executor is fast enough to evaluate a whole test set.

use std::time::Instant;

use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::{Functions, Matrix, RandomModel, random_input};

/// 1,000 inputs of the shipped model's shape (49 tokens, width 64) take at most 6 s, so that 10,000 take at most a
/// minute; 2 cores with AVX2 need about a twelfth of that, the rest is for busy or slow machines.
#[test]
fn a_thousand_inputs_of_the_shipped_shape() {
    let shape = RandomModel {
        tokens: 49,
        width: 64,
        ffn: 128,
        scaled_heads: vec![3],
        ..RandomModel::default()
    };
    let model = shape.generate().unwrap();
    let executor = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
    let inputs: Vec<Matrix> =
        (0..1000).map(|i| random_input(&model.config, 1, i).unwrap()).collect();
    let start = Instant::now();
    let logits = executor.run_batch(&inputs).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} inputs in {seconds:.2} s", logits.len());
    assert!(seconds < 6.0, "{seconds:.2} s");
}
