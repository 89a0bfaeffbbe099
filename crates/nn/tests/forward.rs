//! The clear executor against other implementations.
//!
//! | test | oracle |
//! |---|---|
//! | `numpy_logits_and_ranges` | `testdata/forward.py` (numpy) |
//! | `inverse_sqrt_is_optimal` | Lawson's iteration in the same script |
//! | `straightforward_loops` | the formula written as loops below, both function modes, several shapes and structures |
//! | `polynomial_error_is_bounded` | exact functions, with the bound of the tolerance |
//! | `batch_*`, `client_embedding_*`, `bad_inputs_*` | consistency |

#[cfg(test)]
mod common;

use cipherform_nn::approx::{InverseSqrt, layer_approximations};
use cipherform_nn::config::{Activation, NormOrder, Pooling, Structure};
use cipherform_nn::data::patches;
use cipherform_nn::exec::{ClearExecutor, Observer, RangeObserver};
use cipherform_nn::weights::{LinearWeights, NormWeights, Weights};
use cipherform_nn::{
    ClientWeights, Error, Functions, Graph, HeadKind, InputKind, Matrix, Model, Node, RandomModel,
    client_embedding, draw, random_input,
};
use common::{fixture, max_difference, small_model};

/// Relative rounding of a few thousand f64 operations on numbers of order 1 to 10.
const ROUNDING: f64 = 1e-11;

#[test]
fn numpy_logits_and_ranges() {
    let fixture = fixture();
    let executor = ClearExecutor::new(&fixture.model, Functions::Exact).unwrap();
    let mut ranges = RangeObserver::new(&fixture.model.config);
    for (image, want) in fixture.images.iter().zip(&fixture.logits) {
        let input = patches(&fixture.model.config, image).unwrap();
        let got = executor.run_observed(&input, &mut ranges).unwrap();
        assert!(max_difference(&got, want) < ROUNDING);
    }
    let mut observed = fixture.model.config.clone();
    ranges.apply(&mut observed);
    assert!((observed.logit_abs_max / fixture.model.config.logit_abs_max - 1.0).abs() < ROUNDING);
    for (got, want) in observed.layers.iter().zip(&fixture.model.config.layers) {
        let flat = |r: &cipherform_nn::config::Ranges| {
            let mut list = r.score_abs_max.clone();
            list.extend(r.denominator.iter().flat_map(|r| [r.min, r.max]));
            list.extend([r.norm1_variance.min, r.norm1_variance.max]);
            list.extend([r.norm2_variance.min, r.norm2_variance.max]);
            list.extend([r.activation_abs_max, r.value_abs_max, r.residual_abs_max]);
            list
        };
        for (g, w) in flat(&got.ranges).iter().zip(flat(&want.ranges)) {
            assert!((g / w - 1.0).abs() < 1e-9, "{g} {w}");
        }
    }
}

#[test]
fn inverse_sqrt_is_optimal() {
    for (low, high, degree, error) in fixture().inverse_sqrt {
        // The shallowest fit for a tolerance just above the optimum has the optimum's degree and error; Lawson's
        // iteration approaches the optimum from above, by less than 0.5 % here.
        let fit = InverseSqrt::fit(low, high, error * 1.001).unwrap();
        assert_eq!(fit.coefficients.len(), degree + 1);
        assert!((fit.max_relative_error / error - 1.0).abs() < 5e-3, "{low} {high} {error}");
    }
}

