//! The operators: meaning, shape rule and f64 reference of each in one place.

use std::fmt;

use crate::config::{Activation, HeadKind};
use crate::error::{Error, Result};
use crate::exec::{Observer, ScalarFunctions};
use crate::matrix::Matrix;
use crate::session::argmax;
use crate::shape::Shape;
use crate::weights::{EmbeddingWeights, LayerWeights, LinearWeights, NormWeights, Weights};

/// Which of a layer's two norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormIndex {
    /// Before attention, where the client computes it in layer 0; or after attention.
    First,
    /// Before or after the feed-forward block.
    Second,
}

/// Which of a layer's linear maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearRole {
    /// To the queries of all heads.
    Query,
    /// To the keys.
    Key,
    /// To the values.
    Value,
    /// From the concatenated heads back to the stream.
    Output,
    /// Into the feed-forward block.
    FfnIn,
    /// Out of it.
    FfnOut,
}

/// One operator of the graph. Parameters are named by layer and role, so that a graph holds architecture only.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The model's input. `() -> [T, input_size]`.
    Input {
        /// Shape of the input.
        shape: Shape,
    },
    /// `patches · We + position`. `[T, input_size] -> [T, d]`. Runs on the client.
    PatchEmbedding {
        /// T.
        tokens: usize,
        /// Numbers a token feeds in.
        input_size: usize,
        /// d.
        width: usize,
    },
    /// The vector of each word piece, plus its position. `[n, 1] -> [n, d]`, n up to T. Runs on the client.
    TokenEmbedding {
        /// T.
        tokens: usize,
        /// Word pieces that have a vector.
        vocabulary: usize,
        /// d.
        width: usize,
    },
    /// The norm of the embedding, exact: it runs on the client. As [`Op::Norm`] otherwise.
    EmbeddingNorm {
        /// Added to the mean square.
        eps: f64,
    },
    /// Subtracts from each row its mean. Any shape, kept. Free under encryption: folded into the weights before it.
    Center,
    /// `x / sqrt(mean_f x² + eps) · gain + bias` per row; `x` must be centred. `[T, d] -> [T, d]`.
    Norm {
        /// The layer it belongs to.
        layer: usize,
        /// Which one.
        index: NormIndex,
        /// Added to the mean square.
        eps: f64,
    },
    /// `x · weight + bias`. `[T, inputs] -> [T, outputs]`.
    Linear {
        /// The layer it belongs to.
        layer: usize,
        /// Which one.
        role: LinearRole,
        /// Columns in.
        inputs: usize,
        /// Columns out.
        outputs: usize,
    },
    /// `concat_h(w v)` of query, key and value. Three times `[T, d] -> [T, d]`.
    ///
    /// `s_ij = q_i · k_j / sqrt(d/H)` over the head's columns `h d/H ..`; power heads
    /// `w_ij = s_ij^p / (T (eps + mean_j s_ij^p))`, undivided heads `w_ij = s_ij^p / T`, scaled heads `w_ij = s_ij / T`, ReLU-softmax
    /// as power heads with `max(s_ij, 0)`, softmax with `exp(s_ij)` and no eps;
    /// T counts the keys that query i sees. The division comes last ("late normalisation"): weights are never formed.
    Attention {
        /// The layer it belongs to.
        layer: usize,
        /// Kind of each head.
        heads: Vec<HeadKind>,
        /// p.
        power: u32,
        /// Added to the denominator's mean.
        eps: f64,
        /// Whether `s / p + c_h` is raised instead of `s`.
        shifted: bool,
        /// Whether query i sees keys up to i only.
        causal: bool,
    },
    /// `Σ_k a_k h^k`, coefficients per column; GELU; or `h`. Any shape, kept.
    Activation {
        /// The layer it belongs to.
        layer: usize,
        /// Which one.
        polynomial: Activation,
    },
    /// The sum of two values of one shape.
    Add,
    /// The mean over tokens. `[T, d] -> [1, d]`.
    MeanPool,
    /// The first token. `[T, d] -> [1, d]`.
    FirstToken,
    /// `x · head.weight + head.bias`. `[1, d] -> [1, C]`, or one row a token.
    Classifier {
        /// d.
        inputs: usize,
        /// C.
        outputs: usize,
    },
    /// The index of the largest logit, the first of equal ones: all that leaves a plan which answers with a label.
    /// `[1, C] -> [1, 1]`.
    LabelOnly {
        /// C.
        classes: usize,
    },
}

