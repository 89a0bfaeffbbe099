//! The weights of a model: `model.safetensors`, read into memory and checked against the config.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::{InputKind, LayerConfig, ModelConfig};
use crate::error::{Error, Result, read_bounded};
use crate::matrix::Matrix;

/// Largest total of tensor bytes that is read, whatever the config asks for.
pub const WEIGHTS_LIMIT: u64 = 2 << 30;

/// What a safetensors header may add to the tensors that the config asks for.
const HEADER_LIMIT: u64 = 1 << 20;

const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";
const WHAT: &str = "model.safetensors";
const TOKENIZER_FILE: &str = "tokenizer.json";

/// Largest tokenizer that is read, in bytes.
pub(crate) const TOKENIZER_LIMIT: u64 = 8 << 20;

/// `x · weight + bias`; the weight is `[in, out]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearWeights {
    /// `[in, out]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Vec<f64>,
}

/// Gain and bias after a normalisation, `[d]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct NormWeights {
    /// Factor per feature.
    pub gain: Vec<f64>,
    /// Offset per feature.
    pub bias: Vec<f64>,
}

/// The client-side embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingWeights {
    /// `[input_size, d]`, or one row a word piece.
    pub weight: Matrix,
    /// `[T, d]`.
    pub position: Matrix,
    /// Of a model whose embedding is normalised.
    pub norm: Option<NormWeights>,
}

impl EmbeddingWeights {
    /// As [`Weights::build`], for these tensors alone.
    pub(crate) fn build(config: &ModelConfig, source: &mut Source<'_>) -> Result<Self> {
        let d = config.width;
        let weight = matrix(source, "embed.weight", config.embedding_rows(), d)?;
        let position = matrix(source, "embed.position", config.tokens, d)?;
        let normed = config.structure.embedding_norm;
        let norm = normed.then(|| norm(source, "embed.norm", d)).transpose()?;
        Ok(Self { weight, position, norm })
    }

    pub(crate) fn push<'a>(&'a self, list: &mut Vec<NamedTensor<'a>>) {
        push_matrix(list, "embed.weight", &self.weight);
        push_matrix(list, "embed.position", &self.position);
        if let Some(norm) = &self.norm {
            push_norm(list, "embed.norm", norm);
        }
    }
}

/// One encoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights {
    /// Before attention.
    pub norm1: NormWeights,
    /// `[d, d]`; head h owns columns `h d/H .. (h+1) d/H`.
    pub query: LinearWeights,
    /// As `query`.
    pub key: LinearWeights,
    /// As `query`.
    pub value: LinearWeights,
    /// `[H]`: c of each head of a shifted layer, empty of others.
    pub shift: Vec<f64>,
    /// `[d, d]`, from concatenated heads.
    pub output: LinearWeights,
    /// Before the feed-forward block.
    pub norm2: NormWeights,
    /// `[d, F]`.
    pub ffn_in: LinearWeights,
    /// `[degree + 1, F]`: row k holds the coefficients of `h^k`; no rows where nothing is learned.
    pub activation: Matrix,
    /// `[F, d]`.
    pub ffn_out: LinearWeights,
}

/// Every tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Patches to tokens.
    pub embedding: EmbeddingWeights,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// `[d, C]`.
    pub head: LinearWeights,
}

/// One named tensor: name, shape, row-major elements.
#[derive(Clone, Debug)]
pub struct NamedTensor<'a> {
    /// Its safetensors name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: &'a [f64],
}

