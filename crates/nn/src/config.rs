//! The model's architecture and calibrated ranges: `config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, read_bounded};
use crate::matrix::Matrix;
use crate::shape::Shape;

/// The format tag every `config.json` carries.
pub const FORMAT: &str = "cipherform.model/1";

/// Largest `config.json` that is read, in bytes.
pub const CONFIG_LIMIT: u64 = 1 << 20;

/// Upper bounds on sizes. Beyond any encoder that one ciphertext row can hold, and small enough that no product of two
/// of them overflows or asks for absurd memory.
mod limit {
    pub(super) const TOKENS: usize = 4096;
    pub(super) const WIDTH: usize = 8192;
    pub(super) const FFN: usize = 32_768;
    pub(super) const HEADS: usize = 256;
    pub(super) const LAYERS: usize = 128;
    pub(super) const CLASSES: usize = 4096;
    pub(super) const VOCABULARY: usize = 1 << 20;
    pub(super) const IMAGE_SIDE: usize = 4096;
    pub(super) const PATCH_SIDE: usize = 90; // patch^2 stays below WIDTH
}

/// Architecture, input, calibrated ranges and approximation policy of one model.
///
/// The forward pass, with `center` subtracting each token's mean over its features:
/// ```text
/// x = center(patches · We + position)
/// per layer: u = x / sqrt(mean_f x² + norm_eps) · gain + bias,  q, k, v = u W + b,  s_ij = q_i · k_j / sqrt(d/H)
///            power head:  w_ij = s_ij^p / (T (eps + mean_j s_ij^p));   undivided: w_ij = s_ij^p / T;   scaled: w_ij = s_ij / T
///            relu head:   w_ij = max(s_ij, 0) / (T (eps + mean_j max(s_ij, 0)));   softmax: w_ij = exp(s_ij) / sum_j exp(s_ij)
///            shifted layer: s_ij / p + c_h in place of s_ij under the power
///            y = x + center(concat_h(w v) Wo + bo)
///            a = act(norm2(y) W1 + b1),  act(h) = a0 + a1 h + a2 h² + ... per channel, h Phi(h) (GELU), or h
///            x = y + center(a W2 + b2)
/// logits = mean_t(x) Wc + bc
/// ```
/// [`Structure`] says what else there is. A sentence of n tokens has n rows: T above is n, padding exists in packings only,
/// and of causal attention T is the number of keys that a query sees. The gain of an undivided head is part of its values.
///
/// Power-Softmax: Zimerman et al. 2024 (arXiv 2410.09457); scaled and ReLU-softmax heads: MPCViT (arXiv 2211.13955). Softmax,
/// ReLU-softmax, GELU and no activation run in the clear and between two parties, not encrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Always [`FORMAT`].
    pub format: String,
    /// Short name: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Whether the weights were drawn at random instead of trained.
    pub random_weights: bool,
    /// What the client feeds in.
    pub input: InputKind,
    /// The data set that the model was trained on; absent for random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Names of the classes, one per logit.
    pub classes: Vec<String>,
    /// Tokens T.
    pub tokens: usize,
    /// Features d of a token.
    pub width: usize,
    /// Features of the hidden layer of the feed-forward block.
    pub ffn: usize,
    /// Added to the mean square under the square root of every norm.
    pub norm_eps: f64,
    /// How layers are joined; absent for the pre-norm encoder with mean pooling.
    #[serde(default, skip_serializing_if = "Structure::is_default")]
    pub structure: Structure,
    /// The encoder layers, first to last.
    pub layers: Vec<LayerConfig>,
    /// Largest |logit| seen in calibration.
    pub logit_abs_max: f64,
    /// Largest difference of two logits of one input seen in calibration; absent where it was not looked at. A plan that answers
    /// with a label needs it ([`crate::label::logit_range`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_difference_max: Option<f64>,
    /// How polynomials are fitted to the calibrated ranges.
    pub approximation: ApproximationConfig,
}