/// What an operator's reference needs beside its arguments.
#[derive(Clone, Copy, Debug)]
pub struct OpContext<'a> {
    /// The model's tensors.
    pub weights: &'a Weights,
    /// How reciprocals and inverse roots are computed.
    pub functions: &'a ScalarFunctions,
}

impl Op {
    /// The operator's name, as profiles print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::PatchEmbedding { .. } => "patch_embedding",
            Self::TokenEmbedding { .. } => "token_embedding",
            Self::EmbeddingNorm { .. } => "embedding_norm",
            Self::Center => "center",
            Self::Norm { .. } => "norm",
            Self::Linear { .. } => "linear",
            Self::Attention { .. } => "attention",
            Self::Activation { .. } => "activation",
            Self::Add => "add",
            Self::MeanPool => "mean_pool",
            Self::FirstToken => "first_token",
            Self::Classifier { .. } => "classifier",
            Self::LabelOnly { .. } => "label_only",
        }
    }

    /// The number of arguments.
    #[must_use]
    pub fn arity(&self) -> usize {
        match self {
            Self::Input { .. } => 0,
            Self::Add => 2,
            Self::Attention { .. } => 3,
            _ => 1,
        }
    }

    /// The shape of the result.
    ///
    /// # Errors
    /// `InvalidGraph` for a wrong number of arguments or heads that do not divide the width; `ShapeMismatch`.
    pub fn shape(&self, args: &[Shape]) -> Result<Shape> {
        if args.len() != self.arity() {
            let detail = format!("takes {} arguments, got {}", self.arity(), args.len());
            return Err(Error::InvalidGraph { node: self.name().to_owned(), detail });
        }
        let require = |got: Shape, expected: Shape| {
            if got == expected {
                return Ok(got);
            }
            Err(Error::ShapeMismatch { op: self.name(), expected, got })
        };
        match (self, args) {
            (Self::Input { shape }, _) => Ok(*shape),
            (Self::PatchEmbedding { tokens, input_size, width }, [x]) => {
                require(*x, Shape::new(x.rows.min(*tokens), *input_size))?;
                Ok(Shape::new(x.rows, *width))
            }
            (Self::TokenEmbedding { tokens, width, .. }, [x]) => {
                require(*x, Shape::new(x.rows.min(*tokens), 1))?;
                Ok(Shape::new(x.rows, *width))
            }
            (Self::Linear { inputs, outputs, .. } | Self::Classifier { inputs, outputs }, [x]) => {
                require(*x, Shape::new(x.rows, *inputs))?;
                Ok(Shape::new(x.rows, *outputs))
            }
            (Self::Attention { heads, .. }, [q, k, v]) => {
                if heads.is_empty() || !q.columns.is_multiple_of(heads.len()) {
                    let detail =
                        format!("{} heads do not divide {} columns", heads.len(), q.columns);
                    return Err(Error::InvalidGraph { node: self.name().to_owned(), detail });
                }
                require(*k, *q)?;
                require(*v, *q)
            }
            (Self::Add, [x, y]) => require(*y, *x),
            (Self::MeanPool | Self::FirstToken, [x]) => Ok(Shape::new(1, x.columns)),
            (Self::LabelOnly { classes }, [x]) => {
                require(*x, Shape::new(1, *classes))?;
                Ok(Shape::new(1, 1))
            }
            (_, [x, ..]) => Ok(*x),
            (_, []) => Ok(Shape::new(0, 0)), // unreachable: the arity was checked
        }
    }

    /// The f64 reference. Intermediate quantities that calibration needs go to `observer`.
    ///
    /// # Errors
    /// As [`shape`](Self::shape); `InvalidGraph` when the weights have no such layer, `ShapeMismatch` when they do not
    /// fit.
    pub fn reference(
        &self,
        args: &[&Matrix],
        context: OpContext<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Matrix> {
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape()).collect();
        self.shape(&shapes)?;
        let weights = context.weights;
        match (self, args) {
            (Self::PatchEmbedding { .. }, [x]) => embed(x, &weights.embedding),
            (Self::TokenEmbedding { .. }, [x]) => embed_tokens(x, &weights.embedding),
            (Self::EmbeddingNorm { eps }, [x]) => normalize_embedding(x, &weights.embedding, *eps),
            (Self::Center, [x]) => Ok(center(x)),
            (Self::Norm { layer, index, eps }, [x]) => {
                let parameters = self.layer_weights(weights, *layer)?.norm(*index);
                let variances = mean_squares(x);
                observer.variances(*layer, *index, &variances);
                let functions = context.functions;
                normalize(x, parameters, &variances, |variance| {
                    functions.inverse_sqrt(*layer, *index, variance + eps)
                })
            }
            (Self::Linear { layer, role, .. }, [x]) => {
                linear(x, self.layer_weights(weights, *layer)?.linear(*role))
            }
            (Self::Attention { layer, heads, power, eps, shifted, causal }, [q, k, v]) => {
                let (layer, power, eps, causal) = (*layer, *power, *eps, *causal);
                let shift = &self.layer_weights(weights, layer)?.shift;
                if *shifted && shift.len() != heads.len() {
                    let (expected, got) = (Shape::new(1, heads.len()), Shape::new(1, shift.len()));
                    return Err(Error::ShapeMismatch { op: "attention shift", expected, got });
                }
                let shift = shifted.then_some(shift.as_slice());
                let mixing = Mixing { layer, heads, power, eps, shift, causal };
                Ok(attention([q, k, v], mixing, context.functions, observer))
            }
            (Self::Activation { layer, polynomial }, [x]) => match polynomial {
                Activation::Gelu => {
                    let data = x.data().iter().map(|h| cipherform_mpc::ops::gelu(*h)).collect();
                    Matrix::from_vec(x.rows(), x.columns(), data)
                }
                Activation::None => Ok((*x).clone()),
                _ => activate(x, &self.layer_weights(weights, *layer)?.activation),
            },
            (Self::Add, [x, y]) => add(x, y),
            (Self::MeanPool, [x]) => Ok(mean_rows(x)),
            (Self::FirstToken, [x]) if x.rows() > 0 => {
                Matrix::from_vec(1, x.columns(), x.row(0).to_vec())
            }
            (Self::Classifier { .. }, [x]) => linear(x, &weights.head),
            (Self::LabelOnly { .. }, [x]) => Matrix::from_vec(1, 1, vec![argmax(x.row(0)) as f64]),
            _ => Err(Error::InvalidGraph {
                node: self.name().to_owned(),
                detail: "has no value of its own; it must be supplied".to_owned(),
            }),
        }
    }

    fn layer_weights<'a>(&self, weights: &'a Weights, layer: usize) -> Result<&'a LayerWeights> {
        weights.layers.get(layer).ok_or_else(|| Error::InvalidGraph {
            node: self.name().to_owned(),
            detail: format!("the weights have no layer {layer}"),
        })
    }
}