impl Weights {
    /// Builds the weights of a model with this config from `source(name, shape)`, which is called once per tensor in
    /// the order of [`tensors`](Self::tensors) and returns the elements row-major.
    ///
    /// # Errors
    /// What `source` returns, and `ShapeMismatch` when it returns the wrong number of elements.
    pub fn build(
        config: &ModelConfig,
        mut source: impl FnMut(&str, &[usize]) -> Result<Vec<f64>>,
    ) -> Result<Self> {
        let s = &mut source;
        let (d, f) = (config.width, config.ffn);
        let embedding = EmbeddingWeights::build(config, s)?;
        let mut layers = Vec::with_capacity(config.layers.len());
        for (i, layer) in config.layers.iter().enumerate() {
            let at = format!("layers.{i}");
            layers.push(LayerWeights {
                norm1: norm(s, &format!("{at}.norm1"), d)?,
                query: linear(s, &format!("{at}.attention.query"), d, d)?,
                key: linear(s, &format!("{at}.attention.key"), d, d)?,
                value: linear(s, &format!("{at}.attention.value"), d, d)?,
                shift: if layer.shifted {
                    vector(s, &format!("{at}.attention.shift"), layer.heads.len())?
                } else {
                    Vec::new()
                },
                output: linear(s, &format!("{at}.attention.output"), d, d)?,
                norm2: norm(s, &format!("{at}.norm2"), d)?,
                ffn_in: linear(s, &format!("{at}.ffn.in"), d, f)?,
                activation: {
                    let name = format!("{at}.ffn.activation");
                    match layer.activation.coefficients() {
                        0 => Matrix::zeros(0, f),
                        rows => matrix(s, &name, rows, f)?,
                    }
                },
                ffn_out: linear(s, &format!("{at}.ffn.out"), f, d)?,
            });
        }
        let head = linear(s, "head", d, config.classes.len())?;
        Ok(Self { embedding, layers, head })
    }

    /// All tensors in their canonical order.
    #[must_use]
    pub fn tensors(&self) -> Vec<NamedTensor<'_>> {
        let mut list = Vec::new();
        self.embedding.push(&mut list);
        for (i, layer) in self.layers.iter().enumerate() {
            let at = format!("layers.{i}");
            push_norm(&mut list, &format!("{at}.norm1"), &layer.norm1);
            push_linear(&mut list, &format!("{at}.attention.query"), &layer.query);
            push_linear(&mut list, &format!("{at}.attention.key"), &layer.key);
            push_linear(&mut list, &format!("{at}.attention.value"), &layer.value);
            if !layer.shift.is_empty() {
                push_vector(&mut list, format!("{at}.attention.shift"), &layer.shift);
            }
            push_linear(&mut list, &format!("{at}.attention.output"), &layer.output);
            push_norm(&mut list, &format!("{at}.norm2"), &layer.norm2);
            push_linear(&mut list, &format!("{at}.ffn.in"), &layer.ffn_in);
            if layer.activation.rows() > 0 {
                push_matrix(&mut list, &format!("{at}.ffn.activation"), &layer.activation);
            }
            push_linear(&mut list, &format!("{at}.ffn.out"), &layer.ffn_out);
        }
        push_linear(&mut list, "head", &self.head);
        list
    }

    /// Reads safetensors bytes: exactly the tensors that the config asks for, f32 or f16, finite.
    ///
    /// # Errors
    /// `TooLarge`, `Malformed`, `MissingTensor`, `UnexpectedTensor`, `TensorMismatch`, `NotFinite`.
    pub fn from_safetensors(config: &ModelConfig, bytes: &[u8]) -> Result<Self> {
        within_limit(config, bytes.len() as u64)?;
        let source = TensorFile::parse(bytes)?;
        let mut expected = BTreeSet::new();
        let weights = Self::build(config, |name, shape| {
            expected.insert(name.to_owned());
            source.read(name, shape)
        })?;
        source.nothing_else(&expected)?;
        Ok(weights)
    }

    /// The weights as safetensors bytes, rounded to f32.
    ///
    /// # Errors
    /// `Malformed` when the library refuses a tensor, which the weights of a validated config never cause.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        write_tensors(&self.tensors())
    }
}

/// A config with the weights it describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Architecture and ranges.
    pub config: ModelConfig,
    /// Tensors.
    pub weights: Weights,
    /// Of a model that reads text: how it is cut into word pieces, as the JSON of the `tokenizers` library. Models that come
    /// from no training have none.
    pub tokenizer: Option<String>,
}