/// What the client feeds into the embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum InputKind {
    /// An image cut into square patches, row-major in the image and inside each patch, channels innermost. Pixels become
    /// `(value / 255 - mean) / std`; padding has the normalised value of black.
    Image {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// Side of a patch in pixels.
        patch: usize,
        /// Distance between neighbouring patches in pixels.
        stride: usize,
        /// Black border added on every side, in pixels.
        padding: usize,
        /// Subtracted from a pixel in [0, 1].
        mean: Levels,
        /// Divides a pixel after that.
        std: Levels,
    },
    /// One vector per token, taken as it is.
    Vectors {
        /// Length of each vector.
        size: usize,
        /// Whether an input may have fewer tokens than T; how many is public.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        variable: bool,
    },
    /// One word piece per token, at most T of them; how many is public. The client looks their vectors up: no token leaves
    /// it. The model folder holds the tokenizer, `tokenizer.json`.
    Text {
        /// Word pieces that have a vector.
        vocabulary: usize,
    },
}

/// One number a channel of an image: of a grey one a number, of a colour one three (red, green, blue).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Levels {
    /// Of a grey image.
    Grey(f64),
    /// Of a colour image.
    Colour([f64; 3]),
}

impl Levels {
    /// The numbers, one a channel.
    #[must_use]
    pub fn channels(&self) -> &[f64] {
        match self {
            Self::Grey(level) => std::slice::from_ref(level),
            Self::Colour(levels) => levels,
        }
    }
}

impl InputKind {
    /// Whether an input may have fewer tokens than T.
    #[must_use]
    pub fn is_variable(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Vectors { variable: true, .. })
    }
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormOrder {
    /// Before attention and before the feed-forward block; the stream itself is never normalised.
    #[default]
    Pre,
    /// On the stream, after attention and after the feed-forward block: `y = norm1(x + attention(x))`,
    /// `x = norm2(y + ffn(y))` (BERT).
    Post,
}

/// What the classifier reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over the input's tokens.
    #[default]
    Mean,
    /// The first token: a class token.
    First,
    /// Every token: logits are one row a token (language models).
    Tokens,
}

/// How the parts of a model are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Structure {
    /// Whether the client normalises the embedding before anything else.
    pub embedding_norm: bool,
    /// Where the norms stand.
    pub norm: NormOrder,
    /// Whether the feed-forward block reads what attention reads: `x + attention(norm1(x)) + ffn(norm2(x))` (Pythia).
    pub parallel: bool,
    /// Whether a token sees itself and earlier tokens only.
    pub causal: bool,
    /// What the classifier reads.
    pub pooling: Pooling,
}

impl Structure {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How one head turns scores into weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// Power-Softmax: `s^p / (T (eps + mean_j s^p))`.
    Power,
    /// `s / T`.
    Scaled,
    /// `s^p / T`: a power without division, for layers whose output a norm bounds.
    Undivided,
    /// ReLU-softmax: `max(s, 0) / (T (eps + mean_j max(s, 0)))`.
    Relu,
    /// `exp(s) / sum_j exp(s)`.
    Softmax,
}

impl HeadKind {
    /// Whether it raises its scores to the power.
    #[must_use]
    pub const fn raises(self) -> bool {
        matches!(self, Self::Power | Self::Undivided)
    }
}

/// What stands between the two products of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `a0 + a1 h + a2 h²` per channel.
    Quadratic,
    /// Up to `h³`.
    Cubic,
    /// Up to `h⁴`.
    Quartic,
    /// `h Phi(h)`, Phi the normal distribution function.
    Gelu,
    /// `h`: the two products are one.
    None,
}

impl Activation {
    /// Degree of the learned polynomial; absent where nothing is learned.
    #[must_use]
    pub const fn degree(self) -> Option<usize> {
        match self {
            Self::Quadratic => Some(2),
            Self::Cubic => Some(3),
            Self::Quartic => Some(4),
            Self::Gelu | Self::None => None,
        }
    }