impl LayerWeights {
    /// The linear map of this role.
    #[must_use]
    pub fn linear(&self, role: LinearRole) -> &LinearWeights {
        match role {
            LinearRole::Query => &self.query,
            LinearRole::Key => &self.key,
            LinearRole::Value => &self.value,
            LinearRole::Output => &self.output,
            LinearRole::FfnIn => &self.ffn_in,
            LinearRole::FfnOut => &self.ffn_out,
        }
    }

    /// The norm of this index.
    #[must_use]
    pub fn norm(&self, index: NormIndex) -> &NormWeights {
        match index {
            NormIndex::First => &self.norm1,
            NormIndex::Second => &self.norm2,
        }
    }
}

impl fmt::Display for LinearRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
            Self::FfnIn => "in",
            Self::FfnOut => "out",
        })
    }
}

/// `x · We + position`.
pub(crate) fn embed(x: &Matrix, embedding: &EmbeddingWeights) -> Result<Matrix> {
    add_positions(x.multiply(&embedding.weight)?, &embedding.position)
}

/// The rows of the table that the ids name, plus position.
pub(crate) fn embed_tokens(ids: &Matrix, embedding: &EmbeddingWeights) -> Result<Matrix> {
    let table = &embedding.weight;
    let mut out = Matrix::zeros(ids.rows(), table.columns());
    for index in 0..ids.rows() {
        let id = ids.at(index, 0);
        if id < 0.0 || id.fract() != 0.0 || id >= table.rows() as f64 {
            return Err(Error::UnknownToken { index, id, vocabulary: table.rows() });
        }
        out.row_mut(index).copy_from_slice(table.row(id as usize));
    }
    add_positions(out, &embedding.position)
}