/// The formula of `ModelConfig`'s documentation as plain loops, with scalar functions written a second time.
#[cfg(test)]
#[expect(clippy::too_many_lines, reason = "the whole formula in one place is the point")]
fn straightforward(model: &Model, input: &Matrix, polynomial: bool) -> Vec<f64> {
    type Rows = Vec<Vec<f64>>;
    let (config, w) = (&model.config, &model.weights);
    let rows = |m: &Matrix| -> Rows { (0..m.rows()).map(|r| m.row(r).to_vec()).collect() };
    let linear = |x: &Rows, l: &LinearWeights| -> Rows {
        let out = |row: &Vec<f64>, c: usize| {
            l.bias[c] + (0..row.len()).map(|k| row[k] * l.weight.at(k, c)).sum::<f64>()
        };
        x.iter().map(|row| (0..l.bias.len()).map(|c| out(row, c)).collect()).collect()
    };
    let center = |x: &Rows| -> Rows {
        let mean = |row: &Vec<f64>| row.iter().sum::<f64>() / row.len() as f64;
        x.iter().map(|row| row.iter().map(|v| v - mean(row)).collect()).collect()
    };
    let add = |x: &Rows, y: &Rows| -> Rows {
        let sum = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
        x.iter().zip(y).map(sum).collect()
    };
    let norm = |x: &Rows, p: &NormWeights, root: &dyn Fn(f64) -> f64| -> Rows {
        x.iter()
            .map(|row| {
                let variance = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                let factor = root(variance + config.norm_eps);
                (0..row.len()).map(|f| row[f] * factor * p.gain[f] + p.bias[f]).collect()
            })
            .collect()
    };
    let exact_root = |x: f64| x.powf(-0.5);
    let root_of = |fit: Option<InverseSqrt>| -> Box<dyn Fn(f64) -> f64> {
        match fit {
            // Direct sum with T_j(t) = cos(j acos t), or cosh outside [-1, 1].
            Some(fit) if polynomial => Box::new(move |x| {
                let t: f64 = (2.0 * x - fit.low - fit.high) / (fit.high - fit.low);
                let chebyshev = |j: usize| {
                    if t.abs() <= 1.0 {
                        (j as f64 * t.acos()).cos()
                    } else {
                        t.signum().powi(j as i32) * (j as f64 * t.abs().acosh()).cosh()
                    }
                };
                fit.coefficients.iter().enumerate().map(|(j, c)| c * chebyshev(j)).sum()
            }),
            _ => Box::new(exact_root),
        }
    };
    let tokens = input.rows();
    let structure = config.structure;
    let embedded: Rows = (0..tokens)
        .map(|t| {
            let e = &w.embedding;
            let product = |c| -> f64 {
                match config.input {
                    InputKind::Text { .. } => e.weight.at(input.at(t, 0) as usize, c),
                    _ => (0..input.columns()).map(|k| input.at(t, k) * e.weight.at(k, c)).sum(),
                }
            };
            (0..config.width).map(|c| product(c) + e.position.at(t, c)).collect()
        })
        .collect();
    let mut x = center(&embedded);
    if let Some(p) = &w.embedding.norm {
        x = norm(&x, p, &exact_root);
    }
    let post = structure.norm == NormOrder::Post;
    if !post {
        x = center(&x);
    }
    for (i, (layer, lw)) in config.layers.iter().zip(&w.layers).enumerate() {
        let fits = polynomial.then(|| layer_approximations(config, i).unwrap());
        let norm1 = root_of(fits.as_ref().and_then(|f| f.norm1.clone()));
        let u = if post { x.clone() } else { norm(&x, &lw.norm1, &norm1) };
        let (q, k, v) = (linear(&u, &lw.query), linear(&u, &lw.key), linear(&u, &lw.value));
        let size = config.width / layer.heads.len();
        // The textbook recurrence on b, with its interval derived from the ranges once more.
        let top = |h: usize| layer.ranges.denominator[h].max * config.approximation.widen_top;
        let e = (0..layer.heads.len())
            .filter(|h| layer.heads[*h] == HeadKind::Power)
            .map(|h| {
                layer.ranges.denominator[h].min / config.approximation.widen_bottom / (2.0 * top(h))
            })
            .fold(f64::INFINITY, f64::min);
        let steps = fits
            .as_ref()
            .and_then(|f| f.denominator.as_ref())
            .map_or(0, |d| d.reciprocal.steps.len());
        let reciprocal = |h: usize, den: f64| {
            let (mut b, mut e, mut y) = (den / (2.0 * top(h)), e, 1.0 / (2.0 * top(h)));
            for _ in 0..steps {
                let k = 2.0 / (1.0 + e);
                (y, b) = (y * k * (2.0 - k * b), b * k * (2.0 - k * b));
                e = 4.0 * e / (1.0 + e).powi(2);
            }
            y * 2.0 / (1.0 + e)
        };
        let mut attended = vec![vec![0.0; config.width]; tokens];
        for (h, kind) in layer.heads.iter().enumerate() {
            for t in 0..tokens {
                let score = |j: usize| {
                    let column = |c: usize| q[t][c] * k[j][c];
                    (h * size..(h + 1) * size).map(column).sum::<f64>() / (size as f64).sqrt()
                };
                let power = |j: usize| match lw.shift.get(h) {
                    Some(c) => (score(j) / f64::from(layer.power) + c).powi(layer.power as i32),
                    None => score(j).powi(layer.power as i32),
                };
                let seen = if structure.causal { t + 1 } else { tokens };
                let n = seen as f64;
                let den = layer.eps + (0..seen).map(power).sum::<f64>() / n;
                for c in h * size..(h + 1) * size {
                    attended[t][c] = (0..seen)
                        .map(|j| match kind {
                            HeadKind::Undivided => power(j) / n * v[j][c],
                            HeadKind::Scaled => score(j) / n * v[j][c],
                            HeadKind::Power if polynomial => {
                                power(j) / n * reciprocal(h, den) * v[j][c]
                            }
                            HeadKind::Power => power(j) / (n * den) * v[j][c],
                            HeadKind::Relu => {
                                let all: f64 = (0..seen).map(|j| score(j).max(0.0)).sum();
                                score(j).max(0.0) / (all + n * layer.eps) * v[j][c]
                            }
                            HeadKind::Softmax => {
                                let all: f64 = (0..seen).map(|j| score(j).exp()).sum();
                                score(j).exp() / all * v[j][c]
                            }
                        })
                        .sum();
                }
            }
        }
        let mut y = add(&x, &center(&linear(&attended, &lw.output)));
        if post {
            y = norm(&center(&y), &lw.norm1, &norm1);
        }
        let norm2 = root_of(fits.map(|f| f.norm2));
        let read = if structure.parallel { &x } else { &y };
        let read = if post { y.clone() } else { norm(read, &lw.norm2, &norm2) };
        let hidden = linear(&read, &lw.ffn_in);
        let act = |h: f64, c: usize| -> f64 {
            match layer.activation {
                // The normal distribution function by Simpson's rule from 0.
                Activation::Gelu => {
                    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
                    let at = |i: u32| density(h * f64::from(i) / 200.0);
                    let weight =
                        |i: u32| if i == 0 || i == 200 { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
                    let area: f64 = (0..=200).map(|i| weight(i) * at(i)).sum::<f64>() * h / 600.0;
                    return h * (0.5 + area);
                }
                Activation::None => return h,
                _ => {}
            }
            rows(&lw.activation).iter().enumerate().map(|(e, a)| a[c] * h.powi(e as i32)).sum()
        };
        let activated: Rows = hidden
            .iter()
            .map(|row| row.iter().enumerate().map(|(c, h)| act(*h, c)).collect())
            .collect();
        x = add(&y, &center(&linear(&activated, &lw.ffn_out)));
        if post {
            x = norm(&center(&x), &lw.norm2, &norm2);
        }
    }
    let mean = |c: usize| x.iter().map(|row| row[c]).sum::<f64>() / tokens as f64;
    let pooled = match structure.pooling {
        Pooling::Mean => vec![(0..config.width).map(mean).collect()],
        Pooling::First => vec![x[0].clone()],
        Pooling::Tokens => x,
    };
    linear(&pooled, &w.head).concat()
}

#[cfg(test)]
fn shapes() -> Vec<RandomModel> {
    let base = RandomModel::default();
    vec![
        base.clone(),
        RandomModel { tokens: 5, width: 6, heads: 3, layers: 3, ffn: 7, seed: 1, ..base.clone() },
        RandomModel { power: 4, scaled_heads: vec![0, 3], layers: 2, seed: 2, ..base.clone() },
        RandomModel { power: 6, tokens: 1, seed: 3, ..base.clone() },
        RandomModel { power: 8, heads: 1, classes: 2, seed: 4, ..base.clone() },
        RandomModel { scaled_heads: vec![0, 1, 2, 3], layers: 2, seed: 5, ..base },
    ]
}

#[test]
fn heads_and_activations_without_polynomials_follow_their_formulas_and_are_not_encrypted() {
    use Activation::{Gelu, None as Nothing};
    use HeadKind::{Relu, Scaled, Softmax};
    let shape = RandomModel { layers: 2, scaled_heads: vec![0, 1, 2, 3], ..RandomModel::default() };
    let kinds = [
        ([vec![Relu; 4], vec![Relu, Scaled, Relu, Scaled]], [Gelu, Nothing]),
        ([vec![Softmax; 4], vec![Scaled; 4]], [Nothing, Gelu]),
    ];
    for (seed, (heads, activations)) in kinds.into_iter().enumerate() {
        let mut config = shape.generate().unwrap().config;
        for ((layer, heads), activation) in config.layers.iter_mut().zip(heads).zip(activations) {
            (layer.heads, layer.activation) = (heads, activation);
        }
        let model = draw(config, seed as u64).unwrap();
        let bytes = model.weights.to_safetensors().unwrap();
        assert_eq!(Weights::from_safetensors(&model.config, &bytes).unwrap(), model.weights);
        let input = random_input(&model.config, 7, 0).unwrap();
        let got = ClearExecutor::new(&model, Functions::Exact).unwrap().run(&input).unwrap();
        let want = straightforward(&model, &input, false);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-8, "{got} {want}");
        }
        let refused = ClearExecutor::new(&model, Functions::Polynomial);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
    }
}