    /// Learned coefficients of a channel.
    #[must_use]
    pub fn coefficients(self) -> usize {
        self.degree().map_or(0, |degree| degree + 1)
    }
}

/// A closed interval, written `[min, max]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Range {
    /// Lower end.
    pub min: f64,
    /// Upper end.
    pub max: f64,
}

impl From<[f64; 2]> for Range {
    fn from([min, max]: [f64; 2]) -> Self {
        Self { min, max }
    }
}

impl From<Range> for [f64; 2] {
    fn from(range: Range) -> Self {
        [range.min, range.max]
    }
}

/// One encoder layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// The kind of each head; their number divides the width.
    pub heads: Vec<HeadKind>,
    /// The even power p of the heads that raise.
    pub power: u32,
    /// Added to the mean of the powers in the denominator.
    pub eps: f64,
    /// Whether heads that raise their scores raise `s / p + c` instead, with a learned c a head.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shifted: bool,
    /// Of the feed-forward block.
    pub activation: Activation,
    /// Ranges on training data.
    pub ranges: Ranges,
}

/// Ranges of one layer on training data, not widened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Largest |s_ij| per head.
    pub score_abs_max: Vec<f64>,
    /// `eps + mean_j s_ij^p` per head, after the shift (`eps + mean_j max(s_ij, 0)` of ReLU-softmax, `mean_j exp(s_ij - max_j s_ij)` of
    /// softmax); of heads that do not divide as well: their slots go through the same
    /// circuit, and the scale of undivided powers follows from it.
    pub denominator: Vec<Range>,
    /// Mean square that norm 1 sees, without eps.
    pub norm1_variance: Range,
    /// Mean square that norm 2 sees, without eps.
    pub norm2_variance: Range,
    /// Largest |h| that enters the activation.
    pub activation_abs_max: f64,
    /// Largest absolute entry of the value projection.
    pub value_abs_max: f64,
    /// Largest absolute entry of the residual stream anywhere in the layer.
    pub residual_abs_max: f64,
}

/// How polynomials are fitted to calibrated ranges.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproximationConfig {
    /// Largest relative error of `1/x` and `x^-1/2` on the widened range.
    pub tolerance: f64,
    /// Factor on the upper end: above it the polynomials diverge.
    pub widen_top: f64,
    /// Divisor of the lower end: below it they only lose accuracy.
    pub widen_bottom: f64,
}

impl ModelConfig {
    /// Reads and validates `config.json` bytes.
    ///
    /// # Errors
    /// `TooLarge` beyond [`CONFIG_LIMIT`]; `Malformed` for bad JSON or unknown fields; `InvalidConfig` as
    /// [`validate`](Self::validate).
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > CONFIG_LIMIT {
            let bytes = bytes.len() as u64;
            return Err(Error::TooLarge { what: "config.json", bytes, limit: CONFIG_LIMIT });
        }
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::malformed("config.json", e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Reads and validates a `config.json` file of at most [`CONFIG_LIMIT`] bytes.
    ///
    /// # Errors
    /// `Io`, and as [`from_json`](Self::from_json).
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_json(&read_bounded(path, "config.json", CONFIG_LIMIT)?)
    }

