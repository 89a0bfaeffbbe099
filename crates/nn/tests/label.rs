//! Plans that answer with a label.
//!
//! | test | what it shows |
//! | --- | --- |
//! | `only_a_label_comes_out` | the real chain on toy parameters (not secure): labels as in the clear, costs as predicted; no logits to be had |
//! | `the_graph_ends_in_the_largest_logit` | reference of the operator |
//! | `a_plan_needs_a_range` | refused without calibration; too many classes refused with a cost |
//! | `a_bound_is_used_where_it_is_tight` | proven against calibrated range, on models whose bound is known by hand |
//! | `a_foreign_plan_is_checked` | classes, range and hand-over of a plan from outside |
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cipherform_ckks::{KeyKind, Parameters, presets};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::config::{NormOrder, Structure};
use cipherform_nn::label::{TIGHT, logit_range};
use cipherform_nn::{Error, Graph, Matrix, Mode, Model, Plan, RandomModel};

fn small(classes: usize) -> Model {
    let shape = RandomModel {
        tokens: 4,
        width: 8,
        heads: 2,
        ffn: 16,
        classes,
        seed: 5,
        ..RandomModel::default()
    };
    shape.generate().unwrap()
}

fn toy() -> Parameters {
    presets::get("toy11_deep").unwrap()
}

fn plan(model: &Model, mode: Mode) -> Result<Plan, Error> {
    let params = toy();
    Ok(Plan::for_machine(model, &params, &MachineCosts::nominal(params.log_n()), mode)?.0)
}

