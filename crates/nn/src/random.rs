//! Models with random weights, of any shape, for tests, benches and cost studies; labelled as such.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::config::{
    Activation, ApproximationConfig, FORMAT, HeadKind, InputKind, LayerConfig, ModelConfig,
    NormOrder, Pooling, Range, Ranges, Structure,
};
use crate::error::{Error, Result};
use crate::exec::{ClearExecutor, Functions, RangeObserver};
use crate::matrix::Matrix;
use crate::weights::{Model, Weights, within_limit};

/// Inputs that the ranges of a random model are calibrated on.
const CALIBRATION_INPUTS: u64 = 32;

/// The shape and seed of a random model. Equal values give equal models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomModel {
    /// T.
    pub tokens: usize,
    /// d; each token's input is a vector of this size too, or a word piece.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Hidden features of the feed-forward block.
    pub ffn: usize,
    /// p of the power heads.
    pub power: u32,
    /// Which heads of every layer are scaled instead.
    pub scaled_heads: Vec<usize>,
    /// Whether the heads that raise do not divide.
    pub undivided: bool,
    /// Whether `s / p + c` is raised.
    pub shifted: bool,
    /// How the parts are joined.
    pub structure: Structure,
    /// Whether inputs may be shorter than T.
    pub variable: bool,
    /// Word pieces, if tokens are such and not vectors; their lengths vary.
    pub vocabulary: Option<usize>,
    /// Logits.
    pub classes: usize,
    /// Of the weights, and of the inputs that calibrate the ranges.
    pub seed: u64,
}

impl Default for RandomModel {
    /// 16 tokens of width 32, one layer of 4 power heads with p = 2, 64 hidden features, 10 classes, seed 0.
    fn default() -> Self {
        Self {
            tokens: 16,
            width: 32,
            heads: 4,
            layers: 1,
            ffn: 64,
            power: 2,
            scaled_heads: Vec::new(),
            undivided: false,
            shifted: false,
            structure: Structure::default(),
            variable: false,
            vocabulary: None,
            classes: 10,
            seed: 0,
        }
    }
}

impl RandomModel {
    /// The shapes that publications report, by name: `bert-tiny` (2 layers, d = 128, 64 tokens), `minilm-l6` (6 layers,
    /// d = 384, 64 tokens), `pythia-70m` (6 layers, d = 512, 128 tokens, causal, parallel; without its final norm and with 2
    /// classes in place of its vocabulary), `bert-base` (12 layers, d = 768, 128 tokens), `mpcvit` (7 layers, d = 256, 65
    /// tokens of which the first is classified). All with p = 2.
    #[must_use]
    pub fn literature(name: &str) -> Option<Self> {
        let bert =
            Structure { embedding_norm: true, norm: NormOrder::Post, ..Structure::default() };
        let pre = Structure { embedding_norm: true, ..Structure::default() };
        let pythia = Structure {
            parallel: true,
            causal: true,
            pooling: Pooling::Tokens,
            ..Structure::default()
        };
        let vit = Structure { pooling: Pooling::First, ..Structure::default() };
        let (layers, width, heads, ffn, tokens, structure) = match name {
            "bert-tiny" => (2, 128, 2, 512, 64, pre),
            "minilm-l6" => (6, 384, 12, 1536, 64, bert),
            "pythia-70m" => (6, 512, 8, 2048, 128, pythia),
            "bert-base" => (12, 768, 12, 3072, 128, bert),
            "mpcvit" => (7, 256, 4, 512, 65, vit),
            _ => return None,
        };
        let variable = structure != vit && !structure.causal;
        let classes = if structure == vit { 10 } else { 2 };
        let shape = Self { tokens, width, heads, layers, ffn, classes, ..Self::default() };
        Some(Self { structure, variable, ..shape })
    }

    /// Draws the weights and calibrates the ranges by running the clear executor on seeded inputs.
    ///
    /// Matrices have independent entries of variance `1/rows`, so that activations stay of order 1; queries are
    /// scaled so that the mean of `s^p` is of order 1 too. The config says `random_weights`, and the name `random`.
    ///
    /// # Errors
    /// `InvalidConfig`; `TooLarge` when the weights would exceed the limit of a model file.
    pub fn generate(&self) -> Result<Model> {
        draw(self.config()?, self.seed)
    }