/// Each feature beyond the pre-norm encoder, some together.
#[cfg(test)]
fn structures() -> Vec<RandomModel> {
    let base = RandomModel { layers: 2, variable: true, shifted: true, ..RandomModel::default() };
    let normed = Structure { embedding_norm: true, ..Structure::default() };
    let post = Structure { norm: NormOrder::Post, pooling: Pooling::First, ..normed };
    let parallel = Structure { parallel: true, causal: true, ..Structure::default() };
    let every = Structure { pooling: Pooling::Tokens, causal: true, ..Structure::default() };
    vec![
        RandomModel { structure: normed, power: 4, ..base.clone() },
        RandomModel { structure: post, undivided: true, seed: 1, ..base.clone() },
        RandomModel { structure: parallel, shifted: false, seed: 2, ..base.clone() },
        RandomModel { structure: every, scaled_heads: vec![1], undivided: true, seed: 3, ..base },
    ]
}

/// A model that reads word pieces, with the tensors of a random one.
#[cfg(test)]
fn text_model() -> Model {
    let size = RandomModel::default().width;
    let mut model = structures()[0].generate().unwrap();
    let rows: Vec<f64> = (0..7 * size).map(|i| (i as f64 * 0.7).sin()).collect();
    model.config.input = InputKind::Text { vocabulary: 7 };
    model.weights.embedding.weight = Matrix::from_vec(7, size, rows).unwrap();
    model
}