    /// The config as indented JSON, fields in declaration order.
    ///
    /// # Errors
    /// `Malformed` when a number is not finite, which a validated config never holds.
    pub fn to_json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::malformed("config.json", e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// Numbers that one token feeds into the embedding: `patch²` a channel, the vector's size, or the one number of a word piece.
    #[must_use]
    pub fn input_size(&self) -> usize {
        match self.input {
            InputKind::Image { patch, mean, .. } => patch * patch * mean.channels().len(),
            InputKind::Vectors { size, .. } => size,
            InputKind::Text { .. } => 1,
        }
    }

    /// Rows of the embedding's matrix: one a number of the input, or one a word piece.
    #[must_use]
    pub fn embedding_rows(&self) -> usize {
        match self.input {
            InputKind::Text { vocabulary } => vocabulary,
            _ => self.input_size(),
        }
    }

    /// Checks an input: `[T, input_size]`, or from 1 to T rows where lengths vary.
    ///
    /// # Errors
    /// `InputLength` for a wrong number of tokens, `ShapeMismatch` for another width, `NotFinite`.
    pub fn check_input(&self, input: &Matrix) -> Result<()> {
        let variable = self.input.is_variable();
        if variable && !(1..=self.tokens).contains(&input.rows()) {
            return Err(Error::InputLength { tokens: input.rows(), limit: self.tokens });
        }
        let rows = if variable { input.rows() } else { self.tokens };
        let expected = Shape::new(rows, self.input_size());
        if input.shape() != expected {
            return Err(Error::ShapeMismatch { op: "input", expected, got: input.shape() });
        }
        match input.first_not_finite() {
            Some(index) => Err(Error::NotFinite { what: "the input".to_owned(), index }),
            None => Ok(()),
        }
    }

    /// Checks every field and every relation between fields.
    ///
    /// # Errors
    /// `InvalidConfig` for the first field that fails.
    pub fn validate(&self) -> Result<()> {
        check(self.format == FORMAT, "format", FORMAT, &self.format)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let named = !self.name.is_empty()
            && self.name.len() <= 64
            && !self.name.starts_with('.')
            && self.name.chars().all(legal);
        let rule = "1 to 64 letters, digits, `.`, `_` or `-`, not starting with `.`";
        check(named, "name", rule, &format!("{:.80?}", self.name))?;
        size("tokens", self.tokens, limit::TOKENS)?;
        size("width", self.width, limit::WIDTH)?;
        size("ffn", self.ffn, limit::FFN)?;
        size("layers", self.layers.len(), limit::LAYERS)?;
        size("classes", self.classes.len(), limit::CLASSES)?;
        for (i, class) in self.classes.iter().enumerate() {
            printable(&format!("classes[{i}]"), class)?;
        }
        if let Some(dataset) = &self.dataset {
            printable("dataset", dataset)?;
        }
        positive("norm_eps", self.norm_eps)?;
        positive("logit_abs_max", self.logit_abs_max)?;
        if let Some(difference) = self.logit_difference_max {
            positive("logit_difference_max", difference)?;
        }
        self.validate_input()?;
        let Structure { embedding_norm, norm, parallel, .. } = self.structure;
        if norm == NormOrder::Post {
            let rule = "true where norms stand after: the client makes the first one";
            check(embedding_norm, "structure.embedding_norm", rule, &embedding_norm)?;
            check(!parallel, "structure.parallel", "false where norms stand after", &parallel)?;
        }
        let ApproximationConfig { tolerance, widen_top, widen_bottom } = self.approximation;
        between("approximation.tolerance", tolerance, 1e-9, 0.5)?;
        between("approximation.widen_top", widen_top, 1.0, 16.0)?;
        between("approximation.widen_bottom", widen_bottom, 1.0, 16.0)?;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.validate(&format!("layers[{i}]"), self.width)?;
        }
        Ok(())
    }