    fn config(&self) -> Result<ModelConfig> {
        let kind = if self.undivided { HeadKind::Undivided } else { HeadKind::Power };
        let mut heads = vec![kind; self.heads.min(usize::from(u16::MAX))];
        for &h in &self.scaled_heads {
            let head = heads.get_mut(h).ok_or_else(|| Error::InvalidConfig {
                field: "scaled_heads".to_owned(),
                expected: format!("indices below the number of heads {}", self.heads),
                got: h.to_string(),
            })?;
            *head = HeadKind::Scaled;
        }
        let Self { tokens, width, layers, ffn, power, classes, seed, .. } = *self;
        for (field, value) in [("layers", layers), ("classes", classes)] {
            if value > usize::from(u16::MAX) {
                let (expected, got) = ("a small number".to_owned(), value.to_string());
                return Err(Error::InvalidConfig { field: field.to_owned(), expected, got });
            }
        }
        // Placeholders that validate; calibration replaces them.
        let one = Range { min: 1.0, max: 1.0 };
        let ranges = Ranges {
            score_abs_max: vec![1.0; heads.len()],
            denominator: vec![one; heads.len()],
            norm1_variance: one,
            norm2_variance: one,
            activation_abs_max: 1.0,
            value_abs_max: 1.0,
            residual_abs_max: 1.0,
        };
        let activation = Activation::Quadratic;
        let shifted = self.shifted;
        let layer = LayerConfig { heads, power, eps: 0.01, shifted, activation, ranges };
        Ok(ModelConfig {
            format: FORMAT.to_owned(),
            name: format!("random-t{tokens}-d{width}-h{}-l{layers}-p{power}-s{seed}", self.heads),
            random_weights: true,
            input: match self.vocabulary {
                Some(vocabulary) => InputKind::Text { vocabulary },
                None => InputKind::Vectors { size: width, variable: self.variable },
            },
            dataset: None,
            classes: (0..classes).map(|c| format!("class {c}")).collect(),
            tokens,
            width,
            ffn,
            norm_eps: 1e-3,
            structure: self.structure,
            layers: vec![layer; layers],
            logit_abs_max: 1.0,
            logit_difference_max: None,
            approximation: ApproximationConfig {
                tolerance: 0.01,
                widen_top: 2.0,
                widen_bottom: 1.5,
            },
        })
    }
}

/// A model of this config with weights drawn and ranges calibrated as [`RandomModel::generate`] does; the config's own ranges do not
/// matter. The config then says `random_weights`.
///
/// # Errors
/// `InvalidConfig`; `TooLarge` when the weights would exceed the limit of a model file.
pub fn draw(mut config: ModelConfig, seed: u64) -> Result<Model> {
    config.random_weights = true;
    config.validate()?;
    within_limit(&config, 0)?;
    let mut normals = Normals::new(seed, 0);
    let query_scale = query_scale(config.layers.first().map_or(2, |l| l.power));
    let weights = Weights::build(&config, |name, shape| {
        let count = shape.iter().product::<usize>();
        let rows = shape.first().copied().unwrap_or(1).max(1);
        let (mean, deviation) = match name {
            n if n.ends_with("gain") => (1.0, 0.1),
            n if n.ends_with("bias") => (0.0, 0.1),
            n if n.ends_with("shift") => (1.0, 0.1),
            "embed.position" => (0.0, 0.5),
            "embed.weight" if matches!(config.input, InputKind::Text { .. }) => (0.0, 1.0),
            n if n.ends_with("query.weight") => (0.0, query_scale / (rows as f64).sqrt()),
            _ => (0.0, 1.0 / (rows as f64).sqrt()),
        };
        if name.ends_with("activation") {
            // Near the quadratic that trained models start from, a little different in every channel.
            let columns = count / rows;
            let start = [0.12, 0.5, 0.17];
            let value = |i: usize, noise: f64| {
                start.get(i / columns).map_or(0.0, |a| a * (1.0 + 0.1 * noise))
            };
            return Ok((0..count).map(|i| round(value(i, normals.next()))).collect());
        }
        Ok((0..count).map(|_| round(mean + deviation * normals.next())).collect())
    })?;
    let mut model = Model { config, weights, tokenizer: None };
    let mut ranges = RangeObserver::new(&model.config);
    let executor = ClearExecutor::new(&model, Functions::Exact)?;
    for index in 0..CALIBRATION_INPUTS {
        // Inputs of another seed than those that a caller evaluates.
        let input = random_input(&model.config, !seed, index)?;
        executor.run_observed(&input, &mut ranges)?;
    }
    ranges.apply(&mut model.config);
    model.config.validate()?;
    Ok(model)
}

/// With unit-variance scores the mean of `s^p` would be `(p-1)!! = 1, 3, 15, 105`.
fn query_scale(power: u32) -> f64 {
    let p = power.clamp(2, 8);
    let double_factorial: f64 = (1..p).step_by(2).map(f64::from).product();
    double_factorial.powf(-1.0 / f64::from(p))
}

/// Input `index` of the sequence with this seed: `[T, input_size]` independent standard normals; of random length where
/// lengths vary, and of word pieces drawn evenly where the input is text.
///
/// # Errors
/// `InvalidConfig`.
pub fn random_input(config: &ModelConfig, seed: u64, index: u64) -> Result<Matrix> {
    config.validate()?;
    let columns = config.input_size();
    let mut normals = Normals::new(seed, index.wrapping_add(1));
    let mut below = |n: usize| ((normals.uniform() * n as f64) as usize).min(n - 1);
    let rows = if config.input.is_variable() { 1 + below(config.tokens) } else { config.tokens };
    let data = match config.input {
        InputKind::Text { vocabulary } => (0..rows).map(|_| below(vocabulary) as f64).collect(),
        _ => (0..rows * columns).map(|_| normals.next()).collect(),
    };
    Matrix::from_vec(rows, columns, data)
}

/// Weights are stored as f32; rounding here keeps a saved and reloaded model identical.
fn round(x: f64) -> f64 {
    f64::from(x as f32)
}

/// Standard normal numbers from a seeded ChaCha20 stream (Box–Muller).
struct Normals {
    rng: ChaCha20Rng,
    spare: Option<f64>,
}

impl Normals {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng, spare: None }
    }

    /// Uniform in (0, 1], 53 bits.
    fn uniform(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        if let Some(x) = self.spare.take() {
            return x;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}