impl Model {
    /// Reads `config.json`, `model.safetensors` and, for text, `tokenizer.json` from a directory. The size of the weights file is compared with
    /// what the config asks for (plus 1 MiB of header, 2 GiB in all) before it is read.
    ///
    /// # Errors
    /// `Io`, and as [`ModelConfig::from_json`] and [`Weights::from_safetensors`].
    pub fn load(dir: &Path) -> Result<Self> {
        let config = ModelConfig::load(&dir.join(CONFIG_FILE))?;
        let limit = within_limit(&config, 0)?;
        let bytes = read_bounded(&dir.join(WEIGHTS_FILE), WHAT, limit)?;
        let weights = Weights::from_safetensors(&config, &bytes)?;
        let path = dir.join(TOKENIZER_FILE);
        let reads_text = matches!(config.input, InputKind::Text { .. });
        let tokenizer = if reads_text && path.is_file() {
            Some(tokenizer(read_bounded(&path, TOKENIZER_FILE, TOKENIZER_LIMIT)?)?)
        } else {
            None
        };
        Ok(Self { config, weights, tokenizer })
    }

    /// Writes what [`Model::load`] reads into a directory, which is created if needed.
    ///
    /// # Errors
    /// `Io`; `InvalidConfig` when the config does not validate.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.config.validate()?;
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(&path, e))
        };
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        write(WEIGHTS_FILE, &self.weights.to_safetensors()?)?;
        if let Some(tokenizer) = &self.tokenizer {
            write(TOKENIZER_FILE, tokenizer.as_bytes())?;
        }
        write(CONFIG_FILE, self.config.to_json()?.as_bytes())
    }

    /// BLAKE3 over the canonical config, every tensor's name, shape and f64 bits, and the tokenizer: two models with the same
    /// fingerprint compute the same function, and a plan made for one fits the other.
    ///
    /// # Errors
    /// `Malformed` when the config cannot be serialised, which a validated config never causes.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut hash = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.config.to_json()?.as_bytes());
        for tensor in self.weights.tensors() {
            part(tensor.name.as_bytes());
            for n in &tensor.shape {
                part(&(*n as u64).to_le_bytes());
            }
            let bytes: Vec<u8> = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
            part(&bytes);
        }
        if let Some(tokenizer) = &self.tokenizer {
            part(tokenizer.as_bytes());
        }
        Ok(*hash.finalize().as_bytes())
    }
}

/// A tokenizer's bytes as text; what it says is for whoever uses it to check.
pub(crate) fn tokenizer(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::malformed(TOKENIZER_FILE, e.to_string()))
}

/// The largest weights file that a config justifies; refuses `bytes` beyond it.
pub(crate) fn within_limit(config: &ModelConfig, bytes: u64) -> Result<u64> {
    let (d, f) = (config.width as u64, config.ffn as u64);
    let outer = (config.embedding_rows() + config.tokens + 2) as u64 * d;
    let classes = config.classes.len() as u64;
    let per_layer = |l: &LayerConfig| {
        let learned = l.activation.coefficients() as u64;
        4 * d * d + 2 * d * f + 9 * d + (learned + 1) * f + l.heads.len() as u64
    };
    let layers: u64 = config.layers.iter().map(per_layer).sum();
    let payload = 4 * (outer + layers + (d + 1) * classes);
    if payload > WEIGHTS_LIMIT {
        return Err(Error::TooLarge { what: WHAT, bytes: payload, limit: WEIGHTS_LIMIT });
    }
    let limit = payload + HEADER_LIMIT;
    if bytes > limit {
        return Err(Error::TooLarge { what: WHAT, bytes, limit });
    }
    Ok(limit)
}

/// A parsed safetensors file.
pub(crate) struct TensorFile<'a>(SafeTensors<'a>);

