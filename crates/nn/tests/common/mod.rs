//! Helpers shared by the test files.
#![expect(dead_code, reason = "each test file uses its own part")]

use cipherform_nn::data::Image;
use cipherform_nn::{Matrix, Model, ModelConfig, RandomModel, Weights};
use serde_json::Value;

/// A small model with both kinds of head and two layers.
pub(crate) fn small_model() -> Model {
    let shape = RandomModel {
        tokens: 9,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 12,
        scaled_heads: vec![1],
        classes: 3,
        seed: 5,
        ..RandomModel::default()
    };
    shape.generate().unwrap()
}

/// The config of [`small_model`] as JSON, to be mutated.
pub(crate) fn small_config() -> Value {
    serde_json::to_value(small_model().config).unwrap()
}

/// What `forward.py` wrote.
pub(crate) struct Fixture {
    pub(crate) model: Model,
    pub(crate) images: Vec<Image>,
    pub(crate) logits: Vec<Vec<f64>>,
    pub(crate) inverse_sqrt: Vec<(f64, f64, usize, f64)>,
}

pub(crate) fn fixture() -> Fixture {
    let json: Value = serde_json::from_str(include_str!("../testdata/forward.json")).unwrap();
    let config = ModelConfig::from_json(json["config"].to_string().as_bytes()).unwrap();
    let numbers = |v: &Value| -> Vec<f64> { serde_json::from_value(v.clone()).unwrap() };
    let weights = Weights::build(&config, |name, shape| {
        let tensor = &json["tensors"][name];
        assert_eq!(tensor["shape"], serde_json::json!(shape), "{name}");
        Ok(numbers(&tensor["data"]))
    });
    let image = |v: &Value| Image {
        height: 6,
        width: 6,
        pixels: serde_json::from_value(v.clone()).unwrap(),
    };
    let list = |key: &str| json[key].as_array().unwrap().clone();
    Fixture {
        model: Model { config, weights: weights.unwrap(), tokenizer: None },
        images: list("images").iter().map(image).collect(),
        logits: list("logits").iter().map(numbers).collect(),
        inverse_sqrt: list("inverse_sqrt")
            .iter()
            .map(|v| {
                let number = |key: &str| v[key].as_f64().unwrap();
                (
                    number("low"),
                    number("high"),
                    v["degree"].as_u64().unwrap() as usize,
                    number("error"),
                )
            })
            .collect(),
    }
}

pub(crate) fn matrix(rows: &[&[f64]]) -> Matrix {
    Matrix::from_vec(rows.len(), rows[0].len(), rows.concat()).unwrap()
}

pub(crate) fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}
