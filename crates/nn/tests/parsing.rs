//! Bytes from outside: configs, weights, model directories. Nothing panics, and errors name the place.

#[cfg(test)]
mod common;

use cipherform_nn::config::CONFIG_LIMIT;
use cipherform_nn::{
    ClientWeights, Error, Graph, InputKind, Model, ModelConfig, RandomModel, Weights,
};
use common::{fixture, small_config, small_model};
use proptest::prelude::*;
use serde_json::{Value, json};

#[cfg(test)]
fn field_of(config: &Value) -> String {
    match ModelConfig::from_json(config.to_string().as_bytes()) {
        Err(Error::InvalidConfig { field, expected, got }) => {
            assert!(!expected.is_empty() && !got.is_empty());
            field
        }
        other => panic!("expected InvalidConfig, got {other:?}"),
    }
}

#[test]
fn the_documented_example_parses() {
    let ranges = json!({
        "score_abs_max": [7.5, 6.0, 8.0, 3.0],
        "denominator": [[0.1, 7.0], [0.2, 8.0], [0.1, 6.0], [0.05, 2.0]],
        "norm1_variance": [0.3, 4.0], "norm2_variance": [0.2, 5.8],
        "activation_abs_max": 5.8, "value_abs_max": 4.0, "residual_abs_max": 12.0
    });
    let config = json!({
        "format": "cipherform.model/1", "name": "fashion-mnist-vit", "random_weights": false,
        "input": {"kind": "image", "height": 28, "width": 28, "patch": 8, "stride": 4, "padding": 2,
                  "mean": 0.286, "std": 0.353},
        "dataset": "fashion-mnist", "classes": ["T-shirt/top", "Trouser"],
        "tokens": 49, "width": 64, "ffn": 128, "norm_eps": 1e-3,
        "layers": [{"heads": ["power", "power", "power", "scaled"], "power": 2, "eps": 0.01,
                    "activation": "quadratic", "ranges": ranges}],
        "logit_abs_max": 12.0,
        "approximation": {"tolerance": 0.01, "widen_top": 2.0, "widen_bottom": 1.5}
    });
    let config = ModelConfig::from_json(config.to_string().as_bytes()).unwrap();
    assert_eq!(config.input_size(), 64);
    assert!(matches!(config.input, InputKind::Image { patch: 8, .. }));
    let again = ModelConfig::from_json(config.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn every_rule_names_its_field() {
    let valid = small_config();
    ModelConfig::from_json(valid.to_string().as_bytes()).unwrap();
    let ranges = "/layers/1/ranges";
    for (pointer, value, field) in [
        ("/format".to_owned(), json!("cipherform.model/9"), "format"),
        ("/name".to_owned(), json!("../etc"), "name"),
        ("/name".to_owned(), json!(""), "name"),
        ("/tokens".to_owned(), json!(0), "tokens"),
        ("/tokens".to_owned(), json!(1_u64 << 40), "tokens"),
        ("/width".to_owned(), json!(0), "width"),
        ("/width".to_owned(), json!(9), "layers[0].heads"),
        ("/ffn".to_owned(), json!(1_000_000), "ffn"),
        ("/layers".to_owned(), json!([]), "layers"),
        ("/classes".to_owned(), json!([]), "classes"),
        ("/classes/1".to_owned(), json!("\u{1b}[31m"), "classes[1]"),
        ("/norm_eps".to_owned(), json!(0.0), "norm_eps"),
        ("/norm_eps".to_owned(), json!(-1.0), "norm_eps"),
        ("/logit_abs_max".to_owned(), json!(0.0), "logit_abs_max"),
        ("/input/size".to_owned(), json!(0), "input.size"),
        ("/approximation/tolerance".to_owned(), json!(0.9), "approximation.tolerance"),
        ("/approximation/widen_top".to_owned(), json!(0.5), "approximation.widen_top"),
        ("/approximation/widen_bottom".to_owned(), json!(100), "approximation.widen_bottom"),
        ("/layers/1/heads".to_owned(), json!([]), "layers[1].heads"),
        ("/layers/1/heads".to_owned(), json!(["power", "power", "power"]), "layers[1].heads"),
        ("/layers/1/power".to_owned(), json!(3), "layers[1].power"),
        ("/layers/1/power".to_owned(), json!(10), "layers[1].power"),
        ("/layers/1/eps".to_owned(), json!(0.0), "layers[1].eps"),
        (format!("{ranges}/score_abs_max"), json!([1.0]), "layers[1].ranges.score_abs_max"),
        (format!("{ranges}/score_abs_max/1"), json!(0.0), "layers[1].ranges.score_abs_max[1]"),
        (format!("{ranges}/denominator"), json!([[1, 2]]), "layers[1].ranges.denominator"),
        (format!("{ranges}/denominator/0"), json!([2, 1]), "layers[1].ranges.denominator[0][1]"),
        (format!("{ranges}/denominator/0"), json!([0, 1]), "layers[1].ranges.denominator[0][0]"),
        (format!("{ranges}/norm1_variance"), json!([-1, 1]), "layers[1].ranges.norm1_variance[0]"),
        (format!("{ranges}/norm2_variance"), json!([3, 1]), "layers[1].ranges.norm2_variance[1]"),
        (format!("{ranges}/activation_abs_max"), json!(0), "layers[1].ranges.activation_abs_max"),
        (format!("{ranges}/value_abs_max"), json!(-2), "layers[1].ranges.value_abs_max"),
        (format!("{ranges}/residual_abs_max"), json!(0), "layers[1].ranges.residual_abs_max"),
    ] {
        let mut config = valid.clone();
        *config.pointer_mut(&pointer).unwrap() = value.clone();
        assert_eq!(field_of(&config), field, "{pointer} = {value}");
    }
    let mut config = serde_json::to_value(fixture().model.config).unwrap();
    for (key, value, field) in [
        ("padding", json!(4), "input.padding"),
        ("patch", json!(9), "input.patch"),
        ("stride", json!(0), "input.stride"),
        ("stride", json!(1), "tokens"),
        ("std", json!(0.0), "input.std"),
        ("height", json!(100_000), "input.height"),
    ] {
        let before = config["input"][key].clone();
        config["input"][key] = value;
        assert_eq!(field_of(&config), field);
        config["input"][key] = before;
    }
}

#[test]
fn unknown_and_missing_fields_are_refused_everywhere() {
    let valid = small_config();
    for pointer in ["", "/input", "/layers/0", "/layers/0/ranges", "/approximation"] {
        let mut config = valid.clone();
        config.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
        let refused = ModelConfig::from_json(config.to_string().as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{pointer}");
    }
    for key in ["format", "name", "layers", "approximation", "input"] {
        let mut config = valid.clone();
        config.as_object_mut().unwrap().remove(key);
        let refused = ModelConfig::from_json(config.to_string().as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{key}");
    }
    let long = vec![b' '; CONFIG_LIMIT as usize + 1];
    assert!(matches!(ModelConfig::from_json(&long), Err(Error::TooLarge { .. })));
}

#[test]
fn tensors_are_checked_one_by_one() {
    type Change<'a> = dyn Fn(&str, &[usize], Vec<f64>) -> (String, Vec<usize>, Vec<f64>) + 'a;
    let model = small_model();
    let rebuild = |change: &Change<'_>| {
        let tensors: Vec<_> = model
            .weights
            .tensors()
            .into_iter()
            .map(|t| change(&t.name, &t.shape, t.data.to_vec()))
            .map(|(name, shape, data)| {
                let bytes: Vec<u8> = data.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
                (name, shape, bytes)
            })
            .collect();
        let views = tensors.iter().filter(|t| !t.0.is_empty()).map(|(name, shape, bytes)| {
            let dtype = safetensors::Dtype::F32;
            let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        Weights::from_safetensors(&model.config, &bytes)
    };
    let target = "layers.1.attention.key.weight";
    let same = |n: &str, s: &[usize], d: Vec<f64>| (n.to_owned(), s.to_vec(), d);
    assert_eq!(rebuild(&same).unwrap(), model.weights);
    let dropped =
        rebuild(&|n, s, d| if n == target { (String::new(), vec![], d) } else { same(n, s, d) });
    assert!(matches!(dropped, Err(Error::MissingTensor { name }) if name == target));
    let renamed = rebuild(&|n, s, d| {
        if n == target { ("layers.9.key".to_owned(), s.to_vec(), d) } else { same(n, s, d) }
    });
    assert!(matches!(renamed, Err(Error::MissingTensor { name }) if name == target));
    let reshaped = rebuild(&|n, s, d| {
        if n == target { (n.to_owned(), vec![4, 16], d) } else { same(n, s, d) }
    });
    assert!(matches!(reshaped, Err(Error::TensorMismatch { name, .. }) if name == target));
    let poisoned = rebuild(&|n, s, mut d| {
        if n == target {
            d[5] = f64::INFINITY;
        }
        same(n, s, d)
    });
    assert!(matches!(poisoned, Err(Error::NotFinite { index: 5, what }) if what.contains(target)));
    // A tensor that belongs to a deeper model.
    let mut shallow = model.config.clone();
    shallow.layers.truncate(1);
    let bytes = model.weights.to_safetensors().unwrap();
    let refused = Weights::from_safetensors(&shallow, &bytes);
    assert!(
        matches!(refused, Err(Error::UnexpectedTensor { name }) if name.starts_with("layers.1."))
    );
    let client = ClientWeights::from_bytes(&model.config, &bytes);
    assert!(matches!(client, Err(Error::UnexpectedTensor { .. })));
}

#[test]
fn a_model_survives_its_directory() {
    for model in [small_model(), fixture().model] {
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let loaded = Model::load(dir.path()).unwrap();
        assert_eq!(loaded, model);
        assert_eq!(loaded.fingerprint().unwrap(), model.fingerprint().unwrap());
    }
    let missing = Model::load(std::path::Path::new("/nonexistent")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/config.json"));
}

#[test]
fn fingerprints_see_every_change() {
    let model = small_model();
    let before = model.fingerprint().unwrap();
    let mut changed = model.clone();
    changed.weights.head.bias[2] += 1e-9;
    assert_ne!(changed.fingerprint().unwrap(), before);
    let mut changed = model.clone();
    changed.config.layers[1].eps *= 1.0 + 1e-15;
    assert_ne!(changed.fingerprint().unwrap(), before);
    let other = RandomModel { seed: 6, ..RandomModel::default() };
    let twice = [other.generate().unwrap(), other.generate().unwrap()];
    assert_eq!(twice[0].fingerprint().unwrap(), twice[1].fingerprint().unwrap());
    assert!(twice[0].config.random_weights && twice[0].config.name.starts_with("random"));
}

#[test]
fn truncated_and_oversized_files_are_refused_before_they_are_believed() {
    let model = small_model();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(Model::load(dir.path()), Err(Error::Malformed { .. })), "{length}");
    }
    // A sparse file far beyond what this config can need: refused by its size alone.
    std::fs::File::create(&path).unwrap().set_len(3 << 30).unwrap();
    assert!(
        matches!(Model::load(dir.path()), Err(Error::TooLarge { limit, .. }) if limit < 2 << 20)
    );
    // A header that claims more JSON than any model has.
    let mut bytes = bytes;
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let refused = Weights::from_safetensors(&model.config, &bytes);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

#[test]
fn random_models_refuse_nonsense() {
    let base = RandomModel::default();
    for shape in [
        RandomModel { tokens: 0, ..base.clone() },
        RandomModel { heads: 0, ..base.clone() },
        RandomModel { heads: 5, ..base.clone() },
        RandomModel { heads: usize::MAX, ..base.clone() },
        RandomModel { layers: usize::MAX, ..base.clone() },
        RandomModel { classes: usize::MAX, ..base.clone() },
        RandomModel { power: 3, ..base.clone() },
        RandomModel { scaled_heads: vec![4], ..base.clone() },
    ] {
        assert!(matches!(shape.generate(), Err(Error::InvalidConfig { .. })), "{shape:?}");
    }
    let huge = RandomModel { width: 8192, ffn: 32768, layers: 128, heads: 8, ..base };
    assert!(matches!(huge.generate(), Err(Error::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let config = fixture().model.config;
        let _ = ModelConfig::from_json(&bytes);
        let _ = Weights::from_safetensors(&config, &bytes);
        let _ = ClientWeights::from_bytes(&config, &bytes);
    }

    #[test]
    fn damaged_weights_never_panic(
        position in 0.0..1.0_f64, value in any::<u8>(), header in any::<bool>(), cut in 0.0..1.0_f64,
    ) {
        let model = fixture().model;
        let mut bytes = model.weights.to_safetensors().unwrap();
        let reach = if header { 3000 } else { bytes.len() };
        let index = (position * reach as f64) as usize;
        bytes[index] = value;
        if let Ok(weights) = Weights::from_safetensors(&model.config, &bytes) {
            prop_assert!(weights.tensors().iter().all(|t| t.data.iter().all(|x| x.is_finite())));
        }
        let length = (cut * bytes.len() as f64) as usize;
        prop_assert!(Weights::from_safetensors(&model.config, &bytes[..length]).is_err());
    }

    #[test]
    fn configs_that_validate_make_graphs(
        place in 0..1000_usize, number in prop_oneof![
            Just(json!(0)), Just(json!(-1)), Just(json!(1e300)), Just(json!(u64::MAX)), Just(json!(2)),
            Just(json!("scaled")), Just(Value::Null), Just(json!([1, 2])), (1..100_u32).prop_map(Value::from),
        ],
    ) {
        fn leaves(value: &Value, at: &str, out: &mut Vec<String>) {
            match value {
                Value::Object(map) => map.iter().for_each(|(k, v)| leaves(v, &format!("{at}/{k}"), out)),
                Value::Array(list) => {
                    list.iter().enumerate().for_each(|(i, v)| leaves(v, &format!("{at}/{i}"), out));
                }
                _ => out.push(at.to_owned()),
            }
        }
        let mut config = serde_json::to_value(fixture().model.config).unwrap();
        let mut paths = Vec::new();
        leaves(&config, "", &mut paths);
        *config.pointer_mut(&paths[place % paths.len()]).unwrap() = number;
        if let Ok(config) = ModelConfig::from_json(config.to_string().as_bytes()) {
            prop_assert!(Graph::from_config(&config).is_ok());
        }
    }
}