impl<'a> TensorFile<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        // The header's own length decides how much JSON is parsed; bound it before the library looks at it.
        let header = bytes.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
        match header {
            Some(n) if n <= HEADER_LIMIT => {}
            Some(n) => {
                let what = "safetensors header";
                return Err(Error::TooLarge { what, bytes: n, limit: HEADER_LIMIT });
            }
            None => return Err(Error::malformed(WHAT, "shorter than its length field")),
        }
        SafeTensors::deserialize(bytes).map(Self).map_err(|e| Error::malformed(WHAT, e.to_string()))
    }

    /// The elements of tensor `name`, checked for type, shape and finiteness.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let missing = |_| Error::MissingTensor { name: name.to_owned() };
        let view = self.0.tensor(name).map_err(missing)?;
        let readable = matches!(view.dtype(), Dtype::F32 | Dtype::F16);
        if !readable || view.shape() != shape {
            return Err(Error::TensorMismatch {
                name: name.to_owned(),
                expected: format!("F32 or F16 {shape:?}"),
                got: format!("{:?} {:?}", view.dtype(), view.shape()),
            });
        }
        let values: Vec<f64> = if view.dtype() == Dtype::F16 {
            let (words, _) = view.data().as_chunks::<2>();
            words.iter().map(|w| from_half(u16::from_le_bytes(*w))).collect()
        } else {
            let (words, _) = view.data().as_chunks::<4>();
            words.iter().map(|w| f64::from(f32::from_le_bytes(*w))).collect()
        };
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(Error::NotFinite { what: format!("tensor `{name}`"), index }),
            None => Ok(values),
        }
    }

    /// Refuses tensors beyond the expected ones: a file for another architecture must not load by accident.
    pub(crate) fn nothing_else(&self, expected: &BTreeSet<String>) -> Result<()> {
        match self.0.names().into_iter().filter(|n| !expected.contains(*n)).min() {
            Some(name) => Err(Error::UnexpectedTensor { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// The value of an IEEE 754 binary16, exact; NaN for what is not finite.
fn from_half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0x1f => f64::NAN,
        0 => fraction * 2_f64.powi(-24),
        e => (1024.0 + fraction) * 2_f64.powi(e - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// Safetensors bytes of `tensors`, rounded to f32.
pub(crate) fn write_tensors(tensors: &[NamedTensor<'_>]) -> Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| t.data.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect())
        .collect();
    let refused = |e: safetensors::SafeTensorError| Error::malformed(WHAT, e.to_string());
    let mut views = BTreeMap::new();
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(refused)?;
        views.insert(tensor.name.clone(), view);
    }
    safetensors::serialize(views, None).map_err(refused)
}

pub(crate) type Source<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f64>> + 'a;

pub(crate) fn matrix(source: &mut Source<'_>, name: &str, r: usize, c: usize) -> Result<Matrix> {
    Matrix::from_vec(r, c, source(name, &[r, c])?)
}

fn vector(source: &mut Source<'_>, name: &str, n: usize) -> Result<Vec<f64>> {
    // Through a matrix, so that the length is checked in one place.
    Ok(Matrix::from_vec(1, n, source(name, &[n])?)?.into_data())
}

pub(crate) fn norm(source: &mut Source<'_>, at: &str, d: usize) -> Result<NormWeights> {
    let gain = vector(source, &format!("{at}.gain"), d)?;
    Ok(NormWeights { gain, bias: vector(source, &format!("{at}.bias"), d)? })
}

fn linear(source: &mut Source<'_>, at: &str, r: usize, c: usize) -> Result<LinearWeights> {
    let weight = matrix(source, &format!("{at}.weight"), r, c)?;
    Ok(LinearWeights { weight, bias: vector(source, &format!("{at}.bias"), c)? })
}

pub(crate) fn push_matrix<'a>(list: &mut Vec<NamedTensor<'a>>, name: &str, m: &'a Matrix) {
    list.push(NamedTensor {
        name: name.to_owned(),
        shape: vec![m.rows(), m.columns()],
        data: m.data(),
    });
}

fn push_vector<'a>(list: &mut Vec<NamedTensor<'a>>, name: String, data: &'a [f64]) {
    list.push(NamedTensor { name, shape: vec![data.len()], data });
}

pub(crate) fn push_norm<'a>(list: &mut Vec<NamedTensor<'a>>, at: &str, norm: &'a NormWeights) {
    push_vector(list, format!("{at}.gain"), &norm.gain);
    push_vector(list, format!("{at}.bias"), &norm.bias);
}

fn push_linear<'a>(list: &mut Vec<NamedTensor<'a>>, at: &str, linear: &'a LinearWeights) {
    push_matrix(list, &format!("{at}.weight"), &linear.weight);
    push_vector(list, format!("{at}.bias"), &linear.bias);
}
