//! The client's share of a forward pass: patches to tokens, and the first norm.

use std::collections::BTreeSet;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::op;
use crate::shape::Shape;
use crate::weights::{
    EmbeddingWeights, Model, NormWeights, TensorFile, matrix, norm, push_matrix, push_norm,
    write_tensors,
};

/// The only weights that a client sees: embedding, positions, and the first norm of layer 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientWeights {
    /// Patches to tokens.
    pub embedding: EmbeddingWeights,
    /// `layers.0.norm1`.
    pub norm1: NormWeights,
}

impl ClientWeights {
    /// Copies the client's tensors out of a model.
    ///
    /// # Errors
    /// `IndexOutOfBounds` when the model has no layer.
    pub fn from_model(model: &Model) -> Result<Self> {
        let missing = Error::IndexOutOfBounds { what: "layers", index: 0, count: 0 };
        let layer = model.weights.layers.first().ok_or(missing)?;
        Ok(Self { embedding: model.weights.embedding.clone(), norm1: layer.norm1.clone() })
    }

    /// Safetensors bytes with the names of the model file, rounded to f32.
    ///
    /// # Errors
    /// `Malformed` when the library refuses a tensor, which weights read by this crate never cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        push_matrix(&mut list, "embed.weight", &self.embedding.weight);
        push_matrix(&mut list, "embed.position", &self.embedding.position);
        push_norm(&mut list, "layers.0.norm1", &self.norm1);
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
        let d = config.width;
        let embedding = EmbeddingWeights {
            weight: matrix(&mut source, "embed.weight", config.input_size(), d)?,
            position: matrix(&mut source, "embed.position", config.tokens, d)?,
        };
        let norm1 = norm(&mut source, "layers.0.norm1", d)?;
        file.nothing_else(&expected)?;
        Ok(Self { embedding, norm1 })
    }
}

/// What the client encrypts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// `[T, d]`: the residual stream, every row centred.
    pub x: Matrix,
    /// `[T, d]`: `norm1(x)` of layer 0, gain and bias included.
    pub u: Matrix,
}

/// `x = center(input · We + position)` and `u = x / sqrt(mean x² + norm_eps) · gain + bias`, exactly as the clear
/// executor computes them. `input` is `[T, input_size]`: patches, or the vectors themselves.
///
/// # Errors
/// `ShapeMismatch` or `NotFinite` for a bad input or weights that do not fit the config.
pub fn client_embedding(
    config: &ModelConfig,
    weights: &ClientWeights,
    input: &Matrix,
) -> Result<Embedded> {
    let expected = Shape::new(config.tokens, config.input_size());
    if input.shape() != expected {
        return Err(Error::ShapeMismatch { op: "input", expected, got: input.shape() });
    }
    if let Some(index) = input.first_not_finite() {
        return Err(Error::NotFinite { what: "the input".to_owned(), index });
    }
    let tokens = op::embed(input, &weights.embedding)?;
    let x = op::center(&tokens);
    let variances = op::mean_squares(&x);
    let exact = |variance: f64| 1.0 / (variance + config.norm_eps).sqrt();
    let u = op::normalize(&x, &weights.norm1, &variances, exact)?;
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