/// Adds the first rows of `position`: shorter inputs use fewer.
fn add_positions(mut x: Matrix, position: &Matrix) -> Result<Matrix> {
    if x.rows() > position.rows() || x.columns() != position.columns() {
        let (expected, got) = (position.shape(), x.shape());
        return Err(Error::ShapeMismatch { op: "position", expected, got });
    }
    for (o, p) in x.data_mut().iter_mut().zip(position.data()) {
        *o += p;
    }
    Ok(x)
}

/// The embedding's own norm of centred rows, exact.
pub(crate) fn normalize_embedding(
    x: &Matrix,
    embedding: &EmbeddingWeights,
    eps: f64,
) -> Result<Matrix> {
    let Some(parameters) = &embedding.norm else {
        let detail = "the weights have no embedding norm".to_owned();
        return Err(Error::InvalidGraph { node: "embedding_norm".to_owned(), detail });
    };
    normalize(x, parameters, &mean_squares(x), |variance| 1.0 / (variance + eps).sqrt())
}

/// `x + y` of equal shapes.
fn add(x: &Matrix, y: &Matrix) -> Result<Matrix> {
    if x.shape() != y.shape() {
        return Err(Error::ShapeMismatch { op: "add", expected: x.shape(), got: y.shape() });
    }
    let mut out = x.clone();
    for (o, b) in out.data_mut().iter_mut().zip(y.data()) {
        *o += b;
    }
    Ok(out)
}

/// Each row minus its mean.
pub(crate) fn center(x: &Matrix) -> Matrix {
    let mut out = x.clone();
    for r in 0..x.rows() {
        let row = out.row_mut(r);
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        for v in row {
            *v -= mean;
        }
    }
    out
}

/// `mean_f x²` of each row.
pub(crate) fn mean_squares(x: &Matrix) -> Vec<f64> {
    let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
    (0..x.rows()).map(|r| square(x.row(r))).collect()
}

/// `x · inverse_sqrt(variance) · gain + bias` row by row.
pub(crate) fn normalize(
    x: &Matrix,
    parameters: &NormWeights,
    variances: &[f64],
    inverse_sqrt: impl Fn(f64) -> f64,
) -> Result<Matrix> {
    let expected = Shape::new(1, x.columns());
    for vector in [&parameters.gain, &parameters.bias] {
        if vector.len() != x.columns() {
            let got = Shape::new(1, vector.len());
            return Err(Error::ShapeMismatch { op: "norm", expected, got });
        }
    }
    let mut out = x.clone();
    for (r, variance) in variances.iter().enumerate() {
        let factor = inverse_sqrt(*variance);
        let row = out.row_mut(r).iter_mut();
        for ((v, gain), bias) in row.zip(&parameters.gain).zip(&parameters.bias) {
            *v = *v * factor * gain + bias;
        }
    }
    Ok(out)
}

fn linear(x: &Matrix, parameters: &LinearWeights) -> Result<Matrix> {
    let mut out = x.multiply(&parameters.weight)?;
    if parameters.bias.len() != out.columns() {
        let expected = Shape::new(1, out.columns());
        let got = Shape::new(1, parameters.bias.len());
        return Err(Error::ShapeMismatch { op: "linear", expected, got });
    }
    for r in 0..out.rows() {
        for (o, b) in out.row_mut(r).iter_mut().zip(&parameters.bias) {
            *o += b;
        }
    }
    Ok(out)
}