#[test]
fn literature_shapes_are_what_they_say() {
    for (name, layers, width, ffn) in [
        ("bert-tiny", 2, 128, 512),
        ("minilm-l6", 6, 384, 1536),
        ("pythia-70m", 6, 512, 2048),
        ("bert-base", 12, 768, 3072),
        ("mpcvit", 7, 256, 512),
    ] {
        let shape = RandomModel::literature(name).unwrap();
        assert_eq!((shape.layers, shape.width, shape.ffn), (layers, width, ffn));
        // Small in every dimension but keeping the structure, it can be made and run.
        let small =
            RandomModel { width: 24, ffn: 16, tokens: 6, layers: 2, heads: 2, ..shape }.generate();
        assert!(small.unwrap().config.random_weights);
    }
    assert_eq!(RandomModel::literature("gpt-5"), None);
}

#[test]
fn word_pieces_and_lengths_are_checked() {
    let model = text_model();
    let clear = ClearExecutor::new(&model, Functions::Exact).unwrap();
    let weights = ClientWeights::from_model(&model).unwrap();
    let ids = |ids: &[f64]| Matrix::from_vec(ids.len(), 1, ids.to_vec()).unwrap();
    for bad in [vec![0.0, 7.0], vec![-1.0], vec![1.5]] {
        let error = clear.run(&ids(&bad)).unwrap_err();
        assert!(matches!(error, Error::UnknownToken { vocabulary: 7, .. }), "{error}");
        assert!(client_embedding(&model.config, &weights, &ids(&bad)).is_err());
    }
    for count in [0, 17] {
        let error = clear.run(&Matrix::zeros(count, 1)).unwrap_err();
        assert!(matches!(error, Error::InputLength { limit: 16, .. }), "{error}");
    }
    assert!(matches!(clear.run(&ids(&[f64::NAN])), Err(Error::NotFinite { .. })));
}

#[test]
fn straightforward_loops() {
    let mut models: Vec<Model> = shapes().iter().map(|s| s.generate().unwrap()).collect();
    models.push(fixture().model);
    models.push(text_model());
    models.extend(structures().iter().map(|s| s.generate().unwrap()));
    for model in models {
        for (functions, polynomial) in [(Functions::Exact, false), (Functions::Polynomial, true)] {
            let executor = ClearExecutor::new(&model, functions).unwrap();
            for index in 0..3 {
                let input = random_input(&model.config, 11, index).unwrap();
                let got = executor.run(&input).unwrap();
                let want = straightforward(&model, &input, polynomial);
                let size = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
                assert!(max_difference(&got, &want) < ROUNDING * 10.0 * size);
            }
        }
    }
}

