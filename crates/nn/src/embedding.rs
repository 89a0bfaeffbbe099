//! The client's share of a forward pass: patches or word pieces to tokens, and the first norm.

use std::collections::BTreeSet;

use crate::config::{InputKind, ModelConfig, NormOrder};
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::op;
use crate::weights::{
    EmbeddingWeights, Model, NormWeights, TensorFile, norm, push_norm, write_tensors,
};

/// The only weights that a client sees: embedding, positions, and the first norm.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientWeights {
    /// Patches or word pieces to tokens.
    pub embedding: EmbeddingWeights,
    /// `layers.0.norm1`; absent where norms stand after and the embedding's is the first.
    pub norm1: Option<NormWeights>,
}

impl ClientWeights {
    /// Copies the client's tensors out of a model.
    ///
    /// # Errors
    /// `IndexOutOfBounds` when the model has no layer.
    pub fn from_model(model: &Model) -> Result<Self> {
        let missing = Error::IndexOutOfBounds { what: "layers", index: 0, count: 0 };
        let layer = model.weights.layers.first().ok_or(missing)?;
        let first = model.config.structure.norm == NormOrder::Pre;
        let norm1 = first.then(|| layer.norm1.clone());
        Ok(Self { embedding: model.weights.embedding.clone(), norm1 })
    }

    /// Safetensors bytes with the names of the model file, rounded to f32.
    ///
    /// # Errors
    /// `Malformed` when the library refuses a tensor, which weights read by this crate never cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        self.embedding.push(&mut list);
        if let Some(norm1) = &self.norm1 {
            push_norm(&mut list, "layers.0.norm1", norm1);
        }
        write_tensors(&list)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, for a model of this config.
    ///
    /// # Errors
    /// `Malformed`, `MissingTensor`, `UnexpectedTensor`, `TensorMismatch`, `NotFinite`.
    pub fn from_bytes(config: &ModelConfig, bytes: &[u8]) -> Result<Self> {
        let file = TensorFile::parse(bytes)?;
        let mut expected = BTreeSet::new();
        let mut source = |name: &str, shape: &[usize]| {
            expected.insert(name.to_owned());
            file.read(name, shape)
        };
        let embedding = EmbeddingWeights::build(config, &mut source)?;
        let norm1 = match config.structure.norm {
            NormOrder::Pre => Some(norm(&mut source, "layers.0.norm1", config.width)?),
            NormOrder::Post => None,
        };
        file.nothing_else(&expected)?;
        Ok(Self { embedding, norm1 })
    }
}

/// What the client encrypts; n rows of an input of n tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// `[n, d]`: the residual stream, every row centred unless norms stand after.
    pub x: Matrix,
    /// `[n, d]`: what attention of layer 0 reads, gain and bias included.
    pub u: Matrix,
}

/// The residual stream `x` and what layer 0 reads of it, `u = x / sqrt(mean x² + norm_eps) · gain + bias`, exactly as the
/// clear executor computes them; where norms stand after, both are the normalised embedding. `input` is
/// `[n, input_size]`: patches, vectors, or ids of word pieces.
///
/// # Errors
/// As [`ModelConfig::check_input`]; `UnknownToken`; `ShapeMismatch` for weights that do not fit the config.
pub fn client_embedding(
    config: &ModelConfig,
    weights: &ClientWeights,
    input: &Matrix,
) -> Result<Embedded> {
    config.check_input(input)?;
    let tokens = match config.input {
        InputKind::Text { .. } => op::embed_tokens(input, &weights.embedding)?,
        _ => op::embed(input, &weights.embedding)?,
    };
    let mut x = op::center(&tokens);
    if config.structure.embedding_norm {
        x = op::normalize_embedding(&x, &weights.embedding, config.norm_eps)?;
    }
    let Some(norm1) = &weights.norm1 else {
        return Ok(Embedded { u: x.clone(), x });
    };
    if config.structure.embedding_norm {
        x = op::center(&x);
    }
    let variances = op::mean_squares(&x);
    let exact = |variance: f64| 1.0 / (variance + config.norm_eps).sqrt();
    let u = op::normalize(&x, norm1, &variances, exact)?;
    Ok(Embedded { x, u })
}

impl Embedded {
    /// What a client can check before it encrypts: no entry of the stream may exceed layer 0's calibrated maximum,
    /// widened at the top like every range. Later layers' ranges depend on the server's weights.
    ///
    /// # Errors
    /// `OutOfRange`; `IndexOutOfBounds` when the config has no layer.
    pub fn check_ranges(&self, config: &ModelConfig) -> Result<()> {
        let missing = Error::IndexOutOfBounds { what: "layers", index: 0, count: 0 };
        let ranges = &config.layers.first().ok_or(missing)?.ranges;
        let limit = ranges.residual_abs_max * config.approximation.widen_top;
        let value = self.x.abs_max();
        if value > limit {
            return Err(Error::OutOfRange { what: "the embedded input".to_owned(), value, limit });
        }
        Ok(())
    }
}