    fn validate_input(&self) -> Result<()> {
        match self.input {
            InputKind::Vectors { size: n, .. } => size("input.size", n, limit::WIDTH),
            InputKind::Text { vocabulary } => {
                size("input.vocabulary", vocabulary, limit::VOCABULARY)
            }
            InputKind::Image { height, width, patch, stride, padding, mean, std } => {
                size("input.height", height, limit::IMAGE_SIDE)?;
                size("input.width", width, limit::IMAGE_SIDE)?;
                size("input.patch", patch, limit::PATCH_SIDE)?;
                size("input.stride", stride, limit::IMAGE_SIDE)?;
                check(padding < patch, "input.padding", "less than the patch", &padding)?;
                let (mean, std) = (mean.channels(), std.channels());
                let rule = format!("as many numbers as input.mean, {}", mean.len());
                check(mean.len() == std.len(), "input.std", &rule, &std.len())?;
                for (mean, std) in mean.iter().zip(std) {
                    check(mean.is_finite(), "input.mean", "finite numbers", mean)?;
                    positive("input.std", *std)?;
                }
                let along =
                    |side: usize| (side + 2 * padding).checked_sub(patch).map(|r| r / stride + 1);
                let (Some(down), Some(across)) = (along(height), along(width)) else {
                    let rule =
                        format!("at most the padded image, {height} x {width} + 2 x {padding}");
                    return check(false, "input.patch", &rule, &patch);
                };
                let rule = format!("{down} x {across} = {} patches of the image", down * across);
                check(self.tokens == down * across, "tokens", &rule, &self.tokens)
            }
        }
    }
}

impl LayerConfig {
    fn validate(&self, at: &str, width: usize) -> Result<()> {
        let heads = self.heads.len();
        size(&format!("{at}.heads"), heads, limit::HEADS)?;
        let rule = format!("a number of heads that divides the width {width}");
        check(width.is_multiple_of(heads), &format!("{at}.heads"), &rule, &heads)?;
        let even = matches!(self.power, 2 | 4 | 6 | 8);
        check(even, &format!("{at}.power"), "2, 4, 6 or 8", &self.power)?;
        positive(&format!("{at}.eps"), self.eps)?;
        let r = &self.ranges;
        let at = format!("{at}.ranges");
        let rule = format!("{heads} entries, one per head");
        let scores = r.score_abs_max.len();
        check(scores == heads, &format!("{at}.score_abs_max"), &rule, &scores)?;
        let denominators = r.denominator.len();
        check(denominators == heads, &format!("{at}.denominator"), &rule, &denominators)?;
        for (h, max) in r.score_abs_max.iter().enumerate() {
            positive(&format!("{at}.score_abs_max[{h}]"), *max)?;
        }
        for (h, range) in r.denominator.iter().enumerate() {
            range.validate(&format!("{at}.denominator[{h}]"))?;
        }
        r.norm1_variance.validate(&format!("{at}.norm1_variance"))?;
        r.norm2_variance.validate(&format!("{at}.norm2_variance"))?;
        positive(&format!("{at}.activation_abs_max"), r.activation_abs_max)?;
        positive(&format!("{at}.value_abs_max"), r.value_abs_max)?;
        positive(&format!("{at}.residual_abs_max"), r.residual_abs_max)
    }
}

impl Range {
    fn validate(self, field: &str) -> Result<()> {
        positive(&format!("{field}[0]"), self.min)?;
        positive(&format!("{field}[1]"), self.max)?;
        let rule = format!("at least the lower end {}", self.min);
        check(self.min <= self.max, &format!("{field}[1]"), &rule, &self.max)
    }
}

fn check(holds: bool, field: &str, expected: &str, got: &impl std::fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    let got = format!("{got:.200}");
    Err(Error::InvalidConfig { field: field.to_owned(), expected: expected.to_owned(), got })
}

/// Names end up on a terminal, and the config may come from a server: no control characters, no novels.
fn printable(field: &str, text: &str) -> Result<()> {
    let fine = !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
    check(fine, field, "1 to 128 bytes without control characters", &format!("{text:.80?}"))
}

fn size(field: &str, value: usize, max: usize) -> Result<()> {
    check((1..=max).contains(&value), field, &format!("1 to {max}"), &value)
}

fn between(field: &str, value: f64, min: f64, max: f64) -> Result<()> {
    check((min..=max).contains(&value), field, &format!("{min} to {max}"), &value)
}

/// Positive and of a size that squares and ratios of two such numbers still hold in an f64.
fn positive(field: &str, value: f64) -> Result<()> {
    between(field, value, 1e-30, 1e30)
}