#[cfg(feature = "label-only")]
#[test]
fn only_a_label_comes_out() {
    use cipherform_ckks::{Context, Device, Encoder, Encryptor, EvaluationKeys, KeyGenerator};
    use cipherform_exact::{LabelSecret, SeededLabelKeys};
    use cipherform_nn::exec::{ClearExecutor, Progress};
    use cipherform_nn::{Functions, HeModel, argmax, random_input};
    use cipherform_profile::record;
    use rand_core::SeedableRng;
    use std::ops::ControlFlow;

    let model = small(4);
    let params = toy();
    let context = Context::new(params.clone(), &Device::cpu()).unwrap();
    let costs = MachineCosts::nominal(params.log_n());
    let he = HeModel::for_machine(&model, &context, &costs, Mode::Label).unwrap();
    let plan = he.description().plan();
    let step = plan.label_step(&params).unwrap();
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([7; 32]);
    let generator = KeyGenerator::new(&context);
    let secret = generator.secret_key(&mut rng).unwrap();
    let mut keys = EvaluationKeys::new(&context);
    for &spec in plan.keys() {
        let key = generator.evaluation_key(&secret, spec, &mut rng).unwrap();
        keys.insert(key.expand(&context).unwrap()).unwrap();
    }
    let label_secret = LabelSecret::new(&secret).unwrap();
    let label_keys: SeededLabelKeys = label_secret.keys(&step, &mut rng).unwrap();
    let label_keys = label_keys.expand().unwrap();
    let clear = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
    let range = plan.logit_range().unwrap();
    let limit = 6.0 * step.noise().difference_sigma(range.max) + 2f64.powi(-8);
    let mut compared = 0;
    let length = he.length(model.config.tokens).unwrap();
    for index in 0..6 {
        let input = random_input(&model.config, 3, index).unwrap();
        let slots = he.description().encode(&input).unwrap();
        let encryptor = Encryptor::with_secret_key(&context, &secret).unwrap();
        let mut encrypt = || -> Vec<_> {
            let specs = slots.iter().zip(plan.inputs());
            specs
                .map(|(slots, spec)| {
                    let scale = params.scale_at(spec.level);
                    let plain = Encoder::new(&context).encode(slots, spec.level, scale).unwrap();
                    encryptor.encrypt(&plain, &mut rng).unwrap()
                })
                .collect()
        };
        let mut steps = Vec::new();
        let mut monitor = |p: &Progress| {
            steps.push((p.step, p.steps, p.operator.clone()));
            ControlFlow::Continue(())
        };
        let inputs = encrypt();
        let run = || he.run_label(&keys, &label_keys, inputs, &length, &mut monitor).unwrap();
        let (reply, recording) = record(run);
        plan.cost().check(&recording.total()).unwrap();
        let names: Vec<_> = plan.steps().iter().map(|s| s.operator.clone()).collect();
        let want: Vec<_> = (0..names.len()).map(|i| (i, names.len(), names[i].clone())).collect();
        assert_eq!(steps, want);
        // Two logits closer than six standard deviations are a matter of noise.
        let logits = clear.run(&input).unwrap();
        let best = argmax(&logits);
        let others = logits.iter().enumerate().filter(|(k, _)| *k != best).map(|(_, z)| *z);
        let margin = logits[best] - others.fold(f64::MIN, f64::max);
        let label = reply.decrypt(&step, &label_secret).unwrap();
        assert!(label < 4);
        if margin > limit {
            compared += 1;
            assert_eq!(label, best, "{logits:?}");
        }
        // No logits, not even for whoever has the keys.
        let mut go_on = |_: &Progress| ControlFlow::Continue(());
        let refused = he.run(&keys, encrypt(), &length, &mut go_on).unwrap_err();
        assert!(matches!(refused, Error::WrongAnswer { .. }), "{refused}");
        assert!(he.description().decode(&slots[0]).is_err());
        let mut stop = |p: &Progress| match p.operator.as_str() {
            "label.bridge" => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let stopped = he.run_label(&keys, &label_keys, encrypt(), &length, &mut stop).unwrap_err();
        assert!(matches!(stopped, Error::Cancelled { operator } if operator == "label.bridge"));
    }
    assert!(compared > 0, "no margin above {limit}");
}

#[test]
fn the_graph_ends_in_the_largest_logit() {
    let model = small(3);
    let graph = Graph::label_only(&model.config).unwrap();
    let node = graph.node("label").unwrap();
    let logits = Matrix::from_vec(1, 3, vec![0.5, 2.0, 2.0]).unwrap();
    let functions = cipherform_nn::exec::ScalarFunctions::Exact;
    let context = cipherform_nn::op::OpContext { weights: &model.weights, functions: &functions };
    let label = node.op.reference(&[&logits], context, &mut ()).unwrap();
    assert_eq!(label.data(), [1.0]);
    let wrong = Matrix::from_vec(1, 2, vec![0.5, 2.0]).unwrap();
    assert!(node.op.reference(&[&wrong], context, &mut ()).is_err());
}

#[test]
fn a_plan_needs_a_range() {
    let mut model = small(4);
    let (label, logits) = (plan(&model, Mode::Label).unwrap(), plan(&model, Mode::Logits).unwrap());
    // No rotations after the last layer, one level less, and the hand-over beside the other keys.
    assert_eq!((label.mode(), logits.mode()), (Mode::Label, Mode::Logits));
    assert_eq!(label.top_level() + 1, logits.top_level());
    let hands_over = |p: &Plan| p.keys().iter().any(|k| k.kind == KeyKind::HandOver);
    assert!(hands_over(&label) && !hands_over(&logits));
    let sizes = label.sizes(&toy());
    assert_eq!(sizes.download_bytes, label.label_step(&toy()).unwrap().label_bytes() as u64);
    model.config.logit_difference_max = None;
    let error = plan(&model, Mode::Label).unwrap_err();
    assert!(matches!(error, Error::NotCalibrated { .. }), "{error}");
    assert!(error.to_string().contains("cipherform model logits"), "{error}");
    // Classes beyond what is compared: a refusal that names the cost.
    let shape = RandomModel {
        classes: 129,
        tokens: 4,
        width: 8,
        heads: 2,
        ffn: 16,
        ..RandomModel::default()
    };
    let params = presets::get("lev15").unwrap();
    let costs = MachineCosts::nominal(params.log_n());
    let many = shape.generate().unwrap();
    let error = Plan::for_machine(&many, &params, &costs, Mode::Label).unwrap_err();
    let classes =
        cipherform_exact::Error::Classes { classes: 129, max: 128, bootstraps: 0, seconds: 0.0 };
    assert!(
        matches!(&error, Error::Exact(e) if std::mem::discriminant(e) == std::mem::discriminant(&classes))
    );
    assert!(error.to_string().contains("programmable bootstraps"), "{error}");
}

#[test]
fn a_bound_is_used_where_it_is_tight() {
    let mut model = small(2);
    // Pre-norm: what calibration met, widened.
    let widen = model.config.approximation.widen_top;
    model.config.logit_difference_max = Some(3.0);
    let range = logit_range(&model).unwrap();
    assert!(!range.proven && (range.max - 3.0 * widen).abs() < 1e-12);
    // A norm before the classifier: gain 2 on feature 0 alone, whose weights differ by 3, and a bias of 1/2 there, so
    // |z_0 - z_1| <= sqrt(8) 2 3 + 1/2 3 + |b_0 - b_1|.
    model.config.structure =
        Structure { norm: NormOrder::Post, embedding_norm: true, ..Structure::default() };
    let norm = &mut model.weights.layers[0].norm2;
    norm.gain.fill(0.0);
    norm.bias.fill(0.0);
    (norm.gain[0], norm.bias[0]) = (2.0, 0.5);
    let head = &mut model.weights.head;
    head.weight.row_mut(0).copy_from_slice(&[1.0, -2.0]);
    head.bias = vec![0.25, -0.5];
    let bound = 8f64.sqrt() * 6.0 * (1.0 + model.config.approximation.tolerance) + 1.5 + 0.75;
    for (calibrated, proven) in [
        (None, true),
        (Some(bound / widen / TIGHT * 1.01), true),
        (Some(bound / widen / TIGHT * 0.99), false),
    ] {
        model.config.logit_difference_max = calibrated;
        let range = logit_range(&model).unwrap();
        assert_eq!(range.proven, proven, "{calibrated:?}");
        if proven {
            assert!((range.max / bound - 1.0).abs() < 1e-12, "{} {bound}", range.max);
        }
    }
}

#[test]
fn a_foreign_plan_is_checked() {
    let model = small(4);
    let good = serde_json::to_value(plan(&model, Mode::Label).unwrap()).unwrap();
    let check = |value: serde_json::Value| -> Result<(), Error> {
        let plan: Plan = serde_json::from_value(value).unwrap();
        plan.validate(&model.config, &toy())
    };
    check(good.clone()).unwrap();
    let change = |path: &str, to: serde_json::Value| {
        let mut value = good.clone();
        *value.pointer_mut(path).unwrap() = to;
        check(value)
    };
    assert!(matches!(change("/label/classes", 5.into()), Err(Error::Malformed { .. })));
    assert!(matches!(change("/label/classes", 4000.into()), Err(Error::Exact(_))));
    assert!(matches!(change("/label/range/max", (-1.0).into()), Err(Error::Exact(_))));
    assert!(matches!(change("/output_level", 1.into()), Err(Error::Malformed { .. })));
    let without = good["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|k| !k.to_string().to_lowercase().contains("hand"));
    let without: Vec<_> = without.cloned().collect();
    assert!(matches!(change("/keys", without.into()), Err(Error::Malformed { .. })));
}