/// Horner per column; row k of `coefficients` belongs to `h^k`.
fn activate(x: &Matrix, coefficients: &Matrix) -> Result<Matrix> {
    if coefficients.columns() != x.columns() || coefficients.rows() == 0 {
        let expected = Shape::new(coefficients.rows().max(1), x.columns());
        return Err(Error::ShapeMismatch { op: "activation", expected, got: coefficients.shape() });
    }
    let degree = coefficients.rows() - 1;
    let mut out = Matrix::zeros(x.rows(), x.columns());
    for r in 0..x.rows() {
        let h = x.row(r);
        let row = out.row_mut(r);
        row.copy_from_slice(coefficients.row(degree));
        for k in (0..degree).rev() {
            for ((o, h), a) in row.iter_mut().zip(h).zip(coefficients.row(k)) {
                *o = *o * h + a;
            }
        }
    }
    Ok(out)
}

fn mean_rows(x: &Matrix) -> Matrix {
    let mut out = Matrix::zeros(1, x.columns());
    for r in 0..x.rows() {
        for (o, v) in out.data_mut().iter_mut().zip(x.row(r)) {
            *o += v;
        }
    }
    for o in out.data_mut() {
        *o /= x.rows() as f64;
    }
    out
}

/// What an attention operator does with its scores.
#[derive(Clone, Copy)]
struct Mixing<'a> {
    layer: usize,
    heads: &'a [HeadKind],
    power: u32,
    eps: f64,
    shift: Option<&'a [f64]>,
    causal: bool,
}

/// Shapes were checked by [`Op::shape`]: q, k, v are `[T, d]` and the heads divide d.
fn attention(
    [q, k, v]: [&Matrix; 3],
    Mixing { layer, heads, power, eps, shift, causal }: Mixing<'_>,
    functions: &ScalarFunctions,
    observer: &mut dyn Observer,
) -> Matrix {
    let (tokens, size) = (q.rows(), q.columns() / heads.len());
    let score_factor = 1.0 / (size as f64).sqrt();
    let mut out = Matrix::zeros(tokens, q.columns());
    let mut scores = vec![0.0; tokens];
    let mut powers = vec![0.0; tokens];
    let mut denominators = vec![0.0; tokens];
    for (head, kind) in heads.iter().enumerate() {
        let columns = head * size..(head + 1) * size;
        for (i, slot) in denominators.iter_mut().enumerate() {
            let seen = if causal { i + 1 } else { tokens };
            let per_token = 1.0 / seen as f64;
            let query = &q.row(i)[columns.clone()];
            for (j, (s, raised)) in scores.iter_mut().zip(&mut powers).take(seen).enumerate() {
                *s = score_factor * dot(query, &k.row(j)[columns.clone()]);
                let base = shift.map_or(*s, |c| *s / f64::from(power) + c[head]);
                *raised =
                    if *kind == HeadKind::Relu { s.max(0.0) } else { base.powi(power as i32) };
            }
            if *kind == HeadKind::Softmax {
                let max = scores[..seen].iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
                powers.iter_mut().zip(&scores[..seen]).for_each(|(p, s)| *p = (s - max).exp());
            }
            let (scores, powers) = (&scores[..seen], &powers[..seen]);
            observer.scores(layer, head, scores);
            let eps = if *kind == HeadKind::Softmax { 0.0 } else { eps };
            let denominator = powers.iter().sum::<f64>() * per_token + eps;
            *slot = denominator;
            let factor = match kind {
                HeadKind::Power => per_token * functions.reciprocal(layer, head, denominator),
                HeadKind::Relu | HeadKind::Softmax => per_token / denominator,
                HeadKind::Scaled | HeadKind::Undivided => per_token,
            };
            let weights = if *kind == HeadKind::Scaled { scores } else { powers };
            let row = &mut out.row_mut(i)[columns.clone()];
            for (j, weight) in weights.iter().enumerate() {
                for (o, x) in row.iter_mut().zip(&v.row(j)[columns.clone()]) {
                    *o += weight * x;
                }
            }
            for o in row {
                *o *= factor;
            }
        }
        observer.denominators(layer, head, &denominators);
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