#[test]
fn polynomial_error_is_bounded() {
    // One layer with tolerance t: attention and both factors of norm 2 move by at most t each in relative terms, the
    // quadratic activation doubles a relative change and adds its own; with activations of order 1 to 5 the logits of
    // these seeds stay within 20 t. Ten times less tolerance must shrink the error in proportion, or more.
    for shape in shapes().into_iter().filter(|s| s.layers == 1) {
        let mut model = shape.generate().unwrap();
        let exact = ClearExecutor::new(&model, Functions::Exact).unwrap();
        let input = random_input(&model.config, 3, 0).unwrap();
        let want = exact.run(&input).unwrap();
        for tolerance in [1e-2, 1e-4, 1e-6] {
            model.config.approximation.tolerance = tolerance;
            let executor = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
            let got = executor.run(&input).unwrap();
            assert!(max_difference(&got, &want) < 20.0 * tolerance, "{shape:?} {tolerance}");
        }
    }
}

#[test]
fn batch_is_the_single_run_in_order() {
    let model = small_model();
    let executor = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
    let inputs: Vec<Matrix> = (0..40).map(|i| random_input(&model.config, 1, i).unwrap()).collect();
    let batch = executor.run_batch(&inputs).unwrap();
    for (input, logits) in inputs.iter().zip(&batch) {
        assert_eq!(&executor.run(input).unwrap(), logits);
    }
}

#[derive(Default)]
struct Named(Vec<(String, Matrix)>);

impl Observer for Named {
    fn value(&mut self, node: &Node, args: &[&Matrix], value: &Matrix) {
        assert_eq!(node.shape, value.shape());
        assert_eq!(node.args.len(), args.len());
        self.0.push((node.name.clone(), value.clone()));
    }
}

#[test]
fn client_embedding_is_what_the_graph_computes() {
    for model in [small_model(), fixture().model] {
        let input = random_input(&model.config, 9, 0).unwrap();
        let weights = ClientWeights::from_model(&model).unwrap();
        let bytes = weights.to_bytes().unwrap();
        assert_eq!(ClientWeights::from_bytes(&model.config, &bytes).unwrap(), weights);
        let embedded = client_embedding(&model.config, &weights, &input).unwrap();
        let executor = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
        let mut named = Named::default();
        executor.run_observed(&input, &mut named).unwrap();
        let value = |name: &str| &named.0.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(&embedded.x, value("embedding.center"));
        assert_eq!(&embedded.u, value("layer.0.norm1"));
        // The stream stays centred through every layer.
        for name in ["layer.0.attention.add", "layer.1.ffn.add"] {
            let x = value(name);
            assert!((0..x.rows()).all(|r| x.row(r).iter().sum::<f64>().abs() < ROUNDING));
        }
    }
}

#[test]
fn client_refuses_inputs_beyond_the_calibrated_range() {
    let model = small_model();
    let weights = ClientWeights::from_model(&model).unwrap();
    let mut input = random_input(&model.config, 9, 0).unwrap();
    let embedded = client_embedding(&model.config, &weights, &input).unwrap();
    embedded.check_ranges(&model.config).unwrap();
    input.data_mut()[0] = 1e4;
    let embedded = client_embedding(&model.config, &weights, &input).unwrap();
    let refused = embedded.check_ranges(&model.config);
    assert!(matches!(refused, Err(Error::OutOfRange { .. })));
    assert!(refused.unwrap_err().to_string().contains("calibrated up to"));
}

#[test]
fn bad_inputs_are_typed_errors() {
    let model = small_model();
    let executor = ClearExecutor::new(&model, Functions::Exact).unwrap();
    let weights = ClientWeights::from_model(&model).unwrap();
    let mut input = random_input(&model.config, 0, 0).unwrap();
    input.data_mut()[7] = f64::NAN;
    assert!(matches!(executor.run(&input), Err(Error::NotFinite { index: 7, .. })));
    let refused = client_embedding(&model.config, &weights, &input);
    assert!(matches!(refused, Err(Error::NotFinite { index: 7, .. })));
    let short = Matrix::zeros(8, 8);
    assert!(matches!(executor.run(&short), Err(Error::ShapeMismatch { .. })));
    let refused = client_embedding(&model.config, &weights, &short);
    assert!(matches!(refused, Err(Error::ShapeMismatch { .. })));
}

#[test]
fn graph_of_the_small_model() {
    let graph = Graph::from_config(&small_model().config).unwrap();
    let printed = format!("{graph:?}");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 1 + 3 + 2 * 14 + 2);
    let words: Vec<&str> = lines[1 + 7].split_whitespace().collect();
    assert_eq!(words, ["%7", "layer.0.attention", "attention", "[9,", "8]", "%4", "%5", "%6"]);
    assert!(graph.node("layer.1.ffn.activation").is_some());
    assert!(graph.node("layer.2.norm1").is_none());
}
